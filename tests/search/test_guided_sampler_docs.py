"""The examples of docs/guides/guided-sampler.md, as they stand there."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from tests import ROOT
from tests.docs import pages
from tests.driven import drive, make_run


@pytest.fixture(scope="module")
def examples() -> list[str]:
    return pages.python(ROOT / "docs" / "guides" / "guided-sampler.md")


def test_the_examples_for_a_study_of_your_own_run(examples: list[str]) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    known: dict[str, Any] = {}
    exec(examples[0], known)
    assert len(known["study"].trials) == 20
    assert len(known["front"]) > 3
    exec(examples[1], known)
    assert max(known["size"](trial.params) for trial in known["study"].trials[2:]) <= 0.8
    exec(examples[2], known)
    states = [trial.state for trial in known["study"].trials]
    assert (states.count(TrialState.PRUNED), states.count(TrialState.COMPLETE)) == (80, 10)


def test_the_sampler_of_ten_lines_searches(
    examples: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = types.ModuleType("my_sampler")
    exec(examples[3], module.__dict__)
    monkeypatch.setitem(sys.modules, "my_sampler", module)
    options = {"search.sampler_options": {"share": 0.7}, "search.trials": 8}
    run = make_run(tmp_path / "run", {"search.sampler": "my_sampler:Copies", **options})
    drive(run)
    assert len(run.results()) == 8
