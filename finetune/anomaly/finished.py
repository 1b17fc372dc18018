"""A finished run of normality, used again."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from finetune.anomaly.evaluation import SET, evaluate
from finetune.anomaly.features import build_backbone, features_of, weights_of_run
from finetune.anomaly.graph import Graph
from finetune.anomaly.memory import distances_of, smoothed
from finetune.anomaly.recipe import Recipe
from finetune.anomaly.residuals import Types, residuals_of
from finetune.runs.answers import Answer, Asked, Predictor, image_threshold, known_about
from finetune.runs.dataset import Dataset
from finetune.runs.predictions import PredictionSet
from finetune.runs.run_folder import Run, finished_run, write_record
from finetune.training.checkpoints import load_state
from finetune.training.heat_maps import boxes_of, full_size
from finetune.training.images import load_images, one_image
from finetune.training.onnx_files import judge_of, write_image_onnx
from finetune.training.processes import prepare_device

NEEDED = ("memory.pt",)


def evaluate_again(
    folder: Path, dataset: Dataset, device: str, weights: Path | None = None, boxes: Path | None = None
) -> None:
    """Score val and test again with the memory that the finished run in ``folder`` kept.

    Rewrites the predictions, and the measures in run.json. ``weights`` is where the network's file lies now; ``boxes``
    are for other models. Raises DatasetError for other weights than the run's.
    """
    record = finished_run(folder, dataset, NEEDED)
    recipe, backbone, memory, types = load_run(folder, record["settings"], device, weights)
    parts = {part: load_images(dataset, part, recipe.imgsz) for part in dataset.judged_parts}
    run = Run(folder, dataset, record["settings"])
    measured = evaluate(run, backbone, recipe.arch, memory, types, parts, str(memory.device))
    write_record(folder, record | {"metrics": measured})


def predictor(
    folder: Path, dataset: Dataset, device: str, weights: Path | None = None, boxes: Predictor | None = None
) -> Predictor:
    """The finished run in ``folder``, ready for new images."""
    record, source = finished_run(folder, dataset, NEEDED), PredictionSet(folder / "predictions" / SET)
    middle, level, usual = known_about(source, "heatmap_middle", "box_threshold", "score_middle")
    recipe, backbone, memory, types = load_run(folder, record["settings"], device, weights)

    @torch.no_grad()
    def look(image: NDArray[np.uint8]) -> Answer:
        pixels, size = one_image(image, recipe.imgsz).to(memory.device), (image.shape[1], image.shape[0])
        features = features_of(backbone, recipe.arch, pixels)
        cells = distances_of(features, memory)[0].cpu().numpy()
        heat, peak = smoothed(cells, recipe.imgsz), float(cells.max())
        scores, kind = [peak / (peak + usual), *[float("nan")] * len(dataset.classes)], 1
        if types:
            good, *named = types(residuals_of(features, memory).cpu().numpy().astype(np.float64))[0].tolist()
            scores, kind = [1 - good, *named], int(np.argmax(named)) + 1
        return Answer(scores, list(boxes_of(heat, size, kind, level, middle)), full_size(heat, size))

    return Predictor(look, dataset.classes, image_threshold(source, dataset), middle, level, source=source)


def load_run(
    folder: Path, settings: dict[str, Any], device: str, weights: Path | None
) -> tuple[Recipe, nn.Module, Tensor, Types | None]:
    """Recipe, network, memory and types of a run; raises DatasetError for weights that are gone, or others."""
    recipe = Recipe(**{item.name: settings[item.name] for item in fields(Recipe)})
    device = prepare_device(device)
    backbone = build_backbone(recipe, weights_of_run(folder, settings, weights)).to(device)
    state = load_state(folder / "memory.pt", "RUN")
    types = Types(state) if recipe.labels == "class" else None
    return recipe, backbone, state["memory"].to(device), types


def export_run(folder: Path, dataset: Dataset, device: str, to: Path | None, weights: Path | None = None) -> list[Path]:
    """Write network and memory as one ONNX file: ``to``, by default normality.onnx in the run.

    ``weights`` is where the network's file lies now.
    """
    record, source = finished_run(folder, dataset, NEEDED), PredictionSet(folder / "predictions" / SET)
    recipe, backbone, memory, types = load_run(folder, record["settings"], "cpu", weights)
    (usual,) = known_about(source, "score_middle")
    about = {"model": record["model"], "classes": dataset.classes, "threshold": image_threshold(source, dataset)}
    graph = Graph(backbone, recipe.arch, memory, recipe.imgsz, usual, types)
    outputs = ("score", "heat", "classes") if types else ("score", "heat")
    return [write_image_onnx(graph, recipe.imgsz, outputs, to or folder / "normality.onnx", about)]


def exported(folder: Path, dataset: Dataset, files: Sequence[Path]) -> dict[str, Asked]:
    """What the exported file says of the images of the run's one set."""
    judge = judge_of(files[0], len(dataset.classes))
    return {SET: lambda part, name, image: judge(image)}
