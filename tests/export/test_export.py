"""An exported folder gives the trial's embeddings in every tool that it claims to load in."""

from __future__ import annotations

import copy
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from effir_dist.export.command import export
from effir_dist.export.model_folder import is_plain, save_tokenizer, write_folder
from effir_dist.models.encoder import Encoder, load_encoder, prune_encoder
from effir_dist.models.pruning import make_plan
from effir_dist.runs.run_folder import Run
from tests import ROOT, needs
from tests.exports import EQUAL, MIXED, cosines, texts, write_run
from tests.tiny import MODEL_NAMES, row_of

needs.module("sentence_transformers")
CLOSE = 0.9999
FEW = 60
"""Texts for a process without effir_dist, which encodes them up to sixteen times a family."""
DECODERS = tuple(name for name in MODEL_NAMES if row_of(name).decoder)


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory, checkpoints: dict[str, Path], collection: Path) -> dict[str, Run]:
    """A finished run of every family."""
    folder = tmp_path_factory.mktemp("runs")
    return {family: write_run(folder / family, checkpoints[family], collection) for family in MODEL_NAMES}


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory, runs: dict[str, Run]) -> dict[tuple[str, str], Path]:
    """(family, trial) -> exported folder."""
    folder = tmp_path_factory.mktemp("exported")
    out = {(family, trial): folder / f"{family}-{trial}" for family in MODEL_NAMES for trial in (MIXED, EQUAL)}
    for (family, trial), path in out.items():
        export(runs[family], runs[family].result(trial), path)
    return out


@pytest.fixture(scope="session")
def trials(runs: dict[str, Run]) -> dict[tuple[str, str], Encoder]:
    """(family, trial) -> the model as the search saved it: the reference."""
    pairs = [(family, trial) for family in MODEL_NAMES for trial in (MIXED, EQUAL)]
    return {(f, t): load_encoder(str(runs[f].trial_folder(t))) for f, t in pairs}


@pytest.fixture(scope="session")
def outside(
    tmp_path_factory: pytest.TempPathFactory,
    exported: dict[tuple[str, str], Path],
    trials: dict[tuple[str, str], Encoder],
) -> dict[str, np.ndarray]:
    """What a process without effir_dist gets of all folders."""
    folder = tmp_path_factory.mktemp("outside")
    folders = {
        f"{family}-{trial}": {
            "path": str(path),
            "decoder": family in DECODERS,
            "pooling": trials[family, trial].settings.pooling,
            "prompt": trials[family, trial].settings.document_prompt,
        }
        for (family, trial), path in exported.items()
    }
    (folder / "given.json").write_text(json.dumps({"texts": texts(FEW), "folders": folders}))
    script = ROOT / "tests" / "outside.py"
    environment = {**os.environ, "HF_HOME": str(folder / "hf"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-I", str(script), str(folder / "given.json"), str(folder / "found.npz")]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    missing = re.findall(r"(\S+)\s*\|\s*MISSING", done.stderr)
    assert all("pooler" in name for name in missing), "transformers' own BERT has one, which no embedding uses"
    with np.load(folder / "found.npz") as arrays:
        return {name: arrays[name] for name in arrays.files}


@pytest.mark.parametrize("family", MODEL_NAMES)
@pytest.mark.parametrize("trial", [MIXED, EQUAL])
def test_strangers_get_the_same_embeddings_padded_on_either_side(
    family: str, trial: str, outside: dict[str, np.ndarray], trials: dict[tuple[str, str], Encoder]
) -> None:
    encoder = trials[family, trial]
    documents, queries = encoder.encode(texts(FEW)), encoder.encode(texts(FEW), "query")
    hows = {"query": queries, "document": documents, "AutoModel": documents}
    hows |= {"AutoModelForCausalLM": documents} if family in DECODERS else {}
    # transformers' own models count learned positions from the first padding, whoever made the weights.
    learned = any("position_embeddings" in name for name, _ in encoder.named_modules())
    learned = learned and not row_of(family).first_position(encoder.model_config)  # those find the padding themselves
    sides = ["right"] if learned and trial == EQUAL else ["right", "left"]
    for how, expected in hows.items():
        for side in sides:
            found = outside[f"{family}-{trial}/{how}/{side}"]
            assert found.shape == expected.shape
            assert cosines(found, expected).min() >= CLOSE, (how, side)
    assert cosines(documents, queries).max() < CLOSE, "prompts and lengths make a difference"


@pytest.mark.parametrize("family", MODEL_NAMES)
def test_with_effir_dist_no_remote_code_is_needed(
    family: str, exported: dict[tuple[str, str], Path], trials: dict[tuple[str, str], Encoder]
) -> None:
    from sentence_transformers import SentenceTransformer

    import effir_dist.auto

    path = exported[family, MIXED]
    model = SentenceTransformer(str(path))
    assert type(model[0].auto_model).__module__ == "effir_dist.models.modeling_effir"
    expected = trials[family, MIXED].encode(texts())
    assert cosines(model.encode_document(texts()), expected).min() >= CLOSE
    np.testing.assert_array_equal(effir_dist.load(str(path)).encode(texts()), expected)


@pytest.mark.parametrize("family", MODEL_NAMES)
def test_equal_widths_need_no_code_at_all(family: str, exported: dict[tuple[str, str], Path]) -> None:
    path = exported[family, EQUAL]
    config = json.loads((path / "config.json").read_text())
    assert config[row_of(family).width_key] == 20
    assert config["model_type"] == row_of(family).model_type
    card = (path / "README.md").read_text()
    assert ("which transformers reads from version 5.2 on" in card) == (config.get("is_causal") is False)
    assert not {"auto_map", "per_layer_config", "effir_layout"} & set(config)
    assert not list(path.glob("*.py"))


@pytest.mark.parametrize("family", MODEL_NAMES)
def test_other_widths_are_told_by_the_standard_key(
    family: str, exported: dict[tuple[str, str], Path], trials: dict[tuple[str, str], Encoder]
) -> None:
    from transformers import AutoConfig

    tree = json.loads((exported[family, MIXED] / "config.json").read_text())
    # As transformers itself reads it, in the family's own configuration.
    config: Any = AutoConfig.for_model(**{**tree, "model_type": row_of(family).model_type, "auto_map": None})
    plan = trials[family, MIXED].plan
    for block, layer in enumerate(config.per_layer_config):
        skip = [n for n, gone in (("attention", plan.dropped_attention), ("mlp", plan.dropped_mlp)) if block in gone]
        assert layer.skip == skip
        if "mlp" not in skip:
            assert getattr(layer, row_of(family).width_key) == dict(plan.widths).get(block, 48)


def test_a_folder_saved_again_by_sentence_transformers_loads_again(
    exported: dict[tuple[str, str], Path], trials: dict[tuple[str, str], Encoder], tmp_path: Path
) -> None:
    from sentence_transformers import SentenceTransformer

    SentenceTransformer(str(exported["llama", MIXED]), trust_remote_code=True).save(str(tmp_path / "again"))
    again = SentenceTransformer(str(tmp_path / "again"), trust_remote_code=True)
    assert cosines(again.encode_document(texts(20)), trials["llama", MIXED].encode(texts(20))).min() >= CLOSE


@pytest.mark.parametrize("family", MODEL_NAMES)
def test_the_saved_tokenizer_gives_the_ids_that_the_model_was_trained_on(
    family: str, exported: dict[tuple[str, str], Path], trials: dict[tuple[str, str], Encoder]
) -> None:
    from transformers import AutoTokenizer

    encoder = trials[family, MIXED]
    tokenizer = AutoTokenizer.from_pretrained(exported[family, MIXED], trust_remote_code=True)
    given = [*texts(), ""]
    ours = encoder.tokenize(given, "document")
    prompted = [encoder.settings.document_prompt + text for text in given]
    theirs = tokenizer(prompted, truncation=True, max_length=96)["input_ids"]
    assert theirs == [row.tolist() for row in ours]
    assert max(map(len, theirs)) == 96, "some are cut"
    assert not list(exported[family, MIXED].glob("*.bin"))


@pytest.mark.parametrize("adds", ["nothing", "a first token", "both"])
def test_end_of_text_follows_whatever_the_base_tokenizer_adds(
    adds: str, trials: dict[tuple[str, str], Encoder], tmp_path: Path
) -> None:
    from tokenizers import processors
    from transformers import AutoTokenizer

    source = trials["llama", MIXED]
    encoder = Encoder(source.backbone, copy.deepcopy(source.tokenizer), source.settings, source.model_config)
    template = {"nothing": "$A", "a first token": "[CLS] $A", "both": "[CLS] $A <eos>"}[adds]
    specials = [(token, i) for token, i in (("[CLS]", 1), ("<eos>", 3)) if token in template]
    # As Llama 3 has it: bytes, then a template, in a sequence.
    steps = [processors.ByteLevel(trim_offsets=True), processors.TemplateProcessing(template, None, specials)]
    encoder.tokenizer.backend_tokenizer.post_processor = processors.Sequence(steps)
    save_tokenizer(encoder, tmp_path)
    given = [*texts(20), "", "x", "a" * 200]
    ours = encoder.tokenize(given, "document")
    saved = AutoTokenizer.from_pretrained(tmp_path)
    theirs = saved([encoder.settings.document_prompt + text for text in given], truncation=True)["input_ids"]
    assert theirs == [row.tolist() for row in ours]


def test_an_edited_config_that_does_not_fit_its_weights_is_refused(
    exported: dict[tuple[str, str], Path], tmp_path: Path
) -> None:
    import shutil

    from transformers import AutoModel

    folder = Path(shutil.copytree(exported["llama", MIXED], tmp_path / "edited"))
    config = json.loads((folder / "config.json").read_text())
    config["per_layer_config"]["0"] = {"skip": ["mlp"]}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="do not fit per_layer_config in config.json"):
        AutoModel.from_pretrained(folder, trust_remote_code=True)


def test_only_an_unpruned_or_equal_model_is_plain(trials: dict[tuple[str, str], Encoder]) -> None:
    encoder = trials["bert", MIXED]
    assert not is_plain(encoder.model_config, encoder.plan)
    assert is_plain(encoder.model_config, trials["bert", EQUAL].plan)


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_folders_of_the_first_version_load_without_remote_code(
    family: str, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    """Their layout says `pre_norm`, true or false, and not where the norms are. A dropped layer leaves none."""
    from sentence_transformers import SentenceTransformer

    import effir_dist.auto  # noqa: F401

    encoder = load_encoder(str(checkpoints[family]))
    prune_encoder(encoder, make_plan(encoder.model_config, [2], [1], keep_norms=False), None)
    write_folder(encoder, tmp_path, "float32", {})
    config = json.loads((tmp_path / "config.json").read_text())
    assert not {"norms_behind", "keep_norms"} & set(config["effir_layout"])
    config["effir_layout"]["pre_norm"] = config["effir_layout"].pop("norm_placement") == "pre"
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = SentenceTransformer(str(tmp_path))
    assert cosines(model.encode_document(texts(20)), encoder.encode(texts(20))).min() >= CLOSE
