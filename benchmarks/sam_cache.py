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

from finetune.embeddings import EmbeddingCache
from finetune.sam_models import ARCHS, Segmenter, Tiny, build_sam, framed
from finetune.sam_training import Recipe, choose_trained, optimizer_of, scene_of, take_step

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


@click.command()
@click.option("--arch", type=click.Choice(ARCHS), default="vit_b")
@click.option("--images", type=int, default=3)
@click.option("--instances", type=int, default=4, help="Of an image; they share a decoder call.")
@click.option("--repeat", type=int, default=3)
def main(arch: str, images: int, instances: int, repeat: int) -> None:
    torch.manual_seed(0)
    generator = np.random.default_rng(0)
    segmenter = Segmenter(build_sam(arch, Tiny()), ["defect"], auto=False)
    choose_trained(segmenter, Recipe())
    sam, side = segmenter.sam, segmenter.sam.image_encoder.img_size
    ids = np.zeros((side, side), np.int64)
    for number in range(1, instances + 1):
        x, y = generator.integers(0, side - side // 8, 2)
        ids[y : y + side // 10, x : x + side // 10] = number
    parameters = [value for value in segmenter.parameters() if value.requires_grad]
    optimizer, _ = optimizer_of(parameters, 1e-5, 0.1, 0.1, 100)

    def step(embedding: torch.Tensor) -> None:
        scene = scene_of(segmenter, ids, [0] * instances, instances, generator)
        optimizer.zero_grad()
        take_step(segmenter, embedding, [scene], ROUNDS)
        optimizer.step()

    encodings: list[float] = []

    def encode(path: Path) -> torch.Tensor:
        began = time.perf_counter()
        with torch.no_grad():
            embedding = sam.image_encoder(framed(sam, cv2.imread(str(path), cv2.IMREAD_COLOR_RGB))[None])
        encodings.append(time.perf_counter() - began)
        return embedding

    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{index}.png" for index in range(images)]
        for path in paths:
            cv2.imwrite(str(path), generator.integers(0, 256, (side, side, 3), np.uint8))
        grid = sam.prompt_encoder.image_embedding_size[0]
        cache = EmbeddingCache(Path(folder) / "cache", "benchmark", (sam.prompt_encoder.embed_dim, grid, grid), 10**10)
        keys = {path: cache.key(path, 0) for path in paths}
        exact: dict[Path, torch.Tensor] = {}

        def encode_one(batch: Sequence[Path]) -> np.ndarray:
            exact[batch[0]] = encode(batch[0])
            return exact[batch[0]].numpy()

        cache.fill([(key, path) for path, key in keys.items()], encode_one, 1, lambda count: None)

        def stored(path: Path) -> torch.Tensor:
            entry = cache.read(keys[path])
            assert entry is not None
            return torch.from_numpy(entry.astype(np.float32))[None]

        one = exact[paths[0]]
        off = float((stored(paths[0]) - one).abs().max() / one.abs().max())
        decoding = seconds(lambda: step(one), repeat)

        def epoch(embed: Callable[[Path], torch.Tensor]) -> None:
            for path in paths:
                step(embed(path))

        began = time.perf_counter()
        epoch(encode)
        uncached = time.perf_counter() - began
        cached = seconds(lambda: epoch(stored), repeat)
    encoding = min(encodings)
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
