"""From saved predictions to what can be resampled: numbers for each image, from which every measure follows.

Thresholds are chosen on val. A set without val gets no threshold, and only measures that need none.
Pixel scores are 16 bit: heat maps as they are, masks and filled boxes painted with their scores.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from converters.cli.errors import DatasetError
from finetune.comparison.pictures import Overlay, overlay
from finetune.measures.boxes import LEAST_CELLS, ClassMatches, best_box_threshold, box_precision, match_boxes
from finetune.measures.masks import TOP, best_level, decode, regions_above
from finetune.measures.pixels import (
    BOUNDARY_RATIOS,
    PRO_LIMITS,
    area_to,
    aupro,
    boundary_counts,
    coarse_levels,
    level_counts,
    overlap_measures,
    pro_curve,
)
from finetune.measures.scores import (
    GOOD_QUANTILE,
    Floats,
    Levels,
    auroc,
    average_precision,
    best_threshold,
    decisions,
    divided,
    macro_f1_defects,
    mean_known,
    score_levels,
)
from finetune.runs.answers import tuning_truth
from finetune.runs.dataset import Dataset
from finetune.runs.held_out import HeldOut, held_out
from finetune.runs.predictions import PredictionSet, image_scores
from finetune.runs.truth import Truth, grouped, truth_of

MOST_PAINTED = 100  # detections of an image, as in COCO
FAR = 10  # image sides: pycocotools walks outlines step by step, and for hours where a point lies beyond reason


@dataclass(frozen=True)
class Answer:
    """A set's answer on one part, completed: scores from boxes, boxes from masks or heat maps."""

    truth: Truth
    scores: Floats  # N x (1 + C): how defective, and how sure of each class; NaN where the model tells no classes
    detections: list[list[dict[str, Any]]] | None  # of each image; None where the set has neither boxes nor maps
    kind: str | None  # what pixel scores come from: "heat maps", "masks", "boxes" or None
    source: PredictionSet

    @property
    def boxes_from_maps(self) -> bool:
        """Whether boxes are still to be made of its heat maps, and these are fine enough for it."""
        return self.detections is None and fine_enough(self.source.about)

    def pixel_scores(self, index: int) -> NDArray[np.uint16]:
        """H x W on one scale for all images, higher is more defective."""
        if self.kind == "heat maps":
            heat = self.source.heatmap(self.truth.part, self.truth.names[index])
            if heat.shape != self.truth.sizes[index]:
                raise DatasetError(
                    f"{self.source.source}: the heat map of {self.truth.names[index]} has {heat.shape[::-1]} pixels "
                    f"and the image {self.truth.sizes[index][::-1]}: heat maps come at full image size"
                )
            return heat
        assert self.detections is not None
        try:
            return paint(self.detections[index], *self.truth.sizes[index])
        except ValueError as error:  # pycocotools', of run lengths
            name = self.truth.names[index]
            raise DatasetError(f"{self.source.source}: a segmentation of {name} cannot be decoded ({error})") from None


def fine_enough(about: dict[str, Any]) -> bool:
    """Whether boxes of a set's heat maps can be measured: ``set.json`` may say how many cells a side they come from."""
    return float(about.get("cells", LEAST_CELLS)) >= LEAST_CELLS


def paint(detections: Sequence[dict[str, Any]], height: int, width: int) -> NDArray[np.uint16]:
    """Masks, or filled boxes, painted with their scores in 0..65535; the surest one is on top."""
    canvas = np.zeros((height, width), np.uint16)
    for entry in sorted(detections, key=lambda entry: entry["score"])[-MOST_PAINTED:]:
        level = round(entry["score"] * TOP)
        x, y, w, h = entry["bbox"]
        box = np.s_[max(0, round(y)) : max(0, round(y + h)), max(0, round(x)) : max(0, round(x + w))]
        if "segmentation" in entry:
            canvas[decode(entry["segmentation"], height, width) > 0] = level
        else:
            canvas[box] = level
    return canvas


def read_answer(source: PredictionSet, truth: Truth) -> Answer | None:
    """The answer of a set on a part; None if it says nothing there, or if the part holds no image."""
    dataset, part = truth.dataset, truth.part
    if not truth.names or not source.has(part):
        return None
    found = source.detections(dataset, part)
    if found is not None:
        found = [entry for entry in found if entry["image_id"] in set(truth.ids)]
    for entry in found or []:
        if "segmentation" in entry:
            height, width = truth.sizes[truth.ids.index(entry["image_id"])]
            try:
                entry["bbox"] = _box_of(entry["segmentation"], height, width)
            except Exception as error:  # of whatever kind: pycocotools takes what it is given
                raise DatasetError(
                    f"{source.source}: image_id {entry['image_id']} has a segmentation that is neither polygons nor "
                    f"run lengths of {width} x {height} px ({error})"
                ) from None
    scores = source.scores(dataset, part)
    if scores is None:
        ids = dataset.image_ids
        scores = image_scores(truth.names, ids, len(dataset.classes), found or [])
        if found is None:
            raise DatasetError(f"{source.source}: {part} has heat maps, but neither scores nor detections")
    has_maps = (source.source / f"{part}_heatmaps").is_dir()
    if has_maps:
        kind = "heat maps"
    elif found is None or (not found and source.about.get("label") not in ("box", "mask")):
        found, kind = None, None  # a classifier of whole images
    else:
        kind = "masks" if any("segmentation" in entry for entry in found or []) else "boxes"
    unknown = found is None or (has_maps and not (found and fine_enough(source.about)))
    boxes = None if unknown else grouped(found or (), truth.ids)
    return Answer(truth, np.array([scores[name] for name in truth.names]), boxes, kind, source)


def _box_of(segmentation: Any, height: int, width: int) -> list[float]:
    if isinstance(segmentation, list):
        xy = np.concatenate([np.reshape(np.asarray(ring, float), (-1, 2)) for ring in segmentation])
        if min(map(len, segmentation)) < 6:
            raise ValueError("a polygon has three points or more")
        if not (np.abs(xy) <= FAR * np.array([width, height])).all():
            raise ValueError("a point lies far outside the image")
        (x0, y0), (x1, y1) = xy.min(axis=0), xy.max(axis=0)
        return [float(value) for value in (x0, y0, x1 - x0, y1 - y0)]
    if list(segmentation["size"]) != [height, width]:
        raise ValueError(f"its size is {segmentation['size']}")
    if isinstance(segmentation["counts"], list):
        segmentation = coco_mask.frPyObjects(segmentation, height, width)
    return [float(value) for value in coco_mask.toBbox(segmentation)]


@dataclass(frozen=True)
class Pixels:
    """Pixel counts of N test images. What needs a threshold is None for a set without val."""

    kind: str
    positive: Floats  # N x L, defect pixels at each of L coarse score levels, ascending
    negative: Floats  # N x L
    shares: Floats  # N x L, shares of defect regions
    average_precision: float  # exact, as are the area under the ROC curve and the curve
    auroc: float
    curve: tuple[Floats, Floats] | None  # false-positive rate and per-region overlap; heat maps only
    level: float | None
    counts: dict[str, Floats]  # each (N,), at the level: see ``_counts_at``
    marked: list[Floats]  # of each image, R x 2: area of each defect region, px, and the share of it at the level


@dataclass(frozen=True)
class Evidence:
    """All that the measures of one run of one set on one test part are computed from."""

    truth: Truth
    answer: Answer
    threshold: float | None  # of image scores; None, too, where the model has saved what it decides
    called: NDArray[np.bool_] | None  # (N,): decided to be defective; None without val and decisions
    predicted: NDArray[np.int64] | None  # (N,): 0 passes as good, else class + 1; the likeliest class without val
    matches: list[ClassMatches] | None  # None without boxes, or where the model tells no classes
    any_class: list[ClassMatches] | None
    box_threshold: float | None
    pixels: Pixels | None
    overlays: list[Overlay]  # of each image, for the page; empty unless asked for, or without pixel scores
    held_out: HeldOut | None = None  # what thresholds may be chosen from; None without val

    @property
    def tells_classes(self) -> bool:
        return self.predicted is not None


def gather(source: PredictionSet, dataset: Dataset, draw: bool = False) -> Evidence:
    """Read a set's predictions for val and test, choose thresholds on val, and count on test.

    Val is looked at by no dearer labels than the model learned from. What a model has decided of images by itself
    (``test_decisions.csv``) stands. Each file is read once. ``draw`` makes the overlays for the page.
    """
    test = truth_of(dataset, "test")
    answer = read_answer(source, test)
    tuning = read_answer(source, tuning_truth(source, dataset))
    if answer is None:
        raise DatasetError(f"{source.source}: holds no predictions for test (test.json, test_scores.csv)")
    if source.has_results("val") and not source.has_results("test"):
        raise DatasetError(f"{source.source}: holds val.json, but no test.json: predict both again")
    decided = source.decisions(dataset, "test")
    threshold = level = held = None
    if tuning is not None:
        held = held_out(source, dataset, tuning.truth, tuning.scores[:, 0])
        if decided is None:
            threshold = best_threshold(tuning.truth.labels > 0, tuning.scores[:, 0])
        tuning, level = _tune_pixels(tuning)
    answer, pixels, overlays = _look_at_pixels(answer, level, draw)
    classes = answer.scores[:, 1:]
    tells_classes = bool(np.isfinite(classes).all() and (classes.any() or answer.kind in ("masks", "boxes")))
    matches = any_class = box_threshold = None
    if answer.detections is not None:
        found = [entry for entries in answer.detections for entry in entries]
        any_class = match_boxes(test.coco, found, use_classes=False)
        matches = match_boxes(test.coco, found) if tells_classes else None
        if tuning is not None and tuning.detections is not None:
            box_threshold = _best_box_threshold(tuning, tuning.detections, tells_classes)
    predicted = np.argmax(classes, axis=1) + 1 if tells_classes else None
    called = None if threshold is None else answer.scores[:, 0] >= threshold
    if decided is not None:
        called = decided > 0
        predicted = None if predicted is None else np.where(decided > len(dataset.classes), predicted, decided)
    elif predicted is not None and called is not None:
        predicted = np.where(called, predicted, 0)
    return Evidence(
        test, answer, threshold, called, predicted, matches, any_class, box_threshold, pixels, overlays, held
    )


def _tune_pixels(tuning: Answer) -> tuple[Answer, float | None]:
    """The level of pixel scores that val's labels choose, and the answer with boxes from its heat maps at that level.

    Masks, or filled boxes: the best Dice. Classes of images: what tells defective images from good ones best, an image
    being as defective as its most defective pixel. Good images alone: what most of their pixels stay under.
    """
    if tuning.kind is None:
        return tuning, None
    if not tuning.truth.labels.any() and tuning.kind != "heat maps":
        assert tuning.detections is not None
        return tuning, max(1.0, TOP * _best_box_threshold(tuning, tuning.detections, False))
    indices = range(len(tuning.truth.names))
    maps: Iterable[NDArray[np.uint16]] = (tuning.pixel_scores(index) for index in indices)
    if tuning.boxes_from_maps:
        maps = list(maps)  # looked at once more, for boxes
    if tuning.truth.label == "class" and tuning.truth.labels.any():
        maps = list(maps)
        level = max(1.0, best_threshold(tuning.truth.labels > 0, np.array([heat.max() for heat in maps], float)))
    else:
        level = float(best_level(zip(maps, map(tuning.truth.mask, indices), strict=True)))
    if tuning.boxes_from_maps:
        boxes = [_boxes_of(tuning, index, heat, level) for index, heat in enumerate(maps)]
        tuning = replace(tuning, detections=boxes)
    return tuning, level


def _boxes_of(answer: Answer, index: int, heat: NDArray[np.uint16], level: float) -> list[dict[str, Any]]:
    """Boxes of a heat map at a level as COCO results, of the image's likeliest class."""
    category = int(np.nan_to_num(answer.scores[index, 1:]).argmax()) + 1
    return [
        {"image_id": answer.truth.ids[index], "category_id": category, "bbox": list(region.box), "score": peak / TOP}
        for region, peak in regions_above(heat, level)
    ]


def _best_box_threshold(tuning: Answer, detections: list[list[dict[str, Any]]], use_classes: bool) -> float:
    """The box score with the best F1 on val; without defects, what 95 % of the good images stay under.

    Where classes of images are all that is known, the score of the surest box that tells those apart best.
    """
    surest = np.array([max((entry["score"] for entry in found), default=0.0) for found in detections])
    if not tuning.truth.labels.any():
        return float(np.nextafter(np.quantile(surest, GOOD_QUANTILE), np.inf))
    if tuning.truth.label == "class":
        return best_threshold(tuning.truth.labels > 0, surest)
    found = [entry for entries in detections for entry in entries]
    return best_box_threshold(match_boxes(tuning.truth.coco, found, use_classes))


def _look_at_pixels(answer: Answer, level: float | None, draw: bool) -> tuple[Answer, Pixels | None, list[Overlay]]:
    """One look at the pixel scores of each image: the answer with boxes from heat maps, the counts, and overlays."""
    if answer.kind is None:
        return answer, None, []
    truth, kind = answer.truth, answer.kind
    size = len(truth.names)
    positive, negative = (np.zeros((size, TOP + 1), np.uint32) for _ in range(2))
    shares, all_shares = np.zeros((size, TOP + 1), np.float32), np.zeros(TOP + 1)
    counts, boxes, overlays, marked = [], [], [], []
    for index, regions in enumerate(truth.regions):
        scores = answer.pixel_scores(index)
        inside, outside, share = level_counts(scores, regions)
        positive[index], negative[index], shares[index] = inside, outside, share
        all_shares += share
        if level is not None:
            hit = (scores >= level).astype(np.uint8)
            counts.append(_counts_at(level, inside, outside, share) | boundary_counts(hit, truth.mask(index)))
            boxes.append(_boxes_of(answer, index, scores, level) if answer.boxes_from_maps else [])
            sizes = [(one.pixels.sum(), (one.of(scores) >= level).mean()) for one in regions]
            marked.append(np.reshape(np.array(sizes, float), (-1, 2)))
        if draw:
            overlays.append(overlay(scores, level, kind, answer.source.strength))
    starts = coarse_levels(positive, negative, shares)
    levels = Levels(*(side.sum(axis=0, dtype=float)[None] for side in (positive, negative)))
    coarse = [np.add.reduceat(side, starts, axis=1, dtype=float) for side in (positive, negative, shares)]
    pixels = Pixels(
        kind,
        positive=coarse[0],
        negative=coarse[1],
        shares=coarse[2],
        average_precision=float(average_precision(levels)[0]),
        auroc=float(auroc(levels)[0]),
        curve=pro_curve(all_shares, levels.negative[0]) if kind == "heat maps" and positive.any() else None,
        level=level,
        counts={name: np.array([one[name] for one in counts], float) for name in (counts or [{}])[0]},
        marked=marked,
    )
    if answer.boxes_from_maps and level is not None:
        answer = replace(answer, detections=boxes)
    return answer, pixels, overlays


def _counts_at(level: float, positive: NDArray[Any], negative: NDArray[Any], share: Floats) -> dict[str, float]:
    """Counts of one image's pixels at or above a level, from its counts at all levels."""
    true, false = (int(side[ceil(level) :].sum()) for side in (positive, negative))
    return {
        "true": true,
        "false": false,
        "missed": int(positive.sum()) - true,
        "good": int(negative.sum()),
        "share": float(share[ceil(level) :].sum()),
    }


def measure(evidence: Sequence[Evidence], weights: Sequence[NDArray[Any]], exact: bool = False) -> dict[str, Floats]:
    """Every measure of one run in B resamples; (B,) each. ``CLASS/ap50`` and ``CLASS/found`` are those of one class.

    ``evidence`` and ``weights`` (B x N) hold one entry a test part: several for the folds of one split. Ranking
    measures are averaged over them, since each fold has a model of its own; counts at val's thresholds are pooled.
    ``exact`` uses all levels of pixel scores, for weights of one.
    """
    folds = [_ranking(item, weight, exact) for item, weight in zip(evidence, weights, strict=True)]
    found = {name: mean_known(np.stack([fold[name] for fold in folds], axis=-1)) for name in folds[0]}
    if all(item.called is not None for item in evidence):
        found |= decisions(*_added(_outcomes, evidence, weights))
        caught, shown = _added(_caught, evidence, weights)
        found |= {
            f"{name}/found": divided(caught[index], shown[index])
            for index, name in enumerate(evidence[0].truth.dataset.classes)
        }
    if all(item.tells_classes and item.called is not None for item in evidence):
        found["macro_f1_defects"] = macro_f1_defects(_added(_confusion, evidence, weights))
    if all(item.pixels and item.pixels.level is not None for item in evidence):
        found |= _of_counts(evidence, weights)
    return found


def _added(function: Any, evidence: Sequence[Evidence], weights: Sequence[NDArray[Any]]) -> Floats:
    return np.sum([function(item, weight) for item, weight in zip(evidence, weights, strict=True)], axis=0)


def _ranking(item: Evidence, weights: NDArray[Any], exact: bool) -> dict[str, Floats]:
    levels = score_levels(item.truth.labels > 0, item.answer.scores[:, 0], weights)
    found = {"auroc": auroc(levels), "ap": average_precision(levels)}
    if item.matches is not None:
        precision, recall = box_precision(item.matches, weights)
        found |= {
            "map": mean_known(precision.reshape(len(weights), -1)),
            "map50": mean_known(precision[:, :, 0]),
            "ar": mean_known(recall.reshape(len(weights), -1)),
        } | {f"{name}/ap50": precision[:, index, 0] for index, name in enumerate(item.truth.dataset.classes)}
    if item.any_class is not None:
        precision, _ = box_precision(item.any_class, weights)
        found["ap50_any"] = precision[:, 0, 0]
    return found if item.pixels is None else found | _pixel_ranking(item.pixels, weights, exact)


def _pixel_ranking(pixels: Pixels, weights: NDArray[Any], exact: bool) -> dict[str, Floats]:
    """Pixel AP and AUPRO; that is NaN without a defect in this test part, which may be one of several folds."""
    limits = {f"aupro_{limit}": limit for limit in PRO_LIMITS if pixels.kind == "heat maps"}
    found = dict.fromkeys(limits, np.full(len(weights), np.nan))
    if exact:
        areas = {name: area_to(*pixels.curve, limit) for name, limit in limits.items()} if pixels.curve else {}
        known = {"pixel_ap": pixels.average_precision, "pixel_auroc": pixels.auroc} | areas
        return found | {name: np.full(len(weights), value) for name, value in known.items()}
    negative, shares = weights @ pixels.negative, weights @ pixels.shares
    levels = Levels(weights @ pixels.positive, negative)
    found |= {"pixel_ap": average_precision(levels), "pixel_auroc": auroc(levels)}
    return found | ({name: aupro(shares, negative, limit) for name, limit in limits.items()} if pixels.curve else {})


def _outcomes(item: Evidence, weights: NDArray[Any]) -> Floats:
    """Defects found, false alarms, defects missed, good images passed; 4 x B."""
    assert item.called is not None
    defect, called = item.truth.labels > 0, item.called
    kinds = [defect & called, ~defect & called, defect & ~called, ~defect & ~called]
    return np.stack([weights @ kind for kind in kinds])


def _caught(item: Evidence, weights: NDArray[Any]) -> Floats:
    """Images of each class that were called defective, and all of them; 2 x C x B."""
    assert item.called is not None
    shown = [item.truth.labels == index + 1 for index in range(len(item.truth.dataset.classes))]
    sides = (item.called, item.called | True)
    return np.array([[weights @ (of_class & side) for of_class in shown] for side in sides])


def _confusion(item: Evidence, weights: NDArray[Any]) -> Floats:
    """Truth by prediction, 0 is good; B x (1 + C) x (1 + C). Undecided: defect images only."""
    assert item.predicted is not None
    size = 1 + len(item.truth.dataset.classes)
    cells = np.zeros((len(item.predicted), size * size))
    counted = np.ones(len(item.predicted), bool) if item.called is not None else item.truth.labels > 0
    cells[np.flatnonzero(counted), (item.truth.labels * size + item.predicted)[counted]] = 1
    return (weights @ cells).reshape(len(weights), size, size)


def confusion(evidence: Sequence[Evidence]) -> Floats:
    """The plain confusion matrix, pooled over folds; (1 + C) x (1 + C)."""
    ones = [np.ones((1, len(item.truth.names))) for item in evidence]
    return _added(_confusion, evidence, ones)[0]


def _of_counts(evidence: Sequence[Evidence], weights: Sequence[NDArray[Any]]) -> dict[str, Floats]:
    pairs = [(item.pixels, weight) for item, weight in zip(evidence, weights, strict=True) if item.pixels]
    total = {
        name: np.sum([weight @ pixels.counts[name] for pixels, weight in pairs], axis=0) for name in pairs[0][0].counts
    }
    found = overlap_measures(total["true"], total["false"], total["missed"])
    for ratio in BOUNDARY_RATIOS:
        found[f"boundary_iou_{ratio}"] = divided(total[f"inter{ratio}"], total[f"union{ratio}"])
    regions = np.sum([weight @ pixels.shares.sum(axis=1) for pixels, weight in pairs], axis=0)
    return found | {
        "pro": divided(total["share"], regions),
        "pixel_fpr": divided(total["false"], total["good"]),
    }


def prevalence(truths: Sequence[Truth]) -> float:
    """Share of defect pixels among all pixels of the test images: what a random map's pixel AP would be."""
    defect = sum(entry["area"] for truth in truths for entry in truth.coco["annotations"])
    return defect / sum(height * width for truth in truths for height, width in truth.sizes)


def plain(evidence: Sequence[Evidence]) -> dict[str, float]:
    """The measures themselves: every image counts once, all levels of pixel scores count."""
    ones = [np.ones((1, len(item.truth.names))) for item in evidence]
    return {name: float(values[0]) for name, values in measure(evidence, ones, exact=True).items()}
