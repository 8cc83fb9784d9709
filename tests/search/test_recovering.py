"""`train.order=tune_prune_recover` by the real driver, each trial a formula: which trials run, in which order, from
what they start, what is kept, and how it goes on where it was stopped."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import optuna
import pytest
from rich.console import Console

from effir_dist.core import config as c
from effir_dist.core.errors import InputError
from effir_dist.core.settings import RunConfig
from effir_dist.report.study_db import Mirror
from effir_dist.runs.objectives import Goal, unpruned
from effir_dist.runs.records import TrialRecord, TrialSpec
from effir_dist.runs.run_folder import Run
from effir_dist.search import course
from effir_dist.search.cluster.resources import Resources
from effir_dist.search.cluster.worker import Job
from effir_dist.search.driver import SearchDriver, here
from effir_dist.search.live.view import LiveView
from effir_dist.search.strategy import space_file
from effir_dist.search.strategy.stopping import Deadline, usual_seconds
from effir_dist.search.trial.outcome import failed_record
from tests.driven import MODEL, NoMirror, drive, end, make_run, smooth
from tests.synthetic import record

RECOVERS = {"train.order": "tune_prune_recover", "model.retriever": True, "train.steps": 20, "search.trials": 8}
GUIDED = {"search.sampler": "guided", "search.scheduler": "screening", "search.screening_cost": "flops"}


def found(spec: TrialSpec, share: float = 1.0) -> dict[str, float]:
    """A base is best; a full recovery gains."""
    gain = {"base": 0.05, "recovery": 0.02}.get(spec.stage, 0.0)
    values = smooth(spec, share)
    return {**values, "ndcg_at_10": values["ndcg_at_10"] + gain}


def started(run: Run) -> list[dict[str, Any]]:
    """What each trial of a run was to try."""
    return [json.loads((run.trial_folder(trial) / "trial.json").read_text()) for trial in run.trials()]


@pytest.mark.parametrize("search", [{}, GUIDED], ids=["plain", "screened"])
def test_a_base_comes_first_and_full_recoveries_of_the_front_last(tmp_path: Path, search: dict[str, Any]) -> None:
    run = make_run(tmp_path / "run", {**RECOVERS, **search})
    driver = drive(run, found, mirror=Mirror)
    records = run.results()
    study = optuna.load_study(study_name="run", storage=f"sqlite:///{run.study_path}")
    finished = [t.user_attrs["trial"] for t in study.trials if t.state.name != "PRUNED"]
    assert sorted(finished) == [r.trial for r in records]
    base, *own = records
    assert (base.trial, base.spec.stage, base.spec.plan.operations) == ("0000", "base", ())
    assert unpruned(records) == base, "the baseline"
    searched = [r for r in own if r.spec.searched]
    assert len(searched) == 8, "the base and full recoveries are no trials of the search"
    assert not searched[0].spec.plan.operations, "the model tuned as the others are"
    recovered = [r for r in own if r.spec.stage == "recovery"]
    front = {r.trial: r for r in Goal().front([base, *searched]) if r.trial != "0000"}
    assert {r.spec.continues for r in recovered} == set(front)
    assert len(recovered) == len(front) > 2
    assert min(r.spec.number for r in recovered) > max(r.spec.number for r in searched)
    for each in recovered:
        original = front[each.spec.continues].spec
        assert each.spec.plan == original.plan
        assert each.spec.suggested == {**original.suggested, "train.seed": 1}
    assert driver.why == "all 8 trials are done; each model of the front had its full recovery"
    assert not {r.trial for r in Goal().front(records)} & set(front), "a full recovery is on the front, not what it was"


@pytest.mark.parametrize("search", [{}, GUIDED], ids=["plain", "screened"])
def test_a_search_that_is_stopped_after_any_trial_is_the_one_that_is_not(
    tmp_path: Path, search: dict[str, Any]
) -> None:
    whole, cut = (make_run(tmp_path / name, {**RECOVERS, **search}) for name in ("whole", "cut"))
    drive(whole, found)
    while len(cut.results()) < len(whole.results()):
        drive(cut, found, most=1)
    assert started(cut) == started(whole)
    assert [r.to_json() for r in cut.results()] == [r.to_json() for r in whole.results()]


def test_a_killed_trial_of_each_stage_is_given_again(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {**RECOVERS, "search.trials": 3})
    whole = make_run(tmp_path / "whole", {**RECOVERS, "search.trials": 3})
    drive(whole, found)
    for _ in range(len(whole.trials())):
        with pytest.raises(KeyboardInterrupt):
            drive(run, _killed)
        begun = run.trials()[-1]
        assert not run.finished(begun)
        drive(run, found, most=1)
        assert run.finished(begun)
    assert started(run) == started(whole)


def _killed(spec: TrialSpec, share: float = 1.0) -> dict[str, float]:
    raise KeyboardInterrupt


def test_more_trials_than_before_recover_what_is_new_on_the_front(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {**RECOVERS, "search.trials": 4})
    drive(run, found)
    before = {r.spec.continues for r in run.results() if r.spec.stage == "recovery"}
    run.write_config(c.to_dict(c.replace(c.from_dict(run.config), {"search.trials": 10})))
    drive(run, found)
    continued = [r.spec.continues for r in run.results() if r.spec.stage == "recovery"]
    assert len(set(continued)) == len(continued) > len(before), "none twice"
    assert sum(r.spec.searched for r in run.results()) == 10


def test_without_rest_or_by_wish_there_is_no_full_recovery(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {**RECOVERS, "search.full_recovery": False})
    assert drive(run, found).why == "all 8 trials are done"
    assert not [r for r in run.results() if r.spec.stage == "recovery"]


@pytest.mark.parametrize("keep", ["front", "none", "all"])
def test_weights_stay_for_as_long_as_a_trial_is_to_start_from_them(tmp_path: Path, keep: str) -> None:
    run = make_run(tmp_path / "run", {**RECOVERS, "search.keep_weights": keep})

    def outcome(spec: TrialSpec, share: float = 1.0) -> dict[str, float]:
        if spec.continues:
            assert run.has_weights(spec.continues), "what it starts from"
        if spec.number:
            assert run.has_weights("0000")
        (run.trial_folder(spec.trial) / "model.safetensors").write_bytes(b"")
        return found(spec, share)

    drive(run, outcome)
    records = run.results()
    front = {r.trial for r in Goal().front(records)}
    kept = {r.trial for r in records if run.has_weights(r.trial)}
    assert kept == {"front": {"0000"} | front, "none": {"0000"}, "all": {r.trial for r in records}}[keep]


def test_repeats_belong_to_their_stage(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {**RECOVERS, "search.trials": 4})
    drive(run, found)
    records = {r.trial: r for r in run.results()}
    drive(run, found, repeat=1)
    repeats = [r.spec for r in run.results() if r.spec.repeat_of]
    assert {r.repeat_of for r in repeats} == {r.trial for r in Goal().front(records.values())}
    for each in repeats:
        original = records[each.repeat_of].spec
        assert (each.stage, each.continues) == (original.stage, original.continues)
        assert each.key != original.key


def test_a_budget_that_is_used_up_says_which_models_lack_their_full_recovery(tmp_path: Path) -> None:
    # A trial is a minute on 4 GPUs: a fifteenth of an hour.
    run = make_run(tmp_path / "run", {**RECOVERS, "search.gpu_hours": 0.5})
    driver = drive(run, found, gpus=4)
    assert len(run.results()) == 7
    owed = ", ".join(r.trial for r in Goal().front(run.results()) if r.trial != "0000")
    assert driver.why.startswith("search.gpu_hours: 0.47 of 0.5 GPU hours are used")
    lacking = ", ".join(sorted(owed.split(", ")))
    assert driver.why.endswith(f"; {lacking} lack their full recovery: --resume {run.folder} runs it")
    run.write_config(c.to_dict(c.replace(c.from_dict(run.config), {"search.gpu_hours": 0.0})))
    assert drive(run, found, gpus=4).why == "all 8 trials are done; each model of the front had its full recovery"


def test_a_time_budget_holds_across_stages_and_asks_what_the_next_trial_takes(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {**RECOVERS, "search.time_budget": 500.0})
    long = {"base": 1000.0, "recovery": 400.0}

    def outcome(spec: TrialSpec, share: float = 1.0) -> dict[str, float]:
        return {**found(spec, share), "total_seconds": long.get(spec.stage, 60.0)}

    driver = drive(run, outcome)
    assert driver.why.startswith("all 8 trials are done"), "trials are shorter than the base"
    short = make_run(tmp_path / "short", {**RECOVERS, "search.time_budget": 50.0})
    why = drive(short, outcome).why
    assert [r.spec.stage for r in short.results()] == ["base", ""]
    assert why == "search.time_budget: no time is left for another trial in 50 s"


def test_patience_ends_the_search_and_not_the_recovery_of_its_front(tmp_path: Path) -> None:
    patient = {"search.trials": 200, "search.patience_trials": 10, "search.patience_percent": 1.0}
    run = make_run(tmp_path / "run", {**RECOVERS, **patient})
    why = drive(run, found).why
    assert "in the last 10 trials, no more than 1 %; each model of the front had its full recovery" in why
    assert sum(r.spec.searched for r in run.results()) < 200
    assert drive(run, found).why == why


def test_nothing_starts_from_a_base_that_failed(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", RECOVERS)
    spec = TrialSpec(0, {}, {}, record(0, 0.5).spec.plan, stage="base")
    run.write_spec(spec)
    run.write_result(failed_record(MODEL, spec, "out of memory", ""))
    with pytest.raises(InputError, match="trial 0000 failed, from which all others start: out of memory"):
        drive(run, found)


def test_a_full_recovery_is_expected_to_take_the_rest_of_the_training() -> None:
    """Of a trial of 40 s, 30 of which are a quarter of the training, the rest takes 90 s beside the other 10."""
    own = record(1, 0.5)
    assert usual_seconds([own], "recovery", 0.25) == pytest.approx(100)
    assert usual_seconds([own], "base") == 0
    assert usual_seconds([record(0, 0.6, stage="base")], "", 0.25) == pytest.approx(10 + 7.5)
    done = record(2, 0.5, values={"total_seconds": 70.0}, stage="recovery", continues="0001")
    assert usual_seconds([own, done], "recovery", 0.25) == 70
    assert usual_seconds([own, done]) == 40


def test_a_default_search_has_no_stages(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {"search.trials": 4})
    drive(run)
    assert RunConfig().train.order == "prune_then_tune"
    assert all(isinstance(r, TrialRecord) and r.spec.searched for r in run.results())


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The course of a search without Ray: what its stages did, in their order. What is on disk of layers and neurons
    is gone until they are scored."""
    done: list[str] = []

    def run_trials(driver: SearchDriver, *_: object) -> None:
        while isinstance(job := driver.next_job(), Job):
            driver.started(job.spec.trial)
            end(driver.run, driver.config, job.spec, found, len(driver.records))
            driver.ended(job.spec.trial, None)
            done.append(job.spec.stage or "trial")

    def call(work: Callable[..., None], resources: Resources, folder: str, *_: object) -> Callable[[], None]:
        kept = Path(folder) / "kept.json"
        done.append(work.__name__)
        return lambda: kept.rename(kept.parent / "importance" / "importance.json") and None

    monkeypatch.setattr(course, "settle_for", lambda *_: Resources(1, 1, 0, 1))
    monkeypatch.setattr(course, "AliveHosts", lambda *_: here)
    monkeypatch.setattr(course, "training_pairs", lambda *_: mock.Mock(queries=range(640)))
    monkeypatch.setattr(course.tune, "run_trials", run_trials)
    monkeypatch.setattr(course.calls, "call", call)
    monkeypatch.setattr("effir_dist.search.driver.Mirror", NoMirror)
    return done


def searched(run: Run) -> None:
    """`course.search` of a run."""
    config, space = c.from_dict(run.config), space_file.parse_space(run.extra["space"], "test")
    view = LiveView(Console(file=io.StringIO()), "test", 10)
    course.search(run, config, space, MODEL, (), (), view, "")


@pytest.mark.parametrize("retriever", [False, True])
def test_a_bare_model_is_tuned_before_its_layers_are_scored(tmp_path: Path, stages: list[str], retriever: bool) -> None:
    own = {**RECOVERS, "model.retriever": retriever, "search.trials": 3, "data.test_split": ""}
    run = make_run(tmp_path / "run", own)
    (run.importance_folder / "importance.json").rename(run.folder / "kept.json")
    searched(run)
    recoveries = sum(r.spec.stage == "recovery" for r in run.results())
    first = ["score_layers", "base"] if retriever else ["base", "score_layers"]
    assert stages == [*first, *["trial"] * 3, *["recovery"] * recoveries]
    assert recoveries > 0
    assert run.extra["ended"] == "all 3 trials are done; each model of the front had its full recovery"
    stages.clear()
    searched(run)
    assert stages == [], "resumed, there is nothing to do"


def test_a_budget_that_ends_with_the_base_says_so_and_is_resumed(tmp_path: Path, stages: list[str]) -> None:
    own = {**RECOVERS, "model.retriever": False, "search.trials": 1, "data.test_split": "", "search.time_budget": 60.0}
    run = make_run(tmp_path / "run", own)
    (run.importance_folder / "importance.json").rename(run.folder / "kept.json")
    with mock.patch.object(Deadline, "over", new_callable=mock.PropertyMock, side_effect=[False, True, True]):
        searched(run)
    assert stages == ["base"]
    assert run.extra["ended"] == f"the base is done, and no time is left for trials: --resume {run.folder} goes on"
    searched(run)
    assert stages[1:3] == ["score_layers", "trial"]
