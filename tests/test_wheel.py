"""The wheel by itself: installed in an environment of its own, used from another folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from tests import ROOT, needs
from tests.search.test_search import OPTIONS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that holds the wheel, and sees the packages that it needs but no checkout.

    Packages are this environment's own, found by a .pth file, in which another .pth file is not read: an editable
    install of the checkout, which is one, does not count there.
    """
    needs.module("build")
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder / "dist", ROOT]
    subprocess.run(build, check=True, capture_output=True, text=True, cwd=folder)
    [wheel] = (folder / "dist").glob("*.whl")
    venv.create(folder / "env", with_pip=False)
    python = folder / "env" / "bin" / "python"
    site = run(python, folder, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel]
    subprocess.run(install, check=True, capture_output=True, text=True)
    (Path(site) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def run(python: Path, folder: Path, *arguments: object) -> str:
    """What a command prints, from another folder and without a path to the checkout."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "RAY_ADDRESS")}
    environment |= {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [python, *map(str, arguments)], cwd=folder, env=environment, capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_all_files_are_the_wheels_own(python: Path, tmp_path: Path) -> None:
    code = (
        "import effir_dist, json, sys\n"
        "from effir_dist import cluster_files\n"
        "from effir_dist.search.strategy import space_file\n"
        "spaces = space_file.folder(), space_file.default_file('minilm', 'bert')\n"
        "print(json.dumps([*map(str, [effir_dist.__file__, cluster_files.folder(), *spaces]), *sys.path]))"
    )
    package, clusters, spaces, space, *path = json.loads(run(python, tmp_path, "-c", code))
    inside = Path(package).parent
    assert inside.is_relative_to(python.parents[1])
    assert (Path(clusters), Path(spaces)) == (inside / "clusters", inside / "search_spaces")
    assert Path(space).read_text() == (ROOT / "search_spaces" / "minilm.yaml").read_text()
    assert not [entry for entry in path if entry and Path(entry).resolve() == ROOT]


def test_cluster_files_come_out_of_it(python: Path, tmp_path: Path) -> None:
    run(python, tmp_path, "-m", "effir_dist.cluster_files", ".")
    names = sorted(path.name for path in (ROOT / "clusters").iterdir())
    assert sorted(path.name for path in (tmp_path / "clusters").iterdir()) == names
    assert all((tmp_path / "clusters" / name).read_text() == (ROOT / "clusters" / name).read_text() for name in names)


def test_it_plans_and_searches_and_reports(
    python: Path, tmp_path: Path, checkpoints: dict[str, Path], collection: Path
) -> None:
    said = run(python, tmp_path, "-m", "effir_dist.search", "--help")
    dry_run = "--dry-run" if "--dry-run" in said else "--plan"
    assert "596,049,920 parameters" in run(python, tmp_path, "-m", "effir_dist.search", "--backbone", "qwen", dry_run)
    given = ["--model", checkpoints["bert"], "--data", collection, "--trials", "2", "--name", "wheel", *OPTIONS]
    assert "all 2 trials are done" in run(python, tmp_path, "-m", "effir_dist.search", *given)
    records = [json.loads(path.read_text()) for path in tmp_path.glob("runs/wheel/trials/*/result.json")]
    assert [record.get("stage") for record in records].count(None) == 2, "beside a base and the front's full recoveries"
    assert {record["state"] for record in records} == {"complete"}
    page = (tmp_path / "runs" / "wheel" / "report" / "report.html").read_text()
    assert "<script" in page
