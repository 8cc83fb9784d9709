"""Names of earlier versions: refused with the new name where they are written, understood where an old run has them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from optuna.distributions import (
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
    json_to_distribution,
)

from effir_dist.core import config, renamed
from effir_dist.core.errors import InputError
from effir_dist.core.settings import RunConfig
from effir_dist.importance import command as importance_command
from effir_dist.importance.store import drop_order, has_importance, load_saliency
from effir_dist.models.operations.drop import LAYERS
from effir_dist.runs import legacy
from effir_dist.runs.run_folder import Run
from effir_dist.search import command as search_command
from effir_dist.search.strategy import space_file
from tests.driven import make_run

REFUSED = [
    ("train.chunk=8", "train.chunk is called train.gradcache_queries now"),
    ("train.chunk_tokens=8", "train.chunk_tokens is called train.gradcache_tokens now"),
    ("train.before_pruning=true", "train.before_pruning=true is train.order=tune_then_prune now"),
    ("train.before_pruning=false", "train.before_pruning=false is train.order=prune_then_tune now"),
    ("prune.level=pooled", "prune.level is called prune.granularity now"),
    ("search.screen_share=0.2", "search.screen_share is called search.screening_budget now"),
    ("search.keep_share=0.2", "search.keep_share is called search.promotion_fraction now"),
    ("search.strategy=ladder", "search.strategy=ladder is search.scheduler=asha now"),
    ("search.strategy=plain", "search.strategy=plain is search.scheduler=plain now"),
    ("search.strategy=guided", "search.strategy=guided is search.sampler=guided search.scheduler=screening now"),
    ("search.strategy=other", "search.strategy is search.sampler and search.scheduler now"),
]


@pytest.mark.parametrize(("text", "message"), REFUSED)
def test_an_old_name_is_refused_with_the_new_one(text: str, message: str) -> None:
    values = config.parse_overrides([text])
    with pytest.raises(InputError) as error:
        config.replace(RunConfig(), values)
    assert str(error.value).startswith(message)
    with pytest.raises(InputError) as error:
        space_file.parse_space({"settings": values}, "my.yaml")
    assert str(error.value).startswith(f"my.yaml: settings: {message}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{drop_mlp: {max: 2}, layers: prefix}", "layers: prefix is layers: top_k now"),
        ("{drop_mlp: {max: 2}, layers: set}", "layers: set is layers: subset now"),
        ("{drop_mlp: {max: 2}, layers: flips}", "layers: flips is layers: top_k_flips now"),
        ("train.chunk: {low: 1, high: 8}", "train.chunk is called train.gradcache_queries now"),
        (
            "train.before_pruning: [true, false]",
            "train.before_pruning is called train.order now: false is prune_then_tune, true is tune_then_prune",
        ),
    ],
)
def test_an_old_name_in_a_search_space_is_refused_with_the_new_one(text: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        space_file.parse_space(yaml.safe_load(text), "my.yaml")
    assert str(error.value) == f"my.yaml: {message}"


@pytest.mark.parametrize(
    ("main", "arguments", "message"),
    [
        (search_command.main, ["--plan"], "--plan is called --dry-run now"),
        (search_command.main, ["--plan", "--backbone", "minilm"], "--plan is called --dry-run now"),
        (importance_command.main, ["--level", "pooled"], "--level is called --granularity now"),
    ],
)
def test_an_old_option_is_refused_with_the_new_one(
    main: Any, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["command", *arguments])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert capsys.readouterr().err == f"error: {message}\n"


def test_every_new_name_is_a_setting_and_no_old_one_is() -> None:
    known = config.setting_names()
    assert {entry.name for entry in renamed.SETTINGS.values()} <= set(known)
    assert not {*renamed.SETTINGS, renamed.STRATEGY} & set(known)
    assert set(renamed.LAYERS.values.values()) == set(LAYERS)


@pytest.mark.parametrize(
    ("search", "sampler", "scheduler"),
    [
        ({"strategy": "guided", "sampler": "tpe"}, "guided", "screening"),
        ({"strategy": "ladder", "sampler": "nsga2"}, "nsga2", "asha"),
        ({"strategy": "plain", "sampler": "tpe"}, "tpe", "plain"),
        ({"sampler": "tpe"}, "guided", "screening"),
        ({"sampler": "gp", "scheduler": "plain"}, "gp", "plain"),
    ],
    ids=str,
)
def test_the_configuration_of_an_old_run_is_read(search: dict[str, Any], sampler: str, scheduler: str) -> None:
    tree = {
        "train": {"chunk": 4, "chunk_tokens": 0, "before_pruning": True, "steps": 7},
        "prune": {"level": "pooled"},
        "search": {**search, "screen_share": 0.3, "keep_share": 0.4},
    }
    found = config.from_dict(tree)
    assert (found.train.gradcache_queries, found.train.order, found.train.steps) == (4, "tune_then_prune", 7)
    assert found.prune.granularity == "pooled"
    assert (found.search.screening_budget, found.search.promotion_fraction) == (0.3, 0.4)
    assert (found.search.sampler, found.search.scheduler) == (sampler, scheduler)
    assert config.from_dict(config.to_dict(found)) == found


def test_an_old_run_folder_is_read_and_goes_on_in_its_scores_folder(tmp_path: Path) -> None:
    new = make_run(tmp_path / "run")
    old = tmp_path / "run" / "scores"
    (tmp_path / "run" / "importance").rename(old)
    tree = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    del tree["search"]["scheduler"], tree["train"]["order"]
    tree["search"] |= {"strategy": "ladder", "sampler": "random"}
    tree["train"] |= {"before_pruning": False}
    settings = {"train.chunk": 2, "search.strategy": "ladder"}
    tree["run"]["space"] = {
        "drop_mlp": {"max": 2}, "layers": "flips", "train.before_pruning": [True, False], "settings": settings,
    }  # fmt: skip
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(tree))
    run = Run.open(new.folder)
    assert (run.importance_folder, has_importance(run)) == (old, True)
    assert drop_order(run) == [0, 1, 4, 3, 5, 2]
    assert load_saliency(run)["activation"].shape == (6, 1536)
    assert (run.config["search"]["sampler"], run.config["search"]["scheduler"]) == ("random", "asha")
    space = space_file.parse_space(run.extra["space"], "old")
    assert space_file.to_dict(space)["layers"] == "top_k_flips"
    assert space.parameters == {"train.order": ("tune_then_prune", "prune_then_tune")}
    wanted = {"train.gradcache_queries": 2, "search.sampler": "tpe", "search.scheduler": "asha"}
    assert space.settings == wanted
    run.write_config(config.to_dict(config.from_dict(run.config)))
    again = Run.open(new.folder)
    assert (again.config, again.extra) == (run.config, run.extra)
    assert "strategy" not in (tmp_path / "run" / "config.yaml").read_text()


OLD = {
    "width_ratio": FloatDistribution(0.4, 1.0, step=0.1),
    "train.chunk": IntDistribution(1, 8),
    "train.before_pruning": CategoricalDistribution([False, True]),
    "train.learning_rate": FloatDistribution(1e-5, 1e-3, log=True),
    "train.epochs": CategoricalDistribution([1.0, 2.0]),
}
NEW = {
    "width_ratio": FloatDistribution(0.4, 1.0, step=0.1),
    "train.gradcache_queries": IntDistribution(1, 8),
    "train.order": CategoricalDistribution(["prune_then_tune", "tune_then_prune"]),
    "train.learning_rate": FloatDistribution(1e-5, 1e-3, log=True),
    "train.epochs": CategoricalDistribution([1.0, 2.0]),
}


def test_what_an_old_trial_was_drawn_from_is_read() -> None:
    tree = {
        "trial": "0003",
        "suggested": {"width_ratio": 0.5, "train.chunk": 4, "train.before_pruning": True, "drop_mlp.0": True},
        "distributions": {name: distribution_to_json(each) for name, each in OLD.items()},
    }
    found = legacy.spec(tree)
    assert found["trial"] == "0003"
    assert found["suggested"] == {
        "width_ratio": 0.5, "train.gradcache_queries": 4, "train.order": "tune_then_prune", "drop_mlp.0": True,
    }  # fmt: skip
    assert found["distributions"] == {name: distribution_to_json(each) for name, each in NEW.items()}
    assert json_to_distribution(found["distributions"]["train.order"]) == NEW["train.order"]
    assert legacy.spec(json.loads(json.dumps(found))) == found


def test_parameters_keep_the_order_of_their_old_names() -> None:
    """Optuna's samplers draw in it, so that an old search goes on with the same values."""
    names = dict(zip(OLD, NEW, strict=True))
    assert sorted(NEW, key=renamed.sort_name) == [names[name] for name in sorted(OLD)] != sorted(NEW)


def test_limits_of_all_scoring_stay_those_of_an_old_run() -> None:
    """In 0.1.0 the limits of the search were those of test and held-out data as well; of today's runs they are not."""
    old = config.to_dict(config.replace(RunConfig(), {"data.max_queries": 30, "data.max_documents": 100}))
    for name in [name for name in old["data"] if name.startswith(("max_test", "max_held_out", "train_"))]:
        if name != "train_split":
            del old["data"][name]
    found = config.from_dict(old).data
    assert (found.max_test_queries, found.max_test_documents) == (30, 100)
    assert (found.max_held_out_queries, found.max_held_out_documents) == (30, 100)
    assert found.trained == found.paths == ("pydocs",)
    today = config.from_dict(config.to_dict(config.replace(RunConfig(), {"data.max_documents": 100}))).data
    assert (today.max_documents, today.max_test_documents, today.max_held_out_documents) == (100, 0, 0)
