"""Labels in YOLO's segment format become a plain folder of images and masks.

Format: https://docs.ultralytics.com/datasets/segment/. Outlines are painted as ultralytics paints them: coordinates
times the image's size, truncated to whole pixels, filled together with their line.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
from pydantic import AfterValidator, BeforeValidator, Field

from converters.cli.door import Checked, check, read_yaml
from converters.cli.errors import DatasetError
from converters.importing.mask_folder import (
    ANOTHER_PATH,
    NO_LABEL_FILE,
    OTHER_TYPE,
    OUTSIDE,
    Finder,
    LabelledFile,
    Rules,
    Tell,
    flat_name,
    is_file,
    not_taken,
    report,
    write_folder,
)
from converters.masks.instances import Mask
from converters.sources.samples import SUFFIXES, Aside, files_below, fits_text_files, hidden_images, looks_like_image

STEP = "name the data.yaml of a YOLO dataset"
BEYOND = 0.01  # of a side: so far beyond the border ultralytics takes coordinates, too
CLASS_LISTS = ("classes.txt", "notes.txt", "obj.names")  # what label tools leave among the labels


def _file_name(name: str) -> str:
    if not fits_text_files(name):
        raise ValueError("holds control characters: rename it")
    return name


def _listed(entries: Any) -> Any:
    return [entries] if isinstance(entries, str) else entries or []


def _numbered(names: Any) -> Any:
    return dict(enumerate(names)) if isinstance(names, list) else names


def _index(key: Any) -> Any:
    return int(key) if isinstance(key, str) and key.isdecimal() else key


FileName = Annotated[str, AfterValidator(_file_name)]
Entries = Annotated[list[FileName], BeforeValidator(_listed)]


class DataYaml(Checked):
    """``data.yaml``: for each part folders of images, or files that list them; ``kpt_shape`` makes it one of poses."""

    path: FileName | None = None
    train: Entries = Field([])
    val: Entries = Field([])
    test: Entries = Field([])
    kpt_shape: Any = None


class Names(Checked):
    """The names in ``data.yaml``, class index -> name, as they stand there: ``no`` is no truth value, ``0010`` no 8."""

    names: Annotated[dict[Annotated[int, BeforeValidator(_index)], str], BeforeValidator(_numbered)]


@dataclass(frozen=True)
class Found:
    """One image of a part, with a name within it."""

    part: str
    name: str
    path: Path


def read_names(data_yaml: Path) -> dict[int, str]:
    """Class index -> name; raises DatasetError for a name that two have."""
    names = read_yaml(data_yaml, Names, STEP, as_text=True).names
    first: dict[str, int] = {}
    for index, name in names.items():
        if first.setdefault(name, index) != index:
            raise DatasetError(f"{data_yaml}: names: {first[name]} and {index} are both {name!r}: rename one")
    return names


def find_place(base: Path, entry: str) -> Path:
    """The folder, or the list of images, of one entry of data.yaml.

    Roboflow writes ``../train/images`` for what lies beside its data.yaml; ultralytics accepts that, and so does this.
    Of the path of another machine, or one as Windows writes it, the longest end that is there is taken.
    """
    plain = entry.replace("\\", "/")
    candidates = [base / entry, base / plain, base / plain.removeprefix("../")]
    if _is_windows(entry):
        parts = re.sub("^[A-Za-z]:", "", plain).split("/")
        candidates += [base.joinpath(*parts[start:]) for start in range(1, len(parts))]
    for place in candidates:
        if place.is_dir() or (place.is_file() and place.suffix == ".txt"):
            return place
    raise DatasetError(f"{base / entry}: no such folder or list of images; correct data.yaml")


def _is_windows(path: str) -> bool:
    return "\\" in path or bool(re.match("[A-Za-z]:", path))


def find_images(base: Path, part: str, place: Path) -> Iterator[Found | Aside]:
    """The images of a folder, or of a text file that lists them."""
    if place.is_dir():
        for path in filter(looks_like_image, files_below(place)):
            yield Found(part, path.relative_to(place).as_posix(), path)
        return
    lines = [line.strip() for line in place.read_text("utf-8-sig", "replace").split("\n") if line.strip()]
    check(lines, list[FileName], str(place))
    finder = Finder(base)
    for line in lines:
        path = place.parent / line if line.startswith("./") else base / line
        if not is_file(path) and (elsewhere := finder.find(line)[0]):
            path = elsewhere
            yield Aside(line, ANOTHER_PATH)
        yield Found(part, path.name, path)


def label_file(image: Path) -> Path:
    """The label file of an image: the last ``images`` folder of its path is ``labels`` there. Also .TXT is taken."""
    parts = list(image.parts)
    if "images" in parts[:-1]:
        parts[len(parts) - 2 - parts[-2::-1].index("images")] = "labels"
    path = Path(*parts).with_suffix(".txt")
    upper = path.with_suffix(".TXT")
    return upper if upper.is_file() and not path.is_file() else path


def decode_row(row: str, width: int, height: int, tell: Tell = lambda *_: None) -> tuple[int, Mask]:
    """Class index and mask (H x W of 0 and 1) of one line of a label file; raises DatasetError.

    Coordinates a little beyond the border are moved onto it, and told. Fewer than three points cover no pixel.
    """
    try:
        index, *numbers = (float(number) for number in row.split())
    except ValueError:
        raise DatasetError("is no row of numbers") from None
    if len(numbers) == 4:
        raise DatasetError(
            "is a box, and a box alone makes no mask: label outlines (YOLO's segment format) instead, or leave such "
            "images out with --on-error skip"
        )
    if len(numbers) % 2 or not index.is_integer() or not all(-BEYOND <= at <= 1 + BEYOND for at in numbers):
        raise DatasetError("needs a class and three or more points x y, from 0 to 1")
    mask = np.zeros((height, width), np.uint8)
    if len(numbers) < 6:
        return int(index), mask
    if min(numbers) < 0 or max(numbers) > 1:
        tell(OUTSIDE, 1)
    points = np.clip(np.array(numbers).reshape(-1, 2), 0, 1) * (width, height)
    cv2.fillPoly(mask, [points.astype(np.int32)], (1,))
    return int(index), mask


def _decode_all(image: Path, names: dict[int, str], width: int, height: int, tell: Tell) -> Iterator[tuple[str, Mask]]:
    labels, beside = label_file(image), image.with_suffix(".txt")
    if not labels.is_file():
        if beside.is_file():
            raise DatasetError(f"its labels lie beside it, in {beside.name}: move such files to {labels.parent}")
        tell(NO_LABEL_FILE, 1)
        return
    for number, row in enumerate(labels.read_text("utf-8-sig", "replace").splitlines(), start=1):
        if not row.strip():
            continue
        try:
            index, mask = decode_row(row, width, height, tell)
            if index not in names:
                raise DatasetError(f"has the class {index}, which data.yaml does not name")
        except DatasetError as error:
            raise DatasetError(f"line {number} of {labels} {error.message}") from None
        yield names[index], mask


def list_files(data_yaml: Path) -> tuple[list[LabelledFile], list[Aside]]:
    """Every image of a dataset with its labels, once, and what is told of the others; raises DatasetError."""
    data, names = read_yaml(data_yaml, DataYaml, STEP), read_names(data_yaml)
    if data.kpt_shape is not None:
        raise DatasetError(
            f"{data_yaml}: kpt_shape: these labels are poses, boxes with key points, and make no mask: label outlines "
            "(YOLO's segment format) instead"
        )
    path = data.path or "."
    if _is_windows(path):
        path = path.replace("\\", "/") if (data_yaml.parent / path.replace("\\", "/")).is_dir() else "."
    base = data_yaml.parent / path
    parts = {"train": data.train, "val": data.val, "test": data.test}
    places = [(part, find_place(base, entry)) for part, entries in parts.items() for entry in entries]
    entries = [entry for part, place in places for entry in find_images(base, part, place)]
    asides = [entry for entry in entries if isinstance(entry, Aside)]
    found: dict[Path, Found] = {}
    for entry in (entry for entry in entries if isinstance(entry, Found)):
        if entry.path.suffix.lower() not in SUFFIXES and not label_file(entry.path).is_file():
            asides.append(Aside(str(entry.path), OTHER_TYPE))
        elif found.setdefault(entry.path.parent.resolve() / entry.path.name, entry) is not entry:
            asides.append(Aside(str(entry.path), "images that data.yaml names twice, taken once"))
    if not found:
        raise DatasetError(f"{data_yaml}: names no images under train, val or test")
    images = list(found.values())
    if not any(label_file(image.path).is_file() or image.path.with_suffix(".txt").is_file() for image in images):
        wanted = label_file(images[0].path)
        raise DatasetError(f"{data_yaml}: none of its {len(images)} images has a label file, such as {wanted}")
    named = zip(images, _unique_names(images), strict=True)
    files = [LabelledFile(image.path, name, partial(_decode_all, image.path, names)) for image, name in named]
    return files, [*asides, *_left(images, {place for _, place in places})]


def _unique_names(images: list[Found]) -> list[str]:
    """Part and name of each; those that would clash get their folders, too."""
    short = [flat_name(image.part, image.name) for image in images]
    counts = Counter(Path(name).stem for name in short)
    above = Path(os.path.commonpath([image.path.absolute().parent for image in images]))
    return [
        flat_name(image.part, image.path.absolute().relative_to(above).as_posix())
        if counts[Path(name).stem] > 1
        else name
        for image, name in zip(images, short, strict=True)
    ]


def _left(images: list[Found], places: set[Path]) -> Iterator[Aside]:
    """Labels without an image, and images that are hidden or lie beside those that data.yaml names."""
    for place in sorted(places):
        yield from hidden_images(place)
    used = {label_file(image.path) for image in images}
    folders = {next((above for above in label.parents if above.name == "labels"), label.parent) for label in used}
    there = {path for folder in folders for path in files_below(folder)}
    for path in sorted(there - used - places):
        if path.suffix.lower() == ".txt" and path.name not in CLASS_LISTS and "images" not in path.parts:
            yield Aside(str(path), "label files without an image, not taken")
    roots = {folder for image in images for folder in image.path.parents if folder.name == "images"}
    for root in sorted(roots):
        yield from not_taken(root, (image.path for image in images), "images that data.yaml does not name, not taken")


def import_yolo(
    data_yaml: Path, to: Path, mixed: str, touching: str, on_error: str, max_pixels: int, overwrite: bool
) -> None:
    """Write YOLO's segment labels as a folder of images and masks."""
    files, asides = list_files(data_yaml)
    tally = write_folder(files, to, Rules(mixed, touching, on_error), max_pixels, overwrite)
    tally.asides += asides
    report(tally, to)
