"""What a user sees of scores below full training: shares of the unpruned model's there, never numbers like nDCG@10.

They are of a part of the data, which is easier, and of less training: beside the scores of trained trials they would
look as if training hurt.
"""

from __future__ import annotations

from collections.abc import Iterable

from effir_dist.core.measures import QUALITY
from effir_dist.runs.objectives import is_unpruned
from effir_dist.runs.records import RungScore
from effir_dist.runs.sizes import total


def share_of_unpruned(score: RungScore, unpruned: RungScore | None) -> float | None:
    """A score as a share of the unpruned model's on the same rung; None where that is not known."""
    return score.values[QUALITY] / unpruned.values[QUALITY] if unpruned and unpruned.values[QUALITY] else None


class Screened:
    """The scores below full training of one search, in words."""

    def __init__(self, known: Iterable[RungScore] = ()) -> None:
        """known: those of trials that the search had before."""
        self.unpruned: dict[int, RungScore] = {}
        """Rung -> the unpruned model's score there."""
        self.count, self.last, self.explained = 0, "", set[int]()
        for score in known:
            self._count(score)

    def _count(self, score: RungScore) -> None:
        self.count += score.rung == 0
        if is_unpruned(score.values):
            self.unpruned.setdefault(score.rung, score)

    def add(self, trial: str, score: RungScore, fidelity: str) -> list[str]:
        """What to say of a new score: what the scale is, the first time, then the score. fidelity: as `untrained`."""
        self._count(score)
        share = share_of_unpruned(score, self.unpruned.get(score.rung))
        found = fidelity + ("" if share is None else f": {100 * share:.0f} % of the unpruned model's")
        self.last = f"{trial} {found}"
        first = score.rung not in self.explained
        self.explained.add(score.rung)
        return [_scale(score, fidelity)] * first + [f"screened, {found}"]


def _scale(score: RungScore, fidelity: str) -> str:
    """What the numbers of a rung are."""
    data = total(score.sizes) or "a part of the data"
    return f"screened: plans {fidelity}, on {data}; shares of the unpruned model's score there, not the trials' nDCG@10"
