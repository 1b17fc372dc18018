"""The cost of labels in clicks of a person: one rule for all models, counted on the ground truth of train and val.

Good images cost nothing: they come off the line by the hundred. A class label is one click a defect image, a box two
a defect (opposite corners), a mask as many as its outlines have corners when they may be a pixel off (D. Douglas,
T. Peucker, 1973), holes included. Naming a defect's class is in the click that made it.
"""

from collections.abc import Sequence
from functools import lru_cache

from finetune.measures.masks import rings
from finetune.runs.dataset import Dataset
from finetune.runs.truth import truth_of

SLACK = 1.0  # px that an outline of a mask may be off


@lru_cache(maxsize=32)
def _corners(dataset: Dataset, part: str) -> int:
    """Corners of all outlines of a part, which every row of a report asks for."""
    truth = truth_of(dataset, part)
    masks = (truth.mask(index) for index, entries in enumerate(truth.annotations) if entries)
    return sum(len(ring) for mask in masks for ring in rings(mask, SLACK))


def label_clicks(kind: str | None, datasets: Sequence[Dataset]) -> dict[str, int] | None:
    """Clicks in ``train`` and ``val``, ``clicks`` in both, and the defect ``images`` they were spent on.

    All are means over folds; None for an unknown kind of label. Val's count because thresholds are chosen, and epochs,
    by labels of that kind there: see ``Truth.label``.
    """
    if kind not in ("none", "good", "class", "box", "mask"):
        return None
    clicks, images = {"train": 0, "val": 0}, 0
    for truth in (truth_of(dataset, part) for dataset in datasets for part in clicks):
        defects = [index for index, entries in enumerate(truth.annotations) if entries]
        if kind in ("none", "good"):
            continue
        images += len(defects)
        if kind == "class":
            clicks[truth.part] += len(defects)
        elif kind == "box":
            clicks[truth.part] += 2 * sum(len(truth.annotations[index]) for index in defects)
        else:
            clicks[truth.part] += _corners(truth.dataset, truth.part)
    mean = {part: round(count / len(datasets)) for part, count in clicks.items()}
    return {**mean, "clicks": sum(mean.values()), "images": round(images / len(datasets))}
