"""The page of a search that goes on: on 127.0.0.1 alone, up to date, and keeping what its reader chose."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from effir_dist.core.errors import InputError
from effir_dist.report import command as report_command
from effir_dist.report import serve
from effir_dist.runs.run_folder import Run
from tests.browser import chromium, opened
from tests.synthetic import synthetic_run


@contextmanager
def serving(*runs: Run) -> Iterator[int]:
    """The port of a server of the runs' page."""
    with serve.make_server(list(runs), 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def get(port: int, path: str, host: str | None = None) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request("GET", path, headers={"Host": host or f"127.0.0.1:{port}"})
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return synthetic_run(tmp_path / "demo", 8, failed=(4,))


@pytest.fixture(autouse=True)
def _look_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "DISK_SECONDS", 0.0)


def add_trial(run: Run, other: Run, trial: str) -> None:
    """A trial of another run, finished in this one."""
    run.write_spec(other.result(trial).spec)
    run.queries_path(trial).write_bytes(other.queries_path(trial).read_bytes())
    run.write_result(other.result(trial))


def test_data_is_sent_again_only_when_a_run_has_changed(run: Run, tmp_path: Path) -> None:
    other = synthetic_run(tmp_path / "other", 10)
    with serving(run) as port:
        first = json.loads(get(port, "/data.json")[1])
        assert len(first["trials"]) == 8
        assert get(port, f"/data.json?known={first['stamp']}") == (204, "")
        add_trial(run, other, "0009")
        status, text = get(port, f"/data.json?known={first['stamp']}")
        assert (status, len(json.loads(text)["trials"])) == (200, 9)


def test_a_page_that_is_written_never_asks_and_one_that_is_served_asks_home_alone(run: Run) -> None:
    report_command.main([str(run.folder)])
    assert "connect-src 'none'" in (run.report_folder / "report.html").read_text()
    with serving(run) as port:
        assert "connect-src 'self'" in get(port, "/")[1]


def test_only_this_machine_may_ask_and_only_for_the_page(run: Run) -> None:
    with serving(run) as port:
        assert get(port, "/", host=f"localhost:{port}")[0] == 200
        assert get(port, "/", host="evil.example")[0] == 403, "a name of somebody else's that leads here"
        assert get(port, "/../config.yaml")[0] == 404
        assert get(port, "/config.yaml")[0] == 404


def test_what_is_wrong_with_a_record_is_said_and_forgotten_once_it_is_right(run: Run) -> None:
    path = run.trial_folder("0002") / "result.json"
    right = path.read_text()
    with serving(run) as port:
        path.write_text(right.replace('"complete"', '"finished"'))
        status, text = get(port, "/data.json")
        assert status == 500
        assert "0002/result.json: state must be 'complete' or 'failed', got 'finished'" in text
        path.write_text(right)
        assert get(port, "/data.json")[0] == 200


def test_a_port_that_is_taken(run: Run) -> None:
    with serving(run) as port, pytest.raises(InputError, match=f"cannot serve on 127.0.0.1:{port} .*another --port"):
        report_command.main([str(run.folder), "--serve", "--port", str(port)])


@pytest.mark.browser
def test_the_page_follows_a_search_and_keeps_what_was_chosen(run: Run, tmp_path: Path) -> None:
    other = synthetic_run(tmp_path / "other", 12)
    with chromium() as browser, serving(run) as port, opened(browser, f"http://127.0.0.1:{port}/") as seen:
        seen.page.select_option("#axis", "train_seconds")
        seen.page.locator("#trials tbody tr[data-id='0/0003']").click()
        seen.page.locator("#trials th button", has_text="nDCG@10").click()
        seen.page.fill("#filter", "complete")
        assert len(seen.column(0)) == 7
        add_trial(run, other, "0011")
        seen.page.wait_for_selector("#trials tbody tr:nth-child(8)", timeout=120_000)
        assert "0011" in seen.column(0)
        assert [float(text) for text in seen.column(4)] == sorted(map(float, seen.column(4)), reverse=True)
        assert seen.trial == "Trial 0003"
        assert seen.page.locator("#axis").input_value() == "train_seconds"
        assert seen.page.locator("#filter").input_value() == "complete"
        assert seen.complaints == []
        assert all(url.startswith(f"http://127.0.0.1:{port}/") for url in seen.requests)


@pytest.mark.browser
def test_a_search_without_a_finished_trial_has_a_page_that_fills_itself(run: Run, tmp_path: Path) -> None:
    empty = Run.create(tmp_path / "empty", run.config)
    with chromium() as browser, serving(empty) as port, opened(browser, f"http://127.0.0.1:{port}/") as seen:
        assert "No trial is complete yet" in seen.page.locator("#front").inner_text()
        add_trial(empty, run, "0000")
        seen.page.wait_for_selector("#trials tbody tr:nth-child(1)", timeout=120_000)
        add_trial(empty, run, "0002")
        seen.page.wait_for_selector("#trials tbody tr:nth-child(2)", timeout=120_000)
        seen.page.mouse.click(*seen.over(seen.points(1).nth(0)))
        assert seen.trial == "Trial 0002"
        assert seen.complaints == []
