"""What a user sees while a search runs: one view that redraws itself, or plain lines where there is no terminal."""

from __future__ import annotations

import bisect
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import TextIO

from rich.console import Console, RenderableType
from rich.live import Live

from effir_dist.core.values import Progress
from effir_dist.core.wrapping import WIDTH, wrapped
from effir_dist.runs.front_so_far import FrontSoFar
from effir_dist.runs.objectives import Goal
from effir_dist.runs.records import RungScore, TrialRecord
from effir_dist.runs.stages import stage_text
from effir_dist.search.live.picture import Moment, Running, picture
from effir_dist.search.live.rows import MARK, Rows
from effir_dist.search.live.screened import Screened
from effir_dist.search.live.steps import Name, Step
from effir_dist.search.live.text import duration, progress_text, reason_text, seconds_of

QUIET_SECONDS = 60.0
"""Without a terminal, a line says that running trials go on when nothing was written for so long."""
REDRAW_SECONDS = 0.5


def console_on(screen: TextIO, quiet: bool = False) -> Console:
    """A console that draws and colours where the file is a terminal that can, and not where a variable of the
    environment says so of a file that is none. quiet: it prints nothing."""
    return Console(file=screen, force_terminal=screen.isatty(), quiet=quiet)


class LiveView:
    """Trials, the front so far and the time left. Any thread may report; use as a context manager."""

    def __init__(
        self,
        console: Console,
        title: str,
        total: int,
        *,
        known: Iterable[TrialRecord] = (),
        stopped: Iterable[RungScore] = (),
        time_budget: float = 0.0,
        goal: Goal | None = None,
        warnings: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`known` are the records that a resumed search starts from, `stopped` what trials without one scored;
        `time_budget` in seconds, 0 is none. warnings: where those are printed; None is with all else."""
        self.console, self.title, self.total = console, title, total
        self._records, self._goal = list(known), goal or Goal()
        self._best = FrontSoFar(self._goal, self._records)
        self._times = sorted(seconds_of(record) for record in self._records if _timed(record))
        self._known, self._saved, self._most_running = len(self._records), 0, 1
        self._screened = Screened([*(rung for record in self._records for rung in record.rungs), *stopped])
        self._budget, self._clock = time_budget, clock
        self._started = self._last_line = clock()
        self._running: dict[str, Running] = {}
        self._warnings = warnings or console
        self._rows: Rows | None = None
        self._steps: tuple[Step, ...] = ()
        self._step = 0  # how many have begun
        # Never held while printing: rich takes its own lock, then asks for a picture, which takes this one.
        self._lock = threading.RLock()
        # Rich renders in one moment and writes in another, and erases as much as it rendered last: with a thread of its
        # own that draws, lines of an old picture stayed.
        self._screen, self._ended = threading.Lock(), threading.Event()
        self._redrawing: threading.Thread | None = None
        self._live: Live | None = None
        if console.is_terminal and not console.is_dumb_terminal:
            # What others print goes above the view, unless the caller has already sent it elsewhere.
            above = console.file in (sys.stdout, sys.stderr)
            self._live = Live(
                console=console,
                get_renderable=self.picture,
                auto_refresh=False,
                redirect_stdout=above,
                redirect_stderr=above,
            )

    def __enter__(self) -> LiveView:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def start(self) -> None:
        """Begin to draw; the clock starts here."""
        self._started = self._last_line = self._clock()
        if self._live:
            self._live.start()
            self._redrawing = threading.Thread(target=self._redraw, args=(self._live,), daemon=True)
            self._redrawing.start()
            return
        self._line(f"{self.title}: {self.total} trials" + (f", {self._known} of them known" if self._known else ""))

    def stop(self) -> None:
        """Draw a last time and leave the terminal as it was."""
        if self._live and self._redrawing:
            self._ended.set()
            self._redrawing.join()
            self._live.stop()
        elif not self._live:
            self._tell_screened()

    def _redraw(self, live: Live) -> None:
        while not self._ended.wait(REDRAW_SECONDS):
            with self._screen:
                live.refresh()

    def message(self, text: str) -> None:
        """A line for the user that stays: what the search does before, between and after the trials."""
        self._line(text)

    def warning(self, text: str) -> None:
        """The same of what went wrong."""
        if self._warnings is self.console:
            self._line(text)
        else:
            self._warnings.print(f"warning: {text}", markup=False, highlight=False, soft_wrap=True)

    def will_do(self, steps: tuple[Step, ...]) -> None:
        """What the search does from here on, step by step."""
        with self._lock:
            self._steps, self._step = steps, 0
        if not self._live:
            self._line("\n".join(["this search will:", *(f"  {n}. {each.text}" for n, each in enumerate(steps, 1))]))

    def begin(self, name: Name) -> None:
        """A step begins; one that is not among them, or began before, changes nothing."""
        with self._lock:
            later = [n for n, step in enumerate(self._steps) if step.name == name and n >= self._step]
            if not later:
                return
            self._step = later[0] + 1
            text = f"step {self._step} of {len(self._steps)}: {self._steps[later[0]].brief}"
        if not self._live:
            self._line(text)

    def trial_started(self, trial_id: str, label: str) -> None:
        """A trial runs from now on; `label` says what it tries."""
        with self._lock:
            self._running[trial_id] = Running(label, self._clock())
            self._most_running = max(self._most_running, len(self._running))

    def trial_progress(self, trial_id: str, progress: Progress) -> None:
        """Where a running trial is: any of `phase`, `step`, `steps`, `loss`."""
        with self._lock:
            if trial_id not in self._running:
                return
            running = self._running[trial_id]
            if progress.get("phase", running.progress.get("phase")) != running.progress.get("phase"):
                running.progress = {}
            running.progress.update(progress)
            if self._live or self._clock() - self._last_line < QUIET_SECONDS:
                return
            text = "; ".join(f"{t} {progress_text(r.progress)}" for t, r in self._running.items())
        self._line(f"        running {text}")

    def trial_stopped(self, trial_id: str) -> None:
        """A trial runs no more, and has no score; it may be tried again."""
        with self._lock:
            self._running.pop(trial_id, None)

    def trial_finished(self, record: TrialRecord) -> None:
        """A trial has its record, failed or complete."""
        with self._lock:
            self._running.pop(record.trial, None)
            self._records.append(record)
            self._best.add(record)
            if _timed(record):
                bisect.insort(self._times, seconds_of(record))
            line = "" if self._live else self._finished_text(record)
        if line and record.complete:
            self._tell_screened()
            self._print(line)
        elif line:
            self.warning(line)

    def rung_finished(self, trial_id: str, score: RungScore, fidelity: str) -> None:
        """A trial was scored below full training, and goes on only if it is promoted. fidelity: such as `untrained`.

        One line tells of all of them before the next line, or once a minute.
        """
        with self._lock:
            self._running.pop(trial_id, None)
            self._screened.add(score, fidelity)
        if not self._live and self._clock() - self._last_line >= QUIET_SECONDS:
            self._tell_screened()

    def expect_recoveries(self, more: int) -> None:
        """Full recoveries begin, so many, which the front decides: they come on top of the trials."""
        with self._lock:
            self.total += more
        if more:
            self.begin("recover")

    def repeat_saved(self) -> None:
        """A suggestion equalled a finished trial and was not trained again."""
        with self._lock:
            self._saved += 1

    def seconds_left(self) -> float | None:
        """A median trial's time for what is still to do, spread over the trials that ran at once; None: unknown."""
        with self._lock:
            now = self._clock()
            limit = max(0.0, self._started + self._budget - now) if self._budget else float("inf")
            if not self._times:
                return None
            trial = statistics.median(self._times)
            under_way = [max(0.0, trial - (now - r.started)) for r in self._running.values()]
            waiting = max(0, self.total - len(self._records) - len(under_way))
            slots = max(1, min(self._most_running, waiting + len(under_way)))
            return min(limit, max([(sum(under_way) + waiting * trial) / slots, *under_way]))

    @property
    def _left(self) -> float | None:
        """The same while there is something to do, else None."""
        return self.seconds_left() if len(self._records) < self.total else None

    def _tell_screened(self) -> None:
        with self._lock:
            news = self._screened.news()
        if news:
            self._print(" " * self._count_width + news)

    def _line(self, text: str) -> None:
        if not self._live:
            self._tell_screened()
        self._print(wrapped(text, self.console.width, "  "))

    def _print(self, text: str) -> None:
        self._last_line = self._clock()
        with self._screen:
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    @property
    def _count_width(self) -> int:
        return 2 * len(str(self.total)) + 4

    def _finished_text(self, record: TrialRecord) -> str:
        start = f"[{len(self._records):{len(str(self.total))}d}/{self.total}] "
        if not record.complete:
            stage = stage_text(record.spec.stage, record.spec.continues)
            name = f"{record.trial} {stage}".rstrip()
            return f"{start}{name} failed after {duration(seconds_of(record))}: {reason_text(record)}"
        head = ""
        if self._rows is None or self._rows.count_width != self._count_width:
            self._rows = Rows(self._goal, record, self._count_width, min(self.console.width, WIDTH))
            head = f"{' ' * self._count_width}{MARK} behind a score: on the front so far\n{self._rows.head()}\n"
        return f"{head}{start}{self._rows.line(record, self._on_front(record), self._left)}"

    def _on_front(self, record: TrialRecord) -> bool:
        return record.trial in {r.trial for r in self._goal.front(self._best.records)}

    def picture(self) -> RenderableType:
        """The whole view, not taller than the terminal."""
        with self._lock:
            now = self._clock()
            moment = Moment(
                title=self.title,
                total=self.total,
                records=self._records,
                running=self._running,
                saved=self._saved,
                steps=self._steps[self._step - 1 :] if self._step else (),
                screened=self._screened.text,
                goal=self._goal,
                best=self._best.records,
                now=now,
                spent=now - self._started,
                left=self._left,
            )
            return picture(moment, self.console.width, self.console.height)


def _timed(record: TrialRecord) -> bool:
    """Whether a record tells how long a trial takes."""
    return record.complete and seconds_of(record) > 0
