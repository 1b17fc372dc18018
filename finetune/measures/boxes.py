"""Measures of boxes, equal to pycocotools' where all images count once; ``weights`` as in ``scores``."""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from finetune.measures.scores import Floats, mean_known

SIZES = {"all": (0, 1e10), "small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 1e10)}  # COCO's, square px
LEAST_CELLS = 32  # a side of the map that boxes are made of: perfect 8 x 8 maps reach mAP50 0.02 on screw


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
        means = {"mAP50": self.map50, "mAP50-95": self.map, "AR100": _mean(self.ar100)}
        known = {name: None if np.isnan(value) else value for name, value in means.items()}  # JSON knows no NaN
        return {**known, "classes": per_class}


@dataclass(frozen=True)
class ClassMatches:
    """One class's detections, surest first, as pycocotools matched them at T = 10 IoU thresholds."""

    scores: Floats  # D
    image: NDArray[np.int64]  # D, index of the image
    hit: NDArray[np.bool_]  # T x D
    instances: Floats  # N, ground-truth instances in each image


class BoxEvaluation:
    """pycocotools' matching of detections (COCO results) with a COCO ground truth; all measures come from this one.

    Without ``use_classes``, all classes are matched as one. ``sizes`` are keys of SIZES: "all" first, then those that
    ``size_metrics`` is to tell apart.
    """

    def __init__(
        self,
        truth: dict[str, Any],
        detections: Sequence[dict[str, Any]],
        use_classes: bool = True,
        sizes: Sequence[str] = ("all",),
    ) -> None:
        self.truth, self.detections, self.sizes = truth, detections, sizes
        with contextlib.redirect_stdout(io.StringIO()):
            coco = _index(truth)
            found = (
                coco.loadRes([{**entry} for entry in detections])
                if detections
                else _index({**truth, "annotations": []})
            )
            self.coco = COCOeval(coco, found, "bbox")
            self.coco.params.useCats = int(use_classes)
            self.coco.params.areaRng, self.coco.params.areaRngLbl = [SIZES[size] for size in sizes], list(sizes)
            self.coco.params.maxDets = [100]
            self.coco.evaluate()

    @cached_property
    def curves(self) -> tuple[Floats, Floats]:
        """Precision, IoU x recall x class x size, and the highest recall, IoU x class x size; -1 without instances."""
        with contextlib.redirect_stdout(io.StringIO()):
            self.coco.accumulate()
        return self.coco.eval["precision"][..., -1], self.coco.eval["recall"][..., -1]

    @property
    def metrics(self) -> BoxMetrics:
        precision, recall = (values[..., 0] for values in self.curves)
        names = {entry["id"]: entry["name"] for entry in self.truth["categories"]}
        counts = dict.fromkeys(self.coco.params.catIds, 0)
        for entry in self.truth["annotations"]:
            counts[entry["category_id"]] += 1
        return BoxMetrics(
            classes=tuple(names[id_] for id_ in counts),
            instances=tuple(counts.values()),
            ap=_per_class(precision, counts.values()),
            ap50=_per_class(precision[:1], counts.values()),
            ar100=_per_class(recall[:, None], counts.values()),
        )

    def size_metrics(self) -> dict[str, dict[str, float]]:
        """COCO's AP and AR by size of the instance (its area in the ground truth), for the sizes that occur.

        A detection that matches nothing counts where its own box is of that size, as in pycocotools.
        """
        found = {}
        for index, size in enumerate(self.sizes):
            low, high = SIZES[size]
            count = sum(low <= entry["area"] <= high for entry in self.truth["annotations"])
            if size != "all" and count:
                precision, recall = (values[..., index] for values in self.curves)
                found[size] = {
                    "instances": count,
                    "AP50": float(precision[0][precision[0] >= 0].mean()),
                    "AP50-95": float(precision[precision >= 0].mean()),
                    "AR100": float(recall[recall >= 0].mean()),
                }
        return found

    def precision_curves(self) -> dict[str, Floats]:
        """Class with instances -> precision at IoU 0.5, at the recalls 0, 0.01 ... 1; (101,) each."""
        names = {entry["id"]: entry["name"] for entry in self.truth["categories"]}
        curves = self.curves[0][0, :, :, 0].T
        return {names[id_]: curve for id_, curve in zip(self.coco.params.catIds, curves, strict=True) if curve[0] >= 0}

    @cached_property
    def matches(self) -> list[ClassMatches]:
        """The matching class by class; one entry for all classes together without ``use_classes``."""
        positions = {id_: position for position, id_ in enumerate(self.coco.params.imgIds)}
        size, thresholds = len(positions), len(self.coco.params.iouThrs)
        found = []
        for start in range(0, len(self.coco.evalImgs), size * len(self.sizes)):
            entries = [entry for entry in self.coco.evalImgs[start : start + size] if entry]
            instances = np.zeros(size)
            for entry in entries:
                instances[positions[entry["image_id"]]] = len(entry["gtIds"])
            scores = np.concatenate([np.zeros(0), *(entry["dtScores"] for entry in entries)])
            hit = np.concatenate([np.zeros((thresholds, 0)), *(entry["dtMatches"] for entry in entries)], axis=1) > 0
            counts = [len(entry["dtScores"]) for entry in entries]
            image = np.repeat([positions[entry["image_id"]] for entry in entries], counts).astype(np.int64)
            order = np.argsort(-scores, kind="mergesort")
            found.append(ClassMatches(scores[order], image[order], hit[:, order], instances))
        return found


def box_metrics(truth: dict[str, Any], detections: Sequence[dict[str, Any]]) -> BoxMetrics:
    """Average precision of detections (COCO results) against a COCO ground truth, by pycocotools."""
    return BoxEvaluation(truth, detections).metrics


def match_boxes(
    truth: dict[str, Any], detections: Sequence[dict[str, Any]], use_classes: bool = True
) -> list[ClassMatches]:
    """pycocotools' matching, class by class (one list entry for all classes together without ``use_classes``)."""
    return BoxEvaluation(truth, detections, use_classes).matches


def box_precision(matches: Sequence[ClassMatches], weights: NDArray[Any]) -> tuple[Floats, Floats]:
    """Average precision (B x C x T) and recall (B x C x T) of matched boxes; NaN for classes without instances."""
    shape = (len(weights), len(matches), len(matches[0].hit))
    precision, recall = np.full(shape, np.nan), np.full(shape, np.nan)
    for index, match in enumerate(matches):
        hit = match.hit
        last = int(np.flatnonzero(hit.any(axis=0)).max(initial=-1)) + 1  # later false alarms change nothing
        instances = weights @ match.instances
        for row in np.flatnonzero(instances):
            weight = weights[row, match.image[:last]]
            precision[row, index], recall[row, index] = _interpolated(hit[:, :last], weight, instances[row])
    return precision, recall


def _interpolated(hit: NDArray[np.bool_], weight: NDArray[Any], instances: float) -> tuple[Floats, Floats]:
    """pycocotools' precision at 101 recalls, averaged, and its recall, for each of T rows of ``hit``, T x D."""
    if not weight.size:
        return np.zeros(len(hit)), np.zeros(len(hit))
    true = np.cumsum(hit * weight, axis=1)
    total = np.cumsum(weight)
    precision = true / (total + np.spacing(1))
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    recall = true / instances
    steps = np.linspace(0.0, 1.0, 101)
    means = []
    for row, values in zip(recall, envelope, strict=True):
        at = np.searchsorted(row, steps, side="left")
        means.append(values[at[at < len(row)]].sum() / len(steps))
    return np.array(means), recall[:, -1]


def best_box_threshold(matches: Sequence[ClassMatches]) -> float:
    """The score with the best F1 of boxes at IoU 0.5 over all classes. For val, never for test."""
    scores = np.concatenate([match.scores for match in matches])
    hit = np.concatenate([match.hit[0] for match in matches])
    order = np.argsort(-scores, kind="mergesort")
    if not hit.any():
        return float(np.nextafter(scores.max(initial=1.0), np.inf))  # keeps nothing
    true = np.cumsum(hit[order])
    f1 = 2 * true / (np.arange(1, len(order) + 1) + sum(match.instances.sum() for match in matches))
    return float(scores[order][int(np.argmax(f1))])


def counts_at(matches: Sequence[ClassMatches], threshold: float) -> dict[str, float]:
    """Precision, recall and F1 over all classes of boxes with at least a score, at IoU 0.5."""
    kept = sum(int((match.scores >= threshold).sum()) for match in matches)
    true = sum(int(match.hit[0][match.scores >= threshold].sum()) for match in matches)
    instances = sum(float(match.instances.sum()) for match in matches)
    return {
        "precision": true / max(1, kept),
        "recall": true / max(1.0, instances),
        "F1": 2 * true / max(1.0, kept + instances),
    }


def box_confusion(truth: dict[str, Any], detections: Sequence[dict[str, Any]], threshold: float) -> NDArray[np.int64]:
    """Boxes with at least a score, matched at IoU 0.5 whatever their class; (C + 1) x (C + 1), truth by prediction.

    The last row holds false alarms, the last column misses.
    """
    kept = [found for found in detections if found["score"] >= threshold]
    evaluation = BoxEvaluation(truth, kept, use_classes=False).coco
    classes = len(truth["categories"])
    confusion = np.zeros((classes + 1, classes + 1), np.int64)
    truths = {entry["id"]: entry["category_id"] - 1 for entry in truth["annotations"]}
    for entry in evaluation.evalImgs:
        if entry:
            found = {id_: evaluation.cocoDt.anns[id_]["category_id"] - 1 for id_ in entry["dtIds"]}
            matched = dict(zip(entry["dtIds"], entry["dtMatches"][0].astype(int), strict=True))
            for id_, of in matched.items():
                confusion[truths[of] if of else classes, found[id_]] += 1
            for id_ in set(entry["gtIds"]) - set(matched.values()):
                confusion[truths[id_], classes] += 1
    return confusion


def _index(dataset: dict[str, Any]) -> COCO:
    coco = COCO()
    coco.dataset = dataset
    coco.createIndex()
    return coco


def _per_class(values: NDArray[Any], counts: Any) -> tuple[float, ...]:
    """Mean over all axes but the last, for classes that have instances."""
    return tuple(float(values[..., index].mean()) if count else float("nan") for index, count in enumerate(counts))


def _mean(values: Sequence[float]) -> float:
    return float(mean_known(np.array(values, float)))
