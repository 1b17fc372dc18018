"""Cells of a sweep run by Ray, and their report."""

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from converters.cli import publishing as staging
from converters.cli.errors import DatasetError
from converters.cli.terminal import progress, to_json
from finetune.runs.dataset import choose_dataset, open_dataset
from finetune.sweeps.cells import (
    Cell,
    CellError,
    Outcome,
    attempts,
    cells,
    check_categories,
    make_dataset,
    recipes,
    run_cell,
    to_record,
)
from finetune.sweeps.learning_curve import (
    as_markdown,
    banners,
    categories,
    curve_table,
    draw,
    failure,
    file_name,
    gains,
    points,
    scores,
    sentences,
)
from finetune.sweeps.request import ALL, Sweep

OBJECT_STORE = 100 << 20  # bytes; results are small, and Ray would take a third of the memory
TRIES = 2
CONNECT_SECONDS = 10


@contextmanager
def ray_at(address: str | None) -> Iterator[Any]:
    """Ray, connected to a cluster or started here, and ended whatever happens.

    Here it sends no telemetry, shows no dashboard, takes a token of its own rather than one in the home folder, and
    leaves no files.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if address is None:  # before Ray is imported, which reads them then
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": os.urandom(32).hex()}
    try:
        import ray
    except ImportError:
        raise DatasetError("ray is not installed: pip install -e '.[ray]'") from None
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # holds sockets, whose paths may have some 100 bytes
    try:
        if address is None:
            _start(ray, {"include_dashboard": False, "object_store_memory": OBJECT_STORE, "_temp_dir": folder, **quiet})
        else:
            _connect(ray, address, quiet)
        yield ray
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def _start(ray: Any, settings: dict[str, Any]) -> None:
    try:
        ray.init("local", **settings)
    except Exception as error:  # of whatever kind: its processes fail in many ways, and a slow start is a plain one
        reason = _first_sentence(error)
        raise DatasetError(
            f"Ray does not start on this machine ({reason}); try again with less running beside it, or start "
            "it with `ray start --head` and add --address auto"
        ) from None


def _first_sentence(error: Exception) -> str:
    return " ".join(str(error).split()).partition(". ")[0].rstrip(".") or type(error).__name__


def _connect(ray: Any, address: str, settings: dict[str, Any]) -> None:
    host, _, port = address.rpartition(":")
    try:
        if port.isdecimal() and "/" not in host:
            socket.create_connection((host, int(port)), CONNECT_SECONDS).close()  # Ray tries for many minutes
        ray.init(address, **settings)
    except (OSError, ValueError, RuntimeError) as error:
        reason = _first_sentence(error)
        raise DatasetError(f"--address {address}: no Ray cluster answers there ({reason})") from None


def run_cells(ray: Any, sweep: Sweep, cpus: float, gpus: float | None) -> Iterator[tuple[Cell, Outcome]]:
    """Every cell with its outcome, as they end.

    A dataset's cells wait for its conversion, and SAM's for the detector whose boxes it takes; Ray sees to that.
    """
    if gpus is None:
        gpus = min(1, ray.cluster_resources().get("GPU", 0))
    again = {"max_retries": TRIES - 1, "retry_exceptions": [CellError]}
    convert = ray.remote(num_cpus=1, **again)(make_dataset)
    train = ray.remote(num_cpus=cpus, num_gpus=gpus, **again)(run_cell)
    shared = ray.put(sweep)
    datasets = {recipe: convert.remote(recipe, shared) for recipe in recipes(sweep)}
    trained: dict[Cell | None, Any] = {None: None}
    for cell in cells(sweep):
        trained[cell] = train.remote(cell, shared, datasets[cell.recipe], trained[cell.before(sweep)])
    under_way = {done: cell for cell, done in trained.items() if cell}
    while under_way:
        (done,), _ = ray.wait(list(under_way), num_returns=1)
        cell = under_way.pop(done)
        yield cell, _outcome(ray, done, sweep.log(cell.name))


def _outcome(ray: Any, done: Any, log: Path) -> Outcome:
    try:
        return ray.get(done)
    except (DatasetError, CellError) as error:  # Ray raises what the worker raised, under its own name as well
        reason = str(getattr(error, "cause", error))
    except ray.exceptions.RayError as error:
        reason = " ".join(str(error).split())[:300]
    return Outcome("failed", attempts(log) if log.is_file() else 0, reason)


def make_report(sweep: Sweep, results: Sequence[tuple[Cell, Outcome]]) -> dict[str, Any]:
    """Everything that report.json holds, and from which the tables and pictures are made."""
    records = [to_record(cell, outcome) for cell, outcome in results]
    entries = scores(records)
    done = {record["dataset"] for record in records if record["sets"]}
    synthetic = any(open_dataset(sweep.out, name).synthetic for name in done)
    return {
        "schema": 1,
        "categories": list(sweep.categories),
        "models": list(sweep.models),
        "folds": sweep.folds,
        "shots": list(sweep.shots),
        "seed": sweep.seed,
        "arguments": {name: list(value) for name, value in sweep.arguments.items()},
        "synthetic": synthetic,
        "banners": banners(records, synthetic),
        "points": points(entries),
        "gains": gains(entries),
        "cells": records,
    }


def write(report: dict[str, Any], folder: Path) -> None:
    """Publish report.json, report.md and the curves in one step."""
    with staging.publish(folder, overwrite=True) as partial:
        (partial / "report.json").write_text(to_json(report), "utf-8")
        (partial / "report.md").write_text(as_markdown(report), "utf-8")
        for category in categories(report):
            draw(report, category, partial / f"curve-{file_name(category)}")
            draw(report, category, partial / f"clicks-{file_name(category)}", over="clicks")


def run_sweep(
    address: str | None,
    cpus: float,
    gpus: float | None,
    out: Path,
    runs: Path,
    root: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Run all cells, write the report and print it; exits with 1 where cells failed."""
    options["categories"] = options["categories"] or (choose_dataset(out, None).partition("@")[0],)
    sweep = Sweep(out=out.absolute(), runs=runs.absolute(), root=root.absolute() if root else None, **options)
    if ALL in sweep.shots and sweep.folds < 3:
        raise DatasetError(f"--folds {sweep.folds}: `--shots {ALL}` is a k-fold split, and needs 3 folds or more")
    check_categories(sweep)
    grid = cells(sweep)
    for cell in grid:
        sweep.log(cell.name).unlink(missing_ok=True)  # they count the tries of this call
    results = {}
    with ray_at(address) as ray, progress(None, len(grid), "cells") as bar:
        for cell, outcome in run_cells(ray, sweep, cpus, gpus):
            results[cell] = outcome
            bar.update(1)
            if outcome.status == "failed":
                click.echo(failure(to_record(cell, outcome)), err=True)
    report = make_report(sweep, [(cell, results[cell]) for cell in grid])
    write(report, sweep.folder / "report")
    for banner in report["banners"]:
        click.echo(f"note: {banner}", err=True)
    click.echo(to_json(report) if as_json else as_text(report, sweep), nl=not as_json)
    if any(entry["status"] == "failed" for entry in report["cells"]):
        raise SystemExit(1)


def as_text(report: dict[str, Any], sweep: Sweep) -> str:
    parts = []
    for category in categories(report):
        title = f"{category}{', SYNTHETIC images' if report['synthetic'] else ''}"
        parts.append("\n".join([title, curve_table(report, category, "simple"), *sentences(report, category)]))
    hints = [
        f"all folds as one test: python finetune/compare.py --family {category}@kfold-{sweep.folds} "
        f"--out {sweep.out} --runs {sweep.runs}"
        for category in sweep.categories
        if ALL in sweep.shots
    ]
    return "\n\n".join([*parts, "\n".join([*hints, f"report: {sweep.folder / 'report' / 'report.md'}"])])
