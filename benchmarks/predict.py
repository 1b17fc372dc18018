"""Does memory grow with the number of images that are predicted? A classifier looks at images drawn on the fly.

    python benchmarks/predict.py runs/washer/classifier/seed-0 --to docs/measurements/results/predict.json

Everything that `finetune/predict.py RUN IMAGES --to DIR --pre-label coco` writes is written. Peak memory is that of
the process after the first 1,000 images and after all of them; exit code 1 if it has grown by more than MOST_GROWTH.
"""

import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import click
import cv2
import numpy as np
import torch

from converters.cli.command import command
from converters.cli.options import FOLDER, out_option
from converters.cli.terminal import to_json
from finetune.prediction.image_files import Found
from finetune.prediction.new_images import judge, open_predictor
from finetune.runs.run_folder import git_commit, peak_memory_mb, read_record

MOST_GROWTH = 8  # MB
SIDE = 96  # px
MOST_PIXELS = 10**6


class Drawn(Sequence[Found]):
    """``count`` images, each drawn into the same file when its turn comes; notes peak memory, MB, after some."""

    def __init__(self, file: Path, count: int, noted: Sequence[int]) -> None:
        self.file, self.count, self.noted, self.peaks = file, count, noted, dict[int, int]()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Found:  # type: ignore[override]
        if index in self.noted:
            self.peaks[index] = peak_memory_mb()
        if index >= self.count:
            raise IndexError(index)
        random = np.random.default_rng(index)
        image = cv2.GaussianBlur(random.integers(0, 256, (SIDE, SIDE, 3), np.uint8), (0, 0), 3)
        centre, radius = random.integers(10, SIDE - 10, 2).tolist(), int(random.integers(2, 12))
        cv2.circle(image, centre, radius, random.integers(0, 256, 3).tolist(), -1)
        cv2.imwrite(str(self.file), image)
        return Found(self.file, f"{index:06d}.png")


@command()
@click.argument("run", type=FOLDER)
@out_option
@click.option("--images", type=click.IntRange(10), default=10_000, help="How many to draw.")
@click.option("--first", type=click.IntRange(1), default=1_000, help="After how many memory is looked at first.")
@click.option("--to", type=FOLDER, metavar="FILE", help="JSON file to write.")
def main(run: Path, out: Path, images: int, first: int, to: Path | None) -> None:
    """Print peak memory after the first images and after all, and images per second, of the finished RUN."""
    torch.set_num_threads(1)
    predictor = open_predictor(run, out, "cpu", None, None)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "to"
        folder.mkdir()
        drawn = Drawn(Path(scratch) / "image.png", images, (first, images))
        began, cpu = time.perf_counter(), time.process_time()
        skipped, counts = judge(predictor, drawn, folder, str(run), True, MOST_PIXELS)
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    assert not skipped and sum(counts.values()) == images
    record = read_record(run)
    found = {
        "schema": 1,
        "command": ["python", *sys.argv],
        "commit": git_commit(),
        "start": record["start"],
        "seed": record["settings"]["seed"],
        "imgsz": record["settings"]["imgsz"],
        "heat_maps": record["settings"]["heatmaps"],
        "peak_memory_mb": {str(count): peak for count, peak in drawn.peaks.items()},
        "images_per_second": round(images / seconds, 1),
        "cpu_seconds": round(cpu, 1),
    }
    click.echo(to_json(found), nl=False)
    if to:
        to.write_text(to_json(found), "utf-8")
    if drawn.peaks[images] - drawn.peaks[first] > MOST_GROWTH:
        raise SystemExit(1)


if __name__ == "__main__":
    main(prog_name="python benchmarks/predict.py")
