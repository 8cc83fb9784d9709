"""What a worker tells the driver of a trial's end. The run folder has it as well, but may not show it yet (NFS)."""

from __future__ import annotations

import json

from effir_dist.core.files import SCHEMA, plain
from effir_dist.runs.records import RungScore, TrialRecord, TrialSpec, rungs_from_json, rungs_to_json
from effir_dist.runs.run_folder import Run

TOLD = "told"
"""In a worker's progress: the text of `told`."""


def told(trial: str, found: TrialRecord | RungScore) -> str:
    """What a trial came to, as `keep_told` reads it."""
    if isinstance(found, TrialRecord):
        return json.dumps({"record": plain({"schema": SCHEMA, **found.to_json()})})
    return json.dumps(plain(rungs_to_json(trial, [found])))


def keep_told(run: Run, spec: TrialSpec, text: str) -> None:
    """Write what a worker told of a trial's end (empty: nothing), where it is not seen in the run folder.

    Raises InputError when the disk is full, and as `Run.write_result`.
    """
    if not text or run.reached(spec):
        return
    tree, source = json.loads(text), run.trial_folder(spec.trial)
    if "record" in tree:
        run.write_result(TrialRecord.from_json(tree["record"], source))
    else:
        run.write_rung(spec.trial, rungs_from_json(tree, source)[0])
