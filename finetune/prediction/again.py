"""A finished run predicted and measured again, or exported."""

from pathlib import Path

import click

from converters.cli.errors import DatasetError
from converters.cli.terminal import to_json
from finetune.prediction.export_check import check_export
from finetune.prediction.families import open_run
from finetune.runs.held_out import points_of_run
from finetune.runs.predictions import PredictionSet
from finetune.runs.run_folder import read_record, write_record

WHOLE = ("CNN classifier", "nearest good patches")  # models whose ONNX takes an image as it comes


def predict_again(
    folder: Path, out: Path, device: str, weights: Path | None, boxes: Path | None, as_json: bool
) -> None:
    """Predict val and test again with what the run has saved, write that and its measures into the run, and say so."""
    room, dataset = open_run(folder, out)
    room.evaluate_again(folder, dataset, device, weights, boxes)
    write_record(folder, read_record(folder) | {"operating_points": points_of_run(folder, dataset)})
    if as_json:
        click.echo(to_json(read_record(folder)["metrics"]), nl=False)
    else:
        click.echo(f"{folder}: val and test of {dataset.name} predicted again; the measures are in its run.json")


def export(folder: Path, out: Path, to: Path | None, device: str, check: bool) -> None:
    """Write the run's model as a file that other programs load, say where it lies and, if asked, how true it is."""
    room, dataset = open_run(folder, out)
    model = read_record(folder)["model"]
    if check and model not in WHOLE:
        raise DatasetError(f"--check: is for files that judge whole images, of {' or '.join(WHOLE)}, not a {model}")
    file = room.export_run(folder, dataset, device, to)
    click.echo(file)
    if check:
        click.echo(check_export(file, PredictionSet(folder / "predictions" / "tuned"), dataset))
