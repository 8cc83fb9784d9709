"""A tokenizer that is not the model's is refused: by its size, and by what it makes of texts."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, tokenization_utils_base

from effir_dist.core.errors import InputError
from effir_dist.evaluate import command as evaluate
from effir_dist.evaluate import encode
from effir_dist.importance import command as importance
from effir_dist.models import pretrained
from effir_dist.models.encoder import load_encoder
from effir_dist.models.vocabulary import check_size, check_texts

TEXTS = ["Ein Text über Wörter.", "Another one, about 3 words", "..."]
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())


def words(*known: str) -> Any:
    """A tokenizer of whole words."""
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", *known])}
    made = Tokenizer(models.WordLevel(vocabulary, "[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]")


def byte_tokenizer(letters: list[str], size: int) -> Any:
    """BPE of bytes without merges, and `size` pieces that no text has."""
    letters = [*letters, *(f"never{i}" for i in range(size))]
    made = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=made)


def without_tokenizer(model: Path, to: Path) -> Path:
    """A copy of a checkpoint that lacks its tokenizer's files."""
    shutil.copytree(model, to)
    for file in to.glob("*token*"):
        file.unlink()
    return to


@pytest.mark.parametrize("name", ["bert", "qwen2"])
def test_a_folder_without_its_tokenizers_files(name: str, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """transformers makes a tokenizer of five tokens, or of one, which knows no word."""
    source = pretrained.find(str(without_tokenizer(checkpoints[name], tmp_path / "m")))
    count = len(pretrained.load_tokenizer(source.location))
    assert count <= 5
    with pytest.raises(InputError, match=rf"has {count} tokens, and the model's embedding 300: files of the tokenizer"):
        pretrained.load_base(source, "float32")


def test_a_pruned_model_without_its_tokenizer(checkpoints: dict[str, Path], tmp_path: Path) -> None:
    load_encoder(str(checkpoints["bert"])).save(tmp_path / "trial")
    for file in (tmp_path / "trial").glob("*token*"):
        file.unlink()
    with pytest.raises(InputError, match="trial has 5 tokens, and the model's embedding 300"):
        load_encoder(str(tmp_path / "trial"))


def test_nothing_is_said_of_texts_that_are_longer_than_the_model_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(tokenization_utils_base.logger, "warning", lambda text, *_: said.append(text))
    tokenizer = words("one", "two")
    tokenizer.model_max_length = 4
    assert check_texts(tokenizer, {"vocab_size": 4}, "m", ["one two " * 9]) == []
    assert said == []


def test_ids_beyond_the_embedding() -> None:
    tokenizer = words(*"abcdefgh")
    check_size(tokenizer, {"vocab_size": 10}, "m")
    with pytest.raises(InputError, match="has ids up to 9, and the model's embedding 9 rows: it is another model's"):
        check_size(tokenizer, {"vocab_size": 9}, "m")
    tokenizer.add_special_tokens({"mask_token": "<mask>"})
    check_size(tokenizer, {"vocab_size": 10}, "m")  # a special token may lie beyond
    assert check_texts(tokenizer, {"vocab_size": 10}, "m", ["a b"]) == []
    with pytest.raises(InputError, match="makes the id 10 of 'a <mask>', and the model's embedding has 10 rows"):
        check_texts(tokenizer, {"vocab_size": 10}, "m", ["a <mask>"])


def test_unknown_words() -> None:
    known = words(*["Ein", "Text", "über", "Wörter", ".", "Another", "one", ",", "about", "3", "words"])
    assert check_texts(known, {"vocab_size": 20}, "m", TEXTS) == []
    some = words(*["Ein", "Text", ".", "Another", "one", ",", "about", "3", "words"])
    (warning,) = check_texts(some, {"vocab_size": 20}, "m", TEXTS)
    assert warning == "the tokenizer of m does not know 18% of the data, such as 'Ein Text über Wörter.'"
    few = words("Ein", "about")
    with pytest.raises(InputError, match=r"does not know 82% of the data, such as 'Another one"):
        check_texts(few, {"vocab_size": 20}, "m", TEXTS)


def test_a_tokenizer_that_has_no_unknown_token() -> None:
    """What it does not know is gone without a trace; or all is bytes, though it has learned more."""
    with pytest.raises(InputError, match="does not know 100% of the data"):
        check_texts(byte_tokenizer(["!"], 0), {"vocab_size": 20}, "m", TEXTS)
    assert check_texts(byte_tokenizer(BYTES, 0), {"vocab_size": 256}, "m", TEXTS) == []
    with pytest.raises(InputError, match=r"has 5,256 tokens and makes 1.00 of a byte of the data.*merges are missing"):
        check_texts(byte_tokenizer(BYTES, 5000), {"vocab_size": 6000}, "m", TEXTS)


@pytest.mark.parametrize("command", [evaluate, encode, importance])
def test_every_command_refuses_it(
    command: ModuleType,
    checkpoints: dict[str, Path],
    collection: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model, data = Path(shutil.copytree(checkpoints["bert"], tmp_path / "m")), str(collection)
    words(*(f"word{i}" for i in range(200))).save_pretrained(model)
    texts = [str(model), f"{data}/corpus.jsonl", str(tmp_path / "out")]
    given = {evaluate: [str(model), "--data", data], encode: texts, importance: ["--model", str(model), "--data", data]}
    monkeypatch.setattr("sys.argv", ["command", *given[command]])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as error:
        command.main()
    assert error.value.code == 2
    assert re.search(r"the tokenizer of .* does not know 100% of the data, such as", capsys.readouterr().err)


def test_texts_without_a_word_say_nothing() -> None:
    assert check_texts(words(), {"vocab_size": 2}, "m", ["...", " "]) == []


def test_the_tokenizer_of_minilm_fits_it() -> None:
    source = pretrained.find("minilm")
    tokenizer = pretrained.load_tokenizer(source.location)
    check_size(tokenizer, source.config, source.location)
    assert check_texts(tokenizer, source.config, source.location, TEXTS) == []
    config = json.loads((Path(source.location) / "config.json").read_text())
    with pytest.raises(InputError, match="ids up to 30,521, and the model's embedding 30,000 rows"):
        check_size(tokenizer, {**config, "vocab_size": 30000}, source.location)
