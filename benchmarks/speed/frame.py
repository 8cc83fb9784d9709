"""The frame of all speed benchmarks: interleaved repeats of variants that do the same work, medians, ratios first.

A benchmark is a module of this package, and its name is in `SUBJECTS`. What it measures on a CPU it makes in

    def comparisons(options: Options) -> Iterator[Comparison]

one comparison after the other, so that what one needs is gone before the next is made. What it measures on a GPU are

    def gpu_cases(options: Options) -> Cases

by name, so that the cases of all subjects run in order of worth: `gpu.ORDER` has that order. Nothing at a module's top
imports torch, and nothing that a GPU's case needs imports Ray.
"""

from __future__ import annotations

import gc
import importlib
import statistics
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SUBJECTS = {"encoding": 4, "pruned": 3, "exactness": 1, "search": 1, "sizes": 2}
SUBJECTS |= {"training": 4, "memory": 1, "trials": 1, "side_by_side": 1}
"""Modules of this package, in the order in which they run, and how they share the time."""
ERRORS = (ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, MemoryError, OSError, RuntimeError)
ERRORS += (TypeError, ValueError)
"""What a library, or a machine without memory, raises: one row of the report says it, the others are measured."""
REPEATS = 5
"""Rounds of a comparison, where time allows."""
LEAST = 3


@dataclass(frozen=True)
class Options:
    """What a benchmark may ask of the machine."""

    gpu: bool = False
    """The cases of a GPU; with `small` they run on a CPU too."""
    small: bool = False
    """Tiny sizes, once: to see that everything runs, not how fast."""
    threads: int = 1
    kept: Path | None = None
    """A folder in which models that one case has made wait for the next."""

    @property
    def device(self) -> str:
        import torch

        return "cuda" if self.gpu and torch.cuda.is_available() else "cpu"

    @property
    def compiled(self) -> str:
        """Whether blocks are compiled, as `encode` takes it: on a GPU."""
        return "always" if self.device == "cuda" else "never"

    @property
    def dtype(self) -> str:
        """What this machine computes in: bfloat16 where it has matrix units for it."""
        from effir_dist.models.encoder import resolve_dtype

        return resolve_dtype("auto")


@dataclass(frozen=True)
class Variant:
    """One way to do the work."""

    run: Callable[[], Mapping[str, float] | object | None]
    """Does it once; a mapping that it returns is kept as numbers beside the time (peak_bytes, ...), medians again."""
    share: float = 1.0
    """How much of the comparison's work one call does: a matrix product does as many FLOPs as it does."""


@dataclass(frozen=True)
class Comparison:
    """Variants that do the same work."""

    name: str
    """What is done, with its sizes: "minilm, 800 passages of 241 tokens"."""
    variants: dict[str, Variant]
    """The first is ours; the others are what it is compared with."""
    amount: float = 1.0
    unit: str = "calls"
    """Work of one call: 800, "passages"."""
    goals: dict[str, float] = field(default_factory=dict)
    """Variant -> how many times its rate ours is meant to reach."""
    rounds: int = REPEATS
    """At most; 1 where a number is wanted and no time: without warming up."""
    flops: float = 0.0
    """Useful FLOPs of one call, of real tokens; 0 where they mean nothing."""
    wall: bool = False
    """Whether the wall's clock counts on a CPU too: where a variant starts processes, or waits."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What else is known of it (cosines, bytes), for the table's last column and the JSON."""


Cases = Mapping[str, Callable[[], Iterator[Comparison]]]
"""What a subject measures on a GPU: a name -> a function that makes its comparisons, mostly one."""


def measure(comparison: Comparison, seconds: float, options: Options) -> dict[str, Any]:
    """A row of results. Each variant once for warming up, then rounds of all until `seconds` are over (LEAST at least).

    A ratio is the median over rounds of our rate by the other's in the same round, so that a load that comes and goes
    meets both. On one thread of a CPU the seconds are the processor's, which others on the machine hardly change. A
    variant that cannot run here is named with its error, and left out.
    """
    clock = time.perf_counter if options.gpu or options.threads > 1 or comparison.wall else time.process_time
    firsts, failed, begun = {}, {}, time.perf_counter()
    for name, variant in comparison.variants.items():
        try:
            firsts[name] = _timed(variant, clock)
        except ERRORS as error:
            failed[name] = reason(error)
    times: dict[str, list[float]] = {name: [] for name in firsts}
    numbers: dict[str, list[Mapping[str, float]]] = {name: [] for name in firsts}
    rounds = 1 if options.small else comparison.rounds
    for done in range(rounds):
        if done >= LEAST and time.perf_counter() - begun > seconds:
            break
        for name, first in firsts.items():
            taken, found = first if rounds == 1 else _timed(comparison.variants[name], clock)
            times[name].append(taken)
            numbers[name].append(found)
    return _row(comparison, firsts, times, numbers) | {"failed": failed}


def reason(error: BaseException) -> str:
    """What an error says, in a line; where it came from goes to stderr."""
    traceback.print_exception(error)
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _timed(variant: Variant, clock: Callable[[], float]) -> tuple[float, Mapping[str, float]]:
    """Seconds of one call, the device's work included, and the numbers that it returns."""
    gc.collect()
    _synchronize()
    started = clock()
    found = variant.run()
    _synchronize()
    return clock() - started, found if isinstance(found, Mapping) else {}


def _synchronize() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _row(
    comparison: Comparison,
    firsts: dict[str, tuple[float, Mapping[str, float]]],
    times: dict[str, list[float]],
    numbers: dict[str, list[Mapping[str, float]]],
) -> dict[str, Any]:
    rates = {name: [comparison.variants[name].share / t for t in taken] for name, taken in times.items()}
    ours = next(iter(comparison.variants))
    row: dict[str, Any] = {
        "name": comparison.name,
        "amount": comparison.amount,
        "unit": comparison.unit,
        "flops": comparison.flops,
        "facts": comparison.facts,
        "goals": comparison.goals,
        "ours": ours,
        "ratios": {},
        "variants": {},
    }
    for name, found in rates.items():
        rate = statistics.median(found)
        row["variants"][name] = {
            "seconds": times[name],
            "first_seconds": firsts[name][0],
            "per_second": comparison.amount * rate,
            "flops_per_second": comparison.flops * rate,
            "numbers": {key: statistics.median(n[key] for n in numbers[name]) for key in numbers[name][0]},
        }
        if name != ours and ours in rates:
            by_round = [own / other for own, other in zip(rates[ours], found, strict=True)]
            row["ratios"][name] = [statistics.median(by_round), min(by_round), max(by_round)]
    return row


def rows(subject: str, options: Options, seconds: float, say: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    """The rows of one module's comparisons, one after the other, in about `seconds` ; the first always."""
    module = importlib.import_module(f"benchmarks.speed.{subject}")
    until = time.perf_counter() + seconds
    for comparison in module.comparisons(options):
        row = {"subject": subject, **measure(comparison, (until - time.perf_counter()) / 2, options)}
        say(f"{subject}: {summary(row)}")
        yield row
        if time.perf_counter() > until:
            say(f"{subject}: no time left for more, if there is more")
            return


def failed_row(subject: str, name: str, why: str) -> dict[str, Any]:
    """The row of a case of which nothing was measured."""
    nothing: dict[str, Any] = {"facts": {}, "goals": {}, "ratios": {}, "variants": {}}
    return {"subject": subject, "name": name, "amount": 0, "unit": "", "flops": 0.0, "ours": "", **nothing} | {
        "failed": {"all": why}
    }


def summary(row: dict[str, Any]) -> str:
    """A line on one row, ratios first."""
    ratios = [f"{middle:.2f} x {name}" for name, (middle, _, _) in row["ratios"].items()]
    ours = row["variants"].get(row["ours"])
    rate = f"{ours['per_second']:,.1f} {row['unit']}/s" if ours else "ours failed"
    failed = [f"{name} failed ({why})" for name, why in row["failed"].items()]
    return f"{row['name']}: {', '.join([*ratios, rate, *failed])}"
