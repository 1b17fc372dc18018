"""Time and memory of AUPRO: 160 synthetic anomaly maps of 1024 x 1024 px, read one at a time and held as one stack.

    python benchmarks/aupro.py

Prints seconds and the process's peak memory as multiples of one float32 stack of all maps (0.67 GB). Each way
runs in a process of its own, since peak memory never goes down.
"""

import multiprocessing
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from finetune.measures.pixels import aupro

SIDE = 1024


def make_mask(index: int) -> np.ndarray:
    """A defect of 2 % of the area on three of four images, the other one good."""
    mask = np.zeros((SIDE, SIDE), np.uint8)
    if index % 4:
        mask[100 : 100 + SIDE // 8, index : index + SIDE // 6] = 1
    return mask


def make_maps(count: int) -> Iterator[np.ndarray]:
    """One float32 map after the other, no two pixels alike."""
    random = np.random.default_rng(0)
    for index in range(count):
        yield random.random((SIDE, SIDE), np.float32) + make_mask(index) * np.float32(0.5)


def measure(way: str, count: int) -> None:
    masks = [make_mask(index) for index in range(count)]
    stack = np.empty((count, SIDE, SIDE), np.float32)
    if way == "one at a time":
        del stack
        maps: Iterator[np.ndarray] | np.ndarray = make_maps(count)
    else:
        for index, score in enumerate(make_maps(count)):
            stack[index] = score
        maps = stack
    started = time.perf_counter()
    values = aupro(maps, masks)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    stack_size = count * SIDE * SIDE * 4
    mask_size = count * SIDE * SIDE
    click.echo(
        f"{way}: {count} maps, AUPRO {values[0]:.4f} (to 0.3) {values[1]:.4f} (to 0.05), {seconds:.1f} s, "
        f"peak {peak / stack_size:.2f} stacks, masks ({mask_size / stack_size:.2f}) and the libraries included"
    )


@click.command()
@click.option("--count", default=160, help="Number of maps.")
def main(count: int) -> None:
    for way in ("one at a time", "as a stack"):
        process = multiprocessing.get_context("spawn").Process(target=measure, args=(way, count))
        process.start()
        process.join()


if __name__ == "__main__":
    main()
