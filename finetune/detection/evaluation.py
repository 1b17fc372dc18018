"""Predict val and test with a YOLO model, one image at a time, save that, and measure what was saved."""

import statistics
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from converters.cli.errors import DatasetError
from converters.cli.terminal import progress, table
from converters.masks.rle import encode
from converters.sources.samples import CALIBRATION
from finetune.detection.figures import draw_figures, measure
from finetune.detection.recipe import FORMATS
from finetune.detection.tiles import on_whole_images
from finetune.measures.boxes import SIZES, BoxEvaluation
from finetune.runs.dataset import Dataset
from finetune.runs.predictions import image_scores
from finetune.runs.run_folder import Run, read_record, synthetic_images_of
from finetune.training.timing import cost_of_answers

LEAST_SCORE = 0.001  # average precision wants the whole curve, not only the sure detections


def predict(
    model: Any, dataset: Dataset, task: str, part: str, names: Sequence[str], imgsz: int, device: str
) -> Iterator[dict[str, Any]]:
    """Detections on images of a part as COCO results, at full image size.

    Images go one by one: ultralytics would take a list of them as one batch, and pad them to a common shape.
    """
    folder, settings = dataset.format(FORMATS[task]) / "images" / part, settings_of(imgsz, device)
    with progress(names, len(names), f"predicting {part}") as bar:
        for name in bar:
            file = dataset.image_file(part, name) if part == CALIBRATION else folder / name
            answers = model.predict(str(file), **settings)
            if not answers:
                raise DatasetError(f"{file}: ultralytics cannot read it: convert again with --overwrite")
            yield from coco_results(answers[0], dataset.image_ids[name])


def settings_of(imgsz: int, device: str) -> dict[str, Any]:
    """Settings of ultralytics' ``predict``."""
    one = device.split(",")[0] or None  # of several devices, which are for training
    return {"imgsz": imgsz, "conf": LEAST_SCORE, "device": one, "verbose": False, "retina_masks": True}


def coco_results(answer: Any, image_id: int) -> Iterator[dict[str, Any]]:
    """One image's answer in the COCO results format; masks as RLE, rotated boxes as polygons."""
    boxes = answer.obb if answer.obb is not None else answer.boxes
    for index, (x0, y0, x1, y1) in enumerate(boxes.xyxy.tolist()):
        result = {
            "image_id": image_id,
            "category_id": int(boxes.cls[index]) + 1,
            "bbox": [round(value, 2) for value in (x0, y0, x1 - x0, y1 - y0)],
            "score": round(float(boxes.conf[index]), 5),
        }
        if answer.masks is not None:
            result["segmentation"] = encode(answer.masks.data[index].cpu().numpy())
        elif answer.obb is not None:
            result["segmentation"] = [boxes.xyxyxyxy[index].flatten().tolist()]
        yield result


def evaluate(
    model: Any,
    run: Run,
    task: str,
    imgsz: int,
    device: str,
    name: str = "tuned",
    /,
    tiles: Dataset | None = None,
    **about: Any,
) -> dict[str, Any]:
    """Predict val and test, save both as the set ``name``, and measure the saved boxes; ``about`` goes to set.json.

    Images for calibration are predicted and saved as well.

    With ``tiles`` of the run's dataset, the model looks at these, and what it finds is put together on whole images.
    Returns measures by part, and what an answer costs under ``cost``.
    """
    dataset = run.dataset
    found = {}
    looked = {name: [name] for part in dataset.judged_parts for name in dataset.images(part)}  # what is shown of each
    if tiles and tiles.tiles:
        looked = {name: [] for name in looked}
        for tile in (tile for part in dataset.judged_parts for tile in tiles.images(part)):
            looked[tiles.tiles["tiles"][tile]["image"]].append(tile)

    def answer(part: str, names: Sequence[str]) -> list[dict[str, Any]]:
        seen = [one for name in names for one in looked[name]]
        results = list(predict(model, tiles or dataset, task, part, seen, imgsz, device))
        return on_whole_images(results, tiles) if tiles else results

    for part in dataset.judged_parts:
        found[part] = answer(part, dataset.images(part))
        names = dataset.images(part)
        run.write_predictions(
            name, part, found[part], image_scores(names, dataset.image_ids, len(dataset.classes), found[part])
        )
    where = str(next(model.model.parameters()).device)
    cost = cost_of_answers(lambda name: answer("test", [name]), dataset.images("test"), where)
    label = "box" if task == "detect" else "mask"
    run.describe_set(name, **{"model": "YOLO", "prompt": None, "oracle": False, "label": label} | about | cost)
    evaluations = {
        part: BoxEvaluation(dataset.ground_truth(part), found[part], sizes=tuple(SIZES)) for part in ("val", "test")
    }
    measured = measure(evaluations)
    title = f"{dataset.name}, {name}, test" + (", SYNTHETIC" if dataset.synthetic else "")
    draw_figures(run.folder / "figures" / name, dataset, evaluations["test"], measured["test"].get("threshold"), title)
    return measured | {"cost": cost}


def metric_rows(metrics: dict[str, Any]) -> Iterable[tuple[str, ...]]:
    for entry in metrics["classes"]:
        yield entry["class"], entry["instances"], f"{entry['AP50']:.3f}", f"{entry['AP50-95']:.3f}"
    total = sum(entry["instances"] for entry in metrics["classes"])
    yield "mean", total, shown(metrics["mAP50"]), shown(metrics["mAP50-95"])


def shown(value: float | None) -> str:
    """A measure as text; a part without defects has none."""
    return "-" if value is None else f"{value:.3f}"


def report(folder: Path) -> str:
    """A run and its measures on test as text for the terminal."""
    record = read_record(folder)
    measured = record["metrics"]["test"]
    tiles = record["settings"]["tiles"]
    trained_on = (f", trained on {tiles}" if tiles else "") + synthetic_images_of(record)
    seconds = record["train_seconds"]
    trained = "resumed" if seconds is None else f"{seconds:.0f} s of training"
    lines = [
        f"{record['dataset']}: YOLO from {start_of(record)}{trained_on}, seed {record['settings']['seed']}, "
        f"{trained}{', SYNTHETIC images' if record['synthetic'] else ''}; on test:",
        table(list(metric_rows(measured)), ("class", "instances", "mAP50", "mAP50-95")),
    ]
    if "F1" in measured:
        lines.append(
            f"F1 {measured['F1']:.3f} (precision {measured['precision']:.3f}, recall {measured['recall']:.3f}) "
            f"at the threshold of val, {measured['threshold']:.3f}"
        )
    return "\n".join([*lines, f"run: {folder}"])


def start_of(record: dict[str, Any]) -> str:
    """What a run began with, in words; a file by its path."""
    return "random weights" if record["random_weights"] else record["settings"]["weights"] or record["start"]


def spread(measured: Sequence[dict[str, Any]]) -> str:
    """Mean and standard deviation over the folds whose test part holds defects."""
    tested = [entry for entry in measured if entry["mAP50"] is not None]
    if len(tested) < 2:
        return f"no standard deviation: {len(tested)} of {len(measured)} folds with defects in test"
    parts = []
    for key in ("mAP50", "mAP50-95"):
        values = [entry[key] for entry in tested]
        parts.append(f"{key} {statistics.mean(values):.3f} +- {statistics.stdev(values):.3f}")
    return f"mean and standard deviation of {len(tested)} folds: {', '.join(parts)}"
