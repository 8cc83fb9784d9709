"""A retriever: backbone, pooling, l2 normalisation; batched encoding; saving and loading of pruned models."""

from __future__ import annotations

import copy
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from effir_dist import checkpoints
from effir_dist.backbones import ModelDict, family
from effir_dist.errors import InputError
from effir_dist.pruning import PruningPlan, apply_plan, kept_neurons
from effir_dist.settings import ModelConfig

if TYPE_CHECKING:
    from effir_dist.tokens import Tokens

SETTINGS_FILE = "effir.json"
"""Beside a pruned model's weights: how texts become embeddings, and the plan."""
FORMAT = 1


@dataclass(frozen=True)
class EncoderSettings:
    """How texts become embeddings."""

    pooling: str
    query_prompt: str
    document_prompt: str
    append_eos: bool
    max_query_length: int
    max_document_length: int


def make_settings(config: ModelConfig, model_config: ModelDict) -> EncoderSettings:
    """The settings of `config`, and the family's where it says nothing; lengths at most what the model can take."""
    row, limit = family(model_config), checkpoints.longest_input(model_config)
    return EncoderSettings(
        pooling=config.pooling or row.pooling,
        query_prompt=row.query_prompt if config.query_prompt is None else config.query_prompt,
        document_prompt=config.document_prompt or "",
        append_eos=row.append_eos,
        max_query_length=min(config.max_query_length, limit),
        max_document_length=min(config.max_document_length, limit),
    )


def resolve_dtype(name: str) -> str:
    """`auto` -> bfloat16 where the hardware has matrix units for it (GPU, or a CPU with AMX), else float32."""
    if name != "auto":
        return name
    if torch.cuda.is_available():
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    return "bfloat16" if torch.cpu._is_amx_tile_supported() else "float32"


def default_device() -> torch.device:
    """This process's GPU where there is one."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


class Encoder(nn.Module):
    """Backbone, pooling and l2 normalisation."""

    def __init__(
        self,
        backbone: nn.Module,
        tokenizer: Any,
        settings: EncoderSettings,
        model_config: ModelDict,
        plan: PruningPlan | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.tokenizer = tokenizer
        self.settings = settings
        self.model_config = model_config
        self.plan = plan or PruningPlan()

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def pad_id(self) -> int:
        return self.tokenizer.pad_token_id or 0

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """[B, T] ids and mask (right padding) -> [B, D] l2-normalised float32 embeddings."""
        options = {"use_cache": False} if family(self.model_config).append_eos else {}  # a decoder
        hidden = self.backbone(input_ids=input_ids, attention_mask=attention_mask, **options).last_hidden_state
        return nn.functional.normalize(POOLINGS[self.settings.pooling](hidden, attention_mask), dim=-1)

    def tokenize(self, texts: list[str], kind: str, cache: Path | None = None) -> Tokens:
        """Token ids of queries or documents (`kind`), with their prompt, cut to their length."""
        from effir_dist.tokens import tokenize

        s = self.settings
        prompt, length = {
            "query": (s.query_prompt, s.max_query_length),
            "document": (s.document_prompt, s.max_document_length),
        }[kind]
        return tokenize(self.tokenizer, texts, prompt, length, s.append_eos, cache)

    def encode_tokens(self, tokens: Tokens, batch_tokens: int = 4096) -> np.ndarray:
        """[N, D] float32, in the order given. Batches hold texts of like length, `batch_tokens` with padding."""
        was_training = self.training
        self.eval()
        out: np.ndarray | None = None
        with torch.inference_mode():
            for indices in length_sorted_batches(tokens.lengths, batch_tokens):
                vectors = self(*pad(tokens, indices, self.pad_id, self.device)).cpu().numpy()
                out = np.empty((len(tokens), vectors.shape[1]), np.float32) if out is None else out
                out[indices] = vectors
        self.train(was_training)
        if out is None:
            return np.empty((0, int(self.model_config["hidden_size"])), np.float32)
        return out

    def encode(self, texts: list[str], kind: str = "document", batch_tokens: int = 4096) -> np.ndarray:
        """Embeddings of texts: [N, D] float32."""
        return self.encode_tokens(self.tokenize(texts, kind), batch_tokens)

    def save(self, folder: Path) -> None:
        """Write weights (safetensors), plan, settings, config and tokenizer; `load_encoder(folder)` reads them."""
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        settings = {"format": FORMAT, "encoder": asdict(self.settings), "plan": self.plan.to_dict()}
        self.tokenizer.save_pretrained(folder)
        (folder / "config.json").write_text(json.dumps(self.model_config, indent=2, default=str))
        (folder / SETTINGS_FILE).write_text(json.dumps(settings, indent=2))
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.backbone.state_dict().items()}
        partial = folder / "model.safetensors.tmp"
        try:
            save_file(tensors, partial, metadata={"format": "pt"})
        except SafetensorError as error:
            number = re.search(r"os error (\d+)", str(error))
            raise OSError(int(number[1]) if number else 0, str(error), str(partial)) from None
        partial.rename(folder / "model.safetensors")


def _mean(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """[B, T, D], [B, T] -> [B, D]: mean over real tokens, in float32."""
    weights = mask.unsqueeze(-1).float()
    return (hidden.float() * weights).sum(1) / weights.sum(1).clamp(min=1e-9)


def _last(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """[B, T, D], [B, T] -> [B, D]: the last real token, whichever side the padding is on."""
    positions = torch.arange(mask.shape[1], device=mask.device)
    last = (positions * mask).argmax(1)
    return hidden[torch.arange(len(hidden), device=hidden.device), last].float()


def _cls(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """[B, T, D], [B, T] -> [B, D]: the first real token."""
    return hidden[torch.arange(len(hidden), device=hidden.device), mask.argmax(1)].float()


POOLINGS = {"mean": _mean, "last": _last, "cls": _cls}


def pad(
    tokens: Tokens, indices: np.ndarray, pad_id: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Input ids and attention mask of the texts at `indices`: two int64 tensors [B, T], padded on the right."""
    rows = [tokens[int(i)] for i in indices]
    longest = max(len(row) for row in rows)
    ids = np.full((len(rows), longest), pad_id, np.int64)
    mask = np.zeros((len(rows), longest), np.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
        mask[i, : len(row)] = 1
    return torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)


def length_sorted_batches(lengths: np.ndarray, batch_tokens: int) -> list[np.ndarray]:
    """Indices in batches, longest texts first, each at most `batch_tokens` when padded (one text at least)."""
    order = np.argsort(-lengths, kind="stable")
    batches, start = [], 0
    while start < len(order):
        size = max(1, batch_tokens // max(1, int(lengths[order[start]])))
        batches.append(order[start : start + size])
        start += size
    return batches


def build_encoder(base: checkpoints.Base, settings: EncoderSettings, dtype: str) -> Encoder:
    """An encoder with the base's weights, in `dtype`; a copy where the base is kept for others."""
    model = copy.deepcopy(base.model) if base.shared else base.model
    return Encoder(model.to(getattr(torch, resolve_dtype(dtype))).eval(), base.tokenizer, settings, base.config)


def prune_encoder(encoder: Encoder, plan: PruningPlan, neuron_scores: np.ndarray | None) -> Encoder:
    """Apply a plan to an unpruned encoder, in place. neuron_scores: [L, F] of the plan's ranking."""
    if plan.widths and neuron_scores is None:
        raise ValueError("neuron_scores are needed to narrow MLPs")
    kept = kept_neurons(plan, neuron_scores) if neuron_scores is not None else {}
    apply_plan(encoder.backbone, encoder.model_config, plan, kept)
    encoder.plan = plan
    return encoder


def load_encoder(name_or_path: str, dtype: str = "float32") -> Encoder:
    """A retriever from a backbone's name, a checkpoint folder or a folder that `Encoder.save` wrote, on the GPU if any.

    Lengths are those that a pruned model was saved with, else the model's usual one. Raises InputError where there is
    no such model.
    """
    folder = Path(name_or_path)
    if (folder / SETTINGS_FILE).is_file():
        return _load_pruned(folder, dtype).to(default_device())
    source = checkpoints.find(name_or_path)
    usual = checkpoints.usual_length(source)
    lengths = ModelConfig(max_query_length=usual, max_document_length=usual)
    settings = make_settings(lengths, source.config)
    encoder = build_encoder(checkpoints.load_base(source, resolve_dtype(dtype)), settings, dtype)
    return encoder.to(default_device())


def _load_pruned(folder: Path, dtype: str) -> Encoder:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    tree = checkpoints.read_json(folder / SETTINGS_FILE)
    if tree.get("format", 0) > FORMAT:
        raise InputError(f"{folder} was written by a newer effir_dist (format {tree['format']}); upgrade to load it")
    plan = PruningPlan.from_dict(tree["plan"])
    config = checkpoints.read_json(folder / "config.json")
    model = checkpoints.build_empty(config)
    apply_plan(model, config, plan)
    try:
        model.load_state_dict(load_file(folder / "model.safetensors"), assign=True)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise InputError(f"the weights in {folder} do not fit its plan and config: {str(error)[:300]}") from None
    tokenizer = checkpoints.load_tokenizer(str(folder))
    backbone = model.to(getattr(torch, resolve_dtype(dtype))).eval()
    return Encoder(backbone, tokenizer, EncoderSettings(**tree["encoder"]), config, plan)
