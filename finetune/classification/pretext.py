"""A network learns to name painted defects before it sees the few real ones.

From random weights, a few dozen images with a label and no mask do not tell a network to look at a spot of 20 px. So it
first learns to find and name defects that we paint into train's good images, cell by cell of its feature map, as in
CutPaste (Li et al., CVPR 2021) and DRAEM (Zavrtanik et al., ICCV 2021). No label and no mask of the dataset is used,
except that an image is good.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from converters.cli.errors import DatasetError
from converters.cli.terminal import progress
from finetune.training.images import augmentation, normalise
from finetune.training.painted_defects import CELLS, paint_defects

PER_STEP = 8  # images; their cells are the examples, a thousand in each image
RATE = 3e-3
DEFECT_WEIGHT = 3.0  # of a synthetic defect's cell against an untouched one, of which there are far more


def learn_pretext(network: Any, good: Tensor, steps: int, cast: Any, seed: int) -> None:
    """Teach a FineNet's ``features`` and ``cells`` to name synthetic defects.

    ``good`` are N x 3 x S x S, uint8, train's good images; ``cast`` is an autocast context.
    """
    torch.manual_seed(seed)
    generator = np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(network.parameters(), RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, steps, pct_start=0.15)
    network.train()
    with progress(None, steps, "synthetic defects", item_show_func=lambda item: item) as bar:
        for _ in range(steps):
            loss = pretext_loss(network, good, cast, generator)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 2.0)
            optimizer.step()
            schedule.step()
            bar.update(1, f"loss {loss.item():.3f}")


def pretext_loss(network: Any, good: Tensor, cast: Any, generator: np.random.Generator) -> Tensor:
    """Cross-entropy over the cells of PER_STEP images; a cell's class is the largest among its pixels."""
    if len(good) < 2:
        raise DatasetError("the pretext task paints defects into good images, and train has fewer than two")
    device = next(network.parameters()).device
    images, classes = paint_batch(good, generator)
    pixels = normalise(images.to(device), "fine").to(memory_format=torch.channels_last)
    with cast:
        named = network.cells(network.features(pixels)).float()
    cell = images.shape[-1] // named.shape[-1]
    target = F.max_pool2d(classes[:, None].float(), cell)[:, 0].long().to(device)
    weights = torch.tensor([1.0] + [DEFECT_WEIGHT] * (CELLS - 1), device=device)
    return F.cross_entropy(named, target, weights)


def paint_batch(good: Tensor, generator: np.random.Generator) -> tuple[Tensor, Tensor]:
    """PER_STEP good images with synthetic defects, B x 3 x S x S uint8, and their classes, B x S x S uint8."""
    augment = augmentation("camera", good.shape[-1])  # as with the labels, or its blur would pass for a defect
    images, classes = [], []
    for _ in range(PER_STEP):
        first, second = (good[i] for i in generator.integers(len(good), size=2))
        image, other = (np.moveaxis(x.numpy(), 0, 2) for x in (augment(first), second))
        painted, of_pixels = paint_defects(image, other, generator)
        images.append(torch.from_numpy(painted))
        classes.append(torch.from_numpy(of_pixels))
    return torch.stack(images).permute(0, 3, 1, 2), torch.stack(classes)
