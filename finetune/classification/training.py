"""A classifier's run: trained, evaluated, written."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import nn

from converters.cli.errors import DatasetError
from finetune.classification.class_maps import check_heat_maps
from finetune.classification.evaluation import MODEL, evaluate
from finetune.classification.figures import plot
from finetune.classification.finished import predictor
from finetune.classification.imbalance import HEADS
from finetune.classification.loop import Job, Standing, fit, new_network, retrain_head
from finetune.classification.recipes import Attempt
from finetune.classification.table import Result
from finetune.classification.views import Maps
from finetune.runs.checksums import sha256
from finetune.runs.dataset import Dataset
from finetune.runs.run_folder import Run, check_begun, read_record, start_run, write_record
from finetune.training.backbones import known_networks, start_from
from finetune.training.checkpoints import save_state
from finetune.training.images import Images, load_images
from finetune.training.processes import leads, prepare_device, wait_for_all
from finetune.training.published import start_name, start_weights
from finetune.training.timing import cost_of
from finetune.training.weights import EMBEDDED, RANDOM


def train_and_evaluate(
    dataset: Dataset,
    pretrain: Dataset | None,
    attempt: Attempt,
    seed: int,
    device: str,
    folder: Path,
    resume: bool,
    overwrite: bool,
    looked: dict[Any, Maps],
) -> Result | None:
    """One training from its data to its run folder; None in all processes of torchrun but the first.

    It trains on ``pretrain`` first, where there is such a dataset. ``looked`` are maps that other trainings may share.
    """
    job = replace(make_job(dataset, attempt, seed, prepare_device(device)), looked=looked)
    check_parts(dataset, job.attempt)
    if job.weights and folder.resolve() in job.weights.resolve().parents:
        raise DatasetError(f"--weights {job.weights}: lies in the run that would be replaced; name another with --run")
    resumed = resume and folder.is_dir()
    run = open_run(folder, dataset, settings_of(job, dataset, pretrain), resume, overwrite)
    train, val = (load_images(dataset, part, attempt.imgsz) for part in ("train", "val"))
    network, stages = train_stages(job, pretrain, train, val, folder, resume)
    if not leads():
        return None
    seconds = None if resumed else run.seconds  # of a resumed run, only the rest was timed
    others = (part for part in dataset.judged_parts if part != "val")
    parts = {"val": val} | {part: load_images(dataset, part, attempt.imgsz) for part in others}
    measured, probabilities, decisions = evaluate(run, job, network, parts)
    labels, found = parts["test"].labels.numpy(), decisions["test"]
    plot(run, stages[-1].history, labels, probabilities["test"], found)
    cpu_seconds = sum(stage.cpu_seconds for stage in stages)
    run.finish(
        model=MODEL,
        start=start_name(job.attempt.weights, job.attempt.arch, job.weights),
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        random_weights=job.weights is None,
        weights_sha256=run.settings["weights_sha256"],
        train_seconds=seconds and round(seconds, 1),
        train_cpu_seconds=round(cpu_seconds, 1),
        weights_bytes=(folder / "model.pt").stat().st_size,
        device=job.device,
        pretrained_on=pretrain and pretrain.name,
        synthetic_images=run.settings["synthetic_images"],
        pretrain_synthetic_images=len(pretrain.synthetic_images) if pretrain else 0,
        chosen_epoch=stages[-1].best_epoch,
        history=stages[-1].history,
        pretrain_history=stages[0].history if pretrain else [],
        metrics=measured,
    )
    write_record(folder, read_record(folder) | cost_of(predictor(folder, dataset, job.device), dataset, job.device))
    epochs = sum(stage.epoch for stage in stages)
    return Result(job.attempt, labels, found, measured["test"], epochs, cpu_seconds, seconds)


def make_job(dataset: Dataset, attempt: Attempt, seed: int, device: str) -> Job:
    """A training with its weights at hand; raises DatasetError if they, or the architecture, are not to be had."""
    if attempt.arch not in known_networks():
        raise DatasetError(f"--arch {attempt.arch}: known are {', '.join(known_networks())}")
    if attempt.arch != "fine":
        attempt = replace(attempt, pretext=0, rehearse=0.0)
    if attempt.head == "cells" and attempt.arch != EMBEDDED:
        attempt = replace(attempt, head="linear", views=0)
    if attempt.weights == RANDOM:
        attempt = replace(attempt, freeze=0, views=0)  # random features are nothing to keep
    job = Job(attempt, 1 + len(dataset.classes), start_weights(attempt.weights, attempt.arch), device, seed)
    network = new_network(attempt, job.classes)
    if job.weights:
        start_from(network, job.weights, attempt.arch)  # what does not fit is refused before a run is begun
    if attempt.heatmaps:
        check_heat_maps(network, attempt.imgsz)
    return job


def check_parts(dataset: Dataset, attempt: Attempt) -> None:
    """Raise DatasetError for a dataset that a training would be in vain on."""
    kinds = set(dataset.labels("train").values())
    if len(kinds) == 1:
        only = "good images" if kinds == {None} else "defects of one class"
        raise DatasetError(
            f"{dataset.folder}: its train part shows nothing but {only}, so there is nothing to tell apart: add images "
            "and convert again, use another --protocol or, of good images alone, take finetune/normality.py"
        )
    if attempt.imbalance == "thresholds" and set(dataset.labels("val").values()) <= {None}:
        raise DatasetError(
            f"--imbalance thresholds: the val part of {dataset.folder} shows no defect to choose them by: convert with "
            "another --protocol, or name another method"
        )
    if attempt.heatmaps:
        dataset.ground_truth("val")  # boxes are chosen by it: refused now rather than after the training


def settings_of(job: Job, dataset: Dataset, pretrain: Dataset | None) -> dict[str, Any]:
    """The settings of a training; a resumed one must have all of it in common with the one that was interrupted."""
    return {
        **asdict(job.attempt),
        "seed": job.seed,
        "synthetic_share": dataset.synthetic_share,
        "weights_sha256": job.weights and sha256(job.weights),
        "pretrain": pretrain and pretrain.name,
        "synthetic_images": sum(len(part.synthetic_images) for part in (pretrain, dataset) if part),
        "pretrain_split_sha256": pretrain and pretrain.split["sha256"],
        "split_sha256": dataset.split["sha256"],
        "label_settings": dataset.label_settings,
    }


def open_run(folder: Path, dataset: Dataset, settings: dict[str, Any], resume: bool, overwrite: bool) -> Run:
    """A new run or, with --resume, the one that lies there; raises DatasetError if that was begun otherwise.

    Of torchrun's processes, the first one looks and makes it.
    """
    if leads() and resume and folder.is_dir():
        check_begun(folder, settings)
    elif leads():
        start_run(folder, dataset, settings, overwrite, settings)
    wait_for_all()
    return Run(folder, dataset, settings)


def train_stages(
    job: Job, pretrain: Dataset | None, train: Images, val: Images, folder: Path, resume: bool
) -> tuple[nn.Module, list[Standing]]:
    """Train on ``pretrain``, whose classes may be more, then from there on ``train``.

    Leaves the weights in the folder and its `pretrain`; returns the network and how each stage went.
    """
    stages, start = [], None
    if pretrain:
        before = folder / "pretrain"
        before.mkdir(exist_ok=True)
        attempt = replace(job.attempt, epochs=job.attempt.pretrain_epochs or job.attempt.epochs)
        stage = replace(job, attempt=attempt, classes=1 + len(pretrain.classes))
        stages.append(fit(stage, load_images(pretrain, "train", attempt.imgsz), val, before, resume)[1])
        start = before / "model.pt"
    network, standing = fit(job, train, val, folder, resume, start)
    if job.attempt.imbalance in HEADS and leads():
        retrain_head(network, train, job)
        save_state(network.state_dict(), folder / "model.pt")
    return network, [*stages, standing]
