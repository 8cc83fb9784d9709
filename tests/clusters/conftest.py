"""One cluster on three hosts for all tests of this folder that need one: it takes a minute to come up."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import hosts
from tests.hosts import nodes, on, wait_until
from tests.tiny import tiny_checkpoint, write_collection

SHARE = Path("/var/tmp/effir-share")
"""The hosts share all of the file system but /tmp and their homes."""


@pytest.fixture(scope="session")
def share() -> Iterator[Path]:
    shutil.rmtree(SHARE, ignore_errors=True)
    tiny_checkpoint(SHARE, "llama")
    write_collection(SHARE / "toy", documents=60, queries=36)
    (SHARE / "space.yaml").write_text("drop_mlp: {max: 2}\nwidth_ratio: {low: 0.5, high: 1.0, step: 0.25}\n")
    yield SHARE
    shutil.rmtree(SHARE, ignore_errors=True)


@pytest.fixture(scope="session")
def cluster(share: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with hosts.up(tmp_path_factory.mktemp("cluster"), share / "runs") as file:
        wait_until(all_are_nodes, "every declared node is up")
        yield file


def all_are_nodes() -> bool:
    """Whether they are, and the autoscaler does not just restart Ray on one that was slow to come up."""
    return len(nodes()) == hosts.COUNT and "(no pending nodes)" in on(1, "ray status")
