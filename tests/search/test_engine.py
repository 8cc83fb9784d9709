"""The study of a search: what samplers see of it while several workers run trials, some of which fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from optuna.trial import FrozenTrial, TrialState

from effir_dist.core.values import LOW_FIDELITY
from effir_dist.search.strategy.guided.observe import COSTS
from tests.search import test_next_trial
from tests.search.test_next_trial import NEVER, Searched, few_to_choose_from

SPACE = {"drop_mlp": {"max": 4}, "width_ratio": {"low": 0.4, "high": 1.0, "step": 0.1}}


def searched(folder: Path, sampler: str, scheduler: str, workers: int = 4) -> Searched:
    settings = {"sampler": sampler, "scheduler": scheduler, "trials": 12, "most_screened": 4}
    if scheduler == "asha":
        settings |= {"rungs": [0.0, 0.25], "promotion_fraction": 0.6}
    return Searched(folder, {"settings": settings, "space": SPACE, "workers": workers})


def trials(search: Searched, state: TrialState) -> list[FrozenTrial]:
    return search.queue.engine.study.get_trials(states=[state])


@pytest.mark.parametrize("scheduler", ["screening", "asha", "plain"])
@pytest.mark.parametrize("sampler", ["guided", "tpe", "nsga2"])
def test_samplers_see_what_runs_and_what_was_trained_and_nothing_is_left_running(
    sampler: str, scheduler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few_to_choose_from(monkeypatch, 12)
    monkeypatch.setattr(test_next_trial, "FAILS", range(1, 100, 2))
    search = searched(tmp_path / "run", sampler, scheduler)
    most = 0
    while True:
        before = search.ended
        search.go_on(1)
        if search.ended == before:
            break
        running = {repr(sorted(spec.suggested.items())) for spec in search.running}
        assert {repr(sorted(t.params.items())) for t in trials(search, TrialState.RUNNING)} == running
        most = max(most, len(running))
    assert most == 3, "of four workers one has just ended"
    assert not trials(search, TrialState.RUNNING)
    assert not trials(search, TrialState.PRUNED), "samplers would take them for good ones"
    trained = [record for record in search.run.results() if record.complete]
    assert len(trials(search, TrialState.COMPLETE)) == len(trained) < search.records


def test_a_promotion_is_a_new_trial_that_knows_its_score_and_costs(tmp_path: Path) -> None:
    search = searched(tmp_path / "run", "tpe", "screening", workers=1)
    search.go_on()
    known = {repr(sorted(r.spec.suggested.items())): r for r in search.run.results() if r.complete}
    found = {repr(sorted(trial.params.items())): trial for trial in trials(search, TrialState.COMPLETE)}
    assert found.keys() == known.keys()
    for params, record in known.items():
        trial, low = found[params], search.run.rungs(record.trial)[0].values["ndcg_at_10"]
        assert trial.user_attrs[LOW_FIDELITY] == low
        assert trial.user_attrs[COSTS] == pytest.approx([record.values["parameters_fraction"]])
        assert trial.values == [record.values["parameters"], record.values["ndcg_at_10"]]


@pytest.mark.parametrize("scheduler", ["screening", "plain"])
def test_a_trial_that_was_running_when_the_search_died_runs_again_in_the_study(scheduler: str, tmp_path: Path) -> None:
    search = searched(tmp_path / "run", "nsga2", scheduler, workers=1)
    search.go_on(8)
    lost = search._next()
    assert lost is not None
    search.open()
    again = search._next()
    assert again is not None
    assert (again.trial, again.attributes) == (lost.trial, lost.attributes)
    (running,) = trials(search, TrialState.RUNNING)
    assert running.params == dict(lost.suggested)
    search.running.append(again)
    search.go_on(NEVER)
    assert len(search.run.results()) == 12
    assert_generations_are_kept(search)


def assert_generations_are_kept(search: Searched) -> None:
    """NSGA-II reads them from the study's trials; a resumed one reads them from records."""

    def noted() -> list[tuple[Any, ...]]:
        found = [(repr(sorted(t.params.items())), t.system_attrs) for t in trials(search, TrialState.COMPLETE)]
        return sorted((params, [v for n, v in attrs.items() if n.startswith("NSGAII")]) for params, attrs in found)

    before = noted()
    assert any(generations for _, generations in before)
    search.open()
    assert noted() == before
