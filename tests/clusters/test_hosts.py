"""Three hosts, brought up by `ray up` with the on-premise file: searches that lose hosts, and nothing else.

The tests share one cluster (conftest.py) and run in their order: the last ones take it apart.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from effir_dist import load_run
from effir_dist.runs.records import TrialRecord
from effir_dist.runs.run_folder import Run
from tests import hosts
from tests.clusters.conftest import SHARE, all_are_nodes
from tests.hosts import address, nodes, on, ray_processes, script, start_on, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
SMALL = (
    "search.sampler=tpe search.scheduler=plain "  # so that trials are as many as were asked for, and alike
    "data.test_split='\"\"' "  # scoring the front costs each search several processes; the first one does it
    "train.batch_size=4 prune.calibration_texts=4 model.max_query_length=32 model.max_document_length=64 "
    "train.dtype=float32 score.dtype=float32"  # so that weights compare on processors with matrix units, too
)
LONG = ("--trials 6", "--cpus-per-trial 1", "train.steps=400", "train.checkpoint_steps=20")
"""Six trials at a time, two a host, that go on training long after each has its first checkpoint. Some end while
others have yet to begin."""


def search(name: str, *more: str, test: str = "") -> str:
    data = f"--model {SHARE}/tiny-llama --data {SHARE}/toy --space {SHARE}/space.yaml"
    options = " ".join([f"--name {name}", data, *more, SMALL, test])
    return f"cd ~/effir_dist && python -m effir_dist.search --address auto {options}"


def resume(name: str) -> str:
    return f"cd ~/effir_dist && python -m effir_dist.search --address auto --resume {SHARE}/runs/{name}"


def run_of(name: str) -> Run:
    return Run(SHARE / "runs" / name)


def records(name: str) -> list[TrialRecord]:
    return run_of(name).results()


def result_files(name: str) -> dict[str, bytes]:
    """Trial -> its record as it is on disk."""
    return {p.parent.name: p.read_bytes() for p in run_of(name).trials_folder.glob("*/result.json")}


def training(name: str) -> set[str]:
    """Trials that are training, and past their first checkpoint."""
    return {p.parent.name for p in run_of(name).trials_folder.glob("*/checkpoint.safetensors")}


def training_on(host: int, name: str) -> set[str]:
    """Those of them that a process of a host works on: it has their log open."""
    logs = on(host, f"ls -l /proc/[0-9]*/fd 2>/dev/null | grep -o '/{name}/trials/[0-9]*/log' || true")
    return training(name) & {line.split("/")[-2] for line in logs.split()}


def assert_all_complete(name: str, count: int) -> list[TrialRecord]:
    found = records(name)
    assert [r.state for r in found] == ["complete"] * count, [r.reason for r in found]
    assert [r.trial for r in found] == [f"{number:04d}" for number in range(count)]
    return found


def test_every_declared_host_is_a_node(cluster: Path) -> None:
    assert nodes() == [address(host) for host in (1, 2, 3)]


def test_who_lacks_the_token_is_refused(cluster: Path) -> None:
    code = f"import ray; ray.init(address='{address(1)}:6379', logging_level=50); print('let in')"
    for host in (1, 2, 3):
        assert "let in" in on(host, f'python -c "{code}"')
    refused = on(3, f'HOME=/tmp RAY_AUTH_MODE= timeout 60 ~/env/bin/python -c "{code}" 2>&1 || true')
    assert "let in" not in refused
    assert "uthentication" in refused


def test_a_search_spreads_over_all_hosts(cluster: Path) -> None:
    on(1, search("spread", "--trials 9", "--cpus-per-trial 1", "train.steps=40", test="data.test_split=test"))
    assert {r.host for r in assert_all_complete("spread", 9)} == {"host1", "host2", "host3"}
    assert run_of("spread").split_scores("test").keys() == {"0000", *load_run(run_of("spread").folder).front["trial"]}


def test_workers_on_two_hosts_train_the_weights_that_one_trains(cluster: Path) -> None:
    """DeepSpeed ZeRO 2 over gloo. Two workers share a host where they fit, and are apart where they do not."""
    common = ("--trials 1", "train.steps=12", "train.zero_stage=2", "search.keep_weights=all")
    placed = {}
    for name, workers, cpus in (("one", 1, 1), ("packed", 2, 2), ("apart", 2, 4)):
        on(1, search(name, f"--workers-per-trial {workers}", f"--cpus-per-trial {cpus}", *common))
        placed[name] = assert_all_complete(name, 1)[0].host.split(",")
    assert [len(placed[name]) for name in ("one", "packed", "apart")] == [1, 1, 2]
    one, packed, apart = (load_file(run_of(n).trial_folder("0000") / "model.safetensors") for n in placed)
    base = load_file(SHARE / "tiny-llama" / "model.safetensors")
    moved = max((one[name] - base[name]).abs().max().item() for name in one)
    for other in (packed, apart):
        assert one.keys() == other.keys()
        torch.testing.assert_close(one, other, atol=1e-3 * moved, rtol=0)


def test_a_bucket_holds_what_a_network_folder_holds(cluster: Path, tmp_path: Path) -> None:
    """Ray's own files too: its storage has to be shared by all nodes."""
    seed = ("--trials 3", "--cpus-per-trial 2", "--max-concurrent 1", "train.steps=12", "search.sampler=random")
    on(1, search("folder", *seed))
    with hosts.s3_on(1, tmp_path / "s3"):
        on(1, search("bucket", *seed, "--runs s3://runs/here"))
        code = "from effir_dist.runs.run_folder import Run; import json; "
        code += "print(json.dumps([r.to_json() for r in Run('s3://runs/here/bucket').results()]))"
        found = json.loads(on(3, f'cd ~/effir_dist && python -c "{code}"').splitlines()[-1])
    for ours, theirs in zip(records("folder"), found, strict=True):
        for name in ("trial", "state", "plan", "suggested", "parameters", "ndcg_at_10", "steps"):
            assert ours.to_json()[name] == theirs[name]


def test_two_hundred_trials_leave_nothing_behind(cluster: Path) -> None:
    """Stand-ins that wait for 0.3 seconds. Leftovers are counted after a first run, which leaves Ray's own helpers."""

    def measure(name: str, trials: int) -> dict[str, Any]:
        command = f"cd ~/effir_dist && python -m benchmarks.cluster {SHARE}/runs/{name} --address auto"
        return dict(json.loads(on(1, f"{command} --trials {trials} --seconds 0.3").splitlines()[-1]))

    measure("few", 12)
    wait_until(lambda: not busy_workers(), "the first run's workers end")
    before = {host: left_over(host) for host in (1, 2, 3)}
    found = measure("many", 200)
    print(json.dumps(found))  # the driver's share of the time, and what else it cost
    assert found["trials"] == len(records("many")) == 200
    assert sum(found["trials_by_host"].values()) == 200
    assert set(found["trials_by_host"]) == {"host1", "host2", "host3"}
    assert found["driver_peak_bytes"] < 1 << 30
    wait_until(lambda: not busy_workers(), "the workers end")
    for host, (processes, files, megabytes) in before.items():
        now = left_over(host)
        assert now[0] <= processes + 1, ray_processes(host)
        assert now[1] <= files + 30
        assert now[2] <= megabytes + 150
    assert placement_groups() == 0


def busy_workers() -> list[str]:
    lines = [line for host in (1, 2, 3) for line in ray_processes(host)]
    return [line for line in lines if "ImplicitFunc" in line or "ray::IDLE" in line or "RayTrainWorker" in line]


def left_over(host: int) -> tuple[int, int, int]:
    """Of Ray on a host: processes, open files, and MiB of memory of its daemons."""
    pids = "$(pgrep -f 'raylet/raylet|gcs_server')"
    files = f"for p in {pids}; do ls /proc/$p/fd; done | wc -l"
    memory = f"for p in {pids}; do grep VmRSS /proc/$p/status; done | awk '{{s += $2}} END {{print int(s / 1024)}}'"
    return len(ray_processes(host)), int(on(host, files)), int(on(host, memory))


def placement_groups() -> int:
    """Those that hold room in the cluster."""
    code = "import ray; from ray.util.state import list_placement_groups as l; "
    code += "ray.init(address='auto', logging_level=50, log_to_driver=False); "
    code += "print('groups', sum(g.state != 'REMOVED' for g in l(limit=10000)))"
    return int(on(1, f'python -c "{code}"').split("groups ")[-1])


def test_a_host_powered_off_costs_its_trials_a_restart(cluster: Path, tmp_path: Path) -> None:
    driver = start_on(1, search("lost", *LONG), tmp_path / "log")
    wait_until(lambda: training_on(3, "lost"), "host 3 trains")
    script("kill", 3)
    assert driver.wait(600) == 0, (tmp_path / "log").read_text()
    assert {r.host for r in assert_all_complete("lost", 6)} <= {"host1", "host2"}
    script("start", 3)
    wait_until(all_are_nodes, "the host that came back is a node again")


def test_a_trial_on_two_hosts_goes_on_without_one_of_them(cluster: Path, tmp_path: Path) -> None:
    options = ("--trials 1", "--workers-per-trial 2", "--cpus-per-trial 4", "train.zero_stage=2")
    steps = ("train.steps=100", "train.checkpoint_steps=10")
    driver = start_on(1, search("pair", *options, *steps), tmp_path / "log")
    wait_until(lambda: training("pair"), "both workers train")
    used = [host for host in (2, 3) if any("RayTrainWorker" in line for line in ray_processes(host))]
    script("kill", used[-1])
    assert driver.wait(600) == 0, (tmp_path / "log").read_text()
    (record,) = assert_all_complete("pair", 1)
    assert record.steps == 100
    assert f"host{used[-1]}" not in record.host.split(",")
    script("start", used[-1])
    wait_until(all_are_nodes, "the host that came back is a node again")


def test_a_host_cut_off_the_network_comes_back(cluster: Path, tmp_path: Path) -> None:
    driver = start_on(1, search("cut", *LONG), tmp_path / "log")
    wait_until(lambda: training_on(3, "cut"), "host 3 trains")
    script("cut", 3)
    try:
        assert driver.wait(600) == 0, (tmp_path / "log").read_text()
    finally:
        script("mend", 3)
    assert_all_complete("cut", 6)
    wait_until(all_are_nodes, "the host that came back is a node again")


def test_a_killed_driver_leaves_room_for_its_own_return(cluster: Path, tmp_path: Path) -> None:
    """With trials of several workers, whose room Ray Train reserves."""
    options = ("--trials 1", "--workers-per-trial 2", "--cpus-per-trial 4", "train.zero_stage=2")
    driver = start_on(1, search("driver", *options, "train.steps=60", "train.checkpoint_steps=10"), tmp_path / "log")
    wait_until(lambda: training("driver"), "both workers train")
    on(1, "pkill -9 -f '[e]ffir_dist.search' || true")
    driver.wait(60)
    on(1, resume("driver"))
    assert_all_complete("driver", 1)
    assert placement_groups() == 0


def test_the_head_is_lost_and_a_new_one_goes_on(cluster: Path, tmp_path: Path) -> None:
    options = ("--trials 8", "--cpus-per-trial 1", "train.steps=200", "train.checkpoint_steps=20")
    start_on(1, search("head", *options), tmp_path / "log")
    wait_until(lambda: len(result_files("head")) >= 2 and len(training("head")) >= 2, "some are done, some train")
    script("kill", 1)
    finished = result_files("head")
    file = hosts.cluster_file(tmp_path, SHARE / "runs", head=2)
    hosts.ray("up", "-y", "--no-config-cache", str(file))
    wait_until(lambda: len(nodes(2)) == 2, "the new head has its worker")
    on(2, resume("head"))
    assert_all_complete("head", 8)
    assert finished.items() <= result_files("head").items()
    hosts.ray("down", "-y", str(file))
    # `ray down` stops the head; the workers' Ray ends within a minute of missing it.
    wait_until(lambda: not ray_processes(2) + ray_processes(3), "`ray down` leaves nothing running")
