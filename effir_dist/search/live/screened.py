"""What a user sees of scores below full training: how many there are, and no number like nDCG@10.

They are of a part of the data, which is easier, and of less training: beside the scores of trained trials they would
look as if training hurt. rungs.csv has them.
"""

from __future__ import annotations

from collections.abc import Iterable

from effir_dist.core.measures import TRIAL_SECONDS
from effir_dist.runs.records import RungScore


class Screened:
    """The scores below full training of one search, counted."""

    def __init__(self, known: Iterable[RungScore] = ()) -> None:
        """known: those of trials that the search had before."""
        self.count = sum(score.rung == 0 for score in known)
        """Plans that were scored on the lowest rung."""
        self._new: dict[str, list[float]] = {}
        """How far trained -> seconds of each score that no line has told yet."""

    def add(self, score: RungScore, fidelity: str) -> None:
        """One more score. fidelity: how far it is trained, as `untrained` or `25 % trained`."""
        self.count += score.rung == 0
        self._new.setdefault(fidelity, []).append(float(score.values.get(TRIAL_SECONDS) or 0.0))

    @property
    def text(self) -> str:
        """All of them: '12 plans screened'; empty where there are none."""
        return f"{_plans(self.count)} screened" if self.count else ""

    def news(self) -> str:
        """A line for those since the last one: '4 plans screened without training, 9 s'; empty where there are none."""
        told, self._new = self._new, {}
        words = {"untrained": "without training"}
        parts = [f"{_plans(len(s))} screened {words.get(how, how)}, {sum(s):.0f} s" for how, s in told.items()]
        return "; ".join(parts)


def _plans(count: int) -> str:
    return f"{count:,} plan{'' if count == 1 else 's'}"
