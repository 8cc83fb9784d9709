"""Three hosts on one machine, and the on-premise cluster file brought up on them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from tests import ROOT, needs
from tests.bucket import CREDENTIALS, S3_PROGRAM

SCRIPT = ROOT.parent / "shared" / "hosts" / "hosts.sh"
KEY = "/var/tmp/test-hosts/key"
BIN = Path(sys.executable).parent
COUNT = 3
S3_PORT = 5055
QUICK = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "5000",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "20",
    "AUTOSCALER_UPDATE_INTERVAL_S": "2",
    "AUTOSCALER_HEARTBEAT_TIMEOUT_S": "40",
    "RAY_worker_niceness": "0",
    "OMP_WAIT_POLICY": "PASSIVE",
}
"""Ray notices a lost host or head within half a minute, where its own settings take up to a minute for each; and its
workers get their share of a machine that runs other tests too: by Ray's own they are at nice 15."""


def missing() -> str:
    """Why there can be no hosts here; empty where there can."""
    if os.geteuid() != 0:
        return "needs root"
    if not SCRIPT.is_file():
        return f"needs {SCRIPT}"
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    lacking = [tool for tool in ("ip", "sshd", "rsync", "unshare", "ssh") if shutil.which(tool, path=path) is None]
    return f"needs {', '.join(lacking)} (Debian: iproute2, openssh-server, rsync)" if lacking else ""


def address(host: int) -> str:
    return f"10.77.0.{host}"


def script(*arguments: object) -> str:
    """hosts.sh with these arguments."""
    command = ["bash", str(SCRIPT), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def on(host: int, command: str, seconds: float = 1500) -> str:
    """What a command prints on a host, in the cluster's environment."""
    line = ["bash", str(SCRIPT), "ssh", str(host), f". ~/.effir 2>/dev/null; {command}"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=seconds)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def start_on(host: int, command: str, log: Path) -> subprocess.Popen[bytes]:
    """A command that runs on a host."""
    line = ["bash", str(SCRIPT), "ssh", str(host), f". ~/.effir; {command}"]
    with log.open("ab") as output:
        return subprocess.Popen(line, stdout=output, stderr=output)


def wait_until(condition: Callable[[], Any], what: str, seconds: float = 900) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"after {seconds} s still not: {what}"
        time.sleep(0.5)


def ray_processes(host: int) -> list[str]:
    lines = on(host, "ps -eo args").splitlines()
    return [line for line in lines if "/ray/" in line or "ray::" in line]


def nodes(head: int = 1) -> list[str]:
    """Addresses of the nodes that are alive, as Ray says on a head."""
    code = "import ray, json; ray.init(address='auto', logging_level=50, log_to_driver=False); "
    code += "print(json.dumps([n['NodeManagerAddress'] for n in ray.nodes() if n['Alive']]))"
    with contextlib.suppress(AssertionError):
        # Ray's autoscaler may speak on the same output.
        said = on(head, f'python -c "{code}" 2>/dev/null').splitlines()
        return sorted(next((json.loads(line) for line in said if line.startswith("[")), []))
    return []


def cluster_file(folder: Path, runs: Path, head: int = 1) -> Path:
    """clusters/onprem.yaml, edited as its header says, with the environment of these tests instead of a new one.

    The head and all hosts after it; S3 is the server of `s3_on`.
    """
    config = yaml.safe_load((ROOT / "clusters" / "onprem.yaml").read_text())
    workers = [address(host) for host in range(head + 1, COUNT + 1)]
    config["provider"] |= {"head_ip": address(head), "worker_ips": workers}
    config |= {"min_workers": len(workers), "max_workers": len(workers)}
    config["auth"] = {"ssh_user": "root", "ssh_private_key": KEY}
    commands = config["setup_commands"]
    assert "venv" in commands[0]
    assert "pip install" in commands[1]
    config["setup_commands"] = [f"ln -sfn {BIN.parent} ~/env", *commands[2:]]
    config["setup_commands"] = [c.replace("/mnt/share/runs", str(runs)) for c in config["setup_commands"]]
    bucket = {**CREDENTIALS, "AWS_ENDPOINT_URL": f"http://{address(1)}:{S3_PORT}"}
    exports = " ".join(f"{name}={value}" for name, value in {**bucket, **QUICK}.items())
    config["setup_commands"].append(f"echo 'export {exports}' >> ~/.effir")
    path = folder / f"onprem-{head}.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path


def ray(*arguments: str) -> str:
    """Ray's command line, from the repository's folder, as a user calls it."""
    command = [str(BIN / "ray"), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@contextlib.contextmanager
def s3_on(host: int, log: Path) -> Iterator[None]:
    """moto's server on a host, with the bucket `runs`."""
    serve = start_on(host, f"exec python {S3_PROGRAM} -H {address(host)} -p {S3_PORT}", log)
    create = "import boto3; boto3.client('s3').create_bucket(Bucket='runs')"
    wait_until(lambda: succeeds(host, f'python -c "{create}"'), "there is a bucket")
    try:
        yield
    finally:
        on(host, "pkill -f '[w]hole_s3.py' || true")
        serve.wait(30)


def succeeds(host: int, command: str) -> bool:
    with contextlib.suppress(AssertionError):
        on(host, command)
        return True
    return False


@contextlib.contextmanager
def up(folder: Path, runs: Path) -> Iterator[Path]:
    """The hosts and the cluster on them; yields its file."""
    reason = missing()
    if reason:
        needs.lacking(reason)
    runs.mkdir(parents=True, exist_ok=True)
    script("down")
    try:
        script("up", COUNT)
        file = cluster_file(folder, runs)
        ray("get-auth-token", "--generate")
        ray("up", "-y", "--no-config-cache", str(file))
        yield file
    finally:
        script("down")
