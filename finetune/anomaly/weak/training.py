"""A run of weakrest: residuals looked up, learned from, evaluated, written."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from converters.cli.errors import DatasetError
from converters.cli.terminal import table, to_json
from converters.datasets.records import read_augmentation
from converters.datasets.synthetic_images import KEYS
from finetune.anomaly.features import build_backbone
from finetune.anomaly.weak.block_labels import BlockLabels, all_good, from_boxes, from_mask, from_tag
from finetune.anomaly.weak.evaluation import MODEL, evaluate
from finetune.anomaly.weak.finished import predictor, save_run
from finetune.anomaly.weak.loop import Lesson, fit
from finetune.anomaly.weak.recipe import Recipe
from finetune.anomaly.weak.residuals import look_up, remember
from finetune.runs.checksums import sha256
from finetune.runs.dataset import Dataset, choose_dataset, open_dataset, read_mask
from finetune.runs.run_folder import (
    Run,
    check_begun,
    read_record,
    run_folder,
    start_run,
    told_to_resume,
    write_record,
)
from finetune.runs.truth import grouped, truth_of
from finetune.training.images import Images, load_images
from finetune.training.processes import leads, prepare_device, wait_for_all
from finetune.training.published import start_name, start_weights
from finetune.training.timing import cost_of


def train_weakrest(
    dataset_name: str | None,
    out: Path,
    runs: Path,
    name: str | None,
    device: str,
    resume: bool,
    overwrite: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Train, evaluate, and print the measures on test; ``settings`` are those of a Recipe."""
    dataset, recipe = open_dataset(out, choose_dataset(out, dataset_name)), Recipe(**settings)
    device = prepare_device(device)
    checkpoint = start_weights(recipe.weights, recipe.arch)
    known = asdict(recipe) | {"weights_sha256": checkpoint and sha256(checkpoint)}
    folder = run_folder(runs, dataset, name or f"weakrest-{recipe.labels}", recipe.seed)
    train = load_images(dataset, "train", recipe.imgsz)
    chosen = learned_from(dataset, train, recipe.labels)
    train, owners = train.subset(chosen), owners_of(dataset)[chosen]
    if len(owners[train.labels == 0].unique()) < 2:
        raise DatasetError(
            f"{dataset.folder}: train's good images all show one object, and each is held against others: add some"
        )
    run = open_run(folder, dataset, known, resume, overwrite)
    with told_to_resume(folder):
        train_and_measure(run, recipe, checkpoint, train, owners, device, resume)
    if not leads():
        return
    record = read_record(folder)
    if as_json:
        click.echo(to_json(record["metrics"]["test"]), nl=False)
    else:
        report(dataset, folder, f"{record['start']}, seed {recipe.seed}", recipe.labels, record["metrics"]["test"])


def open_run(folder: Path, dataset: Dataset, settings: dict[str, Any], resume: bool, overwrite: bool) -> Run:
    """A new run or, with --resume, the one that lies there; raises DatasetError if that was begun otherwise.

    Of torchrun's processes, the first one looks and makes it.
    """
    begun = settings | {"split_sha256": dataset.split["sha256"], "label_settings": dataset.label_settings}
    if leads() and resume:
        check_begun(folder, begun)
    elif leads():
        start_run(folder, dataset, settings, overwrite, begun)
    wait_for_all()
    return Run(folder, dataset, settings)


def train_and_measure(
    run: Run, recipe: Recipe, checkpoint: Path | None, train: Images, owners: Tensor, device: str, resume: bool
) -> None:
    """Leave a finished run; ``owners`` (N) are the numbers of the objects that the images of train show."""
    dataset, began = run.dataset, time.process_time()
    parts = {"val": load_images(dataset, "val", recipe.imgsz)}
    backbone = build_backbone(recipe, checkpoint).to(device)
    good = (train.labels == 0).nonzero()[:, 0]
    memory = remember(backbone, recipe.arch, train.subset(good), owners[good], recipe.coreset, device, recipe.seed)
    found = look_up(backbone, recipe.arch, memory, train, owners, device)
    labels = block_labels(dataset, train, recipe.labels, found.features.shape[1])
    looked = time.process_time() - began
    lesson = Lesson(found, labels, train.labels)
    classes = len(dataset.classes) if recipe.labels != "none" else 0
    network, standing = fit(lesson, classes, recipe, device, run.folder, resume)
    if not leads():
        return
    seconds = run.seconds
    save_run(run.folder, memory)
    parts |= {part: load_images(dataset, part, recipe.imgsz) for part in dataset.judged_parts if part != "val"}
    measured = evaluate(run, backbone, recipe.arch, network, memory, parts, device)
    networks = [*backbone.parameters(), *network.parameters()]
    run.finish(
        model=MODEL,
        start=start_name(recipe.weights, recipe.arch, checkpoint),
        parameters=sum(parameter.numel() for parameter in networks),
        trained_parameters=sum(parameter.numel() for parameter in network.parameters()),
        random_weights=checkpoint is None,
        weights_sha256=run.settings["weights_sha256"],
        train_seconds=None if resume else round(seconds, 1),  # of a resumed run, only the rest was timed
        train_cpu_seconds=round(looked + standing.cpu_seconds, 1),
        weights_bytes=sum(parameter.nbytes for parameter in backbone.parameters())
        + sum((run.folder / name).stat().st_size for name in ("model.pt", "memory.pt")),
        device=device,
        good_images=len(good),
        remembered=len(memory.features),
        history=standing.history,
        metrics=measured,
    )
    write_record(run.folder, read_record(run.folder) | cost_of(predictor(run.folder, dataset, device), dataset, device))


def learned_from(dataset: Dataset, train: Images, labels: str) -> Tensor:
    """Indices of the images of train that a run with these ``labels`` learns from.

    Without labels, they are good images, and those with painted noise. Raises DatasetError where good images, or those
    with defects, are missing.
    """
    kept = torch.ones(len(train), dtype=torch.bool)
    if labels == "none":
        if not dataset.synthetic_images or read_augmentation(dataset.folder)["method"] != "perlin":
            raise DatasetError(
                f"--labels none: learns from noise painted on good images, and {dataset.folder} holds none: make some "
                f"with `python -m converters.augment --dataset {dataset.base} --method perlin`, and name that dataset"
            )
        kept = (train.labels == 0) | torch.tensor([name in set(dataset.synthetic_images) for name in train.names])
    for missing, what in ((train.labels[kept] == 0, "good image"), (train.labels[kept] > 0, "defect")):
        if not missing.any():
            raise DatasetError(f"{dataset.folder}: train shows no {what}, and this model learns from both")
    return kept.nonzero()[:, 0]


def owners_of(dataset: Dataset) -> Tensor:
    """N: a number for each image of train, which those share that show one object: a synthetic image its background's.

    Byte-identical images share one, too.
    """
    truth = truth_of(dataset, "train")
    groups = dict(zip(truth.names, truth.groups, strict=True))
    if dataset.synthetic_images:
        for made in read_augmentation(dataset.folder)["images"]:
            name, background = f"{KEYS}__{made['image']}", made["background"].replace("/", "__")
            if name in groups:
                groups[name] = groups[background]
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups.values()))}
    return torch.tensor([numbers[group] for group in groups.values()])


def block_labels(dataset: Dataset, train: Images, labels: str, side: int) -> list[BlockLabels]:
    """What labels of a kind say of the blocks of each image; the files of no other kind are opened."""
    if labels == "tags":
        return [from_tag(side) if kind else all_good(side) for kind in train.labels.tolist()]
    if labels == "boxes":
        ids = [dataset.image_ids[name] for name in train.names]
        entries = grouped(dataset.ground_truth("train")["annotations"], ids)
        boxes = [[entry["bbox"] for entry in several] for several in entries]
        return [from_boxes(several, size, side) for several, size in zip(boxes, train.sizes, strict=True)]
    folder = dataset.format("masks") / "semantic" / "train"
    return [
        from_mask(read_mask(folder / f"{Path(name).stem}.png"), side) if kind else all_good(side)
        for name, kind in zip(train.names, train.labels.tolist(), strict=True)
    ]


def report(dataset: Dataset, folder: Path, how: str, labels: str, measured: dict[str, Any]) -> None:
    synthetic = ", SYNTHETIC images" if dataset.synthetic else ""
    click.echo(f"{dataset.name}: {MODEL} from {labels}, features from: {how}{synthetic}; on test:")
    row = [f"{measured[key]:.3f}" for key in ("auroc", "average_precision", "pointing", "pointing_chance")]
    click.echo(table([row], ("AUROC", "AP", "pointing", "chance")))
    click.echo(f"run: {folder}")
