"""Every command answers --help without loading anything heavy."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {"torch", "transformers", "ray", "deepspeed", "optuna", "pandas", "matplotlib", "faiss", "scipy"}


@pytest.mark.parametrize("name", ["search", "report", "evaluate", "importance"])
def test_help_loads_nothing_heavy(name: str) -> None:
    code = (
        f"import runpy, sys; sys.argv = ['x', '--help']\n"
        f"try: runpy.run_module('effir_dist.{name}', run_name='__main__')\n"
        f"except SystemExit: print(' '.join(sorted({HEAVY!r} & set(sys.modules))), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f"python -m effir_dist.{name}" in done.stdout
    assert done.stderr.strip() == ""
