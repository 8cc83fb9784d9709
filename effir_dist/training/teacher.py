"""A teacher from outside (`train.teacher`): what it is, by its files, and the retriever itself. No torch at the top."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from effir_dist.core.errors import InputError
from effir_dist.core.settings import ModelConfig, RunConfig
from effir_dist.models import pretrained
from effir_dist.models.encoder_settings import EncoderSettings, description_file, make_settings
from effir_dist.models.families.base import ModelDict, dimension
from effir_dist.models.weights import WHOLE

if TYPE_CHECKING:
    from effir_dist.models.encoder import Encoder


Find = Callable[[str], pretrained.Source]
"""As `pretrained.find`."""


@dataclass(frozen=True)
class TeacherModel:
    """The retriever that a search distils from."""

    name: str
    model_config: ModelDict
    """Of its unpruned form."""
    settings: EncoderSettings
    source: pretrained.Source | None
    """Its checkpoint; None for a pruned model."""

    @property
    def dimension(self) -> int:
        """D of its embeddings."""
        return self.settings.dimension or dimension(self.model_config)


def own_teacher(config: RunConfig, source: pretrained.Source) -> TeacherModel:
    """The unpruned model itself."""
    return TeacherModel(source.name, source.config, make_settings(config.model, source), source)


def find_teacher(config: RunConfig, find: Find = pretrained.find) -> TeacherModel:
    """`train.teacher`. No weights are read.

    Its prompts, pooling, similarity and lengths are its own; a bare checkpoint, which has no lengths, takes those of
    the model that is pruned. Raises InputError where there is no such model.
    """
    name = config.train.teacher
    if "://" in name:
        raise InputError(f"train.teacher must be a folder, a backbone's name or a hub id, got {name!r}; copy it first")
    pruned = _pruned(Path(name))
    if pruned:
        return pruned
    source = find(name)
    return TeacherModel(name, source.config, make_settings(_lengths(config.model, source), source), source)


def _pruned(folder: Path) -> TeacherModel | None:
    """A trial's folder or an exported one; None for others."""
    file = description_file(folder)
    if file is None:
        return None
    if not (folder / WHOLE).is_file():
        raise InputError(f"the teacher {folder} holds no {WHOLE}: its weights were not kept")
    tree = pretrained.read_json(file)
    model = tree.get("model_config") or pretrained.read_json(folder / "config.json")
    try:
        return TeacherModel(str(folder), model, EncoderSettings(**tree["encoder"]), None)
    except (KeyError, TypeError) as error:
        raise InputError(f"{file} is no description of a pruned model: {error}") from None


def _lengths(model: ModelConfig, source: pretrained.Source) -> ModelConfig:
    """No setting of the pruned model's but its lengths, for a bare checkpoint, which says nothing of its own."""
    if source.declared:
        return ModelConfig()
    return ModelConfig(max_query_length=model.query_length, max_document_length=model.document_length)


def load_teacher_encoder(config: RunConfig) -> Encoder:
    """`train.teacher`, ready to encode. Raises InputError where it cannot be loaded."""
    from effir_dist.models.encoder import build_encoder, default_device, load_encoder, resolve_dtype

    found, dtype = find_teacher(config), resolve_dtype(config.score.dtype)
    if found.source is None:
        return load_encoder(found.name, dtype)
    return build_encoder(pretrained.load_base(found.source, dtype), found.settings, dtype).to(default_device())


def check_dimension(teacher: TeacherModel, own: TeacherModel) -> None:
    """Raises InputError where a teacher's embeddings cannot be distilled into a model's: their dimensions differ."""
    if teacher.dimension != own.dimension:
        raise InputError(
            f"train.distill_embeddings needs a teacher of the model's own dimension: train.teacher {teacher.name} has "
            f"{teacher.dimension}, {own.name} has {own.dimension}; set train.distill_embeddings=0 and "
            "train.distill_similarities above 0, which takes any dimension"
        )
