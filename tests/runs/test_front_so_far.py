"""The front of a search while records come in is the front of all of them."""

from __future__ import annotations

import random

import pytest

from effir_dist.core.measures import parse_constraint
from effir_dist.runs.front_so_far import FrontSoFar
from effir_dist.runs.objectives import Goal
from effir_dist.runs.records import TrialRecord
from tests.synthetic import FULL, record

GOALS = {
    "two": Goal(),
    "constrained": Goal(constraints=(parse_constraint("ndcg_at_10 >= 0.7"), parse_constraint("parameters <= 0.9"))),
    "three": Goal(("parameters", "document_speedup", "ndcg_at_10")),
}


def made_up_records(seed: int) -> list[TrialRecord]:
    """A search of few values, so that ties come: failed trials, the unpruned model late and twice, repeats, and full
    recoveries, of which some are worse than what they continue, or measured to be slower."""
    chance, found = random.Random(seed), list[TrialRecord]()
    for number in range(60):
        unpruned, best = number in (20, 40), [r.trial for r in Goal().front(found) if not r.spec.repeat_of]
        size = FULL if unpruned else chance.randrange(1, 12) * FULL // 12
        quality = None if chance.random() < 0.1 else chance.randrange(1, 9) / 10 * (size / FULL) ** 0.5
        repeated = chance.choice(best) if not unpruned and len(best) > 1 and chance.random() < 0.3 else ""
        speed = {"document_speedup": FULL / size + chance.randrange(2)}
        more = {"stage": "recovery", "continues": chance.choice(best)} if number > 40 and number % 3 == 0 else {}
        more = more or {"repeat_of": repeated}
        found.append(record(number, 0.9 if unpruned else quality, size, values=speed, **more))
    return found


@pytest.mark.parametrize("goal", GOALS.values(), ids=GOALS)
@pytest.mark.parametrize("seed", range(4))
def test_front_hypervolume_and_kept_models_are_those_of_all_records(seed: int, goal: Goal) -> None:
    records = made_up_records(seed)
    so_far, fewest = FrontSoFar(goal, records[:10]), 60
    for count in range(10, len(records)):
        so_far.add(records[count])
        seen, few = records[: count + 1], so_far.records
        assert goal.front(few) == goal.front(seen)
        assert goal.hypervolume(few) == pytest.approx(goal.hypervolume(seen), abs=1e-12)
        assert goal.kept(few) == goal.kept(seen)
        fewest = min(fewest, len(few))
    assert fewest < 10
    assert any(r.seeds > 1 for r in goal.scored(records))
