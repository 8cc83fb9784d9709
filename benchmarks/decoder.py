"""A small decoder retriever, trained from scratch on the built-in pairs: python -m benchmarks.decoder FOLDER

A Qwen3 architecture of 8.6 M parameters with last-token pooling, for comparisons that would need a GPU with a real one.
Its vocabulary is learned from the same texts. Beside the 12,961 pairs it learns from crops of their passages (Izacard
et al., 2022), without which it learns the training packages' words and nothing of others'. FOLDER is then a checkpoint,
and FOLDER/training.json says how it was made and what it scores on queries of other packages.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from pathlib import Path
from typing import Any

from effir_dist.core.settings import DataConfig, ModelConfig, TrainConfig
from effir_dist.data.pairs import TrainingPairs, training_pairs
from effir_dist.data.sets import load_collection

EOS = "<eos>"
VOCABULARY = 24576


def tokenizer(texts: list[str]) -> Any:
    """A byte-level BPE of VOCABULARY tokens, learned from `texts`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    learned = Tokenizer(models.BPE())
    learned.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    learned.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[EOS], initial_alphabet=alphabet, show_progress=False
    )
    learned.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=learned, eos_token=EOS, pad_token=EOS)


def untrained(vocabulary: int) -> Any:
    """Random weights: L=8, D=192, F=576."""
    from transformers import AutoModel, Qwen3Config

    sizes = {"hidden_size": 192, "intermediate_size": 576, "num_hidden_layers": 8, "head_dim": 32}
    heads = {"num_attention_heads": 6, "num_key_value_heads": 6}
    limits = {"vocab_size": vocabulary, "max_position_embeddings": 512, "eos_token_id": 0, "bos_token_id": None}
    return AutoModel.from_config(Qwen3Config(**sizes, **heads, **limits))


def with_crops(pairs: TrainingPairs, crops: int) -> TrainingPairs:
    """The pairs, and `crops` more of each passage: two stretches of its words, drawn apart from each other."""
    rng = random.Random(0)

    def crop(words: list[str], low: int, high: int) -> str:
        size = min(len(words), rng.randint(low, high))
        start = rng.randint(0, len(words) - size)
        return " ".join(words[start : start + size])

    texts = [text.split() for text in dict.fromkeys(pairs.positives) for _ in range(crops)]
    queries = [*pairs.queries, *(crop(words, 4, 10) for words in texts)]
    passages = [*pairs.positives, *(crop(words, 15, 40) for words in texts)]
    return TrainingPairs(queries, passages, [[] for _ in queries], [[math.nan] for _ in queries])


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decoder", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=float, default=1, help="passes over the pairs and their crops (default: 1)")
    parser.add_argument("--crops", type=int, default=3, help="pairs of crops of each passage (default: 3)")
    parser.add_argument("--batch", type=int, default=64, help="pairs in a step (default: 64)")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--query-length", type=int, default=24)
    parser.add_argument("--document-length", type=int, default=48)
    parser.add_argument("--data", default="pydocs", help="data set (default: pydocs)")
    parser.add_argument("--threads", type=int, help="of the processor (default: all)")
    return parser.parse_args()


def main() -> None:
    """Train, score, save, and print what it took."""
    import torch

    from effir_dist.evaluate.evaluation import evaluate
    from effir_dist.models.encoder import Encoder, make_settings
    from effir_dist.models.pretrained import Source
    from effir_dist.training.trainer import train

    args = arguments()
    torch.set_num_threads(args.threads or torch.get_num_threads())
    torch.manual_seed(0)
    pairs = with_crops(training_pairs(DataConfig(paths=(args.data,)), 0), args.crops)
    words = tokenizer([*pairs.queries, *pairs.positives])
    model = untrained(len(words))
    lengths = {"max_query_length": args.query_length, "max_document_length": args.document_length}
    model_config = model.config.to_dict()
    settings = make_settings(ModelConfig(query_prompt="", **lengths), Source("made", "", model_config))
    encoder = Encoder(model, words, settings, model_config)
    step = {"batch_size": args.batch, "learning_rate": args.learning_rate}
    config = TrainConfig(epochs=args.epochs, weight_decay=0.01, temperature=0.05, dtype="float32", **step)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(pairs.queries)} pairs", flush=True)
    started = time.perf_counter()
    outcome = train(encoder, pairs, config, lambda progress: print(progress, flush=True))
    facts = {**vars(args), "folder": str(args.folder), "steps": outcome.steps, "loss": outcome.last_loss}
    facts["seconds"] = round(time.perf_counter() - started, 1)
    for split in ("dev", "test"):
        found = evaluate(encoder, load_collection(args.data, split), 16384)
        facts[f"ndcg_at_10[{split}]"] = found.metrics["ndcg_at_10"]
    facts["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    encoder.cpu()
    model.save_pretrained(args.folder)
    words.save_pretrained(args.folder)
    (args.folder / "training.json").write_text(json.dumps(facts, indent=2))
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
