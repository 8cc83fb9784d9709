"""The configuration of a new run: defaults < the model's own folder < search space < command line, all settled."""

from __future__ import annotations

import argparse
import dataclasses
from dataclasses import dataclass
from pathlib import Path

from effir_dist.core import config as config_module
from effir_dist.core.errors import InputError
from effir_dist.core.settings import RunConfig
from effir_dist.core.values import Json
from effir_dist.data import sets
from effir_dist.data.named import names
from effir_dist.models import pretrained
from effir_dist.models.encoder_settings import make_settings
from effir_dist.models.families import registry
from effir_dist.models.origins import origins, resolved, retriever_text, told
from effir_dist.search.command_line import settings
from effir_dist.search.strategy import space, space_file
from effir_dist.search.strategy.space import Space
from effir_dist.training.stages import tunes_base

SETS = ("paths", "train_paths", "held_out")
"""Settings of `data` that name data sets."""
TEMPERATURE = "train.temperature"
DOT_TEMPERATURE = 1.0
"""For inner products of vectors that are not normalised: what sentence-transformers' MultipleNegativesRankingLoss says
of them, "set scale to 1"."""


@dataclass(frozen=True)
class Asked:
    """The settings that a user gave, and what they hold for."""

    given: Json
    """By dotted name: of the search space and the command line."""
    space: Space
    source: pretrained.Source


def configure(args: argparse.Namespace) -> tuple[RunConfig, Space, pretrained.Source]:
    """The configuration of a new run, every value settled. Raises InputError for bad values."""
    named = config_module.replace(RunConfig(), settings(args)).model
    asked = asked_of(args, pretrained.find_model(named))
    return absolute(settled(asked)), asked.space, asked.source


def asked_of(args: argparse.Namespace, source: pretrained.Source) -> Asked:
    """The search space that was asked for, or the backbone's own, or its family's, and the settings of both."""
    named = config_module.replace(RunConfig(), settings(args)).model
    backbone = "" if named.path else registry.backbone(named.backbone).name
    file = Path(args.space or space_file.default_file(backbone, source.config["model_type"]))
    found = space_file.read_space(file)
    trials = {"search.trials": space.grid_size(found)} if found.plans else {}
    data = config_module.replace(RunConfig(), {**found.settings, **settings(args)}).data
    own = space_file.settings_on(found, data)
    if not args.space and file.stem != backbone:
        own = _of_a_family(own, source)
    return Asked({**trials, **own, **settings(args)}, found, source)


def _of_a_family(own: Json, source: pretrained.Source) -> Json:
    """The settings of a family's space that say nothing against the model's own folder."""
    if source.declared is None:
        return own
    kept = {name: value for name, value in own.items() if not name.startswith("model.")}
    unit_length = make_settings(config_module.replace(RunConfig(), kept).model, source).unit_length
    return kept if unit_length else {name: value for name, value in kept.items() if name != TEMPERATURE}


def settled(asked: Asked) -> RunConfig:
    """The configuration with what the model's folder or row says where the user said nothing."""
    config = each_set(config_module.replace(RunConfig(), asked.given))
    config = dataclasses.replace(config, model=resolved(config.model, asked.source))
    if TEMPERATURE in asked.given or make_settings(config.model, asked.source).unit_length:
        return config
    return config_module.replace(config, {TEMPERATURE: DOT_TEMPERATURE})


def origins_of(asked: Asked) -> dict[str, str]:
    """Setting of `model` -> where its value came from."""
    given = [name.removeprefix("model.") for name in asked.given if name.startswith("model.")]
    return origins(given, asked.source.declared)


def model_text(config: RunConfig, source: pretrained.Source, of: dict[str, str]) -> str:
    """What the retriever does, and which of it came from where, as a sentence; "" where a run does not say."""
    return told(make_settings(config.model, source), of, source.declared) if of else ""


def order_text(config: RunConfig, source: pretrained.Source) -> str:
    """Of `train.order=tune_prune_recover`: whether the model is tuned first and why, and what its trials then train."""
    first = "it is tuned first" if tunes_base(config) else "it is scored as it is, and trials start from it"
    share = "the whole training" if config.train.recovery == 1 else f"{config.train.recovery:.0%} of the training"
    return f"{retriever_text(config.model, source)}: {first}; each trial is pruned and recovers in {share}"


def as_it_was(config: RunConfig, tree: Json, source: pretrained.Source) -> RunConfig:
    """The configuration of a run that goes on. tree: as its file has it.

    Versions that did not read what a sentence-transformers folder says took a bare checkpoint: so does what they began.
    Raises InputError where that is no longer possible.
    """
    if "similarity" in tree["model"] or source.declared is None:
        return config
    if source.declared.dense or source.declared.truncate_dim:
        raise InputError(
            f"this run was begun by a version that left out the Dense layers or truncate_dim of {source.location}; "
            "start a new run"
        )
    bare = dataclasses.replace(source, declared=None)
    return dataclasses.replace(config, model=resolved(config.model, bare))


def each_set(config: RunConfig) -> RunConfig:
    """With beir:cqadupstack as its twelve data sets. Raises InputError for names that nobody has."""
    each = {f"data.{name}": names.expanded(getattr(config.data, name)) for name in SETS}
    return config_module.replace(config, each)


def absolute(config: RunConfig) -> RunConfig:
    """With absolute folders: workers start elsewhere."""
    named: Json = {f"data.{name}": tuple(map(sets.absolute, getattr(config.data, name))) for name in SETS}
    model = config.model
    if model.path and Path(model.path).expanduser().is_dir():
        model = dataclasses.replace(model, path=str(Path(model.path).expanduser().resolve()))
    prune = config.prune
    if prune.calibration_file:
        prune = dataclasses.replace(prune, calibration_file=str(Path(prune.calibration_file).expanduser().resolve()))
    teacher = config.train.teacher
    if teacher and Path(teacher).expanduser().is_dir():
        named["train.teacher"] = str(Path(teacher).expanduser().resolve())
    return config_module.replace(dataclasses.replace(config, model=model, prune=prune), named)
