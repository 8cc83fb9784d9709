"""What a search does one after the other, in words: a user reads what comes next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from effir_dist.core.settings import RunConfig
from effir_dist.runs.run_folder import Run

Name = Literal["base", "rank", "repeat", "search", "recover", "test", "held_out", "report"]


@dataclass(frozen=True)
class Step:
    """A part of a search."""

    name: Name
    text: str
    """What to do, such as 'measure the importance of layers and neurons'."""
    brief: str
    """The same in a few words."""
    trials: int = 0
    """How many are to be trained; 0 where that is not what it is about."""
    writes: str = ""
    """The file that a user opens then."""


def steps_of(
    run: Run,
    config: RunConfig,
    *,
    repeat: int = 0,
    rungs: bool = True,
    tunes: bool = False,
    ranks: bool = True,
    recovers: bool = False,
) -> tuple[Step, ...]:
    """The steps of a search that begins or goes on; the last writes the page.

    repeat: as `course.search` has it. rungs: whether trials are scored on the way to full training. tunes, ranks:
    whether the base is to be tuned, and layers are to be measured. recovers: whether the front's models are trained in
    full at the end.
    """
    page = str(run.report_folder / "report.html")
    found = {
        Step("base", "tune the model from which all trials start (the base)", "tune the base"): tunes,
        Step("rank", "measure the importance of layers and neurons", "measure importance"): ranks,
        Step("repeat", f"train the front's plans again with {repeat} more seeds", "repeat the front"): bool(repeat),
        _search(config, rungs): not repeat,
        Step("recover", "train the front's models for the rest of their steps", "full recoveries"): recovers,
        Step("test", "score the front's models on the test queries", "test scores"): bool(config.data.test_split),
        Step("held_out", "score the front's models on the held-out data", "held-out scores"): bool(
            config.data.held_out
        ),
        Step("report", f"write the page {page}", "the page", writes=page): True,
    }
    return tuple(step for step, wanted in found.items() if wanted)


def _search(config: RunConfig, rungs: bool) -> Step:
    trials, scheduler = config.search.trials, config.search.scheduler if rungs else "plain"
    plans = "1 plan" if trials == 1 else f"{trials} plans"
    text, brief = f"train {plans}", "train plans"
    if scheduler == "screening":
        text = f"screen plans where that is cheap, and train the {f'{trials} ' if trials > 1 else ''}most promising"
        brief = "screen plans, train the best"
    if scheduler == "asha":
        text, brief = f"train plans, the best of each rung further, {trials} of them in full", "train plans in rungs"
    return Step("search", text, brief, trials)
