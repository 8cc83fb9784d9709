"""The examples of docs/contributing/extending.md, as they stand there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from effir_dist.core import measures
from effir_dist.models.families.base import Family
from tests import ROOT
from tests.docs import pages
from tests.models import test_families, test_pruning
from tests.tiny import registered, tiny_checkpoint

FAMILY, MEASURE = pages.python(ROOT / "docs" / "contributing" / "extending.md")


def test_the_family_of_the_page_prunes_and_is_counted(tmp_path: Path) -> None:
    known: dict[str, Any] = {}
    exec(FAMILY, known)
    row: Family = known["FAMILY"]
    with registered(row):
        paths = {row.model_type: tiny_checkpoint(tmp_path, row.model_type)}
        test_pruning.test_the_formula_counts_the_real_model(row.model_type, paths)
        test_pruning.test_narrowed_equals_masked_neurons(row.model_type, paths)
        test_families.test_the_surgery_computes_a_block_as_transformers_does(row.model_type, paths)


def test_the_measure_of_the_page_may_be_an_objective_and_a_constraint(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = eval(MEASURE, vars(measures).copy())
    monkeypatch.setitem(measures.MEASURES, entry.name, entry)
    measures.check_objectives((entry.name, measures.QUALITY))
    constraint = measures.parse_constraint(f"{entry.name} <= 0.5")
    values = {entry.name: 60.0, entry.unpruned: 100.0}
    assert constraint.violation(values, {}) == pytest.approx(0.1)
