"""One training step of SAM's decoder: a scene, prompts, the loss and its gradients; ``loop`` repeats it.

Prompts are simulated as in A. Kirillov et al., Segment Anything, ICCV 2023: an interaction begins with a point or a
noisy box, and continues with points where the answer is wrong, together with that answer as a mask prompt.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from segment_anything.modeling import Sam
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import lr_scheduler
from torch.optim.swa_utils import AveragedModel

from finetune.segmentation.images import MarkedImage, binary, covered, fitted
from finetune.segmentation.models import Segmenter, add_lora, decode, embed_prompts
from finetune.segmentation.prompts import Mask, box_of, error_point, first_prompt
from finetune.segmentation.settings import Recipe

FOCAL, DICE, IOU = 20.0, 1.0, 1.0  # weights of the loss's three terms
GAMMA, ALPHA = 2.0, 0.25  # T. Lin et al., Focal Loss for Dense Object Detection, ICCV 2017
NEAR = 4  # cells around an instance's box that count as near it
FINER = 2  # the loss is taken at this many times the decoder's own resolution, or at the image's if that is less
Losses = Callable[[Tensor, Tensor], Tensor]  # (N x M x h x w logits, N x h x w targets) -> N x M


class Source(Protocol):
    """A source of embeddings."""

    def __call__(self, pairs: Sequence[tuple[MarkedImage, int]], seeds: Sequence[int] | None = None) -> Tensor:
        """Embeddings of images in views, B x C x g x g; in training, ``seeds`` of what changes in each at random."""


@dataclass(frozen=True)
class Scene:
    """The targets of one view of one image: N instances, h x w px, the size at which the loss is taken."""

    cover: Tensor  # N x h x w: how much of each cell an instance covers, 0..1
    masks: list[Mask]  # N binary ones, h x w, for simulating prompts
    boxes: list[NDArray[np.float32]]  # N boxes, exact to fractions of a cell
    maps: Tensor | None  # (1 + C) x h x w: all defects, and those of each class; None without learned tokens
    generator: np.random.Generator  # draws its prompts


def loss_size(sam: Sam, size: Sequence[int]) -> tuple[int, int]:
    """(height, width) at which masks of an image of ``size`` are compared; never more than the image has."""
    own = FINER * 4 * sam.prompt_encoder.image_embedding_size[0]
    return fitted(size, min(max(size), own))


def scene_of(
    segmenter: Segmenter, ids: NDArray[np.int64], kinds: Sequence[int], most: int, generator: np.random.Generator
) -> Scene:
    """At most ``most`` of an image's instances, drawn again each time.

    ``ids`` is H x W, each pixel's instance (1, 2, ... or 0); ``kinds`` are the instances' classes.
    """
    size = loss_size(segmenter.sam, ids.shape)
    chosen = [int(number) for number in generator.permutation(np.unique(ids[ids > 0]))[:most]]
    whole = [(ids == number).astype(np.uint8) for number in chosen]
    cover = [covered(mask, size) for mask in whole]
    factor = np.array([size[1] / ids.shape[1], size[0] / ids.shape[0]] * 2, np.float32)
    maps = None
    if segmenter.tokens is not None:
        classes = np.append(-1, kinds)[ids]
        wanted = [classes >= 0, *(classes == kind for kind in range(len(segmenter.classes)))]
        maps = torch.from_numpy(np.stack([covered(mask.astype(np.uint8), size) for mask in wanted]))
    return Scene(
        torch.from_numpy(np.stack(cover)) if cover else torch.zeros(0, *size),
        [binary(cells) for cells in cover],
        [box_of(mask) * factor for mask in whole],
        maps,
        generator,
    )


def mask_losses(logits: Tensor, cover: Tensor) -> Tensor:
    """20 focal + 1 dice of M masks for each of N instances, N x M.

    ``logits`` are N x M x h x w; ``cover``, N x h x w in 0..1, is the target: a cell that is covered in part counts
    in part.
    """
    target = cover[:, None].expand_as(logits)
    chance = logits.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    agreement = chance * target + (1 - chance) * (1 - target)
    balance = ALPHA * target + (1 - ALPHA) * (1 - target)
    focal = (balance * (1 - agreement) ** GAMMA * entropy).mean((-2, -1))
    return FOCAL * focal + DICE * dice_losses(chance, target)


def near_losses(logits: Tensor, cover: Tensor) -> Tensor:
    """1 dice + 1 cross-entropy near an instance + 1/2 cross-entropy elsewhere, each a mean over its cells; N x M.

    Arguments as of ``mask_losses``. Near is the instance's box and NEAR cells around it: from random weights, 20 focal
    over the whole image is won by answering nothing, and what tells an instance from the rest of its box has hardly
    any weight in it.
    """
    box = (cover.amax(-1, keepdim=True) > 0) & (cover.amax(-2, keepdim=True) > 0)
    near = F.max_pool2d(box[:, None].float(), 2 * NEAR + 1, stride=1, padding=NEAR)
    far = 1 - near
    weights = near / near.sum((-2, -1), keepdim=True).clamp(min=1)
    weights = weights + 0.5 * far / far.sum((-2, -1), keepdim=True).clamp(min=1)
    target = cover[:, None].expand_as(logits)
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (weights * entropy).sum((-2, -1)) + DICE * dice_losses(logits.sigmoid(), target)


def dice_losses(chance: Tensor, target: Tensor) -> Tensor:
    """1 - Dice over the last two axes, both 0..1; of an empty target, every pixel found counts as a false one."""
    overlap, sizes = (chance * target).sum((-2, -1)), (chance + target).sum((-2, -1))
    return 1 - (2 * overlap + 1) / (sizes + 1)


def reached_iou(logits: Tensor, cover: Tensor) -> Tensor:
    """IoU of M masks (N x M x h x w, logits) with N instances (N x h x w), N x M; what the IoU head is to foretell."""
    found, target = logits.detach() > 0, (cover >= 0.5)[:, None]
    return (found & target).sum((-2, -1)) / (found | target).sum((-2, -1)).clamp(min=1)


def scene_loss(
    segmenter: Segmenter, embedding: Tensor, scene: Scene, rounds: int, losses: Losses = mask_losses
) -> Tensor:
    """The mean loss over all instances of an image and ``rounds`` of prompt and answer; one decoder call a round.

    A single point is ambiguous: the best of masks 1 to 3 counts. All other prompts are answered by mask 0.
    """
    sam, size, generator = segmenter.sam, (scene.cover.shape[1], scene.cover.shape[2]), scene.generator
    cover = scene.cover.to(embedding.device)
    prompts = [first_prompt(mask, box, size, generator) for mask, box in zip(scene.masks, scene.boxes, strict=True)]
    single = [index for index, prompt in enumerate(prompts) if prompt.box is None]
    total, low = embedding.new_zeros(()), None
    for _ in range(rounds):
        lows, ious = decode(sam, embedding, *embed_prompts(sam, prompts, size, low), fast=True)
        sure = [index for index in range(len(prompts)) if index not in single]
        answers = [(indices, masks) for indices, masks in ((sure, slice(0, 1)), (single, slice(1, 4))) if indices]
        chosen = torch.zeros(len(prompts), dtype=torch.long)
        found = np.zeros((len(prompts), *size), np.uint8)
        for indices, masks in answers:
            logits = enlarged_to(sam, lows[indices, masks], size)
            foretold, target = ious[indices, masks], cover[indices]
            error = ((foretold - reached_iou(logits, target)) ** 2).mean(1)
            total = total + (losses(logits, target).amin(1) + IOU * error).sum() / (len(prompts) * rounds)
            best = foretold.argmax(1)
            chosen[indices] = best.cpu() + masks.start
            found[indices] = (logits[torch.arange(len(indices)), best] > 0).cpu().numpy()
        low = lows[torch.arange(len(prompts)), chosen][:, None].detach()
        prompts = [
            prompt.with_point(*error_point(mask, answer, generator))
            for prompt, mask, answer in zip(prompts, scene.masks, found, strict=True)
        ]
        single = []
    return total


def enlarged_to(sam: Sam, low: Tensor, size: tuple[int, int]) -> Tensor:
    """Logits at the loss's size, by one interpolation: N x M x 4g x 4g -> N x M x h x w."""
    height, width = fitted(size, low.shape[-1])
    return F.interpolate(low[..., :height, :width], size, mode="bilinear", align_corners=False)


def token_loss(segmenter: Segmenter, embedding: Tensor, scene: Scene) -> Tensor:
    """The mean loss of the learned tokens' maps; a good image's are empty."""
    assert segmenter.tokens is not None and scene.maps is not None
    sam, maps = segmenter.sam, scene.maps.to(embedding.device)
    low, ious = token_answers(segmenter, embedding, fast=True)
    logits = enlarged_to(sam, low, (maps.shape[1], maps.shape[2]))
    error = (ious - reached_iou(logits, maps)) ** 2
    return (mask_losses(logits, maps) + IOU * error).mean()


def token_answers(segmenter: Segmenter, embedding: Tensor, fast: bool = False) -> tuple[Tensor, Tensor]:
    """The decoder's answer without a prompt: logits (1 + C) x 1 x 4g x 4g and IoU (1 + C) x 1."""
    assert segmenter.tokens is not None
    dense = segmenter.sam.prompt_encoder(None, None, None)[1].expand(len(segmenter.tokens), -1, -1, -1)
    low, ious = decode(segmenter.sam, embedding, segmenter.tokens, dense, fast)
    return low[:, :1], ious[:, :1]


def choose_trained(segmenter: Segmenter, recipe: Recipe) -> None:
    """Freeze all but what the recipe trains."""
    sam = segmenter.sam
    segmenter.requires_grad_(False)
    sam.mask_decoder.requires_grad_(True)
    sam.prompt_encoder.requires_grad_(recipe.prompt_encoder)
    sam.image_encoder.requires_grad_(recipe.image_encoder)
    if recipe.lora:
        add_lora(sam.image_encoder, recipe.lora)
    if segmenter.tokens is not None:
        segmenter.tokens.requires_grad_(True)


def averaged_of(parameters: nn.ParameterList, decay: float) -> AveragedModel:
    """The moving average of weights, which is what is judged and kept; ``update_parameters`` goes on with it."""

    def forget(means: Any, values: Any, steps: Any) -> None:
        so_far = min(decay, (1 + int(steps)) / (10 + int(steps)))  # the first ones are soon forgotten
        torch._foreach_lerp_(means, values, 1 - so_far)

    averaged = AveragedModel(parameters, multi_avg_fn=forget)
    averaged.update_parameters(parameters)  # its first call takes them as they are
    return averaged


def swap(parameters: nn.ParameterList, averaged: AveragedModel) -> None:
    """Exchange weights and their moving average, in place; a second call brings them back."""
    for parameter, mean in zip(parameters, averaged.parameters(), strict=True):
        parameter.data, mean.data = mean.data, parameter.data


def optimizer_of(
    parameters: Iterable[nn.Parameter], rate: float, weight_decay: float, warmup: float, steps: int
) -> tuple[Any, Any]:
    """AdamW, and its rate step by step: a linear warm-up over a share of the steps, then a half cosine to nothing."""
    optimizer = torch.optim.AdamW(parameters, rate, weight_decay=weight_decay)
    first = max(1, round(warmup * steps))
    rise = lr_scheduler.LinearLR(optimizer, 1 / first, total_iters=first)
    fall = lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps - first))
    return optimizer, lr_scheduler.SequentialLR(optimizer, [rise, fall], [first])


def take_step(
    segmenter: Segmenter,
    embeddings: Tensor,
    scenes: Sequence[Scene],
    rounds: int,
    losses: Losses = mask_losses,
    of: int | None = None,
) -> float:
    """Add the gradients of a batch, B x C x g x g and B scenes; return its mean loss.

    Each image's graph is freed before the next one's is built; the encoder's, if it has one, is gone through last.
    Where this is a share of a batch ``of`` so many images, gradients and loss are shares of the batch's mean.
    """
    leaf, total = embeddings.detach().requires_grad_(embeddings.requires_grad), 0.0
    for index, scene in enumerate(scenes):
        terms = []
        if len(scene.masks):
            terms.append(scene_loss(segmenter, leaf[index : index + 1], scene, rounds, losses))
        if scene.maps is not None:
            terms.append(token_loss(segmenter, leaf[index : index + 1], scene))
        if not terms:
            continue
        loss = torch.stack(terms).sum() / (of or len(scenes))
        loss.backward()
        total += float(loss.detach())
    if embeddings.requires_grad and leaf.grad is not None:
        embeddings.backward(leaf.grad)
    return total
