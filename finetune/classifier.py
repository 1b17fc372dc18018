"""Train a CNN classifier (good, and the classes of a dataset), measure it, and show where it looked.

    python finetune/classifier.py --category screw --attempt focal --weights DEFAULT      # ImageNet start
    python finetune/classifier.py --category washer --weights none                        # random start
    python finetune/classifier.py --category washer --weights none --attempt all --repeat 3   # ablation table
    torchrun --nproc_per_node 2 finetune/classifier.py --category screw --imgsz 512       # two GPUs

Val chooses the epoch, the temperature and all thresholds; test is looked at once. It learns from the class of an
image alone, never from a mask. MixUp: H. Zhang et al., ICLR 2018; 1cycle: L. Smith, 2018.
"""

import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import click

if not __package__:  # run as a file: import from the repository, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from converters.errors import DatasetError
from converters.mvtec import GOOD
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
from finetune.attempts import ATTEMPTS, BEST, Attempt
from finetune.category import Dataset, open_dataset
from finetune.predictions import Run, run_folder, start_run
from finetune.weights import RANDOM, find_weights, sha256

METHODS = (
    "none",
    "oversample",
    "undersample",
    "class-weights",
    "focal",
    "class-balanced",
    "logit-adjust",
    "smote",
    "borderline-smote",
    "decoupled",
    "thresholds",
)
SET = "tuned"
COLUMNS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced",
    "macro_f1": "macro-F1",
    "interval": "95 % interval",
    "auroc": "AUROC",
}


@dataclass(frozen=True)
class Job:
    """One training but for its data."""

    attempt: Attempt
    imbalance: str
    classes: int  # good among them
    imgsz: int
    stride: int | None
    weights: Path | None
    device: str
    precision: str
    seed: int


@dataclass
class Progress:
    """Where a training stands; with the states of network and optimizer it is what --resume needs."""

    epoch: int = 0
    best: list[float] = field(default_factory=lambda: [-math.inf])
    best_epoch: int = 0
    cpu_seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


def published(arch: str) -> Any:
    """torchvision's weights of an architecture: {name: weights}, DEFAULT among them; none for our own networks."""
    from finetune.networks import OWN

    if arch in OWN:
        return {}
    from torchvision import models

    found = models.get_model_weights(arch)
    return dict(found.__members__) | {"DEFAULT": found.DEFAULT}


def fetch_weights(weights: Any) -> Path:
    """The file of published weights, by torchvision's own download into torch's cache."""
    import torch

    weights.get_state_dict(progress=False, check_hash=True)
    return Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rpartition("/")[2]


def autocast(device: str, precision: str) -> Any:
    """torch.autocast in 16 bits where the device is faster for it, and as it is elsewhere."""
    import torch

    kind = device.split(":")[0]
    if precision == "auto":
        fast = torch.cuda.is_bf16_supported() if kind == "cuda" else torch.cpu._is_amx_tile_supported()
        precision = "bfloat16" if fast else "float16" if kind == "cuda" else "float32"
    return torch.autocast(kind, getattr(torch, precision), enabled=precision != "float32")


def fit(job: Job, train: Any, val: Any, folder: Path, resume: bool) -> tuple[Any, Progress]:
    """Train a network on the images ``train``; val chooses the epoch, or the last one where val has no defect.

    Leaves model.pt (the chosen weights) and last.pt (for --resume) in the folder, and returns the chosen network.
    """
    import torch
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    from finetune.imbalance import make_loss

    attempt = job.attempt
    network = start_network(job, train, folder, resume)
    method = job.imbalance if job.imbalance != "none" else attempt.loss
    loss = make_loss(method, torch.bincount(train.labels, minlength=job.classes), attempt.smoothing)
    averaged = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(attempt.ema), use_buffers=True)
    optimizer = make_optimizer(network, attempt)
    steps = -(-len(train) // attempt.batch)
    scheduler = make_schedule(optimizer, attempt, steps)
    at, states = Progress(), {"network": network, "averaged": averaged, "optimizer": optimizer, "scheduler": scheduler}
    if resume and (folder / "last.pt").is_file():
        at = load_progress(folder / "last.pt", states)
    parallel = distribute(network, attempt)
    with progress(None, attempt.epochs, "training", item_show_func=lambda item: item) as bar:
        bar.update(at.epoch)
        while at.epoch < attempt.epochs and not has_stalled(at, attempt):
            began = time.process_time()
            torch.manual_seed(job.seed * 100_003 + at.epoch)  # so that a resumed run goes the same way
            freeze(network, at.epoch < attempt.freeze)
            mean_loss = one_epoch(job, parallel, train, loss, optimizer, scheduler, averaged)
            at.epoch += 1
            chosen = averaged.module if attempt.ema else network
            scores = judge(chosen, val, job)
            at.history.append({"epoch": at.epoch, "loss": mean_loss, "lr": scheduler.get_last_lr()[0], **scores})
            at.cpu_seconds += time.process_time() - began
            keep(at, chosen, states, folder, bool((val.labels > 0).any()))
            bar.update(1, f"val macro-F1 {scores['macro_f1']:.3f}")
    return load_network(job, folder / "model.pt"), at


def start_network(job: Job, train: Any, folder: Path, resume: bool) -> Any:
    """A network from the weights asked for, on its device, after the pretext task if the attempt has one."""
    import torch

    from finetune.networks import build_network, load_state, start_from

    attempt = job.attempt
    torch.manual_seed(job.seed)
    network = build_network(attempt.arch, job.classes, job.imgsz, attempt.head, attempt.dropout, job.stride)
    if job.weights:
        start_from(network, job.weights, attempt.arch)
    network = network.to(job.device, memory_format=torch.channels_last)
    saved = folder / "pretext.pt"
    if resume and saved.is_file():
        network.load_state_dict(load_state(saved, "--resume"))
    elif attempt.pretext:
        from finetune.pretext import learn_pretext

        good = train.pixels[train.labels == 0]
        learn_pretext(network, good, attempt.pretext, autocast(job.device, job.precision), job.device, job.seed)
        torch.save(network.state_dict(), saved)
    return network


def make_optimizer(network: Any, attempt: Attempt) -> Any:
    import torch

    settings = {"momentum": 0.9} if attempt.optimizer == "SGD" else {}
    kind = getattr(torch.optim, attempt.optimizer)
    return kind(network.parameters(), lr=attempt.lr, weight_decay=attempt.weight_decay, **settings)


def make_schedule(optimizer: Any, attempt: Attempt, steps: int) -> Any:
    """The learning rate step by step: constant, or 1cycle (a rise over 20 % of the steps, then a half cosine)."""
    from torch.optim import lr_scheduler

    if attempt.schedule == "constant":
        return lr_scheduler.ConstantLR(optimizer, factor=1.0)
    total = attempt.epochs * steps
    return lr_scheduler.OneCycleLR(optimizer, attempt.lr, total, pct_start=0.2, cycle_momentum=False)


def freeze(network: Any, frozen: bool) -> None:
    """Let all parts learn, or only the head: the rest then also keeps its BatchNorm statistics."""
    from finetune.networks import head_of

    network.train(not frozen)
    network.requires_grad_(not frozen)
    _, head = head_of(network)
    head.train()
    head.requires_grad_(True)


def one_epoch(
    job: Job, network: Any, train: Any, loss: Any, optimizer: Any, scheduler: Any, averaged: Any
) -> float:
    """Go once through the images (as the imbalance method samples them); return the mean loss."""
    import torch

    from finetune.imbalance import epoch_indices
    from finetune.loading import augmentation, normalise

    attempt, rank, world = job.attempt, *place()
    augment = augmentation(attempt.augment, job.imgsz)
    scaler = torch.amp.GradScaler(job.device.split(":")[0], enabled=autocast(job.device, job.precision).fast_dtype == torch.float16)
    order = epoch_indices(job.imbalance, train.labels)
    order = order[: len(order) // world * world][rank::world]
    torch.manual_seed(torch.initial_seed() + rank)
    losses = []
    for indices in order.split(attempt.batch):
        pixels = normalise(torch.stack([augment(train.pixels[i]) for i in indices]).to(job.device))
        pixels, labels = pixels.to(memory_format=torch.channels_last), train.labels[indices].to(job.device)
        pixels, partner, share = mix(pixels, attempt.mixup)
        with autocast(job.device, job.precision):
            logits = network(pixels)
        value = share * loss(logits.float(), labels) + (1 - share) * loss(logits.float(), labels[partner])
        optimizer.zero_grad()
        scaler.scale(value).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(network.parameters(), 2.0)
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()
        averaged.update_parameters(getattr(network, "module", network))
        losses.append(float(value))
    return sum(losses) / len(losses)
