"""A measure is one entry of core/measures.py: nothing else in the product knows one by name."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from effir_dist.core import config
from effir_dist.core.errors import InputError
from effir_dist.core.measures import CLOCK, MEASURES, PLAN, Measure
from effir_dist.core.settings import RunConfig
from effir_dist.core.units import PARAMETERS, RATE, RATIO, SECONDS, SHARE, Unit
from effir_dist.export.model_card import _costs
from effir_dist.report import command as report_command
from effir_dist.report.compare import load
from effir_dist.report.frames import load_run
from effir_dist.report.front_plot import front_figure
from effir_dist.report.front_text import front_text
from effir_dist.report.page_data import page_data
from effir_dist.runs.objectives import goal_of
from effir_dist.runs.run_folder import Run
from effir_dist.search import command_line
from tests import ROOT
from tests.synthetic import synthetic_run

PRODUCT = ROOT / "effir_dist"
SOURCES = {
    "core/measures.py",
    "models/facts.py",
    "evaluate/metrics.py",
    "evaluate/scoring.py",
    "evaluate/speed.py",
    "search/trial/costs.py",
    "search/strategy/many_plans.py",
}
"""The entries, and who computes the numbers."""


def names() -> set[str]:
    """Of all measures and of the unpruned model's figures, also on other queries."""
    known = {name for entry in MEASURES.values() for name in (entry.name, entry.unpruned) if name}
    return known | {f"{split}_{name}" for split in ("test", "held_out") for name in known}


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """The literal texts of a module, those of f-strings too, without docstrings; with their lines."""
    tree = ast.parse(path.read_text())
    documentation = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in documentation:
            yield node.lineno, node.value
        elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in ("dict", "assign"):
            yield from ((node.lineno, each.arg) for each in node.keywords if each.arg)


def test_no_module_knows_a_measure_by_name() -> None:
    found = [
        f"{path.relative_to(PRODUCT)}:{line}: {text}"
        for path in sorted(PRODUCT.rglob("*.py"))
        if path.relative_to(PRODUCT).as_posix() not in SOURCES
        for line, text in texts(path)
        if text in names()
    ]
    assert found == [], "ask core/measures.py: QUALITY, SIZE, METRICS, or a property of the entry"


@pytest.mark.parametrize("script", sorted((PRODUCT / "report/page_files").glob("*.js")), ids=lambda path: path.name)
def test_no_script_of_the_page_knows_a_measure_by_name(script: Path) -> None:
    # `parameters` is a plain word too: as a field, or a text of its own, it is the measure.
    several = "|".join(sorted(name for name in names() if "_" in name))
    pattern = rf"\b(?:{several})\b|\.parameters\b|['\"`]parameters['\"`]"
    assert re.findall(pattern, script.read_text()) == []


KILOJOULES = Unit("J", 1, scale=1e-3, suffix=" kJ", axis=(("kJ", 1e3), ("MJ", 1e6)))
ENERGY = Measure(
    "energy_joules",
    "energy of a query",
    PLAN,
    -1,
    KILOJOULES,
    unpruned="full_energy_joules",
    objective=True,
    constraint=True,
    short="energy",
)


@pytest.fixture
def energy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run whose search goes by a measure that only this file knows."""
    monkeypatch.setitem(MEASURES, ENERGY.name, ENERGY)
    search = {
        "search.objectives": [ENERGY.name, "ndcg_at_10"],
        "search.constraints": [f"{ENERGY.name} <= 0.8"],
    }
    full = 5000.0
    more = lambda share: {ENERGY.name: full * share**2, ENERGY.unpruned: full}  # noqa: E731
    return synthetic_run(tmp_path / "energy", 30, search=search, more=more)


def test_a_new_measure_is_read_from_records_and_has_its_front(energy: Run) -> None:
    trials = load_run(energy.folder).trials
    known = {r.trial: r.values[ENERGY.name] for r in energy.results()}
    assert dict(zip(trials["trial"], trials[ENERGY.name], strict=True)) == known
    best = trials[trials["on_front"]].sort_values(ENERGY.name)
    assert len(best) > 1
    assert best["ndcg_at_10"].is_monotonic_increasing
    assert (best[ENERGY.name] <= 0.8 * 5000).all(), "the constraint is a share of the unpruned model's"
    path = energy.trial_folder("0003") / "result.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), ENERGY.name: "little"}))
    with pytest.raises(InputError, match=r"0003/result.json: energy_joules must be a number, 0 or more, got 'little'"):
        energy.results()


def test_a_new_measure_is_an_axis_a_column_and_a_line_of_the_card(energy: Run) -> None:
    frames, goal = load_run(energy.folder), goal_of(energy.config)
    ax = front_figure(frames.trials, "title", goal=goal).axes[0]
    assert ax.get_xlabel() == "energy of a query (kJ)"
    blue = next(line for line in ax.lines if line.get_label() == "Pareto front")
    assert sorted(blue.get_xdata()) == pytest.approx(sorted(frames.front[ENERGY.name] / 1e3))
    shown = front_text(frames.front.assign(run="energy"), goal).splitlines()
    header, lines = " ".join(shown[: -len(frames.front)]), shown[-len(frames.front) :]
    assert "energy of a query" in header
    assert all(ENERGY.text(value) in line for value, line in zip(frames.front[ENERGY.name], lines, strict=True))
    record = energy.result(frames.front["trial"].iloc[0])
    assert f"- energy of a query: {ENERGY.text(record.values[ENERGY.name])}" in _costs(energy, record, {})


def test_a_new_measure_comes_to_the_page_as_data(energy: Run) -> None:
    data = page_data(load([energy]))
    (entry,) = (m for m in data["measures"] if m["name"] == ENERGY.name)
    assert entry["axis"] == {"title": "energy of a query (kJ)", "size": 1e3}
    assert (entry["label"], entry["better"], entry["column"], entry["short"]) == (ENERGY.label, -1, True, "energy")
    assert (entry["unit"]["scale"], entry["unit"]["digits"], entry["unit"]["suffix"]) == (1e-3, 1, " kJ")
    assert {t["values"][ENERGY.name] for t in data["trials"]} == {r.values[ENERGY.name] for r in energy.results()}
    assert data["objectives"][0] == ENERGY.name


@pytest.mark.browser
def test_a_new_measure_is_drawn_and_listed_by_the_page(energy: Run) -> None:
    from tests.browser import chromium, opened

    report_command.main([str(energy.folder)])
    trials = load_run(energy.folder).trials
    address = (energy.report_folder / "report.html").resolve().as_uri()
    with chromium() as browser, opened(browser, address) as seen:
        assert seen.page.locator("#axis").input_value() == ENERGY.name
        assert seen.page.locator("#front-chart .xtitle").text_content() == "energy of a query (kJ)"
        heads = [text.replace("\n", " ") for text in seen.page.locator("#trials th").all_inner_texts()]
        column = seen.column(heads.index("energy of a query (kJ)"))
        assert column == [f"{value / 1e3:.1f}" for value in trials[ENERGY.name]]
        seen.page.fill("#filter", "energy<2.5")
        assert set(seen.column(0)) == set(trials[trials[ENERGY.name] < 2500]["trial"])
        assert "energy of a query" in seen.page.locator("#trial").inner_text()
        assert seen.complaints == []


def test_a_new_measure_is_named_by_errors_and_help(energy: Run) -> None:
    mistaken = [("search.objectives", ["energy_joule", "ndcg_at_10"]), ("search.constraints", ["energy_joule <= 1"])]
    for setting, values in mistaken:
        with pytest.raises(InputError, match=r"unknown .* 'energy_joule'.*; did you mean 'energy_joules'\?"):
            config.replace(RunConfig(), {setting: values})
    with pytest.raises(InputError, match=r"the costs: .*energy_joules"):
        config.replace(RunConfig(), {"search.objectives": ["ndcg_at_10"]})
    assert "energy_joules" in command_line.parser().format_help()


@pytest.mark.parametrize(
    ("unit", "value", "text"),
    [
        (PARAMETERS, 22_713_216, "22,713,216"),
        (SHARE, 0.7279, "72.8 %"),
        (RATIO, 1.4545, "1.45×"),
        (SECONDS, 1234.56, "1,234.6 s"),
        (RATE, 1234.5, "1,234"),
        (RATE, 12.345, "12.3"),
        (SECONDS, None, "-"),
        (SECONDS, float("nan"), "-"),
    ],
)
def test_numbers_with_their_units(unit: Unit, value: float | None, text: str) -> None:
    assert unit.text(value) == text


@pytest.mark.parametrize(
    ("largest", "title"), [(2e7, "parameters (million)"), (7e9, "parameters (billion)"), (9, "parameters (million)")]
)
def test_an_axis_takes_the_unit_that_suits_the_model(largest: float, title: str) -> None:
    assert MEASURES["parameters"].axis_title(largest) == title


def test_an_objective_must_compare_between_machines() -> None:
    with pytest.raises(ValueError, match="an objective is compared with the unpruned model's"):
        Measure("watts", "power", CLOCK, -1, objective=True)
