"""Measures on saved predictions. No model code, no torch."""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


@dataclass(frozen=True)
class BoxMetrics:
    """COCO average precision of boxes, all in 0..1; NaN for a class without instances in the ground truth.

    Means run over the classes that have instances, as in pycocotools.
    """

    classes: tuple[str, ...]
    instances: tuple[int, ...]
    ap: tuple[float, ...]  # averaged over IoU 0.50:0.05:0.95
    ap50: tuple[float, ...]
    ar100: tuple[float, ...]

    @property
    def map(self) -> float:
        return _mean(self.ap)

    @property
    def map50(self) -> float:
        return _mean(self.ap50)

    def as_dict(self) -> dict[str, Any]:
        per_class = [
            {"class": name, "instances": count, "AP50": ap50, "AP50-95": ap, "AR100": ar}
            for name, count, ap50, ap, ar in zip(
                self.classes, self.instances, self.ap50, self.ap, self.ar100, strict=True
            )
            if count
        ]
        return {"mAP50": self.map50, "mAP50-95": self.map, "AR100": _mean(self.ar100), "classes": per_class}


def box_metrics(truth: dict[str, Any], detections: Sequence[dict[str, Any]]) -> BoxMetrics:
    """Average precision of detections (COCO results) against a COCO ground truth, by pycocotools."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = _index(truth)
        found = (
            coco.loadRes([dict(entry) for entry in detections]) if detections else _index({**truth, "annotations": []})
        )
        evaluation = COCOeval(coco, found, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # IoU x recall x class, all areas, 100 detections
    recall = evaluation.eval["recall"][:, :, 0, -1]
    names = {entry["id"]: entry["name"] for entry in truth["categories"]}
    ids = evaluation.params.catIds
    counts = dict.fromkeys(ids, 0)
    for entry in truth["annotations"]:
        counts[entry["category_id"]] += 1
    return BoxMetrics(
        classes=tuple(names[id_] for id_ in ids),
        instances=tuple(counts[id_] for id_ in ids),
        ap=_per_class(precision, counts.values()),
        ap50=_per_class(precision[:1], counts.values()),
        ar100=_per_class(recall[:, None], counts.values()),
    )


def _index(dataset: dict[str, Any]) -> COCO:
    coco = COCO()
    coco.dataset = dataset
    coco.createIndex()
    return coco


def _per_class(values: np.ndarray, counts: Any) -> tuple[float, ...]:
    """Mean over all axes but the last, for classes that have instances."""
    return tuple(float(values[..., index].mean()) if count else float("nan") for index, count in enumerate(counts))


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")
