"""What failed without being a trial's outcome: tries of a trial in `tries.json`, hosts in `excluded_hosts.json`, and in
`test_failed.json` and `held_out_failed.json` why a model of the front has no score on that data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from effir_dist.core.files import SCHEMA, read_json, write_json_atomic
from effir_dist.core.storage import exists, remove
from effir_dist.core.values import Json
from effir_dist.runs.run_folder import Run
from effir_dist.runs.schema import Reader


@dataclass(frozen=True)
class Try:
    """A try of a trial that failed, and was not its outcome."""

    ended: str
    """ISO time, UTC."""
    host: str
    """Of all workers that are to blame, with ','."""
    kind: str
    """What failed: trial/faults.py: Kind."""
    reason: str

    @property
    def text(self) -> str:
        return f"on {self.host or 'an unknown host'} at {self.ended}: {self.reason}"


@dataclass(frozen=True)
class ExcludedHost:
    """A host that was given no more trials."""

    since: str
    """ISO time, UTC."""
    host: str
    why: str
    """How often, and the last error."""


def tries_of(run: Run, trial: str) -> list[Try]:
    """The tries of a trial that failed without being its outcome, by time. Raises InputError as `Run.results`."""
    return _read_tries(_tries_path(run, trial))


def _read_tries(path: Path) -> list[Try]:
    found = (Reader(each, path) for _, each in _objects(path, "tries"))
    return [Try(read.text("ended"), read.text("host"), read.text("kind"), read.text("reason")) for read in found]


def add_try(run: Run, trial: str, failed: Try) -> None:
    """Note one more. Raises InputError when the disk is full."""
    tries = [asdict(each) for each in (*tries_of(run, trial), failed)]
    write_json_atomic(_tries_path(run, trial), {"schema": SCHEMA, "trial": trial, "tries": tries})


def excluded_hosts(run: Run) -> list[ExcludedHost]:
    """Hosts that were given no more trials, in any of the run's searches. Raises InputError as `Run.results`."""
    found = (Reader(each, path) for path, each in _objects(_hosts_path(run), "hosts"))
    return [ExcludedHost(read.text("since"), read.text("host"), read.text("why")) for read in found]


def add_excluded_host(run: Run, host: ExcludedHost) -> None:
    """Note one more. Raises InputError when the disk is full."""
    hosts = [asdict(each) for each in (*excluded_hosts(run), host)]
    write_json_atomic(_hosts_path(run), {"schema": SCHEMA, "hosts": hosts})


def note_unscored(run: Run, trial: str, split: str, failed: Try) -> None:
    """Note why a model has no score on `test` or `held_out` data. Raises InputError when the disk is full."""
    write_json_atomic(_unscored_path(run, trial, split), {"schema": SCHEMA, "trial": trial, "tries": [asdict(failed)]})


def remove_unscored(run: Run, trial: str, split: str) -> None:
    """It has a score now."""
    remove(_unscored_path(run, trial, split))


def unscored(run: Run, split: str) -> dict[str, Try]:
    """Trial -> why it has no score on `test` or `held_out` data, where that was tried. Raises as `Run.results`."""
    found = {trial: _read_tries(_unscored_path(run, trial, split)) for trial in run.trials()}
    return {trial: tries[-1] for trial, tries in found.items() if tries}


def not_the_trials_fault(run: Run) -> list[str]:
    """In words: hosts without more trials, trials that failed for reasons that are not theirs, missing scores."""
    hosts = [f"host {each.host} got no more trials from {each.since}: {each.why}" for each in excluded_hosts(run)]
    missing = [
        f"trial {trial} has no score on {what} data: {failed.reason}; --resume {run.folder} tries it again"
        for split, what in (("test", "test"), ("held_out", "held-out"))
        for trial, failed in unscored(run, split).items()
        if run.has_weights(trial)
    ]
    waiting = {spec.trial: tries_of(run, spec.trial) for spec in run.pending() if not run.reached(spec)}
    trials = [
        f"trial {trial} failed {len(tries)} times, the last {tries[-1].text}; --resume {run.folder} runs it again"
        for trial, tries in waiting.items()
        if tries
    ]
    return [*hosts, *trials, *missing]


def _unscored_path(run: Run, trial: str, split: str) -> Path:
    return run.trial_folder(trial) / f"{split}_failed.json"


def _tries_path(run: Run, trial: str) -> Path:
    return run.trial_folder(trial) / "tries.json"


def _hosts_path(run: Run) -> Path:
    return run.folder / "excluded_hosts.json"


def _objects(path: Path, name: str) -> list[tuple[Path, Json]]:
    if not exists(path):
        return []
    return [(path, each) for each in Reader(read_json(path), path).objects(name, needed=True)]
