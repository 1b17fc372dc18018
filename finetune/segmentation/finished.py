"""What can be done with a finished run of SAM's decoder: measure it again, and export it for Meta's SamPredictor."""

from collections.abc import Mapping
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from converters.cli.errors import DatasetError
from finetune.measures.masks import TOP
from finetune.runs.answers import Answer, Predictor, detections_scores, image_threshold, known_about
from finetune.runs.checksums import sha256
from finetune.runs.dataset import Dataset
from finetune.runs.predictions import PredictionSet
from finetune.runs.run_folder import Run, finished_run, write_record
from finetune.segmentation.embedding_sources import encode
from finetune.segmentation.evaluation import AUTO, Row, boxes_map, boxes_sha256, components, draw_worst, token_map
from finetune.segmentation.models import export, framed, load_tuned
from finetune.segmentation.report import compare_rows, evaluate, prompt_cost
from finetune.segmentation.settings import MOBILE, Request
from finetune.segmentation.setup import Job, make_job, source_of
from finetune.segmentation.steps import Source
from finetune.training.processes import prepare_device

TUNED = "tuned.pt"


def evaluate_again(
    folder: Path, dataset: Dataset, device: str, weights: Path | None = None, boxes: Path | None = None
) -> None:
    """Predict val and test again with the weights that the finished run in ``folder`` left.

    Rewrites its predictions and, in run.json, the measures before and after training. ``weights`` and ``boxes`` name
    the checkpoint and the boxes that it began with, where they have moved; raises DatasetError for others.
    """
    record = finished_run(folder, dataset, [TUNED])
    moved = {"device": device, "weights": weights and str(weights), "boxes": boxes and str(boxes)}
    request = request_of(record["settings"] | {key: value for key, value in moved.items() if value is not None})
    if boxes_sha256(request.boxes) != record["settings"]["boxes_sha256"]:
        raise DatasetError(f"--boxes {request.boxes}: {folder} began with other predictions, or none: name those")
    job = make_job(request, dataset, None)
    if (job.origin.weights and sha256(job.origin.weights)) != record["weights_sha256"]:
        raise DatasetError(f"--weights {request.weights}: {folder} began with others: name those")
    source = source_of(request, job, learns=False)
    before = evaluate(job.segmenter, source, job.parts, dataset, job.boxes, None)
    record |= measure_tuned(job, Run(folder, dataset, record["settings"]), source, before)
    write_record(folder, record)


def request_of(settings: Mapping[str, Any]) -> Request:
    """The request that a run's settings record."""
    given = {field.name: settings[field.name] for field in fields(Request)}
    return Request(**given | {"runs": Path(given["runs"]), "boxes": given["boxes"] and Path(given["boxes"])})


def export_run(folder: Path, dataset: Dataset, device: str, to: Path | None) -> Path:
    """Write the whole model of a finished run as Meta's own builders load it: ``to``, by default sam.pth beside it.

    Raises DatasetError for a mobile_sam, which SamPredictor doesn't know.
    """
    record = finished_run(folder, dataset, [TUNED])
    if record["settings"]["arch"] == MOBILE:
        raise DatasetError(
            f"{folder}: SamPredictor knows no {MOBILE}; load {TUNED} with finetune.segmentation.models.load_tuned"
        )
    path = to or folder
    path = path / "sam.pth" if path.is_dir() else path
    export(load_tuned(folder / TUNED).sam, path)
    return path


def measure_tuned(job: Job, run: Run, source: Source, before: dict[str, list[Row]]) -> dict[str, Any]:
    """Load what the run has saved, and write its predictions; what run.json says of it.

    ``source`` is that of the start, ``before`` the start's rows.
    """
    segmenter = load_tuned(run.folder / TUNED, job.origin.weights).to(job.device)
    source = source if job.recipe.frozen else partial(encode, segmenter)
    after = evaluate(segmenter, source, job.parts, run.dataset, job.boxes, run, job.detector_seconds)
    draw_worst(after["gt-box"], run.dataset.classes, run.folder / "worst.png")
    return {
        "parameters": sum(value.numel() for value in segmenter.parameters()),
        **prompt_cost(segmenter, job.parts["test"], job.device),
        "device": job.device,
        "metrics": compare_rows(run.dataset, before, after),
    }


def predictor(
    folder: Path, dataset: Dataset, device: str, weights: Path | None = None, boxes: Predictor | None = None
) -> Predictor:
    """The finished run in ``folder``, ready for new images, with another run's ``boxes`` as prompts or, for None, with
    the tokens that it learned with --auto.

    Raises DatasetError for a run without such tokens and no boxes, or boxes of other classes.
    """
    record = finished_run(folder, dataset, [TUNED])
    job_device = prepare_device(device)
    segmenter = load_tuned(folder / TUNED, weights).to(job_device)
    if boxes is None and segmenter.tokens is None:
        raise DatasetError(f"{folder}: was trained without --auto and needs prompts: add --boxes RUN, a run of yolo.py")
    if boxes and boxes.classes != dataset.classes:
        raise DatasetError(f"--boxes: knows other classes ({', '.join(boxes.classes)}) than {folder}")
    cached, classes = request_of(record["settings"]).recipe().frozen, len(dataset.classes)
    source = PredictionSet(folder / "predictions" / AUTO)
    level = 0 if boxes else round(known_about(source, "level")[0] * TOP)

    @torch.no_grad()
    def look(image: NDArray[np.uint8]) -> Answer:
        embedding = segmenter.sam.image_encoder(framed(segmenter.sam, image)[None])
        if cached:
            embedding = embedding.half().float()  # as the cache keeps it, so that answers are the same
        size = (image.shape[0], image.shape[1])
        if boxes:
            prompts = [{"image_id": 0, **found} for found in boxes.look(image).detections]
            answer = boxes_map(segmenter, embedding, size, 0, {0: prompts})
            found = answer.detections
        else:
            answer = token_map(segmenter, embedding, size)
            assert answer.kinds is not None
            found = components(answer.heat, answer.kinds, level, 0)
        found = [{key: value for key, value in entry.items() if key != "image_id"} for entry in found]
        return Answer(answer.scores or detections_scores(found, classes), found, (answer.heat / TOP).astype(np.float32))

    threshold = boxes.threshold if boxes else image_threshold(source, dataset)
    judged_by = boxes.source if boxes else source
    return Predictor(look, dataset.classes, threshold, least=threshold if boxes else 0.0, source=judged_by)
