"""Images that a user names: files, folders and patterns, found and read one by one."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from converters.cli.errors import DatasetError
from converters.sources.image_files import identify
from converters.sources.samples import SUFFIXES


@dataclass(frozen=True)
class Found:
    """An image file, and its path below the folder that all of them have in common."""

    path: Path
    name: str


def find_images(wanted: Sequence[str]) -> list[Found]:
    """Every image that files, folders (with all below them) and patterns name, each once, in the order of the paths.

    Raises DatasetError for a name that leads to none.
    """
    paths: dict[Path, None] = {}
    for word in wanted:
        path = Path(word)
        here = [path] if path.exists() else list(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
        files = [file for each in here for file in _files_of(each)]
        if not files:
            raise DatasetError(f"{word}: leads to no image ({', '.join(SUFFIXES)}): name files, folders or a pattern")
        paths |= dict.fromkeys(file.absolute() for file in files)
    folder = os.path.commonpath([path.parent for path in paths])
    return [Found(path, path.relative_to(folder).as_posix()) for path in sorted(paths)]


def _files_of(path: Path) -> list[Path]:
    """The path itself, whatever it is called; of a folder the images in it and below."""
    if not path.is_dir():
        return [path]
    return [file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file()]


def read_pixels(path: Path, max_pixels: int) -> NDArray[np.uint8]:
    """H x W x 3, RGB, as trainers decode it; raises DatasetError, without the name, for what the converters refuse."""
    data = path.read_bytes()
    identify(data, path.suffix, max_pixels)
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise DatasetError("is no image that OpenCV reads")
    return np.asarray(image, np.uint8)
