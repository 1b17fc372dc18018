"""What a format is to the pipeline: a writer that turns labelled images into files.

A writer has two halves. ``render`` is pure and runs in worker processes: a labelled image becomes files and a
record. ``add`` and ``finish`` run in the main process, in the order of the images, so that the bytes written
depend neither on the number of workers nor on which of them was faster.

This module and the formats import NumPy and OpenCV only where they work, so that ``--help`` comes at once.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from converters.mvtec import Problem, Sample

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from converters.instances import Instance


@dataclass(frozen=True)
class DatasetInfo:
    """What every format of a dataset tells its readers."""

    name: str
    classes: tuple[str, ...]
    split_sha256: str
    synthetic: bool


@dataclass(frozen=True)
class LabelledImage:
    """An image with its part of the split, its class (None for good) and its instances."""

    sample: Sample
    name: str
    part: str
    class_index: int | None
    classes: tuple[str, ...]
    instances: Sequence["Instance"]

    @property
    def stem(self) -> str:
        return Path(self.name).stem

    @property
    def label(self) -> int:
        """The class index of an image that shows a defect."""
        assert self.class_index is not None, f"{self.name} is a good image"
        return self.class_index

    @cached_property
    def class_map(self) -> "NDArray[np.uint8]":
        """H x W: class index + 1 on defects, 0 elsewhere."""
        value = 0 if self.class_index is None else self.class_index + 1
        return self._painted("uint8", [value] * len(self.instances))

    @cached_property
    def instance_map(self) -> "NDArray[np.uint16]":
        """H x W: 1, 2, ... for the instances in order, 0 elsewhere."""
        return self._painted("uint16", range(1, len(self.instances) + 1))

    @cached_property
    def class_png(self) -> bytes:
        """The class map as a palette PNG; encoded once for all formats that hold it."""
        from converters.png import index_png

        return index_png(self.class_map, len(self.classes) + 1)

    def _painted(self, dtype: str, values: Iterable[int]) -> "NDArray[Any]":
        import numpy as np

        canvas = np.zeros((self.sample.height, self.sample.width), dtype)
        for instance, value in zip(self.instances, values, strict=True):
            x0, y0, x1, y1 = instance.xyxy
            canvas[y0:y1, x0:x1][instance.mask > 0] = value
        return canvas


class Writer:
    """One format. Subclasses say where images lie, and turn labelled images into files."""

    folder: ClassVar[str]
    directories: ClassVar[tuple[str, ...]]

    def __init__(self, info: DatasetInfo) -> None:
        self.info = info

    def image_path(self, image: LabelledImage) -> str:
        """Where the image lies, relative to the format's folder."""
        return f"images/{image.part}/{image.name}"

    def render(self, image: LabelledImage) -> tuple[dict[str, bytes], Any]:
        """Files of this image (relative path -> content) and what ``add`` needs to know. Pure."""
        raise NotImplementedError

    def start(self, folder: Path) -> None:
        """Make the format's folders."""
        self.root = folder
        for directory in self.directories:
            (folder / directory).mkdir(parents=True)

    def add(self, image: "Outcome", record: Any) -> None:
        """Take one image's record, in the order of the images."""

    def finish(self) -> None:
        """Write what concerns the whole dataset."""


@dataclass(frozen=True)
class Outcome:
    """What became of one image."""

    sample: Sample
    name: str
    part: str
    class_name: str
    instances: int = 0
    below_min_area: int = 0
    in_between: int = 0
    records: tuple[Any, ...] = ()
    problem: Problem | None = None


@dataclass(frozen=True)
class Planned:
    """A sample with its name in the outputs, its part and its class."""

    sample: Sample
    name: str
    part: str
    class_index: int | None
