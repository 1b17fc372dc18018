"""What caching SAM's embeddings is worth: an epoch with the encoder in the loop against one on cached embeddings.

    python benchmarks/sam_cache.py                     # vit_b of random weights, 3 images with 4 instances each
    python benchmarks/sam_cache.py --arch tiny --images 20

Goal: the cached epoch is faster by at least 0.9 x (encode + decode) / decode. Images are noise; times do not depend
on what is in them. Decode is a whole training step of the decoder: prompts, two rounds, loss, gradients, optimizer.
Of each, the shortest time counts.
"""

import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import cv2
import numpy as np
import torch

from finetune.segmentation.embedding_cache import EmbeddingCache
from finetune.segmentation.models import Segmenter, build_sam, framed
from finetune.segmentation.settings import ARCHS, Recipe, Tiny
from finetune.segmentation.steps import choose_trained, optimizer_of, scene_of, take_step

ROUNDS = 2


def seconds(work: Callable[[], object], repeat: int) -> float:
    """The shortest wall time of ``repeat`` calls after one that warms up."""
    work()
    found = []
    for _ in range(repeat):
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return min(found)


class Training:
    """A decoder in training on images of noise, with its encoder in the loop or on cached embeddings."""

    def __init__(self, arch: str, instances: int, folder: Path) -> None:
        self.generator, self.instances = np.random.default_rng(0), instances
        self.segmenter = Segmenter(build_sam(arch, Tiny()), ["defect"], auto=False)
        choose_trained(self.segmenter, Recipe())
        self.sam, self.side = self.segmenter.sam, self.segmenter.sam.image_encoder.img_size
        self.ids = np.zeros((self.side, self.side), np.int64)
        for number in range(1, instances + 1):
            x, y = self.generator.integers(0, self.side - self.side // 8, 2)
            self.ids[y : y + self.side // 10, x : x + self.side // 10] = number
        parameters = [value for value in self.segmenter.parameters() if value.requires_grad]
        self.optimizer, _ = optimizer_of(parameters, 1e-5, 0.1, 0.1, 100)
        grid, dim = self.sam.prompt_encoder.image_embedding_size[0], self.sam.prompt_encoder.embed_dim
        self.cache = EmbeddingCache(folder / "cache", "benchmark", (dim, grid, grid), 10**10)
        self.keys: dict[Path, str] = {}  # in the cache
        self.encodings: list[float] = []  # seconds

    def fill_cache(self, paths: Sequence[Path]) -> None:
        self.keys = {path: self.cache.key(path, 0) for path in paths}
        wanted = [(key, path) for path, key in self.keys.items()]
        self.cache.fill(wanted, lambda group: self.encode(group[0]).numpy(), 1, lambda count: None)

    def step(self, embedding: torch.Tensor) -> None:
        scene = scene_of(self.segmenter, self.ids, [0] * self.instances, self.instances, self.generator)
        self.optimizer.zero_grad()
        take_step(self.segmenter, embedding, [scene], ROUNDS)
        self.optimizer.step()

    @torch.no_grad()
    def encode(self, path: Path) -> torch.Tensor:
        began = time.perf_counter()
        embedding = self.sam.image_encoder(framed(self.sam, cv2.imread(str(path), cv2.IMREAD_COLOR_RGB))[None])
        self.encodings.append(time.perf_counter() - began)
        return embedding

    def stored(self, path: Path) -> torch.Tensor:
        entry = self.cache.read(self.keys[path])
        assert entry is not None
        return torch.from_numpy(entry.astype(np.float32))[None]

    def epoch(self, paths: Sequence[Path], embed: Callable[[Path], torch.Tensor]) -> None:
        for path in paths:
            self.step(embed(path))


@click.command()
@click.option("--arch", type=click.Choice(ARCHS), default="vit_b")
@click.option("--images", type=int, default=3)
@click.option("--instances", type=int, default=4, help="Of an image; they share a decoder call.")
@click.option("--repeat", type=int, default=3)
def main(arch: str, images: int, instances: int, repeat: int) -> None:
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as name:
        training, paths = Training(arch, instances, Path(name)), [Path(name) / f"{i}.png" for i in range(images)]
        side = training.side
        for path in paths:
            cv2.imwrite(str(path), training.generator.integers(0, 256, (side, side, 3), np.uint8))
        training.fill_cache(paths)
        exact, stored = training.encode(paths[0]), training.stored(paths[0])
        off = float((stored - exact).abs().max() / exact.abs().max())
        decoding = seconds(lambda: training.step(exact), repeat)
        began = time.perf_counter()
        training.epoch(paths, training.encode)
        uncached = time.perf_counter() - began
        cached = seconds(lambda: training.epoch(paths, training.stored), repeat)
    encoding = min(training.encodings)
    goal = 0.9 * (encoding + decoding) / decoding
    click.echo(f"{arch}, {side} px, {images} images of {instances} instances, {torch.get_num_threads()} threads")
    click.echo(f"encode an image            {encoding:8.3f} s")
    click.echo(f"decoder step on an image   {decoding:8.3f} s")
    click.echo(f"epoch, encoder in the loop {uncached:8.3f} s")
    click.echo(f"epoch, cached              {cached:8.3f} s")
    click.echo(f"faster by {uncached / cached:.1f}; goal 0.9 x (encode + decode) / decode = {goal:.1f}")
    click.echo(f"cached embedding off by {off:.1e} of the largest value (float16: 4.9e-04)")
    click.echo(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB")


if __name__ == "__main__":
    main()
