"""A memory of good patches: learnt, evaluated, written."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import torch

from converters.cli.errors import DatasetError
from converters.cli.terminal import table, to_json
from finetune.anomaly.evaluation import MODEL, evaluate
from finetune.anomaly.features import build_backbone
from finetune.anomaly.finished import predictor
from finetune.anomaly.memory import remember
from finetune.anomaly.recipe import Recipe
from finetune.anomaly.residuals import learn_types
from finetune.runs.checksums import sha256
from finetune.runs.dataset import Dataset, choose_dataset, open_dataset
from finetune.runs.run_folder import read_record, run_folder, start_run, write_record
from finetune.training.checkpoints import save_state
from finetune.training.images import load_images
from finetune.training.processes import prepare_device
from finetune.training.published import start_name, start_weights
from finetune.training.timing import cost_of


def learn_normality(
    dataset_name: str | None,
    out: Path,
    runs: Path,
    name: str,
    device: str,
    overwrite: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Remember good patches, evaluate, and print the measures on test; ``settings`` are those of a Recipe."""
    dataset, recipe = open_dataset(out, choose_dataset(out, dataset_name)), Recipe(**settings)
    device = prepare_device(device)
    checkpoint = start_weights(recipe.weights, recipe.arch)
    start = start_name(recipe.weights, recipe.arch, checkpoint)
    backbone = build_backbone(recipe, checkpoint).to(device)
    known = {"device": device, "weights_sha256": checkpoint and sha256(checkpoint)}
    run = start_run(run_folder(runs, dataset, name, recipe.seed), dataset, asdict(recipe) | known, overwrite)
    train = load_images(dataset, "train", recipe.imgsz)
    if not (train.labels == 0).any():
        raise DatasetError(f"{dataset.folder}: train holds no good image, and this model learns from nothing else")
    good = train.subset((train.labels == 0).nonzero()[:, 0])
    parts = {"val": load_images(dataset, "val", recipe.imgsz)}
    began = time.process_time()
    lots = [good] if recipe.labels == "good" else [good.subset(torch.arange(start, len(good), 2)) for start in (0, 1)]
    own = [remember(backbone, recipe.arch, lot, recipe.coreset, device, recipe.seed) for lot in lots]
    memory, types = torch.cat(own), None
    if recipe.labels == "class":
        defects = train.subset(train.labels.nonzero()[:, 0])
        halves = list(zip(lots, own, strict=True))
        types = learn_types(backbone, recipe.arch, halves, defects, parts["val"], len(dataset.classes))
    seconds, cpu_seconds = run.seconds, time.process_time() - began
    save_state({"memory": memory.cpu(), **(types.state if types else {})}, run.folder / "memory.pt")
    parts |= {part: load_images(dataset, part, recipe.imgsz) for part in dataset.judged_parts if part != "val"}
    measured = evaluate(run, backbone, recipe.arch, memory, types, parts, device)
    run.finish(
        model=MODEL,
        start=start,
        parameters=sum(parameter.numel() for parameter in backbone.parameters()),
        random_weights=checkpoint is None,
        weights_sha256=known["weights_sha256"],
        train_seconds=round(seconds, 1),
        train_cpu_seconds=round(cpu_seconds, 1),
        weights_bytes=sum(parameter.nbytes for parameter in backbone.parameters())
        + (run.folder / "memory.pt").stat().st_size,
        device=device,
        good_images=len(good),
        remembered=len(memory),
        metrics=measured,
    )
    write_record(run.folder, read_record(run.folder) | cost_of(predictor(run.folder, dataset, device), dataset, device))
    if as_json:
        click.echo(to_json(measured["test"]), nl=False)
    else:
        report(dataset, run.folder, f"{start}, seed {recipe.seed}", measured["test"])


def report(dataset: Dataset, folder: Path, how: str, measured: dict[str, Any]) -> None:
    synthetic = ", SYNTHETIC images" if dataset.synthetic else ""
    click.echo(f"{dataset.name}: {MODEL}, features from: {how}{synthetic}; on test:")
    row = [f"{measured[key]:.3f}" for key in ("auroc", "average_precision", "pointing", "pointing_chance")]
    click.echo(table([row], ("AUROC", "AP", "pointing", "chance")))
    click.echo(f"run: {folder}")
