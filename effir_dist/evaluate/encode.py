"""`python -m effir_dist.encode MODEL TEXTS OUT`: a corpus as vectors on disk, by any number of processes.

Each process computes shards that are missing and that no other process computes. So a killed one is resumed by the same
command, and several GPUs share a corpus with a process each, each with its own CUDA_VISIBLE_DEVICES.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import sys
from pathlib import Path

from effir_dist.core.errors import check_least, command
from effir_dist.core.output import add_quiet, silenced
from effir_dist.core.settings import COMPILE, DTYPES, ScoreConfig
from effir_dist.models import own_code


def add_options(parser: argparse.ArgumentParser, dtype: str) -> None:
    """--dtype, with this default, and --batch-tokens of a command that encodes."""
    parser.add_argument("--dtype", choices=DTYPES, default=dtype, help="of the weights (default: %(default)s)")
    parser.add_argument(
        "--batch-tokens",
        type=int,
        default=ScoreConfig.batch_tokens,
        metavar="N",
        help="tokens in a batch, padding included (default: %(default)s, what suits the device)",
    )


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="python -m effir_dist.encode",
        description="Encode a corpus to vectors in shards on disk: float16, or float32 where they are not normalised. "
        "Run it again to resume it, and in several processes to share the work.",
    )
    result.add_argument(
        "model",
        help="name of a backbone (minilm), hub id, or folder of a checkpoint, of a sentence-transformers model, of a "
        "trial or of an export",
    )
    own_code.add_option(result)
    what = "corpus.jsonl of a BEIR-format folder, any file with a text a line, or a name such as beir:scifact"
    result.add_argument("texts", type=Path, help=what)
    result.add_argument("out", type=Path, help="folder for the shards")
    kinds = ("document", "query")
    result.add_argument("--kind", choices=kinds, default="document", help="prompt and length (default: %(default)s)")
    add_options(result, "auto")
    result.add_argument("--compile", choices=COMPILE, default="auto", help="the model's blocks (default: %(default)s)")
    result.add_argument("--max-length", type=int, metavar="N", help="tokens kept of a text (default: the model's own)")
    result.add_argument(
        "--shard-texts", type=int, default=65536, metavar="N", help="texts of a shard (default: %(default)s)"
    )
    add_quiet(result)
    return result


@command
def main() -> None:
    arguments = parser().parse_args()
    check_least(arguments, {"batch_tokens": 0, "max_length": 4, "shard_texts": 1})
    # DeepSpeed, which transformers imports, logs to stdout.
    with silenced(arguments.quiet), contextlib.redirect_stdout(sys.stderr):
        line = encode(arguments)
    print(line)


def encode(arguments: argparse.Namespace) -> str:
    """Compute the missing shards. Returns a line for the user. Raises InputError for a bad model, texts or folder."""
    from effir_dist.evaluate import shards
    from effir_dist.models import encoding
    from effir_dist.models.encoder import load_encoder
    from effir_dist.models.vocabulary import check_encoder

    texts = shards.TextFile.open(_corpus(arguments.texts))
    encoder = load_encoder(arguments.model, arguments.dtype, arguments.trust_remote_code)
    if arguments.max_length:
        length = {f"max_{arguments.kind}_length": arguments.max_length}
        encoder.settings = dataclasses.replace(encoder.settings, **length)
    sample = texts.read(0, min(len(texts), encoding.SAMPLE))
    check_encoder(encoder, arguments.model, sample)
    compiled = encoding.worth_compiling(encoder, sample, arguments.kind, len(texts), arguments.compile)
    options = {"kind": arguments.kind, "batch_tokens": arguments.batch_tokens, "compiled": compiled}
    vectors_of = functools.partial(encoder.encode, **options)
    about = {"kind": arguments.kind}
    done = shards.encode_corpus(encoder, texts, arguments.out, vectors_of, arguments.shard_texts, about, _say)
    left = shards.unfinished(arguments.out)
    more = f"; other processes compute {left} more: run this again if those are killed" if left else ""
    return f"{arguments.out}: {done} shards computed{more}"


def _corpus(texts: Path) -> Path:
    """The file with the texts: of a named data set its corpus."""
    from effir_dist.data import beir, sets
    from effir_dist.data.named import names

    return beir.part(sets.resolve(str(texts)), "test") / "corpus.jsonl" if names.is_name(str(texts)) else texts


def _say(line: str) -> None:
    print(line, flush=True)
