"""A user's own labels become a plain folder (see ``sources.folder``): what the importers share.

The folder holds one mask and one class per image. So instances of an image that touch or overlap would become one,
and an image of several classes would lose them: both are errors that name the image, unless the user says what to
do (``Rules``).
"""

import csv
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import click
import cv2
import numpy as np

from converters.cli import publishing as staging
from converters.cli.errors import DatasetError
from converters.cli.terminal import progress
from converters.datasets.splits import COMBINED
from converters.masks.instances import Mask
from converters.sources.folder import HEADER, TABLE
from converters.sources.image_files import identify
from converters.sources.samples import GOOD, fits_text_files

LONGEST_NAME = 255 - len("images__")  # bytes that a file name may take, with what a conversion adds


@dataclass(frozen=True)
class Rules:
    """The answer to images that the folder cannot hold: the options ``--mixed --touching --on-error``."""

    mixed: str = "stop"
    touching: str = "stop"
    on_error: str = "stop"


@dataclass(frozen=True)
class LabelledFile:
    """One image of the user's: its file, the name it gets, and how its instances are decoded.

    ``decode(width, height)`` yields (class, H x W mask of 0 and 1) one by one and raises DatasetError.
    """

    path: Path
    name: str
    decode: Callable[[int, int], Iterator[tuple[str, Mask]]]


@dataclass
class Tally:
    """The outcome of an import."""

    good: int = 0
    defective: int = 0
    instances: int = 0
    parts: int = 0
    left_out: list[str] = field(default_factory=list)


def write_folder(files: list[LabelledFile], to: Path, rules: Rules, max_pixels: int, overwrite: bool) -> Tally:
    """Write ``images/``, ``masks/`` and ``classes.csv``; whole, or not at all.

    Raises DatasetError naming the first image that cannot be represented, or with ``--on-error skip`` collects
    them in the tally.
    """
    _check_names(files)
    tally = Tally()
    with staging.publish(to, overwrite) as folder:
        for name in ("images", "masks"):
            (folder / name).mkdir()
        rows = [HEADER]
        with progress(files, len(files), "importing") as bar:
            for file in bar:
                try:
                    rows.append((file.name, _write(file, folder, rules, max_pixels, tally)))
                except (DatasetError, OSError) as error:
                    reason = f"{file.path}: {getattr(error, 'strerror', None) or error}"
                    if rules.on_error == "stop":
                        raise DatasetError(reason) from None
                    tally.left_out.append(reason)
        with (folder / TABLE).open("w", encoding="utf-8", newline="") as table:
            csv.writer(table, lineterminator="\n").writerows(rows)
    return tally


def _check_names(files: list[LabelledFile]) -> None:
    """Raise DatasetError for names that clash, are too long or do not fit a table."""
    stems: dict[str, Path] = {}
    for file in files:
        stem = Path(file.name).stem
        if not fits_text_files(file.name) or len(f"{stem}_mask.png".encode()) > LONGEST_NAME:
            raise DatasetError(f"{file.path}: {file.name!a} is too long or holds control characters: rename it")
        if stem in stems:
            raise DatasetError(f"{file.path} and {stems[stem]} would both be {stem}: rename one")
        stems[stem] = file.path


def _write(file: LabelledFile, folder: Path, rules: Rules, max_pixels: int, tally: Tally) -> str:
    """Place one image and its mask; return its class."""
    data = file.path.read_bytes()
    width, height, _ = identify(data, file.path.suffix, max_pixels)
    mask, classes, count = unite(file.decode(width, height), (height, width), rules.touching == "merge")
    name = _class_of(classes, rules.mixed == "combined")
    if name != GOOD:
        encoded = cv2.imencode(".png", mask * 255)[1].tobytes()
        (folder / "masks" / f"{Path(file.name).stem}_mask.png").write_bytes(encoded)
        tally.parts += cv2.connectedComponents(mask, connectivity=8)[0] - 1
    staging.place_image(file.path, [folder / "images" / file.name], "link")
    tally.instances += count
    tally.good += name == GOOD
    tally.defective += name != GOOD
    return name


def unite(instances: Iterable[tuple[str, Mask]], shape: tuple[int, int], touching: bool) -> tuple[Mask, set[str], int]:
    """The union (H x W) of an image's instances, their classes, and how many they are.

    Raises DatasetError if one covers no pixel, or, unless ``touching`` is allowed, two meet at a side or corner.
    """
    union = np.zeros(shape, np.uint8)
    classes = set()
    count = 0
    for name, mask in instances:
        count += 1
        mask = np.ascontiguousarray(mask)
        x, y, width, height = cv2.boundingRect(mask)
        if width == 0:
            raise DatasetError(f"its instance {count} ({name}) covers no pixel: remove or enlarge it")
        around = slice(max(y - 1, 0), y + height + 1), slice(max(x - 1, 0), x + width + 1)
        grown = cv2.dilate(mask[around], np.ones((3, 3), np.uint8))
        if not touching and cv2.countNonZero(cv2.bitwise_and(grown, union[around])):
            raise DatasetError(
                f"its instance {count} ({name}) touches another, and a mask would join them: see --touching merge"
            )
        union[around] |= mask[around]
        classes.add(name)
    return union, classes, count


def _class_of(classes: set[str], combined: bool) -> str:
    for name in classes:
        if name == GOOD or not name.strip() or "/" in name or not fits_text_files(name):
            raise DatasetError(f"its class {name!r} is no name for a defect here (good, empty, or with a slash)")
    if len(classes) > 1 and not combined:
        names = ", ".join(sorted(classes))
        raise DatasetError(f"shows several classes ({names}), and the folder holds one an image: see --mixed combined")
    return COMBINED if len(classes) > 1 else next(iter(classes), GOOD)


def report(tally: Tally, to: Path) -> None:
    """Print what was written; exit with 1 if anything was left out."""
    for line in tally.left_out:
        click.echo(f"left out: {line}", err=True)
    click.echo(
        f"wrote {tally.good} good and {tally.defective} defective images to {to}; {tally.instances} labels make "
        f"{tally.parts} connected parts, and a conversion counts each as an instance (--instances, --merge-gap)"
    )
    click.echo(f"next: python -m converters all --root {to}")
    if tally.left_out:
        raise SystemExit(1)


def flat_name(*parts: str) -> str:
    """One file name from a relative path: ``a/b.png`` becomes ``a__b.png``."""
    return "__".join(itertools.chain.from_iterable(part.split("/") for part in parts))


def unlisted(folder: Path, used: Iterable[Path]) -> list[Path]:
    """Files of a folder that nothing named."""
    known = {path.resolve() for path in used}
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and path.resolve() not in known]
