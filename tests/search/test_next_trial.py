"""Which trial comes next: the steps of whole searches, for every sampler with every scheduler, without driver and Ray.

`sequences.json` holds the steps of the version before samplers and schedulers were parted (commit d6dc5f0, where
`guided` was guided with screening, `ladder` a sampler of Optuna with ASHA, and `plain` one alone). They were written by
the same loop as `Searched` below, around that version's `SearchDriver.next_job` and `ended`. A step is NUMBER>RUNG of
each job in turn (NUMBER where there are no rungs), with five digits of the SHA-256 of a new trial's suggested values.

Cases of screening from then run with its cost counted by FLOPs and no bound on what is screened, as it was. Those named
"as of 0.2" were written by `Searched` below when both came, with today's defaults. All were written anew when searches
began to try widths alone, when widths came before drops, and when one drop of each kind took the place of three; those
of `guided` also when its first batch came to prune more. Equal seeds gave another search from then on. Where that is
meant to happen again:

    python -m tests.search.test_next_trial
"""

from __future__ import annotations

import hashlib
import itertools
import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from effir_dist.core import config as config_module
from effir_dist.core.settings import SAMPLERS, SCHEDULERS
from effir_dist.importance.store import load_importance, load_saliency
from effir_dist.runs.records import RungScore, TrialRecord, TrialSpec
from effir_dist.search.strategy import schedulers, space_file
from effir_dist.search.strategy.guided import sampler as guided
from effir_dist.search.strategy.next_trial import TrialQueue
from tests.driven import MODEL, make_run, smooth

SEQUENCES = Path(__file__).parent / "sequences.json"
BEFORE = json.loads(SEQUENCES.read_text())
FAILS = (4, 11)
"""Trials that fail when they are trained in full."""
NEVER = 10**9


def found_at(spec: TrialSpec, share: float) -> dict[str, float]:
    """Lower rungs say less: an untrained model's score falls faster."""
    found, values = smooth(spec), spec.values(MODEL)
    harsh = {0.0: 3.0, 0.25: 1.5}.get(share, 1.0)
    quality = max(0.01, 0.6 - harsh * (0.6 - found["ndcg_at_10"]))
    whole, scoring = 40 + 30 * values["parameters_fraction"], 2 + 3 * values["parameters_fraction"]
    return {**values, **found, "ndcg_at_10": quality, "total_seconds": scoring + share * (whole - scoring)}


class Searched:
    """A search by a queue alone. Jobs of several workers end in an order that is the same each time."""

    def __init__(self, folder: Path, case: dict[str, Any]) -> None:
        values = {f"search.{name}": value for name, value in case["settings"].items()}
        self.run = make_run(folder, values, case["space"])
        self.config = config_module.from_dict(self.run.config)
        self.space = space_file.parse_space(self.run.extra["space"], "test")
        self.workers, self.steps, self.ended = case["workers"], list[str](), 0
        self.running: list[TrialSpec] = []
        self.open()

    def open(self) -> None:
        """Begin, or go on from what is on disk."""
        importance, saliency = load_importance(self.run), load_saliency(self.run)
        self.queue = TrialQueue(self.run, self.config, self.space, MODEL, importance, saliency)
        self.queue.replay(self.run.results(), self.run.pending())
        self.records, self.trained = len(self.run.results()), set(self.run.trials())

    def go_on(self, jobs: int = NEVER) -> None:
        """Until so many more jobs have ended, or the search has."""
        for _ in range(jobs):
            while len(self.running) < self.workers and (spec := self._next()):
                self.running.append(spec)
            if not self.running:
                return
            spec = self.running.pop(7 * self.ended % len(self.running))
            self.ended += 1
            self._end(spec)

    def _next(self) -> TrialSpec | None:
        full = sum(spec.rung in (None, self.queue.top) for spec in self.running)
        if self.config.search.trials - self.records <= full:
            return None
        spec = self.queue.next(len(self.trained))
        if spec:
            # Processors round in other places, so of a float only what all of them agree on.
            values = {k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in spec.suggested.items()}
            text = json.dumps(values, sort_keys=True)
            digest = "" if spec.trial in self.trained else ":" + hashlib.sha256(text.encode()).hexdigest()[:5]
            self.steps.append(f"{spec.number}" + ("" if spec.rung is None else f">{spec.rung}") + digest)
            self.trained.add(spec.trial)
            self.run.write_spec(spec)
        return spec

    def _end(self, spec: TrialSpec) -> None:
        facts, rungs = spec.facts(MODEL), self.config.search.rungs
        if spec.rung is not None and spec.rung < len(rungs):
            share = rungs[spec.rung]
            self.run.write_rung(spec.trial, RungScore(spec.rung, share, spec.cost, facts, found_at(spec, share)))
            self.queue.scored(spec.trial, spec.rung)
            return
        at = f"2026-11-01T{self.ended // 60:02d}:{self.ended % 60:02d}:00.000+00:00"
        failed = TrialRecord(spec, "failed", "died", facts, started=at, finished=at)
        record = TrialRecord(spec, "complete", "", facts, found_at(spec, 1.0), started=at, finished=at)
        self.queue.ended(self.run.write_result(failed if spec.number in FAILS else record))
        self.records += 1


def few_to_choose_from(monkeypatch: pytest.MonkeyPatch, pool: int) -> None:
    """The surrogate chooses among 200 plans for each proposal, which takes longer than all else here."""
    monkeypatch.setattr(guided, "POOL", pool)


def named(cases: Iterable[str]) -> list[Any]:
    """Those that take seconds are slow tests, except for the first."""
    slow = [name for name in cases if name.startswith("guided screening")][1:]
    return [pytest.param(name, marks=pytest.mark.slow if name in slow else (), id=name) for name in cases]


@pytest.mark.parametrize("name", named(BEFORE))
def test_the_same_seed_gives_the_same_search_as_before(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert steps_of(BEFORE[name], tmp_path, monkeypatch) == BEFORE[name]["steps"].split()


def steps_of(case: dict[str, Any], folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Those of a whole search."""
    few_to_choose_from(monkeypatch, case["pool"])
    monkeypatch.setattr(schedulers, "MOST_AT_FIRST", case.get("most_at_first", schedulers.MOST_AT_FIRST))
    searched = Searched(folder / "run", case)
    searched.go_on()
    return searched.steps


def marked(sampler: str, scheduler: str) -> Any:
    return pytest.param(sampler, scheduler, marks=pytest.mark.slow if sampler == "gp" else ())


COMBINATIONS = [marked(*each) for each in itertools.product(SAMPLERS, SCHEDULERS)]


@pytest.mark.parametrize(("sampler", "scheduler"), COMBINATIONS)
def test_every_sampler_goes_with_every_scheduler_and_is_resumed_as_if_it_had_not_stopped(
    sampler: str, scheduler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few_to_choose_from(monkeypatch, 12)
    plain, gp = scheduler == "plain", sampler == "gp"  # GP takes seconds for a proposal
    settings = {
        "sampler": sampler,
        "scheduler": scheduler,
        "trials": (11 if plain else 7) - 2 * gp,
        "rungs": [0.0, 0.25] if scheduler == "asha" else [0.0],
        "screening_budget": 0.1 if gp else 0.15,
        "promotion_fraction": 0.9 if gp else 0.5,
    }
    space = {"drop_mlp": {"max": 2}, "width_ratio": {"low": 0.4, "high": 1.0, "step": 0.1}}
    case = {"settings": settings, "space": space, "workers": 1}
    whole, again = Searched(tmp_path / "whole", case), Searched(tmp_path / "again", case)
    whole.go_on()
    for jobs in (1, 4, 2, NEVER):
        again.go_on(jobs)
        again.open()
    assert again.steps == whole.steps
    records = whole.run.results()
    assert len(records) == settings["trials"]
    assert len({record.spec.key for record in records}) == len(records)
    starts = whole.queue.problem.start_count
    assert len(whole.run.trials()) > starts, "more than the starting points"
    assert plain or len(whole.run.trials()) > len(records), "some stopped on a lower rung"


def main() -> None:
    """Write the steps of all cases anew."""
    for name, case in BEFORE.items():
        with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as monkeypatch:
            steps = " ".join(steps_of(case, Path(folder), monkeypatch))
        print(f"{name}: {'as before' if steps == case['steps'] else 'other steps'}", flush=True)
        case["steps"] = steps
    lines = ",\n".join(f" {json.dumps(name)}: {json.dumps(case)}" for name, case in BEFORE.items())
    SEQUENCES.write_text(f"{{\n{lines}\n}}\n")


if __name__ == "__main__":
    main()
