"""A finished run of the classifier, used again."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.classification.class_maps import mapper
from finetune.classification.evaluation import SET, evaluate
from finetune.classification.graph import Graph
from finetune.classification.loop import Job, load_network, logits_of_pixels
from finetune.classification.recipes import Attempt
from finetune.measures.decisions import softmax
from finetune.runs.answers import Answer, Asked, Predictor, image_threshold, known_about
from finetune.runs.dataset import Dataset
from finetune.runs.predictions import PredictionSet
from finetune.runs.run_folder import Run, finished_run, write_record
from finetune.training.heat_maps import boxes_of, full_size
from finetune.training.images import load_images, one_image
from finetune.training.onnx_files import judge_of, write_image_onnx
from finetune.training.processes import prepare_device

NEEDED = ("model.pt",)


def evaluate_again(
    folder: Path, dataset: Dataset, device: str, weights: Path | None = None, boxes: Path | None = None
) -> None:
    """Predict val and test again by the settings and the weights of the finished run in ``folder``.

    Rewrites the predictions, and the measures in run.json. ``weights`` and ``boxes`` are for models that need other
    files than the run's own; this one does not.
    """
    record = finished_run(folder, dataset, NEEDED)
    settings = record["settings"]
    job = job_of(settings, dataset, device)
    parts = {part: load_images(dataset, part, job.attempt.imgsz) for part in dataset.judged_parts}
    measured, *_ = evaluate(Run(folder, dataset, settings), job, load_network(job, folder / "model.pt"), parts)
    write_record(folder, record | {"metrics": measured})


def job_of(settings: dict[str, Any], dataset: Dataset, device: str) -> Job:
    """The training that a run's settings record."""
    attempt = Attempt(**{item.name: settings[item.name] for item in fields(Attempt)})
    return Job(attempt, 1 + len(dataset.classes), None, prepare_device(device), settings["seed"])


def predictor(
    folder: Path, dataset: Dataset, device: str, weights: Path | None = None, boxes: Predictor | None = None
) -> Predictor:
    """The finished run in ``folder``, ready for new images."""
    record, source = finished_run(folder, dataset, NEEDED), PredictionSet(folder / "predictions" / SET)
    job, temperature = job_of(record["settings"], dataset, device), record["metrics"]["temperature"]
    network, size = load_network(job, folder / "model.pt"), job.attempt.imgsz
    mapped = job.attempt.heatmaps
    middle, level = known_about(source, "heatmap_middle", "box_threshold") if mapped else (1.0, 0.0)
    map_of = mapper(network, job.attempt.arch, size) if mapped else None

    def look(image: NDArray[np.uint8]) -> Answer:
        pixels, shape = one_image(image, size).to(job.device), (image.shape[1], image.shape[0])
        row = softmax(logits_of_pixels(network, pixels, job), temperature)[0].tolist()
        scores = [1 - row[0], *row[1:]]
        if map_of is None:
            return Answer(scores, [])
        heat = map_of(pixels)
        found = list(boxes_of(heat, shape, int(np.argmax(row[1:])) + 1, level, middle))
        return Answer(scores, found, full_size(heat, shape))

    return Predictor(look, dataset.classes, image_threshold(source, dataset), middle, level, source=source)


def export_run(folder: Path, dataset: Dataset, device: str, to: Path | None, weights: Path | None = None) -> list[Path]:
    """Write the network as an ONNX file that takes images as they come: ``to``, by default classifier.onnx in the run.

    Its scores are calibrated; there is no heat map in it.
    """
    record, source = finished_run(folder, dataset, NEEDED), PredictionSet(folder / "predictions" / SET)
    job = job_of(record["settings"], dataset, "cpu")
    about = {"model": record["model"], "classes": dataset.classes, "threshold": image_threshold(source, dataset)}
    network, attempt = load_network(job, folder / "model.pt"), job.attempt
    graph = Graph(network, attempt.arch, attempt.imgsz, record["metrics"]["temperature"])
    return [write_image_onnx(graph, attempt.imgsz, ("score", "classes"), to or folder / "classifier.onnx", about)]


def exported(folder: Path, dataset: Dataset, files: Sequence[Path]) -> dict[str, Asked]:
    """What the exported file says of the images of the run's one set."""
    judge = judge_of(files[0], len(dataset.classes))
    return {SET: lambda part, name, image: judge(image)}
