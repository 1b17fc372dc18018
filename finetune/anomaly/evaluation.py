"""Scores, heat maps and boxes of the distance to good patches, and their measures."""

import time
from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor, nn

from finetune.anomaly.memory import distance_maps
from finetune.runs.run_folder import Run
from finetune.training.heat_maps import detections, fit_box_threshold, pointing_game, to_full_size
from finetune.training.images import Images

MODEL = "nearest good patches"
SET = "tuned"


def evaluate(run: Run, backbone: nn.Module, memory: Tensor, parts: dict[str, Images], device: str) -> dict[str, Any]:
    """Score val and test, save both, and measure them. Scores are d / (d + median of val's good images): 0..1.

    ``seconds_per_image`` is the wall time of the answers to images in memory, in batches.
    """
    began = time.perf_counter()
    maps = {part: distance_maps(backbone, memory, images, device, part) for part, images in parts.items()}
    seconds = (time.perf_counter() - began) / sum(len(images) for images in parts.values())
    scale = max(float(heat.max()) for heat in maps["val"])
    good = [heat.max() for heat, label in zip(maps["val"], parts["val"].labels, strict=True) if label == 0]
    middle = float(np.median(good or [scale]))
    first = {part: [1] * len(images) for part, images in parts.items()}  # boxes need some class; it knows none
    threshold = fit_box_threshold(run.dataset, "val", parts["val"], maps["val"], first["val"], scale, use_classes=False)
    measured: dict[str, Any] = {"seconds_per_image": round(seconds, 5)}
    for part, images in parts.items():
        peaks = np.array([heat.max() for heat in maps[part]])
        unnamed = [float("nan")] * len(run.dataset.classes)
        scores = {name: [peak / (peak + middle), *unnamed] for name, peak in zip(images.names, peaks, strict=True)}
        boxes = detections(run.dataset, images, maps[part], first[part], threshold, scale)
        run.write_predictions(SET, part, boxes, scores)
        run.write_heatmaps(SET, part, to_full_size(images, maps[part]), scale)
        defect = images.labels.numpy() > 0
        both = defect.any() and not defect.all()
        measured[part] = {
            "auroc": float(roc_auc_score(defect, peaks)) if both else float("nan"),
            "average_precision": float(average_precision_score(defect, peaks)) if both else float("nan"),
            **pointing_game(run.dataset, part, images, maps[part]),
        }
    about = {"heatmap": "distance to good patches", "heatmap_scale": scale, "box_threshold": threshold}
    run.describe_set(SET, model=MODEL, prompt=None, oracle=False, label="good", classes=False, **about)
    return measured
