"""A teacher from outside (`train.teacher`): what it is, by its files, and the retriever itself. No torch at the top."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from effir_dist.core.errors import InputError
from effir_dist.core.settings import ModelConfig, RunConfig, TrainConfig
from effir_dist.models import pretrained
from effir_dist.models.encoder_settings import EncoderSettings, make_settings
from effir_dist.models.families.base import ModelDict, dimension

if TYPE_CHECKING:
    from effir_dist.models.encoder import Encoder


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


def find_teacher(config: RunConfig) -> TeacherModel:
    """The teacher of a search: `train.teacher`, else the unpruned model. No weights are read.

    Its prompts, pooling, similarity and lengths are its own; a bare checkpoint, which has no lengths, takes those of
    the model that is pruned. Raises InputError where there is no such model.
    """
    name = config.train.teacher
    if not name:
        source = pretrained.find(config.model.backbone, config.model.path)
        return TeacherModel(source.name, source.config, make_settings(config.model, source), source)
    pruned = _pruned(Path(name))
    if pruned:
        return pruned
    source = pretrained.find(name) if not _is_hub_id(name) else pretrained.find("", name)
    return TeacherModel(name, source.config, make_settings(_lengths(config.model, source), source), source)


def _is_hub_id(name: str) -> bool:
    return "/" in name and not Path(name).is_dir()


def _pruned(folder: Path) -> TeacherModel | None:
    """A trial's folder or an exported one; None for others."""
    from effir_dist.models.encoder import EXPORT_FILE, SETTINGS_FILE

    for file in (folder / SETTINGS_FILE, folder / EXPORT_FILE):
        if file.is_file():
            tree = pretrained.read_json(file)
            model = tree.get("model_config") or pretrained.read_json(folder / "config.json")
            try:
                return TeacherModel(str(folder), model, EncoderSettings(**tree["encoder"]), None)
            except (KeyError, TypeError) as error:
                raise InputError(f"{file} is no description of a pruned model: {error}") from None
    return None


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
    return build_encoder(pretrained.load_base(found.source, dtype), found.settings, dtype).to(default_device()).eval()


def check_dimension(config: RunConfig, wanted: TrainConfig | None, student: pretrained.Source) -> None:
    """Raises InputError where embeddings are distilled from a teacher that has others numbers of them than the model.

    wanted: the most that a trial asks of its teacher (`space.teacher_settings`).
    """
    if not wanted or not config.train.teacher or not wanted.distill_embeddings:
        return
    theirs, own = find_teacher(config).dimension, find_teacher(replace(config, train=TrainConfig())).dimension
    if theirs != own:
        raise InputError(
            f"train.distill_embeddings needs a teacher of the model's own dimension: train.teacher "
            f"{config.train.teacher} has {theirs}, {student.name} {own}; take train.distill_similarities, for which "
            "they may differ"
        )
