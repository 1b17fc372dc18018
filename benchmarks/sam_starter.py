"""Train the starter of SAM's ``--arch lite0``, which is installed with us, and leave its record.

    python benchmarks/sam_starter.py             # some seven minutes of one CPU core, nothing is downloaded

It learns what boxes and points mean from drawn images alone: the products that are no part of the sample, textures,
and shapes painted on both. The image encoder stays as it is, and is not in the file. What the record says of images
is measured on drawn ones that training has not seen: it tells whether a starter is a sound one, nothing about parts.
"""

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from converters.cli.command import command
from converters.cli.options import seed_option
from converters.cli.terminal import progress, to_json
from converters.sample import FOR_STARTERS
from converters.synthetic.camera import SIZE, smooth_noise
from converters.synthetic.catalogue import PRODUCTS
from converters.synthetic.sample_images import render_defect
from finetune.runs.checksums import sha256
from finetune.segmentation.embedding_sources import recolour
from finetune.segmentation.evaluation import answer, filled, make_prompt, overlap
from finetune.segmentation.images import VIEWS, seen_as
from finetune.segmentation.lite0 import BACKBONE, build_lite0, embedded_backbone, resize
from finetune.segmentation.models import Segmenter, framed
from finetune.segmentation.settings import STARTER
from finetune.segmentation.steps import optimizer_of
from finetune.segmentation.warm_up import study
from finetune.training.painted_defects import Pixels, paint_shapes

RECORD = Path(__file__).resolve().parents[1] / "docs/measurements/results/starter-lite0.json"
LESSONS = ((256, 2, 1, 8), (512, 1, 2, 6))  # side of the crops, crops a step, rounds of prompts, prompts at most
EASY = 0.2  # of the steps, in which shapes come to be as small and thin as they get
POOL = 500  # images that are drawn; a crop of them is new each time
TEXTURES, GREY = 0.25, 0.3  # shares of the images and of the crops
RATE, DECAY = 1e-3, 0.05
HELD_OUT = 60  # drawn images to measure on
Ids = NDArray[np.int64]


def texture(generator: np.random.Generator) -> Pixels:
    """SIZE x SIZE x 3: clouds and stripes of a few sizes in two colours and between."""
    field = sum(generator.normal() * smooth_noise(generator, *generator.integers(2, 100, 2)) for _ in range(3))
    if generator.random() < 0.5:
        y, x = np.mgrid[:SIZE, :SIZE] * generator.uniform(-0.8, 0.8, (2, 1, 1))
        field = field + generator.normal() * np.cos(x + y + field)
    share = 1 / (1 + np.exp(-np.asarray(field)))[..., None]
    low, high = generator.uniform(0, 255, (2, 3))
    noise = generator.normal(0, generator.uniform(0, 6), (SIZE, SIZE, 3))
    return np.clip(low + (high - low) * share + noise, 0, 255).astype(np.uint8)


def one_image(generator: np.random.Generator) -> tuple[Pixels, Ids]:
    """A texture, or a product with a defect; and each pixel's instance."""
    if generator.random() < TEXTURES:
        return texture(generator), np.zeros((SIZE, SIZE), np.int64)
    product = str(generator.choice(FOR_STARTERS))
    pixels, mask = render_defect(product, str(generator.choice(PRODUCTS[product].DEFECTS)), generator)
    return pixels, cv2.connectedComponents(mask, connectivity=8)[1].astype(np.int64)


def one_crop(
    pool: Sequence[tuple[Pixels, Ids]], side: int, hard: float, generator: np.random.Generator
) -> tuple[Pixels, Ids]:
    """A square of ``side`` px around a defect, or anywhere, enlarged by 1 to 2.5, with shapes painted into it.

    Where more is needed than an image has, four of them lie side by side.
    """
    window = round(side / np.exp(generator.uniform(0, np.log(2.5))))
    (pixels, ids), *others = (pool[place] for place in generator.integers(len(pool), size=4))
    if window > SIZE:
        images = [pixels, *(other for other, _ in others)]
        numbers = [ids, *(np.where(other > 0, other + 1000 * place, 0) for place, (_, other) in enumerate(others, 1))]
        pixels, ids = (np.vstack([np.hstack(four[:2]), np.hstack(four[2:])]) for four in (images, numbers))
    view = int(generator.integers(VIEWS))
    pixels, ids = seen_as(pixels, view), seen_as(ids, view)
    places = np.argwhere(ids > 0)
    centre = generator.integers(0, ids.shape)
    if len(places):
        centre = places[generator.integers(len(places))] + generator.integers(-window // 3, window // 3 + 1, 2)
    y, x = np.clip(centre - window // 2, 0, len(ids) - window)
    pixels, ids = pixels[y : y + window, x : x + window], ids[y : y + window, x : x + window]
    ids = np.unique(ids, return_inverse=True)[1].reshape(ids.shape) if (ids == 0).any() else np.zeros_like(ids)
    late = generator.random() < 0.5  # painted before they are enlarged, shapes are as blurred as all else
    if not late:
        pixels, ids = pixels.copy(), ids.copy()
        paint_shapes(pixels, ids, generator, hard)
    pixels = np.asarray(cv2.resize(pixels, (side, side), interpolation=cv2.INTER_LINEAR), np.uint8)
    ids = cv2.resize(ids.astype(np.uint16), (side, side), interpolation=cv2.INTER_NEAREST).astype(np.int64)
    if late:
        paint_shapes(pixels, ids, generator, hard)
    if generator.random() < GREY:
        pixels = np.repeat(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[..., None], 3, 2)
    torch.manual_seed(int(generator.integers(2**31)))
    return recolour(pixels), ids


def train(segmenter: Segmenter, steps: Sequence[int], seed: int) -> list[float]:
    """Train in place all but the encoder, lesson by lesson; the mean loss of each tenth of the steps."""
    parameters = [value for value in segmenter.parameters() if value.requires_grad]
    optimizer, schedule = optimizer_of(parameters, RATE, DECAY, 0.05, sum(steps))
    generator = np.random.default_rng(seed)
    losses: list[float] = []
    pool = [one_image(generator) for _ in range(POOL)]
    with progress(None, sum(steps), "starter", item_show_func=lambda item: item) as bar:
        for (side, crops, rounds, most), count in zip(LESSONS, steps, strict=True):
            resize(segmenter.sam, side)
            for _ in range(count):
                hard = min(1.0, len(losses) / (EASY * sum(steps)))
                drawn = [one_crop(pool, side, hard, generator) for _ in range(crops)]
                optimizer.zero_grad()
                losses.append(study(segmenter, drawn, rounds, generator, most))
                nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
                schedule.step()
                bar.update(1, f"loss {np.mean(losses[-50:]):.3f}")
    return [round(float(np.mean(part)), 4) for part in np.array_split(losses, 10)]


@torch.no_grad()
def measure(segmenter: Segmenter, seed: int) -> dict[str, Any]:
    """Mean IoU on whole drawn images that training has not seen, with the true box and with one point."""
    resize(segmenter.sam, LESSONS[-1][0])
    found: dict[str, list[float]] = {"filled box": [], "gt-box": [], "one-point": []}
    for number in range(HELD_OUT):
        generator = np.random.default_rng([seed, 1, number])
        product = FOR_STARTERS[number % 2]
        defect = PRODUCTS[product].DEFECTS[number // 2 % 5]
        pixels, whole = render_defect(product, defect, generator)
        ids = cv2.connectedComponents(whole, connectivity=8)[1]
        embedding = segmenter.sam.image_encoder(framed(segmenter.sam, pixels)[None])
        masks = [(ids == index).astype(np.uint8) for index in range(1, ids.max() + 1)]
        for kind in ("gt-box", "one-point"):
            prompts = [make_prompt(kind, mask, "") for mask in masks]
            answers = answer(segmenter, embedding, prompts, whole.shape)
            for mask, prompt, (logits, _) in zip(masks, prompts, answers, strict=True):
                found[kind].append(overlap((logits > 0).astype(np.uint8), mask)["iou"])
                if prompt.box is not None:
                    found["filled box"].append(overlap(filled(prompt.box, mask.shape), mask)["iou"])
    return {"instances": len(found["gt-box"])} | {name: round(float(np.mean(each)), 4) for name, each in found.items()}


@command()
@click.option("--steps", type=(int, int), default=(500, 60), help="Steps on crops of 256 px, and then on 512 px.")
@click.option("--to", type=click.Path(path_type=Path), default=STARTER, help="File to write.")
@seed_option
def main(steps: tuple[int, int], to: Path, seed: int) -> None:
    """Train the starter of SAM's lite0, write its file and its record."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    sam = build_lite0(LESSONS[0][0])
    sam.load_state_dict(embedded_backbone(), strict=False)
    segmenter = Segmenter(sam, ["defect"], auto=False)
    sam.image_encoder.backbone.requires_grad_(False)
    began, cpu = time.monotonic(), time.process_time()
    losses = train(segmenter, steps, seed)
    seconds, cpu = time.monotonic() - began, time.process_time() - cpu
    state = {name: value.half() for name, value in sam.state_dict().items() if not name.startswith(BACKBONE)}
    torch.save(state, to)
    sam.load_state_dict({name: value.float() for name, value in state.items()}, strict=False)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=RECORD.parent, capture_output=True, text=True, check=True)
    record = {
        "schema": 1,
        "command": " ".join(["python", "benchmarks/sam_starter.py", *sys.argv[1:]]),
        "commit": commit.stdout.strip(),
        "start": "embedded ImageNet encoder, random weights behind it",
        "seed": seed,
        "products": list(FOR_STARTERS),
        "lessons": [dict(zip(("side", "crops", "rounds", "most"), each, strict=True)) for each in LESSONS],
        "steps": steps,
        "losses": losses,
        "train_seconds": round(seconds, 1),
        "train_cpu_seconds": round(cpu, 1),
        "held_out_drawn_images": measure(segmenter, seed),
        "bytes": to.stat().st_size,
        "sha256": sha256(to),
    }
    (RECORD if to == STARTER else to.with_suffix(".json")).write_text(to_json(record), "utf-8")
    click.echo(to_json(record))


if __name__ == "__main__":
    main(prog_name="python benchmarks/sam_starter.py")
