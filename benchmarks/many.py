"""Many categories at once: what a second process brings, and that memory does not grow with their number.

    python benchmarks/many.py [--categories 15] [--repeats 3]

Makes categories in MVTec layout (512 px, noise, defects of many shapes) and converts them to all formats with one
and two workers in turn; the fastest of each counts. Wall-clock times need a machine with two free cores.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import cv2
import numpy as np

from converters.cli.command import command
from converters.cli.terminal import table

LEAST_RATIO = 1.7
MOST_GROWTH = 1.1  # of peak memory, from a fifth of the categories to all of them
SIDE = 512  # px
GOOD, DEFECTIVE = 40, 40  # images per category


def make_categories(root: Path, count: int) -> None:
    """Write ``count`` categories of good images and defects with 5 to 15 instances, holes among them."""
    random = np.random.default_rng(0)
    for number in range(count):
        folder = root / f"product_{number:02d}"
        for index in range(GOOD + DEFECTIVE):
            image = random.integers(0, 256, (SIDE, SIDE), np.uint8)
            name = f"{index:03d}.png"
            if index < GOOD:
                save(folder / ("train" if index % 4 else "test") / "good" / name, image)
                continue
            defect = ("crack", "hole", "scratch")[index % 3]
            save(folder / "test" / defect / name, image)
            save(folder / "ground_truth" / defect / name.replace(".", "_mask."), make_mask(random))


def make_mask(random: np.random.Generator) -> np.ndarray:
    """SIDE x SIDE of 0 and 255: rings and lines at random places."""
    mask = np.zeros((SIDE, SIDE), np.uint8)
    for x, y, radius in random.integers(20, SIDE - 20, (random.integers(5, 15), 3)).tolist():
        cv2.circle(mask, (x, y), radius % 40 + 6, 255, -1)
        cv2.circle(mask, (x, y), radius % 12 + 2, 0, -1)
        cv2.line(mask, (x, y), (y, radius), 255, 1)
    return mask


def save(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes())


def convert(root: Path, out: Path, workers: int) -> tuple[float, int]:
    """Seconds that a conversion of all took, and the peak memory of its largest process in MiB."""
    code = (
        "import resource, sys; from converters.__main__ import main; "
        "main(sys.argv[1:], standalone_mode=False); "
        "print(max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))"
    )
    options = ["all", "--root", root, "--category", "all", "--out", out, "--workers", workers]
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code, *map(str, options)], capture_output=True, text=True, check=True)
    return time.perf_counter() - started, int(done.stdout.split()[-1]) // 1024


@command()
@click.option("--categories", type=click.IntRange(5), default=15, help="How many to make.")
@click.option("--repeats", type=click.IntRange(1), default=3, help="Rounds; the fastest one counts.")
def main(categories: int, repeats: int) -> None:
    """Print times, their ratio and peak memory; exit with 1 if two workers are too slow or memory grows."""
    with tempfile.TemporaryDirectory() as scratch:
        root, few = Path(scratch) / "data", Path(scratch) / "few"
        make_categories(root, categories)
        few.mkdir()
        for folder in sorted(root.iterdir())[: categories // 5]:
            (few / folder.name).symlink_to(folder)
        seconds = {1: float("inf"), 2: float("inf")}
        memory = {}
        for turn in range(repeats):
            for workers in seconds:
                taken, memory[workers] = convert(root, Path(scratch) / f"out-{turn}-{workers}", workers)
                seconds[workers] = min(seconds[workers], taken)
        memory_of_few = convert(few, Path(scratch) / "out-few", 2)[1]
    ratio, growth = seconds[1] / seconds[2], memory[2] / memory_of_few
    rows = [(workers, f"{seconds[workers]:.1f}", memory[workers]) for workers in seconds]
    click.echo(table(rows, ("workers", "seconds", "peak MiB of a process")))
    click.echo(f"{categories} categories of {GOOD + DEFECTIVE} images: ratio {ratio:.2f}, at least {LEAST_RATIO}")
    click.echo(f"peak memory with {categories} and {categories // 5} categories: {growth:.2f}, at most {MOST_GROWTH}")
    if ratio < LEAST_RATIO or growth > MOST_GROWTH:
        raise SystemExit(1)


if __name__ == "__main__":
    main(prog_name="python benchmarks/many.py")
