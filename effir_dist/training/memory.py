"""What a training takes of a GPU's memory, by formula: nothing is loaded or started. `--dry-run` warns with it.

Two moments are largest. At the start of the backward pass there are weights, gradients, the optimizer's state and the
activations of one chunk; in the optimizer's step there are no activations, but copies of the gradients. Texts count
with their longest length. What torch saves for the backward pass is counted operator by operator, as
tests/training/test_memory.py finds it; what an engine holds is what it was found to hold, stage by stage.
"""

from __future__ import annotations

import dataclasses
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field

from effir_dist.core.config import replace
from effir_dist.core.settings import RunConfig, TrainConfig
from effir_dist.models.families.base import ModelDict, block_count, dense_layers, mlp_width
from effir_dist.models.families.registry import family
from effir_dist.models.pruning import count_parameters

BUCKET = 50_000_000
"""Most elements in a ZeRO bucket; DeepSpeed's own default reserves 2 GB before the first step."""
LIVE = 1_000_000_000
"""Elements that ZeRO 3 leaves gathered, and steps at a time: DeepSpeed's defaults."""
MOST_SCORES = 2**23
"""Similarities that the loss holds at a time: 32 MiB, and so much again for each of the tensors made of them."""
SCORE_COPIES = 6
CHECKPOINT_BYTES = 12
"""Of a trained parameter: its float32 weight and both moments of AdamW."""
CHECKPOINT_RATE = 0.5e9
"""Bytes a second at which a checkpoint is predicted to be written: a cloud's disk, or a bucket near by."""
SPARE = 0.1
"""Share of a GPU that is left free: the CUDA context, and what the allocator cannot use again."""
PENDING = 256 * 2**20
"""Bytes of gradients in half precision that wait, in a single process, to be added to their sums in float32."""
TOLD_SECONDS = 20.0
"""For which the GPU driver's tool is waited for."""
CONTEXT = 0.5e9
"""Bytes that CUDA takes of a GPU beside tensors for each of the processes that share it."""


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU."""

    weights: float
    gradients: float
    buckets: float
    """In which ZeRO gathers gradients."""
    optimizer: float
    step: float
    """Copies of gradients that only the optimizer's step makes."""
    activations: float
    """What the backward pass of one chunk needs, and its own first gradients."""
    scores: float
    later: float = field(default=0.0, repr=False)
    """Of the gradients, those that are not there yet when activations are at their most."""

    @property
    def peak(self) -> float:
        """The larger of the two moments."""
        lasting = self.weights + self.gradients + self.buckets + self.optimizer
        return lasting + max(self.activations + self.scores - self.later, self.step)

    @property
    def least(self) -> float:
        """What no smaller chunk saves."""
        return self.weights + self.gradients + self.buckets + self.optimizer + self.step


def predict(model: ModelDict, config: RunConfig, dtype: str, gates: int = 0) -> Memory:
    """The peak of training the unpruned model, the largest a trial can be. dtype: `bfloat16` or `float32`.

    gates: where only the gates of self-slimming train, how many.
    """
    train, ranks = config.train, config.resources.workers_per_trial
    size = 2 if dtype == "bfloat16" else 4
    stage = stage_of(train, dtype)
    everything = count_parameters(model)
    added = gates or lora_parameters(model, train.lora_rank)
    total, trained = everything + added, added or everything
    shard = trained / (ranks if stage else 1)
    weights = size * total / (ranks if stage == 3 else 1)
    if stage == 3:
        weights += size * min(total, LIVE)
    single = is_single_process(train, ranks)
    # A float32 master copy and two moments; float32 weights without ZeRO are their own master copy.
    optimizer = (8 if size == 4 and (single or not stage) else 12) * shard
    later = 0.0
    if single:
        # In half precision some gradients wait until they are added to the sums in float32.
        gradients, buckets, step = 4.0 * trained, 0.0, min(2.0 * trained, PENDING) if size == 2 else 0.0
        later = 0.0 if _chunked(config) else gradients
    else:
        # Sums in float32. Where ZeRO does not part them, those of the last chunk stay beside them.
        gradients = 4 * shard if stage >= 2 else (6 if size == 2 else 4) * trained
        buckets = 4 * min(BUCKET, trained) if stage else 0
        step = 4 * (min(shard, LIVE) * (stage == 3) + shard * (stage == 2 or (stage == 1 and size == 4)))
    activations = _activations(model, config, size, trained == everything and not single)
    return Memory(weights, gradients, buckets, optimizer, step, activations, _scores(config), later)


def is_single_process(train: TrainConfig, ranks: int) -> bool:
    """Whether a training runs without DeepSpeed: one rank, and no stage that parts more than the optimizer's state."""
    return ranks == 1 and train.zero_stage <= 1


def stage_of(train: TrainConfig, dtype: str) -> int:
    """The ZeRO stage that a training runs with: in bfloat16 stage 0 is 1.

    DeepSpeed's bfloat16 optimizer without ZeRO waits for the device once a parameter, for the same result.
    """
    return train.zero_stage if dtype == "float32" else max(1, train.zero_stage)


def lora_parameters(model: ModelDict, rank: int) -> int:
    """Of adapters on every linear layer of the blocks, and of Dense layers, which train whole beside them."""
    adapters = block_count(model) * rank * sum(a + b for a, b in family(model).linear_layers(model))
    return adapters + (sum(layer.parameters for layer in dense_layers(model)) if rank else 0)


def _texts(config: RunConfig) -> tuple[int, int, int]:
    """Tokens of one chunk, of the longest text, and tokens of a rank's whole share of the batch."""
    train, model = config.train, config.model
    share = config.worker_queries
    longest = max(model.query_length, model.document_length)
    pair = model.query_length + (1 + train.hard_negatives) * model.document_length
    tokens = pair * min(train.gradcache_queries or share, share)
    if train.gradcache_tokens:
        tokens = min(max(train.gradcache_tokens, longest), pair * share)
    return tokens, longest, pair * share


def _chunked(config: RunConfig) -> bool:
    tokens, _, whole = _texts(config)
    return tokens < whole


def _mask_row(model: ModelDict, config: RunConfig, size: int, longest: int) -> int:
    """Tokens in a row of the attention mask; 0 where texts are packed: in half precision and without dropout."""
    packs = size == 2 and not config.train.dropout and family(model).attention_implementation == "sdpa"
    return 0 if packs else longest


def _activations(model: ModelDict, config: RunConfig, size: int, whole_table: bool) -> float:
    """whole_table: whether a look-up's gradient is of the whole table of embeddings."""
    tokens, longest, _ = _texts(config)
    hidden, width = int(model["hidden_size"]), mlp_width(model)
    block = family(model).saved_bytes(model, size, _mask_row(model, config, size, longest))
    saved = block_count(model) * (size * hidden if config.train.gradient_checkpointing else block)
    if config.train.gradient_checkpointing:
        saved += block
    ends = (2 * size + 8) * hidden  # embeddings, the last norm, and pooling in float32
    flowing = size * (2 * hidden + 3 * width)  # gradients on their way through a block
    table = size * int(model["vocab_size"]) * hidden if whole_table else 0
    return tokens * (saved + ends + flowing) + table


def _scores(config: RunConfig) -> float:
    """A block of similarities, with what the loss makes of it."""
    share = config.train.batch_size // config.resources.workers_per_trial
    passages = config.train.batch_size * (1 + config.train.hard_negatives)
    return 4.0 * SCORE_COPIES * min(share * passages, max(MOST_SCORES, passages))


def own_bytes(capacity: float, gpus: float) -> float:
    """Of a GPU's bytes those that a process may fill with tensors: all, or of its part what CUDA leaves."""
    return max(0.0, capacity * gpus - CONTEXT) if 0 < gpus < 1 else capacity


def gpu_bytes() -> int:
    """Of this machine's first GPU; 0 where there is none."""
    found = of_gpus("memory.total")
    return int(found[0]) * 2**20 if found and found[0].isdigit() else 0


def of_gpus(field: str) -> list[str]:
    """A field of each GPU of this machine, without its unit; none where that is not told. Asks the driver's own tool,
    not torch."""
    command = ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TOLD_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.strip() for line in done.stdout.splitlines()] if done.returncode == 0 else []


def advice(model: ModelDict, config: RunConfig, dtype: str, capacity: float) -> str:
    """The mildest change of settings with which the training fits `capacity` bytes; empty where none was found."""
    for changes in _changes(config):
        if predict(model, replace(config, changes), dtype).peak <= capacity * (1 - SPARE):
            return " ".join(f"{name}={str(value).lower()}" for name, value in changes.items())
    return ""


def _changes(config: RunConfig) -> Iterator[dict[str, object]]:
    """From mild to severe: chunks, activations computed again, ZeRO over the ranks, adapters, and these together."""
    train, ranks = config.train, config.resources.workers_per_trial
    states: list[dict[str, object]] = [{}]
    states += [{"train.zero_stage": stage} for stage in (1, 2, 3) if ranks > 1 and stage > train.zero_stage]
    states += [] if train.lora_rank else [{"train.lora_rank": 16}]
    for state in states:
        yield from ({**state, **chunks} for chunks in smaller_chunks(config))


def smaller_chunks(config: RunConfig) -> Iterator[dict[str, object]]:
    """From mild to severe, changes that compute the same: chunks, and activations computed again."""
    share = config.worker_queries
    sizes = [] if config.train.gradcache_tokens else [share >> n for n in range(1, share.bit_length())]
    chunks: list[dict[str, object]] = [{}]
    chunks += [{"train.gradcache_queries": n} for n in sizes]
    yield from chunks
    yield from ({"train.gradient_checkpointing": True, **chunk} for chunk in chunks)


def summary(model: ModelDict, config: RunConfig) -> list[str]:
    """Lines for `--dry-run`: what the largest trial takes of a GPU, and what to change where it does not fit."""
    if not config.train.steps and not config.train.epochs:
        return []
    dtype = dtype_of(config)
    memory = predict(model, config, dtype)
    lines = [line("memory", memory, dtype)]
    capacity = capacity_of(config)
    if capacity and memory.peak > capacity * (1 - SPARE):
        found = advice(model, config, dtype, capacity)
        lines.append(warning(capacity, f"{found} would fit" if found else "nothing short of more workers would fit"))
    return lines


def dtype_of(config: RunConfig) -> str:
    """What `auto` is on a GPU, where the prediction is wanted."""
    return "bfloat16" if config.train.dtype == "auto" else config.train.dtype


def capacity_of(config: RunConfig) -> float:
    """Bytes of a GPU: what the settings say, or this machine's; 0 where neither is known."""
    return config.resources.gpu_memory * 1e9 or gpu_bytes()


def line(what: str, memory: Memory, dtype: str) -> str:
    """The peak and its parts."""
    parts = ", ".join(f"{f.name} {getattr(memory, f.name) / 1e9:.1f}" for f in dataclasses.fields(memory) if f.repr)
    return f"{what}: at most {memory.peak / 1e9:.1f} GB a GPU in {dtype} ({parts})"


def warning(capacity: float, would: str) -> str:
    """That it does not fit a GPU, and what would."""
    return f"warning: a GPU has {capacity / 1e9:.0f} GB, of which {SPARE:.0%} stay free: {would}"
