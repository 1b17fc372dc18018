"""The table of a call's trainings: a row for each attempt or method, over its seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import click

from converters.cli.terminal import table, to_json
from finetune.classification.recipes import Attempt
from finetune.measures.decisions import Array, f1_interval
from finetune.runs.dataset import Dataset
from finetune.training.weights import RANDOM


@dataclass
class Result:
    """One training, measured on test."""

    attempt: Attempt
    labels: Array  # N class indices
    decisions: Array  # N class indices
    measures: dict[str, Any]
    epochs: int
    cpu_seconds: float
    seconds: float | None  # None: resumed


HEADER = (
    "", "macro-F1", "95 % interval", "accuracy", "balanced", "AUROC", "pointing (chance)", "mAP50", "epochs", "lr",
    "optimizer", "CPU s", "s",
)  # fmt: skip
MEANS = ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "pointing", "pointing_chance", "mAP50")


def summarise(label: str, results: Sequence[Result]) -> dict[str, Any]:
    """One row of a table: the mean over the trainings that differ in the seed alone, and macro-F1's interval."""
    first = results[0]
    timed = [result.seconds for result in results if result.seconds is not None]
    return {
        "what": label,
        "seeds": len(results),
        **{key: fmean(result.measures[key] for result in results) for key in MEANS if key in first.measures},
        "macro_f1_interval": f1_interval(first.labels, [result.decisions for result in results]),
        "macro_f1_by_seed": [result.measures["macro_f1"] for result in results],
        "epochs": [result.epochs for result in results],
        "lr": first.attempt.lr,
        "optimizer": first.attempt.optimizer,
        "cpu_seconds": fmean(result.cpu_seconds for result in results),
        "seconds": fmean(timed) if timed else None,
    }


def cells(row: dict[str, Any]) -> tuple[Any, ...]:
    interval = row["macro_f1_interval"]
    looked = f"{row['pointing']:.2f} ({row['pointing_chance']:.2f})" if "pointing" in row else "-"
    return (
        row["what"],
        f"{row['macro_f1']:.3f}",
        "-" if interval is None else "{:.2f} to {:.2f}".format(*interval),
        *(f"{row[key]:.3f}" for key in ("accuracy", "balanced_accuracy", "auroc")),
        looked,
        f"{row['mAP50']:.3f}" if "mAP50" in row else "-",
        "/".join(map(str, row["epochs"])),
        f"{row['lr']:g}",
        row["optimizer"],
        f"{row['cpu_seconds']:.0f}",
        "-" if row["seconds"] is None else f"{row['seconds']:.0f}",
    )


def report(
    rows: list[dict[str, Any]], dataset: Dataset, attempt: Attempt, seed: int, base: Path, as_json: bool
) -> None:
    """Print the table; where it has several trainings in it, leave it beside the runs as well: BASE-table.md, .json.

    ``attempt`` is any of them, ``seed`` the first one.
    """
    if len(rows) > 1 or rows[0]["seeds"] > 1:
        base.with_name(f"{base.name}-table.json").write_text(to_json({"schema": 1, "rows": rows}), "utf-8")
        text = table([cells(row) for row in rows], HEADER, "github") + "\n"
        base.with_name(f"{base.name}-table.md").write_text(text, "utf-8")
    if as_json:
        click.echo(to_json(rows), nl=False)
        return
    start = "random weights" if attempt.weights == RANDOM else attempt.weights
    synthetic = ", SYNTHETIC images" if dataset.synthetic else ""
    seeds = f"seed {seed}" if rows[0]["seeds"] == 1 else f"mean of {rows[0]['seeds']} seeds from {seed}"
    click.echo(f"{dataset.name}: CNN classifier from {start}, {seeds}, {attempt.imgsz} px{synthetic}; on test:")
    click.echo(table([cells(row) for row in rows], HEADER))
    click.echo(f"runs: {base.parent}")
