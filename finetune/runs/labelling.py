"""What labels cost a person, in clicks: one rule for all models, counted on the ground truth of train and val.

Good images cost nothing: they come off the line by the hundred. A class label is one click a defect image, a box two
a defect (opposite corners), a mask as many as its outlines have corners when they may be a pixel off (D. Douglas,
T. Peucker, 1973), holes included. Naming a defect's class is in the click that made it.
"""

from collections.abc import Sequence

from finetune.runs.dataset import Dataset

SLACK = 1.0  # px that an outline of a mask may be off


def label_clicks(kind: str | None, datasets: Sequence[Dataset]) -> dict[str, int] | None:
    """Clicks, and the defect images they were spent on, as means over folds; None for an unknown kind of label."""
    from finetune.comparison.evidence import truth_of
    from finetune.comparison.gallery import rings

    if kind not in ("none", "good", "class", "box", "mask"):
        return None
    clicks = images = 0
    for truth in (truth_of(dataset, part) for dataset in datasets for part in ("train", "val")):
        defects = [index for index, entries in enumerate(truth.annotations) if entries]
        if kind in ("none", "good"):
            continue
        images += len(defects)
        if kind == "class":
            clicks += len(defects)
        elif kind == "box":
            clicks += 2 * sum(len(truth.annotations[index]) for index in defects)
        else:
            clicks += sum(len(ring) for index in defects for ring in rings(truth.mask(index), SLACK))
    return {"clicks": round(clicks / len(datasets)), "images": round(images / len(datasets))}
