"""The sources of the decoder's embeddings: a cache that the frozen encoder has filled, or the encoder in the loop."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms import v2

from converters.cli.errors import DatasetError
from converters.cli.terminal import progress
from finetune.segmentation.embedding_cache import GB, EmbeddingCache
from finetune.segmentation.images import MarkedImage
from finetune.segmentation.models import Segmenter, framed, half_precision, hash_of
from finetune.segmentation.steps import Source
from finetune.training.processes import leads, place, wait_for_all

Seen = tuple[MarkedImage, int]  # an image and its view


def encode(segmenter: Segmenter, pairs: Sequence[Seen], seeds: Sequence[int] | None = None) -> Tensor:
    """Embeddings of images in views, B x C x g x g: a source where the encoder learns, or once it has.

    In training, each image changes in colour as its seed says, and gradients are kept.
    """
    frames = frames_of(segmenter, pairs, seeds or [None] * len(pairs))
    with torch.set_grad_enabled(seeds is not None), half_precision(segmenter.sam, seeds is not None):
        return segmenter.sam.image_encoder(frames).float()


def frames_of(segmenter: Segmenter, pairs: Sequence[Seen], seeds: Sequence[int | None]) -> Tensor:
    """Images in views as the encoder takes them, B x 3 x S x S, each recoloured by its seed; None: as it is."""
    frames = []
    for (image, view), seed in zip(pairs, seeds, strict=True):
        pixels = image.pixels(view)
        if seed is not None:
            torch.manual_seed(seed)
            pixels = recolour(pixels)
        frames.append(framed(segmenter.sam, pixels))
    return torch.stack(frames)


def cached_source(segmenter: Segmenter, wanted: Sequence[Seen], folder: Path, cache_gb: float, batch: int) -> Source:
    """Embed all images in all views that are asked for, unless they lie in the cache; then read them from there.

    Turned or mirrored, an image is recoloured too. Each process of torchrun embeds its share.
    """
    sam, (rank, world) = segmenter.sam, place()
    side = sam.prompt_encoder.image_embedding_size[0]
    encoder = f"{hash_of(sam.image_encoder)} {sam.image_encoder.img_size}"
    cache = EmbeddingCache(folder, encoder, (sam.prompt_encoder.embed_dim, side, side), int(cache_gb * GB))
    keys = {(image.path, view): cache.key(image.path, view) for image, view in wanted}
    missing = sum(cache.read(key) is None for key in keys.values())
    if leads():
        cache.make_room(keys.values())
        click.echo(
            f"embeddings: {len(keys)} of {cache.entry_bytes / 1e6:.1f} MB, together "
            f"{len(keys) * cache.entry_bytes / GB:.2f} GB in {folder}; {missing} are to be made",
            err=True,
        )
    wait_for_all()

    @torch.no_grad()
    def embed(pairs: Sequence[Seen]) -> Any:
        seeds = [int(keys[image.path, view][:8], 16) if view else None for image, view in pairs]
        return sam.image_encoder(frames_of(segmenter, pairs, seeds)).float().cpu().numpy()

    share = [(keys[image.path, view], (image, view)) for image, view in wanted[rank::world]]
    with progress(None, missing // world, "embedding") as bar:
        cache.fill(share, embed, batch, bar.update)
    wait_for_all()

    def source(pairs: Sequence[Seen], seeds: Sequence[int] | None = None) -> Tensor:
        found = (cache.read(keys[image.path, view]) for image, view in pairs)
        entries = [entry for entry in found if entry is not None]
        if len(entries) < len(pairs):
            raise DatasetError(f"{folder}: embeddings vanished during the run: another run with a smaller --cache-gb?")
        return torch.from_numpy(np.stack(entries).astype(np.float32)).to(sam.device)

    return source


def recolour(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """H x W x 3, RGB, with brightness, contrast and saturation changed by up to 30 %, by torch's random generator."""
    return v2.ColorJitter(0.3, 0.3, 0.3)(torch.from_numpy(pixels).permute(2, 0, 1)).permute(1, 2, 0).numpy()
