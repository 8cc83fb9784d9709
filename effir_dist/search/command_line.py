"""The command line of a search, and the settings that it names."""

from __future__ import annotations

import argparse
import os
import re
from typing import Any

from effir_dist.core import config as config_module
from effir_dist.core import renamed
from effir_dist.core.errors import InputError
from effir_dist.core.measures import QUALITY, costs
from effir_dist.core.output import add_quiet
from effir_dist.models.families import registry

RESUMABLE = (
    *("search.trials", "search.time_budget", "search.gpu_hours", "search.patience_trials", "search.patience_percent"),
    *("search.equal_failures", "search.safe_loss"),
    *("search.keep_weights", "data.held_out", "resources."),
)
"""Settings that may change when a run is resumed; another value of any other would be another experiment."""
FLAGS = {
    "backbone": "model.backbone",
    "model": "model.path",
    "trust_remote_code": "model.trust_remote_code",
    "data": "data.paths",
    "train_data": "data.train_paths",
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
    registry.list_in(p)
    p.add_argument("--backbone", metavar="NAME", help="what to prune: a name of the list below (default: minilm)")
    p.add_argument("--model", metavar="PATH", help="a local checkpoint, a hub id, or a backbone's name")
    what = "run code that comes with the model, once, to see that it computes what the model's family does"
    p.add_argument("--trust-remote-code", action="store_const", const=True, help=what)
    what = (
        "BEIR-format folder, beir:NAME, hf:ORG/NAME or mteb:TASK that scores the search, and trains where --train-data "
        "is not given (default: pydocs)"
    )
    p.add_argument("--data", action="append", metavar="DIR", help=what)
    what = "trained on, never scored; also a .jsonl or .parquet file of pairs or triples, or hf:ORG/NAME:SUBSET"
    p.add_argument("--train-data", action="append", metavar="DIR", help=what)
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
    what = "GPUs of all workers of a trial together; 0.125: eight trials share one, auto: as many as fit its memory"
    p.add_argument("--gpus-per-trial", metavar="N", help=what)
    p.add_argument("--gpus-per-worker", type=float, help="the same, for each worker (default: 1 where there are GPUs)")
    p.add_argument("--cpus-per-trial", type=float, help="CPUs of all workers of a trial together")
    p.add_argument("--max-concurrent", type=int, help="trials at a time")
    p.add_argument("--dry-run", action="store_true", help="print what would be tried, and its cost; start nothing")
    renamed.refuse_option(p, "--plan", "--dry-run")
    p.add_argument("--tflops", type=float, default=0.0, metavar="N", help="with --dry-run: 10^12 operations a second")
    p.add_argument("--preflight", action="store_true", help="check every node and train two steps; start no search")
    p.add_argument("--preflight-json", metavar="FILE", help="with --preflight: write what it found there too")
    p.add_argument("--address", default=os.environ.get("RAY_ADDRESS"), help="Ray cluster to join ('auto' on its head)")
    add_quiet(p)
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
    if registry.is_backbone(values.get("model.path", "")):
        values["model.backbone"] = values.pop("model.path")
    if args.time_budget is not None:
        values["search.time_budget"] = seconds(args.time_budget)
    return {**values, **config_module.parse_overrides(args.overrides)}


def resumable(args: argparse.Namespace) -> dict[str, Any]:
    """The settings of a command line that goes on with a run. Raises InputError for any that would make it another."""
    values = settings(args)
    for name, value in values.items():
        if not name.startswith(RESUMABLE):
            raise InputError(f"{name} cannot change in a run that is resumed (asked for {value!r}); start a new run")
    return values
