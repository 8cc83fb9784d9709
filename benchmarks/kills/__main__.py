"""Real searches under SIGKILL: python -m benchmarks.kills FOLDER [--kills 100] [--seed 0] [--lease 35]

Tiny models, two trials at a time, with rungs. Driver, workers or all of Ray are killed at random moments; half of the
kills with the run in a bucket on loopback. FOLDER/kills.jsonl gets a line a kill and a line a search that ended. Called
again, it goes on from there. At the end: finished records lost, changed, trained twice. Exits with 1 if there are any.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.kills.search import TRIALS, Files, Search, torment
from effir_dist.core.errors import command
from tests.bucket import CREDENTIALS, s3_server
from tests.tiny import tiny_checkpoint, write_collection

PLACES = ("disk", "bucket")
KILLS_A_SEARCH = 5


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="python -m benchmarks.kills", description=__doc__)
    result.add_argument("folder", type=Path)
    result.add_argument("--kills", type=int, default=100, help="half of them in a bucket (default: %(default)s)")
    result.add_argument("--seed", type=int, default=0, help="of kinds and moments (default: %(default)s)")
    result.add_argument("--lease", type=float, default=35.0, help="seconds of a driver's lease (default: %(default)s)")
    return result


def read_disk(runs: Path, prefix: str) -> Files:
    """Files of the runs in a folder whose path begins with `prefix`."""
    found = [runs / prefix] if (runs / prefix).is_file() else (runs / prefix).glob("*/*.json")
    return {"/".join(path.parts[-2:]): path.read_bytes() for path in found}


def read_bucket(client: Any, prefix: str) -> Files:
    """The same of the bucket `runs`, by the cloud's own client."""
    pages = client.get_paginator("list_objects_v2").paginate(Bucket="runs", Prefix=prefix)
    names = [item["Key"] for page in pages for item in page.get("Contents", ())]
    wanted = [name for name in names if name.endswith((".json", "config.yaml"))]
    return {"/".join(n.split("/")[-2:]): client.get_object(Bucket="runs", Key=n)["Body"].read() for n in wanted}


@contextlib.contextmanager
def bucket(work: Path) -> Iterator[Any]:
    """A client of a bucket on loopback that this process, and what it starts, uses."""
    import boto3

    with s3_server(work / "s3.log") as address:
        os.environ.update({**CREDENTIALS, "AWS_ENDPOINT_URL": address})
        client = boto3.client("s3", endpoint_url=address)
        client.create_bucket(Bucket="runs")
        yield client


def prepare(work: Path) -> None:
    """A tiny model, random texts and a search space in a new folder."""
    work.mkdir(parents=True)
    tiny_checkpoint(work, "bert")
    write_collection(work / "data", documents=60, queries=36)
    space = "drop_mlp: {max: 3}\nwidth_ratio: {low: 0.25, high: 1.0, step: 0.25, groups: 2}\n"
    (work / "space.yaml").write_text(space)


def rows(folder: Path) -> list[dict[str, Any]]:
    """The lines of earlier calls and of this one."""
    file = folder / "kills.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def summary(found: list[dict[str, Any]]) -> tuple[str, bool]:
    """The counts in words, and whether all is well."""
    kills, ends = [row for row in found if "what" in row], [row for row in found if "ended" in row]
    counts = ", ".join(f"{count} of {what}" for what, count in sorted(Counter(row["what"] for row in kills).items()))
    wrong = {name: len({w for row in found for w in row[name]}) for name in ("lost", "changed", "twice")}
    broken = [row for row in ends if row["ended"] or row["records"] != TRIALS]
    text = f"{len(kills)} kills ({counts}), {sum(row['place'] == 'bucket' for row in kills)} of them in a bucket; "
    text += f"Ray did not start in its 30 s {sum('restarted' in row for row in found)} times; "
    text += f"{len(ends)} searches ended, {len(broken)} of them not with {TRIALS} records; "
    text += f"finished records lost {wrong['lost']}, changed {wrong['changed']}, trained twice {wrong['twice']}"
    return text, not broken and not any(wrong.values())


def search_once(arguments: argparse.Namespace, work: Path, client: Any, number: int, place: str, kills: int) -> None:
    """One search with its kills; appends its lines."""
    reads = {"disk": lambda prefix: read_disk(work / "runs", prefix), "bucket": lambda p: read_bucket(client, p)}
    runs = "s3://runs" if place == "bucket" else str(work / "runs")
    search = Search(f"{work.name}-{number}", work, runs, arguments.lease, reads[place])

    def note(**facts: Any) -> None:
        wrong = {name: sorted(f"{search.name} {w}" for w in found) for name, found in vars(search.faults).items()}
        line = json.dumps({"place": place, "search": search.name, **facts, **wrong})
        with (arguments.folder / "kills.jsonl").open("a") as file:
            file.write(line + "\n")
        print(time.strftime("%H:%M:%S"), line, flush=True)

    try:
        torment(search, kills, random.Random(f"{arguments.seed} {number}"), note)
    finally:
        if search.process is not None and search.process.poll() is None:
            search.kill("all")


@command
def main() -> None:
    """Entry point."""
    arguments = parser().parse_args()
    arguments.folder = arguments.folder.resolve()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    number = 0
    while (arguments.folder / f"call{number}").exists():
        number += 1
    work = arguments.folder / f"call{number}"
    prepare(work)
    with bucket(work) as client:
        while True:
            found = rows(arguments.folder)
            done = Counter(row["place"] for row in found if "what" in row)
            left = {place: (arguments.kills + 1 - i) // 2 - done[place] for i, place in enumerate(PLACES)}
            place = max(left, key=lambda name: left[name])
            if left[place] <= 0:
                break
            ended = len({row["search"] for row in found})
            search_once(arguments, work, client, ended, place, min(KILLS_A_SEARCH, left[place]))
    text, well = summary(rows(arguments.folder))
    print(text)
    raise SystemExit(0 if well else 1)


if __name__ == "__main__":
    main()
