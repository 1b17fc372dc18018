"""Train ultralytics YOLO on a converted dataset, and measure it on the test part.

    python finetune/yolo.py --category screw --weights yolo11n.pt
    python finetune/yolo.py --category screw --weights none --epochs 40 --imgsz 320   # random start

Val chooses the epoch, test is looked at once, and mAP comes from the saved predictions by pycocotools.
ultralytics is AGPL-3.0, its checkpoints are pickles that can run code: load only those that you trust.
"""

import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

if not __package__:  # run as a file: import from the repository, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from converters.errors import DatasetError
from converters.options import (
    FOLDER,
    command,
    json_option,
    out_option,
    overwrite_option,
    progress,
    seed_option,
    table,
    to_json,
)
from finetune.category import Dataset, open_dataset
from finetune.predictions import Run, image_scores, run_folder, start_run
from finetune.weights import RANDOM, find_weights, sha256

FORMATS = {"detect": "yolo", "segment": "yolo-seg", "obb": "yolo-obb"}
SUFFIXES = {"detect": "", "segment": "-seg", "obb": "-obb"}
SIZES = [f"{family}{size}" for family in ("yolo11", "yolo26") for size in "nsmlx"]
LEAST_SCORE = 0.001  # average precision wants the whole curve, not only the sure detections


@dataclass(frozen=True)
class Recipe:
    """Training settings, with defaults for 50 to 300 defect images of about 1024 px and small defects."""

    epochs: int = 100  # mAP stays 0 for the first ones from random weights; early stopping ends sooner
    imgsz: int = 640  # a defect of 0.1 % of a 1024 px image is 20 px wide here, and 10 px at 320
    batch: int = 8  # a small set needs many steps rather than smooth ones
    lr: float = 1e-3  # AdamW's usual rate
    optimizer: str = "AdamW"  # `auto` would ignore --lr
    freeze: int = 0  # 10 keeps the backbone of a pre-trained start
    patience: int = 50  # val holds few defects, so its mAP is noisy
    background: float = 0.2  # share of good images in training: they prevent false alarms, but teach no defect

    def overrides(self) -> dict[str, Any]:
        """The same in ultralytics' words, with what products under a camera allow as augmentation."""
        return {
            "epochs": self.epochs,
            "imgsz": self.imgsz,
            "batch": self.batch,
            "lr0": self.lr,
            "optimizer": self.optimizer,
            "freeze": self.freeze or None,
            "patience": self.patience,
            "cos_lr": True,
            "close_mosaic": min(10, self.epochs // 5),  # its default of 10 means no mosaic at all in short runs
            "flipud": 0.5,  # a product has no "up" to its defects
            "fliplr": 0.5,
            "hsv_h": 0.0,  # colour is what some defects are
            "hsv_s": 0.2,
            "hsv_v": 0.3,
            "amp": False,  # ultralytics would fetch another checkpoint to test it
            "cache": "ram",  # small sets fit, and no image is decoded again in every epoch
            "nbs": self.batch,  # no accumulation over batches: steps are scarce
        }


def prepare_ultralytics(folder: Path) -> None:
    """Keep ultralytics from telling, installing and writing anywhere but in ``folder``. Before its first import."""
    os.environ.setdefault("YOLO_CONFIG_DIR", str(folder.absolute()))  # unless the user has set it
    os.environ["YOLO_OFFLINE"] = "1"  # no telemetry, no look-ups; weights are fetched by `fetch_weights`
    os.environ["YOLO_AUTOINSTALL"] = "False"
    os.environ["YOLO_VERBOSE"] = "False"
    os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count()))  # ultralytics would set 1


def fetch_weights(name: str) -> Path:
    """A published checkpoint by ultralytics' own download, into torch's cache of checkpoints."""
    import torch
    from ultralytics.utils.downloads import attempt_download_asset

    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return Path(attempt_download_asset(path))


def load_model(arch: str, weights: Path | None, task: str) -> Any:
    """A model from a checkpoint or, for None, of the named architecture with random weights."""
    from ultralytics import YOLO

    if weights is None:
        return YOLO(f"{arch}{SUFFIXES[task]}.yaml", task=task)
    try:
        model = YOLO(str(weights))
    except Exception as error:  # whatever a foreign file makes its loader raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DatasetError(f"--weights {weights}: is no YOLO checkpoint ({reason})") from None
    if model.task != task:
        raise DatasetError(
            f"--weights {weights}: was trained for the task {model.task}, not {task}: "
            f"add --task {model.task}, or choose other weights"
        )
    return model


def check_device(device: str) -> None:
    """Raise DatasetError for a device that this machine does not have."""
    from ultralytics.utils.torch_utils import select_device

    try:
        select_device(device, verbose=False)
    except ValueError:
        raise DatasetError(f"--device {device}: not on this machine; leave it out, or name cpu") from None


def view_of(dataset: Dataset, task: str, background: float, folder: Path) -> Path:
    """A folder of links to the dataset's files, since ultralytics writes caches beside labels; its data.yaml.

    Good images of the train part beyond the share ``background`` are left out of it.
    """
    import yaml

    source = dataset.format(FORMATS[task])
    data = yaml.safe_load((source / "data.yaml").read_text("utf-8"))
    if data["split_sha256"] != dataset.split["sha256"]:
        raise DatasetError(f"{source}: made from another split than {dataset.folder / 'split.json'}: convert it again")
    shutil.copytree(source.absolute(), folder, copy_function=os.symlink)
    labels = {name: folder / "labels" / "train" / f"{Path(name).stem}.txt" for name in dataset.images("train")}
    good = [name for name, label in labels.items() if not label.stat().st_size]
    keep = round(background / (1 - background) * (len(labels) - len(good)))
    for name in evenly_left_out(good, keep):
        (folder / "images" / "train" / name).unlink()
    return folder / "data.yaml"


def evenly_left_out(names: list[str], keep: int) -> list[str]:
    """The names that go when ``keep`` of them stay, taken from the whole list evenly."""
    keep = min(keep, len(names))
    stay = {names[index * len(names) // keep] for index in range(keep)}
    return [name for name in names if name not in stay]


def train(
    model: Any,
    data: Path,
    recipe: Recipe,
    run: Run,
    device: str,
    seed: int,
    name: str = "train",
    trainer: Callable[..., Any] | None = None,
) -> Path:
    """Train in the run's folder ``name`` with val choosing the epoch; return the best checkpoint.

    ``trainer`` makes ultralytics' trainer, where it isn't the usual one of the model.
    """
    import torch

    cores = os.cpu_count() or 1
    bar: Any = progress(None, recipe.epochs, "training", item_show_func=lambda item: item)
    model.add_callback("on_train_start", lambda trainer: torch.set_num_threads(cores))  # it trains on cores - 1
    model.add_callback("on_fit_epoch_end", lambda trainer: bar.update(1, f"val mAP50 {_map50(trainer):.3f}"))
    log_file = run.folder / f"{name}.log"
    with log_file.open("w", encoding="utf-8") as log, bar, redirect_stdout(log), redirect_stderr(log):
        model.train(
            trainer=trainer,
            data=str(data),
            project=str(run.folder.absolute()),
            name=name,
            exist_ok=True,
            device=device or None,
            seed=seed,
            verbose=False,
            plots=False,
            **recipe.overrides(),
        )
    return run.folder / name / "weights" / "best.pt"


def _map50(trainer: Any) -> float:
    return float(trainer.metrics.get("metrics/mAP50(B)", 0.0))


def predict(model: Any, dataset: Dataset, task: str, part: str, imgsz: int, device: str) -> Iterator[dict[str, Any]]:
    """Detections on a part of the split as COCO results, at full image size.

    Images go one by one: ultralytics would take a list of them as one batch, and pad them to a common shape.
    """
    folder = dataset.format(FORMATS[task]) / "images" / part
    settings = {"imgsz": imgsz, "conf": LEAST_SCORE, "device": device or None, "verbose": False, "retina_masks": True}
    names = dataset.images(part)
    with progress(names, len(names), f"predicting {part}") as bar:
        for name in bar:
            (answer,) = model.predict(str(folder / name), **settings)
            yield from coco_results(answer, dataset.image_ids[name])


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
            result["segmentation"] = _rle(answer.masks.data[index])
        elif answer.obb is not None:
            result["segmentation"] = [boxes.xyxyxyxy[index].flatten().tolist()]
        yield result


def _rle(mask: Any) -> dict[str, Any]:
    import numpy as np
    from pycocotools import mask as coco_mask

    encoded = coco_mask.encode(np.asfortranarray(mask.cpu().numpy().astype(np.uint8)))
    return {"size": encoded["size"], "counts": encoded["counts"].decode("ascii")}


def evaluate(model: Any, run: Run, task: str, imgsz: int, device: str) -> dict[str, Any]:
    """Predict val and test, save both, and measure the saved boxes."""
    from finetune.metrics import box_metrics

    measured = {}
    for part in ("val", "test"):
        detections = list(predict(model, run.dataset, task, part, imgsz, device))
        names = run.dataset.images(part)
        scores = image_scores(names, run.dataset.image_ids, len(run.dataset.classes), detections)
        run.write_predictions("tuned", part, detections, scores)
        measured[part] = box_metrics(run.dataset.ground_truth(part), detections).as_dict()
    label = "box" if task == "detect" else "mask"
    run.describe_set("tuned", model="YOLO", prompt=None, oracle=False, label=label)
    return measured


def metric_rows(metrics: dict[str, Any]) -> Iterable[tuple[str, ...]]:
    for entry in metrics["classes"]:
        yield entry["class"], entry["instances"], f"{entry['AP50']:.3f}", f"{entry['AP50-95']:.3f}"
    total = sum(entry["instances"] for entry in metrics["classes"])
    yield "mean", total, f"{metrics['mAP50']:.3f}", f"{metrics['mAP50-95']:.3f}"


@command()
@click.option("--category", "--dataset", "name", required=True, metavar="NAME", help="Dataset in --out to train on.")
@out_option
@click.option("--runs", type=FOLDER, default="runs", help="Where runs are written.")
@click.option("--run", "run_name", default="yolo", help="Name of the run.")
@click.option("--task", type=click.Choice(list(FORMATS)), default="detect", help="Boxes, polygons or rotated boxes.")
@click.option("--arch", type=click.Choice(SIZES), default="yolo11n", help="Architecture, for --weights none.")
@click.option("--weights", default="yolo11n.pt", help="Published name, checkpoint FILE, or none (random).")
@click.option("--epochs", type=click.IntRange(1), default=Recipe.epochs)
@click.option("--imgsz", type=click.IntRange(32), default=Recipe.imgsz, help="Longest side in training, px.")
@click.option("--batch", type=click.IntRange(1), default=Recipe.batch)
@click.option("--lr", type=click.FloatRange(0, min_open=True), default=Recipe.lr)
@click.option("--optimizer", type=click.Choice(["AdamW", "SGD", "MuSGD"]), default=Recipe.optimizer)
@click.option("--freeze", type=click.IntRange(0), default=Recipe.freeze, help="First layers that stay as they are.")
@click.option("--patience", type=click.IntRange(1), default=Recipe.patience, help="Epochs without gain before a stop.")
@click.option(
    "--background", type=click.FloatRange(0, 1, max_open=True), default=Recipe.background, help="Share of good images."
)
@click.option("--device", default="", show_default="GPU, else CPU", help="cpu, 0, or 0,1 for two GPUs.")
@seed_option
@overwrite_option
@json_option
def main(
    name: str,
    out: Path,
    runs: Path,
    run_name: str,
    task: str,
    arch: str,
    weights: str,
    device: str,
    seed: int,
    overwrite: bool,
    as_json: bool,
    **recipe_options: Any,
) -> None:
    """Train YOLO on a converted dataset; print mAP on test; leave a run folder.

    The run folder RUNS/DATASET/RUN/seed-SEED holds run.json, predictions/tuned/ for val and test in the COCO
    results format, and train/weights/best.pt.
    """
    recipe = Recipe(**recipe_options)
    dataset = open_dataset(out, name)
    dataset.format(FORMATS[task])
    if not dataset.classes:
        raise DatasetError(f"{dataset.folder}: holds no defects to learn")
    folder = run_folder(runs, dataset, run_name, seed)
    prepare_ultralytics(runs / ".ultralytics")
    known = [f"{size}{SUFFIXES[task]}.pt" for size in SIZES]
    checkpoint = find_weights(weights, known, fetch_weights)
    settings = {"task": task, "arch": arch, "weights": weights, "device": device, "seed": seed, **asdict(recipe)}
    if checkpoint and folder.resolve() in checkpoint.resolve().parents:
        raise DatasetError(f"--weights {weights}: lies in the run that would be replaced; name another run with --run")
    check_device(device)
    model = load_model(arch, checkpoint, task)
    weights_sha256 = None if checkpoint is None else sha256(checkpoint)
    run = start_run(folder, dataset, settings, overwrite)
    best = train(model, view_of(dataset, task, recipe.background, folder / "data"), recipe, run, device, seed)
    seconds = run.seconds
    model = load_model(arch, best, task)
    measured = evaluate(model, run, task, recipe.imgsz, device)
    run.finish(
        model="YOLO",
        parameters=sum(parameter.numel() for parameter in model.model.parameters()),
        random_weights=checkpoint is None,
        weights_sha256=weights_sha256,
        train_seconds=round(seconds, 1),
        metrics=measured,
    )
    if as_json:
        click.echo(to_json(measured), nl=False)
        return
    start = "random weights" if weights == RANDOM else weights
    synthetic = ", SYNTHETIC images" if dataset.synthetic else ""
    click.echo(f"{dataset.name}: YOLO from {start}, seed {seed}, {seconds:.0f} s of training{synthetic}; on test:")
    click.echo(table(list(metric_rows(measured["test"])), ("class", "instances", "mAP50", "mAP50-95")))
    click.echo(f"run: {folder}")


if __name__ == "__main__":
    main(prog_name="python finetune/yolo.py")
