"""A memory of good patches: learnt, evaluated, written."""

from pathlib import Path
from typing import Any

import click

from converters.cli.errors import DatasetError
from converters.cli.terminal import table, to_json
from finetune.anomaly.evaluation import evaluate
from finetune.anomaly.features import build_backbone
from finetune.anomaly.memory import remember, save_memory
from finetune.runs.checksums import sha256
from finetune.runs.dataset import Dataset, choose_dataset, open_dataset
from finetune.runs.run_folder import run_folder, start_run
from finetune.training.weights import RANDOM, find_weights


def learn_normality(
    dataset_name: str | None,
    out: Path,
    runs: Path,
    name: str,
    arch: str,
    weights: str,
    imgsz: int,
    share: float,
    device: str,
    seed: int,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Remember good patches, evaluate, and print the measures on test."""
    dataset = open_dataset(out, choose_dataset(out, dataset_name))
    from finetune.training.images import load_images
    from finetune.training.processes import prepare_device
    from finetune.training.published import fetch_weights, published

    dataset.ground_truth("val")  # boxes are chosen by it: refused now rather than at the end
    device = prepare_device(device)
    known = published(arch)
    checkpoint = find_weights(
        weights, {name: known[name].url for name in known}, lambda wanted: fetch_weights(known[wanted])
    )
    settings = {"arch": arch, "weights": weights, "imgsz": imgsz, "coreset": share, "device": device, "seed": seed}
    settings["weights_sha256"] = checkpoint and sha256(checkpoint)
    backbone = build_backbone(arch, checkpoint, imgsz, seed).to(device)
    run = start_run(run_folder(runs, dataset, name, seed), dataset, settings, overwrite)
    train = load_images(dataset, "train", imgsz)
    if not (train.labels == 0).any():
        raise DatasetError(f"{dataset.folder}: train holds no good image, and this model learns from nothing else")
    good = train.subset((train.labels == 0).nonzero()[:, 0])
    memory = remember(backbone, good, share, device, seed)
    seconds = run.seconds
    save_memory(run.folder / "memory.pt", memory)
    parts = {part: load_images(dataset, part, imgsz) for part in ("val", "test")}
    measured = evaluate(run, backbone, memory, parts, device)
    run.finish(
        model="nearest good patches",
        parameters=sum(parameter.numel() for parameter in backbone.parameters()),
        random_weights=checkpoint is None,
        weights_sha256=settings["weights_sha256"],
        train_seconds=round(seconds, 1),
        seconds_per_image=measured.pop("seconds_per_image"),
        weights_bytes=size_of(backbone) + (run.folder / "memory.pt").stat().st_size,
        device=device,
        good_images=len(good),
        remembered=len(memory),
        metrics=measured,
    )
    report(dataset, run.folder, weights, seed, measured["test"], as_json)


def size_of(network: Any) -> int:
    """Bytes of a network's parameters."""
    return sum(parameter.numel() * parameter.element_size() for parameter in network.parameters())


def report(dataset: Dataset, folder: Path, weights: str, seed: int, measured: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(to_json(measured), nl=False)
        return
    start = "random weights, which make weak features" if weights == RANDOM else weights
    synthetic = ", SYNTHETIC images" if dataset.synthetic else ""
    click.echo(f"{dataset.name}: nearest good patches, features from {start}, seed {seed}{synthetic}; on test:")
    row = [f"{measured[key]:.3f}" for key in ("auroc", "average_precision", "pointing", "pointing_chance")]
    click.echo(table([row], ("AUROC", "AP", "pointing", "chance")))
    click.echo(f"run: {folder}")
