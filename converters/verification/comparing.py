"""A published dataset held against its source masks, through other people's readers (see ``readback``)."""

import dataclasses
import filecmp
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby, zip_longest
from pathlib import Path

import click
import numpy as np
from PIL import Image

from converters.cli.errors import DatasetError
from converters.cli.publishing import recover
from converters.cli.terminal import progress, table, to_json
from converters.datasets import splits, tiles
from converters.datasets.card import Simplification, simplifications
from converters.datasets.origin import source_of
from converters.datasets.pipeline import plan_images
from converters.datasets.records import AGAIN, Record, instance_rule, read_card, read_split
from converters.datasets.synthetic_images import FOLDER, read_synthetic
from converters.formats.writer import LabelledImage
from converters.masks.instances import Instance, InstanceRule, cropped, find_instances
from converters.masks.reading import mask_of
from converters.sources.samples import CALIBRATION, PARTS
from converters.verification.readback import Reader, YoloReader
from converters.verification.readers import readers

WITHOUT_ULTRALYTICS = "ultralytics is not installed: YOLO was read by our own code, after the rule of its loader."
LEAST_IOU, LEAST_MEAN_IOU = 0.99, 0.999  # through ultralytics, which resamples outlines
SAME_IOU = 1e-6  # of simplified outlines, read by the rule that the converters measured by
ROUNDED_IOU = 0.02, 0.002  # the same, least and mean, where vertices come from text and are computed in 32 bits
HEADER = ("format", "reader", "masks", "IoU min", "IoU mean", "exact", "boxes exact", "split")
SHOWN = 5  # differences printed for each format


@dataclass
class Result:
    """The result of comparing one format with the masks."""

    format: str
    reader: str
    ious: list[float] = field(default_factory=list)
    exact: int = 0
    boxes: int = 0
    boxes_exact: int = 0
    split: str = "ok"
    simplified: Simplification | None = None  # what the card says
    rounded: bool = False  # does the reader round vertices?
    differences: list[str] = field(default_factory=list)

    def differ(self, image: LabelledImage, what: str) -> None:
        self.differences.append(f"{self.format}: {image.name}: {what}")

    @property
    def row(self) -> tuple[str, ...]:
        masks = ("-", "-", "-", "-")
        if self.ious:
            mean = sum(self.ious) / len(self.ious)
            masks = (str(len(self.ious)), f"{min(self.ious):.5f}", f"{mean:.5f}", str(self.exact))
        boxes = f"{self.boxes_exact} of {self.boxes}" if self.boxes else "-"
        return self.format, self.reader, *masks, boxes, self.split


def source_images(
    dataset: Path, root: Path | None, split: Record, max_pixels: int = 256_000_000
) -> list[LabelledImage]:
    """The images, or tiles, of a dataset as its sources define them, without instances (see ``with_instances``).

    Raises DatasetError if the sources are gone or have changed since the conversion.
    """
    card = read_card(dataset)
    categories, samples = source_of(dataset, root, split, max_pixels)
    if split.get("base"):
        made = read_synthetic(dataset, categories[0].name, max_pixels)
        if splits.hash_sources(made) != split["base"]["synthetic_images"]:
            raise DatasetError(f"{dataset / FOLDER}: has changed since it was written: make the dataset again")
        samples += made
    left_out = {problem["file"] for problem in card["left_out"]}
    classes = tuple(card["classes"])
    plans = plan_images(samples, split["parts"], classes, card["settings"]["classes"])
    if "tile" in card["settings"]:
        rule = tiles.TileRule(**card["settings"]["tile"])
        path, record = dataset / tiles.RECORD, tiles.as_record(plans, rule, card["dataset"], split["sha256"])
        if not path.is_file() or path.read_text("utf-8") != to_json(record):
            raise DatasetError(f"{path}: does not say where the tiles lie in their images: {AGAIN}")
        plans = tiles.cut(plans, rule)
    return [
        LabelledImage(plan.sample, plan.name, plan.part, plan.class_index, classes, (), plan.crop)
        for plan in plans
        if not {plan.key, plan.sample.key} & left_out
    ]


def with_instances(images: list[LabelledImage], rule: InstanceRule) -> Iterator[LabelledImage]:
    """The same images one by one, each with its instances."""
    for sample, group in groupby(images, key=lambda image: image.sample):
        read = mask_of(sample) if sample.mask else None
        for image in group:
            if read is None:
                yield image
            elif image.crop is None:
                yield dataclasses.replace(image, instances=find_instances(read.mask, rule, read.xywh))
            else:
                found = find_instances(cropped(read.mask, image.crop), rule)
                yield dataclasses.replace(image, instances=found, class_index=image.class_index if found else None)


def check_split(reader: Reader, images: list[LabelledImage], split: Record) -> str:
    """``ok``, or how the format's division into parts differs from ``split.json``."""
    if reader.split_hash() != split["sha256"]:
        return "made from another split"
    held = (*PARTS, CALIBRATION) if reader.holds_calibration and CALIBRATION in split["parts"].values() else PARTS
    for part in held:
        expected = {image.name for image in images if image.part == part}
        if reader.members(part) != expected:
            return f"{part} differs"
    return "ok"


def check_image(result: Result, reader: Reader, image: LabelledImage) -> None:
    """Hold one image, its instances' masks and their boxes against the source; note every difference."""
    if not _same_pixels(image, reader.image_path(image)):
        result.differ(image, "the image file is not the source's")
    masks = Masks(image) if image.instances and reader.has_masks else None
    count, classes = 0, set()
    for truth, found in zip_longest(image.instances, reader.load(image)):
        if found is not None:
            count += 1
            classes.add(found.class_index)
        if truth is not None and found is not None and found.box is not None:
            result.boxes_exact += bool(abs(found.box - truth.xyxy).max() <= reader.tolerance)
        if masks is not None:
            masks.add(truth, None if found is None else found.pixels)
    if count != len(image.instances):
        result.differ(image, f"{count} instances instead of {len(image.instances)}")
    if classes - {image.class_index}:
        result.differ(image, "wrong class")
    if masks is None:
        return
    result.exact += masks.same
    result.ious += masks.ious if result.simplified else [masks.iou]  # as the card counts
    if reader.exact and not masks.same and not result.simplified:
        result.differ(image, f"the masks differ (IoU {masks.iou:.4f})")


class Masks:
    """The masks of one image against what a reader found, instance by instance; of the whole image the two unions."""

    def __init__(self, image: LabelledImage) -> None:
        self.truth, self.found = (np.zeros((image.height, image.width), bool) for _ in range(2))
        self.same = True  # pixel for pixel?
        self.ious: list[float] = []  # of each instance

    def add(self, truth: Instance | None, found: Instance | None) -> None:
        common = 0
        for instance, canvas in ((truth, self.truth), (found, self.found)):
            if instance is not None:
                x0, y0, x1, y1 = instance.xyxy
                canvas[y0:y1, x0:x1] |= instance.mask > 0
        if truth is not None and found is not None:
            common = _common(truth, found)
        areas = sum(instance.area for instance in (truth, found) if instance is not None)
        self.same &= truth is not None and found is not None and areas == 2 * common
        self.ious.append(common / max(areas - common, 1))

    @property
    def iou(self) -> float:
        """IoU of the unions."""
        return float(np.count_nonzero(self.truth & self.found) / np.count_nonzero(self.truth | self.found))


def _common(one: Instance, other: Instance) -> int:
    """The number of pixels that two instances share."""
    x0, y0 = max(one.x0, other.x0), max(one.y0, other.y0)
    x1, y1 = min(one.xyxy[2], other.xyxy[2]), min(one.xyxy[3], other.xyxy[3])
    if x0 >= x1 or y0 >= y1:
        return 0
    parts = [i.mask[y0 - i.y0 : y1 - i.y0, x0 - i.x0 : x1 - i.x0] > 0 for i in (one, other)]
    return int(np.count_nonzero(parts[0] & parts[1]))


def _same_pixels(image: LabelledImage, path: Path) -> bool:
    """Is this file the source's, byte for byte, or a tile (or image made anew) with the pixels that it has there?"""
    if image.crop is None and not image.sample.remade:
        return filecmp.cmp(image.sample.image, path, shallow=False)
    expected = tiles.pixels(image.sample.image, image.crop)
    with Image.open(path, formats=("PNG",)) as tile:
        return (tile.mode, tile.size) == (expected.mode, expected.size) and tile.tobytes() == expected.tobytes()


def verify(dataset: Path, root: Path | None = None, max_pixels: int = 256_000_000) -> list[Result]:
    """Hold every format of a dataset against the source masks."""
    recover(dataset)
    split = read_split(dataset)
    card = read_card(dataset)
    images = source_images(dataset, root, split, max_pixels)
    simplified = simplifications(card)
    opened: list[tuple[Reader, Result]] = []
    for name, reader_type in readers().items():
        if (dataset / name).is_dir():
            reader = _open(reader_type, dataset / name, card["classes"])
            result = Result(name, reader.name, simplified=simplified.get(name), rounded=reader.tolerance > 0)
            try:
                result.split = check_split(reader, images, split)
            except (DatasetError, ValueError) as error:
                result.split = f"cannot be read back ({error})"
            opened.append((reader, result))
    if not opened:
        raise DatasetError(f"{dataset}: holds none of the formats {', '.join(readers())}")
    with progress(with_instances(images, instance_rule(card)), len(images), f"verifying {dataset.name}") as bar:
        for image in bar:
            for reader, result in opened:
                if image.part == CALIBRATION and not reader.holds_calibration:
                    continue
                result.boxes += len(image.instances) if reader.has_boxes else 0
                _guarded(result, reader, image)
    return [result for _, result in opened]


def _open(reader_type: type[Reader], folder: Path, classes: list[str]) -> Reader:
    try:
        return reader_type(folder, classes)
    except (OSError, ValueError, KeyError) as error:
        raise DatasetError(f"{folder}: cannot be read back ({error}): convert again with --overwrite") from None


def _guarded(result: Result, reader: Reader, image: LabelledImage) -> None:
    """Count what readers raise on a damaged dataset as a difference, not a crash.

    An ImportError is one, too: once ultralytics is imported, Pillow asks for a HEIF plugin when it knows no file.
    """
    try:
        check_image(result, reader, image)
    except (OSError, ValueError, KeyError, IndexError, SyntaxError, ImportError) as error:
        result.differ(image, f"cannot be read back ({type(error).__name__}: {error})")


def failures(result: Result) -> list[str]:
    """Everything in which a format differs from its sources, one line each."""
    lines = list(result.differences)
    if result.split != "ok":
        lines.append(f"{result.format}: split: {result.split}")
    if result.boxes_exact < result.boxes:
        lines.append(f"{result.format}: {result.boxes - result.boxes_exact} boxes differ")
    if not result.ious:
        return lines
    least, mean = min(result.ious), sum(result.ious) / len(result.ious)
    if said := result.simplified:
        slack = ROUNDED_IOU if result.rounded else (SAME_IOU, SAME_IOU)
        if abs(said.min_iou - least) > slack[0] or abs(said.mean_iou - mean) > slack[1]:
            lines.append(f"{result.format}: IoU with the masks is not the card's ({said})")
    elif least < LEAST_IOU or mean < LEAST_MEAN_IOU:
        lines.append(f"{result.format}: masks differ by more than resampling outlines explains")
    return lines


def agreement(results: list[Result]) -> str:
    """The meaning of no difference: of simplified polygons, no more than that their loss is the stated one."""
    said = {result.format: result.simplified.min_iou for result in results if result.simplified}
    if not said:
        return "All formats agree with the source masks."
    return (
        f"All formats agree with the source masks, but for polygons ({', '.join(said)}): these agree within the "
        f"simplification stated above, with an IoU of {min(said.values()):.4f} or more."
    )


def verify_datasets(datasets: tuple[Path, ...], root: Path | None, max_pixels: int, as_json: bool) -> None:
    """Verify each dataset and print what was found; exits with 1 where something differs."""
    failed: list[str] = []
    report = {}
    for dataset in datasets:
        results = verify(dataset, root, max_pixels)
        found = [line for result in results for line in failures(result)]
        failed += found
        report[dataset.as_posix()] = [dict(zip(HEADER, result.row, strict=True)) for result in results]
        if not as_json:
            click.echo(f"{dataset}\n{table([result.row for result in results], HEADER)}")
            click.echo("".join(f"differs: {line}\n" for line in found[:SHOWN]), nl=False)
            click.echo("".join(f"{r.format}: simplified, {r.simplified}\n" for r in results if r.simplified), nl=False)
            click.echo(f"{len(found)} differences" if found else agreement(results))
        if any(row["reader"] == YoloReader.name for row in report[dataset.as_posix()]):
            click.echo(WITHOUT_ULTRALYTICS, err=True)
    if as_json:
        click.echo(to_json(report), nl=False)
    if failed:
        raise SystemExit(1)
