"""Several classifiers in one table: attempts, methods against the long tail, seeds."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from converters.cli.command import given_options
from converters.cli.errors import DatasetError
from converters.cli.terminal import table, to_json
from finetune.classification.recipes import ATTEMPTS, IMBALANCE, Attempt
from finetune.classification.training import Request, Result, evaluate_only, train_and_evaluate
from finetune.runs.dataset import Dataset, choose_dataset, open_dataset, open_pretrain
from finetune.runs.run_folder import run_folder, told_to_resume
from finetune.training.published import OWN
from finetune.training.weights import RANDOM

OVERRIDES = ("arch", "optimizer", "lr", "epochs", "batch", "pretext")  # what the command line may change of an attempt


def summarise(label: str, results: Sequence[Result]) -> dict[str, Any]:
    """One row of a table: the mean over the trainings that differ in the seed alone, and macro-F1's interval."""
    import numpy as np

    from finetune.measures.decisions import f1_interval

    keys = ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "pointing", "pointing_chance", "mAP50")
    means = {
        key: float(np.mean([result.measures[key] for result in results])) for key in keys if key in results[0].measures
    }
    attempt = results[0].attempt
    timed = [result.seconds for result in results if result.seconds is not None]
    return {
        "what": label,
        "seeds": len(results),
        **means,
        "macro_f1_interval": f1_interval(results[0].labels, [result.decisions for result in results]),
        "macro_f1_by_seed": [result.measures["macro_f1"] for result in results],
        "epochs": [result.epochs for result in results],
        "lr": attempt.lr,
        "optimizer": attempt.optimizer,
        "cpu_seconds": float(np.mean([result.cpu_seconds for result in results])),
        "seconds": float(np.mean(timed)) if timed else None,
    }


HEADER = (
    "", "macro-F1", "95 % interval", "accuracy", "balanced", "AUROC", "pointing (chance)", "mAP50", "epochs", "lr",
    "optimizer", "CPU s", "s",
)  # fmt: skip


def cells(row: dict[str, Any]) -> tuple[Any, ...]:
    low, high = row["macro_f1_interval"]
    looked = f"{row['pointing']:.2f} ({row['pointing_chance']:.2f})" if "pointing" in row else "-"
    return (
        row["what"],
        f"{row['macro_f1']:.3f}",
        f"{low:.2f} to {high:.2f}",
        *(f"{row[key]:.3f}" for key in ("accuracy", "balanced_accuracy", "auroc")),
        looked,
        f"{row['mAP50']:.3f}" if "mAP50" in row else "-",
        "/".join(map(str, row["epochs"])),
        f"{row['lr']:g}",
        row["optimizer"],
        f"{row['cpu_seconds']:.0f}",
        "-" if row["seconds"] is None else f"{row['seconds']:.0f}",
    )


def plan(attempt: str, imbalance: str) -> list[tuple[str, str, str]]:
    """(attempt, imbalance method, label) of each row of the table that is asked for."""
    if attempt == "all" and imbalance == "all":
        raise DatasetError("--attempt all --imbalance all: choose one ladder at a time")
    if attempt == "all":
        return [(name, imbalance, name) for name in ATTEMPTS]
    if imbalance == "all":
        return [(attempt, method, method) for method in IMBALANCE]
    return [(attempt, imbalance, attempt if imbalance == "none" else f"{attempt}, {imbalance}")]


def attempts_of(names: Sequence[str], overrides: dict[str, Any]) -> list[Attempt]:
    """The attempts of these names, with what the command line changes of them."""
    rest = {key: value for key, value in overrides.items() if key != "pretext"}
    ladder = len(set(names)) > 1  # in one, --pretext is for those that have a pretext
    return [replace(ATTEMPTS[name], **(rest if ladder and not ATTEMPTS[name].pretext else overrides)) for name in names]


def check_acting(attempts: Sequence[Attempt], imbalance: str, given: set[str]) -> None:
    """Raise DatasetError for an option ``given`` on the command line that does nothing in any of these attempts."""
    if "pretext" in given and all(attempt.arch != "fine" for attempt in attempts):
        raise DatasetError("--pretext: only our own network `fine` learns from synthetic defects: add --arch fine")
    if "stride" in given and all(attempt.arch in OWN for attempt in attempts):
        raise DatasetError(
            f"--stride: is for torchvision's networks, and `{attempts[0].arch}` is our own; leave it out, or name "
            "another --arch"
        )
    if "cost" in given and imbalance == "thresholds":
        raise DatasetError(
            "--cost: decides in place of the thresholds of --imbalance thresholds; leave one of them out"
        )


def run_name(base: str, attempt: str, imbalance: str, several: bool) -> str:
    """The run's own name, and what tells it apart from the others of a ladder."""
    return "-".join([base, attempt, *([imbalance] if imbalance != "none" else [])]) if several else base


def train_classifiers(
    dataset_name: str | None,
    out: Path,
    attempt: str,
    imbalance: str,
    repeat: int,
    eval_only: Path | None,
    seed: int,
    as_json: bool,
    stride: str | None,
    synthetic_share: float | None,
    pretrain: str | None,
    **options: Any,
) -> None:
    """Train all that is asked for, and print their table."""
    steps = plan(attempt, imbalance)
    overrides = {key: options[key] for key in OVERRIDES if options[key] is not None}
    attempts = attempts_of([step for step, _, _ in steps], overrides)
    ctx = click.get_current_context()
    check_acting(attempts, imbalance, {key for key in given_options(ctx, replayed=False) if ctx.params.get(key)})
    dataset = open_dataset(out, choose_dataset(out, dataset_name), synthetic_share)
    first = open_pretrain(out, pretrain, dataset, "a classifier") if pretrain else None
    from finetune.classification.costs import read_costs
    from finetune.training.processes import place, prepare_device

    if eval_only and place()[1] > 1:
        raise DatasetError("--eval-only: takes one process; start it without torchrun")
    options |= {"stride": int(stride) if stride else None, "synthetic_share": synthetic_share, "pretrain": first}
    options["precision"] = options["precision"] or (None if eval_only else "auto")
    request = Request(**{key: value for key, value in options.items() if key not in OVERRIDES})
    if options["cost"]:
        read_costs(options["cost"], ["good", *dataset.classes])  # refused before the training, not after it
    request = replace(request, device=prepare_device(request.device))
    if eval_only:
        click.echo(to_json(evaluate_only(request, dataset, eval_only)), nl=False)
        return
    rows = []
    for (step, method, label), chosen in zip(steps, attempts, strict=True):
        own = run_name(request.name, step, method, len(steps) > 1)
        found = []
        for each in range(seed, seed + repeat):
            with told_to_resume(run_folder(request.runs, dataset, own, each)):
                if result := train_and_evaluate(request, dataset, chosen, method, each, own):
                    found.append(result)
        if found:
            rows.append(summarise(label, found))
    if rows:
        report(request, dataset, rows, seed, as_json)


def report(request: Request, dataset: Dataset, rows: list[dict[str, Any]], seed: int, as_json: bool) -> None:
    """Print the table; where it has several trainings in it, leave it beside the runs as well."""
    if len(rows) > 1 or rows[0]["seeds"] > 1:
        place, name = request.runs / dataset.name, f"{request.name}-table"  # which may have a dot in it
        (place / f"{name}.json").write_text(to_json({"schema": 1, "rows": rows}), "utf-8")
        (place / f"{name}.md").write_text(table([cells(row) for row in rows], HEADER, "github") + "\n", "utf-8")
    if as_json:
        click.echo(to_json(rows), nl=False)
        return
    start = "random weights" if request.weights == RANDOM else request.weights
    synthetic = ", SYNTHETIC images" if dataset.synthetic else ""
    seeds = f"seed {seed}" if rows[0]["seeds"] == 1 else f"mean of {rows[0]['seeds']} seeds from {seed}"
    click.echo(f"{dataset.name}: CNN classifier from {start}, {seeds}, {request.imgsz} px{synthetic}; on test:")
    click.echo(table([cells(row) for row in rows], HEADER))
    click.echo(f"runs: {request.runs / dataset.name}")
