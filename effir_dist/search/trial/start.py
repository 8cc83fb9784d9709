"""What a trial starts from: the checkpoint, the run's tuned base, or the trial that it continues. The one place that
says so."""

from __future__ import annotations

import dataclasses
import functools

from effir_dist.core.settings import RunConfig
from effir_dist.core.storage import read_locally
from effir_dist.models import pretrained
from effir_dist.models.encoder import Encoder, build_encoder, load_pruned, make_settings, resolve_dtype
from effir_dist.runs.records import BASE, TrialSpec
from effir_dist.runs.run_folder import Run
from effir_dist.runs.trial_spec import BASE_TRIAL
from effir_dist.training.stages import tunes_base


def starting_encoder(run: Run, config: RunConfig, spec: TrialSpec) -> Encoder:
    """The model that a trial prunes and trains, ready to be trained. One that continues another is pruned already.

    Raises FileNotFoundError or InputError where the weights that it starts from are gone.
    """
    dtype = resolve_dtype(config.train.dtype)
    if spec.continues:
        with read_locally(run.trial_folder(spec.continues)) as folder:
            return load_pruned(folder, dtype)
    if spec.stage == BASE:
        return base_encoder(config)
    base = base_of(run, config, dtype)
    return build_encoder(base, make_settings(config.model, base.source), dtype)


def base_of(run: Run, config: RunConfig, dtype: str) -> pretrained.Base:
    """What a run's trials start from, the base itself apart: the checkpoint, or the base's weights where that is tuned.

    Kept in this process's memory for the next trial where it is small enough.
    """
    if not tunes_base(config):
        return _checkpoint(config, dtype)
    found = _tuned(run.location, pretrained.find_model(config.model), dtype)
    if not found.shared:
        _tuned.cache_clear()
    return found


def base_encoder(config: RunConfig) -> Encoder:
    """The checkpoint's own model, ready to be trained."""
    dtype = resolve_dtype(config.train.dtype)
    base = _checkpoint(config, dtype)
    return build_encoder(base, make_settings(config.model, base.source), dtype)


def _checkpoint(config: RunConfig, dtype: str) -> pretrained.Base:
    return pretrained.load_base(pretrained.find_model(config.model), dtype)


@functools.lru_cache(maxsize=1)
def _tuned(location: str, source: pretrained.Source, dtype: str) -> pretrained.Base:
    """The base of the run at `location`, a trial of its own."""
    pretrained.forget()
    with read_locally(Run(location).trial_folder(BASE_TRIAL)) as folder:
        found = load_pruned(folder, dtype)
    size = sum(parameter.numel() * parameter.element_size() for parameter in found.parameters())
    complete = dataclasses.replace(source, config=found.model_config)
    return pretrained.Base(found.backbone, found.head, found.tokenizer, complete, size <= pretrained.CACHED_BYTES)
