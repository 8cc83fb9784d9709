"""What a GPU's machine without a network needs beside this checkout: python -m benchmarks.carry [--wheels 3.12]

Fills `.gpu/`, which git ignores: all-MiniLM-L6-v2 with its weights in half precision, and the built-in data, packed; 50
MB. With --wheels also what of DeepSpeed a machine with only torch and transformers may lack, for that version of
Python; there, in the checkout:

    python3 -m pip install --no-index --no-deps --target /tmp/site .gpu/wheels/*.whl
    PYTHONPATH=/tmp/site python3 -m benchmarks --gpu --minutes 8
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from benchmarks.speed.models import CARRIED, PACKED_DATA
from effir_dist.core.errors import command

WHEELS = ("hjson", "pydantic", "pydantic-core", "annotated-types", "typing-inspection")
"""Of what DeepSpeed requires, what comes with neither torch nor transformers; in the versions installed here."""
MORE = ("liger-kernel>=0.5.5,<1",)
"""What the benchmarks use where it is there."""
PLATFORMS = ("manylinux2014_x86_64", "manylinux_2_17_x86_64", "manylinux_2_28_x86_64")


@command
def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.carry", description=__doc__)
    parser.add_argument("--wheels", metavar="PYTHON", help="version of the Python there, for DeepSpeed and its needs")
    arguments = parser.parse_args()
    carry_model(CARRIED / "minilm")
    carry_data(CARRIED / PACKED_DATA)
    if arguments.wheels:
        carry_wheels(CARRIED / "wheels", arguments.wheels)
    files = [file for file in CARRIED.rglob("*") if file.is_file()]
    print(f"{CARRIED}: {sum(file.stat().st_size for file in files) / 2**20:.1f} MiB in {len(files)} files")


def carry_model(folder: Path) -> None:
    """all-MiniLM-L6-v2 as it is installed, its weights in float16."""
    from safetensors.torch import load_file, save_file

    from effir_dist.models import pretrained

    source = Path(pretrained.find("minilm").location)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors", "*.md", "data_config.json"))
    tensors = load_file(source / "model.safetensors")
    halves = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    save_file(halves, folder / "model.safetensors", {"format": "pt"})


def carry_data(file: Path) -> None:
    """The built-in data set in one file."""
    from effir_dist.data import pydocs

    shutil.make_archive(str(file).removesuffix(".tar.xz"), "xztar", pydocs.folder())


def carry_wheels(folder: Path, python: str) -> None:
    """DeepSpeed, which has a source archive alone and is the same for every Python, and what else it requires."""
    shutil.rmtree(folder, ignore_errors=True)
    pip = [sys.executable, "-m", "pip"]
    own = [*pip, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)]
    subprocess.run([*own, _pinned("deepspeed")], check=True)
    where = [option for platform in PLATFORMS for option in ("--platform", platform)]
    wanted = ["--only-binary=:all:", "--python-version", python, "--implementation", "cp", *where]
    others = [*pip, "download", "--quiet", "--no-deps", *wanted, "--dest", str(folder)]
    subprocess.run([*others, *map(_pinned, WHEELS), *MORE], check=True)


def _pinned(name: str) -> str:
    return f"{name}=={metadata.version(name)}"


if __name__ == "__main__":
    main()
