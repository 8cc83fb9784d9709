"""Every shipped cluster file is one that Ray takes, with what its header promises."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from effir_dist.search.cluster import mps
from tests import ROOT
from tests.mps import install

CLUSTERS = ROOT / "clusters"
RAY_FILES = sorted(path.name for path in CLUSTERS.glob("*.yaml") if path.name != "kuberay.yaml")
CLOUDS = [name for name in RAY_FILES if name != "onprem.yaml"]


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load((CLUSTERS / name).read_text())


def test_all_are_here() -> None:
    assert RAY_FILES == ["a100.yaml", "gcp-a100.yaml", "h100.yaml", "onprem.yaml"]


@pytest.mark.parametrize("name", RAY_FILES)
def test_ray_takes_it(name: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(read(name)))


@pytest.mark.parametrize("name", [*RAY_FILES, "kuberay.yaml"])
def test_its_header_says_what_to_edit_what_it_costs_and_the_four_commands(name: str) -> None:
    header = "".join(line for line in (CLUSTERS / name).open() if line.startswith("#"))
    for word in ("Edit:", "Costs:", "Up:", "Search:", "Watch:", "Down:"):
        assert f"# {word}" in header
    assert "python -m effir_dist.search --address auto" in header


@pytest.mark.parametrize("name", CLOUDS)
def test_gpus_are_on_spot_nodes_from_zero_and_the_head_runs_no_trial(name: str) -> None:
    config = read(name)
    types = config["available_node_types"]
    head = types.pop(config["head_node_type"])
    assert head["resources"] == {"CPU": 0}
    (worker,) = types.values()
    assert (worker["min_workers"], worker["max_workers"]) == (0, config["max_workers"])
    assert worker["resources"]["GPU"] == 8
    spot = {"aws": {"InstanceMarketOptions": {"MarketType": "spot"}}, "gcp": {"scheduling": [{"preemptible": True}]}}
    ((key, value),) = spot[config["provider"]["type"]].items()
    found = worker["node_config"][key]
    assert found == value or value[0] in found
    assert key not in head["node_config"]
    assert 0 < config["idle_timeout_minutes"] <= 15


@pytest.mark.parametrize("name", RAY_FILES)
def test_the_token_goes_to_every_node(name: str) -> None:
    config = read(name)
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert any("RAY_AUTH_MODE=token" in command for command in config["setup_commands"])
    for commands in ("head_start_ray_commands", "worker_start_ray_commands"):
        start = [c for c in config[commands] if "ray start" in c]
        assert all(". ~/.effir;" in command for command in start)
        assert len(start) == 1
    assert "ray get-auth-token --generate" in (CLUSTERS / name).read_text()


@pytest.mark.parametrize("name", RAY_FILES)
def test_rays_workers_have_normal_priority(name: str) -> None:
    """What `ray start` reads of the environment, on every node."""
    (command,) = [c for c in read(name)["setup_commands"] if c.endswith("> ~/.effir")]
    assert " RAY_worker_niceness=0 " in command


@pytest.mark.parametrize("name", RAY_FILES)
@pytest.mark.parametrize("wheel", ["", "effir_dist-0.2.0-py3-none-any.whl"])
def test_a_node_installs_the_wheel_that_lies_there_or_the_checkout(name: str, wheel: str, tmp_path: Path) -> None:
    pip = tmp_path / "env" / "bin" / "pip"
    pip.parent.mkdir(parents=True)
    pip.write_text('#!/bin/sh\nfor last; do :; done\necho "$last"\n')
    pip.chmod(0o755)
    (tmp_path / "effir_dist").mkdir()
    if wheel:
        (tmp_path / "effir_dist" / wheel).touch()
    (command,) = [command for command in read(name)["setup_commands"] if "pip install" in command]
    done = subprocess.run(["bash", "-c", command], env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
                          capture_output=True, text=True, check=True)  # fmt: skip
    place, extras = done.stdout.strip().rstrip("]").split("[")
    assert Path(place) == tmp_path / "effir_dist" / wheel
    assert "gpu" in extras.split(",")


@pytest.mark.parametrize("name", RAY_FILES)
def test_the_multi_process_service_is_there_once_its_lines_are_no_comment(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the environment of `ray start` says, and started once, however often the commands run."""
    text = (CLUSTERS / name).read_text()
    lines = re.search(r"^  # - .*MPS.*\n  #   .*mps-control.*\n", text, re.MULTILINE)
    assert lines
    config = yaml.safe_load(text.replace(lines[0], lines[0].replace("  # ", "  ")))
    commands = config["worker_start_ray_commands"]
    (start,) = [number for number, command in enumerate(commands) if "mps-control" in command]
    assert start < min(number for number, command in enumerate(commands) if "ray start" in command)
    install(tmp_path, monkeypatch)
    (tmp_path / "effir_dist").mkdir()
    written = [command for command in config["setup_commands"] if command.endswith("> ~/.effir")]
    told = [command.replace("/tmp/effir-mps", f"{tmp_path}/mps") for command in (*written, commands[start])]
    environment = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    try:
        for _ in range(2):
            subprocess.run(["bash", "-c", "; ".join(told)], env=environment, check=True, timeout=300)
        assert mps.answers(tmp_path / "mps")
        assert (tmp_path / "mps" / "started").read_text() == "started\n"
    finally:
        monkeypatch.setenv(mps.PIPES, str(tmp_path / "mps"))
        subprocess.run([mps.TOOL], input=b"quit\n", check=True)


@pytest.mark.parametrize("name", RAY_FILES)
def test_no_module_is_left_behind(name: str) -> None:
    """`file_mounts` of a checkout leave out runs, not the package of that name."""
    left_out = {pattern.removeprefix("**/") for pattern in read(name)["rsync_exclude"] if pattern.startswith("**/")}
    modules = [path.relative_to(ROOT) for path in (ROOT / "effir_dist").rglob("*.py")]
    assert not [path for path in modules if left_out & {*path.parts}]
    assert "/runs" in read(name)["rsync_exclude"]


def test_the_pinned_environment_is_the_one_tested() -> None:
    pins = re.findall(r"^([\w-]+)==([\d.]+)", (CLUSTERS / "constraints.txt").read_text(), re.M)
    assert {"torch", "ray", "deepspeed", "transformers", "optuna"} <= {name for name, _ in pins}
    assert {name: version for name, version in pins if name == "ray"} == {"ray": importlib.metadata.version("ray")}
    kuberay = (CLUSTERS / "kuberay.yaml").read_text()
    assert f'rayVersion: "{dict(pins)["ray"]}"' in kuberay


def test_kuberay_scales_gpu_pods_from_zero() -> None:
    spec = read("kuberay.yaml")["spec"]
    assert spec["enableInTreeAutoscaling"]
    (group,) = spec["workerGroupSpecs"]
    assert (group["replicas"], group["minReplicas"]) == (0, 0)
    (worker,) = group["template"]["spec"]["containers"]
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == "8"
    for name, value in {"RAY_AUTH_MODE": "token", "RAY_worker_niceness": "0"}.items():
        assert {"name": name, "value": value} in worker["env"]
