"""What can be done with a finished run of SAM's decoder: measure it again, use it, and export it."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from converters.cli.errors import DatasetError
from converters.masks.rle import encode as encode_mask
from finetune.measures.masks import TOP
from finetune.runs.answers import Answer, Asked, Predictor, detections_scores, image_threshold, known_about
from finetune.runs.checksums import sha256
from finetune.runs.dataset import Dataset
from finetune.runs.predictions import PredictionSet
from finetune.runs.run_folder import Run, finished_run, write_record
from finetune.segmentation.embedding_sources import encode
from finetune.segmentation.evaluation import (
    AUTO,
    BOXES,
    Map,
    Row,
    boxes_map,
    boxes_sha256,
    components,
    detection,
    draw_worst,
    token_map,
)
from finetune.segmentation.exported import Files, write_files
from finetune.segmentation.images import fitted, images_of
from finetune.segmentation.models import export, framed, load_tuned
from finetune.segmentation.prompts import Prompt, box_of
from finetune.segmentation.report import compare_rows, evaluate, prompt_cost
from finetune.segmentation.settings import MOBILE, Request
from finetune.segmentation.setup import Job, make_job, source_of
from finetune.segmentation.steps import Source
from finetune.training.processes import prepare_device

TUNED = "tuned.pt"
MIDDLE = 0.5  # of the chances that its heat maps are of


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


def export_run(folder: Path, dataset: Dataset, device: str, to: Path | None, weights: Path | None = None) -> list[Path]:
    """Write the whole model of a finished run, and return the files; ``weights`` is where its checkpoint lies now.

    For Meta's own builders sam.pth (none of a mobile_sam, which they don't know), for ONNX sam_encoder.onnx and
    sam_decoder.onnx, in the run or in the folder ``to``. A file FILE.pth is that one alone; FILE.onnx is called
    FILE_encoder.onnx and FILE_decoder.onnx. Raises DatasetError for a mobile_sam as .pth.
    """
    record = finished_run(folder, dataset, [TUNED])
    mobile, alone = record["settings"]["arch"] == MOBILE, to is not None and to.suffix == ".pth"
    if mobile and alone:
        raise DatasetError(f"--to {to}: SamPredictor knows no {MOBILE}; name FILE.onnx")
    segmenter = load_tuned(folder / TUNED, weights)
    base = (to or folder) / "sam" if to is None or to.is_dir() else to.with_suffix("")
    about = {"model": record["model"], "classes": dataset.classes}
    if segmenter.tokens is not None:
        source = PredictionSet(folder / "predictions" / AUTO)
        about |= {"threshold": image_threshold(source, dataset), "level": known_about(source, "level")[0]}
    files = []
    if alone or (not mobile and (to is None or to.is_dir())):
        files.append(base.with_name(f"{base.name}.pth"))
        export(segmenter.sam, files[0])
    if not alone:
        encoder, decoder = (base.with_name(f"{base.name}_{half}.onnx") for half in ("encoder", "decoder"))
        files += write_files(segmenter, encoder, decoder, about)
    return files


def exported(folder: Path, dataset: Dataset, files: Sequence[Path]) -> dict[str, Asked]:
    """What the exported files say of two sets' images: masks for the truth's boxes and, if learned, the tokens'.

    Raises DatasetError for the .pth alone.
    """
    if len(files) < 2:
        raise DatasetError(f"--check: is for ONNX, and {files[0]} is none: name a folder or FILE.onnx with --to")
    settings = finished_run(folder, dataset, [TUNED])["settings"]
    model, classes = Files(files[-2], files[-1], settings["imgsz"]), len(dataset.classes)
    marked = {
        (part, image.name): image
        for part in ("val", "test")
        for image in images_of(dataset, part, settings["instances"] == "image")
    }

    def by_boxes(part: str, name: str, image: NDArray[np.uint8]) -> Answer:
        ids, kinds = marked[part, name].instances()
        prompts = [Prompt(box=box_of((ids == number).astype(np.uint8))) for number in range(1, len(kinds) + 1)]
        answers = zip(kinds, model.boxes(image, prompts), strict=True)
        found = [
            without_id(detection(0, kind, min(1.0, max(0.0, score)), encode_mask(logits > 0)))
            for kind, (logits, score) in answers
            if (logits > 0).any()
        ]
        return Answer(detections_scores(found, classes), found)

    def by_tokens(part: str, name: str, image: NDArray[np.uint8]) -> Answer:
        return answer_of(model.tokens(image, classes), level)

    if not settings["auto"]:
        return {"gt-box": by_boxes}
    level = level_of(folder)
    return {"gt-box": by_boxes, AUTO: by_tokens}


def level_of(folder: Path) -> int:
    """The level of the learned tokens' map at which regions count as found, 0..TOP, which val has chosen."""
    return round(known_about(PredictionSet(folder / "predictions" / AUTO), "level")[0] * TOP)


def answer_of(found: Map, level: int) -> Answer:
    """The learned tokens' map as an answer."""
    assert found.kinds is not None and found.scores is not None
    parts = [without_id(entry) for entry in components(found.heat, found.kinds, level, 0)]
    return Answer(found.scores, parts, (found.heat / TOP).astype(np.float32))


def without_id(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key != "image_id"}


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
    level = 0 if boxes else level_of(folder)

    @torch.no_grad()
    def look(image: NDArray[np.uint8]) -> Answer:
        if not min(fitted(image.shape[:2], segmenter.sam.image_encoder.img_size)):
            raise DatasetError(f"is {image.shape[1]} x {image.shape[0]} px: too thin for SAM, which makes it square")
        embedding = segmenter.sam.image_encoder(framed(segmenter.sam, image)[None])
        if cached:
            embedding = embedding.half().float()  # as the cache keeps it, so that answers are the same
        size = (image.shape[0], image.shape[1])
        if boxes is None:
            return answer_of(token_map(segmenter, embedding, size), level)
        prompts = [{"image_id": 0, **found} for found in boxes.look(image).detections]
        masks = boxes_map(segmenter, embedding, size, 0, {0: prompts})
        found = [without_id(entry) for entry in masks.detections]
        return Answer(detections_scores(found, classes), found, (masks.heat / TOP).astype(np.float32))

    if boxes is None:
        own = PredictionSet(folder / "predictions" / AUTO)
        return Predictor(look, dataset.classes, image_threshold(own, dataset), MIDDLE, source=own)
    known = boxes.run and boxes_sha256(boxes.run) == record["settings"]["boxes_sha256"]
    own = PredictionSet(folder / "predictions" / BOXES)
    threshold = image_threshold(own, dataset) if known else boxes.threshold
    judged_by = own if known else boxes.source
    return Predictor(look, dataset.classes, threshold, MIDDLE, least=threshold, source=judged_by)
