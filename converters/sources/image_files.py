"""What an image file and its mask must be like to be taken: they are opened, held against each other and hashed."""

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from converters.cli.errors import DatasetError
from converters.sources.samples import (
    FORMATS,
    GOOD,
    NO_TEXT,
    SUFFIXES,
    Listed,
    Problem,
    Sample,
    fits_text_files,
    mask_files,
)

_CHANNELS = {"L": 1, "RGB": 3}
ORIENTATION = 0x0112  # EXIF tag
TURNED = "turned upright by their EXIF orientation"
OPAQUE = "freed of a channel of opacity that is full everywhere"
SHORTENED = "cut from 16 bits of grey to the upper 8"
FEWEST_LEVELS = 32  # grey levels that the upper 8 bits must span


def read_sample(folder: Path, listed: Listed, max_pixels: int) -> Sample | Problem:
    """Open an image and its mask, check that both are whole and fit each other, and hash them."""
    key = listed.image.relative_to(folder).as_posix()
    if not fits_text_files(key):
        return Problem(ascii(key), NO_TEXT)
    try:
        data = listed.image.read_bytes()
        width, height, channels, remade = identify(data, listed.image.suffix, max_pixels)
        if listed.problem:
            raise DatasetError(listed.problem)
        mask, defect, mask_digest = listed.mask, listed.defect, ""
        if mask is not None:
            contents = [(file, file.read_bytes()) for file in mask_files(mask)]
            _check_mask(contents, width, height, remade)
            if (listed.empty_is_good or defect == GOOD) and all(_is_empty(content) for _, content in contents):
                mask, defect = None, GOOD
            elif defect == GOOD:
                raise DatasetError(f"counts as good, but its mask {mask.parent.name}/{mask.name} shows a defect")
            else:
                digests = [hashlib.sha256(content).hexdigest() for _, content in contents]
                joint = hashlib.sha256("\n".join(digests).encode()).hexdigest()
                mask_digest = joint if mask.is_dir() else digests[0]
        return Sample(
            category=folder.name,
            key=key if not remade else f"{key.removesuffix(listed.image.suffix)}.png",
            image=listed.image,
            mask=mask,
            defect=defect,
            width=width,
            height=height,
            channels=channels,
            size=len(data),
            image_digest=hashlib.sha256(data).hexdigest(),
            mask_digest=mask_digest,
            origin=listed.origin,
            any_value=listed.any_value,
            group=listed.group,
            remade=remade,
        )
    except (DatasetError, OSError) as error:
        return Problem(key, getattr(error, "strerror", None) or str(error))


def _check_mask(contents: list[tuple[Path, bytes]], width: int, height: int, remade: str) -> None:
    """Raise DatasetError if a file of a mask is not whole (what it means is for ``masks.reading`` to say)."""
    for file, data in contents:
        try:
            with opened(data) as image:
                check_size(image.size, (width, height))
            _check_whole(data)
        except DatasetError as error:
            turned = " once turned upright" if TURNED in remade else ""
            raise DatasetError(f"its mask {file.parent.name}/{file.name} {error}{turned}") from None


def check_size(found: tuple[int, int], wanted: tuple[int, int]) -> None:
    """Compare (width, height) of mask and image before decoding, so that a small file cannot ask for all memory."""
    if found != wanted:
        raise DatasetError(f"is {found[0]} x {found[1]} px, its image {wanted[0]} x {wanted[1]}")


def _is_empty(data: bytes) -> bool:
    """Does a mask file that is whole hold nothing but zeros (whatever its opacity)?"""
    with opened(data) as image:
        colours = image.convert("RGB") if "A" in image.getbands() else image
        return colours.getbbox() is None


def identify(data: bytes, suffix: str, max_pixels: int) -> tuple[int, int, int, str]:
    """Width, height and channels of an image file's bytes, what must be changed in it, and proof that it is all there.

    What must be changed (``Sample.remade``) is mostly nothing. PNG is checked by its chunks' checksums; the other
    formats carry none and are decoded once. Raises DatasetError with the reason alone; the caller knows the name.
    """
    if suffix.lower() not in SUFFIXES:
        raise DatasetError(
            f"{suffix or 'no suffix'} is no supported image type ({', '.join(SUFFIXES)}): convert or remove it"
        )
    changes = []
    with opened(data) as image:
        width, height = image.size
        if width * height > max_pixels:
            raise DatasetError(f"is {width} x {height} px, more than --max-pixels {max_pixels}")
        deep = image.mode.startswith("I;16")
        sixteen = ";16" in str(image.tile)  # Pillow calls 48-bit colours RGB as well, and forgets this as it decodes
        opaque = _is_opaque(image)
        if image.mode not in _CHANNELS and not deep and not opaque:
            raise DatasetError(f"has the mode {image.mode}; images must be grey or 8-bit RGB: convert it first")
        if sixteen and not deep:
            raise DatasetError("has 16 bits per channel; images must be grey or 8-bit RGB: convert it first")
        if image.format == "TIFF" and getattr(image, "n_frames", 1) > 1:
            raise DatasetError("holds several pages, and an image is one: save each as a file")
        may_be_rotated = image.format != "PNG" or b"eXIf" in data  # asking a PNG decodes it
        if may_be_rotated and orientation(image) != 1:
            changes.append(TURNED)
            if orientation(image) > 4:
                width, height = height, width
        if opaque:
            changes.append(OPAQUE)
        if deep:
            changes.append(SHORTENED)
            levels = int(np.asarray(image).max()) // 256
            if levels < FEWEST_LEVELS:
                raise DatasetError(
                    f"has 16 bits, but its upper 8, all that trainers read, span {levels + 1} grey levels: "
                    "scale its values up to 65535, for all images alike"
                )
        channels = _CHANNELS.get(image.mode.removesuffix("A"), 1)
    _check_whole(data)
    return width, height, channels, f"images {' and '.join(changes)}, written as PNG" if changes else ""


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 (upright) to 8; also 1 for values that mean none, such as 0, which some cameras write."""
    value = image.getexif().get(ORIENTATION, 1)
    return value if value in range(2, 9) else 1


def decoded(path: Path) -> Image.Image:
    """An image as a conversion takes it: upright, grey or RGB of 8 bits; raises DatasetError."""
    with opened(path.read_bytes()) as image:
        if image.mode.startswith("I;16"):
            upper = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
            grey = Image.fromarray(upper)
            grey.info = image.info
            return ImageOps.exif_transpose(grey)
        upright: Image.Image = ImageOps.exif_transpose(image)
        return upright.convert(upright.mode.removesuffix("A")) if _is_opaque(image) else upright


def _is_opaque(image: Image.Image) -> bool:
    """Has it a channel of opacity that says nothing? Asking decodes such an image."""
    return image.mode in ("RGBA", "LA") and image.getchannel("A").getextrema() == (255, 255)


def _check_whole(data: bytes) -> None:
    with opened(data) as image:
        image.verify() if image.format == "PNG" else image.load()


@contextmanager
def opened(data: bytes) -> Iterator[ImageFile.ImageFile]:
    """An image file's header, its pixels not yet decoded; what Pillow raises, then or later, becomes a DatasetError."""
    Image.MAX_IMAGE_PIXELS = None  # the size is held against --max-pixels, or the image of a mask, instead
    if not data:
        raise DatasetError("is an empty file: copy or download it again")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            yield image
    except (UnidentifiedImageError, ModuleNotFoundError):  # ultralytics patches Pillow to look for pi_heif then
        raise DatasetError(f"is no image that can be read ({', '.join(FORMATS)})") from None
    except (OSError, SyntaxError, ValueError, EOFError, OverflowError) as error:
        raise DatasetError(f"is damaged or cut short ({error}): copy or download it again") from None
