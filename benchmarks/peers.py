"""The masks of a category through other people's converters: CPU time of each, ours = 1, and what each loses.

    python benchmarks/peers.py ../shared/data/screw --peers-python VENV/bin/python [--to FILE.json]

Every converter runs as a process of its own (``peer_converters.py``), in turn; the fastest of three rounds counts, user
and system. ultralytics is that of this environment; datumaro and supervision are looked for in the environment of
``--peers-python`` (pip install datumaro supervision opencv-python-headless), and left out where they are not there.
Ours checks, hashes, splits and links images besides. What was written is painted as its readers do, COCO by
pycocotools, YOLO by fillPoly on truncated coordinates, and held against the masks: a hole is lost if all of it is
painted, a part (8-connected) if nothing of it is. Labels written as crowds are counted: COCO's evaluation ignores them.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
from pycocotools.coco import COCO

from converters.cli.command import command
from converters.cli.options import FOLDER
from converters.cli.terminal import table, to_json
from converters.masks.reading import read_mask

ROUNDS = 3
OURS = {"ours, YOLO": ["to_yolo", "--task", "segment"], "ours, COCO": ["to_coco"]}
PEERS = {  # row -> function of peer_converters, package
    "ultralytics, YOLO": ("ultralytics_yolo", "ultralytics"),
    "supervision, YOLO": ("supervision_yolo", "supervision"),
    "supervision, COCO": ("supervision_coco", "supervision"),
    "datumaro, COCO": ("datumaro_coco", "datumaro"),
}
Masks = dict[str, np.ndarray]  # name of an image -> H x W of 0 and 1


def prepare(source: Path, root: Path) -> Masks:
    """Write the masks as 0 and 1 twice, for us with links to their images, for the others in one folder."""
    masks = {}
    for path in sorted((source / "ground_truth").glob("*/*_mask.png")):
        defect, stem = path.parent.name, path.stem.removesuffix("_mask")
        masks[f"test__{defect}__{stem}"] = mask = read_mask(path).mask
        ours = root / source.name / "ground_truth" / defect / path.name
        image = root / source.name / "test" / defect / f"{stem}.png"
        for file in (ours, image, root / "masks" / f"test__{defect}__{stem}.png"):
            file.parent.mkdir(parents=True, exist_ok=True)
            if file == image:
                file.symlink_to(source.resolve() / "test" / defect / f"{stem}.png")
            else:
                cv2.imwrite(str(file), mask)
    (root / source.name / "train" / "good").mkdir(parents=True)
    return masks


def cpu_seconds(words: list[str]) -> float:
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr
    error = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(words)} failed: {error.decode()[-500:]}")
    return usage.ru_utime + usage.ru_stime


def version(python: str, package: str) -> str:
    """Empty where it is not installed."""
    code = f"import importlib.metadata, {package}; print(importlib.metadata.version('{package}'))"
    return subprocess.run([python, "-c", code], capture_output=True, text=True).stdout.strip().rpartition("\n")[2]


def painted(out: Path, shapes: dict[str, tuple[int, int]]) -> tuple[Masks, int]:
    """What a reader makes of the labels below a folder (COCO files, else YOLO rows), and how many are crowds."""
    crowds = 0
    found = {name: np.zeros(shape, np.uint8) for name, shape in shapes.items()}
    for path in out.rglob("*.json"):
        if "images" in json.loads(path.read_text("utf-8")):
            coco = COCO(path)
            for label in coco.loadAnns(coco.getAnnIds()):
                crowds += label["iscrowd"]
                found[Path(coco.imgs[label["image_id"]]["file_name"]).stem] |= coco.annToMask(label)
    for path in out.rglob("test__*.txt"):
        height, width = shapes[path.stem]
        for row in path.read_text("utf-8").splitlines():
            points = np.array(row.split()[1:], float).reshape(-1, 2) * (width, height)
            cv2.fillPoly(found[path.stem], [points.astype(np.int32)], 1)
    return found, crowds


def lost(masks: Masks, drawn: Masks, crowds: int) -> dict[str, Any]:
    ious, holes, parts, pixels = [], 0, 0, 0
    for name, mask in masks.items():
        other = drawn[name]
        pixels += int((mask != other).sum())
        ious.append((mask & other).sum() / (mask | other).sum())
        count, labels = cv2.connectedComponents(mask, connectivity=8)
        parts += sum(not other[labels == number].any() for number in range(1, count))
        outside = np.pad(1 - mask, 1, constant_values=1)
        count, labels = cv2.connectedComponents(outside, connectivity=4)
        inside = labels[1:-1, 1:-1]
        holes += sum(bool(other[inside == n].all()) for n in range(1, count) if n != labels[0, 0])
    return {
        "mean_iou": round(float(np.mean(ious)), 4),
        "min_iou": round(float(min(ious)), 4),
        "holes_lost": holes,
        "parts_lost": parts,
        "pixels_off": pixels,
        "crowds": crowds,
    }


def measured(source: Path, root: Path, commands: dict[str, list[str]]) -> list[dict[str, Any]]:
    """One row a command; OUT in it stands for the folder to write to."""
    masks = prepare(source, root)
    seconds = dict.fromkeys(commands, float("inf"))
    for turn in range(ROUNDS):
        for row, words in commands.items():
            out = str(root / f"out-{turn}" / row.replace(", ", "-"))
            seconds[row] = min(seconds[row], cpu_seconds([word.replace("OUT", out) for word in words]))
    shapes = {name: (mask.shape[0], mask.shape[1]) for name, mask in masks.items()}
    return [
        {
            "converter": row,
            "cpu_seconds": round(seconds[row], 2),
            "of_ours": round(seconds[row] / seconds[f"ours, {row.rpartition(', ')[2]}"], 2),
            **lost(masks, *painted(root / "out-0" / row.replace(", ", "-"), shapes)),
        }
        for row in commands
    ]


@command()
@click.argument("source", type=FOLDER)
@click.option("--peers-python", default=sys.executable, help="Python that has datumaro and supervision.")
@click.option("--to", type=click.Path(path_type=Path), help="JSON file to write.")
def main(source: Path, peers_python: str, to: Path | None) -> None:
    """Print what each converter takes for the masks of the category SOURCE, in MVTec AD's layout, and what it loses."""
    script = str(Path(__file__).with_name("peer_converters.py"))
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        options = ["--root", str(root / source.name), "--out", "OUT", "--images", "symlink", "--workers", "1"]
        commands = {row: [sys.executable, "-m", "converters", *words, *options] for row, words in OURS.items()}
        versions = {}
        for row, (function, package) in PEERS.items():
            python = sys.executable if package == "ultralytics" else peers_python
            versions[package] = version(python, package)
            if versions[package]:
                commands[row] = [python, script, function, str(root / "masks"), "OUT"]
            else:
                click.echo(f"{row}: left out, {python} has no {package}", err=True)
        rows = measured(source, root, commands)
    click.echo(table([list(row.values()) for row in rows], list(rows[0])))
    if to:
        record = {
            "schema": 1,
            "command": " ".join(["python", *sys.argv]),
            "commit": subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip(),
            "versions": versions,
            "masks": sum(1 for _ in (source / "ground_truth").glob("*/*_mask.png")),
            "rounds": ROUNDS,
            "rows": rows,
        }
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_text(to_json(record), "utf-8")


if __name__ == "__main__":
    main(prog_name="python benchmarks/peers.py")
