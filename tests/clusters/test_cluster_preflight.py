"""`--preflight` on three hosts: what is wrong with one of them is in the table: that host, the check and the reason.

The cluster is that of test_hosts.py, which comes after this file and takes it apart.
"""

from __future__ import annotations

import contextlib
import json
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from effir_dist.search.preflight.findings import CLUSTER, Finding
from effir_dist.search.preflight.node_checks import CHECKS
from tests.clusters.conftest import SHARE, all_are_nodes
from tests.hosts import address, on, script, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
COMMAND = (
    f"cd ~/effir_dist && python -m effir_dist.search --address auto --model {SHARE}/tiny-llama --data {SHARE}/toy "
    f"--space {SHARE}/space.yaml --name mine --workers-per-trial 2 --cpus-per-trial 4 train.zero_stage=2 "
    "train.batch_size=4 model.max_query_length=32 model.max_document_length=64 --preflight"
)
"""Two workers that fit no single host."""
SITE_PACKAGES = sysconfig.get_paths()["purelib"]


@dataclass(frozen=True)
class Outcome:
    code: int
    lines: list[str]
    findings: list[Finding]

    def failed(self) -> dict[tuple[str, str], str]:
        """(node, check) -> reason."""
        return {(each.node, each.check): each.reason for each in self.findings if each.state == "failed"}


def preflight() -> Outcome:
    """What the command says on the head; nothing of it may stay in the runs folder."""
    record = SHARE / "preflight.json"
    record.unlink(missing_ok=True)
    before = sorted(SHARE.glob("runs/*"))
    lines = on(1, f"{COMMAND} --preflight-json {record} 2>&1; echo exit $?").splitlines()
    assert record.is_file(), lines
    assert sorted(SHARE.glob("runs/*")) == before
    print("\n".join(lines))
    rows = json.loads(record.read_text())["findings"]
    return Outcome(int(lines[-1].split()[-1]), lines, [Finding(**row) for row in rows])


def name(host: int) -> str:
    return f"host{host} ({address(host)})"


def test_a_healthy_cluster_passes(cluster: Path) -> None:
    wait_until(all_are_nodes, "every host is a node")
    found = preflight()
    assert (found.code, found.failed()) == (0, {}), found.lines
    checks = {"answers", *(check.name for check in CHECKS), "network", "gloo"}
    for host in (1, 2, 3):
        assert {each.check for each in found.findings if each.node == name(host)} == checks
    trial = next(each for each in found.findings if each.check == "trial")
    assert trial.node == CLUSTER
    assert trial.reason.startswith("2 steps by 2 workers (ZeRO 2) on host")
    assert trial.reason.count("host") == 2
    assert "all checks passed" in found.lines[-2]


@contextlib.contextmanager
def without(host: int, *packages: str) -> Iterator[None]:
    """A host whose environment lacks packages: an overlay hides them there, and nowhere else."""
    hidden = [path.name for package in packages for path in Path(SITE_PACKAGES).glob(f"{package}*")]
    assert len(hidden) > len(packages)
    marks = "; ".join(f"mknod /run/hide/up/{each} c 0 0" for each in hidden)
    layers = f"lowerdir={SITE_PACKAGES},upperdir=/run/hide/up,workdir=/run/hide/work"
    make = "mkdir -p /run/hide && mount -t tmpfs tmpfs /run/hide && mkdir /run/hide/up /run/hide/work"
    on(host, f"{make} && {marks} && mount -t overlay overlay -o {layers} {SITE_PACKAGES}")
    try:
        yield
    finally:
        on(host, f"umount -l {SITE_PACKAGES} /run/hide")


@contextlib.contextmanager
def full_disk(host: int) -> Iterator[None]:
    """A host with a full /tmp; what Ray has there already stays."""
    kept = SHARE / "kept"
    kept.mkdir(exist_ok=True)
    swap = f"mount --bind /tmp/ray {kept} && mount -t tmpfs -o size=64k tmpfs /tmp && mkdir /tmp/ray"
    on(host, f"{swap} && mount --bind {kept} /tmp/ray && umount {kept}")
    try:
        yield
    finally:
        on(host, "umount -l /tmp/ray && umount -l /tmp")


def test_a_missing_package_and_a_full_disk_are_named(cluster: Path) -> None:
    wait_until(all_are_nodes, "every host is a node")
    with without(3, "faiss", "peft"), full_disk(2):
        found = preflight()
    assert found.code == 2
    failed = found.failed()
    assert failed.keys() == {(name(3), "versions"), (name(3), "faiss"), (name(2), "disk")}, found.lines
    assert failed[name(3), "versions"].startswith("peft is not installed and should be ")
    assert failed[name(3), "faiss"].startswith("No module named 'faiss'; install faiss-cpu or faiss-gpu")
    assert "/tmp has 0.00 GiB free" in failed[name(2), "disk"]
    for (node, check), reason in failed.items():
        (line,) = [each for each in found.lines if each.startswith(node) and f"  {check} " in each]
        assert line.split("failed", 1)[1].strip() == reason
    assert [each.state for each in found.findings if each.check == "trial"] == ["skipped"]
    assert found.lines[-2].startswith("error: 3 of ")


def test_a_host_cut_off_the_network_is_named(cluster: Path) -> None:
    script("cut", 3)
    try:
        found = preflight()
    finally:
        script("mend", 3)
    assert found.code == 2
    assert {node for node, _ in found.failed()} == {name(3)}, found.lines
    assert "network" in found.failed()[name(3), "answers"]
    wait_until(all_are_nodes, "the host that was cut off is a node again")
