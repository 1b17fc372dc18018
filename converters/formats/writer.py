"""A format as the pipeline sees it: a writer that turns labelled images into files.

A writer has two halves. ``render`` is pure and runs in worker processes: a labelled image becomes files and a
record. ``add`` and ``finish`` run in the main process, in the order of the images, so that the bytes written
depend neither on the number of workers nor on which of them was faster.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from converters.cli.errors import DatasetError
from converters.masks.instances import Instance
from converters.masks.png import index_png
from converters.sources.samples import PARTS, Crop, Problem, Sample

LONGEST_NAME = 255  # bytes, what common file systems take
TOO_SMALL = "all of its instances are below --min-area"


def check_length(name: str, sample: Sample) -> None:
    """Raise DatasetError if file systems would refuse this name for an image."""
    if len(name.encode()) > LONGEST_NAME:
        raise DatasetError(f"{sample.image}: {name!r} would be longer than {LONGEST_NAME} bytes: shorten the name")


@dataclass(frozen=True)
class DatasetInfo:
    """Facts that each format of a dataset tells its readers, and how far their outlines may lie from the masks (px)."""

    name: str
    classes: tuple[str, ...]
    split_sha256: str
    synthetic: bool
    simplify: float = 0.0
    parts: tuple[str, ...] = PARTS  # of the split: CALIBRATION may be one more


@dataclass(frozen=True)
class LabelledImage:
    """An image with its part of the split, its class (None for good) and its instances.

    A tile is the ``crop`` of a sample; its instances are in its own coordinates.
    """

    sample: Sample
    name: str
    part: str
    class_index: int | None
    classes: tuple[str, ...]
    instances: Sequence[Instance]
    crop: Crop | None = None

    @property
    def width(self) -> int:
        return self.crop[2] if self.crop else self.sample.width

    @property
    def height(self) -> int:
        return self.crop[3] if self.crop else self.sample.height

    @property
    def stem(self) -> str:
        return Path(self.name).stem

    @property
    def label(self) -> int:
        """The class index of an image that shows a defect."""
        assert self.class_index is not None, f"{self.name} is a good image"
        return self.class_index

    def check_count(self, most: int, name: str) -> None:
        """Raise DatasetError for more instances than the format of that name can number."""
        if len(self.instances) > most:
            raise DatasetError(
                f"{self.sample.mask}: {len(self.instances)} instances, and {name} holds {most}: see --min-area and "
                f"--merge-gap, or leave {name} out with `all --formats`"
            )

    @cached_property
    def top(self) -> int:
        """The first row that holds an instance."""
        return min((instance.y0 for instance in self.instances), default=0)

    @cached_property
    def ids(self) -> NDArray[np.uint16]:
        """1, 2, ... for the instances in order, 0 elsewhere: from row ``top`` to the last row that holds one."""
        bottom = max((instance.xyxy[3] for instance in self.instances), default=0)
        canvas = np.zeros((bottom - self.top, self.width), np.uint16)
        for number, instance in enumerate(self.instances, start=1):
            x0, y0, x1, y1 = instance.xyxy
            canvas[y0 - self.top : y1 - self.top, x0:x1][instance.mask > 0] = number
        return canvas

    @cached_property
    def class_png(self) -> bytes:
        """Class index + 1 on defects, 0 elsewhere, as a palette PNG; encoded once for all formats that hold it."""
        value = 0 if self.class_index is None else self.class_index + 1
        rows = (self.ids > 0).astype("uint8") * value
        return index_png(rows, self.top, self.height, len(self.classes) + 1)


class Rendered(NamedTuple):
    """Files of one image (relative path -> content), what ``add`` needs to know, IoUs of simplified outlines.

    The record goes through JSON where a killed run is resumed, so that tuples in it may come as lists.
    """

    files: dict[str, bytes]
    record: Any = None
    ious: tuple[float, ...] = ()


class Writer(ABC):
    """One format. Subclasses say where images lie, and turn labelled images into files."""

    folder: ClassVar[str]
    simplifies: ClassVar[bool] = False  # does --simplify mean something to it?
    holds_calibration: ClassVar[bool] = False  # others hold what trainers may learn from or choose epochs by

    def __init__(self, info: DatasetInfo) -> None:
        self.info = info

    @property
    @abstractmethod
    def directories(self) -> tuple[str, ...]:
        """Folders to make, relative to the format's."""

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of the split that the format holds."""
        return self.info.parts if self.holds_calibration else PARTS

    def image_path(self, image: "LabelledImage | Planned") -> str:
        """The path of the image, relative to the format's folder."""
        return f"images/{image.part}/{image.name}"

    @abstractmethod
    def render(self, image: LabelledImage) -> Rendered:
        """The files of one image. Pure."""

    def start(self, folder: Path) -> None:
        """Make the format's folders; where a killed run is resumed they are there."""
        self.root = folder
        for directory in self.directories:
            (folder / directory).mkdir(parents=True, exist_ok=True)

    def add(self, image: "Outcome", record: Any) -> None:
        """Take one image's record, in the order of the images."""

    def finish(self) -> None:
        """Write what concerns the whole dataset."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of one image or tile. ``number`` is its COCO id; left-out images leave a gap."""

    number: int
    sample: Sample
    name: str
    part: str
    class_name: str
    instances: int = 0
    below_min_area: int = 0
    in_between: int = 0
    ignored: int = 0  # pixels of the mask
    records: tuple[Any, ...] = ()
    ious: tuple[tuple[float, ...], ...] = ()  # one tuple for each writer
    problem: Problem | None = None

    @property
    def too_small(self) -> bool:
        """Left out because the user asked for it with ``--min-area``, which is no error."""
        return self.problem is not None and self.problem.reason == TOO_SMALL


@dataclass(frozen=True, slots=True)
class Planned:
    """A sample, or a crop of it, with its number and name in the outputs, its part and its class."""

    number: int
    sample: Sample
    name: str
    part: str
    class_index: int | None
    crop: Crop | None = None

    @property
    def key(self) -> str:
        """Its name in the card: the sample's key; of a tile it ends as the tile's name does."""
        if self.crop is None:
            return self.sample.key
        return f"{self.sample.key.rpartition('.')[0]}@{self.crop[0]}_{self.crop[1]}.png"
