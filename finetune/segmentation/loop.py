"""The training loop of SAM's decoder: resumable at every epoch, on one device or several (torchrun)."""

import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path

import numpy as np
from torch import nn

from converters.cli.terminal import progress
from finetune.segmentation.images import MarkedImage
from finetune.segmentation.models import Segmenter
from finetune.segmentation.settings import Recipe
from finetune.segmentation.steps import Source, averaged_of, optimizer_of, scene_of, swap, take_step
from finetune.training.processes import add_up, as_first, place
from finetune.training.standing import Standing, keep_standing, load_standing

GRAPH_PIXELS = 2 * 1024**2  # that go through a learning encoder at once: its graph is what memory goes to


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
    chosen = deepcopy(parameters)
    states = {
        "trained": parameters, "chosen": chosen, "averaged": averaged, "optimizer": optimizer, "schedule": schedule
    }  # fmt: skip
    at = load_standing(states, last) if resume else Standing()
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
            if at.improves([score]):
                chosen.load_state_dict(parameters.state_dict())
            swap(parameters, averaged)
            at.cpu_seconds += time.process_time() - began
            entry = {"epoch": at.epoch, "loss": float(np.mean(losses)), "lr": schedule.get_last_lr()[0]}
            entry["cpu_seconds"] = round(at.cpu_seconds, 1)
            at.history.append(entry | ({"val": score} if judge else {}))
            keep_standing(at, states, last)
            bar.update(1, f"val {score:.3f}" if judge else "")
    parameters.load_state_dict(chosen.state_dict())
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
    together = len(batch) if recipe.frozen else max(1, GRAPH_PIXELS // segmenter.sam.image_encoder.img_size**2)
    loss = 0.0
    for start in range(0, len(own), together):
        some = slice(start, start + together)
        loss += take_step(segmenter, source(pairs[some], seeds[some]), scenes[some], recipe.rounds, of=len(batch))
    return add_up([parameter for parameter in segmenter.parameters() if parameter.requires_grad], loss)
