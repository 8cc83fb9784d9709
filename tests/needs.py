"""What a test needs of its machine. Where that is missing a user's test is skipped with the reason, and CI's fails."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

import pytest

from effir_dist.core.errors import InputError
from effir_dist.models import pretrained
from effir_dist.models.pretrained import Source
from tests import ROOT

SHARED = ROOT.parent / "shared" / "data"
"""Data sets that are not part of the checkout."""


def lacking(reason: str) -> Any:
    """End the test, or at the top of a module all of its tests: something is not to be had here."""
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(f"in CI nothing may be missing: {reason}", pytrace=False)
    pytest.skip(reason, allow_module_level=True)


def module(name: str) -> Any:
    """A module that a test compares with."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        return lacking(f"{name} cannot be imported ({error}); install the extra `test`")


def data(name: str) -> Path:
    """The folder of a data set in `SHARED`."""
    if not (SHARED / name).is_dir():
        lacking(f"the data set {name} is not at {SHARED / name}")
    return SHARED / name


def backbone(name: str) -> Source:
    """The checkpoint of a backbone whose weights are in Python packages."""
    try:
        return pretrained.find(name)
    except InputError as error:
        return lacking(str(error))


def root() -> None:
    """The rights to mount, and to make network namespaces."""
    if os.geteuid() != 0:
        lacking("needs root")
