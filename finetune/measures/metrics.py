"""Measures on saved predictions. No model code, no torch.

Measures that get an interval take ``weights``, B x N: how often each of N images counts in each of B resamples
(see ``finetune.measures.bootstrap``); a row of ones gives the plain measure, equal to scikit-learn's and pycocotools'.
"""

import contextlib
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

Floats = NDArray[np.float64]
BOUNDARY_RATIOS = (0.02, 0.005)  # of the diagonal; Cheng et al. use 0.02, small defects need the finer one
PRO_LIMITS = (0.3, 0.05)  # false-positive rates up to which the PRO curve is integrated
SIZES = {"all": (0, 1e10), "small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 1e10)}  # COCO's, square px
GOOD_QUANTILE = 0.95  # threshold among good images where val holds no defects


# ---------------------------------------------------------------------------------------------- scores of images


@dataclass(frozen=True)
class Levels:
    """Weight of positives and of negatives at each distinct score, scores ascending; both B x L."""

    positive: Floats
    negative: Floats

    @property
    def at_least(self) -> tuple[Floats, Floats]:
        """True and false positives with the threshold at each score, from the lowest score on; both B x L."""
        return _cumulated(self.positive), _cumulated(self.negative)


def _cumulated(values: NDArray[Any]) -> Floats:
    return np.cumsum(values[:, ::-1], axis=1)[:, ::-1]


def score_levels(labels: NDArray[Any], scores: NDArray[Any], weights: NDArray[Any]) -> Levels:
    """Bring N labels (0 or 1) and N scores to levels; ``weights`` B x N."""
    distinct, index = np.unique(scores, return_inverse=True)
    one_hot = np.zeros((len(scores), len(distinct)))
    one_hot[np.arange(len(scores)), index] = 1
    positive = np.asarray(labels, bool)
    return Levels(weights[:, positive] @ one_hot[positive], weights[:, ~positive] @ one_hot[~positive])


def auroc(levels: Levels) -> Floats:
    """Area under the ROC curve in 0..1, ties counted half; NaN where a side is empty; (B,)."""
    below = np.cumsum(levels.negative, axis=1) - levels.negative
    pairs = (levels.positive * (below + levels.negative / 2)).sum(axis=1)
    return divided(pairs, levels.positive.sum(axis=1) * levels.negative.sum(axis=1))


def average_precision(levels: Levels) -> Floats:
    """Average precision without interpolation, as in scikit-learn; NaN without positives; (B,)."""
    true, false = levels.at_least
    precision = np.divide(true, true + false, out=np.zeros_like(true), where=true > 0)
    return divided((levels.positive * precision).sum(axis=1), levels.positive.sum(axis=1))


def best_threshold(labels: NDArray[Any], scores: NDArray[Any]) -> float:
    """The threshold with the best F1, halfway to the next lower score so that it does not hug the val images.

    Where val holds good images only, their 95 % quantile (few-shot splits). For val, never for test.
    """
    labels = np.asarray(labels, bool)
    if not labels.any():
        return float(np.quantile(scores, GOOD_QUANTILE))
    true, false = (side[0] for side in score_levels(labels, scores, np.ones((1, len(scores)))).at_least)
    best = int(np.argmax(2 * true / (true + false + labels.sum())))
    distinct = np.unique(scores)
    return float(distinct[best] if best == 0 else (distinct[best] + distinct[best - 1]) / 2)


def decisions(true: Floats, false: Floats, missed: Floats, passed: Floats) -> dict[str, Floats]:
    """What counts of images amount to: (B,) each of defects found, false alarms, defects missed, good ones passed."""
    recall, specificity = divided(true, true + missed), divided(passed, passed + false)
    return {
        "f1": divided(2 * true, 2 * true + false + missed),
        "balanced_accuracy": (recall + specificity) / 2,
        "false_alarms": 100 * divided(false, false + passed),
    }


def macro_f1(confusion: Floats) -> Floats:
    """Mean F1 over the classes that occur; ``confusion`` B x (1 + C) x (1 + C), truth by prediction, 0 is good.

    Good is no class of its own here: a defect that passes as good is a miss, a good image called defective a
    false alarm of that class.
    """
    true = np.diagonal(confusion, axis1=1, axis2=2)[:, 1:]
    present = confusion.sum(axis=2)[:, 1:]
    f1 = divided(2 * true, present + confusion.sum(axis=1)[:, 1:])
    return mean_known(np.where(present > 0, f1, np.nan))


# --------------------------------------------------------------------------------------------------------- boxes


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


def size_metrics(truth: dict[str, Any], detections: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """COCO's AP and AR by size of the instance (its area in the ground truth), for the sizes that occur.

    A detection that matches nothing counts where its own box is of that size, as in pycocotools.
    """
    evaluation = _evaluate(truth, detections, use_classes=True, sizes=tuple(SIZES))
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.accumulate()
    found = {}
    for index, (size, (low, high)) in enumerate(SIZES.items()):
        count = sum(low <= entry["area"] <= high for entry in truth["annotations"])
        if size != "all" and count:
            precision = evaluation.eval["precision"][:, :, :, index, -1]  # IoU x recall x class; -1: no instance
            recall = evaluation.eval["recall"][:, :, index, -1]
            found[size] = {
                "instances": count,
                "AP50": float(precision[0][precision[0] >= 0].mean()),
                "AP50-95": float(precision[precision >= 0].mean()),
                "AR100": float(recall[recall >= 0].mean()),
            }
    return found


@dataclass(frozen=True)
class ClassMatches:
    """One class's detections, surest first, as pycocotools matched them at T = 10 IoU thresholds."""

    scores: Floats  # D
    image: NDArray[np.int64]  # D, index of the image
    hit: NDArray[np.bool_]  # T x D
    instances: Floats  # N, ground-truth instances in each image


def box_metrics(truth: dict[str, Any], detections: Sequence[dict[str, Any]]) -> BoxMetrics:
    """Average precision of detections (COCO results) against a COCO ground truth, by pycocotools."""
    evaluation = _evaluate(truth, detections, use_classes=True)
    with contextlib.redirect_stdout(io.StringIO()):
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


def match_boxes(
    truth: dict[str, Any], detections: Sequence[dict[str, Any]], use_classes: bool = True
) -> list[ClassMatches]:
    """pycocotools' matching, class by class (one list entry for all classes together without ``use_classes``)."""
    evaluation = _evaluate(truth, detections, use_classes)
    positions = {id_: position for position, id_ in enumerate(evaluation.params.imgIds)}
    size = len(positions)
    found = []
    for start in range(0, len(evaluation.evalImgs), size):
        entries = [entry for entry in evaluation.evalImgs[start : start + size] if entry]
        instances = np.zeros(size)
        for entry in entries:
            instances[positions[entry["image_id"]]] = len(entry["gtIds"])
        thresholds = len(evaluation.params.iouThrs)
        scores = np.concatenate([np.zeros(0), *(entry["dtScores"] for entry in entries)])
        hit = np.concatenate([np.zeros((thresholds, 0)), *(entry["dtMatches"] for entry in entries)], axis=1) > 0
        counts = [len(entry["dtScores"]) for entry in entries]
        image = np.repeat([positions[entry["image_id"]] for entry in entries], counts).astype(np.int64)
        order = np.argsort(-scores, kind="mergesort")
        found.append(ClassMatches(scores[order], image[order], hit[:, order], instances))
    return found


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


def precision_curves(truth: dict[str, Any], detections: Sequence[dict[str, Any]]) -> dict[str, Floats]:
    """Class with instances -> pycocotools' precision at IoU 0.5, at the recalls 0, 0.01 ... 1; (101,) each."""
    evaluation = _evaluate(truth, detections, use_classes=True)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.accumulate()
    names = {entry["id"]: entry["name"] for entry in truth["categories"]}
    curves = evaluation.eval["precision"][0, :, :, 0, -1].T
    return {names[id_]: curve for id_, curve in zip(evaluation.params.catIds, curves, strict=True) if curve[0] >= 0}


def box_confusion(truth: dict[str, Any], detections: Sequence[dict[str, Any]], threshold: float) -> NDArray[np.int64]:
    """Boxes with at least a score, matched at IoU 0.5 whatever their class; (C + 1) x (C + 1), truth by prediction.

    The last row holds false alarms, the last column misses.
    """
    evaluation = _evaluate(truth, [found for found in detections if found["score"] >= threshold], use_classes=False)
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


def _evaluate(
    truth: dict[str, Any],
    detections: Sequence[dict[str, Any]],
    use_classes: bool,
    sizes: Sequence[str] = ("all",),
) -> COCOeval:
    with contextlib.redirect_stdout(io.StringIO()):
        coco = _index(truth)
        found = (
            coco.loadRes([dict(entry) for entry in detections]) if detections else _index({**truth, "annotations": []})
        )
        evaluation = COCOeval(coco, found, "bbox")
        evaluation.params.useCats = int(use_classes)
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [SIZES[size] for size in sizes], list(sizes)
        evaluation.params.maxDets = [100]
        evaluation.evaluate()
    return evaluation


def _index(dataset: dict[str, Any]) -> COCO:
    coco = COCO()
    coco.dataset = dataset
    coco.createIndex()
    return coco


def _per_class(values: NDArray[Any], counts: Any) -> tuple[float, ...]:
    """Mean over all axes but the last, for classes that have instances."""
    return tuple(float(values[..., index].mean()) if count else float("nan") for index, count in enumerate(counts))


# -------------------------------------------------------------------------------------------------------- pixels


def boundary(mask: NDArray[np.uint8], ratio: float) -> NDArray[np.uint8]:
    """Pixels of a mask (H x W, 0 or 1) within ``ratio`` of the image's diagonal of its contour.

    The image's edge counts as contour. B. Cheng et al., Boundary IoU, CVPR 2021.
    """
    import cv2

    distance = max(1, round(ratio * float(np.hypot(*mask.shape))))
    padded = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    inner = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=distance)
    return np.asarray(mask - inner[1:-1, 1:-1], np.uint8)


def regions(mask: NDArray[np.uint8]) -> tuple[NDArray[np.intp], NDArray[np.intp], Floats]:
    """Connected defects of a mask (H x W), as MVTec counts them (8-connectivity).

    Returns rows and columns of all P defect pixels, and each pixel's share of its region's area: they add up to
    the number of regions.
    """
    import cv2

    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    rows, columns = np.nonzero(mask)
    return rows, columns, 1.0 / stats[labels[rows, columns], cv2.CC_STAT_AREA]


def pro_curve(maps: Iterable[NDArray[Any]], masks: Sequence[NDArray[np.uint8]]) -> tuple[Floats, Floats]:
    """False-positive rate and per-region overlap at every threshold that matters; both ascending from 0 to 1.

    ``maps`` are N anomaly maps, H x W of any number type, higher is more anomalous, read one at a time; ``masks``
    N ground truths of 0 and 1, gone through twice. P. Bergmann et al., MVTec AD, CVPR 2019 and IJCV 2021: a
    region's overlap is the share of it at or above the threshold, averaged over all regions of all images.
    Between two scores that occur in regions the overlap is constant, so only these scores (and the step just
    above each) are corners of the curve. Memory: the negatives' scores once, in the maps' own type.
    """
    good = [int(mask.size - np.count_nonzero(mask)) for mask in masks]
    negatives: NDArray[Any] | None = None
    scores, shares, filled = [], [], 0
    for score, mask, count in zip(maps, masks, good, strict=True):
        if negatives is None:
            negatives = np.empty(sum(good), score.dtype)
        negatives[filled : filled + count] = score[mask == 0]
        filled += count
        rows, columns, share = regions(mask)
        scores.append(score[rows, columns])
        shares.append(share)
    if negatives is None or not any(map(len, scores)):
        raise ValueError("no defect region in the ground truth")
    negatives.sort()
    levels, index = np.unique(np.concatenate(scores), return_inverse=True)
    overlap = _cumulated(np.bincount(index, weights=np.concatenate(shares))[None])[0]
    overlap /= sum(share.sum() for share in shares)
    above = [len(negatives) - np.searchsorted(negatives, levels, side) for side in ("right", "left")]
    rate = np.stack(above, axis=1)[::-1].ravel() / max(1, len(negatives))
    overlap = np.repeat(np.append(overlap, 0.0), 2)[::-1][1:-1]  # just above a score: what the score above reached
    return np.concatenate([[0.0], rate, [1.0]]), np.concatenate([[0.0], overlap, [1.0]])


def area_to(rate: Floats, overlap: Floats, limit: float) -> float:
    """Area under a curve up to ``limit`` on its first axis, divided by the limit; 0..1."""
    inside = rate <= limit
    x = np.append(rate[inside], limit)
    y = np.append(overlap[inside], np.interp(limit, rate, overlap))
    return float(np.trapezoid(y, x) / limit)


def aupro(
    maps: Iterable[NDArray[Any]], masks: Sequence[NDArray[np.uint8]], limits: Sequence[float] = PRO_LIMITS
) -> tuple[float, ...]:
    """Area under the PRO curve (see ``pro_curve``) up to each false-positive rate, as MVTec's own code has it."""
    curve = pro_curve(maps, masks)
    return tuple(area_to(*curve, limit) for limit in limits)


def aupro_of_levels(share: Floats, negative: Floats, limit: float) -> Floats:
    """AUPRO of scores in L coarse levels, ascending: region shares and negatives at each level, both B x L; (B,)."""
    zeros = np.zeros((len(share), 1))
    rate = np.hstack([zeros, np.cumsum(negative[:, ::-1], axis=1)])
    overlap = np.hstack([zeros, np.cumsum(share[:, ::-1], axis=1)])
    rate, overlap = rate / np.maximum(rate[:, -1:], 1), overlap / np.maximum(overlap[:, -1:], 1e-12)
    return np.array([area_to(*curve, limit) for curve in zip(rate, overlap, strict=True)])


def overlap_measures(true: Floats, false: Floats, missed: Floats) -> dict[str, Floats]:
    """IoU and Dice of pixels pooled over images; (B,) each. 0 / 0 is NaN."""
    return {"iou": divided(true, true + false + missed), "dice": divided(2 * true, 2 * true + false + missed)}


def divided(part: Floats, whole: Floats) -> Floats:
    """part / whole, NaN where the whole is 0."""
    part, whole = np.asarray(part, float), np.asarray(whole, float)
    return np.divide(part, whole, out=np.full(np.broadcast(part, whole).shape, np.nan), where=whole > 0)


def mean_known(values: Floats) -> Floats:
    """Mean over the last axis without NaN; NaN where all are."""
    known = ~np.isnan(values)
    return divided(np.where(known, values, 0).sum(axis=-1), known.sum(axis=-1))


def _mean(values: Sequence[float]) -> float:
    return float(mean_known(np.array(values, float)))
