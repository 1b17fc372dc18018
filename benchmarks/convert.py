"""What conversion costs beside decoding the same masks: CPU-time ratios in one process, no absolute times.

    python benchmarks/convert.py ../shared/data/screw [--repeats 9]

Each row decodes every mask again and adds one format's work. The rows alternate and the fastest round counts,
so that a busy machine shifts all of them alike. The last lines convert copies of the category, to show that
memory does not grow with the number of images.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import cv2
import numpy as np

from converters.cli.command import command
from converters.cli.options import FOLDER
from converters.cli.terminal import table
from converters.datasets.splits import SplitRule, make_split
from converters.formats.coco import CocoWriter
from converters.formats.png_masks import MasksWriter
from converters.formats.voc import VocWriter
from converters.formats.writer import DatasetInfo, LabelledImage, Writer
from converters.formats.yolo import DetectWriter, SegmentWriter
from converters.masks.instances import InstanceRule, find_instances
from converters.masks.png import id_png, index_png
from converters.masks.reading import read_mask
from converters.sources.reading import read_category
from converters.sources.samples import Category, Sample

Work = Callable[[Sample], object]
LIMITS = {"boxes": 1.15, "COCO polygons": 1.35, "YOLO polygons": 1.6, "all formats": 5.0}


def labelled(sample: Sample, classes: tuple[str, ...]) -> LabelledImage:
    assert sample.mask is not None
    read = read_mask(sample.mask, (sample.width, sample.height))
    instances = find_instances(read.mask, InstanceRule(), read.xywh)
    return LabelledImage(sample, Path(sample.key).name, "train", classes.index(sample.defect), classes, instances)


def decode(sample: Sample) -> object:
    assert sample.mask is not None
    return cv2.imdecode(np.frombuffer(sample.mask.read_bytes(), np.uint8), cv2.IMREAD_GRAYSCALE)


def rows_of(category: Category) -> dict[str, Work]:
    classes = tuple(category.defects)
    info = DatasetInfo(category.name, classes, make_split(category.samples, SplitRule()).sha256, False)

    def render(*writers: type[Writer]) -> Work:
        made = [writer(info) for writer in writers]

        def work(sample: Sample) -> object:
            image = labelled(sample, classes)
            return [writer.render(image) for writer in made]

        return work

    def pngs(sample: Sample) -> object:
        image = labelled(sample, classes)
        objects = index_png(image.ids.astype(np.uint8), image.top, sample.height, len(image.instances) + 1)
        return image.class_png, objects, id_png(image.ids, image.top, sample.height)

    return {
        "decoding": decode,
        "boxes": render(DetectWriter),
        "COCO polygons": render(CocoWriter),
        "YOLO polygons": render(SegmentWriter),
        "PNG masks": pngs,
        "all formats": render(DetectWriter, SegmentWriter, CocoWriter, MasksWriter, VocWriter),
    }


def measure(rows: dict[str, Work], samples: list[Sample], repeats: int) -> dict[str, float]:
    """CPU seconds of the fastest round of each row."""
    best = dict.fromkeys(rows, float("inf"))
    for _ in range(repeats):
        for name, work in rows.items():
            started = time.process_time()
            for sample in samples:
                work(sample)
            best[name] = min(best[name], time.process_time() - started)
    return best


def peak_memory(folder: Path, copies: int) -> int:
    """Peak MiB of converting a category that holds each image under ``copies`` names, in a process of its own."""
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / folder.name
        for path in (path for path in folder.rglob("*.*") if path.is_file()):
            for copy in range(copies):
                stem, mask, _ = path.stem.partition("_mask")
                target = root / path.relative_to(folder).parent / f"{stem}-{copy}{mask}{path.suffix}"
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(path.resolve())
        options = ["--root", str(root), "--out", f"{scratch}/out", "--workers", "1", "--images", "symlink"]
        code = (
            "from converters.__main__ import main; "
            f"main(['all', *{options!r}], standalone_mode=False); "
            "from finetune.runs.run_folder import peak_memory_mb; print(peak_memory_mb())"
        )
        output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        return int(output.splitlines()[-1])


@command()
@click.argument("folder", type=FOLDER)
@click.option("--repeats", type=click.IntRange(1), default=9, help="Rounds; the fastest one counts.")
def main(folder: Path, repeats: int) -> None:
    """Print CPU-time ratios to decoding the masks of a category FOLDER, and exit with 1 if one is over its limit."""
    cv2.setNumThreads(1)
    source = read_category(folder)
    samples = [sample for sample in source.samples if sample.mask]
    seconds = measure(rows_of(source), samples, repeats)
    ratios = {name: value / seconds["decoding"] for name, value in seconds.items()}
    shown = [(name, f"{ratio:.2f}", LIMITS.get(name, "")) for name, ratio in ratios.items()]
    click.echo(f"{folder.name}: {len(samples)} masks, {1000 * seconds['decoding'] / len(samples):.2f} ms to decode one")
    click.echo(table(shown, ("work", "CPU / decoding", "limit")))
    click.echo(f"of `all formats`, encoding PNGs: {ratios['PNG masks'] - ratios['boxes']:.2f}")
    for copies in (1, 4):
        click.echo(f"peak memory with {copies} x {len(source.samples)} images: {peak_memory(folder, copies)} MiB")
    if any(ratios[name] > limit for name, limit in LIMITS.items()):
        raise SystemExit(1)


if __name__ == "__main__":
    main(prog_name="python benchmarks/convert.py")
