"""Encoding, from texts to vectors: on a CPU against the best that a user could pick (peers.py) and the model's own
matrix products, on a GPU against sentence-transformers, plain transformers and the matrix product."""

from __future__ import annotations

import dataclasses
import functools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.speed import models, peers
from benchmarks.speed.frame import Cases, Comparison, Options, Variant

if TYPE_CHECKING:
    from effir_dist.models.encoder import Encoder

OWN = "its own matrices"
"""The limit of a model's rate: its linear layers, and nothing else."""
EXACT = "least cosine with float32"
"""A fact of each row: of each tool's embeddings with ours in float32."""
COUNTS = {
    "documents": {"smollm2": 12, "mpnet": 24, "minilm": 64},
    "queries": {"smollm2": 64, "mpnet": 96, "minilm": 256},
}
"""Texts of a comparison, so that a call takes some seconds at most."""


def comparisons(options: Options) -> Iterator[Comparison]:
    """Documents and queries of real models in this machine's dtype, then documents in float32."""
    names = ["qwen3-9m"] if options.small else list(models.there("smollm2", "mpnet", "minilm"))
    first = [(options.dtype, "documents"), (options.dtype, "queries")]
    for ways in (first, [] if options.dtype == "float32" else [("float32", "documents")]):
        for name in names if ways else ():
            with tempfile.TemporaryDirectory() as folder:
                model = peers.Model(_mean_of_tokens(name, options, "float32"), Path(folder), options)
                yield from (_on_cpu(name, model, dtype, kind) for dtype, kind in ways)


def _mean_of_tokens(name: str, options: Options, dtype: str) -> Encoder:
    """A model that all tools pool alike: the mean of a text's tokens, without `<eos>` and prompts."""
    from effir_dist.models.encoder import cast

    encoder = models.shaped(name, options) if options.small else models.real(name, options, dtype)
    settings = {"pooling": "mean", "append_eos": False, "document_prompt": ""}
    encoder.settings = dataclasses.replace(encoder.settings, **settings)
    return cast(encoder, dtype)


def _on_cpu(name: str, model: peers.Model, dtype: str, kind: str) -> Comparison:
    """Ours against all that a user could pick, and against the model's own matrix products."""
    from effir_dist.models.encoding import batches
    from effir_dist.models.flops import count_flops

    options = model.options
    encoder = model.float32 if dtype == "float32" else _mean_of_tokens(name, options, dtype)
    texts = _texts(COUNTS[kind].get(name, 8), kind)
    tokens = encoder.tokenize(texts, "document")
    flops = count_flops(encoder.model_config, tokens.lengths)
    plan = [int(tokens.lengths[places].sum()) for places in batches(encoder, tokens.lengths)]
    variants = {
        "ours": Variant(lambda: _finite(encoder.encode(texts))),
        OWN: Variant(peers.own_matrices(encoder, plan)),
        "matrix product": models.matrix_product(options, flops, dtype=dtype),
    }
    vectors = encoder.encode(texts)
    exact = vectors if encoder is model.float32 else model.float32.encode(texts)
    facts: dict[str, Any] = {EXACT: {"ours": _least(vectors, exact)}, "least cosine with ours": {}}
    goals = {OWN: 0.5}
    for peer in peers.peers(model, dtype, texts, kind):
        if isinstance(peer, str):
            facts.setdefault("left out", []).append(peer)
            continue
        theirs = peer.encode(texts, peer.batch)
        facts[EXACT][peer.name] = _least(theirs, exact)
        facts["least cosine with ours"][peer.name] = _least(theirs, vectors)
        variants[peer.name] = Variant(lambda peer=peer: peer.encode(texts, peer.batch))
        goals |= {} if "int8" in peer.name else {peer.name: 1.2 if name == "smollm2" else 1.0}
    mean = tokens.lengths.mean()
    batch = f"{len(plan)} batches"
    label = f"{name}, {dtype}, {len(texts)} {kind} of {mean:.0f} tokens, {options.threads} thread(s), ours in {batch}"
    return Comparison(label, variants, len(texts), kind, goals, flops=flops, facts=facts)


def _texts(count: int, kind: str) -> list[str]:
    """Passages, cut at 256 tokens by the models; or nine plain words of each, as a query has them."""
    found = models.passages(count)
    if kind == "documents":
        return found
    return [" ".join([word for word in text.split() if word.isalpha()][:9]) for text in found]


def _least(one: np.ndarray, other: np.ndarray) -> float:
    """The least cosine of two embeddings of one text."""
    return float((one * other).sum(1).min())


def gpu_cases(options: Options) -> Cases:
    """Decoders of random weights, and MiniLM."""
    shapes = {"qwen3-0.6b": 512, "smollm2": 1024}
    cases = {name: functools.partial(_of_shape, name, count, options) for name, count in shapes.items()}
    return {**cases, "minilm": functools.partial(_of_minilm, options)}


def _of_shape(name: str, count: int, options: Options) -> Iterator[Comparison]:
    texts = models.letters(8, 32) if options.small else models.letters(count, 256)
    yield _comparison(f"{name}, random weights", models.shaped(name, options), texts, options)


def _of_minilm(options: Options) -> Iterator[Comparison]:
    count = 8 if options.small else 4096
    yield _comparison("all-MiniLM-L6-v2", models.minilm(options), models.passages(count), options)


def _comparison(name: str, encoder: Encoder, texts: list[str], options: Options) -> Comparison:
    from effir_dist.models.flops import count_flops

    tokens = encoder.tokenize(texts, "document")
    flops = count_flops(encoder.model_config, tokens.lengths)
    theirs, facts = _theirs(encoder, texts, options)

    def ours(compiled: str, batch_tokens: int = 0) -> Variant:
        return Variant(lambda: _finite(encoder.encode(texts, "document", batch_tokens, compiled)))

    variants = {
        "ours": ours(options.compiled),
        **theirs,
        "plain transformers": Variant(lambda: models.plain_transformers(encoder, texts)),
        "matrix product": models.matrix_product(options, flops),
    }
    variants["ours, not compiled"] = ours("never")
    goals = {**dict(zip(theirs, (1.5,), strict=False)), "matrix product": 0.5}
    label = f"{name}, {options.dtype}, {len(texts)} passages of {tokens.lengths.mean():.0f} tokens"
    return Comparison(label, variants, len(texts), "passages", goals, flops=flops, facts=facts)


def _theirs(encoder: Encoder, texts: list[str], options: Options) -> tuple[dict[str, Variant], dict[str, Any]]:
    """sentence-transformers as it comes and at its best batch; nothing where it is not installed."""
    try:
        sentences = models.sentence_model(encoder, options)
    except ImportError:
        return {}, {}
    best = 256

    def variant(model: Any, batch: int) -> Variant:
        return Variant(lambda: model.encode(texts, batch_size=batch, normalize_embeddings=True))

    variants = {
        "sentence-transformers, its defaults": variant(sentences, 32),
        f"sentence-transformers, {options.dtype}, batches of {best}": variant(sentences, best),
    }
    return variants, {"least cosine with sentence-transformers": _agreement(encoder, sentences, texts[:64])}


def _finite(vectors: np.ndarray) -> None:
    if not np.isfinite(vectors).all():
        raise ArithmeticError("embeddings are not finite")


def _agreement(encoder: Encoder, sentences: Any, texts: list[str]) -> float:
    """The least cosine of a text's two embeddings; of models that pool alike, else not a number."""
    if encoder.settings.pooling != "mean":
        return float("nan")
    return float((encoder.encode(texts) * sentences.encode(texts, normalize_embeddings=True)).sum(1).min())
