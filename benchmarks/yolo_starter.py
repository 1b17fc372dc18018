"""Train the checkpoint that `yolo.py` starts from where no published one can be had, and install it.

    python benchmarks/yolo_starter.py --to /tmp/starter     # images, training; about 11 CPU minutes

It learns from synthetic images alone: the products that are for starters (circuit, plank) with their own defects, and
scenes and good products with what `painted_defects` paints. The sample's products (washer, weave) and their defects are
not among them, so that what a start is worth can be measured there.
"""

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path

import click
import cv2
import numpy as np
from numpy.typing import NDArray

from converters.cli.command import command
from converters.cli.options import FOLDER, seed_option
from converters.cli.terminal import progress, to_json
from converters.sample import FOR_STARTERS
from converters.synthetic.camera import SIZE, develop, expose, make_light, slopes, smooth_noise
from converters.synthetic.catalogue import PRODUCTS
from converters.synthetic.sample_images import render_defect, render_good
from finetune.detection.crops import hull_row
from finetune.detection.environment import prepare_ultralytics
from finetune.detection.recipe import LIGHT, STARTERS, Recipe
from finetune.runs.checksums import sha256
from finetune.runs.run_folder import git_commit
from finetune.training.checkpoints import save_state
from finetune.training.painted_defects import KINDS, paint_defect, structure_of

OWN = [(product, defect) for product in FOR_STARTERS for defect in PRODUCTS[product].DEFECTS]
PAINTED = {  # kinds of `painted_defects`, as a detector tells them apart
    "fill": "spot",
    "fill line": "line",
    "tint": "stain",
    "tint line": "line",
    "paste": "patch",
    "shift": "patch",
    "turn": "patch",
    "erase": "gone",
}
CLASSES = [*dict.fromkeys(PAINTED.values()), *(f"{product} {defect}" for product, defect in OWN)]
OWN_SHARE, GREY_SHARE = 0.5, 0.25  # of the images: with a product's own defect; without colour
MOST, LEAST_PIXELS = 9, 12  # painted defects in an image; visible pixels that make one
VAL = 20  # one of so many images
RECIPE = Recipe(imgsz=SIZE, batch=16, lr=3e-3, background=0, mosaic=0.0, degrees=180.0, patience=1000)
RECORD = Path(__file__).resolve().parents[1] / "docs/measurements/results" / f"starter-{LIGHT.stem}.json"
Image = NDArray[np.uint8]
Rng = np.random.Generator


def draw_scene(rng: Rng) -> Image:
    """256 x 256 x 3: a textured ground, and grids or rings of equal shapes on it, embossed or of another colour."""
    light = make_light(rng, 3, (0.5, 3))
    scene = rng.uniform(0.1, 0.75) * (1 + rng.uniform(-0.25, 0.25, 3)) * (1 + _texture(rng))
    relief = np.zeros((SIZE, SIZE), np.float32)
    for _ in range(rng.integers(0, 4)):
        cover = _pattern(rng)
        if rng.random() < 0.7:
            colour = rng.uniform(0.05, 0.85) * (1 + rng.uniform(-0.3, 0.3, 3))
            scene = scene * (1 - cover) + colour * (1 + _texture(rng)) * cover
        relief += rng.uniform(-3, 3) * cv2.GaussianBlur(cover, (0, 0), rng.uniform(0.8, 2))
    dx, dy = slopes(relief)
    scene = scene * (1 - 0.6 * np.clip(dx * light.towards[0] + dy * light.towards[1], -1, 1)[..., None])
    return develop(expose(np.clip(scene, 0, 1.2).astype(np.float32), light), light.noise)


def _texture(rng: Rng) -> NDArray[np.float32]:
    """H x W x 1 about 0: clouds, and at times grain, brush marks or waves."""
    field = rng.uniform(0, 0.12) * smooth_noise(rng, *(int(n) for n in rng.integers(3, 12, 2)))
    kind = rng.integers(4)
    if kind == 1:
        field = field + rng.uniform(0.02, 0.12) * smooth_noise(rng, 100, 100)
    elif kind == 2:
        field = field + rng.uniform(0.02, 0.12) * smooth_noise(rng, *((200, 6) if rng.random() < 0.5 else (6, 200)))
    elif kind == 3:
        rows, columns = np.mgrid[0:SIZE, 0:SIZE]
        angle, length = rng.uniform(0, np.pi), rng.uniform(4, 30)
        waves = np.sin(2 * np.pi / length * (rows * np.sin(angle) + columns * np.cos(angle)))
        field = field + rng.uniform(0.03, 0.2) * waves
    return np.asarray(field, np.float32)[..., None]


def _pattern(rng: Rng) -> NDArray[np.float32]:
    """H x W x 1, 0..1: one shape, large, or several equal ones in a grid or a ring."""
    canvas = np.zeros((SIZE, SIZE), np.uint8)
    layout = rng.integers(3)
    if layout == 0:
        places, radius = [rng.uniform(60, SIZE - 60, 2)], rng.uniform(40, 120)
    elif layout == 1:
        step = rng.uniform(24, 90)
        grid = np.mgrid[-6:7, -6:7].reshape(2, -1).T * step
        angle = rng.uniform(0, np.pi)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        places, radius = list(grid @ turn + SIZE / 2), step * rng.uniform(0.15, 0.45)
    else:
        count, ring = int(rng.integers(3, 24)), rng.uniform(40, 120)
        angles = rng.uniform(0, 2 * np.pi) + np.arange(count) * 2 * np.pi / count
        centre = rng.uniform(90, SIZE - 90, 2)
        places = list(centre + ring * np.stack([np.cos(angles), np.sin(angles)], 1))
        radius = min(ring * np.pi / count, ring) * rng.uniform(0.3, 0.8)
    corners, turn0, hollow = int(rng.integers(3, 9)), rng.uniform(0, np.pi), rng.random() < 0.3
    stretch, text = rng.uniform(0.4, 1), rng.random() < 0.1
    letters = "".join(rng.choice(list("AKM37R"), 2))
    for place in places:
        x, y = (int(value) for value in place)
        if text:
            cv2.putText(canvas, letters, (x, y), cv2.FONT_HERSHEY_SIMPLEX, radius / 20, 255, max(1, int(radius / 10)))
        elif corners > 6:
            axes = max(1, int(radius)), max(1, int(radius * stretch))
            cv2.ellipse(canvas, (x, y), axes, np.degrees(turn0), 0, 360, 255, max(1, int(radius / 6)) if hollow else -1)
        else:
            angles = turn0 + np.arange(corners) * 2 * np.pi / corners
            points = place + radius * np.stack([np.cos(angles), stretch * np.sin(angles)], 1)
            (cv2.polylines if hollow else cv2.fillPoly)(
                canvas, [points.astype(np.int32)], *((True,) if hollow else ()), 255
            )
    return (cv2.GaussianBlur(canvas, (0, 0), 0.7).astype(np.float32) / 255)[..., None]


def draw_example(rng: Rng) -> tuple[Image, list[str]]:
    """An image, 256 x 256 x 3 RGB, and its defects as rows of YOLO: a product's own, and painted ones."""
    rows = []
    if rng.random() < OWN_SHARE:
        product, defect = OWN[rng.integers(len(OWN))]
        image, mask = render_defect(product, defect, rng)
        count, parts = cv2.connectedComponents(mask, connectivity=8)
        rows = _rows(f"{product} {defect}", [parts == number for number in range(1, count)])
        other = render_good(product, rng)
    else:
        product = rng.choice(("scene", "scene", *FOR_STARTERS))
        image, other = (draw_scene(rng) if product == "scene" else render_good(product, rng) for _ in range(2))
    structure = structure_of(image)
    for _ in range(rng.integers(0, MOST // 2 if rows else MOST)):
        painted = image.copy()
        if made := paint_defect(painted, other, structure, rng):
            number, window, seen = made
            mask = np.zeros((SIZE, SIZE), bool)
            mask[window] = seen
            if found := _rows(PAINTED[KINDS[number]], [mask]):
                image, rows = painted, rows + found
    if rng.random() < GREY_SHARE:
        image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return image, rows


def _rows(name: str, masks: Iterable[NDArray[np.bool_]]) -> list[str]:
    return [hull_row(CLASSES.index(name), mask) for mask in masks if mask.sum() >= LEAST_PIXELS]


def write_images(folder: Path, count: int, seed: int) -> Path:
    """Draw ``count`` images, of which one in VAL goes to val, into a new folder in YOLO's layout; its data.yaml."""
    for part in ("train", "val"):
        for kind in ("images", "labels"):
            (folder / kind / part).mkdir(parents=True)
    with progress(range(count), count, "drawing") as bar:
        for number in bar:
            image, rows = draw_example(np.random.default_rng([seed, number]))
            part = "val" if number % VAL == 0 else "train"
            cv2.imwrite(str(folder / "images" / part / f"{number:05d}.png"), image[..., ::-1])
            (folder / "labels" / part / f"{number:05d}.txt").write_text("\n".join(rows), "utf-8")
    about = {"train": "images/train", "val": "images/val", "names": dict(enumerate(CLASSES))}
    (folder / "data.yaml").write_text(json.dumps(about), "utf-8")  # JSON is YAML
    return folder / "data.yaml"


@command()
@click.option("--to", "folder", type=FOLDER, required=True, help="New folder for the images and the training.")
@click.option("--images", "count", type=click.IntRange(VAL), default=2400, help="Images to draw.")
@click.option("--epochs", type=click.IntRange(1), default=6, help="Passes over them.")
@seed_option
@click.option("--dry-run", is_flag=True, help="Leave the installed starter and its record as they are.")
def main(folder: Path, count: int, epochs: int, seed: int, dry_run: bool) -> None:
    """Draw images, train YOLO on them from random weights, install what it has learned with its record."""
    prepare_ultralytics(folder)
    from finetune.detection import runtime

    began = runtime.cpu_seconds()
    data = write_images(folder / "data", count, seed)
    drawn = runtime.cpu_seconds()
    recipe = replace(RECIPE, epochs=epochs)
    model = runtime.load_model(LIGHT.stem, None, "detect")
    best = runtime.train(model, data, recipe, folder, "cpu", seed)
    trained = runtime.cpu_seconds()
    model = runtime.load_model(LIGHT.stem, best, "detect")
    box = model.val(data=str(data), imgsz=SIZE, device="cpu", plots=False, verbose=False, project=str(folder)).box
    state = {
        name: value.half() if value.is_floating_point() else value for name, value in model.model.state_dict().items()
    }
    target = folder if dry_run else STARTERS["detect"].file.parent
    target /= STARTERS["detect"].file.name
    save_state(state, target)
    record = {
        "schema": 1,
        "command": ["benchmarks/yolo_starter.py", *sys.argv[1:]],
        "commit": git_commit(),
        "start": "random",
        "model": LIGHT.stem,
        "settings": asdict(recipe),
        "images": count,
        "seed": seed,
        "sha256": sha256(target),
        "bytes": target.stat().st_size,
        "drawing_cpu_seconds": round(drawn - began, 1),
        "train_cpu_seconds": round(trained - drawn, 1),
        "val_map50": round(float(box.map50), 4),
        "val_ap50": {
            CLASSES[label]: round(float(ap), 3) for label, ap in zip(box.ap_class_index, box.ap50, strict=True)
        },
    }
    (folder / RECORD.name if dry_run else RECORD).write_text(to_json(record), "utf-8")
    click.echo(to_json(record), nl=False)


if __name__ == "__main__":
    main(prog_name="python benchmarks/yolo_starter.py")
