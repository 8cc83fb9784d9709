"""A retriever: backbone, pooling, l2 normalisation; batched encoding; saving and loading of pruned models."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import nn

from effir_dist.core.errors import InputError
from effir_dist.core.settings import ModelConfig
from effir_dist.core.storage import place, read_locally
from effir_dist.models import pretrained, weights
from effir_dist.models.encoder_settings import EncoderSettings, make_settings
from effir_dist.models.families.base import ModelDict, dimension
from effir_dist.models.families.registry import family
from effir_dist.models.processor import Processor, this_processor
from effir_dist.models.pruning import PruningPlan, apply_plan, truncated_plan

if TYPE_CHECKING:
    from effir_dist.models.tokens import Tokens

SETTINGS_FILE = "effir.json"
"""Beside a trial's weights: how texts become embeddings, and the plan."""
EXPORT_FILE = "plan.json"
"""The same in an exported folder, and the unpruned model's config: config.json there is for other tools."""
FORMAT = 2
"""Of both files. Format 1 had a plan of four fixed fields, without the dimension of embeddings."""
Model = TypeVar("Model", bound=nn.Module)


def resolve_dtype(name: str, processor: Processor | None = None) -> str:
    """`auto` -> bfloat16 where it is the faster: on a GPU, a CPU with AMX, AMD's from Zen 4 on; else float32.

    processor: this machine's where none is given.
    """
    if name != "auto":
        return name
    if torch.cuda.is_available():
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    return "bfloat16" if (processor or this_processor()).multiplies_bfloat16 else "float32"


def default_device() -> torch.device:
    """This process's GPU where there is one."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


class Encoder(nn.Module):
    """Backbone, pooling, truncation and l2 normalisation."""

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

    @property
    def dimension(self) -> int:
        """D of the embeddings: the hidden size, unless Dense layers change it or they are truncated."""
        return self.settings.dimension or dimension(self.model_config)

    @property
    def disk_dtype(self) -> type[np.floating[Any]]:
        """Of embeddings in files. No number of one of length 1 is beyond what float16 holds; others' may be."""
        return np.float16 if self.settings.unit_length else np.float32

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """[B, T] ids and mask (right padding) -> [B, D] float32 embeddings."""
        options = family(self.model_config).call_options
        hidden = self.backbone(input_ids=input_ids, attention_mask=attention_mask, **options).last_hidden_state
        return self.finish(POOLINGS[self.settings.pooling](hidden, attention_mask))

    def finish(self, pooled: torch.Tensor) -> torch.Tensor:
        """Pooled states [B, hidden size] -> embeddings [B, D], truncated and l2-normalised as the settings say."""
        kept = pooled[:, : self.settings.dimension] if self.settings.dimension else pooled
        return nn.functional.normalize(kept, dim=-1) if self.settings.unit_length else kept

    def tokenize(self, texts: Sequence[str], kind: str, cache: Path | None = None) -> Tokens:
        """Token ids of queries or documents (`kind`), with their prompt, cut to their length."""
        from effir_dist.models.tokens import tokenize

        s = self.settings
        prompt, length = {
            "query": (s.query_prompt, s.max_query_length),
            "document": (s.document_prompt, s.max_document_length),
        }[kind]
        return tokenize(self.tokenizer, texts, prompt, length, s.append_eos, cache)

    def encode_tokens(self, tokens: Tokens, batch_tokens: int = 0, compiled: str = "auto") -> np.ndarray:
        """[N, D] float32, in the order given, as `encoding.encode` says."""
        from effir_dist.models.encoding import encode

        return encode(self, tokens, batch_tokens, compiled)

    def encode(
        self, texts: list[str], kind: str = "document", batch_tokens: int = 0, compiled: str = "auto"
    ) -> np.ndarray:
        """Embeddings of queries or documents (`kind`): [N, D] float32, as `encoding.encode_texts` makes them."""
        from effir_dist.models.encoding import encode_texts

        return encode_texts(self, texts, kind, batch_tokens, compiled)

    def save(self, folder: Path) -> None:
        """Write weights (safetensors), plan, settings, config and tokenizer; `load_encoder(folder)` reads them."""
        folder.mkdir(parents=True, exist_ok=True)
        settings = {"format": FORMAT, "encoder": asdict(self.settings), "plan": self.plan.to_dict()}
        self.tokenizer.save_pretrained(folder)
        (folder / "config.json").write_text(json.dumps(self.model_config, indent=2, default=str))
        (folder / SETTINGS_FILE).write_text(json.dumps(settings, indent=2))
        save_tensors(self.backbone, folder)


def save_tensors(model: nn.Module, folder: Path) -> None:
    """Write a model's tensors to `model.safetensors`, which is there whole or not at all."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
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
    return hidden[torch.arange(hidden.shape[0], device=hidden.device), last].float()


def _cls(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """[B, T, D], [B, T] -> [B, D]: the first real token."""
    return hidden[torch.arange(hidden.shape[0], device=hidden.device), mask.argmax(1)].float()


POOLINGS = {"mean": _mean, "last": _last, "cls": _cls}


def pad(tokens: Tokens, indices: np.ndarray, pad_id: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Input ids and attention mask of the texts at `indices`: two int64 tensors [B, T], padded on the right."""
    ids, mask = pad_rows([tokens[int(i)] for i in indices], pad_id)
    return ids.to(device), mask.to(device)


def pad_rows(rows: list[np.ndarray], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The same of tokens [T] of each text, in main memory."""
    lengths = np.array([len(row) for row in rows])
    mask = np.arange(lengths.max()) < lengths[:, None]
    ids = np.full(mask.shape, pad_id, np.int64)
    ids[mask] = np.concatenate(rows)
    return torch.from_numpy(ids), torch.from_numpy(mask.astype(np.int64))


def build_encoder(base: pretrained.Base, settings: EncoderSettings, dtype: str) -> Encoder:
    """An encoder with the base's weights, in `dtype`; a copy where the base is kept for others."""
    model = copy.deepcopy(base.model) if base.shared else base.model
    return Encoder(cast(model, resolve_dtype(dtype)), base.tokenizer, settings, base.config).eval()


def cast(model: Model, dtype: str | torch.dtype) -> Model:
    """Its weights in `dtype`, in place. Buffers stay as they are: transformers keeps rotary frequencies in float32, and
    bfloat16's would turn the last of 512 tokens by angles wrong by 0.2 to 0.6 radians, depending on the family."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(getattr(torch, dtype) if isinstance(dtype, str) else dtype)
    return model


def prune_encoder(encoder: Encoder, plan: PruningPlan, neuron_scores: np.ndarray | None) -> Encoder:
    """Apply a plan to an unpruned encoder, in place. neuron_scores: [L, F] of the plan's ranking."""
    if plan.needs_neurons and neuron_scores is None:
        raise ValueError("neuron_scores are needed to narrow MLPs")
    apply_plan(encoder.backbone, encoder.model_config, plan, neuron_scores)
    for operation in plan.operations:
        operation.apply_to_encoder(encoder)
    encoder.plan = plan
    return encoder


def load_encoder(name_or_path: str, dtype: str = "float32") -> Encoder:
    """A retriever from a backbone's name, a checkpoint folder, a trial's folder or an exported one, on the GPU if any.

    Lengths are those that a pruned model was saved with, else the model's usual one. dtype: `auto`, `float32`,
    `bfloat16`, or `stored` for that of a pruned model's weights. Raises InputError where there is no such model, its
    weights do not fit its plan, or they are anything but safetensors.
    """
    if "://" in name_or_path:
        with read_locally(place(name_or_path)) as copy:
            return load_encoder(str(copy), dtype)
    folder = Path(name_or_path)
    settings_file = next((f for f in (folder / SETTINGS_FILE, folder / EXPORT_FILE) if f.is_file()), None)
    if settings_file:
        return _load_pruned(settings_file, dtype).to(default_device()).eval()
    source = pretrained.find(name_or_path)
    weights.check_weights(source)
    usual = pretrained.usual_length(source)
    lengths = ModelConfig(max_query_length=usual, max_document_length=usual)
    settings = make_settings(lengths, source)
    encoder = build_encoder(pretrained.load_base(source, resolve_dtype(dtype)), settings, dtype)
    return encoder.to(default_device()).eval()


def _load_pruned(settings_file: Path, dtype: str) -> Encoder:
    folder, tree = settings_file.parent, pretrained.read_json(settings_file)
    if tree.get("format", 0) > FORMAT:
        raise InputError(f"{folder} was written by a newer effir_dist (format {tree['format']}); upgrade to load it")
    try:
        plan, settings = PruningPlan.from_dict(tree["plan"]), EncoderSettings(**tree["encoder"])
    except (KeyError, TypeError) as error:
        raise InputError(f"{settings_file} is no description of a pruned model: {error}") from None
    config = tree.get("model_config") or pretrained.read_json(folder / "config.json")
    plan = truncated_plan(config, plan, settings.dimension)
    model = pretrained.build_empty(config)
    apply_plan(model, config, plan)
    tensors = weights.read_tensors(folder)
    try:
        model.load_state_dict(tensors, assign=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"the weights in {folder} do not fit its plan and config: {reason}") from None
    stored = next(iter(tensors.values())).dtype
    backbone = cast(model, stored if dtype == "stored" else resolve_dtype(dtype)).eval()
    return Encoder(backbone, pretrained.load_tokenizer(str(folder)), settings, config, plan)
