"""The first lesson of a SAM with random weights: where a prompt points, on crops with synthetic shapes and defects.

From random weights a few hundred defects of some 20 px do not tell the decoder what a box means: for thousands of
steps the best it finds is to answer nothing. So it begins on crops of half the side, which cost a quarter and in
which things are large, with shapes of all sizes painted into them (as in CutPaste, C. Li et al., CVPR 2021, and
DRAEM, V. Zavrtanik et al., ICCV 2021). Positions are relative to the side, so what is learned holds for the whole.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from converters.cli.terminal import progress
from finetune.segmentation.images import VIEWS, MarkedImage
from finetune.segmentation.models import Segmenter, build_tiny, code_places, framed
from finetune.segmentation.settings import Tiny
from finetune.segmentation.steps import near_losses, optimizer_of, scene_of, take_step
from finetune.training.painted_defects import SHAPES, Pixels, paint_shapes

CROPS = 2  # a step
RATE = 2e-3
EASY = 0.2  # of the steps, in which shapes come to be as small and thin as they get


def crop_of(
    image: MarkedImage, side: int, scale: float, generator: np.random.Generator
) -> tuple[Pixels, NDArray[np.int64]]:
    """A random view of an image, reduced by ``scale``, cut to ``side`` px around a defect or anywhere, and its ids."""
    view = int(generator.integers(VIEWS))
    pixels, (ids, kinds) = image.pixels(view), image.instances(view)
    if scale < 1:
        size = (round(ids.shape[1] * scale), round(ids.shape[0] * scale))
        pixels = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
        ids = cv2.resize(ids.astype(np.uint16), size, interpolation=cv2.INTER_NEAREST).astype(np.int64)
    short = np.maximum(0, side - np.array(ids.shape))
    pixels, ids = np.pad(pixels, (*((0, int(n)) for n in short), (0, 0))), np.pad(ids, [(0, int(n)) for n in short])
    centre = generator.integers(0, ids.shape)
    if kinds and len(places := np.argwhere(ids == generator.integers(1, len(kinds) + 1))):
        centre = places[generator.integers(len(places))] + generator.integers(-side // 3, side // 3 + 1, 2)
    y, x = np.clip(centre - side // 2, 0, np.array(ids.shape) - side)
    window = np.s_[y : y + side, x : x + side]
    return pixels[window].copy(), ids[window].copy()


def study(
    segmenter: Segmenter,
    crops: Sequence[tuple[Pixels, NDArray[np.int64]]],
    rounds: int,
    generator: np.random.Generator,
    most: int = 2 * SHAPES,
) -> float:
    """Add the gradients of crops, pixels (S x S x 3) and instances of at most ``most`` prompts each; their loss."""
    frames = torch.stack([framed(segmenter.sam, pixels) for pixels, _ in crops])
    scenes = [scene_of(segmenter, ids, [0] * int(ids.max()), most, generator) for _, ids in crops]
    return take_step(segmenter, segmenter.sam.image_encoder(frames), scenes, rounds, near_losses)


def warm_up(
    segmenter: Segmenter, tiny: Tiny, images: Sequence[MarkedImage], steps: int, augment: Any, seed: int
) -> None:
    """Train all weights in place on crops of about half the side; ``augment`` changes the colours of pixels."""
    half = replace(tiny, side=tiny.side // 2 // tiny.patch * tiny.patch)
    small = Segmenter(build_tiny(half), segmenter.classes, False).to(segmenter.sam.device)
    shared = {name: value for name, value in segmenter.sam.state_dict().items() if name != "image_encoder.pos_embed"}
    small.sam.load_state_dict(shared, strict=False)
    code_places(small.sam)
    parameters = [value for name, value in small.named_parameters() if "pos_embed" not in name]
    optimizer, schedule = optimizer_of(parameters, RATE, 0.05, 0.1, steps)
    generator = np.random.default_rng(seed)
    with progress(None, steps, "warm-up", item_show_func=lambda item: item) as bar:
        for step in range(steps):
            hard = min(1.0, step / (EASY * steps))
            crops = []
            for image in generator.choice(np.array(images, object), CROPS):
                scale = tiny.side / max(image.size())
                pixels, ids = crop_of(image, half.side, scale, generator)
                paint_shapes(pixels, ids, generator, hard)
                crops.append((augment(pixels), ids))
            optimizer.zero_grad()
            loss = study(small, crops, 1, generator)
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            bar.update(1, f"loss {loss:.3f}")
    learned = small.sam.state_dict()
    segmenter.sam.load_state_dict({name: value for name, value in learned.items() if name in shared}, strict=False)
