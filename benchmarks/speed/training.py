"""Pairs a second in training: ours against sentence-transformers, the same texts, batch, lengths and AdamW.

Ours is the search's own loop, `training.fit`, within the engine of one rank. For sentence-transformers it is its loss
in a plain loop, on texts tokenised beforehand: less work than its trainer does, which tokenises while it trains; with
the dropout that a model comes with, and without. In bfloat16 both keep float32 weights for AdamW: ours beside those
that compute, its by autocast, as its trainer with bf16=True. On a CPU one case, with and without DeepSpeed, has a
model so thin that hardly anything is left but Python and launches: what a GPU waits for while it trains a small model.
"""

from __future__ import annotations

import dataclasses
import functools
import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.speed import trained as models
from benchmarks.speed.frame import Cases, Comparison, Options, Variant
from benchmarks.speed.machine import allocated, used_since, waits

if TYPE_CHECKING:
    from effir_dist.data.pairs import TrainingPairs

GOAL = 1.5
LENGTH = 256
STEADY = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
"""A BERT's configuration without dropout, as ours trains; decoders have none."""


@dataclass(frozen=True)
class Case:
    """What is trained."""

    name: str
    folder: str
    """The model's; in a table of cases its name."""
    batch: int
    steps: int
    changes: Mapping[str, Any]
    """Settings of ours beside the batch."""
    length: int = LENGTH
    """Tokens kept of a text."""
    mini_batch: int = 0
    """Of sentence-transformers' CachedMultipleNegativesRankingLoss; 0 takes MultipleNegativesRankingLoss."""


LORA = {"lora_rank": 16}
GPU = {
    "minilm": Case("minilm", "minilm", 64, 40, {}),
    "minilm, large batch": Case("minilm", "minilm", 512, 8, {}),
    "minilm, 8192 pairs in chunks": Case(
        "minilm, in chunks", "minilm", 8192, 1, {"gradcache_tokens": 65536}, mini_batch=512
    ),
    "smollm2": Case("smollm2's shape", "smollm2", 64, 8, {}),
    "qwen3-0.6b": Case("qwen3-0.6b's shape", "qwen3-0.6b", 64, 3, {}),
    "qwen3-0.6b, LoRA": Case("qwen3-0.6b's shape, LoRA", "qwen3-0.6b", 64, 3, LORA),
    "qwen3-0.6b, ZeRO 2": Case("qwen3-0.6b's shape, ZeRO 2", "qwen3-0.6b", 64, 3, {"zero_stage": 2}),
    "qwen3-0.6b, ZeRO 3": Case("qwen3-0.6b's shape, ZeRO 3", "qwen3-0.6b", 64, 3, {"zero_stage": 3}),
}
"""A case of a GPU -> what is trained in it; with ZeRO 0 and 1 one rank trains without DeepSpeed."""


def gpu_cases(options: Options) -> Cases:
    """A comparison each."""
    return {name: functools.partial(_alone, case, options) for name, case in GPU.items()}


def _alone(case: Case, options: Options) -> Iterator[Comparison]:
    with models.scratch() as folder:
        yield from compared(made(case, Path(folder), options), options)


def made(case: Case, folder: Path, options: Options) -> Case:
    """A case of a table with its model in `folder`; narrow and with few texts where `options` say so."""
    path = models.made(case.folder, folder, options)
    if not options.small:
        return dataclasses.replace(case, folder=path)
    less = {key: min(value, 128) if "gradcache" in key else value for key, value in case.changes.items()}
    small = {"batch": 8, "steps": 1, "changes": less, "length": 32, "mini_batch": min(case.mini_batch, 4)}
    return dataclasses.replace(case, folder=path, **small)


def cases(options: Options, folder: Path) -> Iterator[Case]:
    """Those of a CPU, the most telling first: time may run out."""
    minilm = models.minilm(folder)
    batch, tokens = (8, 256) if options.small else (64, 2048)
    yield Case("minilm", minilm, batch // 2, 1, {})
    sizes = {"num_hidden_layers": 6, "hidden_size": 24, "intermediate_size": 48}
    thin = models.random_model("bert-base", folder, options.device, **sizes)
    for name, changes in (("", {}), (", by DeepSpeed's ZeRO 2", {"zero_stage": 2})):
        label = f"6 blocks of 24 dimensions, hardly any arithmetic{name}"
        yield Case(label, thin, 4, 4 if options.small else 40, changes, 8)
    yield Case("minilm, in parts", minilm, batch, 1, {"gradcache_tokens": tokens}, mini_batch=batch // 4)


def comparisons(options: Options) -> Iterator[Comparison]:
    """A comparison a case: real models first."""
    from benchmarks.speed import real_training

    yield from real_training.comparisons(options)
    with models.scratch() as folder:
        for case in cases(options, Path(folder)):
            yield from compared(case, options)
            gc.collect()


def compared(case: Case, options: Options) -> Iterator[Comparison]:
    """Ours beside theirs; afterwards neither is left."""
    found = models.pairs(case.batch * case.steps)
    with ours(case, options, found) as (variant, facts), theirs(case, options, found) as others:
        yield Comparison(
            name=f"{case.name}, {case.batch} pairs of up to {case.length} tokens, {options.dtype}",
            variants={"ours": variant, **others},
            amount=case.batch * case.steps,
            unit="pairs",
            goals=dict.fromkeys(others, GOAL),
            facts=facts,
        )


@dataclass(frozen=True)
class Prepared:
    """Ours, ready for steps."""

    case: Case
    engine: Any
    encoder: Any
    examples: Any
    config: Any

    def steps(self, collator: Any = None, teacher: Any = None, **changes: float) -> dict[str, float]:
        """All steps of the case. collator: None groups texts as the product does; changes: of the loss."""
        from effir_dist.training import trainer

        begin, config = allocated(), dataclasses.replace(self.config, **changes)
        progress = trainer.Progress(lambda _: None, self.case.steps, config, None)
        trainer.run_steps(self.engine, self.encoder, self.examples, config, teacher, progress, collator=collator)
        return {"loss": progress.last_loss, **used_since(begin)}

    def collator(self, **changes: Any) -> Any:
        """How the product groups texts, with changes."""
        from effir_dist.training import trainer

        found = trainer.fitted_collator(self.engine, self.encoder, self.examples, self.config, None)
        return dataclasses.replace(found, **changes)

    def facts(self) -> dict[str, Any]:
        """How many tokens and groups the first batch has, and how much of it is padding."""
        from effir_dist.training.batches import batches

        collator, batch = self.collator(), next(batches(self.examples, self.config))
        groups = [group for chunk in collator.collate(batch).chunks for group in chunk]
        queries, passages = self.examples.queries.lengths, self.examples.passages.lengths
        tokens = int(queries[batch.queries].sum() + passages[batch.passages[:, 0]].sum())
        computed = sum(group[0].numel() if isinstance(group, tuple) else group.ids.numel() for group in groups)
        return {"tokens": tokens, "padding": 1 - tokens / computed, "groups": len(groups), "packed": collator.packs}


@contextmanager
def prepared(case: Case, options: Options, pairs: TrainingPairs) -> Iterator[Prepared]:
    """Ours within one engine, the mean of tokens pooled, without prompts."""
    from effir_dist.core.settings import ModelConfig, TrainConfig
    from effir_dist.models import pretrained
    from effir_dist.models.encoder import build_encoder, make_settings
    from effir_dist.training.batches import examples_of
    from effir_dist.training.engine import running_engine, start_distributed
    from effir_dist.training.lora import adapted

    config = TrainConfig(steps=case.steps, batch_size=case.batch, learning_rate=2e-5, **case.changes)
    base = pretrained.load_base(pretrained.find("", case.folder), options.dtype)
    lengths = {"max_query_length": case.length, "max_document_length": case.length}
    settings = make_settings(ModelConfig(pooling="mean", query_prompt="", **lengths), base.source)
    encoder = build_encoder(base, settings, options.dtype)
    examples = examples_of(encoder, pairs, config, None)
    start_distributed()
    with adapted(encoder, config), running_engine(encoder, config) as engine:
        yield Prepared(case, engine, encoder, examples, config)


@contextmanager
def ours(case: Case, options: Options, pairs: TrainingPairs) -> Iterator[tuple[Variant, dict[str, Any]]]:
    """Steps within one engine, and how much of a batch is padding."""
    with prepared(case, options, pairs) as found:
        facts = found.facts()
        if options.device == "cuda":
            found.steps()
            facts["waits_a_step"] = waits(found.steps) / case.steps
        yield Variant(found.steps), facts


@contextmanager
def theirs(case: Case, options: Options, pairs: TrainingPairs) -> Iterator[dict[str, Variant]]:
    """sentence-transformers' loss in a plain loop; in bfloat16 also with weights that are bfloat16 alone.

    On a GPU, where minutes count, not with dropout too, which ours trains without. With LoRA theirs has adapters too.
    """
    import torch

    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        yield {}
        return
    found = {}
    names = {"sentence-transformers": (torch.float32, {}), "sentence-transformers, no dropout": (torch.float32, STEADY)}
    if options.gpu:
        del names["sentence-transformers"]
    if options.dtype == "bfloat16" and not case.mini_batch and not case.changes:
        names["sentence-transformers, no dropout, no float32 weights"] = (torch.bfloat16, STEADY)
    for name, (dtype, config) in names.items():
        kept = {"model_kwargs": {"dtype": dtype}, "config_kwargs": config}
        model = SentenceTransformer(case.folder, device=options.device, **kept)
        model.max_seq_length = case.length
        if rank := case.changes.get("lora_rank"):
            _add_adapters(model, rank)
        found[name] = Variant(loop(model, case, options, pairs))
    yield found


def _add_adapters(model: Any, rank: int) -> None:
    """On the linear layers, as ours has them."""
    from peft import LoraConfig, inject_adapter_in_model
    from torch import nn

    names = sorted({name.rsplit(".", 1)[-1] for name, module in model.named_modules() if isinstance(module, nn.Linear)})
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=names), model)


def loop(model: Any, case: Case, options: Options, pairs: TrainingPairs) -> Any:
    import torch
    from sentence_transformers import losses

    size = case.mini_batch
    loss_of = (
        losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=size)
        if size
        else losses.MultipleNegativesRankingLoss(model)
    )
    autocast = options.dtype == "bfloat16"
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-5, weight_decay=0.0, fused=True)
    tokenise = getattr(model, "preprocess", None) or model.tokenize
    batches = []
    for start in range(0, case.batch * case.steps, case.batch):
        rows = slice(start, start + case.batch)
        batches.append([tokenise(texts[rows]) for texts in (pairs.queries, pairs.positives)])

    def run() -> dict[str, float]:
        model.train()
        begin = allocated()
        values = []
        for columns in batches:
            features = [{k: _to(v, options.device) for k, v in column.items()} for column in columns]
            with torch.autocast(options.device, torch.bfloat16, enabled=autocast):
                loss = loss_of(features, torch.zeros(case.batch, device=options.device))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            values.append(loss.detach())
        return {"loss": float(torch.stack(values[-10:]).mean()), **used_since(begin)}

    return run


def _to(value: Any, device: str) -> Any:
    return value.to(device, non_blocking=True) if hasattr(value, "to") else value
