"""Every command answers --help without loading anything heavy; the version is one."""

from __future__ import annotations

import subprocess
import sys

import pytest
import yaml

import effir_dist
from tests import ROOT

HEAVY = {"torch", "transformers", "ray", "deepspeed", "optuna", "pandas", "matplotlib", "faiss", "scipy"}


COMMANDS = (
    *("search", "report", "evaluate", "importance", "negatives", "preemption", "export", "encode"),
    *("cluster_files", "pydocs"),
)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_loads_nothing_heavy(name: str) -> None:
    code = (
        f"import runpy, sys; sys.argv = ['x', '--help']\n"
        f"try: runpy.run_module('effir_dist.{name}', run_name='__main__')\n"
        f"except SystemExit: print(' '.join(sorted({HEAVY!r} & set(sys.modules))), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f"python -m effir_dist.{name}" in done.stdout
    assert done.stderr.strip() == ""


def test_importing_the_package_loads_nothing_heavy_and_its_names_come_when_asked() -> None:
    code = (
        "import sys, effir_dist\n"
        f"assert not {HEAVY | {'numpy', 'yaml'}!r} & set(sys.modules), sys.modules\n"
        "assert callable(effir_dist.load)\n"
        "try: effir_dist.nothing\n"
        "except AttributeError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "module 'effir_dist' has no attribute 'nothing'"


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    command = f"{sys.executable} -m effir_dist.search --backbone mistral --dry-run | true"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_one_version_stands_everywhere() -> None:
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == effir_dist.__version__
    assert f"## [{effir_dist.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_names_that_the_docs_promise_can_be_imported() -> None:
    from effir_dist.exact import exact_search
    from effir_dist.mteb_model import MtebEncoder
    from effir_dist.shards import Vectors

    assert all(map(callable, (effir_dist.load, effir_dist.load_run, exact_search, MtebEncoder, Vectors)))
