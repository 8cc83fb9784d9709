"""The page in a real browser: what a user sees, chooses and prints, and what a hostile record cannot do."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from effir_dist.report import command as report_command
from tests.browser import PHONE, chromium, opened
from tests.report.test_report import staged
from tests.synthetic import synthetic_run

HOSTILE = "</script><img src=x onerror=alert(1)><b>bold</b>'\"&amp;<svg onload=alert(2)>"
FRONT = 3
"""The trace of the front's plot that holds the front."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


def written(folder: Path, count: int, **options: Any) -> str:
    """The address of the page of a synthetic run."""
    run = synthetic_run(folder, count, **options)
    report_command.main([str(run.folder)])
    return (run.report_folder / "report.html").resolve().as_uri()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    return written(tmp_path_factory.mktemp("runs") / "demo", 30, failed=(4, 11))


@pytest.fixture(scope="module")
def trials(address: str) -> pd.DataFrame:
    """trials.csv of the same run."""
    path = Path(address.removeprefix("file://")).with_name("trials.csv")
    return pd.read_csv(path, dtype={"trial": str}, keep_default_na=True).set_index("trial", drop=False)


pytestmark = pytest.mark.browser


def test_it_draws_itself_without_a_complaint_or_a_request(browser: Any, address: str) -> None:
    with opened(browser, address) as seen:
        assert seen.page.locator(".js-plotly-plot .scatterlayer .trace").count() > 3
        seen.page.wait_for_timeout(300)
        assert seen.complaints == []
        assert seen.requests == [address]
        assert seen.page.title() == "demo: report of a search"


def test_trials_beside_those_asked_for_are_counted_apart(browser: Any, tmp_path: Path) -> None:
    run = staged(tmp_path / "demo")
    report_command.main([str(run.folder)])
    with opened(browser, (run.report_folder / "report.html").resolve().as_uri()) as seen:
        wanted = run.config["search"]["trials"]
        parts = str(seen.page.locator("#subtitle").inner_text()).split(" · ")
        assert parts[1:4] == [f"2 of {wanted} trials", "1 base", "2 full recoveries"]


def test_the_table_shows_the_numbers_of_the_csv(browser: Any, address: str, trials: pd.DataFrame) -> None:
    def shown(values: pd.Series, form: str, factor: float = 1.0) -> list[str]:
        return ["–" if pd.isna(v) else form.format(v * factor).replace("-", "−") for v in values]

    with opened(browser, address) as seen:
        assert seen.column(0) == list(trials["trial"])
        assert seen.column(1) == shown(trials["block_parameters_fraction"], "{:.1f}", 100)
        assert seen.column(2) == shown(trials["parameters_fraction"], "{:.1f}", 100)
        assert seen.column(3) == shown(trials["parameters"], "{:,.0f}")
        assert seen.column(4) == shown(trials["ndcg_at_10"], "{:.4f}")
        differences = [text.replace("+", "") for text in seen.column(5)]
        assert differences == shown(trials["ndcg_at_10_difference"], "{:.4f}")
        assert seen.column(6) == shown(trials["test_ndcg_at_10"], "{:.4f}")
        assert seen.column(7) == [t.replace(",", ", ") if isinstance(t, str) else "none" for t in trials["dropped_mlp"]]


def test_the_points_are_those_of_the_csv(browser: Any, address: str, trials: pd.DataFrame) -> None:
    with opened(browser, address) as seen:
        drawn = seen.page.evaluate(
            "n => { const t = document.getElementById('front-chart').data[n];"
            " return [t.x, t.y, t.error_y.array, t.error_y.arrayminus].map(a => [...a]) }",
            FRONT,
        )
        best = trials[trials["on_front"]].sort_values("parameters")
        assert drawn[0] == pytest.approx(list(best["block_parameters"] / 1e6))
        assert drawn[1] == pytest.approx(list(best["ndcg_at_10"]))
        assert drawn[2] == pytest.approx(list(best["ndcg_at_10_high"] - best["ndcg_at_10"]))
        assert drawn[3] == pytest.approx(list(best["ndcg_at_10"] - best["ndcg_at_10_low"]))
        behind = seen.page.evaluate("document.getElementById('front-chart').data[0].x.length")
        assert behind == (trials["state"] == "complete").sum() - len(best)


def test_hovering_shows_the_plan_and_a_click_selects(browser: Any, address: str, trials: pd.DataFrame) -> None:
    with opened(browser, address) as seen:
        smallest = trials[trials["on_front"]].sort_values("parameters").iloc[0]
        place = seen.over(seen.points(FRONT).nth(0))
        seen.page.mouse.move(*place)
        seen.page.wait_for_selector("#front-chart .hoverlayer .hovertext")
        text = seen.page.locator("#front-chart .hoverlayer").text_content()
        assert text.startswith(f"{smallest['trial']}without MLPs {smallest['dropped_mlp'].replace(',', ', ')}"[:24])
        assert f"nDCG@10 {smallest['ndcg_at_10']:.4f}" in text
        assert seen.trial != f"Trial {smallest['trial']}"
        seen.page.mouse.click(*place)
        assert seen.trial == f"Trial {smallest['trial']}"
        assert seen.page.locator("#trials tr.selected td").first.inner_text() == smallest["trial"]
        panel = seen.page.locator("#trial").inner_text()
        assert f"{smallest['parameters']:,}" in panel
        folder = Path(address.removeprefix("file://")).parents[1]
        assert f"python -m effir_dist.export {folder} --trial {smallest['trial']} " in panel
        dropped = len(smallest["dropped_mlp"].split(","))
        assert seen.page.locator("#trial .blocks title", has_text="MLP dropped").count() == dropped


def test_the_selected_trial_has_its_paired_intervals(browser: Any, address: str) -> None:
    scores = pd.read_csv(Path(address.removeprefix("file://")).with_name("scores.csv"), dtype={"trial": str})
    with opened(browser, address) as seen:
        seen.page.locator("#trials tbody tr[data-id='0/0002']").click()
        shown = [row.split("\t") for row in seen.page.locator("#trial table").inner_text().splitlines()[1:]]
        own = scores[(scores["trial"] == "0002") & (scores["split"] == "search")].set_index("dataset")
        for name, queries, documents, score, difference in shown[:3]:
            row = own.loc[name.replace("mean", "*")]
            assert int(queries) == row["queries"]
            assert documents == f"{row['documents']:,} of {row['all_documents']:,}"
            assert score == f"{row['ndcg_at_10']:.4f}"
            bounds = f"{row['difference']:+.3f} [{row['difference_low']:+.3f}, {row['difference_high']:+.3f}]"
            assert difference == bounds.replace("-", "−")
        assert [row[0] for row in shown[:3]] == ["mean", "fiqa", "scifact"]
        header = seen.page.locator("#scored-on").inner_text()
        assert header.startswith("nDCG@10 is measured on: ")
        assert f"fiqa {own.loc['fiqa', 'queries']} queries, 1,000 of 5,000 documents" in header


def test_the_smallest_safe_model_is_selected_named_and_judged(browser: Any, tmp_path: Path) -> None:
    """The selection at first, its tile, its badge and the sentence on luck, all from the same statement."""
    page = Path(written(tmp_path / "demo", 30, queries=160, seed=3).removeprefix("file://"))
    front = pd.read_csv(page.with_name("front.csv"), dtype={"trial": str})
    safe = front[front["smallest_safe"]].iloc[0]
    with opened(browser, page.as_uri()) as seen:
        assert seen.trial == f"Trial {safe['trial']}"
        share = f"blocks {100 * safe['block_parameters_fraction']:.0f} %"
        assert share in seen.page.locator("#tiles").inner_text()
        assert f"Smallest safe model: {safe['trial']}, {share}" in seen.page.locator("#safety").inner_text()
        assert "one of many may pass by luck" in seen.page.locator("#safety").inner_text()
        assert "smallest safe" in seen.page.locator("#trial .badges").inner_text()
        difference = f"{safe['safe_difference']:+.3f}".replace("-", "−")
        assert difference in seen.page.locator("#trial .figures").first.inner_text()
        assert seen.page.locator("#axis").input_value() == "block_parameters"
        assert seen.complaints == []


def test_another_cost_draws_another_front(browser: Any, address: str, trials: pd.DataFrame) -> None:
    with opened(browser, address) as seen:
        seen.page.select_option("#axis", "documents_per_second")
        assert seen.page.locator("#front-chart .xtitle").text_content() == "documents encoded per second"
        xs = seen.page.evaluate("n => [...document.getElementById('front-chart').data[n].x]", FRONT)
        done = trials[trials["state"] == "complete"]
        faster_and_better = [
            ((done["documents_per_second"] >= t.documents_per_second) & (done["ndcg_at_10"] > t.ndcg_at_10)).any()
            for t in done.itertuples()
        ]
        assert sorted(xs) == pytest.approx(sorted(done["documents_per_second"][[not b for b in faster_and_better]]))
        assert seen.complaints == []


def test_the_table_sorts_and_filters(browser: Any, address: str, trials: pd.DataFrame) -> None:
    with opened(browser, address) as seen:
        seen.page.locator("#trials th button", has_text="nDCG@10").click()
        expected = trials.dropna(subset="ndcg_at_10").sort_values("ndcg_at_10", ascending=False)["trial"]
        assert seen.column(0)[: len(expected)] == list(expected)
        seen.page.locator("#trials th button", has_text="nDCG@10").click()
        assert seen.column(0)[0] == expected.iloc[-1]
        assert seen.column(0)[-2:] == ["0004", "0011"], "what has no score comes last"
        seen.page.fill("#filter", "share<80 ndcg >= 0.3")
        kept = trials[(trials["parameters_fraction"] < 0.8) & (trials["ndcg_at_10"] >= 0.3)]
        assert set(seen.column(0)) == set(kept["trial"])
        seen.page.fill("#filter", "front")
        assert set(seen.column(0)) == set(trials[trials["on_front"]]["trial"])
        seen.page.fill("#filter", "out of memory")
        assert set(seen.column(0)) == {"0004", "0011"}
        seen.page.fill("#filter", "nonsense<3")
        assert len(seen.column(0)) == 30
        assert "No column has that name" in seen.page.locator("#shown").inner_text()


FOCUSED = "[document.activeElement.tagName, document.activeElement.innerText.split(/\\s/)[0]]"


def test_the_keyboard_alone_reaches_sorts_and_selects(browser: Any, address: str, trials: pd.DataFrame) -> None:
    """Each stop of the tab key shows where it is, rows are one stop behind their heads, no press loses the place."""

    def tab(seen: Any) -> list[str]:
        seen.page.keyboard.press("Tab")
        ring = "(() => { const e = document.activeElement, s = getComputedStyle(e.cells ? e.cells[0] : e);"
        ring += " return s.outlineStyle !== 'none' || s.boxShadow !== 'none' })()"
        assert seen.page.evaluate(ring), "the place of the keyboard is seen"
        return list(seen.page.evaluate(FOCUSED))

    with opened(browser, address) as seen:
        stops = [tab(seen)]
        while stops[-1][0] != "TR":
            stops.append(tab(seen))
            assert len(stops) < 60, stops
        assert ["BUTTON", "nDCG@10"] in stops
        assert f"Trial {stops[-1][1]}" == seen.trial, "it stops at the selected row"
        seen.page.keyboard.press("Tab")
        assert seen.page.evaluate(FOCUSED)[0] != "TR", "and at no other"
        seen.page.locator("#trials tbody tr[tabindex='0']").focus()
        seen.page.keyboard.press("Home")
        seen.page.keyboard.press("ArrowDown")
        assert seen.page.evaluate(FOCUSED) == ["TR", "0001"]
        seen.page.keyboard.press(" ")
        assert seen.trial == "Trial 0001"
        assert seen.page.locator("#trials tr[aria-current]").all_inner_texts()[0].startswith("0001")
        seen.page.locator("#trials th button", has_text="nDCG@10").focus()
        for best in (True, False):
            seen.page.keyboard.press("Enter")
            scores = trials["ndcg_at_10"].dropna().sort_values(ascending=not best)
            assert seen.column(0)[0] == scores.index[0]
            assert seen.page.evaluate(FOCUSED) == ["BUTTON", "nDCG@10"]
        seen.page.locator("#plans button.plan").nth(1).focus()
        seen.page.keyboard.press("Enter")
        assert f"Trial {seen.page.evaluate(FOCUSED)[1]}" == seen.trial
        assert seen.complaints == []


def test_failed_trials_are_told_with_their_reasons(browser: Any, address: str) -> None:
    with opened(browser, address) as seen:
        text = seen.page.locator("#failed").inner_text()
        assert "Failed trials (2)" in text
        assert text.count("out of memory at a peak of 22.4 GiB") == 2


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of a run whose every free text is an attack."""
    folder = tmp_path_factory.mktemp("runs") / "a<img src=x onerror=alert(3)>b"
    run = synthetic_run(folder, 12, failed=(3,), paths=(HOSTILE.replace("/", "\\"),), datasets=(HOSTILE, "fiqa"))
    for trial in ("0001", "0003"):
        path = run.trial_folder(trial) / "result.json"
        tree = json.loads(path.read_text())
        tree["suggested"][f"train.{HOSTILE}"] = HOSTILE
        tree["distributions"][f"train.{HOSTILE}"] = json.dumps(
            {"name": "CategoricalDistribution", "attributes": {"choices": [HOSTILE]}}
        )
        path.write_text(json.dumps({**tree, "reason": HOSTILE, "host": HOSTILE}))
    run.write_config(run.config, {"command": HOSTILE})
    report_command.main([str(run.folder)])
    return (run.report_folder / "report.html").resolve().as_uri()


def test_hostile_texts_are_shown_and_do_not_run(browser: Any, hostile: str) -> None:
    with opened(browser, hostile) as seen:
        seen.page.locator("#trials tbody tr[data-id='0/0003']").click()
        assert HOSTILE in seen.page.locator("#trial").inner_text()
        assert HOSTILE in seen.page.locator("#failed").inner_text()
        assert HOSTILE in seen.page.locator("#footer").inner_text()
        seen.page.locator("#trials tbody tr[data-id='0/0001']").click()
        assert HOSTILE in seen.page.locator("#trial table").inner_text()
        for trial in range(3):
            seen.page.mouse.move(*seen.over(seen.points(FRONT).nth(trial)))
            seen.page.wait_for_timeout(100)
        assert seen.page.locator("img, b b, body svg[onload]").count() == 0
        assert seen.complaints == []
        assert seen.requests == [hostile]


def test_a_script_that_slipped_in_would_not_start(browser: Any, address: str, tmp_path: Path) -> None:
    page = Path(address.removeprefix("file://")).read_text()
    slipped = "<main><img src=x onerror=alert(1)><script>alert(2)</script>"
    (tmp_path / "page.html").write_text(page.replace("<main>", slipped))
    with opened(browser, (tmp_path / "page.html").as_uri()) as seen:
        assert all("Content Security Policy" in complaint for complaint in seen.complaints)
        assert len(seen.complaints) >= 2


def test_a_thousand_trials_stay_fluid(browser: Any, tmp_path: Path) -> None:
    """Generous: the machine may be busy. What is quadratic, or redraws a thousand rows a click, takes longer."""

    def seconds(action: Callable[[], Any]) -> float:
        start = time.perf_counter()
        action()
        return time.perf_counter() - start

    address = written(tmp_path / "big", 1000, queries=10)
    start = time.perf_counter()
    with opened(browser, address) as seen:
        assert time.perf_counter() - start < 30
        assert len(seen.column(0)) == 1000
        rows = seen.page.locator("#trials tbody tr")
        assert seconds(lambda: rows.nth(5).click()) < 3
        assert seconds(lambda: seen.page.select_option("#axis", "train_seconds")) < 6
        assert seconds(lambda: seen.page.locator("#trials th button").nth(3).click()) < 6
        assert seconds(lambda: seen.page.fill("#filter", "ndcg>0.5")) < 3
        assert seconds(lambda: seen.page.mouse.move(*seen.over(seen.points(FRONT).nth(2)))) < 3
        assert seen.complaints == []


@pytest.mark.parametrize("blocks", [6, 48])
def test_a_phone_scrolls_in_one_direction(browser: Any, tmp_path: Path, blocks: int) -> None:
    address = written(tmp_path / "a-run-with-quite-a-long-name-for-a-phone", 16, blocks=blocks, failed=(3,))
    with opened(browser, address, **PHONE) as seen:
        assert seen.page.evaluate("document.documentElement.scrollWidth") == 390
        hidden = "(box => box.scrollWidth - box.clientWidth)(document.querySelector('#trial .scroll'))"
        assert seen.page.evaluate(hidden) <= 0, "the differences by data set are seen without scrolling"
        seen.page.locator("#plans button").nth(1).tap()
        seen.page.locator("#failed button").first.tap()
        assert seen.trial == "Trial 0003"
        assert seen.page.evaluate("document.documentElement.scrollWidth") == 390
        assert seen.complaints == []


def test_on_paper_it_has_all_but_the_controls(browser: Any, address: str) -> None:
    with opened(browser, address, viewport={"width": 718, "height": 1000}) as seen:
        seen.page.emulate_media(media="print")
        parts = ("#tiles", "#front-chart .scatterlayer", "#trial .blocks", "#plan-rows", "#failed", "#trials tbody tr")
        assert [part for part in parts if not seen.page.locator(part).first.is_visible()] == []
        assert not seen.page.locator("#axis").is_visible()
        assert not seen.page.locator("#filter").is_visible()
        assert seen.page.evaluate("document.documentElement.scrollWidth") <= 718
        assert seen.page.pdf(format="A4").count(b"/Type /Page\n") >= 2


def test_two_runs_are_shown_as_one_front(browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("one", "two")):
        synthetic_run(tmp_path / name, 20, seed=seed)
    report_command.main(["one", "two", "--out", "both"])
    table = pd.read_csv("both/front.csv", dtype={"trial": str})
    with opened(browser, (tmp_path / "both" / "report.html").as_uri()) as seen:
        ids = seen.page.evaluate("n => document.getElementById('front-chart').data[n].customdata", FRONT)
        names = ["one", "two"]
        expected = [f"{names.index(run)}/{trial}" for run, trial in zip(table["run"], table["trial"], strict=True)]
        assert sorted(ids) == sorted(expected)
        rows = seen.page.locator("#runs tbody tr").all_inner_texts()
        assert [row.split("\t")[0] for row in rows] == names
        counts = [sum(i.startswith(f"{n}/") for i in ids) for n in (0, 1)]
        assert [row.split("\t")[4] for row in rows] == [f"{count} of {len(ids)}" for count in counts]
        assert seen.complaints == []


def test_three_objectives_are_said_and_a_constraint_keeps_trials_off_the_front(browser: Any, tmp_path: Path) -> None:
    goal = {
        "search.objectives": ["document_speedup", "index_bytes", "ndcg_at_10"],
        "search.constraints": ["parameters <= 0.7"],
    }
    address = written(tmp_path / "three", 40, search=goal)
    trials = pd.read_csv(tmp_path / "three/report/trials.csv", dtype={"trial": str}).set_index("trial")
    with opened(browser, address) as seen:
        assert seen.page.locator("#axis").input_value() == "document_speedup"
        note = seen.page.locator("#front-note").inner_text()
        assert "three objectives (document speed-up, index bytes, nDCG@10)" in note
        assert "Only trials with parameters <= 0.7 can be on a front." in note
        seen.page.locator("#filter").fill("front")
        drawn = trials.loc[seen.column(0)]
        assert len(drawn) > 1
        assert (drawn["parameters_fraction"] <= 0.7).all()
        assert seen.complaints == []
    assert trials.loc[trials["on_front"], "feasible"].all()
