"""Settings: what a user writes is what runs, and what is wrong is named."""

from __future__ import annotations

import dataclasses
import math
import typing
from pathlib import Path

import pytest

from effir_dist.core import config as c
from effir_dist.core.errors import InputError
from effir_dist.core.settings import RunConfig


def test_what_is_written_to_yaml_comes_back_equal() -> None:
    config = c.replace(RunConfig(), {"train.steps": 7, "data.paths": ["a", "b"], "resources.gpus_per_trial": 0.5})
    assert c.from_dict(c.to_dict(config)) == config


def test_key_value_reads_numbers_lists_and_exponents() -> None:
    values = c.parse_overrides(["train.learning_rate=3e-5", "data.paths=[x, y]", "train.gradient_checkpointing=true"])
    config = c.replace(RunConfig(), values)
    assert config.train.learning_rate == 3e-5
    assert config.data.paths == ("x", "y")
    assert config.train.gradient_checkpointing is True


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("train.lerning_rate", 1, "unknown setting 'train.lerning_rate'; did you mean 'train.learning_rate'?"),
        ("train.steps", "many", "train.steps must be of type int, got 'many'"),
        ("train.steps", True, "train.steps must be of type int, got True"),
        ("train.steps", -1, "train.steps must be 0 or more, got -1"),
        ("train.temperature", 0, "train.temperature must be above 0"),
        ("train.zero_stage", 4, "train.zero_stage must be one of 0, 1, 2, 3, got 4"),
        ("train.batch_size", 1, "must be 2 or more"),
        ("data.search_share", 1.0, "between 0 and 1"),
        ("data.test_split", "dev", "a split that neither trains nor steers the search"),
        ("search.sampler", "grid", "'random', a class as package.module:Class, or optunahub:NAME, got 'grid'"),
        ("search.sampler_options", {"seed": 1}, "empty with search.sampler=guided: options are for classes"),
        ("search.sampler_options", {1: 2}, "search.sampler_options must be of type dict"),
        ("model.pooling", "median", "one of '', 'mean', 'last', 'cls', 'max', 'weighted_mean'"),
        ("resources.workers_per_trial", 0, "1 or more, got 0"),
        ("resources.gpus_per_trial", "1e999", "resources.gpus_per_trial must be a finite number, got '1e999'"),
        ("train.learning_rate", 10**400, "train.learning_rate must be a finite number, got 1000"),
        ("search.rungs", [0.0, math.nan], "search.rungs must be a finite number, got nan"),
    ],
)
def test_a_bad_value_is_named(name: str, value: object, message: str) -> None:
    with pytest.raises(InputError, match=message.replace("?", r"\?")):
        c.replace(RunConfig(), {name: value})


def test_no_setting_takes_a_number_that_is_not_finite() -> None:
    """Every setting that holds a fraction, those of settings to come too."""
    groups = {field.name: type(getattr(RunConfig(), field.name)) for field in dataclasses.fields(RunConfig)}
    kinds = {f"{g}.{name}": kind for g, t in groups.items() for name, kind in typing.get_type_hints(t).items()}
    names = [name for name, kind in kinds.items() if kind is float or float in typing.get_args(kind)]
    assert {"train.learning_rate", "resources.gpus_per_worker", "search.time_budget", "search.rungs"} <= {*names}
    for name in names:
        for value in (math.inf, -math.inf, math.nan, "inf"):
            with pytest.raises(InputError, match=f"{name} must be a finite number, got"):
                c.replace(RunConfig(), {name: value})


def test_files_that_are_no_settings(tmp_path: Path) -> None:
    for text, message in [("a: [1", "not valid YAML"), ("- 1", "must hold a mapping"), ("\x00", "not valid YAML")]:
        (tmp_path / "x.yaml").write_text(text)
        with pytest.raises(InputError, match=message):
            c.read_yaml(tmp_path / "x.yaml")
    with pytest.raises(InputError, match="cannot read .*missing.yaml"):
        c.read_yaml(tmp_path / "missing.yaml")
    with pytest.raises(InputError, match="expected key=value, got 'train.steps'"):
        c.parse_overrides(["train.steps"])


def test_prompts_are_taken_as_they_are_typed() -> None:
    typed = {"query: ": "query: ", " [x] ": " [x] ", "'a: '": "a: ", '"b "': "b ", "": None, "null": None, "''": ""}
    for text, value in typed.items():
        assert c.parse_overrides([f"model.query_prompt={text}"]) == {"model.query_prompt": value}
