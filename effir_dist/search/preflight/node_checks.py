"""What a trial needs of a node, besides the network: each check is a function here, and a line of CHECKS.

A check gets what was asked for and returns what it saw, in a few words. It raises an error where a trial would fail. It
knows nothing of Ray, and runs in a process of the node that it checks.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import os
import platform
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import effir_dist
from effir_dist.core import config as config_module
from effir_dist.core.errors import InputError
from effir_dist.core.files import disk_errors, free_space, write_bytes_atomic
from effir_dist.core.mapped import cache_root
from effir_dist.core.settings import RunConfig
from effir_dist.core.storage import is_remote, place, read_bytes
from effir_dist.core.values import Json
from effir_dist.data import beir, sets
from effir_dist.data.named import names
from effir_dist.models import pretrained, weights
from effir_dist.search.model_checks import tokenizer_warnings
from effir_dist.search.preflight.findings import Finding, attempt
from effir_dist.training.teacher import find_teacher

SECONDS = 120.0
"""Within which a node's checks end, all together."""
LEAST_FREE = 512 << 20
"""Bytes that a temporary folder and a cache should have in any case."""
RUNS_FOLDER = "runs folder"
STARTED = "driver"
"""The file that the driver leaves in the scratch folder, for the nodes to read."""


@dataclass(frozen=True)
class Request:
    """What a node's checks are held against; `plain` and back, as a node may lack what pickles need."""

    node: str
    """The node's name, for the file that it writes."""
    config: RunConfig
    scratch: str
    """A folder in the runs folder, or in the bucket."""
    versions: dict[str, str]
    """`versions()` where the search starts."""
    data: dict[str, str]
    """Data set -> fingerprint there."""
    weights: dict[str, int]
    """Weight file -> bytes there; empty for a model of the hub."""
    trial_bytes: int
    """What a trial writes at most: a checkpoint and the model."""
    cache_bytes: int = 0
    """What a node keeps of the data: texts and tokens."""
    gpu_bytes: float = 0.0
    """What all trials that share a GPU take of its memory, by prediction."""

    def plain(self) -> Json:
        return {**asdict(self), "config": config_module.to_dict(self.config)}

    @staticmethod
    def read(tree: Json) -> Request:
        return Request(**{**tree, "config": config_module.from_dict(tree["config"])})


def packages() -> list[str]:
    """What effir_dist is installed with: its own requirements, without extras."""
    needed = importlib.metadata.requires("effir_dist") or []
    names = [re.match(r"[\w.-]+", each) for each in needed if "extra ==" not in each]
    return ["effir_dist", *(name[0] for name in names if name)]


def sources_hash() -> str:
    """Of effir_dist's own files: two checkouts of one version may differ."""
    folder, digest = Path(effir_dist.__file__).parent, hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        digest.update(f"{file.relative_to(folder).as_posix()}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:12]


def versions(names: list[str] | None = None) -> dict[str, str]:
    """Of Python, of packages (by default all that effir_dist needs) and of effir_dist's sources; '' for none."""
    found = {"python": platform.python_version(), "effir_dist's sources": sources_hash()}
    for name in packages() if names is None else names:
        if name not in found:
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                found[name] = importlib.metadata.version(name) or ""
            found.setdefault(name, "")
    return found


def check_versions(request: Request) -> str:
    """The packages are those of the machine where the search starts."""
    here = versions(list(request.versions))
    wrong = [
        f"{name} is {here[name] or 'not installed'} and should be {wanted}"
        for name, wanted in request.versions.items()
        if wanted and _public(here[name]) != _public(wanted)
    ]
    if wrong:
        raise InputError(f"{'; '.join(wrong)}, as where the search starts: install the same on every node")
    return f"{len(here)} alike"


def _public(version: str) -> str:
    """Without its build, such as +cpu or +cu128: a head may have no GPU."""
    return version.split("+")[0]


def check_faiss(request: Request) -> str:
    """faiss finds what numpy finds."""
    import numpy as np

    try:
        import faiss
    except ImportError as error:
        raise InputError(f"{error}; install faiss-cpu or faiss-gpu, one of them") from None
    vectors = np.random.default_rng(0).standard_normal((64, 8)).astype(np.float32)
    index = faiss.IndexFlatIP(8)
    index.add(vectors)
    if not (index.search(vectors, 1)[1][:, 0] == (vectors @ vectors.T).argmax(1)).all():
        raise InputError("faiss finds other neighbours than numpy; install another build of faiss-cpu or faiss-gpu")
    return ""


def weight_files(source: pretrained.Source) -> dict[str, int]:
    """Name -> bytes of a local checkpoint's files, Dense layers too; empty for a model of the hub."""
    folder = Path(source.location)
    dense = source.declared.dense_folders if source.declared else ()
    files = [file for place in ("", *dense) for file in sorted((folder / place).glob("*.safetensors"))]
    return {os.path.relpath(file, folder): file.stat().st_size for file in files} if folder.is_dir() else {}


def check_weights(request: Request) -> str:
    """The model's files are there, whole, and as long as where the search starts."""
    source = pretrained.find_model(request.config.model)
    weights.check_weights(source)
    here = weight_files(source)
    if here != request.weights:
        raise InputError(f"the weights in {source.location} are {here}, and {request.weights} where the search starts")
    for name in here:
        with (Path(source.location) / name).open("rb") as file:
            file.seek(-1, os.SEEK_END)
            file.read(1)
    if here:
        tokenizer_warnings(source, ())
    return f"{sum(here.values()) / 1e6:,.1f} MB" if here else "config.json of the hub's model; its weights come later"


def check_teacher(request: Request) -> str:
    """The teacher from outside is there, if there is one, whole, and with its tokenizer."""
    if not request.config.train.teacher:
        return "the unpruned model, where there is one"
    teacher = find_teacher(request.config)
    if teacher.source and Path(teacher.source.location).is_dir():
        weights.check_weights(teacher.source)
        tokenizer_warnings(teacher.source, ())
    return f"{teacher.name}, dimension {teacher.dimension}"


def data_bytes(path: str) -> int:
    """Of a data set's files."""
    return sum(file.stat().st_size for file in beir.content_files(sets.resolve(path)))


def check_data(request: Request) -> str:
    """The data sets have the fingerprints that they have where the search starts; a named one may also be fetched."""
    said = []
    for path, expected in request.data.items():
        if names.is_name(path) and not sets.is_here(path):
            said.append(names.check_reachable(path))
            continue
        found = str(sets.fingerprint(path)["sha256"])
        if found != expected:
            raise InputError(
                f"the data set {path} is another one here (sha256 {found[:12]}) than where the search starts "
                f"({expected[:12]}): copy it, or keep it where all nodes see the same"
            )
        said.append(f"{sets.dataset_name(path)} {found[:12]}")
    return ", ".join(said)


def check_disk(request: Request) -> str:
    """There is room for temporary files and caches, and a file can be written there."""
    through = request.trial_bytes if is_remote(place(request.scratch)) else 0  # a bucket's files pass a local one
    folders = {Path(tempfile.gettempdir()): through, cache_root(): request.cache_bytes}
    return ", ".join(_has_room(folder, LEAST_FREE + more) for folder, more in folders.items())


def _has_room(folder: Path, needed: int) -> str:
    existing, free = free_space(folder)
    if free < needed:
        raise InputError(
            f"{folder} has {free / 2**30:.2f} GiB free, and a trial may need {needed / 2**30:.2f} GiB there; free some"
        )
    with disk_errors(folder), tempfile.NamedTemporaryFile(dir=existing, prefix="effir-preflight-") as file:
        file.write(bytes(1 << 20))
        file.flush()
        os.fsync(file.fileno())
    return f"{free / 2**30:.0f} GiB in {folder}"


def check_runs_folder(request: Request) -> str:
    """The runs folder is the driver's, has room, and takes a file."""
    scratch = place(request.scratch)
    try:
        read_bytes(scratch / STARTED)
    except FileNotFoundError:
        raise InputError(
            f"{scratch.parent} is another folder here than where the search starts; take one that all nodes share, or "
            "a bucket (--runs s3://...)"
        ) from None
    if not is_remote(scratch):
        _has_room(scratch, request.trial_bytes)
    write_bytes_atomic(written_by(request.node, scratch), request.node.encode())
    return ""


def written_by(node: str, scratch: Path) -> Path:
    """The file that a node leaves in the scratch folder, for the driver to read."""
    return scratch / re.sub(r"[^\w.-]+", "-", node)


@dataclass(frozen=True)
class Check:
    """A line of the table."""

    name: str
    run: Callable[[Request], str]


CHECKS = (
    Check("versions", check_versions),
    Check("faiss", check_faiss),
    Check("weights", check_weights),
    Check("teacher", check_teacher),
    Check("data", check_data),
    Check("disk", check_disk),
    Check(RUNS_FOLDER, check_runs_folder),
)


def run_all(tree: Json, seconds: float = SECONDS) -> list[Json]:
    """The findings of this node's checks, as plain data. tree: of `Request.plain`."""
    return [asdict(finding) for finding in _run_all(Request.read(tree), seconds)]


def _run_all(request: Request, seconds: float) -> Iterator[Finding]:
    end = time.monotonic() + seconds
    for check in CHECKS:
        left = end - time.monotonic()
        if left > 0:
            yield attempt(request.node, check.name, lambda check=check: check.run(request), left)  # type: ignore[misc]
        else:
            yield Finding(request.node, check.name, "skipped", "an earlier check took all of the time")
