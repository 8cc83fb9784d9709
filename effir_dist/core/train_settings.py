"""Settings of one fine-tuning: `train`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from effir_dist.core.errors import check, one_of
from effir_dist.core.model_settings import DTYPES

RECOVER = "tune_prune_recover"
ORDERS = ("prune_then_tune", "tune_then_prune", RECOVER)


@dataclass(frozen=True)
class TrainConfig:
    """Contrastive fine-tuning of one trial (paper, section 4.1, or where it says nothing, the usual values)."""

    steps: int = 0
    """Optimizer steps; 0 trains for `epochs`."""
    epochs: float = 1.0
    """Passes over the training pairs where `steps` is 0. With both at 0 nothing is trained."""
    batch_size: int = 32
    """Query-positive pairs in a step, over all workers."""
    gradcache_queries: int = 0
    """GradCache: queries of a worker whose activations, and those of their passages, are in memory at a time. The
    gradient is that of the whole batch, for one more forward pass. 0 takes the batch at once."""
    gradcache_tokens: int = 0
    """GradCache by size: texts in the order of their length, in chunks of so many tokens, padding included. It takes
    the place of `gradcache_queries`. 0 turns it off."""
    hard_negatives: int = 0
    """Hard negatives of a query, where the data has them."""
    learning_rate: float = 1e-4
    """Of AdamW, at its highest: it rises at first and falls afterwards (`warmup_ratio`)."""
    warmup_ratio: float = 0.1
    """Share of the steps in which the learning rate rises from 0. It then falls linearly to 0."""
    weight_decay: float = 0.0
    """AdamW's."""
    max_grad_norm: float = 1.0
    """The gradient's global l2 norm is clipped to this; 0 turns it off."""
    temperature: float = 0.05
    """Divides the similarities in InfoNCE, and those of student and unpruned model in the distillations. A search takes
    1 where it is not set and embeddings are not normalised (similarity dot without Normalize)."""
    distill_scores: float = 0.0
    """Weight of the KL divergence from a teacher's scores of a query's positive and hard negatives (paper, section
    4.1). The teacher is such as a cross-encoder; `negatives/SPLIT.jsonl` holds its scores."""
    teacher_temperature: float = 1.0
    """Divides the teacher's scores; and the similarities of `teacher` where they are inner products and the model's are
    cosines, or the other way round."""
    distill_similarities: float = 0.0
    """Weight of the KL divergence from the unpruned model's similarities of a query with all passages of the batch, or
    from those of `teacher`."""
    distill_embeddings: float = 0.0
    """Weight of 1 - cosine between a text's embedding and the unpruned model's (not normalised, of half their squared
    distance by the squared length of the unpruned model's). The unpruned model encodes the training
    texts once a search. The vectors stay in the run's folder, 2 bytes a dimension."""
    teacher: str = ""
    """A retriever that teaches in the unpruned model's place: a backbone's name, a folder (a checkpoint,
    sentence-transformers', a trial's, an export) or a hub id. It has its own tokenizer, prompts, lengths and
    similarity. `distill_embeddings` needs one of the model's own dimension; a base leaves it out with another. Empty
    for none."""
    order: str = "prune_then_tune"
    """`prune_then_tune` (the paper), `tune_then_prune` (its control, at the unpruned model's cost), or
    `tune_prune_recover`. There a base is tuned once, unless it is a retriever already (`model.retriever`), and every
    trial starts from it, is pruned and recovers with the base as its teacher. The distillations then are the
    recoveries'; `teacher` teaches the base."""
    recovery: float = 0.25
    """Of `tune_prune_recover`: the share of the training's steps in which a pruned trial recovers, at least one; 1 is
    all of them."""
    dropout: float = 0.0
    """Dropout while tuning. With 0, one rank and several ranks compute the same."""
    zero_stage: int = 0
    """DeepSpeed ZeRO stage, 0 to 3. One worker has nothing to partition: 0 and 1 are plain PyTorch there."""
    dtype: str = "auto"
    """`float32`, `bfloat16`, or `auto`: bfloat16 where the hardware multiplies it faster."""
    gradient_checkpointing: bool = False
    """Compute a block's activations again in the backward pass, in place of keeping them: less memory, more time."""
    lora_rank: int = 0
    """Rank of LoRA adapters on every linear layer of the blocks, merged at the end; 0 trains all weights."""
    lora_alpha: int = 64
    """Adapters are scaled by lora_alpha / lora_rank."""
    checkpoint_minutes: float = 10.0
    """Minutes between two checkpoints of a training, 12 bytes a trained parameter each; 0 turns this off."""
    checkpoint_steps: int = 0
    """Steps between two checkpoints, rounded up to a multiple of 4; 0 turns this off."""
    seed: int = 0
    """Of a training: the order of its batches and its dropout. `--repeat` counts on from here."""

    SWITCHES: ClassVar[tuple[str, ...]] = ("steps", "epochs", "lora_rank", "distill_scores", "distill_similarities")
    """Settings that turn others off (`without_effect`)."""

    def without_effect(self) -> set[str]:
        """Settings that change nothing of a model that is trained with these; `dtype` is also what it is pruned in."""
        if not self.trains:
            return {name for name in vars(self) if name != "dtype"}
        scaled = self.distill_scores or (self.teacher and self.distill_similarities)
        switches = {"epochs": not self.steps, "lora_alpha": self.lora_rank, "teacher_temperature": scaled}
        switches["recovery"] = self.recovers
        return {"checkpoint_minutes", "checkpoint_steps", *(name for name, used in switches.items() if not used)}

    @property
    def trains(self) -> bool:
        """Whether anything is trained."""
        return bool(self.steps or self.epochs)

    @property
    def distils_itself(self) -> bool:
        """Whether a training needs the embeddings of the unpruned model, or of `teacher`."""
        return self.trains and (self.distill_similarities > 0 or self.distill_embeddings > 0)

    @property
    def recovers(self) -> bool:
        """Whether trials start from a base and recover."""
        return self.order == RECOVER

    def __post_init__(self) -> None:
        check(0 < self.recovery <= 1, "train.recovery", self.recovery, "above 0, at most 1")
        check(self.checkpoint_minutes >= 0, "train.checkpoint_minutes", self.checkpoint_minutes, "0 (off) or more")
        check(self.checkpoint_steps >= 0, "train.checkpoint_steps", self.checkpoint_steps, "0 (off) or more")
        check(self.steps >= 0, "train.steps", self.steps, "0 or more")
        check(self.epochs >= 0, "train.epochs", self.epochs, "0 or more")
        check(self.batch_size >= 2, "train.batch_size", self.batch_size, "2 or more (in-batch negatives)")
        queries, tokens = self.gradcache_queries, self.gradcache_tokens
        check(queries >= 0, "train.gradcache_queries", queries, "0 (the batch at once) or more")
        check(tokens >= 0, "train.gradcache_tokens", tokens, "0 (off) or more")
        both = queries > 0 and tokens > 0
        check(not both, "train.gradcache_tokens", tokens, "left out where train.gradcache_queries is given")
        check(self.hard_negatives >= 0, "train.hard_negatives", self.hard_negatives, "0 or more")
        check(self.learning_rate > 0, "train.learning_rate", self.learning_rate, "above 0")
        check(0 <= self.warmup_ratio <= 1, "train.warmup_ratio", self.warmup_ratio, "between 0 and 1")
        check(self.weight_decay >= 0, "train.weight_decay", self.weight_decay, "0 or more")
        check(self.max_grad_norm >= 0, "train.max_grad_norm", self.max_grad_norm, "0 or more")
        check(self.temperature > 0, "train.temperature", self.temperature, "above 0")
        check(self.lora_rank >= 0, "train.lora_rank", self.lora_rank, "0 (train all weights) or more")
        check(self.lora_alpha > 0, "train.lora_alpha", self.lora_alpha, "above 0")
        check(0 <= self.dropout < 1, "train.dropout", self.dropout, "from 0 to below 1")
        for name in ("distill_scores", "distill_similarities", "distill_embeddings"):
            check(getattr(self, name) >= 0, f"train.{name}", getattr(self, name), "0 (off) or more")
        check(self.teacher_temperature > 0, "train.teacher_temperature", self.teacher_temperature, "above 0")
        scored = self.hard_negatives > 0 or not self.distill_scores
        check(scored, "train.hard_negatives", self.hard_negatives, "1 or more where train.distill_scores is above 0")
        one_of("train.order", self.order, ORDERS)
        one_of("train.zero_stage", self.zero_stage, (0, 1, 2, 3))
        one_of("train.dtype", self.dtype, DTYPES)
