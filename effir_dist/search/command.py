"""`python -m effir_dist.search`: search the front of size against quality, or go on with a search that was stopped."""

from __future__ import annotations

import argparse
import functools
import importlib
import os
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from effir_dist.core import config as config_module
from effir_dist.core.errors import InputError, command
from effir_dist.core.files import free_space
from effir_dist.core.measures import MEASURES, QUALITY
from effir_dist.core.output import Streams, silenced
from effir_dist.core.settings import RunConfig
from effir_dist.core.storage import is_remote, place
from effir_dist.core.wrapping import for_screen
from effir_dist.data import beir, pairs, roles
from effir_dist.importance.store import has_importance, has_outside
from effir_dist.models import pretrained
from effir_dist.models.pruning import count_parameters
from effir_dist.report import command as report_command
from effir_dist.runs.run_folder import Run
from effir_dist.runs.trial_spec import BASE_TRIAL
from effir_dist.search import checks
from effir_dist.search.cluster import growth, resources
from effir_dist.search.cluster.worker import output_to
from effir_dist.search.command_line import parser, resumable, settings
from effir_dist.search.configuration import (
    as_it_was,
    asked_of,
    configure,
    model_text,
    order_text,
    origins_of,
    settled,
)
from effir_dist.search.faults import SearchStopped
from effir_dist.search.model_checks import checks_of
from effir_dist.search.run_definition import MODEL_FROM, create_run, open_run
from effir_dist.search.strategy import space, space_file
from effir_dist.search.strategy.space import Space
from effir_dist.training import gpu_share
from effir_dist.training.schedule import count_steps

if TYPE_CHECKING:
    from rich.console import Console


def dry_run_text(args: argparse.Namespace) -> str:
    """The text of `--dry-run`, from a named backbone's row or a checkpoint's config.json; no weights, no network."""
    from effir_dist.search import dry_run

    if args.resume:
        return rest_of_run_text(args)
    model = config_module.replace(RunConfig(), settings(args)).model
    source = pretrained.find_row(model.backbone, model.path, model.trust_remote_code)
    asked = asked_of(args, source)
    config = settled(asked)
    about = _about(config, source, origins_of(asked))
    if not (model.path or source.declared or Path(source.location).is_dir()):
        about += f"; what {source.location} itself says goes over these defaults, and is read when a search starts"
    return dry_run.text(asked.space, config, source.config, source.name, tflops=args.tflops, about=about)


def _about(config: RunConfig, source: pretrained.Source, of: dict[str, str]) -> str:
    """What the retriever does, and in a search that tunes a base whether it is one already."""
    recovers = order_text(config, source) if config.train.recovers else ""
    return "\n".join(filter(None, (model_text(config, source, of), recovers)))


def rest_of_run_text(args: argparse.Namespace) -> str:
    """`--dry-run --resume RUN`: what is left of a run, by what its trials took. Reads its folder and nothing else."""
    from effir_dist.search import dry_run

    run = Run.open(args.resume)
    config = config_module.replace(config_module.from_dict(run.config), resumable(args))
    model, records = config.model, run.results()
    source = pretrained.find_row(model.backbone, model.path, model.trust_remote_code)
    config = as_it_was(config, run.config, source)
    found = space_file.parse_space(run.extra["space"], str(run.folder / "config.yaml"))
    about = _about(config, source, run.extra.get(MODEL_FROM, {}))
    return dry_run.text(found, config, source.config, str(run.folder), records, args.tflops, about)


def check(
    config: RunConfig, found: Space, source: pretrained.Source, address: str | None, prepared: bool = False
) -> list[str]:
    """Every check before a cluster is joined. Returns warnings; raises InputError.

    prepared: whether a run has all that its teacher tells, so that the teacher itself may be gone.
    """
    teacher = None if prepared else checks.teacher_of(config, found, source)
    sources = [source, *([teacher.source] if teacher and teacher.source else [])]
    with checks_of(sources) as models:
        warnings = _check_without_model(config, found, source, address)
        return warnings + models.warnings(checks.sample_texts(config))


def _check_without_model(config: RunConfig, found: Space, source: pretrained.Source, address: str | None) -> list[str]:
    if address:
        from effir_dist.search.cluster import connection

        connection.check_answers(address)
    else:
        resources.check_local(config.resources)
    seed, train = config.search.seed, config.train
    scored = space.needs_scores(found, config)
    checks.check(found, config, source.config)
    gpu_share.check(source.config, config)
    warnings = [*pairs.check(config.data, seed, scored), *checks.sharing_warnings(source.config, config)]
    if train.trains:
        count_steps(train, pairs.check_training(config.data, seed), config.resources.workers_per_trial)
    if config.prune.calibration_file and not any(beir.lines(Path(config.prune.calibration_file))):
        raise InputError(f"prune.calibration_file has no text in {config.prune.calibration_file}; it needs a line")
    return warnings


def check_space_on_disk(folder: Path, source: pretrained.Source) -> None:
    """Raises InputError where the disk has no room for even one model."""
    if is_remote(folder):
        return
    (existing, free), needed = free_space(folder), 4 * count_parameters(source.config)
    if free < needed:
        raise InputError(
            f"{existing} has {free / 2**30:.2f} GiB free, and one model takes up to {needed / 2**30:.2f} GiB; "
            "free some, or run from a folder on a larger disk"
        )


@command
def main() -> None:
    """Entry point."""
    args = parser().parse_intermixed_args()
    if args.repeat < 0 or (args.repeat and not args.resume):
        raise InputError("--repeat takes the number of new seeds, 1 or more, and the run: --resume RUN --repeat 2")
    if (args.dry_run and args.preflight) or (args.preflight_json and not args.preflight):
        raise InputError("--preflight stands alone, or with --preflight-json FILE; --dry-run is another command")
    with silenced(args.quiet) as streams:
        _run_or_check(args, streams)


def _run_or_check(args: argparse.Namespace, streams: Streams) -> None:
    """What the command line asks for."""
    if args.dry_run:
        print(for_screen(dry_run_text(args), streams.out), file=streams.out)
        return
    if args.resume:
        run, config, found, source = open_run(args)
        warnings = check(config, found, source, args.address, has_importance(run) or has_outside(run))
        if args.preflight:
            _preflight(args, config, found, source, run.folder.parent, streams)
            return
    else:
        config, found, source = configure(args)
        warnings = check(config, found, source, args.address)
        check_space_on_disk(place(args.runs), source)
        if args.preflight:
            _preflight(args, config, found, source, place(args.runs), streams)
            return
        run = create_run(args, config, found, source)
    _run(run, config, found, source, args, warnings, streams)


def _preflight(
    args: argparse.Namespace, config: RunConfig, found: Space, source: pretrained.Source, runs: Path, streams: Streams
) -> None:
    from effir_dist.search.preflight.command import Asked, preflight

    preflight(Asked(config, found, source, runs, args.address), streams.out, args.preflight_json, args.quiet)


def _run(
    run: Run,
    config: RunConfig,
    found: Space,
    source: pretrained.Source,
    args: argparse.Namespace,
    warnings: list[str],
    streams: Streams,
) -> None:
    from effir_dist.search.live.view import console_on

    report = functools.partial(report_command.write, [run], streams.out)
    try:
        with run.locked(), os.fdopen(os.dup(1), "w") as screen:
            run.write_config(config_module.to_dict(config))
            console = console_on(screen, args.quiet)
            errors = console_on(streams.err) if args.quiet else console
            for warning in warnings:
                text = for_screen(f"warning: {warning}", errors.file)
                errors.print(text, markup=False, highlight=False, soft_wrap=True)
            _search(run, config, found, source, args, console, errors)
    except KeyboardInterrupt:  # the user's; where the lease was lost, `locked` says so instead
        print(f"interrupted; nothing finished is lost: --resume {run.folder}", file=streams.err)
        raise SystemExit(130) from None
    except SearchStopped:
        if run.results():
            report()
        raise
    report()


def _search(
    run: Run,
    config: RunConfig,
    found: Space,
    source: pretrained.Source,
    args: argparse.Namespace,
    console: Console,
    errors: Console,
) -> None:
    from effir_dist.report.progress import scores_without_record
    from effir_dist.runs.objectives import Goal
    from effir_dist.search.cluster import connection, mps
    from effir_dist.search.live.view import LiveView
    from effir_dist.search.strategy.repeating import repeat_specs

    address = args.address

    title = f"{run.folder}: {source.name} on {roles.described(config.data)}"
    known, budget, goal = run.results(), config.search.time_budget, Goal.of(config.search)
    repeats = len([r for r in known if r.spec.repeat_of])
    staged = len([r for r in known if r.spec.stage and not r.spec.repeat_of])
    staged += config.train.recovers and not run.finished(BASE_TRIAL)
    others = repeats + staged
    trials = len(known) + len(repeat_specs(run, config, args.repeat)) if args.repeat else config.search.trials + others
    stopped = scores_without_record(run)
    view = LiveView(
        console, title, trials,
        known=known, stopped=stopped, time_budget=budget, goal=goal, warnings=errors,
    )  # fmt: skip
    with output_to(run.log_path), tempfile.TemporaryDirectory(prefix="effir-ray-") as scratch, view:
        about = _about(config, source, run.extra.get(MODEL_FROM, {}))
        if about:
            view.message(about)
        view.message(
            f"{MEASURES[QUALITY].label} is measured on: {roles.searched_text(config.data, config.search.seed)}"
        )
        view.message("starting Ray" if not address else f"joining Ray at {address}")
        # Optuna and pandas take a second: that of Ray's own processes.
        meanwhile = threading.Thread(target=importlib.import_module, args=("effir_dist.search.driver",), daemon=True)
        meanwhile.start()
        workers = config.resources.workers_per_trial
        with mps.for_search(config.resources, address, view.message), connection.cluster(address, workers) as present:
            meanwhile.join()
            from effir_dist.search.course import search

            may_come = growth.nodes_that_may_come(config.resources) if address else ()
            storage = f"{run.location}/ray" if address else scratch
            search(run, config, found, source.config, present, may_come, view, storage, repeat=args.repeat)
