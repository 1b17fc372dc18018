"""The training loop: resumable at every epoch, on one device or several (torchrun).

Before each epoch a teacher, the moving average of the network, labels unknown blocks of whole images; then the network
learns from windows of them, with two changes of residuals: those to any of the K nearest good patches in place of the
nearest, and channels dropped. These two, the focal loss and AdamW are in the abstracts of H. Li et al. (arXiv
2306.03492: ResMixMatch); windows, flips, the teacher and all numbers are ours. No images are mixed.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import lr_scheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchvision.ops import sigmoid_focal_loss

from converters.cli.terminal import progress
from finetune.anomaly.weak.block_labels import BlockLabels
from finetune.anomaly.weak.network import ResidualTransformer
from finetune.anomaly.weak.recipe import Recipe
from finetune.anomaly.weak.residuals import Table
from finetune.training.checkpoints import save_state
from finetune.training.precision import autocast_on
from finetune.training.processes import add_up, leads, place, wait_for_all
from finetune.training.standing import Standing, keep_standing, load_standing

CROPS = 128  # windows an epoch
SIDE = 32  # blocks a side of a window
AIMED = 0.75  # share of the windows of defect images that lie around a block labelled as a defect
DROPPED = 0.1  # share of channels
TYPES = 0.1  # weight of the classes of defect blocks in the loss
DECAY, WEIGHT_DECAY, CLIP = 0.99, 0.05, 1.0
WHOLE = (slice(None), slice(None))  # the window of all blocks
WARM_UP = 0.1  # share of the steps, and of the epochs in which the distance from good patches is the teacher


@dataclass(frozen=True)
class Lesson:
    """What is learned from: a table of N images, what is known of their blocks, and their classes."""

    table: Table
    labels: Sequence[BlockLabels]
    classes: Tensor  # N, int64: 0 is good


def fit(
    lesson: Lesson, classes: int, recipe: Recipe, device: str, folder: Path, resume: bool
) -> tuple[ResidualTransformer, Standing]:
    """Train for all epochs, and return the moving average of the network, which model.pt then holds.

    last.pt is what ``resume`` continues from as if there had been no interruption.
    """
    torch.manual_seed(recipe.seed)
    network = ResidualTransformer(deviation_of(lesson), classes).to(device)
    averaged = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(DECAY))
    steps = recipe.epochs * -(-CROPS // recipe.batch)
    optimizer = torch.optim.AdamW(network.parameters(), recipe.lr, weight_decay=WEIGHT_DECAY)
    schedule = lr_scheduler.OneCycleLR(optimizer, recipe.lr, steps, pct_start=WARM_UP, cycle_momentum=False)
    states = {"network": network, "averaged": averaged, "optimizer": optimizer, "schedule": schedule}
    at = load_standing(states, folder / "last.pt") if resume else Standing()
    with progress(None, recipe.epochs, "training", item_show_func=lambda item: item) as bar:
        bar.update(at.epoch)
        while at.epoch < recipe.epochs:
            began = time.process_time()
            generator = np.random.default_rng([recipe.seed, at.epoch])  # a resumed run draws what an unbroken one does
            teacher = averaged.module if at.epoch >= WARM_UP * recipe.epochs else None
            crops, losses = drawn(lesson, teacher, generator, device), []
            for start in range(0, CROPS, recipe.batch):
                losses.append(learn(network, lesson, crops[start : start + recipe.batch], device))
                nn.utils.clip_grad_norm_(network.parameters(), CLIP)
                optimizer.step()
                schedule.step()
                averaged.update_parameters(network)
            at.epoch += 1
            at.cpu_seconds += time.process_time() - began
            mean, rate = float(np.mean(losses)), optimizer.param_groups[0]["lr"]
            at.history.append({"epoch": at.epoch, "loss": mean, "lr": rate})
            keep_standing(at, states, folder / "last.pt")
            bar.update(1, f"loss {mean:.4f}")
    network.load_state_dict(averaged.module.state_dict())
    if leads():
        save_state(network.state_dict(), folder / "model.pt")
    wait_for_all()
    return network.eval(), at


def deviation_of(lesson: Lesson) -> Tensor:
    """F: the deviation of the residuals of good images from nought."""
    good = (lesson.classes == 0).nonzero()[:, 0].tolist()
    squares = [lesson.table.residuals(index, WHOLE).square().mean((0, 1)) for index in good]
    return torch.stack(squares).mean(0).sqrt().clamp(min=1e-6)


@dataclass(frozen=True)
class Crop:
    """A window of an image whose blocks are labelled, and the die that its changes are drawn with."""

    index: int
    labels: Tensor  # s x s, int8: 1 defect, 0 good, -1 unknown
    window: tuple[slice, slice]
    die: np.random.Generator


def drawn(lesson: Lesson, teacher: nn.Module | None, generator: np.random.Generator, device: str) -> list[Crop]:
    """The windows of an epoch: half of them of defect images, mostly around a defect, half of good ones."""
    kinds = [(lesson.classes > 0).nonzero()[:, 0].numpy(), (lesson.classes == 0).nonzero()[:, 0].numpy()]
    dice = generator.spawn(CROPS)
    indices = [int(die.choice(kinds[number % 2])) for number, die in enumerate(dice)]
    targets = {index: taught(lesson, index, teacher, device) for index in sorted(set(indices))}
    crops = []
    for index, die in zip(indices, dice, strict=True):
        window = window_of(targets[index], die)
        crops.append(Crop(index, targets[index][window], window, die))
    return crops


@torch.no_grad()
def taught(lesson: Lesson, index: int, teacher: nn.Module | None, device: str) -> Tensor:
    """h x w labels of an image's blocks; without a teacher, the distance from good patches stands in for it.

    What a mask leaves unknown stays so: blocks at the edge of a defect.
    """
    labels = lesson.labels[index]
    if not labels.bags.any():
        return labels.known
    residuals = lesson.table.residuals(index, WHOLE)
    if teacher is None:
        return labels.taught(residuals.norm(dim=-1), None)
    with autocast_on(device):
        return labels.taught(teacher(residuals[None].to(device))[0, ..., 0].sigmoid().cpu())


def window_of(target: Tensor, die: np.random.Generator) -> tuple[slice, slice]:
    """A window of SIDE x SIDE blocks, or all there are, of an image with these labels."""
    blocks = (target == 1).nonzero()
    centre = None
    if len(blocks) and die.random() < AIMED:
        centre = blocks[int(die.integers(len(blocks)))].tolist()
    starts = []
    for axis, length in enumerate(target.shape):
        wanted = die.integers(length) if centre is None else centre[axis] + die.integers(-SIDE // 4, SIDE // 4 + 1)
        starts.append(int(np.clip(wanted - SIDE // 2, 0, max(0, length - SIDE))))
    return slice(starts[0], starts[0] + SIDE), slice(starts[1], starts[1] + SIDE)


def learn(network: nn.Module, lesson: Lesson, crops: Sequence[Crop], device: str) -> float:
    """Set the gradients of a batch; return its mean loss. Each process of torchrun takes its share of the batch."""
    rank, world = place()
    network.zero_grad()
    total = 0.0
    if own := crops[rank::world]:
        residuals, labels = (
            torch.stack(side).to(device) for side in zip(*(augmented(lesson.table, crop) for crop in own), strict=True)
        )
        with autocast_on(device):
            logits = network(residuals)
        kinds = lesson.classes[[crop.index for crop in own]].to(device)
        known, defects = (sum(int((crop.labels >= least).sum()) for crop in crops) for least in (0, 1))
        loss = loss_of(logits, labels, kinds, known, defects)
        loss.backward()
        total = loss.item()
    return add_up(list(network.parameters()), total)


def augmented(table: Table, crop: Crop) -> tuple[Tensor, Tensor]:
    """Residuals (s x s x F) and labels (s x s) of a window, changed at random."""
    rank = torch.from_numpy(crop.die.integers(table.nearest.shape[-1], size=crop.labels.shape))
    residuals = table.residuals(crop.index, crop.window, rank)
    kept = torch.from_numpy(crop.die.random(residuals.shape[-1]) >= DROPPED)
    move = _turned(int(crop.die.integers(4)), bool(crop.die.integers(2)))
    return move(residuals * kept / (1 - DROPPED)), move(crop.labels)


def _turned(turns: int, mirrored: bool) -> Callable[[Tensor], Tensor]:
    """Quarter turns of s x s x ..., then perhaps a mirror."""
    return lambda values: torch.rot90(values, turns).flip(0) if mirrored else torch.rot90(values, turns)


def loss_of(logits: Tensor, labels: Tensor, kinds: Tensor, known: int, defects: int) -> Tensor:
    """Focal loss (Lin et al., ICCV 2017) of labelled blocks, and cross-entropy of defect blocks' classes.

    Logits B x s x s x (1 + C), labels B x s x s of 1, 0 and -1, kinds B from 1 (0 is good). ``known`` and ``defects``
    are the blocks of the whole batch that the two are averaged over, of which this may be a part.
    """
    told, shown = labels >= 0, labels == 1
    focal = sigmoid_focal_loss(logits[..., 0][told], labels[told].float(), alpha=-1, gamma=2, reduction="sum")
    if logits.shape[-1] == 1:
        return focal / max(1, known)
    named = (kinds - 1)[:, None, None].expand_as(labels)[shown]
    types = F.cross_entropy(logits[..., 1:][shown], named, reduction="sum")
    return focal / max(1, known) + TYPES * types / max(1, defects)
