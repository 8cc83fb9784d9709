"""What a process keeps between trials: made once, made anew where anything differs, and never too much of it."""

from __future__ import annotations

import os
from pathlib import Path

from effir_dist.core.kept import Kept
from effir_dist.core.settings import DataConfig, TrainConfig
from effir_dist.data.pairs import training_pairs
from effir_dist.data.roles import search_collection
from effir_dist.models.encoder import load_encoder
from effir_dist.training.batches import examples_of
from tests.tiny import write_collection


def test_a_value_is_made_once_for_the_very_same_source() -> None:
    kept: Kept[int] = Kept(2)
    made: list[int] = []

    def make() -> int:
        made.append(1)
        return len(made)

    one, other = ["a"], ["a"]
    wanted = [(one, 1), (one, 1), (one, 2), (other, 1)]
    assert [kept.get(source, key, make) for source, key in wanted] == [1, 1, 2, 3]
    assert kept.get(one, 2, make) == 2
    assert kept.get(one, 1, make) == 4  # two are kept


def test_pairs_and_collections_are_read_once_until_a_file_changes(tmp_path: Path) -> None:
    folder = write_collection(tmp_path / "data")
    data = DataConfig(paths=(str(folder),))
    pairs, collection = training_pairs(data, 0), search_collection(str(folder), data, 0)
    assert training_pairs(data, 0) is pairs
    assert search_collection(str(folder), data, 0) is collection
    assert training_pairs(data, 1) is not pairs
    file = folder / "qrels" / "train.tsv"
    file.write_text(file.read_text() + "q0\td5\t1\n")
    os.utime(file, ns=(1, 1))
    assert len(training_pairs(data, 0).queries) == len(pairs.queries) + 1


def test_examples_are_made_once_for_a_tokenizer_and_lengths(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    pairs = training_pairs(DataConfig(paths=(str(write_collection(tmp_path / "data")),)), 0)
    encoder, config = load_encoder(str(checkpoints["llama"])), TrainConfig()
    first = examples_of(encoder, pairs, config, tmp_path)
    assert examples_of(load_encoder(str(checkpoints["llama"])), pairs, config, tmp_path) is first
    other = examples_of(load_encoder(str(checkpoints["bert"])), pairs, config, tmp_path)
    assert other.passages.ids.tolist() != first.passages.ids.tolist()
    assert examples_of(encoder, pairs, config, None) is not first
