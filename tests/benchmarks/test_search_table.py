"""benchmarks/search: the table's space, its training, and a whole tiny table that goes on where it stopped."""

from __future__ import annotations

import csv
import multiprocessing
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import tuned
from benchmarks.search import plans, table, work
from effir_dist.core.errors import InputError
from effir_dist.core.settings import TrainConfig
from effir_dist.models.encoder import load_encoder, prune_encoder
from effir_dist.models.pretrained import find
from effir_dist.models.pruning import PruningPlan, block_groups, make_plan
from effir_dist.training.batches import examples_of
from effir_dist.training.trainer import train
from tests.training.test_training import make_pairs, quiet

MODEL = {"model_type": "bert", "num_hidden_layers": 6, "intermediate_size": 8, "hidden_size": 4, "vocab_size": 50}


def test_the_space_has_every_drop_set_and_pair_of_widths_once() -> None:
    points = plans.all_points(6)
    assert len(points) == len(set(points)) == 29 * 29
    assert points[0] == plans.Point((), (1.0, 1.0))
    assert {len(p.dropped) for p in points} == set(range(7))
    assert all(plans.Point.from_key(p.key) == p for p in points)


def test_thirty_blocks_have_the_papers_plans_a_grid_and_a_sample_of_many_kinds() -> None:
    mlps, attentions = [*range(29, -1, -1)], [*range(30)]
    assert [len(p.dropped) for p in plans.paper(mlps, 3)] == [8, 8, 15, 15, 19, 19, 22, 22]
    grid = plans.grid(mlps, 3)
    assert len(grid) == len(set(grid)) == 22
    assert plans.Point((), (1.0,) * 3) not in grid
    points = plans.sampled(mlps, attentions, 3, 60, 0)
    assert points == plans.sampled(mlps, attentions, 3, 60, 0)
    assert len(set(points)) == 60
    assert all(plans.Point.from_key(p.key) == p for p in points)
    assert sum(bool(p.attentions) for p in points) >= 15
    assert sum(set(p.dropped) == set(p.attentions) for p in points) >= 10  # whole blocks
    assert {len(p.dropped) for p in points} >= {0, 3, 15, 21}


def test_a_ratio_of_a_group_narrows_that_group_alone() -> None:
    scores = np.arange(48, dtype=float).reshape(6, 8)
    plan = make_plan(MODEL, (1,), (), (1.0, 0.5), scores, "activation")
    assert plan.widths == ((4, 4),)
    assert plan.dropped_mlp == (1, 3)
    assert [list(group) for group in block_groups(6, 2)] == [[0, 1, 2], [3, 4, 5]]
    assert make_plan(MODEL, (), (), (0.5,), scores) == make_plan(MODEL, (), (), 0.5, scores)


def test_the_loop_that_stops_on_its_way_trains_what_the_product_trains(checkpoints: dict[str, Path]) -> None:
    config = TrainConfig(steps=6, batch_size=8, learning_rate=1e-3, dtype="float32", weight_decay=0.1)
    trained = []
    for train_it in (True, False):
        encoder = prune_encoder(load_encoder(str(checkpoints["bert"])), PruningPlan(dropped_mlp=(1,)), None)
        if train_it:
            train(encoder, make_pairs(), config, quiet)
        else:
            assert list(work.fit(encoder, examples_of(encoder, make_pairs(), config, None), config, [2, 6])) == [2, 6]
        trained.append(encoder.state_dict())
    start = load_encoder(str(checkpoints["bert"])).state_dict()
    moved = max(float((trained[0][name] - start[name]).abs().max()) for name in trained[0])
    assert moved > 1e-3
    for name, weight in trained[0].items():
        torch.testing.assert_close(trained[1][name], weight, rtol=0, atol=2e-5, msg=name)


@pytest.fixture
def options(checkpoints: dict[str, Path], collection: Path, tmp_path: Path) -> list[str]:
    numbers = "--stops 1 3 --queries 12 --documents 40 --batch 4 --processes 1"
    return [str(tmp_path), "--data", str(collection), "--model", str(checkpoints["bert"]), *numbers.split()]


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "table.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_table_has_all_scores_and_goes_on_where_it_stopped(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "RATIOS", (1.0, 0.5))
    tuned = []
    for count in ("2", "3"):
        args = table.parse([*options, "--tuned", count])
        values, ready, taken = table.settings(args), threading.Event(), multiprocessing.Value("i", 0)
        total = work.prepare(args, values)
        ready.set()
        work.worker(0, args, values, float("inf"), ready, taken)
        assert table.merge(tmp_path, table.columns((1, 3))) == total == 49
        tuned.append(sum(bool(row["ndcg_3"]) for row in rows_of(tmp_path)))
    rows = rows_of(tmp_path)
    assert tuned == [2, 3]
    assert all(row["ndcg_0"] for row in rows)
    assert len({row["key"] for row in rows}) == total
    full = next(row for row in rows if row["parameters_fraction"] == "1.0")
    assert full["ndcg_3"]
    assert float(full["moving_share"]) == 1.0
    assert not list(tmp_path.glob("part-*"))
    args = table.parse([*options, "--batch", "6"])
    with pytest.raises(InputError, match=r"made with train.batch_size = 4, not 6"):
        work.prepare(args, table.settings(args))


def test_weights_in_bfloat16_follow_those_in_float32(checkpoints: dict[str, Path]) -> None:
    config = TrainConfig(steps=6, batch_size=8, learning_rate=1e-3)
    trained = []
    for dtype in (torch.float32, torch.bfloat16):
        encoder = load_encoder(str(checkpoints["bert"])).to(dtype)
        list(work.fit(encoder, examples_of(encoder, make_pairs(), config, None), config, [6]))
        trained.append(torch.cat([w.detach().float().flatten() for w in encoder.parameters()]))
    start = torch.cat([w.flatten() for w in load_encoder(str(checkpoints["bert"])).parameters()])
    moved = [each - start for each in trained]
    assert torch.nn.functional.cosine_similarity(*moved, dim=0) > 0.8


def test_a_line_that_was_cut_off_is_no_row(tmp_path: Path) -> None:
    (tmp_path / "part-0.csv").write_text("key,ndcg_0,ndcg_3\n|1|1,0.5,0.6\n0|1|1,0.4\n")
    assert list(table.read_parts(tmp_path)) == ["|1|1"]


def test_a_tuned_model_is_made_once_and_is_a_retriever(
    checkpoints: dict[str, Path], collection: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    small = {"model.backbone": "", "model.path": str(checkpoints["llama"]), "train.teacher": str(checkpoints["bert"])}
    monkeypatch.setattr(tuned, "SETTINGS", {**tuned.SETTINGS, **small, "data.paths": [str(collection)]})
    folder = tuned.tuned(3, 4)
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert tuned.tuned(3, 4) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    assert tuned.tuned(2, 4) != folder
    assert find(str(folder)).declared is not None


@pytest.mark.slow
def test_the_command_ends_in_time_and_leaves_a_table(options: list[str], tmp_path: Path) -> None:
    table.main([*options, "--seconds", "45"])
    assert rows_of(tmp_path)
