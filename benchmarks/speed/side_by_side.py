"""Trials of small models side by side on a GPU, a process each, against one at a time; the goal is 4 times as many.

Eight processes, as `resources.gpus_per_trial: 0.125` has them, with CUDA's multi-process service and without. A trial
is what a search's asks of the GPU: the base model copied, every second MLP dropped, trained in a single process, and
texts encoded; each process has done one before. Files, exact search and metrics are the processor's, and are left out;
so is Ray. Where there is no GPU there is nothing to share: it is rehearsed with two processes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import multiprocessing
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.speed import trained as models
from benchmarks.speed.frame import ERRORS, LEAST, Cases, Comparison, Options, Variant, reason
from benchmarks.speed.models import passages
from effir_dist.search.cluster import mps

GOAL = 4.0
NO_SERVICE = "/nowhere/nvidia-mps"
"""Where no daemon answers: programs take turns then, whatever else runs on the machine."""


@dataclass(frozen=True)
class Trial:
    """What each process does, again and again."""

    model: str
    """MiniLM, or a shape with random weights; in a process its folder."""
    batch: int
    steps: int
    documents: int
    """Passages of about 241 of MiniLM's tokens that are encoded."""
    length: int = 128
    """Tokens kept of a text that is trained on."""

    @property
    def sizes(self) -> str:
        """In words."""
        trained = f"{self.steps} steps of {self.batch} pairs of up to {self.length} tokens"
        return f"{trained}, {self.documents} passages encoded"


GPU = {"minilm": Trial("minilm", 64, 25, 1000), "smollm2": Trial("smollm2", 32, 20, 500)}
"""A case -> its trials: a second or two of an H200 each, by what earlier rows tell, so that all rounds end in time."""


def comparisons(options: Options) -> Iterator[Comparison]:
    """None: a CPU's cores are shared out by Ray."""
    return iter(())


def gpu_cases(options: Options) -> Cases:
    """A row each."""
    return {name: functools.partial(_compared, name, trial, options) for name, trial in GPU.items()}


def _compared(name: str, trial: Trial, options: Options) -> Iterator[Comparison]:
    together, said = 2 if options.small else 8, list[str]()
    if options.small:
        trial = dataclasses.replace(trial, batch=4, steps=2, documents=8, length=32)
    with models.scratch() as folder, contextlib.ExitStack() as stack:
        trial = dataclasses.replace(trial, model=models.made(trial.model, Path(folder), options))
        with mps.environment({mps.PIPES: NO_SERVICE}):
            turns = stack.enter_context(Processes(together, trial, options))
        pools = {f"{together} at once, taking turns": turns}
        if stack.enter_context(mps.service(said.append)):
            service = stack.enter_context(Processes(together, trial, options))
            pools = {f"{together} at once, multi-process service": service, **pools}
        variants = {what: Variant(functools.partial(pool.run, together)) for what, pool in pools.items()}
        variants["one at a time"] = Variant(functools.partial(turns.run, 1), share=1 / together)
        yield Comparison(
            name=f"trials of {name}: {trial.sizes}, {options.dtype}",
            variants=variants,
            amount=together,
            unit="trials",
            goals={"one at a time": GOAL},
            rounds=LEAST,
            wall=True,
            facts={"service": "; ".join(said)},
        )


class Processes:
    """Some that each do a trial when they are told; they end with the `with` block."""

    def __init__(self, count: int, trial: Trial, options: Options) -> None:
        """Starts them, in the environment of this moment."""
        context, self._ends, self._processes = multiprocessing.get_context("spawn"), list[Connection](), list[Any]()
        for _ in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=serve, args=(theirs, trial, options, count))
            process.start()
            theirs.close()
            self._ends.append(ours)
            self._processes.append(process)

    def __enter__(self) -> Processes:
        return self

    def run(self, count: int) -> dict[str, float]:
        """A trial in each of the first `count`, at once. Returns the most memory that one of them took.

        Raises RuntimeError where one fails, with its reason.
        """
        ends = self._ends[:count]
        for end in ends:
            end.send("go")
        try:
            found = [end.recv() for end in ends]
        except EOFError:
            raise RuntimeError("a process ended by itself") from None
        for answer in found:
            if isinstance(answer, str):
                raise RuntimeError(answer)
        return max(found, key=lambda answer: answer.get("peak_bytes", 0.0))

    def __exit__(self, *_: object) -> None:
        for end in self._ends:
            end.close()
        for process in self._processes:
            process.join(5)
            process.kill()
            process.join()


def serve(connection: Connection, trial: Trial, options: Options, together: int) -> None:
    """What a process does until the other end is closed: its part of the GPU's memory, and trials when it is told."""
    import torch

    from effir_dist.training.gpu_share import limit_memory

    torch.set_num_threads(1)
    limit_memory(1 / together)
    pairs, texts = models.pairs(trial.batch * trial.steps), passages(trial.documents)
    with contextlib.suppress(EOFError, ConnectionResetError):
        while connection.recv():
            try:
                connection.send(run_trial(trial, options, pairs, texts))
            except ERRORS as error:
                connection.send(reason(error))


def run_trial(trial: Trial, options: Options, pairs: Any, texts: list[str]) -> dict[str, float]:
    """One; the most memory that it took of a GPU, and its last loss."""
    import torch

    from effir_dist.core.settings import ModelConfig, TrainConfig
    from effir_dist.models import pretrained
    from effir_dist.models.encoder import build_encoder, cast, default_device, make_settings, prune_encoder
    from effir_dist.models.encoding import encode_texts
    from effir_dist.models.families.base import block_count
    from effir_dist.models.pruning import make_plan
    from effir_dist.search.trial.costs import release_memory
    from effir_dist.training.trainer import train

    base = pretrained.load_base(pretrained.find("", trial.model), options.dtype)
    lengths = {"max_query_length": trial.length, "max_document_length": trial.length}
    settings = make_settings(ModelConfig(pooling="mean", query_prompt="", **lengths), base.source)
    encoder = build_encoder(base, settings, options.dtype)
    prune_encoder(encoder, make_plan(base.config, range(1, block_count(base.config), 2)), None)
    config = TrainConfig(steps=trial.steps, batch_size=trial.batch, learning_rate=2e-5)
    outcome = train(encoder, pairs, config, lambda _: None)
    encode_texts(cast(encoder.to(default_device()), options.dtype).eval(), texts, compiled="never")
    found = {"loss": outcome.last_loss}
    if torch.cuda.is_available():
        found["peak_bytes"] = float(torch.cuda.max_memory_allocated())
    del encoder
    release_memory()
    return found
