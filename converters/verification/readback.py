"""Reading written datasets back as their users will: with other people's readers.

COCO by pycocotools, YOLO by ultralytics' own dataset loader (where it is not installed, by the rule that loader
follows), PNG masks by Pillow, VOC by an XML parser and Pillow. ``verify`` holds what comes back against the masks.
"""

import contextlib
import io
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from defusedxml.ElementTree import parse
from numpy.typing import NDArray
from PIL import Image
from pycocotools.coco import COCO

from converters.cli.door import Checked, check, read_json, read_yaml
from converters.cli.errors import DatasetError
from converters.formats.writer import LabelledImage
from converters.masks.instances import Instance
from converters.masks.polygons import filled_with_lines
from converters.sources.samples import CALIBRATION, PARTS

YOLO_TOLERANCE = 0.02  # px: text with 8 decimals, read as float32
VOC_SETS = ("Main", "Segmentation")


class About(Checked):
    """What a format tells of its dataset: in ``dataset.json`` of VOC, and as follows."""

    split_sha256: str


class CocoAbout(Checked):
    """In each file of annotations."""

    info: About


class YoloAbout(About):
    """In ``data.yaml``."""

    names: dict[int, str]


class MasksAbout(About):
    """In ``classes.json``, the background among the classes."""

    classes: dict[str, str]


@dataclass(frozen=True)
class Found:
    """One instance as a reader returns it: class index, xyxy in pixels (or None), its pixels (or None)."""

    class_index: int
    box: NDArray[np.float64] | None
    pixels: Instance | None


class Reader(ABC):
    """One format of a dataset, read by somebody else's code."""

    name: str
    tolerance = 0.0  # px, for boxes
    exact = True  # must masks be identical?
    has_masks = True
    has_boxes = True
    holds_calibration = False

    def __init__(self, folder: Path, classes: Sequence[str]) -> None:
        self.folder, self.classes = folder, list(classes)

    @abstractmethod
    def split_hash(self) -> str:
        """The hash of the split that the format says it was made from."""

    def check_classes(self, file: str, names: Iterable[str]) -> None:
        if list(names) != self.classes:
            raise DatasetError(f"{self.folder / file}: its classes are not the dataset's")

    def image_path(self, image: LabelledImage) -> Path:
        return self.folder / "images" / image.part / image.name

    def image_files(self, part: str) -> set[str]:
        """File names of the images that lie in a part's folder."""
        return {path.name for path in (self.folder / "images" / part).iterdir()}

    def members(self, part: str) -> set[str]:
        """File names of the images that the format counts to a part."""
        return self.image_files(part)

    @abstractmethod
    def load(self, image: LabelledImage) -> Iterator[Found]:
        """The instances of one image, in the order in which they were written.

        One after the other: all masks of a large image with many instances do not fit into memory.
        """


class CocoReader(Reader):
    name = "pycocotools"
    holds_calibration = True

    def __init__(self, folder: Path, classes: Sequence[str]) -> None:
        super().__init__(folder, classes)
        with contextlib.redirect_stdout(io.StringIO()):
            files = {part: self.annotation_file(part) for part in (*PARTS, CALIBRATION)}
            self.parts = {part: COCO(file) for part, file in files.items() if part in PARTS or file.is_file()}
        self.ids = {entry["file_name"]: entry["id"] for coco in self.parts.values() for entry in coco.imgs.values()}

    def annotation_file(self, part: str) -> Path:
        return self.folder / "annotations" / f"instances_{part}.json"

    def split_hash(self) -> str:
        hashes = {check(coco.dataset, CocoAbout, part).info.split_sha256 for part, coco in self.parts.items()}
        return hashes.pop() if len(hashes) == 1 else "the parts disagree"

    def members(self, part: str) -> set[str]:
        listed = {entry["file_name"] for entry in self.parts[part].imgs.values()}
        return listed if listed == self.image_files(part) else set()

    def load(self, image: LabelledImage) -> Iterator[Found]:
        coco = self.parts[image.part]
        for entry, truth in zip(coco.imgToAnns[self.ids[image.name]], image.instances, strict=True):
            x, y, width, height = entry["bbox"]
            name = coco.cats[entry["category_id"]]["name"]
            # down the columns, as pycocotools stores it: transposed it needs no copy
            pixels = Instance.of(coco.annToMask(entry).T) if entry["area"] == truth.area else None
            if pixels is not None:
                pixels = Instance(pixels.y0, pixels.x0, pixels.mask.T, pixels.area)
            yield Found(self.classes.index(name), np.array([x, y, x + width, y + height], float), pixels)


class RoboflowReader(CocoReader):
    """In the folders that RF-DETR, SAM 3 and Roboflow look for, where annotations lie beside the images."""

    holds_calibration = False

    def annotation_file(self, part: str) -> Path:
        return self.folder / {"val": "valid"}.get(part, part) / "_annotations.coco.json"

    def image_path(self, image: LabelledImage) -> Path:
        return self.annotation_file(image.part).with_name(image.name)

    def image_files(self, part: str) -> set[str]:
        annotations = self.annotation_file(part)
        return {path.name for path in annotations.parent.iterdir()} - {annotations.name}


class YoloReader(Reader):
    """The rule of ultralytics' loader: boxes from the outermost vertices, masks by fillPoly of 1000 points."""

    name = "fillPoly"
    tolerance = YOLO_TOLERANCE
    has_masks = False

    def split_hash(self) -> str:
        about = read_yaml(self.folder / "data.yaml", YoloAbout)
        self.check_classes("data.yaml", about.names.values())
        return about.split_sha256

    def members(self, part: str) -> set[str]:
        stems = {Path(name).stem for name in super().members(part)}
        labels = {path.stem for path in (self.folder / "labels" / part).iterdir()}
        return super().members(part) if stems == labels else set()

    def load(self, image: LabelledImage) -> Iterator[Found]:
        width, height = image.width, image.height
        for row in _rows(self.folder / "labels" / image.part / f"{image.stem}.txt"):
            class_index, numbers = int(row[0]), np.array(row[1:], np.float32)
            if not self.has_masks:
                cx, cy, w, h = numbers.astype(float) * (width, height, width, height)
                yield Found(class_index, np.array([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]), None)
                continue
            points = numbers.reshape(-1, 2) * np.array((width, height), np.float32)
            box = np.concatenate([points.min(axis=0), points.max(axis=0)]).astype(float)
            yield Found(class_index, box, Instance.of(filled_with_lines([points], (height, width))))


class YoloSegReader(YoloReader):
    has_masks = True


class YoloObbReader(YoloReader):
    """Rotated boxes: the box around a rectangle's corners says nothing, so what counts is that it fits tightly."""

    name = "corners"

    def load(self, image: LabelledImage) -> Iterator[Found]:
        size = np.array((image.width, image.height), np.float32)
        rows = _rows(self.folder / "labels" / image.part / f"{image.stem}.txt")
        for row, instance in zip(rows, image.instances, strict=True):
            corners = np.array(row[1:], np.float32).reshape(4, 2) * size
            x0, y0, x1, y1 = instance.xyxy
            ys, xs = np.nonzero(instance.mask)
            pixels = np.concatenate([np.stack([xs + dx, ys + dy], axis=1) for dx in (0, 1) for dy in (0, 1)])
            outside = max(
                -cv2.pointPolygonTest(corners, (float(x + x0), float(y + y0)), True)
                for x, y in cv2.convexHull(pixels.astype(np.int32)).reshape(-1, 2)
            )
            smallest = cv2.minAreaRect((pixels + np.array([x0, y0])).astype(np.float32))
            inside = bool((cv2.boxPoints(smallest) >= 0).all() and (cv2.boxPoints(smallest) <= size).all())
            area = smallest[1][0] * smallest[1][1] if inside else (x1 - x0) * (y1 - y0)  # else: the bounding box
            tight = cv2.contourArea(corners) <= area * 1.001 + 0.1
            fits = outside <= self.tolerance and tight
            yield Found(int(row[0]), np.array(instance.xyxy, float) if fits else np.zeros(4), None)


class MasksReader(Reader):
    name = "Pillow"
    has_boxes = False
    holds_calibration = True

    def split_hash(self) -> str:
        about = read_json(self.folder / "classes.json", MasksAbout)
        self.check_classes("classes.json", list(about.classes.values())[1:])
        return about.split_sha256

    def members(self, part: str) -> set[str]:
        names = super().members(part)
        stems = {Path(name).stem for name in names}
        masks = [{path.stem for path in (self.folder / kind / part).iterdir()} for kind in ("semantic", "instance")]
        return names if masks == [stems, stems] else set()

    def load(self, image: LabelledImage) -> Iterator[Found]:
        name = f"{image.part}/{image.stem}.png"
        return _from_maps(_pixels(self.folder / "semantic" / name), _pixels(self.folder / "instance" / name))


class VocReader(Reader):
    name = "defusedxml, Pillow"

    def split_hash(self) -> str:
        return read_json(self.folder / "dataset.json", About).split_sha256

    def image_path(self, image: LabelledImage) -> Path:
        return self.folder / "JPEGImages" / image.name

    def members(self, part: str) -> set[str]:
        sets = [(self.folder / "ImageSets" / kind / f"{part}.txt").read_text("utf-8") for kind in VOC_SETS]
        by_stem = {path.stem: path.name for path in (self.folder / "JPEGImages").iterdir()}
        return {by_stem.get(stem, stem) for stem in sets[0].splitlines()} if sets[0] == sets[1] else set()

    @cache  # noqa: B019 - a reader lives as long as its dataset is verified
    def _shows(self, class_name: str, part: str) -> set[str]:
        """Stems of the images that ``ImageSets/Main/CLASS_PART.txt`` says show the class."""
        text = (self.folder / "ImageSets" / "Main" / f"{class_name}_{part}.txt").read_text("utf-8")
        return {line.rpartition(" ")[0].rstrip() for line in text.splitlines() if line.endswith(" 1")}

    def load(self, image: LabelledImage) -> Iterator[Found]:
        root = parse(self.folder / "Annotations" / f"{image.stem}.xml").getroot()
        if root.findtext("filename") != image.name:
            raise ValueError(f"its XML names the image {root.findtext('filename')}")
        found = _from_maps(
            _pixels(self.folder / "SegmentationClass" / f"{image.stem}.png"),
            _pixels(self.folder / "SegmentationObject" / f"{image.stem}.png"),
        )
        listed = [index for index, name in enumerate(self.classes) if image.stem in self._shows(name, image.part)]
        if listed != ([] if image.class_index is None else [image.class_index]):
            raise ValueError(
                f"ImageSets/Main lists it under {', '.join(self.classes[i] for i in listed) or 'no class'}"
            )
        for entry, seen in zip(root.iter("object"), found, strict=True):
            x0, y0, x1, y1 = (int(entry.findtext(f"bndbox/{tag}")) for tag in ("xmin", "ymin", "xmax", "ymax"))
            index = self.classes.index(entry.findtext("name"))
            pixels = seen.pixels if seen.class_index == index else None
            yield Found(index, np.array([x0 - 1, y0 - 1, x1, y1], float), pixels)


def _from_maps(classes: NDArray[Any], instances: NDArray[Any]) -> Iterator[Found]:
    """Of two H x W maps; none where one has foreground that the other has not."""
    if ((classes > 0) != (instances > 0)).any():
        return
    rows = _rows_of_ids(instances)
    for number in range(1, int(instances.max(initial=0)) + 1):
        top, bottom = rows.get(number, (0, 1))
        found = Instance.of((instances[top:bottom] == number).view(np.uint8))
        pixels = Instance(found.x0, found.y0 + top, found.mask, found.area)
        x0, y0, x1, y1 = pixels.xyxy
        values = np.unique(classes[y0:y1, x0:x1][pixels.mask > 0])
        yield Found(int(values[0]) - 1 if len(values) == 1 else -1, None, pixels)


def _rows_of_ids(instances: NDArray[Any]) -> dict[int, tuple[int, int]]:
    """Id -> its first row and the one behind its last, in one pass over the map instead of one for each id."""
    rows: dict[int, tuple[int, int]] = {}
    for y in np.flatnonzero(instances.any(axis=1)).tolist():
        row = instances[y]
        changes = np.concatenate([row[:1], row[1:][row[1:] != row[:-1]]])
        for number in set(changes.tolist()) - {0}:
            rows[number] = rows.get(number, (y, y))[0], y + 1
    return rows


def _pixels(path: Path) -> NDArray[Any]:
    with Image.open(path) as image:
        return np.asarray(image)


def as_array(values: Any) -> NDArray[np.float64]:
    return np.array([float(value) for value in values])


def _rows(path: Path) -> list[list[str]]:
    return [line.split() for line in path.read_text("utf-8").splitlines()]
