"""Encoding by every way that it is done gives the same embeddings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModel

from effir_dist.data.sets import load_collection
from effir_dist.evaluate import evaluation, ranks
from effir_dist.models import encoding
from effir_dist.models.encoder import Encoder, load_encoder, pad, resolve_dtype
from effir_dist.models.families.registry import family
from effir_dist.models.flops import count_flops
from effir_dist.models.kernels import packed, prepacked, tiled
from effir_dist.models.kernels.processor import Processor, this_processor
from tests import tiny
from tests.tiny import MODEL_NAMES, REPLACEABLE, row_of, tiny_checkpoint, windowed, write_collection

LENGTHS = (1, 3, 90, 17, 90, 41, 5, 120, 17, 64)
TEXTS = ["abcde fghij "[: 1 + n % 12] * (n // 12 + 1) for n in LENGTHS]


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {name: tiny_checkpoint(folder, name, **windowed(name)) for name in MODEL_NAMES}


def encoder_of(path: Path, pruned: bool = False) -> Encoder:
    encoder = load_encoder(str(path))
    return tiny.pruned(encoder) if pruned else encoder


def packed_vectors(encoder: Encoder, texts: list[str]) -> np.ndarray:
    """[N, D] of one packed batch."""
    tokens = encoder.tokenize(texts, "document")
    batch = packed.pack(tokens, np.arange(len(tokens)), encoder.device)
    with torch.inference_mode(), packed.attention(encoder.backbone):
        return encoding.encode_packed(encoder, batch).numpy()


def cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return (one.astype(np.float64) * other).sum(1)


@pytest.mark.parametrize("pruned", [False, True], ids=["whole", "pruned"])
@pytest.mark.parametrize("name", REPLACEABLE)
def test_packed_texts_have_the_embeddings_of_padded_ones(name: str, pruned: bool, checkpoints: dict[str, Path]) -> None:
    encoder = encoder_of(checkpoints[name], pruned)
    for pooling in ("mean", "last", "cls"):
        encoder.settings = encoder.settings.__class__(**{**vars(encoder.settings), "pooling": pooling})
        padded, found = encoder.encode(TEXTS, batch_tokens=10_000), packed_vectors(encoder, TEXTS)
        assert cosines(found, padded).min() >= 0.99999, pooling
    assert cosines(encoder.encode(TEXTS, batch_tokens=1), padded).min() >= 0.99999
    assert encoder.backbone.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_the_longest_text_that_a_model_takes_is_taken(name: str, checkpoints: dict[str, Path]) -> None:
    """Of 128 positions; some families leave the first ones to padding."""
    encoder, texts = load_encoder(str(checkpoints[name])), ["x" * 200]
    first = row_of(name).first_position(encoder.model_config)
    assert encoder.tokenize(texts, "document").lengths.tolist() == [128 - first]
    assert np.isfinite(encoder.encode(texts)).all()
    if name in REPLACEABLE:
        assert cosines(packed_vectors(encoder, texts), encoder.encode(texts)).min() >= 0.99999
    if first:
        with pytest.raises((IndexError, RuntimeError)):
            encoder.backbone(input_ids=torch.full((1, 129 - first), 5))


@pytest.mark.parametrize("pruned", [False, True], ids=["whole", "pruned"])
@pytest.mark.parametrize("name", MODEL_NAMES)
def test_a_cpus_fast_blocks_compute_what_transformers_does(
    name: str, pruned: bool, checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attention in several tiles, and by torch's kernel; texts that are padded."""
    encoder = encoder_of(checkpoints[name], pruned)
    tokens = encoder.tokenize(TEXTS, "document")
    with torch.inference_mode():
        expected = encoder(*pad(tokens, np.arange(len(tokens)), encoder.pad_id, encoder.device)).numpy()
    monkeypatch.setattr(tiled, "MOST_ROWS", 16)
    for tiles in (True, False):
        monkeypatch.setattr(tiled, "pays", lambda *_, tiles=tiles: tiles)
        found = encoder.encode_tokens(tokens, batch_tokens=10_000)
        assert cosines(found, expected).min() >= 0.999999
        if name in REPLACEABLE:
            assert cosines(packed_vectors(encoder, TEXTS), expected).min() >= 0.999999
    assert encoder.backbone.config._attn_implementation == row_of(name).attention_implementation


@pytest.mark.parametrize("pruned", [False, True], ids=["whole", "pruned"])
@pytest.mark.parametrize("name", MODEL_NAMES)
def test_reordered_weights_give_the_same_embeddings_and_are_let_go(
    name: str, pruned: bool, checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = encoder_of(checkpoints[name], pruned)
    tokens = encoder.tokenize(TEXTS, "document")
    expected = encoder.encode_tokens(tokens)
    monkeypatch.setattr(prepacked, "LEAST_TOKENS", 0)
    with prepacked.linear_layers(encoder.backbone, 1):
        changed = [module for module in encoder.backbone.modules() if "forward" in vars(module)]
        gated = [module for module in changed if not isinstance(module, torch.nn.Linear)]
        assert len(changed) > len(gated)
        assert bool(gated) == any(
            type(m).__name__.endswith("MLP") and hasattr(m, "act_fn") and hasattr(m, "gate_proj")
            for m in encoder.backbone.modules()
        )
    assert cosines(encoder.encode_tokens(tokens), expected).min() >= 0.99999
    assert not any("forward" in vars(module) for module in encoder.backbone.modules())


def test_reordered_weights_are_those_of_the_moment(
    checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that went on training is encoded with what it learned; too few tokens, and nothing is reordered."""
    encoder = encoder_of(checkpoints["llama"])
    monkeypatch.setattr(prepacked, "LEAST_TOKENS", 0)
    before = encoder.encode(TEXTS)
    with torch.no_grad():
        for parameter in encoder.backbone.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    found = encoder.encode(TEXTS)
    monkeypatch.setattr(prepacked, "LEAST_TOKENS", 10**9)
    assert cosines(found, encoder.encode(TEXTS)).min() >= 0.99999
    assert cosines(found, before).min() < 0.999


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_short_texts_are_packed_on_a_cpu_where_the_model_allows(
    name: str, checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = encoder_of(checkpoints[name], pruned=True)
    batches: list[int] = []
    pack = packed.pack
    monkeypatch.setattr(
        packed, "pack", lambda tokens, rows, device: batches.append(len(rows)) or pack(tokens, rows, device)
    )
    found = encoder.encode(TEXTS)
    assert sum(batches) == (len(TEXTS) if name in REPLACEABLE else 0)
    monkeypatch.setattr(encoding, "SHORT", 0)
    assert cosines(found, encoder.encode(TEXTS)).min() >= 0.99999


def test_a_packed_text_does_not_see_its_neighbours(checkpoints: dict[str, Path]) -> None:
    for name in ("bert", "qwen3"):
        encoder = encoder_of(checkpoints[name])
        one, other = packed_vectors(encoder, ["some text", "another"]), packed_vectors(encoder, ["some text", "z" * 60])
        np.testing.assert_allclose(one[0], other[0], atol=1e-6)


def test_texts_come_back_in_order_from_slices_and_into_a_file(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = encoder_of(checkpoints["bert"])
    expected = encoder.encode(TEXTS)
    monkeypatch.setattr(encoding, "SLICE", 3)
    np.testing.assert_allclose(encoder.encode(TEXTS), expected, atol=1e-6)
    out = np.lib.format.open_memmap(tmp_path / "vectors.npy", "w+", np.float16, expected.shape)
    encoding.encode(encoder, encoder.tokenize(TEXTS, "document"), out=out)
    np.testing.assert_allclose(np.load(tmp_path / "vectors.npy").astype(np.float32), expected, atol=1e-3)
    assert encoder.encode([]).shape == (0, 32)


def test_vectors_on_disk_score_as_those_in_memory(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, collection = encoder_of(checkpoints["bert"]), load_collection(str(write_collection(tmp_path / "c")), "dev")
    expected = evaluation.evaluate(encoder, collection)
    monkeypatch.setattr(evaluation, "ON_DISK_BYTES", 0)
    monkeypatch.setattr(evaluation, "PART", 7)
    seen: list[np.ndarray] = []
    search = evaluation.exact_search
    for module in (evaluation, ranks):
        monkeypatch.setattr(module, "exact_search", lambda q, d, k: seen.append(d) or search(q, d, k))
    for found in (evaluation.evaluate(encoder, collection), evaluation.evaluate_texts(encoder, collection, 0)):
        assert found.metrics == pytest.approx(expected.metrics, abs=0.02)
    for vectors in seen:
        assert isinstance(vectors, np.memmap)
        assert vectors.dtype == np.float16
        assert not Path(vectors.filename).exists()  # type: ignore[arg-type]
    np.testing.assert_array_equal(*seen)


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_in_bfloat16_a_model_computes_what_transformers_does(name: str, checkpoints: dict[str, Path]) -> None:
    """To the bit, at positions where rounded rotary frequencies would turn a token another way."""
    encoder = load_encoder(str(checkpoints[name]), "bfloat16")
    model = AutoModel.from_pretrained(checkpoints[name], dtype=torch.bfloat16).eval()
    ids = torch.arange(4, 104)[None]
    with torch.inference_mode():
        expected = model(input_ids=ids).last_hidden_state
        torch.testing.assert_close(encoder.backbone(input_ids=ids).last_hidden_state, expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_what_is_no_weight_is_as_exact_after_bfloat16_as_before(name: str, checkpoints: dict[str, Path]) -> None:
    """Such as rotary frequencies and the scale of embeddings: trained in bfloat16, a model is scored in float32."""
    rounded, exact = (load_encoder(str(checkpoints[name]), dtype) for dtype in ("bfloat16", "float32"))
    expected = dict(exact.backbone.named_buffers())
    assert expected
    for key, buffer in rounded.backbone.named_buffers():
        torch.testing.assert_close(buffer, expected[key], rtol=0, atol=0)


@pytest.mark.parametrize("pruned", [False, True], ids=["whole", "pruned"])
@pytest.mark.parametrize("name", MODEL_NAMES)
def test_flops_are_those_that_torch_counts(name: str, pruned: bool, checkpoints: dict[str, Path]) -> None:
    encoder = encoder_of(checkpoints[name], pruned)
    encoder.backbone.set_attn_implementation("eager")
    tokens = encoder.tokenize(["x" * 50] * 3, "document")
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        encoder(*pad(tokens, np.arange(3), encoder.pad_id, encoder.device))
    length = int(tokens.lengths[0])
    counted = counter.get_total_flops()
    row = family(encoder.model_config)
    if row.causal(encoder.model_config):  # torch multiplies what a causal mask then hides
        blocks = 4 - len(encoder.plan.dropped_attention)
        inner = row.query_width(encoder.model_config)
        counted -= 3 * blocks * 4 * inner * length * (length - 1) // 2
    # Norms and biases count as matrices do: of models as small as these some per cent.
    assert count_flops(encoder.model_config, tokens.lengths, encoder.plan) == pytest.approx(counted, rel=0.06)


@pytest.mark.slow
def test_compiled_blocks_give_the_same_embeddings_padded_and_packed(checkpoints: dict[str, Path]) -> None:
    encoder = encoder_of(checkpoints["bert"])
    expected = encoder.encode(TEXTS)
    with encoding.compiled_blocks(encoder):
        assert cosines(packed_vectors(encoder, TEXTS), expected).min() >= 0.99999
    assert cosines(encoder.encode(TEXTS, compiled="always"), expected).min() >= 0.99999
    assert all(block._compiled_call_impl is None for block in encoder.backbone.modules())


@pytest.mark.gpu
@pytest.mark.parametrize("name", MODEL_NAMES)
def test_a_gpu_packs_where_it_can_and_agrees_with_the_cpu(name: str, checkpoints: dict[str, Path]) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    encoder = load_encoder(str(checkpoints[name]), "bfloat16")
    assert packed.possible(encoder.backbone) == (name in REPLACEABLE)
    found = encoder.encode(TEXTS)
    assert cosines(found, encoder.to("cpu", torch.float32).encode(TEXTS)).min() >= 0.99


@pytest.mark.parametrize(
    ("processor", "expected"),
    [
        (Processor(amx=True, avx512_bf16=True), "bfloat16"),
        (Processor(amd=True, avx512_bf16=True), "bfloat16"),
        (Processor(avx512_bf16=True), "float32"),
        (Processor(amd=True), "float32"),
    ],
)
def test_auto_is_bfloat16_on_processors_that_are_faster_in_it(
    processor: Processor, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_dtype("auto", processor) == expected


@pytest.mark.parametrize(("maker", "amd"), [("AuthenticAMD", True), ("GenuineIntel", False)])
def test_the_maker_of_the_processor_is_as_linux_says(maker: str, amd: bool, tmp_path: Path) -> None:
    facts = tmp_path / "cpuinfo"
    facts.write_text(f"vendor_id\t: {maker}\n")
    assert this_processor(facts).amd is amd
    assert not this_processor(tmp_path / "nowhere").amd
