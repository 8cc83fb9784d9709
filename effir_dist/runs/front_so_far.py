"""The front of a search while records come in, without a look at all of them for each."""

from __future__ import annotations

from collections.abc import Iterable

from effir_dist.core.measures import MEASURES
from effir_dist.runs.objectives import Goal, best_unpruned, unpruned
from effir_dist.runs.records import TrialRecord


class FrontSoFar:
    """Of all records so far those that decide `Goal.front`, `Goal.hypervolume` and `Goal.kept`: these give the same of
    the few as of all. The few are the front, the first and the best unpruned model, and who holds the largest unpruned
    cost."""

    def __init__(self, goal: Goal, records: Iterable[TrialRecord] = ()) -> None:
        self.goal, self._all = goal, list(records)
        self.records = self._deciding(self._all)
        """In the order in which they came."""

    def add(self, record: TrialRecord) -> None:
        """One more record has come."""
        self._all.append(record)
        if not record.complete:
            return
        # A repeat changes its trial's mean, and the baseline who is feasible: any other may then be on the front. A
        # full recovery is held against its trial, which may be off the front.
        first = unpruned(self.records) is None and unpruned([record])
        changes = record.spec.repeat_of or record.spec.continues or first
        self.records = self._deciding(self._all if changes else [*self.records, record])

    def _deciding(self, records: list[TrialRecord]) -> list[TrialRecord]:
        scored = self.goal.scored(records)
        chosen = {r.trial for r in self.goal.front(scored)}
        chosen |= {r.trial for r in (unpruned(scored), best_unpruned(scored)) if r}
        for field in {MEASURES[name].unpruned for name in self.goal.objectives} - {""}:
            chosen |= {max(scored, key=lambda r: r.values.get(field) or 0).trial} if scored else set()
        return [r for r in scored if r.trial in chosen]
