"""Named backbones: their rows say where their sizes were read, and a checkpoint that has others is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from effir_dist.core.errors import InputError
from effir_dist.importance.command import parser as importance_parser
from effir_dist.models import pretrained, published
from effir_dist.models.families.registry import BACKBONES, family
from effir_dist.search.command_line import parser as search_parser
from effir_dist.training.negatives import parser as negatives_parser
from tests.tiny import tiny_checkpoint

MINILM = BACKBONES["minilm"]


@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_what_transformers_writes_for_the_sizes_of_a_row_is_no_difference(name: str) -> None:
    """It writes many more keys, with what they are where nothing is said."""
    from transformers import AutoConfig

    row = BACKBONES[name]
    of_row = family(row.config)
    published.check(row, row.config)
    published.check(row, of_row.usual(AutoConfig.for_model(**of_row.own(row.config)).to_dict()))


@pytest.mark.parametrize(
    ("name", "key", "value", "message"),
    [
        ("minilm", "num_hidden_layers", 12, "'minilm' has num_hidden_layers 12, its row says 6; pass --model package:"),
        ("minilm", "type_vocab_size", 1, "has type_vocab_size 1, its row says 2"),
        ("minilm", "model_type", "llama", "has model_type 'llama', its row says 'bert'"),
        ("qwen3-embedding-0.6b", "vocab_size", 151936, "has vocab_size 151936, its row says 151669"),
        ("llama-3.2-1b", "attention_bias", True, "has attention_bias True, its row says None"),
        ("mistral-7b", "num_key_value_heads", 32, "has num_key_value_heads 32, its row says 8"),
    ],
)
def test_another_value_is_named_with_both(name: str, key: str, value: Any, message: str) -> None:
    row = BACKBONES[name]
    with pytest.raises(InputError, match=message):
        published.check(row, {**row.config, key: value})


def test_a_value_that_is_missing_is_another_and_those_that_nothing_reads_are_none() -> None:
    with pytest.raises(InputError, match="has intermediate_size None, its row says 1536"):
        published.check(MINILM, {key: value for key, value in MINILM.config.items() if key != "intermediate_size"})
    published.check(MINILM, {**MINILM.config, "hidden_act": "relu", "max_window_layers": 3, "head_dim": 32})


def test_a_named_checkpoint_is_compared_when_it_is_found_and_a_path_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_checkpoint(tmp_path, "bert")
    monkeypatch.setitem(BACKBONES, "minilm", dataclasses.replace(MINILM, source=str(folder)))
    with pytest.raises(InputError, match=r"the checkpoint of backbone 'minilm' has .* its row says"):
        pretrained.find("minilm")
    assert pretrained.find("minilm", str(folder)).config["hidden_size"] == 32
    sizes = {key: pretrained.find("", str(folder)).config[key] for key in MINILM.config}
    monkeypatch.setitem(BACKBONES, "minilm", dataclasses.replace(BACKBONES["minilm"], config=sizes))
    assert pretrained.find("minilm").max_length == MINILM.max_length


def test_the_help_names_each_whole_on_a_line_of_its_family(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "70")
    for parser in (search_parser(), importance_parser(), negatives_parser()):
        text = parser.format_help()
        assert "\n  qwen2: qwen2.5-1.5b, qwen2.5-3b, qwen2.5-7b\n" in text
        assert "modernbert-base (or modernbert)," in text
        words = text.replace(",", " ").split()
        assert {*BACKBONES} <= {*words}, "none is cut at a hyphen"
