"""Labels in YOLO's segment format become a plain folder of images and masks.

Format: https://docs.ultralytics.com/datasets/segment/. Outlines are painted as ultralytics paints them: coordinates
times the image's size, truncated to whole pixels, filled together with their line.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import click
import cv2
import numpy as np
from pydantic import AfterValidator, BeforeValidator, Field

from converters.cli.door import Checked, check, read_yaml
from converters.cli.errors import DatasetError
from converters.importing.mask_folder import LabelledFile, Rules, flat_name, report, write_folder
from converters.masks.instances import Mask
from converters.sources.samples import SUFFIXES, fits_text_files


def _file_name(name: str) -> str:
    if not fits_text_files(name):
        raise ValueError("holds control characters: rename it")
    return name


def _listed(entries: Any) -> Any:
    return [entries] if isinstance(entries, str) else entries or []


def _numbered(names: Any) -> Any:
    return dict(enumerate(names)) if isinstance(names, list) else names


FileName = Annotated[str, AfterValidator(_file_name)]
Entries = Annotated[list[FileName], BeforeValidator(_listed)]


class DataYaml(Checked):
    """``data.yaml``: class index -> name; for each part folders of images, or files that list them."""

    path: FileName | None = None
    names: Annotated[dict[int, Annotated[str, BeforeValidator(str)]], BeforeValidator(_numbered)]
    train: Entries = Field([])
    val: Entries = Field([])
    test: Entries = Field([])


def find_images(base: Path, entry: str) -> list[tuple[str, Path]]:
    """(name, image) of one entry of data.yaml: a folder, or a text file that lists images.

    Roboflow writes ``../train/images`` for what lies beside its data.yaml; ultralytics accepts that, and so does this.
    """
    place = base / entry
    if not place.exists() and entry.startswith("../"):
        place = base / entry.removeprefix("../")
    if place.is_dir():
        found = sorted(path for path in place.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
        return [(path.relative_to(place).as_posix(), path) for path in found]
    if place.is_file() and place.suffix == ".txt":
        lines = [line.strip() for line in place.read_text("utf-8", "replace").split("\n") if line.strip()]
        check(lines, list[FileName], str(place))
        return [(Path(line).name, place.parent / line if line.startswith("./") else base / line) for line in lines]
    raise DatasetError(f"{base / entry}: no such folder or list of images; correct data.yaml")


def label_file(image: Path) -> Path:
    """The label file of an image: the last ``images`` folder of its path is ``labels`` there."""
    parts = list(image.parts)
    if "images" in parts[:-1]:
        parts[len(parts) - 2 - parts[-2::-1].index("images")] = "labels"
    return Path(*parts).with_suffix(".txt")


def decode_row(row: str, width: int, height: int) -> tuple[int, Mask]:
    """Class index and mask (H x W of 0 and 1) of one line of a label file; raises DatasetError."""
    try:
        index, *numbers = (float(number) for number in row.split())
    except ValueError:
        raise DatasetError("is no row of numbers") from None
    if len(numbers) == 4:
        raise DatasetError(
            "is a box, and a box alone makes no mask: label outlines (YOLO's segment format) instead, or leave such "
            "images out with --on-error skip"
        )
    if len(numbers) < 6 or len(numbers) % 2 or not index.is_integer() or not all(0 <= at <= 1 for at in numbers):
        raise DatasetError("needs a class and three or more points x y, from 0 to 1")
    points = np.array(numbers).reshape(-1, 2) * (width, height)
    mask = np.zeros((height, width), np.uint8)
    cv2.fillPoly(mask, [points.astype(np.int32)], (1,))
    return int(index), mask


def _decode_all(labels: Path, names: dict[int, str], width: int, height: int) -> Iterator[tuple[str, Mask]]:
    text = labels.read_text("utf-8", "replace") if labels.is_file() else ""
    for number, row in enumerate(text.splitlines(), start=1):
        if not row.strip():
            continue
        try:
            index, mask = decode_row(row, width, height)
            if index not in names:
                raise DatasetError(f"has the class {index}, which data.yaml does not name")
        except DatasetError as error:
            raise DatasetError(f"line {number} of {labels} {error.message}") from None
        yield names[index], mask


def import_yolo(
    data_yaml: Path, to: Path, mixed: str, touching: str, on_error: str, max_pixels: int, overwrite: bool
) -> None:
    """Write YOLO's segment labels as a folder of images and masks."""
    data = read_yaml(data_yaml, DataYaml, "name the data.yaml of a YOLO dataset")
    base, files, unlabelled = data_yaml.parent / (data.path or "."), [], 0
    for part, entries in (("train", data.train), ("val", data.val), ("test", data.test)):
        for name, path in (found for entry in entries for found in find_images(base, entry)):
            labels = label_file(path)
            unlabelled += not labels.is_file()
            files.append(LabelledFile(path, flat_name(part, name), partial(_decode_all, labels, data.names)))
    if not files:
        raise DatasetError(f"{data_yaml}: names no images under train, val or test")
    tally = write_folder(files, to, Rules(mixed, touching, on_error), max_pixels, overwrite)
    if unlabelled:
        click.echo(f"no label file: {unlabelled} images, taken as good", err=True)
    report(tally, to)
