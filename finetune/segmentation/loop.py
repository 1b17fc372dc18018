"""The training loop of SAM's decoder: resumable at every epoch, on one device or several (torchrun)."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from converters.cli.terminal import progress
from finetune.segmentation.images import MarkedImage
from finetune.segmentation.models import Segmenter, trained_state
from finetune.segmentation.settings import Recipe
from finetune.segmentation.steps import Source, averaged_of, optimizer_of, scene_of, swap, take_step
from finetune.training.checkpoints import load_saved, save_state
from finetune.training.processes import add_up, as_first, leads, place


@dataclass
class Standing:
    """The standing of a training; with the states of weights and optimizer it is what --resume needs."""

    epoch: int = 0
    best: float = -math.inf
    best_epoch: int = 0
    cpu_seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)

    def note(self, loss: float, lr: float, val: float | None, cpu_seconds: float) -> None:
        """Add the epoch that has ended to the history."""
        self.cpu_seconds += cpu_seconds
        entry = {"epoch": self.epoch, "loss": loss, "lr": lr, "cpu_seconds": round(self.cpu_seconds, 1)}
        self.history.append(entry | ({} if val is None else {"val": val}))


def fit(
    segmenter: Segmenter,
    source: Source,
    images: Sequence[MarkedImage],
    views: Sequence[int],
    recipe: Recipe,
    judge: Callable[[], float] | None,
    last: Path,
    resume: bool,
) -> list[dict[str, float]]:
    """Train in place, and leave the weights of the epoch that ``judge`` (higher is better) likes best; its history.

    Without a judge (val shows no defect), the last epoch's are kept. Each epoch replaces the file ``last``, from which
    ``resume`` continues as if there had been no interruption.
    """
    parameters = nn.ParameterList(value for value in segmenter.parameters() if value.requires_grad)
    steps = -(-len(drawn(segmenter, images, np.random.default_rng(recipe.seed))) // recipe.batch)
    optimizer, schedule = optimizer_of(parameters, recipe.lr, recipe.weight_decay, recipe.warmup, recipe.epochs * steps)
    averaged = averaged_of(parameters, recipe.ema)
    states = {"optimizer": optimizer, "schedule": schedule, "averaged": averaged}
    at, chosen = load_standing(segmenter, states, last) if resume else (Standing(), trained_state(segmenter))
    with progress(None, recipe.epochs, "training", item_show_func=lambda item: item) as bar:
        bar.update(at.epoch)
        while at.epoch < recipe.epochs and not (judge and at.epoch - at.best_epoch >= recipe.patience):
            began = time.process_time()
            generator = np.random.default_rng([recipe.seed, at.epoch])  # a resumed run draws what an unbroken one does
            order, losses = drawn(segmenter, images, generator), []
            for start in range(0, len(order), recipe.batch):
                losses.append(learn(segmenter, source, order[start : start + recipe.batch], views, recipe, generator))
                nn.utils.clip_grad_norm_(parameters, recipe.clip)
                optimizer.step()
                schedule.step()
                averaged.update_parameters(parameters)
            at.epoch += 1
            swap(parameters, averaged)
            score = as_first(judge) if judge else float(at.epoch)
            if score > at.best:
                at.best, at.best_epoch, chosen = score, at.epoch, trained_state(segmenter)
            swap(parameters, averaged)
            loss, lr = float(np.mean(losses)), schedule.get_last_lr()[0]
            at.note(loss, lr, score if judge else None, time.process_time() - began)
            keep(segmenter, states, at, chosen, last)
            bar.update(1, f"val {score:.3f}" if judge else "")
    segmenter.load_state_dict(chosen, strict=False)
    return at.history


def drawn(segmenter: Segmenter, images: Sequence[MarkedImage], generator: np.random.Generator) -> list[MarkedImage]:
    """The images of an epoch in a random order: all with instances, and of the others half as many for the tokens."""
    marked = [image for image in images if image.marked]
    good = [image for image in images if not image.marked] if segmenter.tokens is not None else []
    chosen = marked + [good[i] for i in generator.permutation(len(good))[: len(marked) // 2]]
    return [chosen[i] for i in generator.permutation(len(chosen))]


def learn(
    segmenter: Segmenter,
    source: Source,
    batch: Sequence[MarkedImage],
    views: Sequence[int],
    recipe: Recipe,
    generator: np.random.Generator,
) -> float:
    """Set the gradients of a batch of images, each in one of ``views``; return its mean loss.

    Each process of torchrun takes its share of the batch, and all have the sum in the end. Each image has its own
    generator, so that what is drawn for one doesn't depend on the others, nor on the number of processes.
    """
    rank, world = place()
    own, dice = batch[rank::world], generator.spawn(len(batch))[rank::world]
    pairs = [(image, int(die.choice(views))) for image, die in zip(own, dice, strict=True)]
    scenes = [
        scene_of(segmenter, *image.instances(view), recipe.most, die)
        for (image, view), die in zip(pairs, dice, strict=True)
    ]
    seeds = [int(die.integers(2**31)) for die in dice]
    segmenter.zero_grad()
    loss = take_step(segmenter, source(pairs, seeds), scenes, recipe.rounds, of=len(batch)) if own else 0.0
    return add_up([parameter for parameter in segmenter.parameters() if parameter.requires_grad], loss)


def keep(segmenter: Segmenter, states: dict[str, Any], at: Standing, chosen: dict[str, Any], last: Path) -> None:
    """Write all that a resumed training needs, whole or not at all. Only torchrun's first process does."""
    if not leads():
        return
    saved = {name: state.state_dict() for name, state in states.items()}
    save_state({**saved, "weights": trained_state(segmenter), "chosen": chosen, "standing": asdict(at)}, last)


def load_standing(segmenter: Segmenter, states: dict[str, Any], last: Path) -> tuple[Standing, dict[str, Any]]:
    """Set weights and states to those of ``last``; where it stands, and the weights that val has liked best.

    A training that was stopped before its first epoch's end starts again.
    """
    if not last.is_file():
        return Standing(), trained_state(segmenter)
    saved = load_saved(last)
    segmenter.load_state_dict(saved["weights"], strict=False)
    for name, state in states.items():
        state.load_state_dict(saved[name])
    return Standing(**saved["standing"]), saved["chosen"]
