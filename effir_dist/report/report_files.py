"""The files of a report: the page, each table as CSV and parquet, each plot as PNG and SVG."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effir_dist.core.files import write_bytes_atomic, write_text_atomic
from effir_dist.importance.store import drop_order, has_importance, load_saliency
from effir_dist.report.compare import Loaded, common_trials
from effir_dist.report.frames import front_of
from effir_dist.report.front_plot import front_figure
from effir_dist.report.page import page_html
from effir_dist.report.page_data import model_name, page_data
from effir_dist.report.progress import blocks_of, drops_table, hypervolume_table, scores_without_record
from effir_dist.report.score_tables import rungs_table
from effir_dist.report.scored_on import data_of, scored_on
from effir_dist.report.widths import widths_figure, widths_table
from effir_dist.runs.run_folder import Run

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def write_run(loaded: Loaded, folder: Path) -> list[Path]:
    """Write the page and tables of a run with a finished trial, and plots once a trial is complete.

    Returns what was written, the page first. Raises InputError when the disk is full.
    """
    run, frames = loaded.run, loaded.some_frames
    paths = [_write_page(folder, [loaded])]
    paths += _write_table(folder / "trials", frames.trials) + _write_table(folder / "front", frames.front)
    paths += _write_table(folder / "scores", frames.scores)
    paths += _write_table(folder / "hypervolume", _hypervolume(loaded))
    paths += _write_table(folder / "drops", drops_table(frames.trials, blocks_of(loaded.records), drop_order(run)))
    rungs = rungs_table(run)
    if not rungs.empty:
        paths += _write_table(folder / "rungs", rungs)
    if not frames.front.empty:
        paths += _write_figure(folder / "front", front_figure(frames.trials, _title(run), _note(loaded), loaded.goal))
        paths += _write_widths(run, folder)
    return paths


def write_comparison(runs: list[Loaded], folder: Path) -> list[Path]:
    """Write the page of several runs as one front, and their trials and front as tables.

    Returns and raises as `write_run`; InputError also where no run has a finished trial.
    """
    trials = common_trials(runs)
    tables = _write_table(folder / "trials", trials) + _write_table(folder / "front", front_of(trials, runs[0].goal))
    return [_write_page(folder, runs), *tables]


def _hypervolume(loaded: Loaded) -> pd.DataFrame:
    scale, stopped = loaded.goal.scale([loaded.records]), scores_without_record(loaded.run)
    return hypervolume_table(loaded.records, loaded.goal, scale, stopped)


def _write_page(folder: Path, runs: list[Loaded]) -> Path:
    path = folder / "report.html"
    write_text_atomic(path, page_html(page_data(runs)))
    return path


def _write_table(path: Path, table: pd.DataFrame) -> list[Path]:
    """A table as CSV and parquet."""
    paths = [path.with_suffix(f".{kind}") for kind in ("csv", "parquet")]
    write_text_atomic(paths[0], table.to_csv(index=False))
    packed = io.BytesIO()
    # A setting may be a number in one trial and a word in another; a column of parquet has one type.
    kinds = {name: {type(v) for v in table[name] if v is not None} for name in table if table[name].dtype == object}
    texts: Any = {name: "string" for name, types in kinds.items() if len(types) > 1}
    table.astype(texts).to_parquet(packed, index=False)
    write_bytes_atomic(paths[1], packed.getvalue())
    return paths


def _write_widths(run: Run, folder: Path) -> list[Path]:
    """Tables and plots of the widths by ranking, from the saliency of neurons, where the run has it."""
    if not has_importance(run):
        return []
    table = widths_table(load_saliency(run))
    figure = widths_figure(table, f"Width of each MLP by ranking: {model_name(run)}")
    return _write_table(folder / "widths", table) + _write_figure(folder / "widths", figure)


def _write_figure(path: Path, figure: Figure) -> list[Path]:
    """A plot as PNG and SVG."""
    paths = [path.with_suffix(f".{kind}") for kind in ("png", "svg")]
    for target in paths:
        image = io.BytesIO()
        figure.savefig(image, format=target.suffix[1:])
        write_bytes_atomic(target, image.getvalue())
    return paths


def _title(run: Run) -> str:
    return _shortened(f"Cost against quality: pruned {model_name(run)} on {data_of(run)}", 72)


def _note(loaded: Loaded) -> str:
    """The run, and what its scores are of."""
    said = scored_on(loaded.run, loaded.records).get("search")
    return _shortened(f"{loaded.run.name}, scored on {said}", 120) if said else loaded.run.name


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 2] + " \N{HORIZONTAL ELLIPSIS}"
