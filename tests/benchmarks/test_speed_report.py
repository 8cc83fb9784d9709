"""reports/speed.md: what it makes of rows, and that it is made of the files beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.speed import frame, report
from effir_dist.core.files import write_json_atomic
from tests import ROOT

MACHINE = {
    "cpu": "AMD EPYC",
    "matrix_units": ["avx2"],
    "versions": {"torch": "2"},
    "cores": 2,
    "threads": 1,
    "python": "3",
}
RUN = {"command": "a command", "date": "2026-11-29 03:00 UTC", "commit": "", "load": 0.5}


def row(subject: str, name: str, rates: dict[str, float], **changes: Any) -> dict[str, Any]:
    """A row in which every round went alike; the first of `rates` is ours."""
    ours, *others = rates
    nothing = frame.failed_row(subject, name, "")
    return nothing | {
        "ours": ours,
        "unit": "texts",
        "variants": {
            each: {"per_second": rate, "numbers": {}, "first_seconds": 9.0, "seconds": [8.0]}
            for each, rate in rates.items()
        },
        "ratios": {each: [rates[ours] / rates[each]] * 3 for each in others},
        "failed": {},
        "run": RUN,
        **changes,
    }


def rendered(folder: Path, *rows: dict[str, Any], name: str = "cpu") -> str:
    write_json_atomic(folder / f"{name}.json", {"machine": MACHINE, "rows": list(rows)})
    return report.render(folder)


def test_the_fastest_way_of_a_peer_counts_and_a_goal_that_is_missed_is_told(tmp_path: Path) -> None:
    rates = {"ours": 30.0, "sentence-transformers, its defaults": 10.0, "sentence-transformers, batches of 8": 25.0}
    goals = {"sentence-transformers, its defaults": 2.0, "sentence-transformers, batches of 8": 1.5}
    facts = {"left out": ["onnxruntime, float32: left out, as the package onnxruntime is not installed"]}
    named = {"goals": goals, "facts": facts}
    text = rendered(tmp_path, row("encoding", "minilm", rates | {"OpenVINO, bfloat16": 20.0}, **named))
    cells = ["1.20 [1.20,\u00a01.20], goal 1.5<br>batches of 8: 25/s", "**1.50** [1.50,\u00a01.50]<br>bfloat16: 20/s"]
    assert f"| minilm | EPYC, avx2 | {' | '.join(cells)} | 30\u00a0texts/s |" in text
    assert "| encoding, against the fastest peer | 1.20 |" in text
    assert "- on EPYC, avx2: onnxruntime, float32 (left out, as the package onnxruntime is not installed)" in text


def test_plans_of_a_model_stand_beside_each_other(tmp_path: Path) -> None:
    plans = {"every second MLP dropped": 0.9, "all MLPs at half width": 1.0}
    rows = [
        row("pruned", f"tiny, {plan}, bfloat16, 8 documents of 256 tokens", {"pruned": reached, "unpruned": 1.0})
        | {"goals": {"unpruned": 0.95}, "facts": {"promised speed-up": 1.5}}
        for plan, reached in plans.items()
    ]
    found = "0.90 of 1.5<br>[0.90,\u00a00.90] | **1.00** of 1.5<br>[1.00,\u00a01.00]"
    assert f"| tiny, bfloat16, 8 documents of 256 tokens | EPYC, avx2 | {found} |" in rendered(tmp_path, *rows)


def test_memory_is_predicted_by_found(tmp_path: Path) -> None:
    measured = row("memory", "tiny", {"measured": 2.0}, facts={"predicted_bytes": 3e9})
    measured["variants"]["measured"]["numbers"] = {"bytes": 2e9, "reserved_bytes": 2.5e9}
    text = rendered(tmp_path, measured)
    assert "| tiny | EPYC, avx2 | **1.50** | 3.00 GB | 2.00 GB | 2.50 GB | 2\u00a0texts/s |" in text


def test_what_did_not_run_is_told_once_for_each_reason(tmp_path: Path) -> None:
    failed = {"faiss": "ImportError: no such package"}
    rows = [row("search", name, {"ours": 1.0}, failed=failed) for name in ("few", "many")]
    rows += [frame.failed_row("search", name, "not begun") | {"run": RUN} for name in ("on disk", "in a bucket")]
    text = rendered(tmp_path, *rows)
    assert "- on EPYC, avx2: faiss (ImportError: no such package)\n" in text
    assert "- on EPYC, avx2: on disk; in a bucket (not begun)\n" in text


def test_two_machines_alike_are_told_apart_by_their_files(tmp_path: Path) -> None:
    rendered(tmp_path, row("sizes", "tiny", {"ours": 1.0, "matrix product": 2.0}), name="cpu-old")
    text = rendered(tmp_path, row("sizes", "tiny", {"ours": 1.6, "matrix product": 2.0}))
    assert "| tiny | **0.50**, 1\u00a0texts/s | **0.80**, 1.6\u00a0texts/s |" in text
    assert "| EPYC, avx2 (cpu-old) | AMD EPYC, 1 of 2 cores used" in text


def test_a_subject_without_a_section_of_its_own_is_shown(tmp_path: Path) -> None:
    text = rendered(
        tmp_path, row("new_thing", "tiny", {"ours": 4.0, "theirs": 2.0}, facts={"a_number": 7, "most_bytes": 2.5e9})
    )
    assert "## New thing" in text
    assert "| tiny | EPYC, avx2 | **2.00** [2.00,\u00a02.00] x theirs<br>a number: 7<br>most bytes: 2.50 GB |" in text


def test_the_report_is_made_of_the_files_beside_it() -> None:
    assert (ROOT / "reports" / "speed.md").read_text() == report.render(ROOT / "reports" / "speed")
