"""A model that no single GPU trains: Mistral-7B's shape on eight, from random weights to a score on one of them.

    python -m benchmarks.eight_gpus                             # starts a process a GPU
    torchrun --nproc-per-node 8 -m benchmarks.eight_gpus        # is one of them
    python -m benchmarks.eight_gpus --small --ranks 2           # on CPUs, a narrow model: whether all of it runs

ZeRO 3, activations computed again, the batch in chunks: 20 steps, the model scored by all ranks, saved, loaded on one
GPU and scored again. Each of these is a row of reports/speed/eight-gpus.json as soon as it is done; the report is made
of it at the end. A second call goes on where the first was cut off: random weights and a trained model that are whole
are not made again. Of a 7 B model it needs 130 GB of main memory and 30 GB of disk. For a machine without the packages
of MiniLM and the built-in data: `python -m benchmarks.carry`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.speed import frame, machine, models, report, trained
from benchmarks.speed.worker import free
from effir_dist.core.errors import InputError, command
from effir_dist.core.files import read_json, write_json_atomic, write_text_atomic

if TYPE_CHECKING:
    from effir_dist.core.settings import RunConfig
    from effir_dist.models.encoder import Encoder

SUBJECT, VECTORS = "eight_gpus", "sample.npy"
SAMPLE, AGREES = 64, 0.999
"""Texts whose embeddings are kept beside the saved model, and the least cosine with those of the model loaded again."""


@dataclass
class Row:
    """What one part took and gave, to be filled within the part."""

    amount: float = 1.0
    unit: str = "calls"
    facts: dict[str, Any] = field(default_factory=dict)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    shown = argparse.RawDescriptionHelpFormatter
    result = argparse.ArgumentParser(prog="python -m benchmarks.eight_gpus", description=__doc__, formatter_class=shown)
    result.add_argument("--folder", type=Path, help="for weights (default: runs/eight-gpus, or runs/small/eight-gpus)")
    result.add_argument("--shape", default="mistral-7b", help="a named backbone (default: %(default)s)")
    result.add_argument("--ranks", type=int, default=0, help="processes to start (default: one a GPU)")
    result.add_argument("--steps", type=int, default=20)
    result.add_argument("--batch", type=int, default=512, help="pairs of all ranks together (default: %(default)s)")
    result.add_argument("--chunk", type=int, default=16, help="pairs of a rank in a chunk (default: %(default)s)")
    result.add_argument("--length", type=int, default=256, help="tokens of a text at most (default: %(default)s)")
    result.add_argument("--small", action="store_true", help="a narrow model and few texts, on any machine")
    result.add_argument("--out", type=Path, help="folder of the JSON (default: reports/speed, or runs/small/speed)")
    return result


@command
def main() -> None:
    arguments = parser().parse_args()
    scratch = Path("runs/small" if arguments.small else "runs")
    arguments.folder = arguments.folder or scratch / "eight-gpus"
    arguments.out = arguments.out or (scratch / "speed" if arguments.small else Path("reports/speed"))
    if arguments.small:
        small = {"steps": 2, "batch": 4 * max(arguments.ranks, 2), "chunk": 2, "length": 32}
        vars(arguments).update(small)
    if "RANK" in os.environ:
        Measuring(arguments).run()
    else:
        start(arguments)


def start(arguments: argparse.Namespace) -> None:
    """Start the ranks, by torch's own launcher."""
    import torch

    from effir_dist.models.families.registry import backbone

    there = torch.cuda.device_count()
    ranks = arguments.ranks or there
    if ranks < 2 or (there < ranks and not arguments.small):
        raise InputError(
            f"a GPU a rank and two at least are needed; torch sees {there}. Rehearse with --small --ranks 2"
        )
    if arguments.batch % ranks:
        raise InputError(f"--batch {arguments.batch} must be a multiple of the {ranks} ranks")
    backbone(arguments.shape)
    models.check_here()
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    command = [sys.executable, *launcher, "-m", "benchmarks.eight_gpus", *sys.argv[1:]]
    ended = subprocess.run(command, check=False).returncode
    if ended:
        raise InputError(
            f"the ranks ended with exit code {ended}; {arguments.out / 'eight-gpus.json'} has what they did"
        )


class Measuring:
    """The parts, one after the other, on each rank; rank 0 writes."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.options = frame.Options(gpu=True, small=arguments.small)
        self.rank, self.ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        self.run_of = machine.run(" ".join(["python -m benchmarks.eight_gpus", *sys.argv[1:]]))
        self.file = arguments.out / "eight-gpus.json"

    def run(self) -> None:
        """Everything from random weights to the score on one GPU."""
        import torch.distributed as dist

        self.join()
        base, a = self.base(), self.arguments
        model = a.folder / f"{a.shape}-{self.ranks}-ranks-{a.steps}-steps-of-{a.batch}-in-{a.chunk}-of-{a.length}"
        if not (model / "config.json").is_file():
            encoder = self.train(base)
            self.score(encoder, f"scored by {self.ranks} ranks")
            self.save(encoder, model)
            del encoder
        dist.barrier()
        dist.destroy_process_group()
        if self.rank == 0:
            self.score_alone(model)
            write_text_atomic(a.out.with_suffix(".md"), report.render(a.out))

    def join(self) -> None:
        """The process group, and a GPU a rank."""
        import torch
        import torch.distributed as dist

        torch.set_num_threads(1)
        if not torch.cuda.is_available():
            dist.init_process_group("gloo")
            return
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("nccl", device_id=torch.device("cuda", torch.cuda.current_device()))

    def base(self) -> Path:
        """The folder of the random weights; rank 0 makes them where they are not whole."""
        import torch.distributed as dist

        folder = self.arguments.folder / "base" / self.arguments.shape
        if self.rank == 0 and not folder.is_dir():
            folder.parent.mkdir(parents=True, exist_ok=True)
            with self.part("random weights made and written") as row:
                trained.made(self.arguments.shape, folder.parent, self.options)
                row.facts["GB"] = _gigabytes(folder)
            free()
        dist.barrier()
        return folder

    def config(self) -> RunConfig:
        """The training's settings."""
        from effir_dist.core.config import replace
        from effir_dist.core.settings import RunConfig

        a = self.arguments
        train = {"zero_stage": 3, "gradient_checkpointing": True, "gradcache_queries": a.chunk, "learning_rate": 2e-5}
        train |= {"steps": a.steps, "batch_size": a.batch}
        lengths = {"model.max_query_length": a.length, "model.max_document_length": a.length, "model.query_prompt": ""}
        settings = {f"train.{name}": value for name, value in train.items()}
        return replace(RunConfig(), {**settings, **lengths, "resources.workers_per_trial": self.ranks})

    def train(self, base: Path) -> Encoder:
        """Load the random weights on every rank, and train."""
        from effir_dist.models import pretrained
        from effir_dist.models.encoder import build_encoder, make_settings
        from effir_dist.training.memory import predict
        from effir_dist.training.trainer import train

        config, dtype, losses = self.config(), self.options.dtype, []
        with self.part("loaded by every rank"):
            source = pretrained.find("", str(base))
            loaded = pretrained.load_base(source, dtype)
            encoder = build_encoder(loaded, make_settings(config.model, loaded.source), dtype)
            del loaded
            pretrained.forget()
        name = f"{config.train.steps} steps, ZeRO 3, checkpointing, chunks of {config.train.gradcache_queries}"
        with self.part(name) as row:
            pairs = trained.pairs(config.train.steps * config.train.batch_size)
            outcome = train(encoder, pairs, config.train, lambda told: losses.append(told.get("loss")))
            steps = outcome.seconds - outcome.engine_seconds
            row.amount, row.unit = config.train.steps * config.train.batch_size, "pairs"
            row.facts |= {"seconds a step": steps / outcome.steps, "engine_seconds": outcome.engine_seconds}
            row.facts |= {"first loss told": losses[0], "last loss": outcome.last_loss}
            row.facts |= {"model": f"{self.arguments.shape}'s shape{', narrow' if self.arguments.small else ''}"}
            row.facts |= {"predicted_bytes": predict(source.config, config, dtype).peak, **self.most()}
        return encoder

    def most(self) -> dict[str, Any]:
        """The most that any rank's GPU had allocated; nothing of CPUs."""
        import torch

        from effir_dist.evaluate.ranks import exchanged

        most = exchanged(torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0)
        return {"measured_bytes": max(most)} if max(most) else {}

    def score(self, encoder: Encoder, name: str) -> None:
        """nDCG@10 on the built-in data's test queries, by all ranks that there are."""
        from effir_dist.data.sets import load_collection
        from effir_dist.evaluate.evaluation import evaluate

        collection = load_collection(models.pydocs_path(), "test", *((10, 30) if self.arguments.small else (0, 0)))
        with self.part(name) as row:
            found = evaluate(encoder, collection)
            row.amount, row.unit = len(collection.documents), "documents"
            row.facts |= {"queries": len(collection.queries), "nDCG@10": 100 * found.metrics["ndcg_at_10"]}

    def save(self, encoder: Encoder, model: Path) -> None:
        """Rank 0 writes the model; it takes its name when it is whole."""
        import torch.distributed as dist

        if self.rank == 0:
            with self.part("saved") as row:
                unfinished = model.with_name(f"{model.name}.unfinished")
                shutil.rmtree(unfinished, ignore_errors=True)
                encoder.save(unfinished)
                np.save(unfinished / VECTORS, encoder.encode(_sample()))
                unfinished.rename(model)
                row.facts["GB"] = _gigabytes(model)
        dist.barrier()

    def score_alone(self, model: Path) -> None:
        """Load the saved model on one GPU, hold its embeddings against the trained model's, and score it."""
        from effir_dist.models.encoder import load_encoder

        free()
        with self.part("loaded on one GPU") as row:
            encoder = load_encoder(str(model), self.options.dtype)
            row.facts["parameters"] = sum(parameter.numel() for parameter in encoder.parameters())
        with self.part("embeddings of the two beside each other") as row:
            least = float((encoder.encode(_sample()) * np.load(model / VECTORS)).sum(1).min())
            row.facts["least cosine"] = least
            if least < AGREES:
                raise ArithmeticError(
                    f"loaded again the model gives other embeddings: their least cosine is {least:.4f}"
                )
        self.score(encoder, "scored on one GPU")

    @contextmanager
    def part(self, name: str) -> Iterator[Row]:
        """Time a part and write its row, also where it fails."""
        row, begun = Row(), time.perf_counter()
        try:
            yield row
        except frame.ERRORS as error:
            self.write(frame.failed_row(SUBJECT, name, f"rank {self.rank}: {frame.reason(error)}"))
            raise
        seconds = time.perf_counter() - begun
        if self.rank == 0:
            self.write(_row(name, seconds, row))

    def write(self, row: dict[str, Any]) -> None:
        """Put a row in the place of an earlier one of its name."""
        kept = read_json(self.file)["rows"] if self.file.is_file() else []
        rows = [old for old in kept if old["name"] != row["name"]]
        described = machine.describe() | {"ranks": self.ranks}
        write_json_atomic(self.file, {"machine": described, "rows": [*rows, row | {"run": self.run_of}]})
        print(f"{time.strftime('%H:%M:%S')} {frame.summary(row)} {row['facts']}", flush=True)


def _row(name: str, seconds: float, row: Row) -> dict[str, Any]:
    measured = {"seconds": [seconds], "first_seconds": seconds, "per_second": row.amount / seconds}
    found = frame.failed_row(SUBJECT, name, "")
    found |= {"amount": row.amount, "unit": row.unit, "ours": "ours", "facts": {"seconds": seconds, **row.facts}}
    return found | {
        "variants": {"ours": {**measured, "flops_per_second": 0.0, "numbers": {}}},
        "failed": {},
    }


def _sample() -> list[str]:
    return models.passages(SAMPLE)


def _gigabytes(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e9


if __name__ == "__main__":
    main()
