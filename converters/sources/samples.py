"""Images with their masks, as every reader hands them on.

A reader (see ``converters.sources.layouts``) says which file is an image, which class it shows and where its mask lies:
``Listed``. Its files, checked by ``converters.sources.image_files``, make it a ``Sample`` or a ``Problem``.
"""

import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

PARTS = ("train", "val", "test")
CALIBRATION = "calibration"  # a fourth part where --good-val asks for it: good images, for thresholds alone
GOOD = "good"
Crop = tuple[int, int, int, int]  # a part of an image: x, y, width, height in pixels
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
FORMATS = ("PNG", "JPEG", "BMP", "TIFF")  # nothing else is ever handed to Pillow's decoders
NO_TEXT = "this name holds characters that text files cannot: rename it"
OTHER_SUFFIXES = (  # images, too, but not read
    *(".webp", ".jfif", ".jpe", ".gif", ".avif", ".heic", ".heif", ".jp2", ".j2k", ".jxl", ".mpo"),
    *(".dng", ".ppm", ".pgm", ".pbm", ".tga", ".psd", ".exr"),
)
NOTES = (
    ".txt",
    ".md",
    ".csv",
    ".json",
    ".xml",
    ".yaml",
    ".yml",
    ".html",
    ".pdf",
    ".log",
    ".docx",
    ".xlsx",
)  # no images
HIDDEN = "images in hidden folders, or left by an operating system or file server, skipped"
DEAD = "links to images that are not there, not taken"
IGNORED = "pixels of masks that are to be ignored (index 255 of a palette), taken as good"
_GOOD_NAMES = ("good", "ok", "normal")
_CLUTTER = (  # in lower case; what macOS, Windows, and the file servers of Apple, Synology, QNAP and NetApp leave
    *("__macosx", "icon\r", "network trash folder", "temporary items"),
    *("thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "recycler", "system volume information"),
    *("@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "~snapshot", "lost+found"),
)


@dataclass(frozen=True, slots=True)
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


@dataclass(frozen=True, slots=True)
class Sample:
    """One image and, where it shows a defect, its mask: a file, or a folder of files whose union counts.

    ``key`` is the image's POSIX path inside its category folder (ending in .png where the image is remade). It names
    the image everywhere. ``origin`` is
    ``train`` or ``test``: what its source meant it for, which is not its part of the split. ``image_digest`` and
    ``mask_digest`` are SHA-256 of the files; ``size`` is the image file's, in bytes. ``group`` names the physical
    object, lot or recording that the image shows, where anybody knows: images of one group stay in one part.
    ``remade`` says what a conversion changes in the image, which it then writes as PNG (see ``image_files.decoded``);
    mostly nothing.
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
    remade: str = ""


@dataclass(frozen=True)
class Problem:
    """A file that could not be used, and why."""

    file: str
    reason: str

    def __str__(self) -> str:
        return f"{self.file}: {self.reason}"


@dataclass(frozen=True)
class Aside:
    """What was left aside, or taken otherwise than it stands in a file, and why: told once a reason, and no error."""

    file: str
    reason: str
    count: int = 1

    def __post_init__(self) -> None:
        if not fits_text_files(self.file):
            object.__setattr__(self, "file", ascii(self.file))


def summed_up(asides: Iterable[Aside]) -> list[Aside]:
    """One a reason, in the order of their coming, with the first file and the count of all."""
    first: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for aside in asides:
        first.setdefault(aside.reason, aside.file)
        counts[aside.reason] += aside.count
    return [Aside(file, reason, counts[reason]) for reason, file in first.items()]


def told(asides: Iterable[Aside]) -> list[str]:
    """One line a reason."""
    return [f"{aside.reason}: {aside.count} (first: {aside.file})" for aside in summed_up(asides)]


@dataclass(frozen=True)
class Category:
    """All images of one product, sorted by key, the files that could not be used, and what was left aside."""

    name: str
    folder: Path
    samples: list[Sample]
    problems: list[Problem]
    synthetic: bool
    layout: str = "mvtec"
    asides: tuple[Aside, ...] = ()

    @property
    def defects(self) -> list[str]:
        """Defect types in alphabetical order; good is none of them."""
        return sorted({sample.defect for sample in self.samples} - {GOOD})


def fits_text_files(name: str) -> bool:
    """No line breaks or other control characters, and no bytes that are no UTF-8."""
    return not any(unicodedata.category(char) in ("Cc", "Cs") for char in name)


def is_good(name: str) -> bool:
    """Is this what people call the folder of images without a defect: good, Good, OK, normal?"""
    return name.lower() in _GOOD_NAMES


def is_clutter(name: str) -> bool:
    """Is a file or folder of this name hidden (``.ipynb_checkpoints``), or left by an operating system or file server?

    No reader and no importer looks at these.
    """
    return name.startswith(".") or name.lower() in _CLUTTER


def folders(path: Path) -> list[Path]:
    """Folders in a folder, in order, without clutter. None where the folder does not exist."""
    return _entries(path, os.DirEntry.is_dir)


def files(path: Path) -> list[Path]:
    """Files of a folder in order, without clutter. None where the folder does not exist."""
    return _entries(path, os.DirEntry.is_file)


def _entries(path: Path, wanted: "Callable[[os.DirEntry[str]], bool]") -> list[Path]:
    if not path.is_dir():
        return []
    with os.scandir(path) as entries:
        return sorted(path / entry.name for entry in entries if not is_clutter(entry.name) and wanted(entry))


def files_below(path: Path) -> list[Path]:
    """Files of a folder and of the folders in it, in order, without clutter; links that lead back are not followed."""
    above = {parent.resolve() for parent in (path, *path.parents)}
    inside = (folder for folder in folders(path) if not folder.is_symlink() or folder.resolve() not in above)
    return sorted([*files(path), *(file for folder in inside for file in files_below(folder))])


def looks_like_image(path: Path) -> bool:
    """By its name alone."""
    return path.suffix.lower() in (*SUFFIXES, *OTHER_SUFFIXES)


def is_note(path: Path) -> bool:
    """Is this text or a document, by its name, such as people leave beside their images?"""
    return path.suffix.lower() in NOTES


def hidden_images(folder: Path) -> list[Aside]:
    """Images below a folder that are clutter, or lie in it, or are links that lead nowhere."""
    found = []
    for place, _, names in os.walk(folder):
        inside = Path(place).relative_to(folder)
        hidden = any(map(is_clutter, inside.parts))
        for path in (inside / name for name in names if looks_like_image(Path(name))):
            if hidden or is_clutter(path.name):
                found.append(Aside(path.as_posix(), HIDDEN))
            elif (folder / path).is_symlink() and not (folder / path).exists():
                found.append(Aside(path.as_posix(), DEAD))
    return found


def mask_files(mask: Path) -> list[Path]:
    """The files of a mask: itself, or those of the folder that it is."""
    return files(mask) if mask.is_dir() else [mask]
