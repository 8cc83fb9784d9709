"""Who computes shares the machine: OpenMP sleeps while it waits, and the user's own word stays."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys

import pytest

TRAINS = """
from effir_dist.core.errors import command

@command
def main():
    import torch
    torch.ones(8).sum()

main()
"""


@pytest.mark.parametrize(("own", "policy"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")])
def test_openmp_sleeps_while_it_waits_unless_the_user_says_otherwise(own: dict[str, str], policy: str) -> None:
    """What torch's OpenMP itself says when it is loaded in a command."""
    known = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment = {**known, "OMP_DISPLAY_ENV": "VERBOSE", **own}
    done = subprocess.run([sys.executable, "-c", TRAINS], env=environment, capture_output=True, text=True, check=True)
    assert f"OMP_WAIT_POLICY = '{policy}'" in done.stderr


@pytest.mark.parametrize("name", ["search", "evaluate", "encode", "importance", "negatives", "export"])
def test_it_is_so_for_every_command_that_computes(name: str) -> None:
    module = importlib.import_module(f"effir_dist.{name}")
    if hasattr(module, "__path__"):
        module = importlib.import_module(f"effir_dist.{name}.command")
    assert module.main.__wrapped__
