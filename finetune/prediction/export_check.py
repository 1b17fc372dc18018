"""Exported files held against their run: the same measures on val and test, and where a verdict flips."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from converters.cli.errors import DatasetError
from converters.cli.terminal import progress, table
from finetune.measures.boxes import box_metrics
from finetune.measures.masks import decode
from finetune.runs.answers import Asked, image_threshold
from finetune.runs.dataset import Dataset, read_image
from finetune.runs.predictions import PredictionSet
from finetune.runs.truth import grouped, truth_of

Found = tuple[dict[str, list[float]], list[dict[str, Any]]]  # scores by image, and COCO results
HEADER = ("set", "part", "measure", "run", "export")


def check_export(sets: Mapping[str, Asked], run: Path, dataset: Dataset) -> str:
    """A table of what the run's saved sets and the files' answers measure on val and test; and flipped images."""
    rows, lines = [], []
    for name, ask in sets.items():
        source = PredictionSet(run / "predictions" / name)
        threshold = None if source.about["oracle"] else image_threshold(source, dataset)
        for part in ("val", "test"):
            saved = source.scores(dataset, part)
            if saved is None:
                raise DatasetError(f"{source.source}: holds no scores for {part}: predict again with --part test")
            before = saved, source.detections(dataset, part) or []
            ours = answers(ask, dataset, part)
            then, now = (dict(measures(source, dataset, part, found)) for found in (before, ours))
            rows += [[name, part, what, f"{then.get(what, 0):.4f}", f"{now.get(what, 0):.4f}"] for what in then | now]
            lines += differences(f"{name}, {part}", saved, ours[0], threshold)
    return "\n".join([table(rows, HEADER), *lines])


def answers(ask: Asked, dataset: Dataset, part: str) -> Found:
    """What the files say of a part's images."""
    names = dataset.images(part)
    scores, found = {}, []
    with progress(names, len(names), f"checking {part}") as bar:
        for name in bar:
            answer = ask(part, name, read_image(dataset.image_file(part, name), cv2.IMREAD_COLOR_RGB))
            scores[name] = answer.scores
            found += [{"image_id": dataset.image_ids[name], **entry} for entry in answer.detections]
    return scores, found


def measures(source: PredictionSet, dataset: Dataset, part: str, found: Found) -> Iterator[tuple[str, float]]:
    """What a set of its kind is measured by: images, classes of images, boxes, masks; of no masks found no IoU."""
    scores, detections = found
    label, oracle = source.about["label"], source.about["oracle"]
    table_of = np.array([scores[name] for name in dataset.images(part)])
    kinds = np.array([0 if kind is None else kind + 1 for kind in dataset.labels(part).values()])
    if not oracle and (kinds > 0).any() and (kinds == 0).any():
        yield "AUROC", float(roc_auc_score(kinds > 0, table_of[:, 0]))
        yield "AP", float(average_precision_score(kinds > 0, table_of[:, 0]))
    if label == "class":
        chances = np.column_stack([1 - table_of[:, 0], table_of[:, 1:]])
        yield "macro-F1", float(f1_score(kinds, chances.argmax(1), average="macro"))
    if label in ("box", "mask") and (kinds > 0).any():
        if not oracle:
            yield "mAP50", box_metrics(dataset.ground_truth(part), detections).map50
        if any("counts" in entry.get("segmentation", ()) for entry in detections):
            yield "IoU", mean_iou(dataset, part, detections)


def mean_iou(dataset: Dataset, part: str, detections: Sequence[dict[str, Any]]) -> float:
    """IoU of all masks found in an image with its defects, averaged over the defect images."""
    truth, values = truth_of(dataset, part), []
    for index, entries in enumerate(grouped(detections, truth.ids)):
        mask, found = truth.mask(index) > 0, np.zeros(truth.sizes[index], bool)
        for entry in entries:
            found |= decode(entry["segmentation"], *truth.sizes[index]) > 0
        if mask.any():
            values.append((found & mask).sum() / (found | mask).sum())
    return float(np.mean(values))


def differences(
    where: str, saved: Mapping[str, Sequence[float]], ours: Mapping[str, Sequence[float]], threshold: float | None
) -> list[str]:
    """The largest difference of a defect score, and the images whose verdict flips; prompts of a person give none."""
    largest = max(abs(saved[name][0] - scores[0]) for name, scores in ours.items())
    line = f"{where}: largest difference of a score {largest:.6f}"
    if threshold is None:
        return [line]
    flips = [name for name, scores in ours.items() if (scores[0] >= threshold) != (saved[name][0] >= threshold)]
    return [f"{line}, {'no verdict flips' if not flips else f'{len(flips)} of {len(ours)} verdicts flip:'}", *flips]
