"""Predictions of a run, read back: one set for each kind of prompt."""

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from converters.cli.door import read_json
from converters.cli.errors import DatasetError
from finetune.measures.heat_levels import to_values
from finetune.measures.masks import TOP
from finetune.runs.dataset import Dataset
from finetune.runs.records import Result, SetRecord

RESULTS_FORMAT = "COCO's results format is needed: whole numbers as ids, scores in 0..1, boxes of x, y, width, height"


def image_scores(
    names: Iterable[str], ids: Mapping[str, int], classes: int, detections: Iterable[Mapping[str, Any]]
) -> dict[str, list[float]]:
    """Scores of images from their detections: the surest one of any class, and of each class; 0 without one."""
    by_id = {ids[name]: [0.0] * (classes + 1) for name in names}
    for found in detections:
        scores = by_id[found["image_id"]]
        for column in (0, found["category_id"]):
            scores[column] = max(scores[column], found["score"])
    return {name: by_id[ids[name]] for name in names}


def box_fault(boxes: Sequence[tuple[Any, ...]], images: Iterable[Mapping[str, Any]]) -> str:
    """What gives boxes (image_id, then four numbers) away as none of x, y, width, height in pixels; else nothing.

    Corners are what reaches far out of an image as x + width does, and fits every image as x2; other boxes may reach
    out a little. Corners that all lie in the upper left can't be told.
    """
    sides = {image["id"]: (image["width"], image["height"]) for image in images}
    if wrong := [box for box in boxes if min(box[3:]) < 0]:
        return f"a box of image_id {wrong[0][0]} has a width or height below 0"
    if 0 < max(max(box[1:]) for box in boxes) <= 1:
        return "its boxes are fractions, from 0 to 1"
    limits = [[side * 1.01 + 2 for side in sides[box[0]]] for box in boxes]
    pairs = [(box, limit) for box, limit in zip(boxes, limits, strict=True)]
    outside = [box for box, (right, low) in pairs if box[1] + box[3] > right or box[2] + box[4] > low]
    corners = all(x < x2 <= right and y < y2 <= low for (_, x, y, x2, y2), (right, low) in pairs)
    if outside and corners:
        return f"its boxes look like corners, x1, y1, x2, y2 (that of image_id {outside[0][0]} would leave the image)"
    return ""


@dataclass(frozen=True)
class PredictionSet:
    """A model's answers to one kind of prompt: a folder ``predictions/SET/``, or one COCO results file for test."""

    source: Path
    more_classes: int = 0  # that only synthetic images have; what is found of them names no type, and is left out

    @property
    def name(self) -> str:
        return self.source.stem if self.source.is_file() else self.source.name

    @cached_property
    def about(self) -> dict[str, Any]:
        """``set.json``; empty where there is none, as with someone else's predictions."""
        path = self.source / "set.json"
        return dict(read_json(path, SetRecord)) if path.is_file() else {}

    def has(self, part: str) -> bool:
        return any(path.exists() for path in (self._results(part), self._scores(part), self._heatmaps(part)))

    def has_results(self, part: str) -> bool:
        return self._results(part).is_file()

    def detections(self, dataset: Dataset, part: str) -> list[dict[str, Any]] | None:
        """COCO results of a part; None where there is no file.

        Raises DatasetError for an image of another part, an unknown class, or an entry that lacks something.
        """
        path = self._results(part)
        if not path.is_file():
            return None
        ids = {dataset.image_ids[name] for name in dataset.images(part)}
        found: list[Any] = read_json(path, list[Result], RESULTS_FORMAT)
        for entry in found:
            if entry["image_id"] not in ids:
                raise DatasetError(
                    f"{path}: image_id {entry['image_id']} is not in {part} of {dataset.folder}: "
                    "were these predictions made for another split?"
                )
            if not 1 <= entry["category_id"] <= len(dataset.classes) + self.more_classes:
                raise DatasetError(
                    f"{path}: category_id {entry['category_id']} is none of 1 to {len(dataset.classes)} "
                    f"({', '.join(dataset.classes)})"
                )
        boxes = [(entry["image_id"], *entry["bbox"]) for entry in found if "bbox" in entry]
        if boxes and (fault := box_fault(boxes, dataset.ground_truth(part)["images"])):
            raise DatasetError(f"{path}: {fault}: {RESULTS_FORMAT}, in pixels")
        return [entry for entry in found if entry["category_id"] <= len(dataset.classes)]

    def scores(self, dataset: Dataset, part: str) -> dict[str, list[float]] | None:
        """Image name -> its defect score and one a class (NaN where the model tells no classes); None without file."""
        path = self._scores(part)
        if not path.is_file():
            return None
        image, defect = "/image", "/defect"  # a class may be called so too, but for the slash
        try:
            with path.open(newline="", encoding="utf-8") as file:
                header = next(csv.reader(file), [])
                for column in {image[1:], defect[1:]} & set(header):
                    header[header.index(column)] = f"/{column}"
                rows = {row[image]: row for row in csv.DictReader(file, header) if row.get(image)}
        except (ValueError, csv.Error) as error:
            raise DatasetError(f"{path}: is no CSV table in UTF-8 ({error})") from None
        absent = [name for name in dataset.images(part) if name not in rows]
        if absent:
            raise DatasetError(f"{path}: no row for {absent[0]} ({len(absent)} of {part}'s images are absent)")
        columns = (defect, *dataset.classes)
        try:
            found = {
                name: [float(rows[name].get(column) or "nan") for column in columns] for name in dataset.images(part)
            }
        except ValueError as error:
            raise DatasetError(f"{path}: {error}: scores are numbers") from None
        unknown = [name for name, values in found.items() if not math.isfinite(values[0])]
        if unknown:
            raise DatasetError(f"{path}: {unknown[0]} has no defect score")
        return found

    def decisions(self, dataset: Dataset, part: str) -> NDArray[np.int64] | None:
        """What the model itself decided of each image: 0 is good, else the index of its class + 1; None without file.

        A class that only synthetic images have is C + 1.
        """
        path = self.source / f"{part}_decisions.csv"
        if not path.is_file():
            return None
        names = {name: index for index, name in enumerate(["good", *dataset.classes])}
        try:
            with path.open(newline="", encoding="utf-8") as file:
                told = {row["image"]: row["decision"] for row in csv.DictReader(file)}
            if self.more_classes:
                names |= {name: len(names) for name in told.values() if name not in names}
            return np.array([names[told[name]] for name in dataset.images(part)], np.int64)
        except (ValueError, KeyError, csv.Error) as error:
            raise DatasetError(
                f"{path}: what is {error}? Each image of {part} needs a row `image,decision`, and a decision is one of "
                f"{', '.join(names)}"
            ) from None

    def heatmap(self, part: str, image: str) -> Any:
        """An image's anomaly map, H x W uint16 on the set's one scale; None where the set has none for this part."""
        folder = self._heatmaps(part)
        if not folder.is_dir():
            return None
        path = folder / f"{Path(image).stem}.png"
        heat = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        if heat is None or heat.ndim != 2 or heat.dtype.name != "uint16":
            raise DatasetError(f"{path}: is no readable 16-bit grey PNG; each image of {part} needs one")
        return heat

    def strength(self, levels: NDArray[np.uint16]) -> NDArray[Any]:
        """How defective each pixel of a map is, 0..1, for the eye: 0.5 is a usual peak of a good image."""
        if "heatmap_middle" not in self.about:  # another program's, on a scale of its own
            return levels.astype(np.float32) / TOP
        values = to_values(levels)
        return values / (1 + values)

    def _results(self, part: str) -> Path:
        if self.source.is_file():
            return self.source if part == "test" else self.source / part  # a lone file speaks for test
        return self.source / f"{part}.json"

    def _scores(self, part: str) -> Path:
        return self.source / f"{part}_scores.csv"

    def _heatmaps(self, part: str) -> Path:
        return self.source / f"{part}_heatmaps"
