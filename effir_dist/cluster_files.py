"""`python -m effir_dist.cluster_files FOLDER`: the cluster files of an installed package, to be edited and used."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import effir_dist
from effir_dist.core.errors import InputError, command


def folder() -> Path:
    """Where the shipped cluster files are: inside the package when it is installed, beside it in a checkout."""
    package = Path(effir_dist.__file__).parent
    inside = package / "clusters"
    return inside if inside.is_dir() else package.parent / "clusters"


def write(out: Path) -> list[Path]:
    """Copy the cluster files to `out`/clusters, which must not be there yet; returns the copies.

    Raises InputError where it is there.
    """
    target = out / "clusters"
    if target.exists():
        raise InputError(f"{target} is there already; choose another folder, or remove it")
    shutil.copytree(folder(), target)
    return sorted(target.iterdir())


@command
def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        prog="python -m effir_dist.cluster_files",
        description="Write the cluster files (AWS, Google Cloud, your own machines, KubeRay) to FOLDER/clusters.",
        epilog="Each file's header says what to edit and which commands to run, from FOLDER. `ray up` copies FOLDER to "
        "every node and installs effir_dist from it: put the wheel (effir_dist-*.whl) there.",
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="such as . for ./clusters")
    for path in write(parser.parse_args().folder):
        print(path)


if __name__ == "__main__":
    main()
