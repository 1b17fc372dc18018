"""A finished run of weakrest, used again."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from converters.cli.errors import DatasetError
from finetune.anomaly.features import build_backbone, features_of, weights_of_run
from finetune.anomaly.weak.evaluation import SET, class_of, evaluate, judged
from finetune.anomaly.weak.network import ResidualTransformer
from finetune.anomaly.weak.recipe import Recipe
from finetune.anomaly.weak.residuals import Memory
from finetune.runs.answers import Answer, Predictor, image_threshold, known_about
from finetune.runs.dataset import Dataset
from finetune.runs.predictions import PredictionSet
from finetune.runs.run_folder import Run, finished_run, write_record
from finetune.training.checkpoints import load_state, save_state
from finetune.training.heat_maps import boxes_of, full_size
from finetune.training.images import load_images, one_image
from finetune.training.processes import prepare_device

NEEDED = ("model.pt", "memory.pt")


def evaluate_again(
    folder: Path, dataset: Dataset, device: str, weights: Path | None = None, boxes: Path | None = None
) -> None:
    """Score val and test again with what the finished run in ``folder`` kept.

    Rewrites the predictions, and the measures in run.json. ``weights`` is where the file of the network that features
    come from lies now; ``boxes`` are for other models. Raises DatasetError for other weights than the run's.
    """
    record = finished_run(folder, dataset, NEEDED)
    recipe, backbone, network, memory = load_run(folder, record["settings"], device, weights)
    parts = {part: load_images(dataset, part, recipe.imgsz) for part in dataset.judged_parts}
    run = Run(folder, dataset, record["settings"])
    measured = evaluate(run, backbone, recipe.arch, network, memory, parts, str(memory.features.device))
    write_record(folder, record | {"metrics": measured})


def predictor(
    folder: Path, dataset: Dataset, device: str, weights: Path | None = None, boxes: Predictor | None = None
) -> Predictor:
    """The finished run in ``folder``, ready for new images."""
    record, source = finished_run(folder, dataset, NEEDED), PredictionSet(folder / "predictions" / SET)
    middle, level = known_about(source, "heatmap_middle", "box_threshold")
    recipe, backbone, network, memory = load_run(folder, record["settings"], device, weights)
    classes = len(dataset.classes)

    @torch.no_grad()
    def look(image: NDArray[np.uint8]) -> Answer:
        pixels, size = one_image(image, recipe.imgsz).to(memory.features.device), (image.shape[1], image.shape[0])
        features = features_of(backbone, recipe.arch, pixels)
        ((heat, scores),) = judged(network, memory, features, recipe.imgsz, classes)
        return Answer(scores, list(boxes_of(heat, size, class_of(scores), level, middle)), full_size(heat, size))

    return Predictor(look, dataset.classes, image_threshold(source, dataset), middle, level, source=source)


def save_run(folder: Path, memory: Memory) -> None:
    """Save the memory beside model.pt, for ``load_run``."""
    state = {"features": memory.features, "places": memory.places, "owners": memory.owners}
    save_state({name: value.cpu() for name, value in state.items()}, folder / "memory.pt")


def load_run(
    folder: Path, settings: dict[str, Any], device: str, weights: Path | None
) -> tuple[Recipe, nn.Module, ResidualTransformer, Memory]:
    """Recipe, both networks and memory of a run; raises DatasetError for weights that are gone, or others."""
    recipe = Recipe(**{item.name: settings[item.name] for item in fields(Recipe)})
    device = prepare_device(device)
    backbone = build_backbone(recipe, weights_of_run(folder, settings, weights)).to(device)
    memory = Memory(**{name: value.to(device) for name, value in load_state(folder / "memory.pt", "RUN").items()})
    state = load_state(folder / "model.pt", "RUN")
    network = ResidualTransformer(state["deviation"], len(state["head.bias"]) - 1)
    network.load_state_dict(state)
    return recipe, backbone, network.to(device).eval(), memory


def export_run(folder: Path, dataset: Dataset, device: str, to: Path | None, weights: Path | None = None) -> list[Path]:
    """There is none: always raises DatasetError."""
    raise DatasetError(f"{folder}: a run of weakrest has no export yet; use predict.py")
