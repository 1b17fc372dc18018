"""The report of a run of SAM's decoder: predictions for each kind of prompt, before and after, and a table."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import click
import numpy as np
import torch

from converters.cli.terminal import table
from finetune.measures.masks import TOP
from finetune.runs.dataset import Dataset
from finetune.runs.predictions import image_scores
from finetune.runs.run_folder import Run, synthetic_images_of
from finetune.segmentation.embedding_sources import encode
from finetune.segmentation.evaluation import (
    AUTO,
    BOXES,
    CLICKS,
    ORACLES,
    Boxes,
    Map,
    Parts,
    Row,
    answer,
    ask,
    boxes_map,
    detection,
    gain,
    measure_maps,
    overlap,
    summarise,
    token_map,
)
from finetune.segmentation.images import MarkedImage
from finetune.segmentation.models import Segmenter
from finetune.segmentation.prompts import Prompt
from finetune.segmentation.steps import Source
from finetune.training.timing import cost_of_answers

MODEL = "SAM decoder"
ABOUT = {"model": MODEL, "label": "mask"}  # of every set


def judge_of(segmenter: Segmenter, source: Source, val: Sequence[MarkedImage]) -> Callable[[], float] | None:
    """The score that chooses the epoch: mean IoU of val's instances with their boxes; None where val has no defect.

    With learned tokens, the mean of that and of the Dice of their map at one half.
    """
    marked = [image for image in val if image.marked]
    if not marked:
        return None

    def judge() -> float:
        rows = ask(segmenter, source, marked, "gt-box", boundaries=False)
        score = float(np.mean([row.measures["iou"] for row in rows]))
        if segmenter.tokens is None:
            return score
        heats = ((image.mask(), token_map(segmenter, source([(image, 0)]), image.size()).heat) for image in marked)
        dices = [overlap((heat > TOP // 2).astype(np.uint8), mask)["dice"] for mask, heat in heats]
        return (score + float(np.mean(dices))) / 2

    return judge


def evaluate(
    segmenter: Segmenter,
    source: Source,
    parts: Parts,
    dataset: Dataset,
    boxes: Boxes | None,
    run: Run | None,
    detector: float | None = None,
) -> dict[str, list[Row]]:
    """Rows of test for each prompt kind; with a run, predictions for val and test are written as its sets.

    ``detector`` is the time in which an image's boxes were found, s; None if that isn't known. Without a run (before
    the training) the learned tokens know nothing yet, and are left out.
    """
    rows = {kind: ask_person(segmenter, source, parts, dataset, kind, run) for kind in ORACLES}
    makers: dict[str, Callable[[Source, MarkedImage], Map]] = {}
    if segmenter.tokens is not None and run:
        makers[AUTO] = lambda source, image: token_map(segmenter, source([(image, 0)]), image.size())
    if boxes is not None:
        makers[BOXES] = lambda source, image: boxes_map(
            segmenter, source([(image, 0)]), image.size(), dataset.image_ids[image.name], boxes
        )
    for kind, make in makers.items():
        rows[kind], level = measure_maps(partial(make, source), parts, kind, run)
        if run:
            heatmap = {"heatmap": "chance of a defect", "heatmap_middle": 1.0}
            prompt = None if kind == AUTO else "box"
            cost = map_cost(make, segmenter, parts["test"], detector if kind == BOXES else 0.0)
            run.describe_set(kind, **ABOUT, prompt=prompt, oracle=False, clicks=0, **heatmap, **level, **cost)
    return rows


def ask_person(
    segmenter: Segmenter, source: Source, parts: Parts, dataset: Dataset, kind: str, run: Run | None
) -> list[Row]:
    """Rows of test for prompts from the truth; with a run, the set ``kind`` is written."""
    rows: list[Row] = []
    for part in ("val", "test") if run else ("test",):
        rows = ask(segmenter, source, parts[part], kind)
        if run:
            ids = dataset.image_ids
            found = [detection(ids[row.image.name], row.kind, row.score, row.rle) for row in rows if row.rle]
            scores = image_scores(dataset.images(part), ids, len(dataset.classes), found)
            run.write_predictions(kind, part, found, scores)
    if run:
        run.describe_set(kind, **ABOUT, prompt=kind, oracle=True, clicks=CLICKS[kind])
    return rows


def compare_rows(
    dataset: Dataset, before: dict[str, list[Row]], after: dict[str, list[Row]]
) -> dict[str, dict[str, Any]]:
    """Measures for each prompt kind, before and after, and the gain over the start and over filled prompt boxes."""
    found: dict[str, dict[str, Any]] = {}
    for kind, rows in after.items():
        found[kind] = {"after": summarise(rows, dataset.classes)}
        if not np.isnan([row.baseline for row in rows]).any():
            found[kind]["over_filled_box"] = gain(dataset, rows, [row.baseline for row in rows])
        if kind in before:
            found[kind]["before"] = summarise(before[kind], dataset.classes)
            found[kind]["over_before"] = gain(dataset, rows, [row.measures["iou"] for row in before[kind]])
    return found


def print_measures(record: Mapping[str, Any]) -> None:
    """Print what a run's record says of test."""
    settings = record["settings"]
    origin = "random weights" if record["random_weights"] else settings["weights"] or record["start"]
    how = f"--train {settings['train']}, seed {settings['seed']}"
    synthetic = ", SYNTHETIC images" if record["synthetic"] else ""
    trained = f"from {origin}{synthetic_images_of(record)}, {how}{synthetic}"
    click.echo(f"{record['dataset']}: SAM {settings['arch']} {trained}; on test:")
    click.echo(table([cells(kind, found) for kind, found in record["metrics"].items()], HEADER))


HEADER = (
    "prompt", "of", "IoU before", "IoU after", "filled box", "over filled box, 95 %", "Dice", "boundary 0.02",
    "boundary 0.005", "worst class",
)  # fmt: skip


def cells(kind: str, found: dict[str, Any]) -> tuple[str, ...]:
    after, over = found["after"], found.get("over_filled_box")
    worst = next(entry for entry in after["classes"] if entry["class"] == after["worst_class"])
    low, high = (over or {}).get("interval") or (float("nan"),) * 2
    return (
        kind,
        f"{after['count']} {'images' if kind in (AUTO, BOXES) else 'instances'}",
        f"{found['before']['iou']:.3f}" if "before" in found else "-",
        f"{after['iou']:.3f}",
        f"{after['filled_box_iou']:.3f}" if over else "-",
        f"{over['gain']:+.3f} ({low:+.3f} to {high:+.3f})" if over else "-",
        f"{after['dice']:.3f}",
        f"{after['boundary_iou_0.02']:.3f}",
        f"{after['boundary_iou_0.005']:.3f}",
        f"{after['worst_class']} {worst['iou']:.2f}",
    )


@torch.no_grad()
def prompt_cost(segmenter: Segmenter, images: Sequence[MarkedImage], device: str) -> dict[str, float | None]:
    """What an image and one box cost, encoder and decoder, from the image's file; see ``cost_of_answers``."""
    by_name = {image.name: image for image in images}

    def answered(name: str) -> object:
        image = by_name[name]
        size = image.size()
        box = Prompt(box=np.array([0, 0, size[1], size[0]], np.float32))
        return list(answer(segmenter, encode(segmenter, [(image, 0)]), [box], size))

    return cost_of_answers(answered, list(by_name), device)


def map_cost(
    make: Callable[[Source, MarkedImage], Map],
    segmenter: Segmenter,
    images: Sequence[MarkedImage],
    before: float | None,
) -> dict[str, float | None]:
    """What an image's map costs, encoder and decoder, and the ``before`` seconds of its detector (None: unknown)."""
    by_name, fresh = {image.name: image for image in images}, partial(encode, segmenter)
    cost = cost_of_answers(lambda name: make(fresh, by_name[name]), list(by_name), str(segmenter.sam.device))
    own = cost["seconds_per_image"]
    return cost | {"seconds_per_image": None if own is None or before is None else round(own + before, 5)}
