"""`python -m effir_dist.search`: search the front of size against quality, or go on with a search that was stopped."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import importlib.metadata
import os
import re
import shlex
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from effir_dist.core import config as config_module
from effir_dist.core import renamed
from effir_dist.core.errors import InputError, command
from effir_dist.core.measures import QUALITY, costs
from effir_dist.core.settings import RunConfig
from effir_dist.core.storage import is_remote, place
from effir_dist.data import beir, pairs, sets
from effir_dist.models import pretrained
from effir_dist.models.families import registry
from effir_dist.models.pruning import count_parameters
from effir_dist.report import command as report_command
from effir_dist.runs.run_folder import Run
from effir_dist.search import checks
from effir_dist.search.cluster import growth, resources
from effir_dist.search.cluster.worker import output_to
from effir_dist.search.strategy import space, space_file
from effir_dist.search.strategy.space import Space
from effir_dist.training.schedule import count_steps

VERSIONS = ("effir_dist", "torch", "transformers", "ray", "deepspeed", "optuna")
RESUMABLE = (
    *("search.trials", "search.time_budget", "search.gpu_hours", "search.patience_trials", "search.patience_percent"),
    *("search.keep_weights", "data.held_out", "resources."),
)
"""Settings that may change when a run is resumed; another value of any other would be another experiment."""
FLAGS = {
    "backbone": "model.backbone",
    "model": "model.path",
    "data": "data.paths",
    "held_out": "data.held_out",
    "trials": "search.trials",
    "time_budget": "search.time_budget",
    "seed": "search.seed",
    "workers_per_trial": "resources.workers_per_trial",
    "gpus_per_trial": "resources.gpus_per_trial",
    "gpus_per_worker": "resources.gpus_per_worker",
    "cpus_per_trial": "resources.cpus_per_trial",
    "max_concurrent": "resources.max_concurrent",
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="python -m effir_dist.search",
        description="Search for smaller retrievers: drop MLP layers, narrow the rest, fine-tune, score nDCG@10.",
        epilog="key=value sets anything else, for example train.steps=100 data.max_documents=5000. "
        f"search.objectives is {QUALITY} and one or two of {', '.join(costs())}.",
    )
    names = ", ".join([*registry.SHORT_NAMES, *registry.BACKBONES])
    p.add_argument("--backbone", help=f"what to prune: {names} (default: minilm)")
    p.add_argument("--model", metavar="PATH", help="a local checkpoint or another hub id, instead of the backbone's")
    p.add_argument("--data", action="append", metavar="DIR", help="BEIR-format folder, repeatable (default: pydocs)")
    p.add_argument("--held-out", action="append", metavar="DIR", help="scores the front at the end; never read before")
    p.add_argument("--space", metavar="FILE", help="search space (default: search_spaces/ of the backbone)")
    p.add_argument("--name", help="the run's folder in runs/ (default: backbone and time)")
    where = os.environ.get("EFFIR_RUNS", "runs")
    p.add_argument("--runs", metavar="DIR", default=where, help=f"folder or bucket (s3://) of runs (default: {where})")
    p.add_argument("--resume", metavar="RUN", help="go on with the run in this folder")
    p.add_argument("--repeat", type=int, default=0, metavar="N", help="with --resume: run the front N times more")
    p.add_argument("--trials", type=int, help="trials in all, those of a resumed run included")
    p.add_argument("--time-budget", metavar="TIME", help="such as 90s, 20m or 8h")
    p.add_argument("--seed", type=int)
    p.add_argument("--workers-per-trial", type=int)
    p.add_argument("--gpus-per-trial", type=float, help="GPUs of all workers of a trial together")
    p.add_argument("--gpus-per-worker", type=float, help="the same, for each worker (default: 1 where there are GPUs)")
    p.add_argument("--cpus-per-trial", type=float, help="CPUs of all workers of a trial together")
    p.add_argument("--max-concurrent", type=int, help="trials at a time")
    p.add_argument("--dry-run", action="store_true", help="print what would be tried, and its cost; start nothing")
    renamed.refuse_option(p, "--plan", "--dry-run")
    p.add_argument("--tflops", type=float, default=0.0, metavar="N", help="with --dry-run: 10^12 operations a second")
    p.add_argument("--address", default=os.environ.get("RAY_ADDRESS"), help="Ray cluster to join ('auto' on its head)")
    p.add_argument("overrides", nargs="*", metavar="key=value")
    return p


def seconds(text: str) -> float:
    """'90', '90s', '20m', '1.5h', '2d' -> seconds. Raises InputError for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text.strip())
    if not match:
        raise InputError(f"--time-budget must be a time such as 90s, 20m or 8h, got {text!r}")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]]


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """The settings of a command line by dotted name; key=value over flags."""
    values = {setting: getattr(args, flag) for flag, setting in FLAGS.items() if getattr(args, flag) is not None}
    if args.time_budget is not None:
        values["search.time_budget"] = seconds(args.time_budget)
    return {**values, **config_module.parse_overrides(args.overrides)}


def configure(args: argparse.Namespace) -> tuple[RunConfig, Space, pretrained.Source]:
    """The configuration of a new run: defaults < search space < command line. Raises InputError for bad values."""
    named = config_module.replace(RunConfig(), settings(args)).model
    source = pretrained.find(named.backbone, named.path)
    own = "" if named.path else registry.backbone(named.backbone).name
    config, found = _in_space(args, own, source.config["model_type"])
    return _absolute(config), found, source


def dry_run_text(args: argparse.Namespace) -> str:
    """The text of `--dry-run`, from a named backbone's row or a checkpoint's config.json; no weights, no network."""
    from effir_dist.search import dry_run

    if args.resume:
        return rest_of_run_text(args)
    model = config_module.replace(RunConfig(), settings(args)).model
    row = None if model.path else registry.backbone(model.backbone)
    model_config = row.config if row else pretrained.find(model.backbone, model.path).config
    config, found = _in_space(args, row.name if row else "", model_config["model_type"])
    return dry_run.text(found, config, model_config, row.name if row else model.path, tflops=args.tflops)


def rest_of_run_text(args: argparse.Namespace) -> str:
    """`--dry-run --resume RUN`: what is left of a run, by what its trials took. Reads its folder and nothing else."""
    from effir_dist.search import dry_run

    run = Run.open(args.resume)
    config = config_module.replace(config_module.from_dict(run.config), _resumable(args))
    model, records = config.model, run.results()
    model_config = pretrained.find(model.backbone, model.path).config if model.path else _row_config(model.backbone)
    found = space_file.parse_space(run.extra["space"], str(run.folder / "config.yaml"))
    return dry_run.text(found, config, model_config, str(run.folder), records, args.tflops)


def _row_config(name: str) -> dict[str, Any]:
    return dict(registry.backbone(name).config)


def _in_space(args: argparse.Namespace, backbone: str, model_type: str) -> tuple[RunConfig, Space]:
    """The search space that was asked for, or the backbone's own, and the configuration with its settings."""
    found = space_file.read_space(args.space or space_file.default_file(backbone, model_type))
    trials = {"search.trials": space.grid_size(found)} if found.plans else {}
    return config_module.replace(RunConfig(), {**trials, **found.settings, **settings(args)}), found


def _absolute(config: RunConfig) -> RunConfig:
    """With absolute folders: workers start elsewhere."""
    held_out, paths = (tuple(map(_absolute_data, p)) for p in (config.data.held_out, config.data.paths))
    model = config.model
    if model.path and Path(model.path).expanduser().is_dir():
        model = dataclasses.replace(model, path=str(Path(model.path).expanduser().resolve()))
    prune = config.prune
    if prune.calibration_file:
        prune = dataclasses.replace(prune, calibration_file=str(Path(prune.calibration_file).expanduser().resolve()))
    sets = dataclasses.replace(config.data, paths=paths, held_out=held_out)
    return dataclasses.replace(config, data=sets, model=model, prune=prune)


def _absolute_data(path: str) -> str:
    return path if path == sets.BUILT_IN else str(Path(path).expanduser().resolve())


def check(config: RunConfig, found: Space, source: pretrained.Source, address: str | None) -> list[str]:
    """Every check that needs no cluster. Returns warnings; raises InputError."""
    pretrained.check_weights(source)
    if not address:
        resources.check_local(config.resources)
    seed, train = config.search.seed, config.train
    scored = space.needs_scores(found, config)
    checks.check(found, config, source.config)
    warnings = [warning for path in config.data.paths for warning in pairs.check(path, config.data, seed, scored)]
    if train.steps or train.epochs:
        count_steps(train, pairs.check_training(config.data, seed), config.resources.workers_per_trial)
    if config.prune.calibration_file and not any(beir.lines(Path(config.prune.calibration_file))):
        raise InputError(f"prune.calibration_file has no text in {config.prune.calibration_file}; it needs a line")
    return warnings


def check_space_on_disk(folder: Path, source: pretrained.Source) -> None:
    """Raises InputError where the disk has no room for even one model."""
    if is_remote(folder):
        return
    existing = next(parent for parent in [folder, *folder.resolve().parents] if parent.is_dir())
    free, needed = shutil.disk_usage(existing).free, 4 * count_parameters(source.config)
    if free < needed:
        raise InputError(
            f"{existing} has {free / 2**30:.2f} GiB free, and one model takes up to {needed / 2**30:.2f} GiB; "
            "free some, or run from a folder on a larger disk"
        )


def create_run(args: argparse.Namespace, config: RunConfig, found: Space) -> Run:
    """The folder of a new run, with all that defines it. Raises InputError where it exists."""
    model = Path(config.model.path).name or config.model.backbone
    name = args.name or f"{model}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    if not re.fullmatch(r"[\w.-]+", name) or name in (".", ".."):
        raise InputError(f"--name must be letters, digits, '.', '_' and '-', got {name!r}")
    extra = {
        "space": space_file.to_dict(found),
        "data": [sets.fingerprint(path) for path in config.data.paths],
        "versions": {package: importlib.metadata.version(package) for package in VERSIONS},
        "command": shlex.join(["python", "-m", "effir_dist.search", *sys.argv[1:]]),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    return Run.create(place(args.runs) / name, config_module.to_dict(config), extra)


def open_run(args: argparse.Namespace) -> tuple[Run, RunConfig, Space, pretrained.Source]:
    """A run to go on with. Raises InputError where the command line or the data would make it another experiment."""
    run = Run.open(args.resume)
    config = config_module.from_dict(run.config)
    values = _resumable(args)
    if args.space or args.name:
        raise InputError("--space and --name belong to a new run; leave them out with --resume")
    config = _absolute(config_module.replace(config, values))
    for path, known in zip(config.data.paths, run.extra["data"], strict=True):
        if sets.fingerprint(path)["sha256"] != known["sha256"]:
            raise InputError(f"the data set {path} changed since {run.folder} began; start a new run")
    source = pretrained.find(config.model.backbone, config.model.path)
    return run, config, space_file.parse_space(run.extra["space"], str(run.folder / "config.yaml")), source


def _resumable(args: argparse.Namespace) -> dict[str, Any]:
    """The settings of a command line that goes on with a run. Raises InputError for any that would make it another."""
    values = settings(args)
    for name, value in values.items():
        if not name.startswith(RESUMABLE):
            raise InputError(f"{name} cannot change in a run that is resumed (asked for {value!r}); start a new run")
    return values


@command
def main() -> None:
    """Entry point."""
    args = parser().parse_intermixed_args()
    if args.repeat < 0 or (args.repeat and not args.resume):
        raise InputError("--repeat takes the number of new seeds, 1 or more, and the run: --resume RUN --repeat 2")
    if args.dry_run:
        print(dry_run_text(args))
        return
    if args.resume:
        run, config, found, source = open_run(args)
        warnings = check(config, found, source, args.address)
    else:
        config, found, source = configure(args)
        warnings = check(config, found, source, args.address)
        check_space_on_disk(place(args.runs), source)
        run = create_run(args, config, found)
    _run(run, config, found, source, args, warnings)


def _run(
    run: Run, config: RunConfig, found: Space, source: pretrained.Source, args: argparse.Namespace, warnings: list[str]
) -> None:
    from rich.console import Console

    with run.locked(), os.fdopen(os.dup(1), "w") as screen:
        run.write_config(config_module.to_dict(config))
        console = Console(file=screen)
        for warning in warnings:
            console.print(f"warning: {warning}", markup=False, highlight=False)
        try:
            _search(run, config, found, source, args, console)
        except KeyboardInterrupt:
            print(f"interrupted; nothing finished is lost: --resume {run.folder}", file=sys.stderr)
            raise SystemExit(130) from None
    report_command.main([str(run.folder)])


def _search(
    run: Run, config: RunConfig, found: Space, source: pretrained.Source, args: argparse.Namespace, console: Any
) -> None:
    from effir_dist.runs.objectives import Goal
    from effir_dist.search.cluster import tune
    from effir_dist.search.course import search
    from effir_dist.search.live import LiveView
    from effir_dist.search.strategy.repeating import repeat_specs

    address = args.address

    title = f"{run.folder}: {source.name} on {', '.join(Path(p).name for p in config.data.paths)}"
    full = count_parameters(source.config)
    known, budget, goal = run.results(), config.search.time_budget, Goal.of(config.search)
    repeats = len([r for r in known if r.spec.repeat_of])
    trials = len(known) + len(repeat_specs(run, config, args.repeat)) if args.repeat else config.search.trials + repeats
    view = LiveView(console, title, trials, full, known=known, time_budget=budget, goal=goal)
    with output_to(run.log_path), tempfile.TemporaryDirectory(prefix="effir-ray-") as scratch, view:
        view.message("starting Ray" if not address else f"joining Ray at {address}")
        with tune.cluster(address) as present:
            may_come = growth.nodes_that_may_come() if address else ()
            storage = f"{run.location}/ray" if address else scratch
            search(run, config, found, source.config, present, may_come, view, storage, repeat=args.repeat)
