"""The benchmark of trials that share a GPU, rehearsed with a stand-in for CUDA's multi-process service."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.speed import side_by_side
from benchmarks.speed.frame import Options
from benchmarks.speed.side_by_side import Processes, Trial
from tests.mps import install

REHEARSAL = Options(gpu=True, small=True)


@pytest.mark.slow
def test_trials_run_side_by_side_with_the_service_and_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch)
    cases = side_by_side.gpu_cases(REHEARSAL)["smollm2"]()
    comparison = next(cases)
    assert [*comparison.variants] == ["2 at once, multi-process service", "2 at once, taking turns", "one at a time"]
    assert "started for this search" in comparison.facts["service"]
    losses = {name: variant.run()["loss"] for name, variant in comparison.variants.items()}  # type: ignore[index]
    assert len({round(loss, 4) for loss in losses.values()}) == 1, "equal trials, whoever runs beside them"
    assert comparison.variants["one at a time"].share == 0.5
    assert [*cases] == []


@pytest.mark.slow
def test_a_process_that_fails_is_told_of() -> None:
    with Processes(2, Trial("/nowhere", 4, 2, 8), REHEARSAL) as pool, pytest.raises(RuntimeError, match="/nowhere"):
        pool.run(2)
