"""`search.sampler=package.module:Class` and `optunahub:NAME`: any sampler searches, or is refused beforehand."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState

from effir_dist.core import config as c
from effir_dist.core.errors import InputError
from effir_dist.core.settings import SCHEDULERS, RunConfig
from effir_dist.search import checks
from effir_dist.search.strategy import space_file
from tests import needs
from tests.driven import MODEL, drive, make_run
from tests.search.test_guided_searches import history, scored

HERE = "tests.search.test_sampler_classes"
SPACE = {"drop_mlp": {"max": 3}, "width_ratio": {"low": 0.4, "high": 1.0, "step": 0.1}}


class TenLines(BaseSampler):
    """As docs/guides/guided-sampler.md has it: values of a good trial, or random ones."""

    def __init__(self, share: float = 0.5, seed: int | None = None) -> None:
        self.share, self.rng, self.random = share, np.random.default_rng(seed), RandomSampler(seed=seed)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(self, study: Any, trial: Any, search_space: Any) -> dict[str, Any]:
        return {}

    def sample_independent(self, study: optuna.Study, trial: FrozenTrial, name: str, dist: BaseDistribution) -> Any:
        good = [t.params[name] for t in study.best_trials if name in t.params]
        if good and self.rng.random() < self.share:
            return good[self.rng.integers(len(good))]
        return self.random.sample_independent(study, trial, name, dist)


class Noting(TenLines):
    """Notes a generation with each trial, as genetic and evolution strategies do."""

    seen: ClassVar[list[list[int]]] = []
    states: ClassVar[set[TrialState]] = set()

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        known = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
        noted = [t.system_attrs["noting:generation"] for t in known if "noting:generation" in t.system_attrs]
        Noting.seen.append(noted)
        Noting.states |= {t.state for t in study.get_trials(deepcopy=False)}
        study._storage.set_trial_system_attr(trial._trial_id, "noting:generation", len(known))


class Judge(TenLines):
    """Says which screened candidates are worth a full training: those with the best score."""

    def worth(self, study: optuna.Study, screened: Any) -> np.ndarray:
        return np.array([each.low_fidelity for each in screened])


class OneGoal(TenLines):
    """For one objective."""

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        self._raise_error_if_multi_objective(study)
        return {}

    sample_independent = RandomSampler.sample_independent


class Breaks(TenLines):
    """Fails after some trials."""

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        if len(study.trials) > 12:
            raise RuntimeError("out of ideas")


class Greedy(TenLines):
    """Takes what it must be given."""

    def __init__(self, appetite: int) -> None:
        super().__init__()


class NoSampler:
    """Something else."""


def run_of(folder: Path, name: str, scheduler: str = "screening", **settings: Any) -> Any:
    values = {"search.sampler": name, "search.scheduler": scheduler, "search.trials": 7, "search.most_screened": 3}
    return make_run(folder, {**values, "search.screening_cost": "flops", **settings}, SPACE)


def checked(name: str, options: dict[str, Any] | None = None) -> None:
    config = c.replace(RunConfig(), {"search.sampler": name, "search.sampler_options": options or {}})
    checks._check_sampler(space_file.parse_space(SPACE, "x"), config, MODEL)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_class_of_somebodys_module_searches_with_every_scheduler(scheduler: str, tmp_path: Path) -> None:
    name, options = f"{HERE}:TenLines", {"search.sampler_options": {"share": 0.7}}
    checked(name, {"share": 0.7})
    whole = run_of(tmp_path / "whole", name, scheduler, **options)
    drive(whole, scored)
    assert len(whole.results()) == 7
    same = run_of(tmp_path / "same", name, scheduler, **options)
    drive(same, scored)
    assert history(same) == history(whole), "the search's seed is the sampler's"
    again = run_of(tmp_path / "again", name, scheduler, **options)
    for most in (3, 6, 1000):
        driver = drive(again, scored, most)
    assert len(again.results()) == 7
    assert len({record.spec.key for record in again.results()}) == 7
    study = driver.trials.searched.queue.engine.study
    assert len(study.get_trials(states=[TrialState.COMPLETE])) == 7, "nothing is lost"


def test_what_a_sampler_notes_with_a_trial_stays_with_it_when_the_search_is_resumed(tmp_path: Path) -> None:
    Noting.seen.clear()
    Noting.states.clear()
    run = run_of(tmp_path / "run", f"{HERE}:Noting")
    drive(run, scored, 20)
    before = max(Noting.seen, key=len)
    assert before
    Noting.seen.clear()
    drive(run, scored)
    assert Noting.seen[0][: len(before)] == before
    assert all("noting:generation" in record.spec.attributes for record in run.results()[6:])
    assert TrialState.PRUNED not in Noting.states, "samplers would take pruned trials for good ones"


def test_promotions_ask_a_sampler_that_has_an_opinion(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", f"{HERE}:Judge", **{"search.trials": 9, "search.most_screened": 4})
    queue = drive(run, scored).trials.searched.queue
    trained = sorted((record.spec.begun, record.rungs[0].values["ndcg_at_10"]) for record in run.results())[1:]
    left = [queue.state.scores[trial][0] for trial in queue.state.waiting()]
    assert len(left) > 5
    assert min(score for _, score in trained) > np.median(left)


def test_a_sampler_that_fails_during_a_search_ends_it_with_its_reason(tmp_path: Path) -> None:
    driver = drive(run_of(tmp_path / "run", f"{HERE}:Breaks", "plain", **{"search.trials": 30}), scored)
    assert "Breaks failed: out of ideas; what was found is on disk" in str(driver.failure)
    assert len(driver.records) > 5


def test_optunas_own_classes_and_ours_go_as_classes_too(tmp_path: Path) -> None:
    options = {"search.sampler_options": {"n_startup_trials": 3, "multivariate": True}, "search.trials": 9}
    drive(run := run_of(tmp_path / "tpe", "optuna.samplers:TPESampler", "plain", **options), scored)
    assert len(run.results()) == 9
    drive(run := run_of(tmp_path / "guided", "effir_dist:GuidedSampler"), scored)
    assert len(run.results()) == 7


REFUSED = [
    ("no_such_package.samplers:Mine", {}, "no_such_package.samplers cannot be imported .*install its package"),
    (f"{HERE}:TenLine", {}, f"{HERE} has no 'TenLine'; did you mean 'TenLines'"),
    (f"{HERE}:NoSampler", {}, "must be a class of optuna.samplers.BaseSampler, got <class"),
    (f"{HERE}:SPACE", {}, "must be a class of optuna.samplers.BaseSampler, got {"),
    (f"{HERE}:TenLines", {"shere": 1}, "TenLines takes no 'shere'; did you mean 'share'"),
    (f"{HERE}:Greedy", {}, "lacks 'appetite', which .*:Greedy needs"),
    (f"{HERE}:OneGoal", {}, "OneGoal cannot do this search: .*multi-objective"),
    ("optuna.samplers:NSGAIISampler", {"population_size": 1}, "cannot do this search: `population_size` must be"),
]


@pytest.mark.parametrize(("name", "options", "reason"), REFUSED)
def test_what_is_wrong_with_a_sampler_is_said_before_anything_starts(
    name: str, options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(InputError, match=f"^search.sampler.*{reason}"):
        checked(name, options)


PACKAGE = '''
"""A package as OptunaHub's registry has them."""
import optuna
import optunahub

__all__ = ["MineSampler"]

class MineSampler(optunahub.samplers.SimpleBaseSampler):
    def __init__(self, search_space=None, seed=None):
        super().__init__(search_space)
        self.random = optuna.samplers.RandomSampler(seed=seed)

    def sample_relative(self, study, trial, search_space):
        return {}
'''


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What `optunahub` fetched before, and no network."""
    needs.module("optunahub")
    monkeypatch.setenv("OPTUNAHUB_CACHE_HOME", str(tmp_path / "hub"))
    for name in ("http_proxy", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    folder = tmp_path / "hub/github.com/optuna/optunahub-registry/main/package/samplers/mine"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(PACKAGE)
    return folder


@pytest.mark.parametrize("name", ["optunahub:mine", "optunahub:samplers/mine", "optunahub:mine:MineSampler"])
def test_a_sampler_of_optunahub_that_was_fetched_before_searches_without_a_network(
    name: str, registry: Path, tmp_path: Path
) -> None:
    checked(name)
    run = run_of(tmp_path / "run", name)
    drive(run, scored)
    assert len(run.results()) == 7


def test_without_a_network_and_without_the_package_optunahub_is_refused_with_the_reason(
    registry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="optunahub:other cannot be loaded from OptunaHub .*over the network"):
        checked("optunahub:other")
    with pytest.raises(InputError, match="optunahub_registry.package.samplers.mine has no 'Yours'"):
        checked("optunahub:mine:Yours")
    (registry / "__init__.py").write_text(PACKAGE + "\nclass Second(MineSampler): ...\n__all__.append('Second')\n")
    with pytest.raises(InputError, match="must name one of the samplers there, as .*found: MineSampler, Second"):
        checked("optunahub:mine")
    monkeypatch.setitem(sys.modules, "optunahub", None)
    with pytest.raises(InputError, match=r"needs the package optunahub: pip install 'effir_dist\[optunahub\]'"):
        checked("optunahub:mine")
