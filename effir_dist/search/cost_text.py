"""The predicted cost of a search, in words: `--dry-run`."""

from __future__ import annotations

from dataclasses import dataclass, replace

from effir_dist.core.settings import RunConfig
from effir_dist.models.families.base import ModelDict
from effir_dist.runs.objectives import Goal
from effir_dist.runs.records import BASE, FULL_RECOVERY, TrialRecord
from effir_dist.search.cost_estimate import (
    Sizes,
    data_sizes,
    reconstruction_operations,
    screening_share,
    steps_of,
    trial_operations,
)
from effir_dist.search.live.text import duration
from effir_dist.search.strategy.next_trial import has_rungs
from effir_dist.search.strategy.recovering import Recovered
from effir_dist.search.strategy.schedulers import no_screening
from effir_dist.search.strategy.space import Space
from effir_dist.search.strategy.stopping import usual_seconds
from effir_dist.training.stages import recovers_in_full


@dataclass(frozen=True)
class _Stage:
    """Trials that cost the same."""

    stage: str
    name: str
    """Of one of them, in words."""
    count: int


def cost_lines(
    config: RunConfig, space: Space, model_config: ModelDict, records: list[TrialRecord], tflops: float
) -> list[str]:
    """The predicted cost of what is to be run: measured seconds where trials finished, else operations. tflops: 10^12
    operations a second that the hardware of a trial keeps up."""
    left = max(0, config.search.trials - sum(r.spec.searched for r in records))
    if usual_seconds(records, "", config.train.recovery):
        return _by_seconds(config, records, left)
    sizes, known = data_sizes(config), {r.spec.stage for r in records}
    stages = [_Stage(BASE, "the base", 1)] if config.train.recovers and BASE not in known else []
    stages.append(_Stage("", "a trial", left))
    whole = f"{' and '.join(['the base', f'{left} trials'][-len(stages) :])}"
    lines = [f"predicted cost of {whole}, as if none were pruned and all texts as long as they may be:"]
    for each in stages:
        lines += _training(config, model_config, sizes, each)
    lines += [*_reconstruction(config, model_config), *_scoring(config, model_config, sizes), *_of_what(sizes)]
    found = [_operations(config, model_config, sizes, each) for each in stages]
    if None in found:
        return [*lines, f"  the rest is not known: {sizes.reason}" if sizes.reason else "  the rest is not known"]
    lines.append(_total("in all ", sum(each or 0.0 for each in found), tflops))
    lines += _screening(config, space, model_config, sizes)
    return [*lines, *_in_full(config, model_config, sizes, tflops)]


def _by_seconds(config: RunConfig, records: list[TrialRecord], left: int) -> list[str]:
    usual = usual_seconds(records, "", config.train.recovery)
    done = len([r for r in records if r.complete and not r.spec.stage])
    each = f"{duration(usual)} each, " + (f"the median of {done} finished" if done else "by what the base took")
    lines = [f"predicted cost: {left} trials left, {each}: {duration(left * usual)} one at a time"]
    if not recovers_in_full(config):
        return lines
    owed = len(Recovered(Goal.of(config.search), records).lacking)
    full = usual_seconds(records, FULL_RECOVERY, config.train.recovery)
    of_front = f"{duration(owed * full)} for the {owed} of today's front that have none"
    return [*lines, f"  and a full recovery of each model of the front, {duration(full)} each: {of_front}"]


def _in_full(config: RunConfig, model_config: ModelDict, sizes: Sizes, tflops: float) -> list[str]:
    """What full recoveries cost, whose number the front decides."""
    each = _Stage(FULL_RECOVERY, "a full recovery", 1)
    found = _operations(config, model_config, sizes, each)
    if found is None or not (recovers_in_full(config) and steps_of(config, sizes, FULL_RECOVERY)):
        return []
    training = _training(config, model_config, sizes, each)
    return [*training, _total("and for each model of the front ", found, tflops, hint=False)]


def _total(what: str, operations: float, tflops: float, hint: bool = True) -> str:
    line = f"  {what}{operations_text(operations)}"
    if tflops:
        return f"{line}: {duration(operations / (tflops * 1e12))} at {tflops:g} TFLOP/s"
    return f"{line}; --tflops N (10^12 operations a second) turns that into time" if hint else line


def _operations(config: RunConfig, model_config: ModelDict, sizes: Sizes, stage: _Stage) -> float | None:
    """Of all trials of a stage; None where that is not known."""
    train, score = trial_operations(model_config, config, sizes, stage.stage)
    if train is None or score is None:
        return None
    fitted = 0.0 if stage.stage else reconstruction_operations(model_config, config)
    return stage.count * (fitted + train + score)


def _of_what(sizes: Sizes) -> list[str]:
    """What the scores will be of, and which queries are left out."""
    named = {"a trial is scored on": sizes.scored, "the finished front on": sizes.tested}
    return [*(f"  {what} {said}" for what, said in named.items() if said), *(f"  {line}" for line in sizes.left_out)]


def _training(config: RunConfig, model_config: ModelDict, sizes: Sizes, stage: _Stage) -> list[str]:
    train, steps = config.train, steps_of(config, sizes, stage.stage)
    found = trial_operations(model_config, config, sizes, stage.stage)[0]
    if found is None:
        return []
    if stage.stage == BASE and not steps:
        return ["  the base: the model as it is, scored and not trained"]
    tokens = config.model.query_length + (1 + sizes.negatives(config)) * config.model.document_length
    shape = f"{steps} steps of {train.batch_size} queries, {train.batch_size * tokens:,} tokens a step"
    return [f"  training {stage.name}: {shape}: {operations_text(found)}"]


def _reconstruction(config: RunConfig, model_config: ModelDict) -> list[str]:
    found, tokens = reconstruction_operations(model_config, config), config.prune.reconstruct_tokens
    return [f"  fitting a trial's matrices: {tokens:,} tokens: {operations_text(found)}"] if found else []


def _scoring(config: RunConfig, model_config: ModelDict, sizes: Sizes) -> list[str]:
    found = trial_operations(model_config, config, sizes)[1]
    texts = f"{sizes.queries:,} queries, {sizes.documents:,} documents" if found is not None else ""
    return [f"  scoring a trial: {texts}: {operations_text(found)}"] if found is not None else []


def _screening(config: RunConfig, space: Space, model_config: ModelDict, sizes: Sizes) -> list[str]:
    """What screening a plan costs, and whether it is done."""
    search = config.search
    train, score = trial_operations(model_config, config, sizes)
    queries, documents = (len(config.data.paths) * limit for limit in (search.rung_queries, search.rung_documents))
    few = replace(sizes, queries=_least(sizes.queries, queries), documents=_least(sizes.documents, documents))
    low = trial_operations(model_config, config, few)[1]
    if search.scheduler != "screening" or not train or score is None or low is None or not has_rungs(config, space):
        return []
    work = {"train": train, "score": score, "low": low, "fit": reconstruction_operations(model_config, config)}
    share = screening_share(work, search.rungs[0])
    if not has_rungs(config, space, work):
        return [f"  {no_screening(search, share)}"]
    return [
        f"  screening a plan costs {share:.2g} of a trial, and all of it {search.screening_budget:.0%} of the search"
    ]


def _least(count: int | None, limit: int) -> int | None:
    return min(count, limit) if count is not None and limit else count


def operations_text(count: float) -> str:
    for unit, size in (("EFLOP", 1e18), ("PFLOP", 1e15), ("TFLOP", 1e12)):
        if count >= size:
            return f"{count / size:,.3g} {unit}"
    return f"{count / 1e9:,.3g} GFLOP"
