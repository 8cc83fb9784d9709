"""InputError, the one error that a user is meant to read, and checks that raise it."""

from __future__ import annotations

import difflib
import functools
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from effir_dist.core.environment import share_the_machine
from effir_dist.core.wrapping import for_screen

if TYPE_CHECKING:
    import argparse


class InputError(ValueError):
    """Bad input. The message names the value, what was expected and what to do; commands exit with code 2."""


def suggest(name: str, known: Iterable[str]) -> str:
    """'did you mean X?' with the nearest of `known`, or all of them where none is near."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}"


_expected: ContextVar[dict[str, list[str]] | None] = ContextVar("_expected", default=None)


@contextmanager
def expectations() -> Iterator[dict[str, list[str]]]:
    """What the checks within the block expect, by the name that each checks: of settings that are made there, what
    they allow."""
    found: dict[str, list[str]] = {}
    token = _expected.set(found)
    try:
        yield found
    finally:
        _expected.reset(token)


def check(ok: bool, name: str, value: object, expected: str) -> None:
    """Raises InputError that names a setting and its value, and says what is expected, unless `ok`."""
    heard = _expected.get()
    if heard is not None:
        heard.setdefault(name, []).append(expected)
    if not ok:
        raise InputError(f"{name} must be {expected}, got {value!r}")


def one_of(name: str, value: object, allowed: tuple[object, ...]) -> None:
    """Raises InputError unless a setting's value is one of those allowed."""
    check(value in allowed, name, value, "one of " + ", ".join(repr(a) for a in allowed))


def check_least(arguments: argparse.Namespace, least: Mapping[str, int]) -> None:
    """Raises InputError where a command's option is given and is below its least value."""
    for name, bound in least.items():
        value = getattr(arguments, name)
        if value is not None and value < bound:
            raise InputError(f"--{name.replace('_', '-')} must be {bound} or more, got {value}")


def command(main: Callable[[], None]) -> Callable[[], None]:
    """Wrap a command's `main`: an InputError becomes one line on stderr and exit code 2.

    What it computes goes on beside other processes (`core/environment.py`).
    """

    @functools.wraps(main)
    def wrapped() -> None:
        share_the_machine()
        try:
            main()
            sys.stdout.flush()
        except InputError as error:
            print(for_screen(f"error: {error}", sys.stderr), file=sys.stderr)
            raise SystemExit(2) from None
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            raise SystemExit(130) from None
        except BrokenPipeError:  # the reader, such as `| head`, has ended; nothing may be flushed at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    return wrapped
