"""Other people's converters, each as its documentation has it, for ``benchmarks/peers.py``, in their own environment.

    python benchmarks/peer_converters.py NAME MASKS OUT

MASKS holds PNGs of 0 and 1, one an image, of one class. Instances are the 8-connected components, where a library
asks for instances. Nothing of this project is imported.
"""

import sys
from pathlib import Path

import cv2
import numpy as np


def components(mask: np.ndarray) -> np.ndarray:
    """N x H x W of bool."""
    count, labels = cv2.connectedComponents(mask, connectivity=8)
    return np.stack([labels == number for number in range(1, count)])


def ultralytics_yolo(masks: Path, out: Path) -> None:
    from ultralytics.data.converter import convert_segment_masks_to_yolo_seg

    convert_segment_masks_to_yolo_seg(str(masks), str(out), classes=1)


def _supervision(masks: Path):
    import supervision

    annotations = {}
    for path in sorted(masks.iterdir()):
        found = components(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE))
        boxes = supervision.mask_to_xyxy(found)
        annotations[str(path)] = supervision.Detections(boxes, found, class_id=np.zeros(len(found), int))
    return supervision.DetectionDataset(["defect"], list(annotations), annotations)


def supervision_yolo(masks: Path, out: Path) -> None:
    _supervision(masks).as_yolo(annotations_directory_path=str(out))


def supervision_coco(masks: Path, out: Path) -> None:
    _supervision(masks).as_coco(annotations_path=str(out / "coco.json"))


def datumaro_coco(masks: Path, out: Path) -> None:
    import datumaro

    items = []
    for path in sorted(masks.iterdir()):
        found = components(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE))
        labels = [datumaro.Mask(image=mask, label=0) for mask in found]  # without ids of its own it numbers them
        items.append(datumaro.DatasetItem(path.stem, media=datumaro.Image.from_file(str(path)), annotations=labels))
    dataset = datumaro.Dataset.from_iterable(items, categories=["defect"], media_type=datumaro.Image)
    dataset.transform("masks_to_polygons")
    dataset.export(str(out), "coco_instances")


if __name__ == "__main__":
    Path(sys.argv[3]).mkdir(parents=True)
    globals()[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
