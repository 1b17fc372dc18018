"""A run of YOLO: train on one dataset or on two in turn, predict val and test, and record what it cost.

Val chooses the epoch and the threshold, test is looked at once, and all measures come from the saved predictions by
pycocotools.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click
from ultralytics.data import build_yolo_dataset
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.utils import IterableSimpleNamespace

from converters.cli.errors import DatasetError
from finetune.detection import runs, runtime
from finetune.detection.dataset_view import check_scale, size_of_whole, usual_crop, view_of
from finetune.detection.evaluation import evaluate, report, spread
from finetune.detection.recipe import FORMATS, LIGHT, SIZES, STARTERS, SUFFIXES, Recipe, recipe_for
from finetune.runs.checksums import sha256
from finetune.runs.dataset import Dataset, check_apart, open_dataset, whole_images
from finetune.runs.run_folder import Run, finished_run, told_to_resume, write_record
from finetune.training.weights import RANDOM

STAGES = ("pretrain", "train")  # a run's trainings, each in a folder of its name
BEST = Path(STAGES[-1]) / runs.CHECKPOINTS / "best.pt"  # what a run leaves, in its folder


@dataclass(frozen=True)
class Request(runs.Request):
    """The request, apart from the recipe and the dataset; the fields are the command's options."""

    arch: str
    task: str
    pretrain: str | None
    pretrain_epochs: int | None
    synthetic_share: float | None


def train_and_evaluate(request: Request, recipe: Recipe, dataset: Dataset) -> dict[str, Any]:
    """Leave a whole run on one dataset; return its measures by part.

    A run on tiles is a run of the dataset of whole images that they were cut from, and is measured on those.
    """
    dataset = replace(dataset, synthetic_share=request.synthetic_share)
    first = open_dataset(request.out, request.pretrain) if request.pretrain else None
    check(request, recipe, dataset, first)
    runtime.check_device(request.device)
    run, model = start(request, recipe, dataset, first)
    parts = [part for part in (first, dataset) if part]
    size = size_of_whole(dataset, recipe.imgsz, recipe.crop)
    cpu = runtime.cpu_seconds()
    with told_to_resume(run.folder, runs.has_last), runtime.out_of_memory_named(recipe):
        best = train_in_turn(model, parts, request, recipe, run, size)
        cost = runs.cost_of(run.seconds, runtime.cpu_seconds() - cpu, request.resume)
        cost["train_gpu_peak_memory_mb"] = runtime.gpu_peak_memory_mb(request.device)
        model = runtime.load_model(request.arch, best, request.task)
        tiles = dataset if dataset.tiles else None
        measured = evaluate(model, run, request.task, size, request.device, tiles=tiles)
    run.finish(
        model="YOLO",
        start=run.settings["start"],
        random_weights=request.weights == RANDOM,
        weights_sha256=run.settings["weights_sha256"],
        pretrained_on=request.pretrain,
        synthetic_images=sum(len(part.synthetic_images) for part in parts),
        pretrain_synthetic_images=len(first.synthetic_images) if first else 0,
        resumed=request.resume,
        **measured.pop("cost"),
        metrics=measured,
        **cost,
        **runtime.facts_of(model, best),
    )
    return measured


def check(request: Request, recipe: Recipe, dataset: Dataset, first: Dataset | None) -> None:
    """Raise DatasetError for what cannot be trained or measured; ``first`` is the dataset of --pretrain."""
    whole = whole_images(request.out, dataset)
    dataset.format(FORMATS[request.task])
    if request.arch == LIGHT.stem and request.task != "detect":
        raise DatasetError(f"--arch {request.arch}: finds boxes only; choose another for --task {request.task}")
    if recipe.crop and (request.task != "detect" or dataset.tiles):
        raise DatasetError("--crop: is for boxes on whole images; make tiles with the converter's --tile instead")
    runs.check_trainable(whole, recipe.batch, request.device)
    if recipe.crop:
        check_scale(whole)
    if first:
        first.format(FORMATS[request.task])
        check_apart(whole_images(request.out, first), whole)


def start(request: Request, recipe: Recipe, dataset: Dataset, first: Dataset | None) -> tuple[Run, Any]:
    """The run and the model that it starts from; of an interrupted run, no model."""
    whole, folder = whole_images(request.out, dataset), request.folder(dataset)
    origin = {
        "tiles": dataset.name if dataset.tiles else None,
        "split_sha256": dataset.split["sha256"],
        "label_settings": dataset.label_settings,
        "pretrain_split_sha256": first and first.split["sha256"],
    }
    if request.resume:
        return runs.continue_run(folder, whole, origin), None
    names = [f"{size}{SUFFIXES[request.task]}" for size in SIZES]
    begun = runtime.find_start(request.weights, f"{names[0]}.pt", names, STARTERS.get(request.task))
    model = runtime.load_start(begun, request.arch, request.task)
    runtime.check_freeze(model, recipe)
    seen = f"squares of {recipe.crop} px" if recipe.crop else "whole images"
    known = {"start": begun.name, "weights_sha256": begun.file and sha256(begun.file)}
    settings = request.settings() | known | asdict(recipe) | origin
    run = runs.begin_run(folder, whole, settings, request.overwrite, begun.file)
    click.echo(f"{dataset.name}: YOLO from {begun.shown(request.weights)}, {seen} at {recipe.imgsz} px", err=True)
    return run, model


def whole_image_trainer(imgsz: int) -> Callable[..., Any]:
    """ultralytics' trainer of boxes, which measures val on whole images of this size while it trains on squares."""

    class WholeImageTrainer(DetectionTrainer):
        def build_dataset(self, img_path: str, mode: str = "train", batch: int | None = None) -> Any:
            if mode == "train":
                return super().build_dataset(img_path, mode, batch)
            settings = IterableSimpleNamespace(**{**vars(self.args), "imgsz": imgsz})
            return build_yolo_dataset(settings, img_path, batch, self.data, mode=mode, rect=True)

    return WholeImageTrainer


def train_in_turn(
    model: Any, datasets: Sequence[Dataset], request: Request, recipe: Recipe, run: Run, size: int
) -> Path:
    """Train on each dataset, the next one from the best checkpoint of the one before; return the last best.

    A model of None continues where an interrupted run stopped. ``size`` is that of whole images.
    """
    best = None
    for name, dataset in zip(STAGES[-len(datasets) :], datasets, strict=True):
        weights, data = run.folder / name / runs.CHECKPOINTS, run.folder / f"{name}-data"
        state = runtime.state_of(weights) if request.resume else "absent"
        if state == "ended":
            best = runtime.best_of(weights)
            continue
        if state == "unfinished":
            model = runtime.load_model(request.arch, weights / "last.pt", request.task)
        else:
            model = runtime.load_model(request.arch, best, request.task) if best else model
            shutil.rmtree(data, ignore_errors=True)
            view_of(dataset, request.task, recipe.background, data, recipe.crop)
        epochs = request.pretrain_epochs if name == "pretrain" and request.pretrain_epochs else recipe.epochs
        own = replace(recipe, epochs=epochs)
        trainer = whole_image_trainer(size) if recipe.crop else None
        best = runtime.train(
            model,
            data / "data.yaml",
            own,
            run.folder,
            request.device,
            request.seed,
            name,
            trainer,
            resume=state == "unfinished",
        )
        if recipe.crop:
            shutil.rmtree(data)  # many files, which can be cut again
    assert best is not None
    return best


def evaluate_again(folder: Path, dataset: Dataset, device: str) -> None:
    """Predict and measure again with the best checkpoint of a finished run, and write that into the run."""
    record = finished_run(folder, dataset, [BEST])
    run, settings = Run(folder, dataset, record["settings"]), record["settings"]
    model = runtime.load_model(settings["arch"], folder / BEST, settings["task"])
    tiles = open_dataset(dataset.folder.parent, settings["tiles"]) if settings["tiles"] else None
    size = size_of_whole(dataset, settings["imgsz"], settings["crop"])
    measured = evaluate(model, run, settings["task"], size, device, tiles=tiles)
    record |= measured.pop("cost") | {"metrics": measured}
    write_record(folder, record | runtime.facts_of(model, folder / BEST))


def train_datasets(
    name: str, folds: int | None, request: Request, chosen: dict[str, Any], given: set[str]
) -> dict[str, dict[str, Any]]:
    """Leave a run on the dataset or on each of its folds; return the measures by dataset.

    ``chosen`` are the options of the recipe (None: not given), which the start and the images complete.
    """
    datasets = [open_dataset(request.out, each, request.synthetic_share) for each in runs.fold_names(name, folds)]
    random = request.weights == RANDOM
    recipe = recipe_for(random, chosen, 0 if random else usual_crop(datasets[0], request.task))
    return runs.train_on_each(datasets, request, recipe, given, train_and_evaluate, lambda record: record["metrics"])


def report_all(found: dict[str, dict[str, Any]], request: Request) -> str:
    """Runs and their measures on test as text for the terminal; of several folds, their spread too."""
    lines = [report(request.folder(open_dataset(request.out, each))) for each in found]
    return "\n".join(lines + [spread([measured["test"] for measured in found.values()])] * (len(found) > 1))
