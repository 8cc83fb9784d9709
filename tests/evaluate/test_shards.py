"""A corpus as vectors on disk: killed and resumed, shared by two processes, read back and searched."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from effir_dist.core.errors import InputError
from effir_dist.evaluate import encode
from effir_dist.evaluate.exact import exact_search
from effir_dist.evaluate.shards import TextFile, Vectors, encode_corpus
from effir_dist.models.encoder import load_encoder
from tests import ROOT
from tests.tiny import tiny_checkpoint

PATIENCE = 500
"""Seconds: what a machine busy with other work may take to start three processes."""
TEXTS = 600
SHARD = 20


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("model"), "bert")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    rows = ({"_id": str(n), "title": f"title {n}", "text": f"text {n} " * (1 + n % 9)} for n in range(TEXTS))
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def start(model: Path, corpus: Path, out: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "effir_dist.encode", str(model), str(corpus), str(out)]
    command += ["--shard-texts", str(SHARD), "--dtype", "float32", *more]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def whole(model: Path, corpus: Path) -> np.ndarray:
    texts = [f"{row['title']} {row['text'].strip()}" for row in map(json.loads, corpus.read_text().splitlines())]
    return load_encoder(str(model)).encode(texts).astype(np.float16)


def shards(out: Path) -> list[Path]:
    return sorted(out.glob("shard-*.npy"))


def test_a_killed_encode_goes_on_and_two_processes_share_the_rest(model: Path, corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    # A token a batch: slow enough to be met in the middle.
    first = start(model, corpus, out, "--batch-tokens", "1")
    until = time.monotonic() + PATIENCE
    while len(shards(out)) < 2 and first.poll() is None and time.monotonic() < until:
        time.sleep(0.005)
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    before = {file.name: file.stat().st_mtime_ns for file in shards(out)}
    assert 2 <= len(before) < TEXTS // SHARD
    both = [start(model, corpus, out) for _ in range(2)]
    said = [process.communicate(timeout=PATIENCE) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    computed = [int(text.split(": ")[1].split()[0]) for text, _ in said]
    assert sum(computed) == TEXTS // SHARD - len(before)
    assert all((out / name).stat().st_mtime_ns == when for name, when in before.items())
    found = Vectors(out)
    np.testing.assert_allclose(found[:].astype(np.float32), whole(model, corpus).astype(np.float32), atol=2e-3)
    assert not list(out.glob("*.lock"))
    assert found.shape == (TEXTS, 32)
    np.testing.assert_array_equal(found[13:47], found[:][13:47])


def test_vectors_in_shards_are_searched_as_they_are(model: Path, corpus: Path, tmp_path: Path) -> None:
    encoder = load_encoder(str(model))
    done = encode_corpus(encoder, TextFile.open(corpus), tmp_path / "out", encoder.encode, 250, {}, print)
    vectors = Vectors(tmp_path / "out")
    assert done == 3
    queries = vectors[5:9].astype(np.float32)
    found = exact_search(queries, vectors, 7)  # type: ignore[arg-type]
    np.testing.assert_array_equal(found[1], exact_search(queries, vectors[:], 7)[1])
    assert encode_corpus(encoder, TextFile.open(corpus), tmp_path / "out", encoder.encode, 250, {}, print) == 0


def test_a_folder_of_other_vectors_is_refused(model: Path, corpus: Path, tmp_path: Path) -> None:
    encoder, out = load_encoder(str(model)), tmp_path / "out"
    short = tmp_path / "texts.txt"
    short.write_text("one\n\ntwo\n")
    encode_corpus(encoder, TextFile.open(short), out, encoder.encode, 10, {"kind": "document"}, print)
    assert len(Vectors(out)) == 2
    with pytest.raises(InputError, match="another kind"):
        encode_corpus(encoder, TextFile.open(short), out, encoder.encode, 10, {"kind": "query"}, print)
    short.write_text("one\n\nthree\n")
    with pytest.raises(InputError, match="another texts_sha256"):
        encode_corpus(encoder, TextFile.open(short), out, encoder.encode, 10, {"kind": "document"}, print)
    next(encoder.backbone.parameters()).data += 1
    short.write_text("one\n\ntwo\n")
    with pytest.raises(InputError, match="another model_sha256"):
        encode_corpus(encoder, TextFile.open(short), out, encoder.encode, 10, {"kind": "document"}, print)
    (out / "shard-00000.npy").unlink()
    with pytest.raises(InputError, match="lacks 1 of 1 shards"):
        Vectors(out)


@pytest.mark.parametrize(
    ("line", "message"),
    [(b'{"title": "a"}', "text 2: 'text' must be a text"), (b"{", "text 2 is not valid JSON"), (b"\xff", "not UTF-8")],
)
def test_a_bad_line_is_named(line: bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / "corpus.jsonl"
    file.write_bytes(b'{"text": "a"}\n' + line + b"\n")
    with pytest.raises(InputError, match=message):
        TextFile.open(file).read(0, 2)


def test_bad_options_are_one_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["encode", "minilm", "no-such-file", "out"])
    with pytest.raises(SystemExit) as stop:
        encode.main()
    assert stop.value.code == 2
    assert "cannot read no-such-file" in capsys.readouterr().err
