"""A finished run predicted and measured again, or exported."""

from pathlib import Path

import click

from converters.cli.errors import DatasetError
from converters.cli.terminal import to_json
from finetune.prediction.families import open_run
from finetune.runs.run_folder import read_record


def predict_again(
    folder: Path, out: Path, device: str, weights: Path | None, boxes: Path | None, as_json: bool
) -> None:
    """Predict val and test again with what the run has saved, write that and its measures into the run, and say so."""
    room, dataset = open_run(folder, out)
    room.evaluate_again(folder, dataset, device, weights, boxes)
    if as_json:
        click.echo(to_json(read_record(folder)["metrics"]), nl=False)
    else:
        click.echo(f"{folder}: val and test of {dataset.name} predicted again; the measures are in its run.json")


def export(folder: Path, out: Path, to: Path | None, device: str) -> None:
    """Write the run's model as a file that other programs load, and say where it lies."""
    room, dataset = open_run(folder, out)
    if not hasattr(room, "export_run"):
        raise DatasetError(
            f"{folder}: there is no export of a {read_record(folder)['model']} yet; YOLO and SAM have one"
        )
    click.echo(room.export_run(folder, dataset, device, to))
