"""What a report costs: `finetune/compare.py` as a whole process, on 160 test images of 1024 px and six runs.

    python benchmarks/compare.py [--checkout ../another/working/tree]

The images, and the runs with boxes, masks and heat maps, are made as plain files, so that any version can be timed.
"""

import csv
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

HERE = Path(__file__).resolve().parents[1]
SIDE = 1024  # px
IMAGES = 200  # of which --ratios 10/10/80 puts 160 into test
RUNS = {"boxes-a": 0.9, "boxes-b": 0.6, "masks-a": 0.9, "masks-b": 0.6, "maps-a": 0.9, "maps-b": 0.6}  # name -> skill


def blob(random: np.random.Generator) -> NDArray[np.uint8]:
    """A mask, SIDE x SIDE, with a ragged blob somewhere."""
    mask = np.zeros((SIDE, SIDE), np.uint8)
    turns = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    spokes = random.uniform(20, 90) * random.uniform(0.7, 1.3, turns.size)
    corners = random.uniform(120, SIDE - 120, 2) + spokes[:, None] * np.stack([np.cos(turns), np.sin(turns)], axis=1)
    return cv2.fillPoly(mask, [corners.astype(np.int32)], 255)


def write_source(root: Path, random: np.random.Generator) -> None:
    """A category in MVTec's layout: half of its test images show one to three defects of two types."""
    for index in range(IMAGES + 1):  # the last, a good one, is for train
        kind = ("good", "dent", "good", "stain")[index % 4]
        image = cv2.resize(random.integers(90, 160, (64, 64), np.uint8), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
        if kind != "good":
            mask = np.maximum.reduce([blob(random) for _ in range(random.integers(1, 4))])
            image[mask > 0] //= 2
            path = root / "ground_truth" / kind / f"{index:03}_mask.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), mask)
        path = root / ("train" if index == IMAGES else "test") / kind / f"{index:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), image)


def write_run(folder: Path, dataset: Path, kind: str, skill: float, random: np.random.Generator) -> None:
    """A finished run by its contract: the ground truth with noise."""
    split = (dataset / "split.json").read_text("utf-8")
    card = json.loads((dataset / "card.json").read_text("utf-8"))
    options = ("classes", "instances", "connectivity", "merge_gap", "min_area", "tile")
    record = {
        "schema": 1,
        "model": kind,
        "dataset": dataset.name,
        "synthetic": False,
        "split_sha256": hashlib.sha256(split.encode()).hexdigest(),
        "family": json.loads(split)["family"],
        "label_settings": {"class_names": card["classes"]} | {name: card["settings"].get(name) for name in options},
        "command": ["finetune/yolo.py"],
        "settings": {},
        "versions": {},
        "commit": None,
        "seconds": 1.0,
        "peak_memory_mb": 1,
    }
    target = folder / "predictions" / "tuned"
    target.mkdir(parents=True)
    for part in ("val", "test"):
        truth = json.loads((dataset / "coco" / "annotations" / f"instances_{part}.json").read_text("utf-8"))
        write_part(target, part, truth, card["classes"], kind, skill, random)
    label = {"boxes": "box", "masks": "mask", "maps": "class"}[kind]
    about = {"schema": 1, "model": kind, "prompt": None, "oracle": False, "label": label, "heatmap_middle": 1.0}
    (target / "set.json").write_text(json.dumps(about), "utf-8")
    (folder / "run.json").write_text(json.dumps(record), "utf-8")


def write_part(
    target: Path,
    part: str,
    truth: dict[str, Any],
    classes: list[str],
    kind: str,
    skill: float,
    random: np.random.Generator,
) -> None:
    found, scores = [], []
    for image in truth["images"]:
        shown = [entry for entry in truth["annotations"] if entry["image_id"] == image["id"]]
        heat = np.zeros((SIDE, SIDE), np.float32)
        best = [0.0] * (1 + len(classes))
        for entry in shown + [None] * random.poisson(2 * (1 - skill)):  # None is a false alarm
            x, y, w, h = entry["bbox"] if entry else random.uniform(50, 400, 4)
            x, y, w, h = np.array([x, y, w, h]) + random.normal(0, 20 * (1.1 - skill), 4)
            score = float(random.beta(2 + 4 * skill, 2) if entry else random.beta(1, 3))
            category = entry["category_id"] if entry else int(random.integers(1, len(classes) + 1))
            box = [max(0.0, x), max(0.0, y), max(4.0, w), max(4.0, h)]
            result = {"image_id": image["id"], "category_id": category, "bbox": box, "score": score}
            canvas = np.zeros((SIDE, SIDE), np.uint8)
            middle, radii = (int(x + w / 2), int(y + h / 2)), (int(box[2] / 2), int(box[3] / 2))
            cv2.ellipse(canvas, middle, radii, 0, 0, 360, 1, -1)
            if kind == "masks":
                code = coco_mask.encode(np.asfortranarray(canvas))
                result["segmentation"] = {"size": code["size"], "counts": code["counts"].decode("ascii")}
            heat = np.maximum(heat, score * canvas)
            best[0], best[category] = max(best[0], score), max(best[category], score)
            found.append(result)
        scores.append([image["file_name"], *best])
        if kind == "maps":
            noise = cv2.resize(random.random((64, 64), np.float32), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
            level = np.clip(0.8 * cv2.GaussianBlur(heat, (0, 0), 12) + 0.2 * noise, 0, 1)
            folder = target / f"{part}_heatmaps"
            folder.mkdir(exist_ok=True)
            cv2.imwrite(str(folder / f"{Path(image['file_name']).stem}.png"), np.round(level * 65535).astype(np.uint16))
    (target / f"{part}.json").write_text(json.dumps([] if kind == "maps" else found), "utf-8")
    with (target / f"{part}_scores.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["image", "defect", *classes], *scores])


@click.command()
@click.option(
    "--checkout",
    type=click.Path(path_type=Path, exists=True),
    default=HERE,
    help="The working tree whose finetune/compare.py is timed.",
)
def main(checkout: Path) -> None:
    """Print the seconds and the peak memory of one report."""
    random = np.random.default_rng(0)
    environment = os.environ | {"PYTHONPATH": str(checkout.resolve())}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_source(folder / "bench", random)
        convert = ["-m", "converters.to_coco", "--root", folder / "bench", "--out", folder / "out"]
        options = ["--ratios", "10/10/80", "--images", "symlink"]
        subprocess.run([sys.executable, *convert, *options], cwd=checkout, env=environment, check=True)
        for name, skill in RUNS.items():
            run = folder / "runs" / "bench" / name / "seed-0"
            write_run(run, folder / "out" / "bench", name.partition("-")[0], skill, random)
        options = ["--category", "bench", "--out", folder / "out", "--runs", folder / "runs"]
        start = time.perf_counter()
        command = [sys.executable, "finetune/compare.py", *map(str, options)]
        process = subprocess.Popen(command, cwd=checkout, env=environment, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds, peak = time.perf_counter() - start, round(usage.ru_maxrss / 1024)
        if process.returncode:
            raise SystemExit(f"finetune/compare.py ended with {process.returncode}")
        page = folder / "runs" / "bench" / "report" / "report.json"
        digest = hashlib.sha256(page.read_bytes().replace(str(folder).encode(), b"")).hexdigest()[:12]
        cpu = usage.ru_utime + usage.ru_stime
        click.echo(f"{seconds:.1f} s ({cpu:.1f} s of CPU), {peak} MB at its peak, report.json {digest}")


if __name__ == "__main__":
    main()
