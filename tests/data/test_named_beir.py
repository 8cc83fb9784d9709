"""`beir:NAME` against a server on loopback: whole, cut off, damaged, killed, by two processes, off line."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from effir_dist.core.errors import InputError
from effir_dist.core.settings import DataConfig
from effir_dist.data import beir, roles, sets
from effir_dist.data.named import beir_sets, download, names
from effir_dist.data.named.beir_sets import ADDRESS_VARIABLE, ARCHIVES, PARTS, Archive
from tests import ROOT
from tests.hub import Hub, hub_of
from tests.tiny import write_collection

SCIFACT = ("GET", "/beir/scifact.zip")


def zip_of(folder: Path, archive: Path) -> Path:
    """A folder as BEIR's zips have it: under its own name, with other files beside."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as zipped:
        for file in sorted(folder.rglob("*")):
            zipped.write(file, file.relative_to(folder.parent))
        zipped.writestr("../outside.jsonl", "never written")
        zipped.writestr("__MACOSX/._corpus.jsonl", "never written")
    return archive


def published(monkeypatch: pytest.MonkeyPatch, archive: Path) -> str:
    """Has BEIR publish this file's sum."""
    md5 = hashlib.md5(archive.read_bytes()).hexdigest()
    monkeypatch.setitem(ARCHIVES, archive.stem, Archive(md5, 0.1))
    return md5


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """scifact.zip at the address of BEIR, and an empty cache."""
    write_collection(tmp_path / "source" / "scifact", documents=60, queries=36)
    published(monkeypatch, zip_of(tmp_path / "source" / "scifact", tmp_path / "web" / "beir" / "scifact.zip"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with hub_of(tmp_path / "web") as hub:
        monkeypatch.setenv(ADDRESS_VARIABLE, f"{hub.address}/beir")
        yield hub


def other_process(server: Hub, code: str) -> subprocess.Popen[str]:
    """Python that runs `code` after scifact's sum is that of the server's file."""
    archive = ARCHIVES["scifact"]
    start = (
        "import os, signal\n"
        "from effir_dist.data import sets\n"
        "from effir_dist.data.named import beir_sets, download\n"
        f"beir_sets.ARCHIVES['scifact'] = beir_sets.Archive({archive.md5!r}, {archive.megabytes})\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", start + code], env=environment, stderr=subprocess.PIPE, text=True)


def test_the_sums_are_those_that_beir_publishes() -> None:
    table = importlib.metadata.metadata("beir").get_payload()
    sums = dict(re.findall(r"/([\w-]+)\.zip\) *\| *``([0-9a-f]{32})``", str(table)))
    assert {name: archive.md5 for name, archive in ARCHIVES.items()} == sums


def test_a_set_is_fetched_once_and_read_as_beir_reads_it(server: Hub) -> None:
    from beir.datasets.data_loader import GenericDataLoader

    folder = sets.resolve("beir:scifact")
    assert folder == names.cache() / "beir" / "scifact"
    files = {file.relative_to(folder.parents[2]).as_posix() for file in folder.parent.rglob("*") if file.is_file()}
    layout = ("corpus.jsonl", "queries.jsonl", "qrels/train.tsv", "qrels/dev.tsv", "qrels/test.tsv", "source.json")
    assert files == {f"datasets/beir/scifact/{name}" for name in layout}  # no zip, and nothing from outside the layout
    corpus, queries, qrels = GenericDataLoader(str(folder)).load("test")
    split = sets.read_split(folder, "test")
    assert dict(split.documents) == {key: f"{d['title']} {d['text']}".strip() for key, d in corpus.items()}
    assert ({q: split.queries[q] for q in split.qrels}, split.qrels) == (queries, qrels)
    server.close()
    assert sets.load_collection("beir:scifact", "test").name == "scifact"
    assert server.requests == [SCIFACT]


def test_an_answer_that_ends_half_way_is_gone_on_with(server: Hub) -> None:
    server.cut("scifact.zip", times=2)
    assert beir.splits(sets.resolve("beir:scifact")) == ["dev", "test", "train"]
    assert server.requests == [SCIFACT] * 3


def test_a_killed_download_goes_on_where_it_ended(server: Hub) -> None:
    part = names.cache() / "beir" / ".downloads" / "scifact.zip.part"
    whole = (server.folder / "beir" / "scifact.zip").stat().st_size
    with server.holding("scifact.zip"):
        code = "download.CHUNK = 256\nsets.resolve('beir:scifact')"
        process = other_process(server, code)
        assert server.half_sent.wait(60)
        while not part.is_file() or not part.stat().st_size:
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
        process.wait()
    had = part.stat().st_size
    assert 0 < had < whole
    sets.resolve("beir:scifact")
    assert server.ranges == ["", f"bytes={had}-"]


def test_a_process_killed_before_it_unpacks_leaves_a_download_that_is_used(server: Hub) -> None:
    code = "beir_sets._unpack = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\nsets.resolve('beir:scifact')"
    assert other_process(server, code).wait() == -signal.SIGKILL
    assert not names.is_here("beir:scifact")
    assert beir.splits(sets.resolve("beir:scifact")) == ["dev", "test", "train"]
    assert server.requests == [SCIFACT]
    assert {file.name for file in (names.cache() / "beir").iterdir()} == {".downloads", "scifact"}


def test_two_processes_at_once_download_it_once(server: Hub) -> None:
    with server.holding("scifact.zip"):
        processes = [other_process(server, "print(sets.resolve('beir:scifact'))") for _ in range(2)]
        assert server.half_sent.wait(60)
    assert [process.wait() for process in processes] == [0, 0]
    assert server.requests == [SCIFACT]


def test_a_process_that_looked_just_before_another_was_done_finds_the_set(server: Hub) -> None:
    folder = sets.resolve("beir:scifact")
    names._make(names.parse("beir:scifact"))
    assert (beir.splits(folder), server.requests) == (["dev", "test", "train"], [SCIFACT])


def test_a_file_with_another_sum_is_refused_and_not_kept(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ARCHIVES, "scifact", Archive("0" * 32, 0.1))
    with pytest.raises(InputError, match=r"scifact\.zip has the MD5 sum [0-9a-f]{32}, and BEIR says 0{32}"):
        sets.resolve("beir:scifact")
    assert not list((names.cache() / "beir").rglob("*.zip*"))
    assert not names.is_here("beir:scifact")


def test_a_part_of_another_file_is_thrown_away(server: Hub) -> None:
    part = names.cache() / "beir" / ".downloads" / "scifact.zip.part"
    part.parent.mkdir(parents=True)
    for stale in (b"another file", b"x" * 10**6):
        part.write_bytes(stale)
        assert beir.splits(sets.resolve("beir:scifact")) == ["dev", "test", "train"]
        shutil.rmtree(names.cache() / "beir" / "scifact")


def test_off_line_says_where_to_put_the_files_and_takes_them_from_there(server: Hub) -> None:
    server.close()
    with pytest.raises(InputError) as error:
        sets.resolve("beir:scifact")
    place = names.cache() / "beir"
    asked = f"put its corpus.jsonl, queries.jsonl and qrels/ into {place / 'scifact'}, or scifact.zip into {place}"
    assert asked in str(error.value)
    assert "beir:scifact is not in the cache and cannot be fetched from http://127.0.0.1" in str(error.value)
    shutil.copy(server.folder / "beir" / "scifact.zip", place)
    assert beir.splits(sets.resolve("beir:scifact")) == ["dev", "test", "train"]
    assert (place / "scifact.zip").is_file()  # it is the user's
    shutil.rmtree(place)
    shutil.copytree(server.folder.parent / "source" / "scifact", place / "scifact")
    assert sets.load_collection("beir:scifact", "test").size.queries == 12
    (place / "scifact" / "corpus.jsonl").unlink()
    with pytest.raises(InputError, match="has no corpus.jsonl; complete it"):
        sets.resolve("beir:scifact")


def test_what_the_server_answers_is_told(server: Hub) -> None:
    (server.folder / "beir" / "scifact.zip").unlink()
    with pytest.raises(InputError, match=r"scifact\.zip answers 404"):
        sets.resolve("beir:scifact")


@pytest.mark.parametrize("name", beir_sets.LICENSED)
def test_sets_with_a_licence_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"beir:{name} is not public: get it from https?://"):
        sets.resolve(f"beir:{name}")


def test_unknown_names_tell_the_nearest() -> None:
    with pytest.raises(InputError, match="BEIR has no public data set 'scifcat'; did you mean 'scifact'"):
        sets.resolve("beir:scifcat")
    with pytest.raises(InputError, match="beir:cqadupstack has no part 'androit'; did you mean 'android'"):
        names.expanded(["beir:cqadupstack/androit"])


def test_cqadupstack_is_twelve_data_sets_and_one_download(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    source = server.folder.parent / "source" / "cqadupstack"
    for seed, part in enumerate(PARTS["cqadupstack"]):
        write_collection(source / part, seed=seed)
    published(monkeypatch, zip_of(source, server.folder / "beir" / "cqadupstack.zip"))
    paths = names.expanded(["beir:cqadupstack", "beir:scifact"])
    assert len(paths) == 13
    assert paths[:2] == ("beir:cqadupstack/android", "beir:cqadupstack/english")
    texts = [sets.load_collection(path, "test").queries[0] for path in paths[:12]]
    assert len(set(texts)) == 12
    assert server.requests == [("GET", "/beir/cqadupstack.zip")]
    assert sets.dataset_name(paths[0]) == "cqadupstack-android"
    with pytest.raises(InputError, match="beir:cqadupstack is 12 data sets, and one is taken here"):
        sets.resolve("beir:cqadupstack")


def test_identical_ids_are_left_out_where_beir_does_so() -> None:
    folder = Path("/nowhere")
    ignoring = {name for name in ARCHIVES if sets.ignores_identical_ids(folder, sets.dataset_name(f"beir:{name}"))}
    assert ignoring == {"arguana", "quora"}


def test_a_named_set_has_any_role(server: Hub) -> None:
    data = DataConfig(paths=("beir:scifact",))
    assert len(roles.search_collection("beir:scifact", data, 0).queries) == 12
    assert len(roles.train_part("beir:scifact", data, 0).queries) == 12
    found = sets.fingerprint("beir:scifact")
    assert (found["name"], found["path"]) == ("scifact", "beir:scifact")
    assert found["source"]["md5"] == ARCHIVES["scifact"].md5
    copied = sets.fingerprint(str(server.folder.parent / "source" / "scifact"))
    assert copied["sha256"] == found["sha256"]  # the same data by its folder


def test_a_set_that_is_too_large_for_the_disk_is_not_begun(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "free_space", lambda folder: (folder, 10))
    with pytest.raises(InputError, match="GB free, and scifact.zip takes"):
        sets.resolve("beir:scifact")
