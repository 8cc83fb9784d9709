"""What is on disk in `runs/NAME`: the configuration, a record a trial, and the folders beside them.

config.yaml                  the configuration, and under `run` what else was settled at the start
trials/0003/trial.json       what was suggested: there from the moment a trial is started
trials/0003/result.json      the record: written once, whole or not at all; a trial without it starts over
trials/0003/queries.csv      per-query scores;  test.json, test_queries.csv: the same on the test queries
scores/ report/              importance scores; tables and plots
study.db                     Optuna's study, derived from the records
"""

from __future__ import annotations

import csv
import errno
import fcntl
import io
import json
import logging
import math
import os
import shutil
import socket
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml

from effir_dist.config import read_yaml
from effir_dist.errors import InputError

SCHEMA = 1
METRICS = ("ndcg_at_10", "recall_at_100", "mrr_at_10")
TEMPORARY = ".partial-"
PerQuery = dict[str, dict[str, dict[str, float]]]  # data set -> query id -> metric -> value


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full or forbidden disk met while writing `path` into an InputError; other errors pass."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InputError(
                f"no space left on {path.parent} while writing {path.name}; "
                f"free some and run the command again (a search goes on with --resume {_run_of(path)})"
            ) from None
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise InputError(f"cannot write {path}: {error.strerror}") from None
        raise


def _run_of(path: Path) -> Path | str:
    return next((p for p in path.parents if (p / "config.yaml").exists()), "runs/NAME")


def write_bytes_atomic(path: Path, data: bytes) -> None:
    """Put `data` at `path` whole or not at all, whatever dies when; missing folders are made.

    Raises InputError when the disk is full or the folder may not be written.
    """
    temporary = path.with_name(f"{TEMPORARY}{path.name}-{uuid.uuid4().hex[:8]}")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        # Or a machine that loses power may forget the rename, and with it a finished trial.
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)


def write_text_atomic(path: Path, text: str) -> None:
    """`write_bytes_atomic` for text, as UTF-8."""
    write_bytes_atomic(path, text.encode())


def write_json_atomic(path: Path, value: Any) -> None:
    """`write_bytes_atomic` for plain data. NaN and infinities become null, numpy's numbers plain ones."""
    write_text_atomic(path, json.dumps(_plain(value), indent=1, allow_nan=False) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def read_json(path: Path) -> dict[str, Any]:
    """The record in `path`. Raises InputError where it is no JSON object, or was written by a newer version."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        record = None
    if not isinstance(record, dict):
        raise InputError(f"{path} is not a record (no JSON object); remove it and its trial starts over with --resume")
    if record.get("schema", SCHEMA) > SCHEMA:
        newer = f"schema {record['schema']}, this one reads up to {SCHEMA}"
        raise InputError(f"{path} was written by a newer version of effir_dist ({newer}); update effir_dist")
    return record


def write_queries(path: Path, scores: PerQuery) -> None:
    """Per-query scores as CSV: dataset, query_id and the metrics, one line a query."""
    text = io.StringIO()
    rows = [(d, q, *(float(v[m]) for m in METRICS)) for d, queries in scores.items() for q, v in queries.items()]
    csv.writer(text, lineterminator="\n").writerows([("dataset", "query_id", *METRICS), *rows])
    write_text_atomic(path, text.getvalue())


def read_queries(path: Path) -> PerQuery:
    """The inverse of `write_queries`."""
    scores: PerQuery = {}
    with open(path, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            scores.setdefault(row["dataset"], {})[row["query_id"]] = {m: float(row[m]) for m in METRICS}
    return scores


class Run:
    """One run folder. Reading needs nothing; a driver that writes holds `locked()`."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.name = self.folder.resolve().name
        self.scores_folder = self.folder / "scores"
        self.report_folder = self.folder / "report"
        self.trials_folder = self.folder / "trials"
        self.study_path = self.folder / "study.db"
        self.log_path = self.folder / "search.log"

    @classmethod
    def create(cls, folder: str | Path, config: dict[str, Any], extra: dict[str, Any] | None = None) -> Run:
        """Start a run in a new folder; `extra` is what else was settled (space, fingerprints, versions).

        Raises InputError where the folder holds something already.
        """
        run = cls(folder)
        # What a driver killed before its configuration was written left is no run and nothing worth keeping.
        if run.folder.exists() and (run.folder.is_file() or set(run.folder.iterdir()) - set(run._partial())):
            raise InputError(f"{folder} exists already; choose another --name, or go on with --resume {folder}")
        run.write_config(config, extra or {})
        return run

    @classmethod
    def open(cls, folder: str | Path) -> Run:
        """An existing run. Raises InputError where `folder` is none."""
        run = cls(folder)
        if not run.folder.is_dir():
            raise InputError(f"there is no run folder {folder}")
        if not (run.folder / "config.yaml").is_file():
            raise InputError(f"{folder} is no run: it has no config.yaml")
        return run

    @property
    def config(self) -> dict[str, Any]:
        """The configuration, as `config.from_dict` takes it."""
        return {k: v for k, v in read_yaml(self.folder / "config.yaml").items() if k != "run"}

    @property
    def extra(self) -> dict[str, Any]:
        """What else was settled at the start."""
        return dict(read_yaml(self.folder / "config.yaml").get("run") or {})

    def write_config(self, config: dict[str, Any], extra: dict[str, Any] | None = None) -> None:
        """Replace the configuration (a resumed search may want more trials); `extra` stays unless given."""
        tree = _plain({**config, "run": self.extra if extra is None else extra})
        write_text_atomic(self.folder / "config.yaml", yaml.safe_dump(tree, sort_keys=False, allow_unicode=True))

    def trial_folder(self, trial: str) -> Path:
        """A trial's folder; made by the first write."""
        return self.trials_folder / trial

    def queries_path(self, trial: str, test: bool = False) -> Path:
        """Where a trial's per-query scores are."""
        return self.trial_folder(trial) / ("test_queries.csv" if test else "queries.csv")

    def trials(self) -> list[str]:
        """Every trial that was ever started, by number."""
        return sorted((f.name for f in self.trials_folder.glob("*") if f.name.isdigit()), key=int)

    def next_number(self) -> int:
        """The number no trial has had yet."""
        return max((int(t) for t in self.trials()), default=-1) + 1

    def results(self) -> list[dict[str, Any]]:
        """The records of all finished trials, failed ones too, by number. Raises InputError as `read_json` does."""
        return [record for _, record in self._records("result.json")]

    def result(self, trial: str) -> dict[str, Any]:
        """The record of a finished trial. Raises InputError as `read_json` does."""
        return read_json(self.trial_folder(trial) / "result.json")

    def has_weights(self, trial: str) -> bool:
        """Whether a trial's model is on disk."""
        return any(self.trial_folder(trial).glob("*.safetensors"))

    def tests(self) -> dict[str, dict[str, Any]]:
        """Trial -> its scores on the test queries, of the trials that have them."""
        return dict(self._records("test.json"))

    def pending(self) -> list[dict[str, Any]]:
        """The suggestions that were started and have no record, by number."""
        return [record for trial, record in self._records("trial.json") if not self.finished(trial)]

    def finished(self, trial: str) -> bool:
        """Whether a trial has its record."""
        return (self.trial_folder(trial) / "result.json").exists()

    def _records(self, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
        for trial in self.trials():
            path = self.trial_folder(trial) / name
            if path.exists():
                yield trial, read_json(path)

    def write_suggestion(self, trial: str, suggestion: dict[str, Any]) -> None:
        """Note what a trial is about to try. Raises InputError when the disk is full."""
        write_json_atomic(self.trial_folder(trial) / "trial.json", {"schema": SCHEMA, "trial": trial, **suggestion})

    def write_result(self, trial: str, record: dict[str, Any]) -> dict[str, Any]:
        """Write a trial's record and return the one on disk: the first stays where a killed driver's worker lives on.

        Raises InputError when the disk is full.
        """
        path = self.trial_folder(trial) / "result.json"
        if not self.finished(trial):
            write_json_atomic(path, {"schema": SCHEMA, **record})
        return read_json(path)

    def write_test(self, trial: str, scores: dict[str, Any]) -> None:
        """Write a trial's scores on the test queries. Raises InputError when the disk is full."""
        write_json_atomic(self.trial_folder(trial) / "test.json", {"schema": SCHEMA, **scores})

    def clear_pending(self, trial: str) -> None:
        """Remove what an unfinished trial left (weights, checkpoints) except its suggestion; a finished one stays."""
        if self.finished(trial) or not self.trial_folder(trial).is_dir():
            return
        for path in self.trial_folder(trial).iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != "trial.json":
                path.unlink()

    def remove_weights(self, trial: str) -> None:
        """Delete a trial's weights (off the front, they are only weight); its record stays."""
        for path in self.trial_folder(trial).rglob("*.safetensors"):
            path.unlink(missing_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be this run's only driver, and sweep what a killed one left half written.

        The kernel drops the lock with the process, kill -9 included. Raises InputError where another driver has it.
        """
        with ExitStack() as stack:
            with disk_errors(self.folder / "lock"):
                self._lock(stack.enter_context(open(self.folder / "lock", "a+", encoding="utf-8")))
                for path in self._partial():
                    path.unlink(missing_ok=True)
            yield

    def _partial(self) -> list[Path]:
        return list(self.folder.rglob(f"{TEMPORARY}*"))

    def _lock(self, file: io.TextIOWrapper) -> None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.ENOLCK, errno.EOPNOTSUPP):
                logging.getLogger(__name__).warning("%s cannot be locked: start no second search there", self.folder)
                return
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            file.seek(0)
            raise InputError(
                f"{self.folder} is being searched by {file.read().strip() or 'another process'}; "
                "wait for it, stop it, or choose another --name"
            ) from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
