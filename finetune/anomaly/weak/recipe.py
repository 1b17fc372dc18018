"""Settings of a residual transformer."""

from dataclasses import dataclass

from finetune.anomaly import recipe

LABELS = {"masks": "mask", "boxes": "box", "tags": "class", "none": "good"}  # --labels -> set.json's kind of label


@dataclass(frozen=True)
class Recipe(recipe.Recipe):
    """What a run of weakrest goes by: features and memory as those of normality, and the training of the network."""

    imgsz: int = 448  # small defects need resolution: a block is 8 px of this
    coreset: float = 0.04  # share of the cells that are looked at
    labels: str = "masks"  # of defect images: masks, boxes, tags (types of images), or none but painted noise
    epochs: int = 12
    batch: int = 4  # crops a step, of all processes together
    lr: float = 1e-3
