"""The checks of `--preflight` in their order, and its table."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from effir_dist.core.errors import InputError
from effir_dist.core.files import write_json_atomic
from effir_dist.core.settings import RunConfig
from effir_dist.core.storage import absolute
from effir_dist.data import sets
from effir_dist.importance import gate_memory
from effir_dist.models import pretrained
from effir_dist.models.pruning import count_parameters
from effir_dist.search.cluster import calls, connection, growth, mps
from effir_dist.search.cluster.nodes import Node
from effir_dist.search.cluster.resources import Resources, asked_text, awaited, settle_for
from effir_dist.search.cluster.worker import output_to, score_layers
from effir_dist.search.preflight import node_checks, on_nodes, trial
from effir_dist.search.preflight.findings import CLUSTER, Finding, attempt, sentence, table, to_json
from effir_dist.search.preflight.node_checks import Request
from effir_dist.search.strategy import space_file
from effir_dist.search.strategy.space import Space, rankings, teacher_settings
from effir_dist.training import memory

TRIAL_SECONDS = 600.0
"""For the scores of layers, and for the trial: a large model is read and sharded, and DeepSpeed may compile."""
GROWTH_SECONDS = 1200.0
"""For the trial, where its node may have to be started first."""


@dataclass(frozen=True)
class Asked:
    """The search that the preflight is for."""

    config: RunConfig
    space: Space
    source: pretrained.Source
    runs: Path
    """The folder or bucket of its runs."""
    address: str | None
    """Of the Ray cluster; None for this machine alone."""


def preflight(asked: Asked, screen: TextIO, record: str | None = None, quiet: bool = False) -> None:
    """Check every node, run a trial of two steps, print the table. record: a file for it as JSON. quiet: nothing else.

    Raises InputError where a check failed, or there is no cluster to join.
    """
    folders = tempfile.TemporaryDirectory(prefix="effir-preflight-"), trial.scratch_folder(asked.runs)
    with folders[0] as local, folders[1] as scratch, os.fdopen(os.dup(1), "w") as shown:

        def say(text: str) -> None:
            if not quiet:
                print(text, file=shown, flush=True)

        with output_to(Path(local) / "log"):
            found = _found(asked, Path(local), scratch, say)
    print("\n".join(table(found)), file=screen, flush=True)  # before the error, which has another stream
    if record:
        write_json_atomic(Path(record), to_json(found))
    failed = [each for each in found if each.state == "failed"]
    if failed:
        raise InputError(f"{len(failed)} of {len(found)} checks failed; mend what the table names and run it again")
    print("all checks passed: leave out --preflight and the search starts", file=screen)


def _found(asked: Asked, local: Path, scratch: Path, say: Callable[[str], None]) -> list[Finding]:
    """All findings. local: a folder of this machine; scratch: one that all nodes should see."""
    say("starting Ray" if not asked.address else f"joining Ray at {asked.address}")
    resources = asked.config.resources
    joined = connection.cluster(asked.address, resources.workers_per_trial)
    with mps.for_search(resources, asked.address, say), joined as present:
        may_come = growth.nodes_that_may_come(resources) if asked.address else ()
        takes, found = _settled(asked, present, may_come)
        known = on_nodes.nodes()
        say(f"checking {len(known)} node{'s' if len(known) > 1 else ''}")
        request = _request(asked, scratch, takes)
        found += [*on_nodes.absent(), *on_nodes.check(known, request, takes)]
        if takes is None or any(each.state == "failed" for each in found):
            return [*found, Finding(CLUSTER, "trial", "skipped", "first mend what failed")]
        say(f"training two steps with {takes.workers} worker{'s' if takes.workers > 1 else ''}")
        storage = trial.ray_storage(scratch) if asked.address else str(local)
        limit = GROWTH_SECONDS if awaited(takes, present) else TRIAL_SECONDS
        found += _trial(asked, scratch, takes, storage, limit)
        later = [node for node in on_nodes.nodes() if node not in known]  # those that the trial made the cluster start
        return found + on_nodes.check(later, request, takes)


def _settled(asked: Asked, present: Sequence[Node], may_come: Sequence[Node]) -> tuple[Resources | None, list[Finding]]:
    """What a trial takes, and whether it fits the cluster."""
    try:
        takes = settle_for(asked.config, asked.source.config, present, may_come)
    except InputError as error:
        return None, [Finding(CLUSTER, "resources", "failed", sentence(error))]
    each = asked_text(takes.workers, *takes.of_a_worker)
    return takes, [Finding(CLUSTER, "resources", "ok", f"a trial takes {each}; {takes.concurrent} at a time")]


def _request(asked: Asked, scratch: Path, takes: Resources | None) -> Request:
    """What the nodes' checks are held against, as things are on this machine."""
    config, parameters = asked.config, count_parameters(asked.source.config)
    return Request(
        node="",
        config=config,
        scratch=absolute(scratch),
        versions=node_checks.versions(),
        data={path: str(sets.fingerprint(path)["sha256"]) for path in config.data.searched},
        weights=node_checks.weight_files(asked.source),
        trial_bytes=(memory.CHECKPOINT_BYTES + 4) * parameters,
        cache_bytes=2 * sum(node_checks.data_bytes(path) for path in config.data.searched),
        gpu_bytes=_gpu_bytes(asked, takes),
    )


def _gpu_bytes(asked: Asked, takes: Resources | None) -> float:
    """The most that trials which share a GPU, or scoring neurons, take of its memory by prediction; 0 without GPUs."""
    if takes is None or not takes.gpus:
        return 0.0
    config, model = asked.config, asked.source.config
    dtype, found = memory.dtype_of(config), [0.0]
    if config.train.trains:
        found.append(max(1, int(takes.workers / takes.gpus)) * memory.predict(model, config, dtype).peak)
    gated, trained = gate_memory.asked(config, rankings(asked.space, config))
    if gated:
        found.append(gate_memory.predict(model, config, dtype, trained).peak)
    return max(found)


def _trial(asked: Asked, scratch: Path, takes: Resources, storage: str, limit: float) -> list[Finding]:
    """Layers scored and a model trained, in a scratch run."""
    config = trial.two_steps(asked.config)
    run = trial.make_run(scratch, config, {"space": space_file.to_dict(asked.space)})
    wanted, teacher = rankings(asked.space, config), teacher_settings(asked.space, config)
    score = calls.call(score_layers, takes.alone, run.location, "", config, wanted, teacher)
    scored = attempt(CLUSTER, "layer scores", lambda: str(score() or ""), limit)
    if scored.state == "failed":
        return [scored, Finding(CLUSTER, "trial", "skipped", "it needs the layers' scores")]
    train = attempt(CLUSTER, "trial", lambda: trial.train_one(run, config, takes, storage, limit), limit + 60)
    return [scored, train]
