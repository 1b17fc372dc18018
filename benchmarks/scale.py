"""What many images cost: CPU time an image and peak memory of a conversion, at 1,000 and at 100,000 images.

    python benchmarks/scale.py [--many 100000] [--to FILE.json]

Makes categories in MVTec layout (64 px, noise, no two images alike, two of five with a defect and its mask) in $TMPDIR
and converts each to YOLO boxes and COCO polygons, in one process of its own. Whatever else the machine does
slows the many and the few alike: the conversion of the many is halted time and again, and the few are converted
meanwhile; the mean of their rounds counts. CPU seconds are those of the process, user and system, less those that 20
images take: start-up. Memory is the process's resident set.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import click
import cv2
import numpy as np
import psutil

from converters.cli.command import command
from converters.cli.terminal import table, to_json

MOST_GROWTH, MOST_MEMORY = 1.1, 400  # of the CPU time an image; MB
SIDE = 64  # px
KINDS = ("train/good", "train/good", "test/good", "test/crack", "test/hole")  # of five images
START = 20  # images; what they take is start-up
TURN = 15  # CPU seconds of the many between two rounds of the few


def make_category(folder: Path, count: int) -> None:
    """Write ``count`` images, no two alike, and a ring as the mask of each that is not good."""
    random = np.random.default_rng(0)
    for kind in (*KINDS, "ground_truth/crack", "ground_truth/hole"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for index in range(count):
        kind = KINDS[index % len(KINDS)]
        _save(folder / kind / f"{index:06d}.png", random.integers(0, 256, (SIDE, SIDE), np.uint8))
        if not kind.endswith("good"):
            mask = np.zeros((SIDE, SIDE), np.uint8)
            x, y, radius = random.integers((12, 12, 4), (SIDE - 12, SIDE - 12, 12)).tolist()
            cv2.circle(mask, (x, y), radius, 255, 2)
            _save(folder / kind.replace("test", "ground_truth") / f"{index:06d}_mask.png", mask)


def _save(path: Path, image: np.ndarray) -> None:
    path.write_bytes(cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 0])[1].tobytes())


def convert(folder: Path, out: Path, meanwhile: Callable[[], None] | None = None) -> tuple[float, float]:
    """CPU seconds of a conversion, and its peak memory in MB; it is halted for ``meanwhile`` every ``TURN`` seconds."""
    words = ["all", "--formats", "yolo,coco", "--root", str(folder), "--out", str(out), "--workers", "1"]
    process = psutil.Popen([sys.executable, "-m", "converters", *words], stdout=subprocess.DEVNULL)
    turn = TURN
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        if meanwhile and sum(process.cpu_times()[:2]) > turn:
            turn += TURN
            process.suspend()
            meanwhile()
            process.resume()
        time.sleep(0.1)
    if status:
        raise SystemExit(f"the conversion of {folder} failed")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e6


def measured(scratch: Path, few: int, many: int) -> dict[str, Any]:
    """CPU seconds of a start, and of each number of images CPU milliseconds an image and peak MB."""
    rounds: dict[int, list[tuple[float, float]]] = {START: [], few: []}
    for count in (START, few, many):
        make_category(scratch / f"images-{count}", count)

    def convert_few() -> None:
        for count, done in rounds.items():
            done.append(convert(scratch / f"images-{count}", scratch / f"out-{count}-{len(done)}"))

    convert_few()
    of_many = convert(scratch / f"images-{many}", scratch / "out-many", convert_few)
    convert_few()
    rounds[many] = [of_many]
    start = fmean(cpu for cpu, _ in rounds.pop(START))
    rows = [
        {
            "images": count,
            "rounds": len(done),
            "cpu_ms_per_image": round(1000 * (fmean(cpu for cpu, _ in done) - start) / count, 4),
            "with_start_ms": round(1000 * fmean(cpu for cpu, _ in done) / count, 4),
            "peak_mb": round(max(peak for _, peak in done), 1),
        }
        for count, done in rounds.items()
    ]
    return {"start_cpu_seconds": round(start, 2), "rows": rows}


@command()
@click.option("--few", type=click.IntRange(100), default=1000, help="Images that the cost is held against.")
@click.option("--many", type=click.IntRange(1000), default=100_000, help="Images that it is to hold for.")
@click.option("--to", type=click.Path(path_type=Path), help="JSON file to write.")
def main(few: int, many: int, to: Path | None) -> None:
    """Print the cost of an image among few and among many, and exit with 1 if it grows or takes too much memory."""
    with tempfile.TemporaryDirectory() as scratch:
        found = measured(Path(scratch), few, many)
    one, other = found["rows"]
    growth = other["cpu_ms_per_image"] / one["cpu_ms_per_image"]
    bytes_each = 1e6 * (other["peak_mb"] - one["peak_mb"]) / (many - few)
    click.echo(table([list(row.values()) for row in found["rows"]], list(one)))
    click.echo(f"an image among {many} takes {growth:.2f} of the time, at most {MOST_GROWTH}; start-up subtracted")
    click.echo(f"memory: {bytes_each:.0f} bytes an image; peak {other['peak_mb']:.0f} MB, at most {MOST_MEMORY}")
    if to:
        record = {
            "schema": 1,
            "command": " ".join(["python", *sys.argv]),
            "commit": subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip(),
            **found,
            "growth": round(growth, 3),
            "bytes_per_image": round(bytes_each),
        }
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_text(to_json(record), "utf-8")
    if growth > MOST_GROWTH or other["peak_mb"] > MOST_MEMORY:
        raise SystemExit(1)


if __name__ == "__main__":
    main(prog_name="python benchmarks/scale.py")
