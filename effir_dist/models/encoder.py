"""A retriever: backbone, pooling, l2 normalisation; batched encoding; saving and loading of pruned models."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import nn

from effir_dist.core.errors import InputError
from effir_dist.core.settings import ModelConfig
from effir_dist.core.storage import place, read_locally
from effir_dist.core.values import Json
from effir_dist.models import pretrained, weights
from effir_dist.models.encoder_settings import SETTINGS_FILE, EncoderSettings, description_file, make_settings
from effir_dist.models.families.base import ModelDict, dense_layers, dimension
from effir_dist.models.families.registry import family
from effir_dist.models.head import PREFIX, build_head, head_tensors, load_tensors, read_head
from effir_dist.models.kernels.processor import Processor, this_processor
from effir_dist.models.pooling import SEEN, pool
from effir_dist.models.pruning import PruningPlan, apply_plan, truncated_plan
from effir_dist.models.sentence_folder import SentenceFolder, read_folder
from effir_dist.models.vocabulary import check_size
from effir_dist.models.weights import save_tensors

if TYPE_CHECKING:
    from effir_dist.models.tokens import Tokens

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
    """Backbone, pooling, Dense layers, truncation and l2 normalisation."""

    def __init__(
        self,
        backbone: nn.Module,
        tokenizer: Any,
        settings: EncoderSettings,
        model_config: ModelDict,
        plan: PruningPlan | None = None,
        head: nn.Sequential | None = None,
        declared: SentenceFolder | None = None,
    ) -> None:
        """declared: what the folder of its base says of itself; an export gives that back."""
        super().__init__()
        self.backbone = backbone
        self.head = nn.Sequential() if head is None else head
        self.declared: SentenceFolder | None = declared
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

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """[B, T] ids and mask (right padding) -> [B, D] float32 embeddings. The mask is as `pooling.pool` has it."""
        options = family(self.model_config).call_options
        seen = attention_mask if self.settings.include_prompt else (attention_mask > 0).long()
        hidden = self.backbone(input_ids=input_ids, attention_mask=seen, **options).last_hidden_state
        return self.finish(pool(self.settings.pooling, hidden, attention_mask))

    def finish(self, pooled: torch.Tensor) -> torch.Tensor:
        """Pooled states [B, hidden size] -> embeddings [B, D] float32: through the Dense layers, then truncated and
        l2-normalised as the settings say."""
        found, settings = self.head(pooled).float(), self.settings
        kept = found[:, : settings.dimension] if settings.dimension else found
        return nn.functional.normalize(kept, dim=-1) if settings.unit_length else kept

    def tokenize(self, texts: Sequence[str], kind: str, cache: Path | None = None) -> Tokens:
        """Token ids of queries or documents (`kind`), with their prompt, cut to their length."""
        from effir_dist.models.tokens import prompt_tokens, tokenize

        s = self.settings
        prompt, length = {
            "query": (s.query_prompt, s.max_query_length),
            "document": (s.document_prompt, s.max_document_length),
        }[kind]
        tokens = tokenize(self.tokenizer, texts, prompt, length, s.append_eos, cache)
        left_out = 0 if s.include_prompt else prompt_tokens(self.tokenizer, prompt, length)
        return replace(tokens, prompt=left_out)

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

    def described(self) -> Json:
        """How texts become embeddings, for SETTINGS_FILE and EXPORT_FILE."""
        declared = {"declared": asdict(self.declared)} if self.declared else {}
        return {"encoder": asdict(self.settings), **declared}

    def save(self, folder: Path) -> None:
        """Write weights (safetensors), plan, settings, config and tokenizer; `load_encoder(folder)` reads them."""
        folder.mkdir(parents=True, exist_ok=True)
        settings = {"format": FORMAT, **self.described(), "plan": self.plan.to_dict()}
        self.tokenizer.save_pretrained(folder)
        own = family(self.model_config).own(self.model_config)
        (folder / "config.json").write_text(json.dumps(own, indent=2, default=str))
        (folder / SETTINGS_FILE).write_text(json.dumps(settings, indent=2))
        save_tensors(self.backbone, folder, head_tensors(self.head))


def pad(tokens: Tokens, indices: np.ndarray, pad_id: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Input ids and attention mask of the texts at `indices`: two int64 tensors [B, T], padded on the right."""
    prompts = np.full(len(indices), tokens.prompt) if tokens.prompt else None
    ids, mask = pad_rows([tokens[int(i)] for i in indices], pad_id, prompts)
    return ids.to(device), mask.to(device)


def pad_rows(
    rows: list[np.ndarray], pad_id: int, prompts: np.ndarray | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same of tokens [T] of each text, in main memory. prompts [B]: how many of them pooling leaves out."""
    lengths = np.array([len(row) for row in rows])
    mask = np.arange(lengths.max()) < lengths[:, None]
    ids = np.full(mask.shape, pad_id, np.int64)
    ids[mask] = np.concatenate(rows)
    kinds = mask.astype(np.int64)
    if prompts is not None:
        kinds[mask & (np.arange(mask.shape[1]) < prompts[:, None])] = SEEN
    return torch.from_numpy(ids), torch.from_numpy(kinds)


def build_encoder(base: pretrained.Base, settings: EncoderSettings, dtype: str) -> Encoder:
    """An encoder with the base's weights, in `dtype`; a copy where the base is kept for others."""
    model, head = copy.deepcopy((base.model, base.head)) if base.shared else (base.model, base.head)
    encoder = Encoder(model, base.tokenizer, settings, base.config, head=head, declared=base.source.declared)
    return cast(encoder, resolve_dtype(dtype)).eval()


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


def load_encoder(name_or_path: str, dtype: str = "float32", trust_remote_code: bool = False) -> Encoder:
    """A retriever on the GPU if any: from a backbone's name, a hub id, or the folder of a checkpoint, of a
    sentence-transformers model, of a trial or of an export.

    Lengths are those that a pruned model was saved with or a folder declares, else the model's usual one. dtype:
    `auto`, `float32`, `bfloat16`, or `stored` for that of a pruned model's weights. trust_remote_code: whether code
    that comes with the model may be run (models/own_code.py). Raises InputError where there is no such model, its
    weights do not fit its plan, they are anything but safetensors, or it has modules that cannot be kept.
    """
    if "://" in name_or_path:
        with read_locally(place(name_or_path)) as copy:
            return load_encoder(str(copy), dtype, trust_remote_code)
    folder = Path(name_or_path)
    if description_file(folder):
        return load_pruned(folder, dtype).to(default_device()).eval()
    source = pretrained.find(name_or_path, trust_remote_code=trust_remote_code)
    weights.check_weights(source)
    usual = None if source.declared else pretrained.usual_length(source)
    settings = make_settings(ModelConfig(max_query_length=usual, max_document_length=usual), source)
    encoder = build_encoder(pretrained.load_base(source, resolve_dtype(dtype)), settings, dtype)
    return encoder.to(default_device()).eval()


def load_pruned(folder: Path, dtype: str) -> Encoder:
    """The retriever in a trial's folder or an exported one, in main memory. dtype and errors: as `load_encoder`."""
    settings_file = description_file(folder)
    if settings_file is None:
        raise InputError(f"{folder} holds no {SETTINGS_FILE}: its weights were not kept")
    tree = pretrained.read_json(settings_file)
    if tree.get("format", 0) > FORMAT:
        raise InputError(f"{folder} was written by a newer effir_dist (format {tree['format']}); upgrade to load it")
    try:
        plan, settings = PruningPlan.from_dict(tree["plan"]), EncoderSettings(**tree["encoder"])
        declared = SentenceFolder.from_dict(tree["declared"]) if tree.get("declared") else None
    except (KeyError, TypeError) as error:
        raise InputError(f"{settings_file} is no description of a pruned model: {error}") from None
    config = tree.get("model_config") or pretrained.read_json(folder / "config.json")
    config = family(config).usual(config)
    plan = truncated_plan(config, plan, settings.dimension)
    model, head = pretrained.build_empty(config), build_head(dense_layers(config))
    apply_plan(model, config, plan)
    tensors = weights.read_tensors(folder)
    stored = next(iter(tensors.values())).dtype
    own = {name.removeprefix(PREFIX): tensors.pop(name) for name in [*tensors] if name.startswith(PREFIX)}
    load_tensors(model, tensors, folder)
    if own or not len(head):
        load_tensors(head, own, folder)
    else:
        read_head(head, _dense_folders(folder)[: len(head)], stored)
    tokenizer = pretrained.load_tokenizer(str(folder))
    check_size(tokenizer, config, str(folder))
    encoder = Encoder(model, tokenizer, settings, config, plan, head, declared)
    return cast(encoder, stored if dtype == "stored" else resolve_dtype(dtype)).eval()


def _dense_folders(folder: Path) -> list[Path]:
    """Where an exported folder has its Dense layers."""
    declared = read_folder(folder)
    return [folder / each for each in declared.dense_folders] if declared else []
