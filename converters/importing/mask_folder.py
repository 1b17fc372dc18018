"""A user's own labels become a plain folder (see ``sources.folder``): what the importers share.

The folder holds one mask and one class per image. So instances of an image that touch or overlap would become one,
and an image of several classes would lose them: both are errors that name the image, unless the user says what to
do (``Rules``).
"""

import csv
import itertools
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote

import click
import cv2
import numpy as np

from converters.cli import publishing as staging
from converters.cli.errors import DatasetError
from converters.cli.terminal import progress
from converters.datasets.splits import COMBINED
from converters.masks.instances import Mask
from converters.sources.folder import HEADER, TABLE
from converters.sources.image_files import decoded, identify
from converters.sources.samples import GOOD, Aside, files_below, fits_text_files, looks_like_image, told

Tell = Callable[[str, int], None]  # a reason, and how often it came: see ``samples.Aside``
TWICE = "labels that are in their image twice, taken once"
NO_PIXEL = "labels that cover no pixel, beside others of their image, left aside"
OUTSIDE = "labels beyond the border of their image, cut there"
NO_LABEL_FILE = "no label file, taken as good"
OTHER_TYPE = "images of other types than are read, without a label, not taken"
ANOTHER_PATH = "paths written otherwise or on another machine, found by their end"
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

    ``decode(width, height, tell)`` yields (class, H x W mask of 0 and 1) one by one and raises DatasetError.
    """

    path: Path
    name: str
    decode: Callable[[int, int, Tell], Iterator[tuple[str, Mask]]]


@dataclass
class Tally:
    """The outcome of an import."""

    good: int = 0
    defective: int = 0
    instances: int = 0
    parts: int = 0
    left_out: list[str] = field(default_factory=list)
    asides: list[Aside] = field(default_factory=list)


class Finder:
    """Files below a folder by the paths that labels name, which another machine may have written.

    Tried are the path itself, with the slashes of Windows turned, and then its ends, from the longest on, whatever the
    case of letters and the composition of accents (NFC, NFD). Of Label Studio's paths the web address and the eight
    digits that it puts before a name are taken off.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, name: str) -> tuple[Path | None, bool]:
        """The file, if there is one, and whether it has exactly this path."""
        path = name.replace("\\", "/")
        if not path.startswith("/") and ".." not in path.split("/") and is_file(self.folder / path):
            return self.folder / path, True
        parts = [p for p in unquote(path.rpartition("?d=")[2]).split("/") if p not in ("", ".", "..")]
        for last in (parts[-1:], [re.sub("^[0-9a-f]{8}-", "", part) for part in parts[-1:]]):
            for start in range(len(parts)):
                found = self._files[_folded("/".join([*parts[start:-1], *last]))]
                if len(found) == 1:
                    return found[0], False
        return None, False

    @cached_property
    def _files(self) -> dict[str, list[Path]]:
        found = defaultdict(list)
        for path in files_below(self.folder):
            found[_folded(path.relative_to(self.folder).as_posix())].append(path)
        return found


def is_file(path: Path) -> bool:
    """Also for what can be no path: too long, or with a null byte."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


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
                    rows.append(_write(file, folder, rules, max_pixels, tally))
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


def _write(file: LabelledFile, folder: Path, rules: Rules, max_pixels: int, tally: Tally) -> tuple[str, str]:
    """Place one image and its mask; return the image's name and class."""
    data = file.path.read_bytes()
    width, height, _, remade = identify(data, file.path.suffix, max_pixels)
    asides = [Aside(str(file.path), remade)] if remade else []

    def tell(reason: str, count: int) -> None:
        asides.append(Aside(str(file.path), reason, count))

    labels = file.decode(width, height, tell)
    mask, classes, count = unite(labels, (height, width), rules.touching == "merge", tell)
    name = _class_of(classes, rules.mixed == "combined")
    if name != GOOD:
        encoded = cv2.imencode(".png", mask * 255)[1].tobytes()
        (folder / "masks" / f"{Path(file.name).stem}_mask.png").write_bytes(encoded)
        tally.parts += cv2.connectedComponents(mask, connectivity=8)[0] - 1
    image = f"{Path(file.name).stem}.png" if remade else file.name
    if remade:
        decoded(file.path).save(folder / "images" / image, compress_level=1)
    else:
        staging.place_image(file.path, [folder / "images" / image], "link")
    tally.instances += count
    tally.good += name == GOOD
    tally.defective += name != GOOD
    tally.asides += asides
    return image, name


def unite(
    instances: Iterable[tuple[str, Mask]], shape: tuple[int, int], touching: bool, tell: Tell = lambda *_: None
) -> tuple[Mask, set[str], int]:
    """The union (H x W) of an image's instances, their classes, and how many they are.

    An instance that comes twice counts once, and one that covers no pixel, beside others, not at all: both are told.
    Raises DatasetError if none covers a pixel, or, unless ``touching`` is allowed, two meet at a side or corner.
    """
    union = np.zeros(shape, np.uint8)
    classes = set()
    count = 0
    empty = []
    seen = set()
    for number, (name, mask) in enumerate(instances, start=1):
        mask = np.ascontiguousarray(mask)
        x, y, width, height = cv2.boundingRect(mask)
        if width == 0:
            empty.append(f"its instance {number} ({name}) covers no pixel: remove or enlarge it")
            continue
        same = name, x, y, width, height, mask[y : y + height, x : x + width].tobytes()
        if same in seen:
            tell(TWICE, 1)
            continue
        seen.add(same)
        count += 1
        around = slice(max(y - 1, 0), y + height + 1), slice(max(x - 1, 0), x + width + 1)
        grown = cv2.dilate(mask[around], np.ones((3, 3), np.uint8))
        if not touching and cv2.countNonZero(cv2.bitwise_and(grown, union[around])):
            raise DatasetError(
                f"its instance {number} ({name}) touches another, and a mask would join them: see --touching merge"
            )
        union[around] |= mask[around]
        classes.add(name)
    if empty and not count:
        raise DatasetError(empty[0])
    if empty:
        tell(NO_PIXEL, len(empty))
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
    for line in told(tally.asides):
        click.echo(line, err=True)
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


def not_taken(folder: Path, used: Iterable[Path], reason: str) -> list[Aside]:
    """Images below a folder that nothing named."""
    known = {os.path.normpath(path.absolute()) for path in used}
    images = filter(looks_like_image, files_below(folder))
    more = (path for path in images if os.path.normpath(path.absolute()) not in known)
    return [Aside(path.relative_to(folder).as_posix(), reason) for path in more]
