"""Heat maps, scores and boxes of a residual transformer, and their measures."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor, nn

from finetune.anomaly.features import patch_features
from finetune.anomaly.memory import smoothed
from finetune.anomaly.weak.network import ResidualTransformer
from finetune.anomaly.weak.recipe import LABELS
from finetune.anomaly.weak.residuals import Memory
from finetune.measures.heat_levels import middle_of, to_levels, to_values
from finetune.measures.masks import best_level
from finetune.runs.run_folder import Run
from finetune.runs.truth import truth_of
from finetune.training.heat_maps import Map, detections, full_size, level_from_val, pointing_game, to_full_size
from finetune.training.images import Images

MODEL = "residual transformer"
SET = "tuned"


@torch.no_grad()
def judged(network: ResidualTransformer, memory: Memory, features: Tensor, size: int) -> list[tuple[Map, list[float]]]:
    """Of B images' features (B x h x w x F): a map of probabilities, size x size, and scores of defect and classes.

    An image is as defective as its peak; its classes share that as the blocks do, each counting as it is defective.
    """
    answers = []
    for logits in network(memory.residuals(features)).cpu():
        heat = np.asarray(expit(smoothed(logits[..., 0].numpy(), size)), np.float32)
        chance = logits[..., :1].sigmoid()
        shares = (chance * logits[..., 1:].softmax(-1)).sum((0, 1)) / chance.sum()
        answers.append((heat, [float(heat.max()), *(float(heat.max()) * shares).tolist()]))
    return answers


def judge_all(
    backbone: nn.Module, arch: str, network: ResidualTransformer, memory: Memory, images: Images, device: str, part: str
) -> list[tuple[Map, list[float]]]:
    """The map and the scores of each image of a part."""
    size = images.pixels.shape[-1]
    batches = patch_features(backbone, arch, images, device, part)
    return [answer for features in batches for answer in judged(network, memory, features, size)]


def evaluate(
    run: Run,
    backbone: nn.Module,
    arch: str,
    network: ResidualTransformer,
    memory: Memory,
    parts: dict[str, Images],
    device: str,
) -> dict[str, Any]:
    """Score val and test, save both, and measure them."""
    kind, classes = LABELS[run.settings["labels"]], run.dataset.classes
    found = {part: judge_all(backbone, arch, network, memory, images, device, part) for part, images in parts.items()}
    maps, good = [heat for heat, _ in found["val"]], (parts["val"].labels == 0).numpy()
    middle = middle_of(np.array([heat.max() for heat in maps])[good], max(float(heat.max()) for heat in maps))
    level = level_of(run, kind, parts["val"], maps, middle)
    measured: dict[str, Any] = {}
    for part, images in parts.items():
        maps, rows = [heat for heat, _ in found[part]], [row for _, row in found[part]]
        defect = images.labels.numpy() > 0
        named = kind != "good"
        scores = [row if named else [row[0], *[float("nan")] * len(classes)] for row in rows]
        kinds = [int(np.argmax(row[1:])) + 1 if named else 1 for row in rows]
        boxes = detections(run.dataset, images, maps, kinds, level, middle)
        run.write_predictions(SET, part, boxes, dict(zip(images.names, scores, strict=True)))
        run.write_heatmaps(SET, part, to_full_size(images, maps), middle)
        measured[part] = image_measures(defect, [row[0] for row in rows])
        measured[part] |= pointing_game(run.dataset, part, images, maps)
    about = {"heatmap": "probability of a defect", "heatmap_middle": middle, "box_threshold": level}
    run.describe_set(SET, model=MODEL, prompt=None, oracle=False, label=kind, classes=kind != "good", **about)
    return measured


def image_measures(defect: NDArray[np.bool_], scores: Sequence[float]) -> dict[str, float]:
    """AUROC and average precision of image scores; NaN without good images or without defects."""
    both = defect.any() and not defect.all()
    return {
        "auroc": float(roc_auc_score(defect, scores)) if both else float("nan"),
        "average_precision": float(average_precision_score(defect, scores)) if both else float("nan"),
    }


def level_of(run: Run, kind: str, val: Images, maps: Sequence[Map], middle: float) -> float:
    """The map value at which regions of val count as found, chosen by labels of the kind that was learned from."""
    defect = (val.labels > 0).numpy()
    if kind in ("mask", "box") and defect.any():
        truth = truth_of(run.dataset, "val", kind)
        heats = (to_levels(full_size(heat, size), middle) for heat, size in zip(maps, val.sizes, strict=True))
        level = best_level((heat, truth.mask(index)) for index, heat in enumerate(heats))
        return float(to_values(np.array([level], np.uint16), middle)[0])
    if kind == "class":
        return level_from_val(maps, defect)
    known = [heat for heat, shows in zip(maps, defect, strict=True) if not shows] or maps
    return level_from_val(known, np.zeros(len(known)))
