"""From a mask file to a mask of 0 and 1."""

from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from converters.cli.errors import DatasetError
from converters.masks.instances import Instance, InstanceRule, Mask, find_instances
from converters.sources.image_files import check_size, opened, orientation
from converters.sources.samples import Sample, mask_files

Grey = NDArray[Any]  # H x W, uint8 or uint16
VOID = 255  # of a palette mask: VOC's "ignore"
_NO_GREY = "save it as 8-bit grey with 0 for good and 255 for defect"


class ReadMask(NamedTuple):
    """A mask file's content: the mask, its bounding xywh, and counts of odd pixels."""

    mask: Mask
    xywh: tuple[int, int, int, int]
    in_between: int  # neither 0 nor the maximum
    ignored: int = 0


def mask_of(sample: Sample) -> ReadMask:
    """The mask of a sample that has one: of several files the union, their odd pixels counted together.

    Raises DatasetError naming the file, also for a mask that is empty.
    """
    assert sample.mask is not None, f"{sample.key} is a good image"
    size = sample.width, sample.height
    first, *others = [read_mask(file, size, sample.any_value) for file in mask_files(sample.mask)]
    for other in others:
        united = first.mask | other.mask
        x, y, width, height = cv2.boundingRect(united)
        first = ReadMask(
            united, (x, y, width, height), first.in_between + other.in_between, first.ignored + other.ignored
        )
    if not first.xywh[2]:
        raise DatasetError(f"{sample.mask}: the mask is empty, but its image counts as {sample.defect}")
    return first


def read_mask(path: Path, size: tuple[int, int] | None = None, any_value: bool = False) -> ReadMask:
    """Read a mask file as H x W of 0 and 1; ``size`` is the (width, height) that its image has.

    Foreground is what lies above half of the value range: > 127 of 8 bit, > 32767 of 16 bit. Masks of 0 and
    1 are taken as they are. A palette is read by the grey of its colours or, where these are no greys, as
    "index 0 is black, everything else is foreground"; 255 beside other indices is VOC's void, to be ignored, and
    counted. Other colours, transparency and several pages in one file are refused.
    With ``any_value`` all values above 0 are foreground, and none of them is in between.

    Raises DatasetError naming the file.
    """
    try:
        data = path.read_bytes()
        values, ignored = (_decode_grey_png(data, size), 0) if _is_grey_png(data) else _decode_other(data, size)
        return _binarise(np.minimum(values, 1) if any_value else values)._replace(ignored=ignored)
    except DatasetError as error:
        raise DatasetError(f"{path}: the mask {error}") from None
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror or error}") from None


def _is_grey_png(data: bytes) -> bool:
    """A PNG of bit depth 8 and colour type 0 without EXIF or transparency: what cv2 decodes without interpreting it."""
    return (
        data[:8] == b"\x89PNG\r\n\x1a\n" and data[24:26] == b"\x08\x00" and b"eXIf" not in data and b"tRNS" not in data
    )


def _decode_grey_png(data: bytes, size: tuple[int, int] | None) -> Grey:
    if size is not None:
        check_size((int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")), size)
    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    if values is None:
        raise DatasetError("is damaged or cut short: copy or download it again")
    return values


def _decode_other(data: bytes, size: tuple[int, int] | None) -> tuple[Grey, int]:
    """The grey values, and how many pixels are to be ignored."""
    with opened(data) as image:
        if size is not None:
            check_size(image.size, size)
        if getattr(image, "n_frames", 1) > 1:
            raise DatasetError("holds several pages, and a mask is one: save their union, or one mask an image")
        image.load()
        return _grey_values(image)


def _grey_values(image: Image.Image) -> tuple[Grey, int]:
    """H x W of grey values, by what the file's mode means, and how many pixels are to be ignored."""
    if orientation(image) != 1:
        raise DatasetError("carries an EXIF rotation: save it upright")
    if "transparency" in image.info or image.mode in ("LA", "PA", "RGBA"):
        if image.convert("RGBA").getchannel("A").getextrema() != (255, 255):
            raise DatasetError(f"is transparent in places: {_NO_GREY}")
        image = image.convert("RGB") if image.mode in ("RGBA", "P", "PA") else image.convert("L")
    if image.mode in ("1", "L"):
        return np.asarray(image.convert("L")), 0
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.uint16), 0
    if image.mode not in ("P", "RGB"):
        raise DatasetError(f"has the mode {image.mode}: {_NO_GREY}")
    colours = np.asarray(image.convert("RGB"))
    if (colours == colours[..., :1]).all():
        return colours[..., 0], 0
    if image.mode == "P" and (image.getpalette() or [])[:3] == [0, 0, 0]:
        indices = np.asarray(image)
        defect, void = (indices > 0) & (indices < VOID), indices == VOID
        if not defect.any():  # two values, as a mask has
            return np.where(void, np.uint8(255), np.uint8(0)), 0
        return np.where(defect, np.uint8(255), np.uint8(0)), int(np.count_nonzero(void))
    raise DatasetError(f"has colours: {_NO_GREY}")


def _binarise(values: Grey) -> ReadMask:
    """0 and 1 from grey values; only the rectangle that holds all values above 0 is looked at twice."""
    x, y, width, height = _bounding_xywh(values if values.dtype == np.uint8 else (values > 0).view(np.uint8))
    mask = values if values.dtype == np.uint8 else np.zeros(values.shape, np.uint8)
    if width == 0:
        return ReadMask(mask, (0, 0, 0, 0), 0)
    crop = values[y : y + height, x : x + width]
    maximum = int(crop.max())
    threshold = 0 if maximum == 1 else np.iinfo(values.dtype).max // 2
    if maximum <= threshold:
        raise DatasetError(f"has values up to {maximum} only, all below the threshold: {_NO_GREY}")
    in_between = cv2.countNonZero(crop) - int(np.count_nonzero(crop == maximum))
    binary = (crop > threshold).view(np.uint8)
    mask = mask if mask.flags.writeable else mask.copy()
    mask[y : y + height, x : x + width] = binary
    if not in_between:
        return ReadMask(mask, (x, y, width, height), 0)
    inner = cv2.boundingRect(binary)
    return ReadMask(mask, (x + inner[0], y + inner[1], inner[2], inner[3]), in_between)


def _bounding_xywh(values: NDArray[np.uint8]) -> tuple[int, int, int, int]:
    """cv2.boundingRect, which takes four times as long to pass over empty rows as summing them does."""
    rows = np.flatnonzero(cv2.reduce(values, 1, cv2.REDUCE_SUM, dtype=cv2.CV_32S))
    if rows.size == 0:
        return 0, 0, 0, 0
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    x, _, width, height = cv2.boundingRect(values[top:bottom])
    return x, top, width, height


def instances_of(sample: Sample, rule: InstanceRule = InstanceRule()) -> tuple[list[Instance], int, int]:
    """Instances of a sample, and how many of its mask's pixels are neither 0 nor the maximum, and to be ignored.

    Raises DatasetError if the mask cannot be used, or is empty.
    """
    if sample.mask is None:
        return [], 0, 0
    read = mask_of(sample)
    return find_instances(read.mask, rule, read.xywh), read.in_between, read.ignored
