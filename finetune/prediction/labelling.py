"""Answers as labels to correct: a COCO file that CVAT and Label Studio open, and `converters.from_coco` brings back."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from converters.cli.terminal import to_json
from converters.formats.coco import annotation, polygons
from converters.masks.instances import Mask, find_instances
from finetune.measures.masks import decode
from finetune.runs.answers import Answer

FILE = "pre-labels.json"
PIECES = ("images", "annotations")


class LabelFile:
    """The COCO file of a folder, written image by image: what is found is never all in memory."""

    def __init__(self, folder: Path, classes: Sequence[str]) -> None:
        self.path, self.classes, self.count = folder / FILE, classes, 0
        self.streams = {kind: (folder / f".{kind}").open("w+", encoding="utf-8") for kind in PIECES}

    def add(self, number: int, name: str, size: tuple[int, int], masks: Sequence[tuple[int, Mask]]) -> None:
        """An image of ``size`` (width, height), and its defects: category id and mask, H x W."""
        self._write("images", {"id": number, "file_name": name, "width": size[0], "height": size[1]})
        for category, mask in masks:
            for instance in find_instances(mask):
                self.count += 1
                label = annotation(instance, category, polygons(instance))
                self._write("annotations", {"id": self.count, "image_id": number, **label})

    def _write(self, kind: str, entry: dict[str, Any]) -> None:
        stream = self.streams[kind]
        stream.write((",\n" if stream.tell() else "\n") + json.dumps(entry, ensure_ascii=False))

    def close(self) -> None:
        """Join what was written."""
        names = [{"id": index, "name": name, "supercategory": "defect"} for index, name in enumerate(self.classes, 1)]
        head = to_json({"info": {"description": "predicted, to be corrected"}, "licenses": [], "categories": names})
        with self.path.open("w", encoding="utf-8") as file:
            file.write(head.rstrip().removesuffix("}").rstrip())
            for kind, stream in self.streams.items():
                file.write(f',\n  "{kind}": [')
                stream.seek(0)
                while text := stream.read(1 << 20):
                    file.write(text)
                stream.close()
                Path(stream.name).unlink()
                file.write("\n  ]")
            file.write("\n}\n")


def masks_of(
    answer: Answer, shown: Sequence[dict[str, Any]], level: float | None, size: tuple[int, int]
) -> list[tuple[int, Mask]]:
    """Category ids and masks (H x W; ``size`` is width, height) of the detections shown, the surest first.

    What has no mask is the heat map at its ``level`` or, without a map, its box. A pixel belongs to the surest.
    """
    width, height = size
    free = np.ones((height, width), bool)
    masks: list[tuple[int, Mask]] = []
    if shown and answer.heat is not None and level is not None and "segmentation" not in shown[0]:
        return [(shown[0]["category_id"], np.asarray(answer.heat >= level, np.uint8))]
    for found in sorted(shown, key=lambda each: -each["score"]):
        if "segmentation" in found:
            mask = decode(found["segmentation"], height, width) > 0
        else:
            x, y, w, h = found["bbox"]
            mask = np.zeros((height, width), bool)
            mask[max(0, round(y)) : max(0, round(y + h)), max(0, round(x)) : max(0, round(x + w))] = True
        masks.append((found["category_id"], np.asarray(mask & free, np.uint8)))
        free &= ~mask
    return masks
