"""Load a converted dataset with supervision or datumaro, whichever is installed, and hold it against the truth.

Usage: python check.py OUT/DATASET [OUT-RLE/DATASET]   (the second: the same with to_coco --segmentation rle)

Prints one JSON line per format, and one per control: an experiment that says whose a loss is. The truth is read
here, by json and Pillow: boxes from our COCO file, masks from our instance PNGs. See run.sh.
"""

import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

PARTS = ("train", "val", "test")
SQUARE = [2, 2, 6, 2, 6, 6, 2, 6]  # a COCO polygon around 4 x 4 pixels
YOLO_TOLERANCE = 0.02  # px; COCO and VOC boxes are whole numbers, so theirs is 0


class Seen(NamedTuple):
    """What a reader gives of one image: its split (None: it knows none), [(class, xyxy)], [(class, H x W bool)]."""

    stem: str
    part: str | None
    boxes: list[tuple[str, np.ndarray]]
    masks: list[tuple[str, np.ndarray]]


class Truth(NamedTuple):
    part: str
    boxes: list[tuple[str, np.ndarray]]
    masks: list[tuple[str, np.ndarray]]


def read_truth(dataset: Path) -> dict[str, Truth]:
    """{image stem: Truth}; the n-th annotation of an image is id n of its instance mask."""
    truths = {}
    for part in PARTS:
        coco = json.loads((dataset / f"coco/annotations/instances_{part}.json").read_text("utf-8"))
        names = {entry["id"]: entry["name"] for entry in coco["categories"]}
        boxes = defaultdict(list)
        for entry in coco["annotations"]:
            x, y, width, height = entry["bbox"]
            box = np.array([x, y, x + width, y + height], float)
            boxes[entry["image_id"]].append((names[entry["category_id"]], box))
        for entry in coco["images"]:
            stem, own = Path(entry["file_name"]).stem, boxes[entry["id"]]
            with Image.open(dataset / f"masks/instance/{part}/{stem}.png") as image:
                ids = np.asarray(image).astype(int)
            assert ids.max() == len(own), stem
            masks = [(name, ids == number) for number, (name, _) in enumerate(own, 1)]
            truths[stem] = Truth(part, own, masks)
    return truths


def has_hole(mask: np.ndarray) -> bool:
    padded = Image.fromarray(np.pad(mask, 1).astype(np.uint8)).copy()  # a writable one
    ImageDraw.floodfill(padded, (0, 0), 1)
    return not np.asarray(padded).all()


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.count_nonzero(a & b) / np.count_nonzero(a | b))


def compare(truths: dict[str, Truth], images: Iterable[Seen], tolerance: float) -> dict[str, Any]:
    """Counts per split, boxes that are there with their class, and each true mask's best IoU within its class."""
    images = list(images)
    found = {image.stem: image for image in images}
    one_part = all(image.part is None for image in images)
    counts: dict[str, dict[str, int]] = {}
    for what, each in (("images", lambda _: 1), ("annotations", lambda image: len(image.boxes))):
        counts[what] = {part: sum(each(i) for i in images if i.part == part) for part in (PARTS, (None,))[one_part]}
        counts[f"{what}_true"] = {part: sum(each(t) for t in truths.values() if t.part == part) for part in PARTS}
        if one_part:
            counts[what] = {"all": counts[what][None]}
            counts[f"{what}_true"] = {"all": sum(counts[f"{what}_true"].values())}
    exact, ious, holed = 0, [], []
    for stem, truth in truths.items():
        seen = found.get(stem, Seen(stem, None, [], []))
        for name, box in truth.boxes:
            exact += any(name == other and abs(box - at).max() <= tolerance for other, at in seen.boxes)
        for name, mask in truth.masks:
            ious.append(max((iou(mask, other) for label, other in seen.masks if label == name), default=0.0))
            holed += [ious[-1]] if has_hole(mask) else []
    result = {**counts, "boxes_exact": exact, "boxes": sum(len(truth.boxes) for truth in truths.values())}
    result["wrong_split"] = sum(i.part not in (None, truths[i.stem].part) for i in images)
    if any(image.masks for image in images):
        result |= {"iou_mean": np.mean(ious), "iou_min": min(ious), "masks_exact": ious.count(1.0), "masks": len(ious)}
        result |= {"holed": len(holed), "holed_iou_mean": np.mean(holed) if holed else None}
    return result


def supervision_images(load: Callable[[str], Any], parts: Iterable[str | None] = PARTS) -> Iterator[Seen]:
    for part in parts:
        data = load(part)
        for path, _, found in data:
            names = [data.classes[index] for index in found.class_id]
            masks = [] if found.mask is None else list(zip(names, found.mask, strict=True))
            yield Seen(Path(path).stem, part, list(zip(names, found.xyxy.astype(float), strict=True)), masks)


def supervision_formats(dataset: Path, rle: Path | None) -> Iterator[tuple[str, str, Any, float]]:
    from supervision import DetectionDataset

    def coco(folder: Path) -> Iterator[Seen]:
        return supervision_images(
            lambda part: DetectionDataset.from_coco(
                str(folder / "coco/images" / part), str(folder / f"coco/annotations/instances_{part}.json")
            )
        )

    def yolo(folder: Path, **settings: bool) -> Iterator[Seen]:
        return supervision_images(
            lambda part: DetectionDataset.from_yolo(
                str(folder / "images" / part), str(folder / "labels" / part), str(folder / "data.yaml"), **settings
            )
        )

    def voc(folder: Path) -> Iterator[Seen]:
        folders = str(folder / "JPEGImages"), str(folder / "Annotations")
        return supervision_images(lambda _: DetectionDataset.from_pascal_voc(*folders), [None])

    yield "coco", "from_coco", lambda: coco(dataset), 0
    if rle:
        yield "coco, RLE", "from_coco", lambda: coco(rle), 0
    yield "yolo", "from_yolo", lambda: yolo(dataset / "yolo"), YOLO_TOLERANCE
    yield "yolo-seg", "from_yolo", lambda: yolo(dataset / "yolo-seg"), YOLO_TOLERANCE
    yield "voc", "from_pascal_voc", lambda: voc(dataset / "voc"), 0


def supervision_controls(dataset: Path, truths: dict[str, Truth]) -> Iterator[tuple[str, Any]]:
    """A square without our polygons, and our YOLO rows truncated as ultralytics does, both painted by supervision."""
    from supervision import polygon_to_mask

    yield "square", int(polygon_to_mask(np.array(SQUARE).reshape(4, 2), (10, 10)).sum())
    ious = []
    for stem, truth in truths.items():
        rows = (dataset / f"yolo-seg/labels/{truth.part}/{stem}.txt").read_text().splitlines()
        for row, (_, mask) in zip(rows, truth.masks, strict=True):
            points = np.array(row.split()[1:], np.float32).reshape(-1, 2) * np.array(mask.shape[::-1], np.float32)
            ious.append(iou(mask, polygon_to_mask(points.astype(int), mask.shape[::-1]).astype(bool)))
    yield "truncated", ious.count(1.0)


def datumaro_images(path: Path, name: str, **settings: Any) -> Iterator[Seen]:
    from datumaro import AnnotationType, Dataset

    data = Dataset.import_from(str(path), name, **settings)
    labels = data.categories()[AnnotationType.label]
    for item in data:
        by_type = defaultdict(list)
        for found in item.annotations:
            by_type[found.type].append((labels[found.label].name, found))
        boxes = [(label, np.array(found.points, float)) for label, found in by_type[AnnotationType.bbox]]
        masks = [(label, np.asarray(found.image).astype(bool)) for label, found in by_type[AnnotationType.mask]]
        yield Seen(item.id, item.subset, boxes, masks)


def datumaro_formats(dataset: Path, rle: Path | None) -> Iterator[tuple[str, str, Any, float]]:
    merged = {"merge_instance_polygons": True}  # polygons come as masks then, painted by datumaro

    def load(path: Path, name: str, **settings: Any) -> Callable[[], Iterator[Seen]]:
        return lambda: datumaro_images(path, name, **settings)

    yield "coco", "coco_instances", load(dataset / "coco", "coco_instances", **merged), 0
    if rle:
        yield "coco, RLE", "coco_instances", load(rle / "coco", "coco_instances"), 0
    yield "yolo", "yolo", load(dataset / "yolo", "yolo"), YOLO_TOLERANCE
    yield "yolo-seg", "yolo", load(dataset / "yolo-seg", "yolo"), YOLO_TOLERANCE
    yield "voc", "voc", load(dataset / "voc", "voc"), 0
    how = "voc, coordinate_mode=voc-one-based"
    yield "voc", how, load(dataset / "voc", "voc", coordinate_mode="voc-one-based"), 0


def datumaro_controls(dataset: Path, truths: dict[str, Truth]) -> Iterator[tuple[str, Any]]:
    """The same square, and two datasets that are not ours: one image with a box, one with a triangle."""
    from datumaro.util.mask_tools import rles_to_mask

    yield "square", int(rles_to_mask([SQUARE], 10, 10).sum())
    for name, row in (("box", "0 0.5 0.5 0.2 0.2"), ("triangle", "0 0.1 0.1 0.9 0.1 0.5 0.9")):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            for kind in ("images", "labels"):
                (root / kind / "train").mkdir(parents=True)
            Image.new("L", (20, 20)).save(root / "images/train/a.png")
            (root / "labels/train/a.txt").write_text(f"{row}\n")
            (root / "data.yaml").write_text("train: images/train\nnames: {0: thing}\n")
            try:
                yield name, len(list(datumaro_images(root, "yolo")))
            except Exception as error:
                yield name, type(error).__name__


def main(dataset: Path, rle: Path | None = None) -> None:
    reader = next(name for name in ("supervision", "datumaro") if find_spec(name))
    formats, controls = globals()[f"{reader}_formats"], globals()[f"{reader}_controls"]
    truths = read_truth(dataset)
    about = {"reader": reader, "version": version(reader)}
    for name, how, load, tolerance in formats(dataset, rle):
        try:
            result = compare(truths, load(), tolerance)
        except Exception as error:
            causes = [error]
            while causes[-1].__cause__:
                causes.append(causes[-1].__cause__)
            result = {"error": ": ".join(filter(None, [type(causes[-1]).__name__, str(causes[-1])]))}
        print(json.dumps({**about, "format": name, "how": how, **result}))
    for name, value in controls(dataset, truths):
        print(json.dumps({**about, "control": name, "value": value}))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
