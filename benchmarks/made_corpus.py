"""A made-up data set in BEIR's format, as large as one likes: words are as frequent as in language (Zipf's law)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

WORDS = 300_000
EXPONENT = 1.05
LENGTHS = (56, 20, 8)
"""Words of a passage: mean and deviation, those of MS MARCO, and the least."""
BLOCK = 20_000


def vocabulary(rng: np.random.Generator) -> np.ndarray:
    """[WORDS] words, frequent ones first: stop words, MiniLM's own vocabulary in its order, then pairs of its words."""
    from bm25s.stopwords import STOPWORDS_EN

    from effir_dist.models import pretrained

    source = pretrained.find("minilm")
    known = pretrained.load_tokenizer(source.location).get_vocab()
    words = [w for w in sorted(known, key=known.__getitem__) if w.isascii() and w.isalpha() and len(w) > 2]
    rare = rng.choice(words, (WORDS, 2))
    return np.array([*STOPWORDS_EN, *words, *("".join(pair) for pair in rare.tolist())][:WORDS], object)


def texts(count: int, seed: int = 0) -> Iterator[list[str]]:
    """The words of each passage."""
    rng = np.random.default_rng(seed)
    words = vocabulary(rng)
    shares = (np.arange(1, WORDS + 1) ** -EXPONENT).cumsum()
    for start in range(0, count, BLOCK):
        size = min(BLOCK, count - start)
        mean, deviation, least = LENGTHS
        ends = rng.normal(mean, deviation, size).clip(least).astype(int).cumsum()
        drawn = words[np.searchsorted(shares, rng.random(ends[-1]) * shares[-1])]
        yield from (part.tolist() for part in np.split(drawn, ends[:-1]))


def write_corpus(folder: Path, passages: int, queries: int) -> None:
    """Passages, and queries of six words of one each, which it answers; all of them in the split `train`."""
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    rng, every = np.random.default_rng(1), max(1, passages // queries)
    with (
        (folder / "corpus.jsonl").open("w") as corpus,
        (folder / "queries.jsonl").open("w") as asked,
        (folder / "qrels" / "train.tsv").open("w") as qrels,
    ):
        qrels.write("query-id\tcorpus-id\tscore\n")
        for number, words in enumerate(texts(passages)):
            corpus.write(json.dumps({"_id": str(number), "title": "", "text": " ".join(words)}) + "\n")
            if number % every == 0:
                query = " ".join(rng.choice(words, 6).tolist())
                asked.write(json.dumps({"_id": f"q{number}", "text": query}) + "\n")
                qrels.write(f"q{number}\t{number}\t1\n")
