"""The test images of a report, each with the truth and every model's answer as vector overlays, and what went wrong.

Kinds of errors after D. Bolya et al., TIDE, ECCV 2020, with its overlaps: a box is right from IoU 0.5 with its
defect on, loose from 0.1 on, and a false alarm below 0.1 with every defect. Boxes count from val's threshold on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from finetune.comparison.evidence import Evidence
from finetune.comparison.pictures import Overlay, image_uri, outline

RIGHT, TOUCHES = 0.5, 0.1  # IoU
KINDS = ("missed", "false alarm", "wrong class", "loose box")
WEIGHT = {"missed": 1.0, "false alarm": 1.0, "wrong class": 1.0, "loose box": 0.5}
SHOWN_WITHOUT_VAL = 0.25  # score from which boxes are drawn, and not judged, where val chose no threshold
BUDGET = 6_000_000  # bytes of all images together, so that a page stays easy to send
MOST_CASES = 400


@dataclass(frozen=True)
class Box:
    xywh: list[float]  # px
    label: str
    kind: str  # "right", "unjudged" or one of KINDS


@dataclass(frozen=True)
class Verdict:
    """One model on one image."""

    model: str
    score: float
    called: str  # what it takes the image for
    boxes: list[Box]
    overlay: Overlay
    errors: list[str]  # one kind for each error
    judged: bool
    badness: float


@dataclass(frozen=True)
class Case:
    """One test image."""

    name: str
    label: str
    size: tuple[int, int]  # width, height
    image: str  # data URI
    outline: str
    instances: int
    verdicts: list[Verdict]
    badness: float


def make_cases(evidence: dict[str, Sequence[Evidence]], oracles: set[str]) -> list[Case]:
    """Cases, worst first; ``evidence`` holds one entry a test part (several for folds) for each model."""
    parts = list(zip(*evidence.values(), strict=True))
    places = [(fold, index) for fold, items in enumerate(parts) for index in range(len(items[0].truth.names))]
    verdicts = {
        place: [judge(model, item, place[1]) for model, item in zip(evidence, parts[place[0]], strict=True)]
        for place in places
    }
    badness = {place: _mean_badness(found, oracles) for place, found in verdicts.items()}
    places = sorted(places, key=lambda place: -badness[place])[:MOST_CASES]
    share = BUDGET // max(1, len(places))
    cases = []
    for fold, index in places:
        truth = parts[fold][0].truth
        height, width = truth.sizes[index]
        cases.append(
            Case(
                name=truth.names[index].rsplit(".", 1)[0].replace("__", "/"),
                label=class_name(parts[fold][0], int(truth.labels[index])),
                size=(width, height),
                image=image_uri(truth.dataset.image_file(truth.part, truth.names[index]), share),
                outline=outline(truth.mask(index)),
                instances=len(truth.annotations[index]),
                verdicts=verdicts[fold, index],
                badness=badness[fold, index],
            )
        )
    return cases


def _mean_badness(found: Sequence[Verdict], oracles: set[str]) -> float:
    counted = [verdict.badness for verdict in found if verdict.judged and verdict.model not in oracles]
    return float(np.mean(counted)) if counted else 0.0


def class_name(item: Evidence, label: int) -> str:
    """Name of a label: 0 is good, else the index of the class + 1."""
    return "good" if label == 0 else item.truth.dataset.classes[label - 1]


def judge(model: str, item: Evidence, index: int) -> Verdict:
    score = float(item.answer.scores[index, 0])
    label = int(item.truth.labels[index])
    errors: list[str] = []
    boxes, judged = [], item.called is not None
    if item.answer.detections is not None:
        least = SHOWN_WITHOUT_VAL if item.box_threshold is None else item.box_threshold
        kept = [entry for entry in item.answer.detections[index] if entry["score"] >= least]
        if item.box_threshold is None:
            boxes, judged = [_box(item, entry, "unjudged") for entry in kept], False
        else:
            boxes, errors = match(item, item.truth.annotations[index], kept)
    if judged:
        errors += [kind for kind in _image_errors(item, index, label) if kind not in errors]
    margin = 0.0 if item.threshold is None else (item.threshold - score if label else score - item.threshold)
    return Verdict(
        model=model,
        score=score,
        called=_called(item, index),
        boxes=boxes,
        overlay=item.overlays[index] if item.overlays else Overlay(),
        errors=errors,
        judged=judged,
        badness=sum(WEIGHT[kind] for kind in errors) + 0.1 * float(np.clip(margin, -1, 1)),
    )


def _called(item: Evidence, index: int) -> str:
    if item.called is None:
        return "undecided"
    if item.predicted is None:
        return "defect" if item.called[index] else "good"
    return class_name(item, int(item.predicted[index]))


def _image_errors(item: Evidence, index: int, label: int) -> list[str]:
    """The error of the verdict on the image as a whole."""
    if item.called is not None and bool(item.called[index]) != (label > 0):
        return ["missed" if label else "false alarm"]
    return ["wrong class"] if label and item.predicted is not None and item.predicted[index] != label else []


def match(item: Evidence, truth: list[dict[str, Any]], kept: list[dict[str, Any]]) -> tuple[list[Box], list[str]]:
    """Boxes with what they are, and the errors: one for each defect not found as it is, and each false alarm."""
    overlap = box_iou(kept, truth)
    same = np.array(
        [[not item.tells_classes or a["category_id"] == b["category_id"] for b in truth] for a in kept], bool
    ).reshape(overlap.shape)
    boxes, errors = [], []
    for row, agrees, entry in zip(overlap, same, kept, strict=True):
        best = row.max(initial=0.0)
        if best < TOUCHES:
            kind = "false alarm"
            errors.append(kind)
        elif (row[agrees] >= RIGHT).any():
            kind = "right"
        else:
            kind = "wrong class" if best >= RIGHT else "loose box"
        boxes.append(_box(item, entry, kind))
    for column, agrees in zip(overlap.T, same.T, strict=True):
        best = column.max(initial=0.0)
        if best < TOUCHES:
            errors.append("missed")
        elif best < RIGHT:
            errors.append("loose box")
        elif not (column[agrees] >= RIGHT).any():
            errors.append("wrong class")
    return boxes, errors


def _box(item: Evidence, entry: dict[str, Any], kind: str) -> Box:
    label = class_name(item, entry["category_id"]) if item.tells_classes else "defect"
    return Box([round(float(value), 1) for value in entry["bbox"]], f"{label} {entry['score']:.2f}", kind)


def box_iou(ours: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]]) -> NDArray[np.float64]:
    """IoU of COCO boxes, len(ours) x len(theirs)."""
    a, b = ([[float(v) for v in entry["bbox"]] for entry in side] for side in (ours, theirs))
    if not a or not b:
        return np.zeros((len(a), len(b)))
    return np.asarray(coco_mask.iou(a, b, [0] * len(b)))
