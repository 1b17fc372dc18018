"""Labels in a COCO file become a plain folder of images and masks.

Format: https://cocodataset.org/#format-data. Polygons and run lengths are decoded by pycocotools; a person's file may
hold anything, so they are checked first, since pycocotools is C that trusts its input.
"""

import json
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import click

from converters.cli.errors import DatasetError

if TYPE_CHECKING:
    from converters.masks.instances import Mask


LONGEST_OUTLINE = 10_000_000  # px; pycocotools walks along polygons in steps of a fifth of that


def read_coco(path: Path) -> dict[str, Any]:
    """The file as JSON with its three lists; raises DatasetError naming what is missing."""
    try:
        data = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: is no JSON ({error})") from None
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror}: name the JSON file of the labels") from None
    for name in ("images", "annotations", "categories"):
        entries = data.get(name) if isinstance(data, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise DatasetError(f"{path}: has no list of objects {name!r}: is it a COCO file of instances?")
    return data


def labelled_files(path: Path, images: Path) -> list[Any]:
    """Every image that the file lists, with its labels; raises DatasetError for entries that lead nowhere."""
    from converters.importing.mask_folder import LabelledFile, flat_name

    data = read_coco(path)
    names = {_id(path, entry): str(entry.get("name")) for entry in data["categories"]}
    by_image = defaultdict(list)
    for annotation in data["annotations"]:
        by_image[_id(path, annotation, "image_id")].append(annotation)
        if _id(path, annotation, "category_id") not in names:
            raise DatasetError(f"{path}: annotation {annotation.get('id')} has a category_id that is not in categories")
    files = {}
    for entry in data["images"]:
        name = str(entry.get("file_name")).replace("\\", "/")
        if not entry.get("file_name") or PurePosixPath(name).is_absolute() or ".." in name.split("/"):
            raise DatasetError(f"{path}: the image name {name!a} leads out of --images")
        size = entry.get("width"), entry.get("height")
        key = _id(path, entry)
        if key in files:
            raise DatasetError(f"{path}: two images have the id {key}")
        decode = partial(_decode_all, by_image.pop(key, []), names, size)
        files[key] = LabelledFile(images / name, flat_name(name), decode)
    if by_image:
        orphan = next(iter(by_image.values()))[0]
        raise DatasetError(f"{path}: annotation {orphan.get('id')} belongs to no image of the file")
    return list(files.values())


def _id(path: Path, entry: dict[str, Any], name: str = "id") -> int | str:
    if not isinstance(entry.get(name), int | str):
        raise DatasetError(f"{path}: an entry has no {name}: {ascii(entry)[:60]}")
    return entry[name]


def _decode_all(
    annotations: list[dict[str, Any]], names: dict[Any, str], size: tuple[Any, Any], width: int, height: int
) -> Iterator[tuple[str, "Mask"]]:
    if any(size) and size != (width, height):
        raise DatasetError(f"is {width} x {height} px, its entry says {size[0]} x {size[1]}: was it resized?")
    for annotation in annotations:
        try:
            yield names[annotation["category_id"]], decode(annotation.get("segmentation"), width, height)
        except DatasetError as error:
            raise DatasetError(f"its annotation {annotation.get('id')} {error.message}") from None


def decode(segmentation: Any, width: int, height: int) -> "Mask":
    """H x W of 0 and 1 from polygons, uncompressed or compressed run lengths; raises DatasetError for anything else."""
    from pycocotools import mask as coco_mask

    if not segmentation:
        raise DatasetError("has no outline: a box alone makes no mask")
    if isinstance(segmentation, list):
        for polygon in segmentation:
            _check_polygon(polygon, width, height)
        return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width)))
    if not isinstance(segmentation, dict) or segmentation.get("size") != [height, width]:
        raise DatasetError(f"has a segmentation that is neither polygons nor run lengths of {height} x {width} px")
    counts = segmentation.get("counts")
    if isinstance(counts, str):
        counts = run_lengths(counts)
    if not isinstance(counts, list) or not all(type(count) is int and count >= 0 for count in counts):
        raise DatasetError("has run lengths that are no whole numbers")
    if sum(counts) != width * height:
        raise DatasetError(f"has run lengths that add up to {sum(counts)} instead of {width * height} pixels")
    return coco_mask.decode(coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width))


def _check_polygon(polygon: Any, width: int, height: int) -> None:
    """Raise DatasetError unless a polygon is a list x1, y1, x2, y2, ... of three or more points near the image."""
    if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
        raise DatasetError("has a polygon that is no list of three or more points x, y")
    for at, value in enumerate(polygon):
        side = (width, height)[at % 2]
        if not isinstance(value, int | float) or not -side <= value <= 2 * side:
            raise DatasetError(f"has a polygon with the coordinate {str(value)[:20]}, far outside the image")
    steps = (abs(a - b) for a, b in zip(polygon, polygon[2:], strict=False))
    if sum(steps) > LONGEST_OUTLINE:
        raise DatasetError(f"has an outline longer than {LONGEST_OUTLINE} px: use run lengths")


def run_lengths(text: str) -> list[int]:
    """COCO's compressed run lengths as numbers.

    Characters carry 5 bits each, lowest first, bit 5 says that another follows, bit 4 of the last is the sign;
    from the third run on, the difference to the run before the last is stored (cocoapi, common/maskApi.c).
    """
    counts: list[int] = []
    value = shift = 0
    for char in text:
        bits = ord(char) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise DatasetError(f"has compressed run lengths with the character {char!a}")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = shift = 0
    if shift:
        raise DatasetError("has compressed run lengths that are cut short")
    return counts


def import_coco(
    file: Path, images: Path, to: Path, mixed: str, touching: str, on_error: str, max_pixels: int, overwrite: bool
) -> None:
    """Write the labels of a COCO file as a folder of images and masks."""
    from converters.importing.mask_folder import Rules, report, unlisted, write_folder

    files = labelled_files(file, images)
    tally = write_folder(files, to, Rules(mixed, touching, on_error), max_pixels, overwrite)
    if more := len(unlisted(images, [*(labelled.path for labelled in files), file])):
        click.echo(f"not in {file.name}: {more} files of {images}", err=True)
    report(tally, to)
