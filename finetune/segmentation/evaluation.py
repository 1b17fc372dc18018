"""Evaluate how well a SAM segments defects for each kind of prompt, and write its predictions.

With prompts made from the truth (an oracle), each instance is measured at full image size. Without a person
(learned tokens, or another model's boxes), each image's map is, at the level that val prefers.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from converters.cli.errors import DatasetError
from converters.cli.terminal import progress
from converters.masks.rle import encode
from finetune.measures.bootstrap import interval, resample
from finetune.measures.masks import TOP, best_level, rings
from finetune.measures.masks import decode as decode_mask
from finetune.measures.pixels import BOUNDARY_RATIOS, boundary
from finetune.runs.dataset import Dataset
from finetune.runs.predictions import PredictionSet, image_scores
from finetune.runs.run_folder import Run, read_record
from finetune.runs.truth import Truth
from finetune.segmentation.images import MarkedImage
from finetune.segmentation.models import Segmenter, decode, embed_prompts, enlarged
from finetune.segmentation.prompts import Mask, Prompt, box_of, inner_point, noisy_box, spread_points
from finetune.segmentation.steps import Source, token_answers
from finetune.training.worst_sheet import SHOWN, Mark, Tile, draw_sheet

AUTO, BOXES = "auto", "yolo-box"
CLICKS = {"gt-box": 2, "jittered-box": 2, "one-point": 1, "three-points": 3, BOXES: 0, AUTO: 0}
ORACLES = tuple(CLICKS)[:4]
TOGETHER = 32  # prompts in a decoder call
MOST_BOXES = 30  # of an image, the surest ones
RESAMPLES = 2000
Heat = NDArray[np.uint16]
Parts = dict[str, list[MarkedImage]]
Boxes = dict[int, list[dict[str, Any]]]  # COCO results of another model, by image id


@dataclass(frozen=True)
class Row:
    """One instance, or one image, measured."""

    image: MarkedImage
    number: int  # of the instance; 0 for all defects of the image
    kind: int  # index of the class
    measures: dict[str, float]
    baseline: float  # IoU of the filled prompt box; NaN without boxes
    rle: dict[str, Any] | None = None  # what was found of an instance; None for nothing
    score: float = np.nan  # IoU that the model expected


def make_prompt(kind: str, mask: Mask, seed: str) -> Prompt:
    """The prompt that a person would give for a mask; the same for every model and every call."""
    if kind == "gt-box":
        return Prompt(box=box_of(mask))
    if kind == "jittered-box":
        generator = np.random.default_rng(int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "big"))
        return Prompt(box=noisy_box(box_of(mask), (mask.shape[0], mask.shape[1]), generator))
    prompt = Prompt()
    for point in inner_point(mask)[None] if kind == "one-point" else spread_points(mask, 3):
        prompt = prompt.with_point(point, 1)
    return prompt


@torch.no_grad()
def answer(
    segmenter: Segmenter, embedding: torch.Tensor, prompts: Sequence[Prompt], size: tuple[int, int]
) -> Iterator[tuple[NDArray[np.float32], float]]:
    """For each prompt the logits, H x W at the image's ``size``, and the expected IoU.

    ``embedding`` is 1 x C x g x g. A lone point is ambiguous: of masks 1 to 3, the one the model expects most of.
    """
    sam = segmenter.sam
    for start in range(0, len(prompts), TOGETHER):
        group = prompts[start : start + TOGETHER]
        ambiguous = group[0].box is None and len(group[0].points) == 1
        low, ious = decode(sam, embedding, *embed_prompts(sam, group, size))
        best = ious[:, 1:].argmax(1) + 1 if ambiguous else torch.zeros(len(group), dtype=torch.long)
        for index, mask in enumerate(best.tolist()):
            logits = enlarged(sam, low[index : index + 1, mask : mask + 1], size)[0, 0]
            yield logits.cpu().numpy(), float(ious[index, mask].clamp(0, 1))


def ask(
    segmenter: Segmenter, source: Source, images: Sequence[MarkedImage], kind: str, boundaries: bool = True
) -> list[Row]:
    """Measure every instance of the images for one prompt kind."""
    rows = []
    with progress([p for p in images if p.marked], sum(p.marked for p in images), kind) as marked:
        for image in marked:
            ids, kinds = image.instances()
            masks = [(ids == number).astype(np.uint8) for number in range(1, len(kinds) + 1)]
            prompts = [make_prompt(kind, mask, f"{image.name} {number}") for number, mask in enumerate(masks)]
            answers = answer(segmenter, source([(image, 0)]), prompts, ids.shape)
            for number, (mask, prompt, (logits, score)) in enumerate(zip(masks, prompts, answers, strict=True)):
                found = (logits > 0).astype(np.uint8)
                baseline = np.nan if prompt.box is None else overlap(filled(prompt.box, mask.shape), mask)["iou"]
                rle = encode(found) if found.any() else None
                rows.append(
                    Row(image, number + 1, kinds[number], overlap(found, mask, boundaries), baseline, rle, score)
                )
    return rows


def filled(box: Iterable[float], size: Sequence[int]) -> Mask:
    """A box as a mask: the pixels whose centres lie in it."""
    canvas = np.zeros(size, np.uint8)
    x0, y0, x1, y1 = (max(0, int(np.ceil(value - 0.5))) for value in box)
    canvas[y0:y1, x0:x1] = 1
    return canvas


def overlap(found: Mask, mask: Mask, boundaries: bool = False) -> dict[str, float]:
    """IoU, Dice and, if wanted, boundary IoU of two masks, H x W of 0 and 1, of which the second is not empty."""
    both, sizes = int((found & mask).sum()), int(found.sum()) + int(mask.sum())
    values = {"iou": both / (sizes - both), "dice": 2 * both / sizes}
    for ratio in BOUNDARY_RATIOS if boundaries else ():
        ours, theirs = boundary(found, ratio), boundary(mask, ratio)
        values[f"boundary_iou_{ratio}"] = int((ours & theirs).sum()) / max(1, int((ours | theirs).sum()))
    return values


def detection(image_id: int, kind: int, score: float, rle: dict[str, Any]) -> dict[str, Any]:
    """A COCO result with a mask."""
    box = [float(value) for value in coco_mask.toBbox(rle)]
    return {
        "image_id": image_id, "category_id": kind + 1, "bbox": box, "score": round(score, 5), "segmentation": rle,
    }  # fmt: skip


@dataclass(frozen=True)
class Map:
    """The answer for an image without a prompt: H x W on one scale for all images, and COCO results."""

    heat: Heat
    baseline: Heat | None  # the same with every box filled
    scores: list[float] | None  # of a defect and of each class; None: follow from the detections
    detections: list[dict[str, Any]]
    kinds: Heat | None = None  # the likeliest class of every pixel; None: the detections are there already


@torch.no_grad()
def token_map(segmenter: Segmenter, embedding: torch.Tensor, size: tuple[int, int]) -> Map:
    """The learned tokens' map: the chance of any defect, and with it the likeliest class, pixel by pixel."""
    low, _ = token_answers(segmenter, embedding)
    chances = torch.stack([enlarged(segmenter.sam, one[None], size)[0, 0].sigmoid() for one in low]).cpu().numpy()
    scores = [float(value) for value in chances.max((1, 2))]
    kinds = chances[1:].argmax(0).astype(np.uint16)
    return Map(np.round(chances[0] * TOP).astype(np.uint16), None, scores, [], kinds)


def boxes_map(segmenter: Segmenter, embedding: torch.Tensor, size: tuple[int, int], image_id: int, boxes: Boxes) -> Map:
    """Another model's boxes of the image as prompts: masks with the boxes' scores and classes."""
    heat, baseline = (np.zeros(size, np.float32) for _ in range(2))
    surest = sorted(boxes.get(image_id, []), key=lambda entry: -entry["score"])[:MOST_BOXES]
    corners = [(x, y, x + w, y + h) for x, y, w, h in (entry["bbox"] for entry in surest)]
    prompts = [Prompt(box=np.array(box, np.float32)) for box in corners]
    found = []
    if prompts:
        answers = answer(segmenter, embedding, prompts, size)
        for entry, box, (logits, _) in zip(surest, corners, answers, strict=True):
            np.maximum(heat, entry["score"] / (1 + np.exp(-logits.clip(-30, 30))), out=heat)
            np.maximum(baseline, entry["score"] * filled(box, size), out=baseline)
            if (logits > 0).any():
                found.append(detection(image_id, entry["category_id"] - 1, entry["score"], encode(logits > 0)))
    return Map(np.round(heat * TOP).astype(np.uint16), np.round(baseline * TOP).astype(np.uint16), None, found)


def components(heat: Heat, kinds: Heat, level: int, image_id: int) -> list[dict[str, Any]]:
    """Connected parts of a map at or above a level as COCO results; scored by their peak, named by their pixels."""
    count, labels = cv2.connectedComponents((heat >= level).astype(np.uint8), connectivity=8)
    found = []
    for number in range(1, count):
        part = labels == number
        kind, peak = int(np.bincount(kinds[part]).argmax()), float(heat[part].max()) / TOP
        found.append(detection(image_id, kind, peak, encode(part)))
    return found


def measure_maps(
    make: Callable[[MarkedImage], Map], parts: Parts, name: str, run: Run | None
) -> tuple[list[Row], dict[str, Any]]:
    """Measure the maps of test's defect images at val's level; rows, and the level with the false alarms.

    With a run, its set ``name`` is written for val and test: scores, detections and heat maps.
    """
    levels: dict[str, int] = {}
    for part in (part for part in parts if part != "train"):
        maps = {}
        with progress(parts[part], len(parts[part]), f"{name}, {part}") as images:
            for image in images:
                maps[image.name] = make(image)
                if run is not None:
                    run.write_heatmaps(name, part, {image.name: maps[image.name].heat / TOP}, 1.0)
        if part == "val":
            for side in ("heat", "baseline"):
                pairs = [(getattr(maps[p.name], side), p.mask()) for p in parts[part]]
                if pairs[0][0] is not None:
                    levels[side] = best_level(pairs)
        if run is not None:
            _write_maps(run, name, part, maps, levels["heat"])
    rows, alarms = [], []
    for image in parts["test"]:
        shown, mask, baseline = maps[image.name], image.mask(), np.nan
        found = (shown.heat >= levels["heat"]).astype(np.uint8)
        if not image.marked:
            alarms.append(bool(found.any()))
            continue
        if shown.baseline is not None:
            baseline = overlap((shown.baseline >= levels["baseline"]).astype(np.uint8), mask)["iou"]
        rows.append(Row(image, 0, image.main_kind(), overlap(found, mask, boundaries=True), baseline))
    return rows, {"level": levels["heat"] / TOP, "good_images_with_alarm": sum(alarms), "good_images": len(alarms)}


def _write_maps(run: Run, name: str, part: str, maps: Mapping[str, Map], level: int) -> None:
    dataset, found, scores = run.dataset, [], {}
    for image, item in maps.items():
        id_ = dataset.image_ids[image]
        found += item.detections if item.kinds is None else components(item.heat, item.kinds, level, id_)
        if item.scores is not None:
            scores[image] = item.scores
    scores = scores or image_scores(list(maps), dataset.image_ids, len(dataset.classes), found)
    run.write_predictions(name, part, found, scores)


def boxes_set(folder: Path) -> Path:
    """The set of boxes that another run predicted: ``folder``, or its set ``tuned`` where it is that run's.

    Raises DatasetError where there is none.
    """
    found = folder if (folder / "val.json").is_file() else folder / "predictions" / "tuned"
    for part in ("val", "test"):
        if not (found / f"{part}.json").is_file():
            raise DatasetError(f"--boxes {folder}: holds no predictions/tuned/{part}.json: name a run of yolo.py")
    return found


def read_boxes(folder: Path, dataset: Dataset) -> Boxes:
    """Boxes that another run predicted; raises DatasetError if it knows other classes."""
    source = boxes_set(folder)
    record = source.absolute().parents[1] / "run.json"
    names = read_record(record.parent)["label_settings"]["class_names"] if record.is_file() else dataset.classes
    if any(theirs != ours for theirs, ours in zip(names, dataset.classes, strict=False)):  # synthetic images add some
        raise DatasetError(
            f"--boxes {folder}: knows other classes ({', '.join(names)}) than {dataset.folder} has "
            f"({', '.join(dataset.classes)}): name a run on those"
        )
    found: Boxes = {}
    for part in dataset.judged_parts:
        for entry in PredictionSet(source).detections(dataset, part) or ():
            found.setdefault(entry["image_id"], []).append(entry)
    return found


def seconds_of_boxes(folder: Path, device: str) -> float | None:
    """Seconds an image in which another run's model found its boxes; None where that isn't known of such a device."""
    source = boxes_set(folder)
    record = source.absolute().parents[1]
    if not (record / "run.json").is_file():
        return None
    known = read_record(record)
    known |= {key: value for key, value in PredictionSet(source).about.items() if key in known}
    same = torch.device(known.get("device") or "meta").type == torch.device(device).type
    # what lacks gpu_peak_memory_mb was timed in another way
    return known["seconds_per_image"] if same and "gpu_peak_memory_mb" in known else None


def boxes_sha256(folder: Path | None) -> str | None:
    """Of the files in which another run's boxes lie; None for no run."""
    if folder is None:
        return None
    source = boxes_set(folder)
    return hashlib.sha256(b"".join((source / f"{part}.json").read_bytes() for part in ("val", "test"))).hexdigest()


def summarise(rows: Sequence[Row], classes: Sequence[str]) -> dict[str, Any]:
    """Means over all rows and over each class's, with the worst row and the worst class by IoU."""
    by_class: list[dict[str, Any]] = []
    for kind, name in enumerate(classes):
        own = [row for row in rows if row.kind == kind]
        if own:
            by_class.append({"class": name, "count": len(own), **_means(own)})
    worst = min(by_class, key=lambda entry: entry["iou"])
    return {"count": len(rows), **_means(rows), "worst_class": worst["class"], "classes": by_class}


def _means(rows: Sequence[Row]) -> dict[str, float | None]:
    found: dict[str, float | None] = {
        name: float(np.mean([row.measures[name] for row in rows])) for name in rows[0].measures
    }
    baselines = np.array([row.baseline for row in rows])
    found["filled_box_iou"] = None if np.isnan(baselines).any() else float(baselines.mean())
    return found | {"worst_iou": min(row.measures["iou"] for row in rows)}


def gain(dataset: Dataset, rows: Sequence[Row], others: Sequence[float]) -> dict[str, Any]:
    """By how much the rows' IoU exceeds ``others`` on test, and its 95 % interval, images resampled in their class."""
    truth = Truth(dataset, "test")
    places = {name: place for place, name in enumerate(truth.names)}
    sums, counts = np.zeros(len(places)), np.zeros(len(places))
    for row, other in zip(rows, others, strict=True):
        sums[places[row.image.name]] += row.measures["iou"] - other
        counts[places[row.image.name]] += 1
    weights = resample(truth.labels.tolist(), truth.groups, RESAMPLES, np.random.default_rng(0))
    return {"gain": float(sums.sum() / counts.sum()), "interval": interval((weights @ sums) / (weights @ counts))}


def draw_worst(rows: Sequence[Row], classes: Sequence[str], path: Path) -> None:
    """The instances with the lowest IoU in one sheet, each in a square around it."""
    tiles = []
    for row in sorted(rows, key=lambda row: row.measures["iou"])[:SHOWN]:
        ids, _ = row.image.instances()
        mask = (ids == row.number).astype(np.uint8)
        found = np.zeros_like(mask) if row.rle is None else decode_mask(row.rle, *mask.shape)
        truth, answers = ([Mark(ring) for ring in rings(side, 0)] for side in (mask, found))
        caption = f"{classes[row.kind]} {row.measures['iou']:.2f}"
        tiles.append(Tile(row.image.pixels(), _square_around(mask), truth, answers, caption))
    draw_sheet(path, tiles)


def _square_around(mask: Mask) -> tuple[int, int, int, int]:
    """x, y, width and height of a square inside the image, twice as large as the mask and of 48 px or more."""
    x0, y0, x1, y1 = (int(value) for value in box_of(mask))
    side = min(max(2 * max(x1 - x0, y1 - y0), 48), *mask.shape)
    x, y = (
        int(np.clip((low + high - side) // 2, 0, limit - side))
        for low, high, limit in ((x0, x1, mask.shape[1]), (y0, y1, mask.shape[0]))
    )
    return x, y, side, side
