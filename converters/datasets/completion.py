"""Writing a further format of a published dataset from what the dataset records, or saying how to do it by hand."""

import os
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from filelock import FileLock

from converters.cli.errors import DatasetError
from converters.cli.publishing import MARKER
from converters.datasets.options import conversion_options
from converters.datasets.origin import source_of
from converters.datasets.pipeline import Conversion, convert_dataset
from converters.datasets.records import Record, instance_rule, read_augmentation, read_card, read_split, split_of
from converters.formats.coco import CocoWriter, RoboflowWriter
from converters.formats.png_masks import MasksWriter
from converters.formats.voc import VocWriter
from converters.formats.yolo import DetectWriter, ObbWriter, SegmentWriter

COMMANDS = {
    "yolo": "to_yolo",
    "yolo-seg": "to_yolo --task segment",
    "yolo-obb": "to_yolo --task obb",
    "coco": "to_coco",
    "coco-roboflow": "to_coco --style roboflow",
    "masks": "to_masks",
    "voc": "to_voc",
}


def write_format(dataset: Path, name: str) -> None:
    """Write the format folder ``name`` beside the others of a dataset, as these were made; said on stderr.

    One process writes, others wait for it. Raises DatasetError with the command to give where the source is gone or
    has changed, and for tiles and datasets with synthetic images.
    """
    with FileLock(dataset.absolute().with_name(f".{dataset.name}.format")):
        if (dataset / name).is_dir():
            return  # by another process
        card, record = read_card(dataset), read_split(dataset)
        if "tile" in card["settings"] or "base" in record:
            raise DatasetError(f"{dataset / name}: no such format; write it with {command_for(dataset, name)}")
        click.echo(f"{dataset}: writing {name}, as the formats there were made", err=True)
        published = (dataset / MARKER).stat()
        _convert(dataset, name, card, record)
        os.utime(dataset / MARKER, ns=(published.st_atime_ns, published.st_mtime_ns))  # it is no newer a dataset


def _convert(dataset: Path, name: str, card: Record, record: Record) -> None:
    every = (DetectWriter, ObbWriter, SegmentWriter, CocoWriter, RoboflowWriter, MasksWriter, VocWriter)
    writers = {writer.folder: writer for writer in every}
    settings, options = card["settings"], _options(dataset, card)
    try:
        categories, _ = source_of(dataset, None, record, options["max_pixels"])
    except DatasetError as error:
        command = command_for(dataset, name)
        raise DatasetError(f"{error.message}. {dataset / name} is needed: then write it with {command}") from None
    conversion = Conversion(
        out=dataset.parent,
        split=split_of(record).rule,
        classes=settings["classes"],
        instances=instance_rule(card),
        layout=settings["layout"],
        **options,
    )
    convert_dataset(dataset.name, categories, conversion, [writers[name]])


def _options(dataset: Path, card: Record) -> dict[str, Any]:
    """The options of a card, with the path of the table of groups as it is from here."""
    options: dict[str, Any] = dict(card["options"])
    if "group_file" in options:
        options["group_file"] = (dataset.resolve() / options["group_file"]).resolve()
    return options


def command_for(dataset: Path, name: str) -> str:
    """The command that writes a format of a dataset, with every option of its first conversion that is no default."""
    card, record = read_card(dataset), read_split(dataset)
    if "base" in record:
        return f"{command_for(dataset.parent / record['base']['dataset'], name)}, then {_augmentation(dataset)}"
    settings, rule = card["settings"], split_of(record).rule
    sources = [(dataset.resolve() / relative).resolve() for relative in settings["source"].values()]
    several, tile = len(sources) > 1, settings.get("tile", {})
    given: dict[str, Any] = {
        "root": sources[0].parent if several else sources[0],
        "category": "all" if several else None,
        "out": dataset.parent,
        **settings,
        **asdict(rule),
        **_options(dataset, card),
        "ratios": "/".join(map(str, rule.ratios)),
        "tile": tile.get("size"),
        "overlap": tile.get("overlap"),
    }
    options = click.command()(conversion_options(lambda: None)).params
    words = []
    for option in options:
        value = given.get(option.name)
        if value is not None and str(value) != str(option.default):
            words += [option.opts[0], str(value)]
    return f"`python -m converters.{COMMANDS[name]} {shlex.join(words)}`"


def _augmentation(dataset: Path) -> str:
    """The command that makes a dataset with synthetic images again."""
    record = read_augmentation(dataset)
    words = ["--dataset", record["base"]["dataset"], "--out", str(dataset.parent), "--count", str(record["count"])]
    words += ["--method", record["method"], "--place", record["place"], "--seed", str(record["seed"])]
    words += ["--balance"] if record["balance"] else []
    return f"`python -m converters.augment {shlex.join(words)} --overwrite`"
