"""Images with their masks, as every reader hands them on.

A reader (see ``converters.sources.layouts``) says which file is an image, which class it shows and where its mask lies:
``Listed``. Its files, checked by ``converters.sources.image_files``, make it a ``Sample`` or a ``Problem``.
"""

import unicodedata
from dataclasses import dataclass
from pathlib import Path

PARTS = ("train", "val", "test")
GOOD = "good"
Crop = tuple[int, int, int, int]  # a part of an image: x, y, width, height in pixels
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
FORMATS = ("PNG", "JPEG", "BMP", "TIFF")  # nothing else is ever handed to Pillow's decoders
NO_TEXT = "this name holds characters that text files cannot: rename it"
_CLUTTER = ("Thumbs.db", "desktop.ini")


@dataclass(frozen=True)
class Listed:
    """One image of a folder before it is opened: what its layout says about it.

    ``mask`` is a file, or a folder of files whose union is the mask; that of a good image must be all zero.
    ``problem`` says why the image cannot be used. ``empty_is_good``: an all-zero mask makes the image a good
    one. ``any_value``: a mask's pixels count from 1 on (some layouts number defects there), else from half of
    the value range. ``group``: see ``Sample``.
    """

    image: Path
    defect: str
    origin: str
    mask: Path | None = None
    problem: str = ""
    empty_is_good: bool = False
    any_value: bool = False
    group: str = ""


@dataclass(frozen=True)
class Sample:
    """One image and, where it shows a defect, its mask: a file, or a folder of files whose union counts.

    ``key`` is the image's POSIX path inside its category folder. It names the image everywhere. ``origin`` is
    ``train`` or ``test``: what its source meant it for, which is not its part of the split. ``image_digest`` and
    ``mask_digest`` are SHA-256 of the files; ``size`` is the image file's, in bytes. ``group`` names the physical
    object, lot or recording that the image shows, where anybody knows: images of one group stay in one part.
    """

    category: str
    key: str
    image: Path
    mask: Path | None
    defect: str
    width: int
    height: int
    channels: int
    size: int
    image_digest: str
    mask_digest: str = ""
    origin: str = "test"
    any_value: bool = False
    group: str = ""


@dataclass(frozen=True)
class Problem:
    """A file that could not be used, and why."""

    file: str
    reason: str

    def __str__(self) -> str:
        return f"{self.file}: {self.reason}"


@dataclass(frozen=True)
class Category:
    """All images of one product, sorted by key, and the files that could not be used."""

    name: str
    folder: Path
    samples: list[Sample]
    problems: list[Problem]
    synthetic: bool
    layout: str = "mvtec"

    @property
    def defects(self) -> list[str]:
        """Defect types in alphabetical order; good is none of them."""
        return sorted({sample.defect for sample in self.samples} - {GOOD})


def fits_text_files(name: str) -> bool:
    """No line breaks or other control characters, and no bytes that are no UTF-8."""
    return not any(unicodedata.category(char) in ("Cc", "Cs") for char in name)


def folders(path: Path) -> list[Path]:
    """Folders in a folder, in order; hidden ones are not looked at. None where the folder does not exist."""
    if not path.is_dir():
        return []
    return sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def files(path: Path) -> list[Path]:
    """Files of a folder in order, without what operating systems leave in it."""
    if not path.is_dir():
        return []
    entries = (entry for entry in path.iterdir() if not entry.name.startswith(".") and entry.name not in _CLUTTER)
    return sorted(entry for entry in entries if entry.is_file())


def mask_files(mask: Path) -> list[Path]:
    """The files of a mask: itself, or those of the folder that it is."""
    return files(mask) if mask.is_dir() else [mask]
