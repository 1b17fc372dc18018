"""The training loop of the classifier: one page, resumable at every epoch, on one device or several (torchrun)."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchvision.transforms import v2

from converters.cli.terminal import progress
from finetune.classification.imbalance import balance_features, epoch_indices
from finetune.classification.losses import make_loss
from finetune.classification.pretext import learn_pretext, pretext_loss
from finetune.classification.recipes import Attempt
from finetune.classification.views import Maps, Pixels
from finetune.measures.decisions import measure
from finetune.training.backbones import build_network, head_of, new_parts, start_from
from finetune.training.checkpoints import load_state, save_state
from finetune.training.images import Images, normalise
from finetune.training.precision import autocast_on
from finetune.training.processes import as_first, leads, place, wait_for_all
from finetune.training.standing import Standing, keep_standing, load_standing

EPOCH_SEEDS = 100_003  # seeds of the epochs of one run; the next seed's begin after them
HEAD_STEPS = 500


@dataclass(frozen=True)
class Job:
    """One training but for its data."""

    attempt: Attempt
    classes: int  # good among them
    weights: Path | None  # to start from; None is random
    device: str
    seed: int
    looked: dict[Any, Maps] = field(default_factory=dict)  # shared by the trainings of one table


def fit(
    job: Job, train: Images, val: Images, folder: Path, resume: bool, start: Path | None = None
) -> tuple[nn.Module, Standing]:
    """Train on ``train``; val chooses the epoch (macro-F1, then loss), or the last one where val has no defect.

    ``start`` are weights of an earlier stage, instead of the job's and of the pretext task.
    Leaves model.pt (the chosen weights) and last.pt (for ``resume``) in the folder; returns the chosen network.
    """
    began, attempt = time.process_time(), job.attempt
    network = start_network(job, train, folder, resume, start)
    method = attempt.loss if attempt.imbalance == "none" else attempt.imbalance
    loss = make_loss(method, torch.bincount(train.labels, minlength=job.classes), attempt.smoothing)
    optimizer, scaler = make_optimizer(network, attempt), make_scaler(job)
    schedule = make_schedule(optimizer, attempt, steps_of(job, train))
    averaged = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(attempt.ema), use_buffers=True)
    states = {"network": network, "averaged": averaged, "optimizer": optimizer, "schedule": schedule, "scaler": scaler}
    at = load_standing(states, folder / "last.pt") if resume else Standing()
    shown = source_of(job, network, train, attempt.augment, attempt.views)
    judged = source_of(job, network, val, "none", min(attempt.views, 1))
    parallel = distribute(network, attempt)
    with progress(None, attempt.epochs, "training", item_show_func=lambda item: item) as bar:
        bar.update(at.epoch)
        while at.epoch < attempt.epochs and not stalled(at, attempt):
            torch.manual_seed(job.seed * EPOCH_SEEDS + at.epoch)  # a resumed run draws what an unbroken one does
            freeze(network, at.epoch < attempt.freeze or attempt.views > 0)
            mean = one_epoch(job, parallel, train, shown, loss, optimizer, schedule, scaler, averaged)
            at.epoch += 1
            chosen = averaged.module if attempt.ema else network
            scores = judge(chosen, judged, val.labels, attempt.batch)
            at.history.append({"epoch": at.epoch, "loss": mean, "lr": schedule.get_last_lr()[0], **scores})
            began, at.cpu_seconds = time.process_time(), at.cpu_seconds + time.process_time() - began
            chooses = bool((val.labels > 0).any())
            if at.improves([scores["macro_f1"], -scores["val_loss"]] if chooses else [at.epoch]) and leads():
                save_state(chosen.state_dict(), folder / "model.pt")
            keep_standing(at, states, folder / "last.pt")
            bar.update(1, f"val macro-F1 {scores['macro_f1']:.3f}")
    wait_for_all()
    return load_network(job, folder / "model.pt"), at


def one_epoch(
    job: Job,
    network: nn.Module,
    train: Images,
    shown: Pixels | Maps,
    loss: Any,
    optimizer: Any,
    schedule: Any,
    scaler: Any,
    averaged: AveragedModel,
) -> float:
    """Go once through the images that the imbalance method draws; return the mean loss."""
    attempt, (rank, world) = job.attempt, place()
    mix = mixing(attempt.mixup, job.classes)
    order = epoch_indices(attempt.imbalance, train.labels)
    order = order[: len(order) // world * world][rank::world]
    torch.manual_seed(torch.initial_seed() + rank)
    whole, painter = getattr(network, "module", network), np.random.default_rng(torch.initial_seed())
    good = train.pixels[train.labels == 0]
    losses = []
    for indices in order.split(attempt.batch):
        drawn, labels = mix(shown.draw(indices), train.labels[indices].to(job.device))
        with autocast(job):
            logits = network(drawn)
        value = loss(logits.float(), labels)
        if attempt.rehearse:
            value = value + attempt.rehearse * pretext_loss(whole, good, autocast(job), painter)
        optimizer.zero_grad()
        scaler.scale(value).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(network.parameters(), 2.0)
        scaler.step(optimizer)
        scaler.update()
        schedule.step()
        averaged.update_parameters(whole)
        losses.append(value.item())
    return sum(losses) / len(losses)


def source_of(job: Job, network: nn.Module, images: Images, augment: str, views: int) -> Pixels | Maps:
    """What a training draws a part from: pixels or, of ``views``, maps, which are made once for a split and seed."""
    pixels = Pixels(images, augment, job.attempt.arch, job.device)
    if not views:
        return pixels
    key = (*images.names, job.attempt.imgsz, augment, views, job.seed)
    if key not in job.looked:
        job.looked[key] = Maps(network, pixels, views, job.seed)
    return job.looked[key]


def mixing(alpha: float, classes: int) -> Callable[[Any, Tensor], tuple[Any, Tensor]]:
    """MixUp (H. Zhang et al., ICLR 2018) of a batch's images and labels, which become N x C; 0 leaves both alone."""
    return v2.MixUp(alpha=alpha, num_classes=classes) if alpha else lambda pixels, labels: (pixels, labels)


def start_network(job: Job, train: Images, folder: Path, resume: bool, start: Path | None = None) -> nn.Module:
    """A network from the weights asked for, on its device, after the pretext task where the attempt has one."""
    attempt, saved = job.attempt, folder / "pretext.pt"
    torch.manual_seed(job.seed)
    network = new_network(attempt, job.classes)
    if weights := start or job.weights:
        start_from(network, weights, attempt.arch)
    network = network.to(job.device).to(memory_format=torch.channels_last)
    if resume and saved.is_file():
        network.load_state_dict(load_state(saved, "--resume"))
    elif attempt.pretext and not start:
        good = train.pixels[train.labels == 0]
        learn_pretext(network, good, attempt.pretext, autocast(job), job.seed)
        if leads():
            save_state(network.state_dict(), saved)
    return network


def load_network(job: Job, path: Path) -> nn.Module:
    """The network of a finished training, in evaluation mode."""
    network = new_network(job.attempt, job.classes)
    network.load_state_dict(load_state(path, "RUN"))
    return network.to(job.device).eval()


def new_network(attempt: Attempt, classes: int) -> nn.Module:
    """With random weights."""
    return build_network(attempt.arch, classes, attempt.imgsz, attempt.head, attempt.dropout, attempt.stride)


def autocast(job: Job) -> torch.autocast:
    return autocast_on(job.device, job.attempt.precision)


def make_scaler(job: Job) -> torch.amp.GradScaler:
    """Loss scaling for float16; a scaler that does nothing elsewhere."""
    cast = autocast(job)
    kind = job.device.split(":")[0]
    return torch.amp.GradScaler(kind, enabled=cast._enabled and cast.fast_dtype == torch.float16)


def make_optimizer(network: nn.Module, attempt: Attempt) -> torch.optim.Optimizer:
    settings = {"momentum": 0.9} if attempt.optimizer == "SGD" else {}
    kind = getattr(torch.optim, attempt.optimizer)
    new = [parameter for part in new_parts(network).values() for parameter in part.parameters()]
    rest = [parameter for parameter in network.parameters() if all(parameter is not own for own in new)]
    groups = [{"params": new, "lr": attempt.lr}, {"params": rest, "lr": attempt.lr * attempt.slow}]
    return kind(groups, lr=attempt.lr, weight_decay=attempt.weight_decay, **settings)


def make_schedule(optimizer: torch.optim.Optimizer, attempt: Attempt, steps: int) -> Any:
    """The rate step by step: constant, or a warm-up over 20 % of the steps, then a half cosine."""
    if attempt.schedule == "constant":
        return lr_scheduler.ConstantLR(optimizer, factor=1.0)
    total = attempt.epochs * steps
    share = 0.21 if total == 5 else 0.2  # by a warm-up of just one step, torch divides by nought
    return lr_scheduler.OneCycleLR(
        optimizer, [attempt.lr, attempt.lr * attempt.slow], total, pct_start=share, cycle_momentum=False
    )


def steps_of(job: Job, train: Images) -> int:
    """Batches in an epoch of one process."""
    world = place()[1]
    return -(-(len(epoch_indices(job.attempt.imbalance, train.labels)) // world) // job.attempt.batch)


def freeze(network: nn.Module, frozen: bool) -> None:
    """Let all parts learn, or only the new ones; the frozen rest keeps its BatchNorm statistics as well."""
    network.train(not frozen)
    network.requires_grad_(not frozen)
    for part in new_parts(network).values():
        part.train()
        part.requires_grad_(True)


@torch.no_grad()
def judge(network: nn.Module, source: Pixels | Maps, labels: Tensor, batch: int) -> dict[str, float]:
    """Loss and macro-F1 of a part, in 32-bit arithmetic; the network is left in evaluation mode."""
    network.eval()
    logits = torch.cat([network(shown).float().cpu() for shown in source.split(batch)])
    loss = nn.functional.cross_entropy(logits, labels).item()
    return {"val_loss": loss, "macro_f1": measure(labels.numpy(), logits.argmax(1).numpy())["macro_f1"]}


@torch.no_grad()
def logits_of(network: nn.Module, images: Images, job: Job) -> np.ndarray:
    """N x C, float32, in 32-bit arithmetic; the network is left in evaluation mode."""
    network.eval()
    batches = images.pixels.split(job.attempt.batch)
    return np.concatenate([logits_of_pixels(network, pixels.to(job.device), job) for pixels in batches])


@torch.no_grad()
def logits_of_pixels(network: nn.Module, pixels: torch.Tensor, job: Job) -> np.ndarray:
    """B x C of a batch of images, B x 3 x S x S bytes on the job's device, by a network in evaluation mode."""
    return network(normalise(pixels, job.attempt.arch)).float().cpu().numpy()


def stalled(at: Standing, attempt: Attempt) -> bool:
    """Has val gained nothing for ``patience`` epochs? Every process says what the first one finds."""
    return bool(attempt.patience) and bool(as_first(lambda: float(at.epoch - at.best_epoch >= attempt.patience)))


def distribute(network: nn.Module, attempt: Attempt) -> nn.Module:
    """The network with gradients averaged over the processes of torchrun; itself without them."""
    if place()[1] == 1:
        return network
    freeze(network, attempt.views > 0)  # what learns in any epoch
    return nn.parallel.DistributedDataParallel(network, find_unused_parameters=attempt.freeze > 0)


def retrain_head(network: nn.Module, train: Images, job: Job) -> None:
    """Give a trained network a new head, learned on its penultimate features with all classes equally frequent."""
    source = source_of(job, network, train, job.attempt.augment, job.attempt.views)
    features, (_, head) = features_of(network, source, job.attempt.batch), head_of(network)
    balanced, labels = balance_features(job.attempt.imbalance, features, train.labels.numpy(), job.seed)
    inputs, targets = torch.from_numpy(balanced).float().to(job.device), torch.from_numpy(labels).to(job.device)
    torch.manual_seed(job.seed)
    for layer in head.modules():
        if isinstance(layer, nn.Linear):
            layer.reset_parameters()
    optimizer = torch.optim.AdamW(head.parameters(), job.attempt.lr, weight_decay=0.05)
    schedule = lr_scheduler.CosineAnnealingLR(optimizer, HEAD_STEPS)
    head.train().requires_grad_(True)
    for _ in range(HEAD_STEPS):
        loss = nn.functional.cross_entropy(head(inputs), targets, label_smoothing=job.attempt.smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    network.eval()


@torch.no_grad()
def features_of(network: nn.Module, source: Pixels | Maps, batch: int) -> np.ndarray:
    """Penultimate features, N x F, float32: what enters the head; the network is left in evaluation mode."""
    network.eval()
    found: list[Tensor] = []
    _, head = head_of(network)
    hook = head.register_forward_pre_hook(lambda module, inputs: found.append(inputs[0].detach().float().cpu()))
    for shown in source.split(batch):
        network(shown)
    hook.remove()
    return torch.cat(found).numpy()
