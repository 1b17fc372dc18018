"""COCO: annotations as JSON, polygons or RLE, in the folders of COCO or in those of Roboflow."""

import json
from pathlib import Path
from typing import IO, Any

from converters.formats.writer import DatasetInfo, LabelledImage, Outcome, Planned, Rendered, Writer
from converters.masks.instances import Instance
from converters.masks.polygons import corner_rings, filled_by_parity, simplified
from converters.masks.rle import rle


def polygons(instance: Instance) -> list[list[int]]:
    """COCO polygons ``[x1, y1, x2, y2, ...]``, one for each connected part of the instance."""
    return [ring.ravel().tolist() for ring in corner_rings(instance)]


def simplified_polygons(instance: Instance, tolerance: float) -> tuple[list[list[float]], float]:
    """The same with fewer vertices, and the IoU of what pycocotools will decode with the mask."""
    rings, iou = simplified(instance, tolerance, corner_rings, filled_by_parity)
    return [ring.ravel().tolist() for ring in rings], iou


def annotation(instance: Instance, category_id: int, segmentation: Any) -> dict[str, Any]:
    """One annotation without its ids, which only the main process can count."""
    return {
        "category_id": category_id,
        "bbox": list(instance.xywh),
        "area": instance.area,
        "iscrowd": 0,
        "segmentation": segmentation,
    }


ROBOFLOW_PARTS = {"train": "train", "val": "valid", "test": "test"}  # part -> its folder
ROBOFLOW_FILE = "_annotations.coco.json"  # in each of them, beside the images


class CocoWriter(Writer):
    folder = "coco"
    simplifies = True
    holds_calibration = True
    supercategory = "defect"

    @staticmethod
    def annotation_file(part: str) -> str:
        """The path of a part's annotations in the format's folder."""
        return f"annotations/instances_{part}.json"

    def __init__(self, info: DatasetInfo) -> None:
        super().__init__(info)
        self.annotations = 0

    @property
    def directories(self) -> tuple[str, ...]:
        return ("annotations", *(f"images/{part}" for part in self.parts))

    def render(self, image: LabelledImage) -> Rendered:
        """No files: the record is the image's entry and its annotations' entries, as JSON without their ids."""
        size = image.width, image.height
        entry = {"file_name": image.name, "width": size[0], "height": size[1]}
        category_id = 0 if image.class_index is None else image.class_index + 1
        segments, ious = self.segments(image)
        annotations = [
            _json(annotation(instance, category_id, segment))
            for instance, segment in zip(image.instances, segments, strict=True)
        ]
        return Rendered({}, (_json(entry), annotations), ious)

    def segments(self, image: LabelledImage) -> tuple[list[Any], tuple[float, ...]]:
        """The segmentation of each instance and, where they are simplified, their IoUs with the masks."""
        if not self.info.simplify:
            return [polygons(instance) for instance in image.instances], ()
        found = [simplified_polygons(instance, self.info.simplify) for instance in image.instances]
        return [rings for rings, _ in found], tuple(iou for _, iou in found)

    def start(self, folder: Path) -> None:
        super().start(folder)
        self.streams = {
            (kind, part): self._open(kind, part) for kind in ("images", "annotations") for part in self.parts
        }

    def add(self, outcome: Outcome, record: Any) -> None:
        entry, annotations = record
        self.streams["images", outcome.part].write(f',\n{{"id": {outcome.number}, {entry[1:]}')
        for text in annotations:
            self.annotations += 1
            ids = f'"id": {self.annotations}, "image_id": {outcome.number}'
            self.streams["annotations", outcome.part].write(f",\n{{{ids}, {text[1:]}")

    def finish(self) -> None:
        """Join what was streamed, so that memory never holds a whole annotation file."""
        head = {
            "info": {
                "description": self.info.name,
                "version": "1",
                "split_sha256": self.info.split_sha256,
                "synthetic": self.info.synthetic,
            },
            "licenses": [],
            "categories": [
                {"id": index + 1, "name": name, "supercategory": self.supercategory}
                for index, name in enumerate(self.info.classes)
            ],
        }
        for part in self.parts:
            with (self.root / self.annotation_file(part)).open("w", encoding="utf-8") as target:
                target.write(_json(head)[:-1])
                for kind in ("images", "annotations"):
                    target.write(f', "{kind}": [')
                    self._copy(self.streams[kind, part], target)
                    target.write("\n]")
                target.write("}\n")

    def _open(self, kind: str, part: str) -> IO[str]:
        return (self.root / f".{kind}_{part}").open("w+", encoding="utf-8")

    @staticmethod
    def _copy(stream: IO[str], target: IO[str]) -> None:
        """Append a stream without its first comma, and delete it."""
        stream.seek(0)
        stream.read(1)
        while text := stream.read(1 << 20):
            target.write(text)
        stream.close()
        Path(stream.name).unlink()


class CocoRleWriter(CocoWriter):
    simplifies = False

    def segments(self, image: LabelledImage) -> tuple[list[Any], tuple[float, ...]]:
        return [rle(instance, image.width, image.height) for instance in image.instances], ()


class RoboflowWriter(CocoWriter):
    """The same entries in ``{train,valid,test}/_annotations.coco.json``, each beside its images.

    RF-DETR, SAM 3's configs and Roboflow recognise COCO by these names. Roboflow's own exports begin with a category 0
    that is the parent of all and has no annotation; RF-DETR drops it (``filter_parent_categories``), and SAM 3 would be
    asked for its name in every image. So there is none, ids begin at 1 as in ``coco``, and no category has a parent.
    """

    folder = "coco-roboflow"
    holds_calibration = False
    directories = tuple(ROBOFLOW_PARTS.values())
    supercategory = "none"

    @staticmethod
    def annotation_file(part: str) -> str:
        return f"{ROBOFLOW_PARTS[part]}/{ROBOFLOW_FILE}"

    def image_path(self, image: LabelledImage | Planned) -> str:
        return f"{ROBOFLOW_PARTS[image.part]}/{image.name}"


class RoboflowRleWriter(RoboflowWriter, CocoRleWriter):
    pass


WRITERS = {  # style, segmentation
    ("coco", "polygon"): CocoWriter,
    ("coco", "rle"): CocoRleWriter,
    ("roboflow", "polygon"): RoboflowWriter,
    ("roboflow", "rle"): RoboflowRleWriter,
}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
