"""What a user sees while a search runs, with and without a terminal."""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from effir_dist.core import config as config_module
from effir_dist.core.settings import RunConfig
from effir_dist.runs.objectives import Goal
from effir_dist.runs.records import RungScore, TrialRecord
from effir_dist.runs.run_folder import Run
from effir_dist.search.live.steps import Step, steps_of
from effir_dist.search.live.text import duration
from effir_dist.search.live.view import LiveView, console_on
from tests import ROOT, synthetic
from tests.synthetic import FULL


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def record(
    number: int, ndcg: float | None, parameters: int = FULL, dropped: tuple[int, ...] = (), **more: str
) -> TrialRecord:
    reason = "out of\nmemory [cpu]" if ndcg is None else ""
    return synthetic.record(number, ndcg, parameters, dropped, width=0.8, reason=reason, **more)


def view(terminal: bool, total: int = 14, **options: Any) -> tuple[LiveView, io.StringIO, Clock]:
    clock, file = Clock(), io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=80, height=24, color_system=None)
    return LiveView(console, "minilm on pydocs", total, clock=clock, **options), file, clock


def picture(shown: LiveView) -> str:
    file = io.StringIO()
    Console(file=file, width=80, height=24).print(shown.picture())
    return file.getvalue()


def without_head(text: str) -> list[str]:
    """The lines but those that name the columns."""
    return [line for line in text.splitlines() if not re.match(r" +(\* behind a score:|trial plan) ", line)]


def steps() -> tuple[Step, ...]:
    config = config_module.replace(RunConfig(), {"search.trials": 12})
    return steps_of(Run(Path("runs/quickstart")), config, recovers=True)


def searching(shown: LiveView) -> None:
    """The search's own trials have begun."""
    shown.will_do(steps())
    shown.begin("search")


def rung(ndcg: float, parameters: int = FULL) -> RungScore:
    """Untrained, on a part of the data."""
    known = synthetic.record(0, ndcg, parameters)
    return RungScore(0, 0.0, 0.01, known.facts, {**known.values, "total_seconds": 2.0})


def test_screened_plans_are_counted_and_their_scores_are_not_shown() -> None:
    """An easier set: 0.6835 there and 0.6270 after training looked as if training hurt."""
    for terminal in (False, True):
        shown, file, _ = view(terminal)
        searching(shown)
        file.seek(0)
        file.truncate()
        shown.rung_finished("0000", rung(0.6835), "untrained")
        shown.trial_finished(record(0, 0.6270))
        for number in range(9, 13):
            shown.rung_finished(f"{number:04d}", rung(0.5757, FULL // 2), "untrained")
        shown.message("the search ended")
        text = picture(shown) if terminal else file.getvalue()
        assert not re.search(r"6835|5757|[89]\d %", text)
        if terminal:
            assert "1 of 12 trained, 5 plans screened\n" in text
        else:
            lines = without_head(text)
            assert [lines[0], lines[2]] == [
                "        1 plan screened without training, 2 s",
                "        4 plans screened without training, 8 s",
            ]
            assert len(lines) == 4, "two lines for five plans, one for a trial, one for the end"


def test_what_was_screened_is_told_at_the_end_and_once_a_minute() -> None:
    shown, file, clock = view(terminal=False)
    with shown:
        shown.rung_finished("0000", rung(0.5), "untrained")
        assert "screened" not in file.getvalue()
        clock.now = 61.0
        shown.rung_finished("0001", rung(0.5), "untrained")
        assert "2 plans screened without training" in file.getvalue()
        shown.rung_finished("0001", replace(rung(0.5), rung=1), "25 % trained")
    assert file.getvalue().splitlines()[-1] == "        1 plan screened 25 % trained, 2 s"


def test_a_resumed_search_counts_the_plans_screened_before() -> None:
    begun = replace(record(0, 0.6), rungs=(rung(0.8),))
    shown, _, _ = view(terminal=True, known=[begun], stopped=[rung(0.7)])
    searching(shown)
    assert "2 plans screened" in picture(shown)


def test_stages_are_named() -> None:
    staged = [
        record(0, 0.66, stage="base"),
        record(1, 0.6, 18_000_000, (4,)),
        record(2, 0.64, 18_000_000, (4,), stage="recovery", continues="0001"),
    ]
    shown, file, _ = view(terminal=False)
    for each in staged:
        shown.trial_finished(each)
    lines = without_head(file.getvalue())
    assert lines[0].startswith("[ 1/14] 0000  base: none ")
    assert lines[2].startswith("[ 3/14] 0002  recovery of 0001 ")
    text = picture(shown)
    assert "0000 base " in text
    assert "0002 recovery of 0001 " in text
    assert max(map(len, text.splitlines())) <= 80
    assert "\n0001 " not in text, "its full recovery is better"


def test_a_trial_that_ended_without_a_score_is_not_among_those_that_run() -> None:
    shown, _, _ = view(terminal=True)
    shown.trial_started("0007", "unpruned")
    assert "0007" in picture(shown)
    shown.trial_stopped("0007")
    assert "0007" not in picture(shown)


def test_plain_lines_say_what_finished() -> None:
    shown, file, _ = view(terminal=False)
    with shown:
        shown.message("scores of 6 MLPs: 2.1 s [cpu]")
        shown.trial_started("0000", "unpruned")
        shown.trial_progress("0000", {"phase": "train", "step": 1, "steps": 9, "loss": 1.0})
        shown.trial_finished(record(0, 0.66))
        shown.trial_finished(record(1, 0.5821, 18_900_000, (4, 5)))
        shown.trial_finished(record(2, 0.5, 20_000_000, (4,)))
        shown.trial_finished(record(3, None))
    assert file.getvalue().splitlines()[3:6:2] == [
        "        trial plan                     width blocks  total nDCG@10    time  left",
        "[ 2/14] 0001  -2 MLP (4,5)               0.8      -   83 %  0.5821*   40 s    8m",
    ]
    lines = without_head(file.getvalue())
    assert lines[:2] == ["minilm on pydocs: 14 trials", "scores of 6 MLPs: 2.1 s [cpu]"]
    assert "*" not in lines[4]
    assert lines[5] == "[ 4/14] 0003 failed after 40s: out of memory [cpu]"
    assert len(lines) == 6, "one line a trial"
    assert "\x1b" not in file.getvalue()


def test_plain_lines_show_life_once_a_minute() -> None:
    shown, file, clock = view(terminal=False)
    with shown:
        shown.trial_started("0000", "unpruned")
        for second in range(150):
            clock.now = float(second)
            shown.trial_progress("0000", {"phase": "train", "step": second, "steps": 200, "loss": 1.0})
    assert file.getvalue().splitlines()[1:] == [
        "        running 0000 train 60/200 loss 1.000",
        "        running 0000 train 120/200 loss 1.000",
    ]


def test_the_picture_holds_all_a_user_asks_for() -> None:
    shown, _, clock = view(terminal=True)
    for number, (ndcg, parameters) in enumerate([(0.66, FULL), (0.6, 18_000_000), (0.5, 20_000_000), (None, FULL)]):
        shown.trial_finished(record(number, ndcg, parameters, (3, 4) if number else ()))
    shown.repeat_saved()
    shown.trial_started("0004", "-1 MLP, 80 %")
    shown.trial_progress("0004", {"phase": "train", "step": 34, "steps": 120, "loss": 1.25})
    clock.now = 22.0
    text = picture(shown)
    for piece in (
        "4/14 trials, 1 running, 1 failed  22s, 6m of trials left  1 reused",
        "0001   -2 MLP (3,4)    0.8       -   79 %   0.6000       40",
        "hypervolume 0.1",
        "train 34/120 loss 1.250  22s",
        "0003 failed: out of memory [cpu]",
    ):
        assert piece in text
    assert "\n0002" not in text, "dominated"
    assert max(map(len, text.splitlines())) <= 80


def test_the_picture_fits_the_terminal_however_much_there_is() -> None:
    shown, _, _ = view(terminal=True, total=200)
    for number in range(60):
        shown.trial_finished(record(number, 0.6 - number / 200, FULL - number * 100_000, tuple(range(number % 28))))
    shown.trial_finished(record(60, None))
    for number in range(61, 90):
        shown.trial_started(f"{number:04d}", "-3 MLP, 70 %")
    text = picture(shown)
    assert len(text.splitlines()) <= 24
    assert max(map(len, text.splitlines())) <= 80
    assert "more on the front" in text


def test_a_new_phase_forgets_the_steps_of_the_last() -> None:
    shown, _, _ = view(terminal=True)
    shown.trial_started("0000", "unpruned")
    shown.trial_progress("0000", {"phase": "train", "step": 9, "steps": 9, "loss": 1.0})
    shown.trial_progress("0000", {"phase": "score"})
    shown.trial_progress("0099", {"phase": "an orphan of a killed search"})
    assert "score  0s" in picture(shown)


def test_time_left() -> None:
    shown, _, clock = view(terminal=True, total=10)
    assert shown.seconds_left() is None
    shown.trial_started("0000", "")
    shown.trial_started("0001", "")
    shown.trial_finished(record(0, 0.6))
    shown.trial_started("0002", "")
    assert shown.seconds_left() == pytest.approx(9 * 40 / 2), "nine to go, two at a time"
    clock.now = 30.0
    assert shown.seconds_left() == pytest.approx((2 * 10 + 7 * 40) / 2)
    clock.now = 1000.0
    assert shown.seconds_left() == pytest.approx(7 * 40 / 2), "late ones are due any moment"


def test_time_left_is_never_more_than_the_budget() -> None:
    shown, _, clock = view(terminal=True, total=10, time_budget=100.0)
    shown.trial_finished(record(0, 0.6))
    clock.now = 30.0
    assert shown.seconds_left() == pytest.approx(70.0)


def test_a_resumed_search_shows_what_is_known() -> None:
    shown, file, _ = view(terminal=False, known=[record(0, 0.66), record(1, 0.6, 18_000_000)])
    with shown:
        shown.trial_finished(record(2, 0.5, 20_000_000))
    assert file.getvalue().splitlines()[0] == "minilm on pydocs: 14 trials, 2 of them known"
    assert without_head(file.getvalue())[1].startswith("[ 3/14] 0002")


def test_reports_from_threads_while_the_terminal_redraws() -> None:
    shown, file, _ = view(terminal=True, total=200)

    def work(first: int) -> None:
        for number in range(first, first + 25):
            shown.trial_started(f"{number:04d}", "label")
            shown.trial_progress(f"{number:04d}", {"phase": "train"})
            shown.message("a message")
            shown.trial_finished(record(number, 0.5, FULL - number))

    with shown:
        threads = [threading.Thread(target=work, args=(25 * i,), daemon=True) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive(), "reports and redrawing wait for each other"
    assert "200/200 trials" in file.getvalue()


def test_the_cursor_comes_back_after_an_error() -> None:
    shown, file, _ = view(terminal=True)
    with pytest.raises(RuntimeError), shown:
        raise RuntimeError
    assert file.getvalue().rstrip().endswith("\x1b[?25h")


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0s"), (59.6, "1m00s"), (192, "3m12s"), (7500, "2h05m")])
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text
    assert duration(192, coarse=True) == "3m"


def test_nothing_heavy_is_loaded() -> None:
    heavy = {"torch", "ray", "optuna", "pandas"}
    code = f"import sys, effir_dist.search.live.view; print(sorted({heavy} & set(sys.modules)))"
    root = ROOT
    assert subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True).stdout == "[]\n"


def test_prints_that_the_caller_sent_to_a_log_stay_there(capsys: pytest.CaptureFixture[str]) -> None:
    shown, file, _ = view(terminal=True)
    with shown:
        print("a library's warning")
    assert "warning" not in file.getvalue()
    assert capsys.readouterr().out == "a library's warning\n"


def test_it_says_what_happens_now_and_next_and_where_the_page_will_be() -> None:
    shown, _, _ = view(terminal=True)
    searching(shown)
    shown.trial_finished(record(0, 0.66))
    lines = [line.rstrip() for line in picture(shown).splitlines()]
    assert "now  screen plans, train the best: 1 of 12 trained" in lines
    assert "next full recoveries, test scores, the page" in lines
    assert "page runs/quickstart/report/report.html" in lines
    shown.expect_recoveries(2)
    assert "now  full recoveries\n" in picture(shown)
    shown.begin("search")
    assert "now  full recoveries\n" in picture(shown), "it goes on, not back"
    shown.begin("report")
    assert "next" not in picture(shown)


def test_what_is_not_screened_is_not_said_to_be() -> None:
    """Fixed plans are all trained in full, whatever the scheduler."""
    config = config_module.replace(RunConfig(), {"search.trials": 12})
    said = {each.name: each.text for each in steps_of(Run(Path("runs/quickstart")), config, rungs=False)}
    assert said["search"] == "train 12 plans"


def test_plain_lines_name_each_step_once_in_80_columns() -> None:
    shown, file, _ = view(terminal=False)
    searching(shown)
    shown.begin("search")
    shown.begin("test")
    shown.message(f"a long message {'of several words ' * 9}and a path {'/folder' * 15}")
    lines = file.getvalue().splitlines()
    assert lines[0] == "this search will:"
    assert lines[5] == "  5. write the page runs/quickstart/report/report.html"
    assert lines[6:8] == ["step 2 of 5: screen plans, train the best", "step 4 of 5: test scores"]
    assert f"  {'/folder' * 15}" in lines, "a path stays whole"
    assert max(len(line) for line in lines if "/folder" not in line) <= 80


@pytest.mark.parametrize("terminal", [True, False])
def test_other_costs_and_speed_ups_fit_80_columns_too(terminal: bool) -> None:
    speed = {"document_speedup": 12.345, "query_speedup": 10.2, "index_bytes": 1536, "block_parameters_fraction": 0.83}
    goal = Goal(("index_bytes", "document_speedup", "ndcg_at_10"))
    found = synthetic.record(1, 0.55, 18_000_000, range(10, 28), values={**speed, "full_index_bytes": 1536})
    shown, file, _ = view(terminal, total=1000, goal=goal)
    shown.trial_finished(found)
    text = picture(shown) if terminal else file.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    assert all(part in text for part in ("-18 MLP", "83 %", "1,536", "12.35×", "0.5500"))


def test_a_quiet_search_prints_warnings_alone() -> None:
    out, err = io.StringIO(), io.StringIO()
    shown = LiveView(Console(file=out, quiet=True), "minilm on pydocs", 2, warnings=Console(file=err, width=80))
    with shown:
        searching(shown)
        shown.message("starting Ray")
        shown.trial_finished(record(0, 0.66))
        shown.trial_finished(record(1, None))
        shown.warning(f"host a gets no more trials: {'no room ' * 12}")
    assert out.getvalue() == ""
    lines = err.getvalue().splitlines()
    assert lines[0] == "warning: [2/2] 0001 failed after 40s: out of memory [cpu]"
    assert lines[1].startswith("warning: host a gets no more trials: no room")
    assert len(lines) == 2


def drawn(on_terminal: bool, monkeypatch: pytest.MonkeyPatch, **environment: str) -> str:
    """What a search writes to a terminal of 80 columns or to a pipe."""
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"TERM": "xterm-256color", **environment}.items():
        monkeypatch.setenv(name, value)
    reading, writing = os.openpty() if on_terminal else os.pipe()
    with os.fdopen(writing, "w") as screen:
        with LiveView(console_on(screen), "minilm on pydocs", 14) as shown:
            searching(shown)
            shown.trial_finished(record(0, 0.66))
    written = b""
    with contextlib.suppress(OSError):  # what a terminal without a writer says at its end
        while part := os.read(reading, 1 << 16):
            written += part
    os.close(reading)
    text = written.decode()
    assert "0.6600" in text
    return text


COLOUR = re.compile(r"\x1b\[(3[0-8]|9[0-7])[;m]")


def test_colours_are_off_where_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert COLOUR.search(drawn(True, monkeypatch))
    assert not COLOUR.search(drawn(True, monkeypatch, NO_COLOR="1"))
    assert "\x1b" not in drawn(True, monkeypatch, TERM="dumb")
    assert "\x1b" not in drawn(False, monkeypatch)
    assert "\x1b" not in drawn(False, monkeypatch, FORCE_COLOR="1"), "a log holds no moves of the cursor"
