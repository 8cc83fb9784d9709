"""Every command of the documentation is one that its own parser takes, or stands in not_run.yaml with the reason."""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import runpy
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from effir_dist.core import config as config_module
from effir_dist.core.errors import InputError
from effir_dist.core.settings import RunConfig
from effir_dist.search import command_line
from tests import ROOT
from tests.docs import pages

NOT_RUN: dict[str, str] = yaml.safe_load((Path(__file__).parent / "not_run.yaml").read_text())


class Parsed(BaseException):
    """A command's parser took its arguments."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments


def parsed(module: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """What is wrong with the arguments of `python -m module`, by its own parser; nothing else of it runs."""
    for name in ("parse_args", "parse_intermixed_args"):
        original = getattr(argparse.ArgumentParser, name)

        def stop(self: Any, given: Any = None, namespace: Any = None, original: Any = original) -> None:
            raise Parsed(original(self, given, namespace))

        monkeypatch.setattr(argparse.ArgumentParser, name, stop)
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            runpy.run_module(module, run_name="__main__")
    except Parsed as found:
        return settings_fault(found.arguments) if module == "effir_dist.search" else ""
    except (SystemExit, ImportError) as error:
        return said.getvalue() or str(error)
    finally:
        monkeypatch.undo()
    return "it has no parser; list it in not_run.yaml"


def settings_fault(arguments: argparse.Namespace) -> str:
    """What is wrong with the settings of a search's command line."""
    try:
        read = command_line.resumable if arguments.resume else command_line.settings
        config_module.replace(RunConfig(), read(arguments))
    except InputError as error:
        return str(error)
    return ""


def fault(command: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """What is wrong with a command; empty where nothing is, or it is listed."""
    for module, *arguments in pages.modules_called(command):
        if not listed(f"python -m {module}") and (wrong := parsed(module, arguments, monkeypatch)):
            return wrong
    if listed(command) or pages.modules_called(command):
        return ""
    program, *arguments = shlex.split(command)
    if program == "make":
        targets = re.findall(r"^([\w./-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        return ", ".join(f"no target {each}" for each in arguments if "=" not in each and each not in targets)
    return "neither parsed nor in not_run.yaml"


def listed(command: str) -> bool:
    return any(re.match(rf"{re.escape(start)}(\s|$)", command) for start in NOT_RUN)


@pytest.mark.parametrize("page", pages.PAGES, ids=pages.name)
def test_every_command_is_one(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = pages.mentioned(page) if page != pages.LOG else []
    wrong = {command: why for command in [*pages.commands(page), *named] if (why := fault(command, monkeypatch))}
    assert wrong == {}


def test_what_is_listed_is_there() -> None:
    found = [command for page in pages.PAGES for command in [*pages.commands(page), *pages.mentioned(page)]]
    inner = [f"python -m {module}" for command in found for module, *_ in pages.modules_called(command)]
    parts = [part for command in found for word in shlex.split(command) for part in word.split(" && ")]
    unused = {start for start in NOT_RUN if not any(each.startswith(start) for each in [*found, *inner, *parts])}
    assert unused == set()


def test_a_wrong_command_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fault("python -m effir_dist.search --backbone minilm train.steps=3 --quiet", monkeypatch) == ""
    assert "did you mean 'train.steps'" in fault("python -m effir_dist.search train.step=3", monkeypatch)
    assert "cannot change in a run" in fault("python -m effir_dist.search --resume runs/a train.steps=3", monkeypatch)
    assert "unrecognized arguments: --fast" in fault("python -m effir_dist.report runs/a --fast", monkeypatch)
    inside = "ray exec a.yaml 'cd effir_dist && python -m effir_dist.report --fast runs/a'"
    assert "--fast" in fault(inside, monkeypatch)
    assert fault("make nothing", monkeypatch) == "no target nothing"
    assert fault("rm -r runs", monkeypatch) == "neither parsed nor in not_run.yaml"


@pytest.mark.parametrize("page", pages.PAGES, ids=pages.name)
def test_python_code_compiles(page: Path) -> None:
    for text in pages.python(page):
        compile(text, pages.name(page), "exec")
