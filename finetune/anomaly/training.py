"""A memory of good patches: learnt, evaluated, written."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from converters.cli.errors import DatasetError
from converters.cli.terminal import table, to_json
from finetune.anomaly.evaluation import MODEL, evaluate
from finetune.anomaly.features import build_backbone
from finetune.anomaly.memory import remember
from finetune.anomaly.recipe import Recipe
from finetune.runs.checksums import sha256
from finetune.runs.dataset import Dataset, choose_dataset, open_dataset
from finetune.runs.run_folder import run_folder, start_run
from finetune.training.checkpoints import save_state
from finetune.training.images import load_images
from finetune.training.processes import prepare_device
from finetune.training.published import start_name, start_weights


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
    memory = remember(backbone, recipe.arch, good, recipe.coreset, device, recipe.seed)
    seconds = run.seconds
    save_state({"memory": memory.cpu()}, run.folder / "memory.pt")
    parts = {part: load_images(dataset, part, recipe.imgsz) for part in ("val", "test")}
    measured = evaluate(run, backbone, recipe.arch, memory, parts, device)
    run.finish(
        model=MODEL,
        start=start,
        parameters=sum(parameter.numel() for parameter in backbone.parameters()),
        random_weights=checkpoint is None,
        weights_sha256=known["weights_sha256"],
        train_seconds=round(seconds, 1),
        **measured.pop("cost"),
        weights_bytes=sum(parameter.nbytes for parameter in backbone.parameters())
        + (run.folder / "memory.pt").stat().st_size,
        device=device,
        good_images=len(good),
        remembered=len(memory),
        metrics=measured,
    )
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
