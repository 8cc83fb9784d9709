"""All that defines a run: of a new one what its folder is made with, of one to go on with what its folder says."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import importlib.metadata
import re
import shlex
import sys
from pathlib import Path
from typing import Any

from effir_dist.core import config as config_module
from effir_dist.core.errors import InputError
from effir_dist.core.settings import RunConfig
from effir_dist.core.storage import place
from effir_dist.data import roles, sets
from effir_dist.models import pretrained
from effir_dist.runs.run_folder import Run
from effir_dist.search.command_line import resumable
from effir_dist.search.configuration import absolute, as_it_was, asked_of, each_set, origins_of
from effir_dist.search.strategy import space_file
from effir_dist.search.strategy.space import Space

MODEL_FROM = "model_from"
"""Key of config.yaml's part `run`: where the values of `model` came from."""
VERSIONS = ("effir_dist", "torch", "transformers", "ray", "deepspeed", "optuna")


def create_run(args: argparse.Namespace, config: RunConfig, found: Space, source: pretrained.Source) -> Run:
    """The folder of a new run, with all that defines it. Raises InputError where it exists."""
    model = Path(config.model.path).name or config.model.backbone
    name = args.name or f"{model}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    if not re.fullmatch(r"[\w.-]+", name) or name in (".", ".."):
        raise InputError(f"--name must be letters, digits, '.', '_' and '-', got {name!r}")
    extra = {
        "space": space_file.to_dict(found),
        MODEL_FROM: origins_of(asked_of(args, source)),
        "data": [_fingerprint(path, config) for path in config.data.searched],
        "left_out": [dataclasses.asdict(each) for each in roles.left_out(config.data, config.search.seed)],
        "versions": {package: importlib.metadata.version(package) for package in VERSIONS},
        "command": shlex.join(["python", "-m", "effir_dist.search", *sys.argv[1:]]),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    return Run.create(place(args.runs) / name, config_module.to_dict(config), extra)


def _fingerprint(path: str, config: RunConfig) -> dict[str, Any]:
    """What a data set held when the run began, and what it is for."""
    data, seed = config.data, config.search.seed
    trained = path in data.trained and bool(roles.train_part(path, data, seed).queries)
    found = (("trained", trained), ("scored", path in data.paths))
    return {**sets.fingerprint(path), "roles": [role for role, has in found if has]}


def open_run(args: argparse.Namespace) -> tuple[Run, RunConfig, Space, pretrained.Source]:
    """A run to go on with. Raises InputError where the command line or the data would make it another experiment."""
    run = Run.open(args.resume)
    config = config_module.from_dict(run.config)
    values = resumable(args)
    if args.space or args.name:
        raise InputError("--space and --name belong to a new run; leave them out with --resume")
    config = absolute(each_set(config_module.replace(config, values)))
    for path, known in zip(config.data.searched, run.extra["data"], strict=True):
        if sets.fingerprint(path)["sha256"] != known["sha256"]:
            raise InputError(f"the data set {path} changed since {run.folder} began; start a new run")
    source = pretrained.find_model(config.model)
    config = as_it_was(config, run.config, source)
    return run, config, space_file.parse_space(run.extra["space"], str(run.folder / "config.yaml")), source
