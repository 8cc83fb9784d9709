"""A trial: plan, prune, train, score, record. The same function for Ray, a test and a notebook."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from effir_dist.core.config import replace, settings_of
from effir_dist.core.files import disk_errors, now
from effir_dist.core.settings import RunConfig, TrainConfig
from effir_dist.core.storage import written_locally
from effir_dist.core.values import Report
from effir_dist.data.pairs import training_pairs
from effir_dist.evaluate import ranks
from effir_dist.evaluate.evaluation import speeds
from effir_dist.evaluate.speed import Speed, measure
from effir_dist.importance.reconstruction import prune_and_reconstruct
from effir_dist.importance.store import load_saliency
from effir_dist.models import pretrained
from effir_dist.models.encoder import (
    Encoder,
    cast,
    default_device,
    resolve_dtype,
)
from effir_dist.models.pruning import PruningPlan
from effir_dist.runs.objectives import Goal
from effir_dist.runs.records import BASE, RungScore, TrialRecord, TrialSpec
from effir_dist.runs.run_folder import Run, write_queries
from effir_dist.search.trial.costs import Clock, hosts, release_memory
from effir_dist.search.trial.out_of_memory import OUT_OF_MEMORY, failure_reason, in_less_memory
from effir_dist.search.trial.outcome import failed_record
from effir_dist.search.trial.preparation import load_teacher, low_data, reconstruction_texts, token_cache
from effir_dist.search.trial.scoring import means, score_all, search_collections
from effir_dist.search.trial.start import starting_encoder
from effir_dist.training import preemption
from effir_dist.training.batches import Teacher
from effir_dist.training.schedule import count_steps
from effir_dist.training.stages import stage_training
from effir_dist.training.train_state import TrainState, read_state, write_state
from effir_dist.training.trainer import TrainOutcome, train


def run_trial(run: Run, config: RunConfig, spec: TrialSpec, report: Report) -> TrialRecord | RungScore:
    """Run one trial and write its record, which is returned. On several ranks each calls it; rank 0 writes.

    Where `spec.rung` is below the top, the trial ends there with its score in `rungs.json`, which is returned, and goes
    on from its checkpoint when it is called for a higher one. A trial that runs out of memory is tried once more with
    less (`in_less_memory`). One that does again, or diverges, is recorded as failed with its reason. On several ranks
    either raises as well, since the others wait for it: whoever calls then starts them anew. Any other error is raised.
    """
    clock = Clock([] if spec.rung is None else [score.values for score in run.rungs(spec.trial)])
    found = _try(run, config, spec, report, clock)
    if found is None:
        release_memory()
        found = _try(run, config, spec, report, clock)
    assert found is not None
    return found


def _try(run: Run, config: RunConfig, spec: TrialSpec, report: Report, clock: Clock) -> TrialRecord | RungScore | None:
    """What the trial came to; None where it ran out of memory for the first time."""
    first = run.out_of_memory(spec.trial)
    try:
        if spec.rung is not None and spec.rung < len(config.search.rungs):
            return _to_rung(run, config, spec, spec.rung, report, clock, bool(first))
        record = dataclasses.replace(_attempt(run, config, spec, report, clock, bool(first)), retried=first)
    except (RuntimeError, MemoryError, FloatingPointError) as error:
        reason = failure_reason(error)
        if reason is None:
            raise
        again = not first and reason.startswith(OUT_OF_MEMORY)
        if again:
            run.note_out_of_memory(spec.trial, reason)
        else:
            model_config = pretrained.find_model(config.model).config
            rungs, dimension = run.rungs(spec.trial), config.model.dimension
            record = failed_record(model_config, spec, reason, clock.started, dimension, first, rungs, clock.before)
            record = run.write_result(record)
        if ranks.place()[1] > 1:
            raise
        return None if again else record
    return run.write_result(record) if ranks.is_first() else record


def _attempt(
    run: Run, config: RunConfig, spec: TrialSpec, report: Report, clock: Clock, little_memory: bool
) -> TrialRecord:
    config = _settled(config, spec, little_memory)
    encoder, outcome = _trained(run, config, spec, report, clock)
    scored = search_collections(config)
    scores = score_all(encoder, config, scored)
    if ranks.is_first():
        if _keeps_weights(config, spec):
            folder = run.trial_folder(spec.trial)
            with disk_errors(folder / "model.safetensors"), written_locally(folder) as local:
                encoder.save(local)
        write_queries(run.queries_path(spec.trial), {name: s.per_query for name, s in scores.items()})
    speed = _measured(run, encoder, config, spec)
    model_config, dimension = encoder.model_config, config.model.dimension
    return TrialRecord(
        spec=spec,
        state="complete",
        facts=spec.facts(model_config, dimension),
        values={
            **spec.values(model_config, dimension),
            **means(scores, config.search.quality_sets),
            **speeds([*scores.values()]),
            **speed.values,
            **clock.costs(outcome, sum(s.seconds for s in scores.values())),
        },
        datasets={name: s.metrics for name, s in scores.items()},
        sizes={each.name: each.size for each in scored},
        started=clock.started,
        finished=now(),
        host=hosts(),
        steps=outcome.steps,
        train_loss=outcome.last_loss,
        speed_protocol=speed.protocol,
        rungs=() if spec.rung is None else tuple(run.rungs(spec.trial)),
        earlier_seconds=clock.before,
    )


def _settled(config: RunConfig, spec: TrialSpec, little_memory: bool) -> RunConfig:
    config = replace(config, settings_of(spec.suggested))
    return in_less_memory(config) if little_memory else config


def _trained(
    run: Run, config: RunConfig, spec: TrialSpec, report: Report, clock: Clock, share: float = 1.0
) -> tuple[Encoder, TrainOutcome]:
    """The pruned model after a share of its training, ready to be scored."""
    plan = spec.plan
    report({"phase": "prune"})
    encoder = starting_encoder(run, config, spec)
    neurons = load_saliency(run)[plan.ranking] if plan.widths and not spec.continues else None
    if config.train.order != "tune_then_prune" and not spec.continues:
        _prune(encoder, plan, neurons, config)
    outcome = TrainOutcome(0, 0.0, 0.0, math.nan)
    if share:
        pairs = training_pairs(config.data, config.search.seed)
        ranks_of_it = ranks.place()[1]
        whole = count_steps(config.train, len(pairs.queries), ranks_of_it)
        training, teacher = _lesson(run, stage_training(config, spec.stage, whole), spec, encoder)
        steps = count_steps(training, len(pairs.queries), ranks_of_it)
        until = max(1, round(share * steps)) if share < 1 and steps else 0
        checkpoints = _Checkpoints(run, spec, clock)
        clock.train_begins()
        outcome = train(encoder, pairs, training, report, token_cache(), teacher, checkpoints, until)
    if config.train.order == "tune_then_prune":
        _prune(encoder, plan, neurons, config)
    release_memory()
    report({"phase": "score"})
    return cast(encoder.to(default_device()), resolve_dtype(config.score.dtype)).eval(), outcome


def _prune(encoder: Encoder, plan: PruningPlan, neurons: np.ndarray | None, config: RunConfig) -> None:
    """Prune a model that has the weights it is to be pruned with, in place."""
    tokens = config.prune.reconstruct_tokens if plan != PruningPlan() else 0
    if tokens:
        encoder.to(default_device())
    prune_and_reconstruct(encoder, plan, neurons, reconstruction_texts(config) if tokens else [], tokens)


def _lesson(run: Run, training: TrainConfig, spec: TrialSpec, encoder: Encoder) -> tuple[TrainConfig, Teacher | None]:
    """A trial's training, and its teacher's embeddings if any. A base learns no embeddings of another dimension."""
    teacher = load_teacher(run, training, spec.stage)
    if teacher and spec.stage == BASE and teacher.passages.shape[1] != encoder.dimension:
        training = dataclasses.replace(training, distill_embeddings=0.0)
    return training, teacher


def _keeps_weights(config: RunConfig, spec: TrialSpec) -> bool:
    """Whether a trial leaves its model: for the user, or for trials that start from it."""
    continued = config.train.recovers and config.search.full_recovery and not spec.stage
    return config.search.keep_weights != "none" or spec.stage == BASE or continued


def _to_rung(
    run: Run, config: RunConfig, spec: TrialSpec, rung: int, report: Report, clock: Clock, little_memory: bool
) -> RungScore:
    """Train up to a rung below the top and score there, on less data; what is written to `rungs.json`."""
    config, share = _settled(config, spec, little_memory), config.search.rungs[rung]
    encoder, outcome = _trained(run, config, spec, report, clock, share)
    less = dataclasses.replace(config, data=low_data(config))
    scored = search_collections(less)
    scores = score_all(encoder, less, scored)
    # Speed is the plan's, not the weights': once is enough.
    measured = rung == 0 and Goal.of(config.search).measured
    speed = _measured(run, encoder, config, spec) if measured else Speed()
    costs = clock.rung_costs(outcome, sum(s.seconds for s in scores.values()))
    model_config, dimension = encoder.model_config, config.model.dimension
    known = {**spec.values(model_config, dimension), **speed.values}
    found = RungScore(
        rung=rung,
        share=share,
        cost=spec.cost,
        facts=spec.facts(model_config, dimension),
        values={**known, **means(scores, config.search.quality_sets), **costs},
        steps=outcome.steps,
        finished=now(),
        host=hosts(),
        sizes={each.name: each.size for each in scored},
    )
    if ranks.is_first():
        run.write_rung(spec.trial, found)
    return found


def _measured(run: Run, encoder: Encoder, config: RunConfig, spec: TrialSpec) -> Speed:
    """Speed and memory beside the unpruned model, where they are asked for; rank 0 alone measures."""
    if not ranks.is_first() or not (config.score.speed or Goal.of(config.search).measured):
        return Speed()
    whole = starting_encoder(run, config, dataclasses.replace(spec, continues=""))
    unpruned = cast(whole.to(encoder.device), next(encoder.parameters()).dtype).eval()
    return measure(encoder, unpruned, config.score)


class _Checkpoints:
    """A trial's state while it trains, in its folder; `training.Checkpoints`."""

    def __init__(self, run: Run, spec: TrialSpec, clock: Clock) -> None:
        self.path, self.key, self.older_key = run.checkpoint_path(spec.trial), spec.key, spec.older_key
        self.clock = clock

    def load(self) -> TrainState | None:
        found = read_state(self.path, self.key)
        if found is None and self.older_key:
            found = read_state(self.path, self.older_key)
        if found:
            self.clock.goes_on_from(found)
        return found

    def save(self, state: TrainState) -> None:
        write_state(self.path, self.clock.stamped(state), self.key)

    def urgent(self) -> bool:
        return preemption.noticed()
