"""Labels in YOLO's segment format become a plain folder of images and masks.

Format: https://docs.ultralytics.com/datasets/segment/. Outlines are painted as ultralytics paints them: coordinates
times the image's size, truncated to whole pixels, filled together with their line.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from converters.cli.errors import DatasetError
from converters.sources.samples import PARTS, SUFFIXES, fits_text_files

if TYPE_CHECKING:
    from converters.masks.instances import Mask


def read_data_yaml(path: Path) -> tuple[Path, dict[str, list[str]], dict[int, str]]:
    """The base folder, part -> where its images are, and class index -> name; raises DatasetError."""
    import yaml

    try:
        data = yaml.safe_load(path.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise DatasetError(f"{path}: is no YAML ({str(error).partition(chr(10))[0]})") from None
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror}: name the data.yaml of a YOLO dataset") from None
    names = data.get("names") if isinstance(data, dict) else None
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not all(isinstance(index, int) for index in names):
        raise DatasetError(f"{path}: needs `names`, a list of classes")
    parts = {part: [data[part]] if isinstance(data[part], str) else data[part] for part in PARTS if data.get(part)}
    lists = all(isinstance(entries, list) for entries in parts.values())
    if not parts or not lists or not all(_is_name(entry) for entries in parts.values() for entry in entries):
        raise DatasetError(f"{path}: needs `train`, `val` or `test`: folders of images, or lists of them")
    return path.parent / str(data.get("path") or "."), parts, {index: str(name) for index, name in names.items()}


def _is_name(entry: object) -> bool:
    return isinstance(entry, str) and fits_text_files(entry)


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
        if not all(map(fits_text_files, lines)):
            raise DatasetError(f"{place}: holds names with control characters: rename those images")
        return [(Path(line).name, place.parent / line if line.startswith("./") else base / line) for line in lines]
    raise DatasetError(f"{base / entry}: no such folder or list of images; correct data.yaml")


def label_file(image: Path) -> Path:
    """The label file of an image: the last ``images`` folder of its path is ``labels`` there."""
    parts = list(image.parts)
    if "images" in parts[:-1]:
        parts[len(parts) - 2 - parts[-2::-1].index("images")] = "labels"
    return Path(*parts).with_suffix(".txt")


def decode_row(row: str, width: int, height: int) -> tuple[int, "Mask"]:
    """Class index and mask (H x W of 0 and 1) of one line of a label file; raises DatasetError."""
    import cv2
    import numpy as np

    try:
        index, *numbers = (float(number) for number in row.split())
    except ValueError:
        raise DatasetError("is no row of numbers") from None
    if len(numbers) == 4:
        raise DatasetError(
            "is a box, and a box alone makes no mask: label outlines (YOLO's segment format) instead, or leave such "
            "images out with --on-error skip"
        )
    if len(numbers) < 6 or len(numbers) % 2 or not index.is_integer():
        raise DatasetError("needs a class and three or more points")
    if not all(0 <= number <= 1 for number in numbers):
        raise DatasetError("has coordinates outside 0 to 1")
    points = np.array(numbers).reshape(-1, 2) * (width, height)
    mask = np.zeros((height, width), np.uint8)
    cv2.fillPoly(mask, [points.astype(np.int32)], (1,))
    return int(index), mask


def _decode_all(labels: Path, names: dict[int, str], width: int, height: int) -> Iterator[tuple[str, "Mask"]]:
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
    from converters.importing.mask_folder import LabelledFile, Rules, flat_name, report, write_folder

    base, parts, names = read_data_yaml(data_yaml)
    files, unlabelled = [], 0
    for part, entries in parts.items():
        for name, path in (found for entry in entries for found in find_images(base, entry)):
            labels = label_file(path)
            unlabelled += not labels.is_file()
            files.append(LabelledFile(path, flat_name(part, name), partial(_decode_all, labels, names)))
    tally = write_folder(files, to, Rules(mixed, touching, on_error), max_pixels, overwrite)
    if unlabelled:
        click.echo(f"no label file: {unlabelled} images, taken as good", err=True)
    report(tally, to)
