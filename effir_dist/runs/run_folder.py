"""What is on disk in `runs/NAME`: the configuration, a record a trial, and the folders beside them.

config.yaml                  the configuration, and under `run` what else was settled at the start
trials/0003/trial.json       what was suggested: there from the moment a trial is started
trials/0003/result.json      the record: written once, whole or not at all; a trial without it starts over
trials/0003/rungs.json       scores on the rungs below the top: a trial with these and no record stopped there
trials/0003/checkpoint.safetensors   the state of a training that goes on: a trial that died goes on from here
trials/0003/checkpoint.parts/        of a large state, the parts that this file names
trials/0003/queries.csv      per-query scores;  test.json, test_queries.csv: the same on the test queries
trials/0003/held_out.json    and held_out_queries.csv: the same on data sets that the search never read
trials/0003/tries.json       failed tries that were not its outcome;  excluded_hosts.json: hosts that got no more trials
importance/ report/          importance of sub-layers, saliency of neurons, teachers' embeddings; page, tables, plots
study.db                     Optuna's study, derived from the records
"""

from __future__ import annotations

import csv
import functools
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from effir_dist.core import renamed
from effir_dist.core.config import parse_yaml
from effir_dist.core.errors import InputError
from effir_dist.core.files import (
    SCHEMA,
    TEMPORARY,
    create_json_atomic,
    plain,
    read_json,
    write_json_atomic,
    write_text_atomic,
)
from effir_dist.core.locks import locked
from effir_dist.core.measures import METRICS
from effir_dist.core.storage import absolute, exists, is_remote, names, place, read_bytes, remove
from effir_dist.core.values import Json
from effir_dist.runs.records import (
    RungScore,
    SplitScores,
    TrialRecord,
    TrialSpec,
    rungs_from_json,
    rungs_to_json,
)

PUT_BACK = "put the file back as it was, or remove it and --resume runs its trial again"
SPLITS = {"search": "queries.csv", "test": "test_queries.csv", "held_out": "held_out_queries.csv"}
"""What was scored -> the file of the per-query scores in a trial's folder."""
PerQuery = dict[str, dict[str, dict[str, float]]]  # data set -> query id -> metric -> value


def write_queries(path: Path, scores: PerQuery) -> None:
    """Per-query scores as CSV: dataset, query_id and the metrics, one line a query."""
    text = io.StringIO()
    rows = [(d, q, *(float(v[m]) for m in METRICS)) for d, queries in scores.items() for q, v in queries.items()]
    csv.writer(text, lineterminator="\n").writerows([("dataset", "query_id", *METRICS), *rows])
    write_text_atomic(path, text.getvalue())


def read_queries(path: Path) -> PerQuery:
    """The inverse of `write_queries`."""
    scores: PerQuery = {}
    for row in csv.DictReader(io.StringIO(read_bytes(path).decode(), newline="")):
        scores.setdefault(row["dataset"], {})[row["query_id"]] = {m: float(row[m]) for m in METRICS}
    return scores


def parts_folder(checkpoint: Path) -> Path:
    """Where the parts of a checkpoint are that is too large for one file."""
    return checkpoint.with_suffix(".parts")


class Run:
    """One run folder. Reading needs nothing; a driver that writes holds `locked()`."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = place(folder)
        self.location = absolute(self.folder)
        """The folder as text, for other processes."""
        self.lease = ""
        """Of the driver that this process is, where the run is in a bucket."""
        self.name = self.location.rsplit("/", 1)[-1]
        self.report_folder = self.folder / "report"
        self.trials_folder = self.folder / "trials"
        self.study_path = self.folder / "study.db"
        self.log_path = self.folder / "search.log"

    @classmethod
    def create(cls, folder: str | Path, config: Json, extra: Json | None = None) -> Run:
        """Start a run in a new folder; `extra` is what else was settled (space, fingerprints, versions).

        Raises InputError where the folder holds something already.
        """
        run = cls(folder)
        # What a driver killed before its configuration was written left is no run and nothing worth keeping.
        if exists(run.folder) or any(not name.startswith(TEMPORARY) for name in names(run.folder)):
            raise InputError(f"{folder} exists already; choose another --name, or go on with --resume {folder}")
        run.write_config(config, extra or {})
        return run

    @classmethod
    def open(cls, folder: str | Path) -> Run:
        """An existing run. Raises InputError where `folder` is none."""
        run = cls(folder)
        if not (names(run.folder) if is_remote(run.folder) else run.folder.is_dir()):
            raise InputError(f"there is no run folder {folder}")
        if not exists(run.folder / "config.yaml"):
            raise InputError(f"{folder} is no run: it has no config.yaml")
        return run

    @functools.cached_property
    def importance_folder(self) -> Path:
        """Importance of sub-layers and saliency of neurons; `scores` in a run of an earlier version, which has that."""
        earlier = self.folder / "scores"
        return earlier if names(earlier) else self.folder / "importance"

    @property
    def config(self) -> Json:
        """The configuration, as `config.from_dict` takes it, with today's names."""
        return renamed.settings({k: v for k, v in self._tree().items() if k != "run"})

    @property
    def extra(self) -> Json:
        """What else was settled at the start; `space`, the search space, with today's names."""
        found = dict(self._tree().get("run") or {})
        return {**found, "space": renamed.space(found["space"])} if "space" in found else found

    def _tree(self) -> Json:
        path = self.folder / "config.yaml"
        return parse_yaml(read_bytes(path).decode(), path)

    def write_config(self, config: Json, extra: Json | None = None) -> None:
        """Replace the configuration (a resumed search may want more trials); `extra` stays unless given."""
        tree = plain({**config, "run": self.extra if extra is None else extra})
        write_text_atomic(self.folder / "config.yaml", yaml.safe_dump(tree, sort_keys=False, allow_unicode=True))

    def trial_folder(self, trial: str) -> Path:
        """A trial's folder; made by the first write."""
        return self.trials_folder / trial

    def queries_path(self, trial: str, split: str = "search") -> Path:
        """Where a trial's per-query scores are. split: one of SPLITS."""
        return self.trial_folder(trial) / SPLITS[split]

    def checkpoint_path(self, trial: str) -> Path:
        """Where a trial that trains leaves its state; gone once it has its record."""
        return self.trial_folder(trial) / "checkpoint.safetensors"

    def _checkpoint_paths(self, trial: str) -> tuple[Path, Path]:
        """The state's own file, and the folder of its parts."""
        path = self.checkpoint_path(trial)
        return path, parts_folder(path)

    def note_out_of_memory(self, trial: str, reason: str) -> None:
        """Note that a trial ran out of memory, for its next attempt to take less."""
        write_text_atomic(self._memory_path(trial), reason)

    def out_of_memory(self, trial: str) -> str:
        """How an earlier attempt of a trial ran out of memory; empty where none did."""
        path = self._memory_path(trial)
        return read_bytes(path).decode() if exists(path) else ""

    def _memory_path(self, trial: str) -> Path:
        return self.trial_folder(trial) / "out_of_memory"

    def trials(self) -> list[str]:
        """Every trial that was ever started, by number."""
        return sorted((name for name in names(self.trials_folder) if name.isdigit()), key=int)

    def next_number(self) -> int:
        """The number no trial has had yet."""
        return max((int(t) for t in self.trials()), default=-1) + 1

    def results(self) -> list[TrialRecord]:
        """The records of all finished trials, failed ones too, by number.

        Raises InputError for a file that no search wrote, which names its fault.
        """
        return [self.result(trial) for trial in self.trials() if self.finished(trial)]

    def result(self, trial: str) -> TrialRecord:
        """The record of a finished trial. Raises InputError as `results`."""
        path = self.trial_folder(trial) / "result.json"
        record = TrialRecord.from_json(read_json(path), path)
        if record.trial != trial:
            raise InputError(f"{path}: number must be {int(trial)}, its folder's, got {record.spec.number}; {PUT_BACK}")
        return record

    def has_weights(self, trial: str) -> bool:
        """Whether a trial's model is on disk."""
        return exists(self.trial_folder(trial) / "model.safetensors")

    def split_scores(self, split: str) -> dict[str, SplitScores]:
        """Trial -> its scores on `test` or `held_out` data, of the trials that have them. Raises InputError as
        `results`."""
        found = {}
        for trial in self.trials():
            path = self.trial_folder(trial) / f"{split}.json"
            if exists(path):
                found[trial] = SplitScores.from_json(read_json(path), path)
        return found

    def pending(self) -> list[TrialSpec]:
        """The trials that were started and have no record, by number. Raises InputError as `results`."""
        waiting = [trial for trial in self.trials() if not self.finished(trial)]
        paths = [self.trial_folder(trial) / "trial.json" for trial in waiting]
        return [TrialSpec.from_json(read_json(path), path) for path in paths if exists(path)]

    def finished(self, trial: str) -> bool:
        """Whether a trial has its record."""
        return exists(self.trial_folder(trial) / "result.json")

    def rungs(self, trial: str) -> list[RungScore]:
        """What a trial scored on the rungs below the top, lowest first. Raises InputError as `results`."""
        path = self.trial_folder(trial) / "rungs.json"
        return rungs_from_json(read_json(path), path) if exists(path) else []

    def write_rung(self, trial: str, rung: RungScore) -> None:
        """Add the score of a rung; one that is there already stays. Raises InputError when the disk is full."""
        known = self.rungs(trial)
        if all(other.rung != rung.rung for other in known):
            write_json_atomic(self.trial_folder(trial) / "rungs.json", rungs_to_json(trial, [*known, rung]))

    def reached(self, spec: TrialSpec) -> bool:
        """Whether a trial was scored on the rung that it was started for, or has its record."""
        return spec.rung in {rung.rung for rung in self.rungs(spec.trial)} or self.finished(spec.trial)

    def write_spec(self, spec: TrialSpec) -> None:
        """Note what a trial is about to try. Raises InputError when the disk is full, and where another driver has
        given its number to another plan."""
        path, tree = self.trial_folder(spec.trial) / "trial.json", {"schema": SCHEMA, **spec.to_json()}
        if not create_json_atomic(path, tree):
            self._check_plan(spec)
            write_json_atomic(path, tree)

    def _check_plan(self, spec: TrialSpec) -> None:
        path = self.trial_folder(spec.trial) / "trial.json"
        if exists(path) and TrialSpec.from_json(read_json(path), path).key != spec.key:
            raise InputError(f"{path} is of another plan, which another driver chose; wait for that, or stop it")

    def write_result(self, record: TrialRecord) -> TrialRecord:
        """Write a trial's record and return the one on disk: the first stays where a killed driver's worker lives on.

        Raises InputError when the disk is full, and where the trial's number is another plan's.
        """
        self._check_plan(record.spec)
        create_json_atomic(self.trial_folder(record.trial) / "result.json", {"schema": SCHEMA, **record.to_json()})
        for path in self._checkpoint_paths(record.trial):
            remove(path)
        return self.result(record.trial)

    def write_split_scores(self, trial: str, split: str, scores: SplitScores) -> None:
        """Write a trial's scores on `test` or `held_out` data. Raises InputError when the disk is full."""
        write_json_atomic(self.trial_folder(trial) / f"{split}.json", {"schema": SCHEMA, **scores.to_json()})

    def clear_pending(self, trial: str) -> None:
        """Remove what an unfinished trial left, except its suggestion, checkpoint and log; a finished one stays."""
        if self.finished(trial):
            return
        paths = (*self._checkpoint_paths(trial), self._memory_path(trial))
        kept = ("trial.json", "rungs.json", "tries.json", "log", *(path.name for path in paths))
        for name in names(self.trial_folder(trial)):
            if name not in kept:
                remove(self.trial_folder(trial) / name)

    def remove_weights(self, trial: str) -> None:
        """Delete a trial's weights (off the front, they are only weight); its record stays."""
        remove(self.trial_folder(trial) / "model.safetensors")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be this run's only driver, and sweep what a killed one left half written.

        Raises InputError where another driver has it, and where another took it over while this one was cut off.
        """
        with locked(self.folder) as self.lease:
            if not is_remote(self.folder):  # a bucket has nothing half written
                for path in self.folder.rglob(f"{TEMPORARY}*"):
                    path.unlink(missing_ok=True)
                for trial in self.trials():
                    if not names(self.trial_folder(trial)):  # its number was given to no plan, and would be left out
                        self.trial_folder(trial).rmdir()
            yield
