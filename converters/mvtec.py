"""Reading the MVTec AD layout: ``ROOT/CATEGORY/{train/good, test/DEFECT, ground_truth/DEFECT}``.

Layout: Bergmann et al., "MVTec AD - A Comprehensive Real-World Dataset for Unsupervised Anomaly Detection",
CVPR 2019. An image ``test/DEFECT/000.png`` has the mask ``ground_truth/DEFECT/000_mask.png``.
"""

import hashlib
import io
import json
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converters.errors import DatasetError
from converters.options import progress

if TYPE_CHECKING:
    from PIL import ImageFile

GOOD = "good"
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
DEFAULT_ROOT = Path("data/mvtec_anomaly_detection")
SYNTHETIC = "synthetic.json"  # lies in every category folder that `converters.sample` writes
_CLUTTER = ("Thumbs.db", "desktop.ini")
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF")
_NO_TEXT = "this name holds characters that text files cannot: rename it"
_CHANNELS = {"L": 1, "RGB": 3}
_ORIENTATION = 0x0112  # EXIF tag


@dataclass(frozen=True)
class Sample:
    """One image and, where it shows a defect, its mask.

    ``key`` is the image's POSIX path inside its category folder. It names the image everywhere.
    ``digest`` is the SHA-256 of the image file and, if there is one, of the mask file.
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

    @property
    def origin(self) -> str:
        """``train`` or ``test``: the folder that the image lies in, which is not its part of the split."""
        return self.key.split("/", 1)[0]


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

    @property
    def defects(self) -> list[str]:
        """Defect types in alphabetical order; good is none of them."""
        return sorted({sample.defect for sample in self.samples} - {GOOD})


def find_root(root: Path | None) -> Path:
    """The folder to read: ``--root``, else ``$MVTEC_ROOT``, else ``data/mvtec_anomaly_detection``."""
    found = root or Path(os.environ.get("MVTEC_ROOT") or DEFAULT_ROOT)
    if not found.is_dir():
        raise DatasetError(
            f"{found}: no such folder. Name your data with --root DIR (or $MVTEC_ROOT), get MVTec AD with "
            "`python -m converters.download`, or make a sample with `python -m converters.sample`"
        )
    return found


def find_categories(root: Path, wanted: str | None) -> list[Path]:
    """The category folders that ``--category`` asks for; a root that is a category itself is the only one."""
    folders = [root.resolve()] if _is_category(root) else [path for path in _folders(root) if _is_category(path)]
    if not folders:
        raise DatasetError(f"{root}: no folder in it holds train/ and test/; name the right one with --root")
    if wanted == "all" or (wanted is None and len(folders) == 1):
        return folders
    names = ", ".join(path.name for path in folders)
    if wanted is None:
        raise DatasetError(f"{root} holds several categories: add --category with one of {names}, or all")
    chosen = [path for path in folders if path.name == wanted]
    if not chosen:
        raise DatasetError(f"{root} has no category {wanted!r}; it holds {names}")
    return chosen


def read_category(folder: Path, max_pixels: int = 256_000_000) -> Category:
    """Read one category folder; images are identified, hashed and checked for truncation, not decoded.

    Raises DatasetError if the folder is no category. What is wrong with single files is in ``problems``.
    """
    if not _is_category(folder):
        raise DatasetError(f"{folder}: a category needs the folders train/ and test/")
    if not _fits_text_files(folder.name):
        raise DatasetError(f"{folder.name!a}: {_NO_TEXT}")
    for path in _folders(folder / "train"):
        if path.name != GOOD:
            raise DatasetError(f"{path}: train/ may hold good images only; move defects to test/{path.name}")
    listed = sorted(_list_images(folder), key=lambda pair: pair[0].relative_to(folder).as_posix())
    if not listed:
        raise DatasetError(f"{folder}: no images in train/good or test/*")
    with ThreadPoolExecutor() as pool:
        results = pool.map(lambda pair: _read_sample(folder, pair[0], pair[1], max_pixels), listed)
        with progress(results, len(listed), f"reading {folder.name}") as bar:
            outcomes = list(bar)
    return Category(
        name=folder.name,
        folder=folder,
        samples=[outcome for outcome in outcomes if isinstance(outcome, Sample)],
        problems=[outcome for outcome in outcomes if isinstance(outcome, Problem)] + _orphans(folder, listed),
        synthetic=_is_synthetic(folder),
    )


def _fits_text_files(name: str) -> bool:
    """No line breaks or other control characters, and no bytes that are no UTF-8."""
    return not any(unicodedata.category(char) in ("Cc", "Cs") for char in name)


def _is_category(folder: Path) -> bool:
    return (folder / "train").is_dir() and (folder / "test").is_dir()


def _is_synthetic(folder: Path) -> bool:
    marker = folder / SYNTHETIC
    try:
        return marker.is_file() and json.loads(marker.read_text("utf-8")).get("generator") == "converters.sample"
    except (ValueError, AttributeError):
        raise DatasetError(f"{marker}: is no JSON object that `converters.sample` wrote: remove it") from None


def _folders(path: Path) -> list[Path]:
    return sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _files(path: Path) -> list[Path]:
    """Files of a folder in order, without what operating systems leave in it."""
    if not path.is_dir():
        return []
    entries = (entry for entry in path.iterdir() if not entry.name.startswith(".") and entry.name not in _CLUTTER)
    return sorted(entry for entry in entries if entry.is_file())


def _list_images(folder: Path) -> Iterator[tuple[Path, list[Path] | None]]:
    """Each image file with the masks that bear its name (None for good images)."""
    for image in _files(folder / "train" / GOOD):
        yield image, None
    for defect in _folders(folder / "test"):
        masks: dict[str, list[Path]] = {}
        for mask in _files(folder / "ground_truth" / defect.name):
            masks.setdefault(_stem_of_mask(mask), []).append(mask)
        for image in _files(defect):
            yield image, None if defect.name == GOOD else masks.get(image.stem, [])


def _stem_of_mask(mask: Path) -> str:
    return mask.stem.removesuffix("_mask")


def _orphans(folder: Path, listed: Iterable[tuple[Path, list[Path] | None]]) -> list[Problem]:
    used = {mask for _, masks in listed for mask in masks or ()}
    masks = [mask for defect in _folders_if_any(folder / "ground_truth") for mask in _files(defect)]
    reason = "this mask has no image in test/: is the download complete?"
    names = [mask.relative_to(folder).as_posix() for mask in masks if mask not in used]
    return [Problem(name if _fits_text_files(name) else ascii(name), reason) for name in names]


def _folders_if_any(path: Path) -> list[Path]:
    return _folders(path) if path.is_dir() else []


def _read_sample(folder: Path, image: Path, masks: list[Path] | None, max_pixels: int) -> Sample | Problem:
    key = image.relative_to(folder).as_posix()
    if not _fits_text_files(key):
        return Problem(ascii(key), _NO_TEXT)
    try:
        data = image.read_bytes()
        width, height, channels = identify(data, image.suffix, max_pixels)
        mask = None if masks is None else _only_mask(image, masks)
        mask_digest = "" if mask is None else _hash_mask(mask, width, height)
        return Sample(
            category=folder.name,
            key=key,
            image=image,
            mask=mask,
            defect=image.parent.name,
            width=width,
            height=height,
            channels=channels,
            size=len(data),
            image_digest=hashlib.sha256(data).hexdigest(),
            mask_digest=mask_digest,
        )
    except (DatasetError, OSError) as error:
        return Problem(key, getattr(error, "strerror", None) or str(error))


def _only_mask(image: Path, masks: list[Path]) -> Path:
    if not masks:
        wanted = f"ground_truth/{image.parent.name}/{image.stem}_mask.png"
        raise DatasetError(f"has no mask: {wanted} is missing")
    if len(masks) > 1:
        raise DatasetError(f"has several masks ({', '.join(mask.name for mask in masks)}): keep one")
    return masks[0]


def _hash_mask(mask: Path, width: int, height: int) -> str:
    """SHA-256 of a mask file that is whole (what it means is for `instances.read_mask` to say).

    The size is compared before anything is decoded, so that a small file cannot ask for all memory.
    """
    data = mask.read_bytes()
    try:
        with _opened(data) as image:
            if image.size != (width, height):
                raise DatasetError(f"is {image.width} x {image.height} px, its image {width} x {height}")
        _check_whole(data)
    except DatasetError as error:
        raise DatasetError(f"its mask {mask.parent.name}/{mask.name} {error}") from None
    return hashlib.sha256(data).hexdigest()


def identify(data: bytes, suffix: str, max_pixels: int) -> tuple[int, int, int]:
    """Width, height and channels of an image file's bytes, and proof that the file is all there.

    PNG is checked by its chunks' checksums; the other formats carry none and are decoded once.
    Raises DatasetError with the reason alone; the caller knows the file's name.
    """
    if suffix.lower() not in SUFFIXES:
        raise DatasetError(f"{suffix or 'no suffix'} is no supported image type ({', '.join(SUFFIXES)})")
    with _opened(data) as image:
        width, height = image.size
        if width * height > max_pixels:
            raise DatasetError(f"is {width} x {height} px, more than --max-pixels {max_pixels}")
        if image.mode not in _CHANNELS:
            raise DatasetError(f"has the mode {image.mode}; images must be 8-bit grey or RGB: convert it first")
        if ";16" in str(image.tile):  # Pillow calls 48-bit colours RGB as well
            raise DatasetError("has 16 bits per channel; images must be 8-bit grey or RGB: convert it first")
        may_be_rotated = image.format != "PNG" or b"eXIf" in data  # asking a PNG decodes it
        if may_be_rotated and image.getexif().get(_ORIENTATION, 1) != 1:
            raise DatasetError("carries an EXIF rotation, which readers disagree on: save it upright")
        channels = _CHANNELS[image.mode]
    _check_whole(data)
    return width, height, channels


def _check_whole(data: bytes) -> None:
    with _opened(data) as image:
        image.verify() if image.format == "PNG" else image.load()


@contextmanager
def _opened(data: bytes) -> Iterator["ImageFile.ImageFile"]:
    """An image file's header, its pixels not yet decoded; what Pillow raises becomes a DatasetError."""
    from PIL import Image, UnidentifiedImageError

    Image.MAX_IMAGE_PIXELS = None  # `identify` holds --max-pixels against the header instead
    if not data:
        raise DatasetError("is an empty file: copy or download it again")
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            yield image
    except UnidentifiedImageError:
        raise DatasetError(f"is no {', '.join(_FORMATS)} image") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise DatasetError(f"is damaged or cut short ({error}): copy or download it again") from None


def known_counts() -> dict[str, dict[str, Any]]:
    """What the complete MVTec AD holds, per category: images, defect types, regions, side length."""
    text = resources.files("converters").joinpath("mvtec_facts.json").read_text("utf-8")
    return json.loads(text)["categories"]


def missing_images(category: Category) -> list[str]:
    """Folders of an MVTec AD category that hold fewer images than the complete dataset, one line each."""
    known = known_counts().get(category.name)
    if known is None or category.synthetic:
        return []
    expected = {"train/good": known["train_good"], "test/good": known["test_good"]}
    expected |= {f"test/{defect}": count for defect, count in known["defects"].items()}
    found = Counter(sample.key.rsplit("/", 1)[0] for sample in category.samples)
    return [
        f"{category.name}/{folder}: {found[folder]} of {count} images"
        for folder, count in expected.items()
        if found[folder] < count
    ]
