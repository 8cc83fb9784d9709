"""What workers tell the driver of their trials' ends is kept where the run folder does not show it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from effir_dist.runs.records import RungScore
from effir_dist.runs.run_folder import Run
from effir_dist.runs.told import TOLD, keep_told, told
from effir_dist.search.cluster.worker import Job
from tests.driven import drive, make_run
from tests.synthetic import record, spec


def test_what_a_worker_told_is_not_lost(tmp_path: Path) -> None:
    """The driver learns of a trial whose record it cannot see, and writes it."""
    run = make_run(tmp_path / "run", {"search.trials": 1})
    driver = drive(run, most=0)
    job = driver.next_job()
    assert isinstance(job, Job)
    driver.started(job.spec.trial)
    found = dataclasses.replace(record(0, 0.5), spec=job.spec)
    driver.progressed(job.spec.trial, {TOLD: told(job.spec.trial, found)})
    driver.ended(job.spec.trial, None)
    assert [r.values["ndcg_at_10"] for r in driver.records] == [0.5]
    assert [r.values["ndcg_at_10"] for r in Run.open(run.folder).results()] == [0.5]
    assert driver.failure is None


def test_what_is_seen_already_stays(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", {})
    run.write_result(record(0, 0.6))
    keep_told(run, record(0, 0.6).spec, told("0000", record(0, 0.1)))
    keep_told(run, spec(1), "")
    assert [r.values["ndcg_at_10"] for r in run.results()] == [0.6]


def test_a_rungs_score_is_kept(tmp_path: Path) -> None:
    run, wanted = Run.create(tmp_path / "run", {}), dataclasses.replace(spec(0), rung=1)
    facts = record(0, 0.5).facts
    score = RungScore(1, 0.5, 0.2, facts, {**record(0, 0.5).values})
    keep_told(run, wanted, told("0000", score))
    assert run.reached(wanted)
    assert run.rungs("0000")[0].values["ndcg_at_10"] == 0.5
    with pytest.raises(FileNotFoundError):
        run.result("0000")
