"""Fine-tune SAM's mask decoder on a converted dataset, prompted as it will be used, and measure it before and after.

    python finetune/sam_decoder.py --category screw               # vit_b, or lite0 where that can't be downloaded
    python finetune/sam_decoder.py --category screw --arch lite0                     # minutes on a CPU
    python finetune/sam_decoder.py --category screw --arch mobile_sam                # an encoder of 6 million weights
    python finetune/sam_decoder.py --category screw --auto --boxes runs/screw/yolo/seed-0
    python finetune/sam_decoder.py --category washer --arch tiny --weights none --train all --pretrain washer@paste-400
    torchrun --nproc_per_node 2 finetune/sam_decoder.py --category screw             # two GPUs
    python finetune/sam_decoder.py --category screw --resume                         # after Ctrl-C

The frozen image encoder runs once for each image (and view), then only the decoder is trained. Val chooses the
epoch and all thresholds; test is looked at once.
"""

import sys
from pathlib import Path
from typing import Any

import click

if not __package__:  # run as a file: import from the repository, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from converters.cli.command import command
from converters.cli.options import (
    FOLDER,
    Number,
    json_option,
    out_option,
    overwrite_option,
    seed_option,
    synthetic_share_option,
)
from finetune.runs.dataset import choose_dataset
from finetune.runs.replay import as_begun, config_option
from finetune.segmentation.settings import ARCHS, LITE0_SIDE, RANDOM_RATE, REFERENCE, WARM_UP, Recipe, Request, Tiny


@command()
@click.option("--category", "--dataset", "name", metavar="NAME", help="Dataset in --out to train on.")
@out_option
@click.option("--runs", type=FOLDER, default="runs", help="Folder in which runs are written.")
@click.option("--run", "run_name", default="sam", help="Name of the run.")
@click.option(
    "--arch",
    type=click.Choice(ARCHS),
    show_default="vit_b; lite0 where its published weights can't be had",
    help="SAM's size. lite0 has a starter that is installed, tiny has no weights at all.",
)
@click.option(
    "--weights",
    show_default="the published ones; lite0's starter",
    help="Published name (sam_vit_b), FILE, or none: random.",
)
@click.option("--train", default="decoder", help="Parts to train: decoder, prompt-encoder, lora:RANK; or all.")
@click.option("--auto", is_flag=True, help="Also learn to find defects without a prompt.")
@click.option(
    "--instances",
    type=click.Choice(["component", "image"]),
    default="component",
    help="One prompt for each instance of the dataset, or one for all defects of an image.",
)
@synthetic_share_option
@click.option("--pretrain", metavar="DATASET", help="Train on this dataset first (screw@paste-500), then on NAME.")
@click.option("--pretrain-epochs", type=click.IntRange(1), show_default="as --epochs", help="Epochs of --pretrain.")
@click.option("--views", type=click.IntRange(1, 8), default=8, help="Views per image: itself, flips, quarter turns.")
@click.option("--boxes", type=FOLDER, metavar="RUN", help="Also prompt with this run's predicted boxes.")
@click.option("--epochs", type=click.IntRange(1), default=Recipe.epochs, help="Maximum number of epochs.")
@click.option(
    "--imgsz",
    type=click.IntRange(32),
    show_default=f"{LITE0_SIDE} of lite0, {Tiny.side} of tiny",
    help="Side of the square input of lite0 or tiny, px; others take 1024.",
)
@click.option("--batch", type=click.IntRange(1), default=Recipe.batch, help="Images a step, of all processes together.")
@click.option(
    "--lr",
    type=Number(0, min_open=True),
    show_default=f"{Recipe.lr:g} x sqrt(batch / {REFERENCE}); {RANDOM_RATE:g} for all of random weights",
    help="Peak learning rate.",
)
@click.option(
    "--warm-up",
    type=click.IntRange(0),
    show_default=f"{WARM_UP} for a tiny one of random weights with --train all",
    help="Steps on crops with synthetic shapes before the training.",
)
@click.option("--patience", type=click.IntRange(1), default=Recipe.patience, help="Epochs without gain before a stop.")
@click.option("--cache-gb", type=Number(0), default=50.0, help="Maximum size of RUNS/.cache/embeddings, GB.")
@click.option("--device", default="", show_default="GPU, else CPU", help="Device to train on: cpu, cuda, cuda:1.")
@click.option("--resume", is_flag=True, help="Continue an interrupted run, with its own settings.")
@seed_option
@config_option
@overwrite_option
@json_option
def main(out: Path, name: str | None, as_json: bool, **options: Any) -> None:
    """Fine-tune SAM on a converted dataset; print IoU on test before and after; leave a run folder.

    RUNS/DATASET/RUN/seed-SEED holds run.json, tuned.pt (what was trained; finetune.segmentation.models.load_tuned reads
    it), worst.png, and predictions/ with a set for each prompt kind: gt-box, jittered-box, one-point, three-points
    (prompts from the truth), yolo-box (--boxes) and auto (--auto).
    """
    request = Request(**options)
    if request.resume:
        folder = request.runs / choose_dataset(out, name) / request.run_name / f"seed-{request.seed}"
        request = Request(**as_begun(options, folder))
    from finetune.segmentation.training import train_sam

    train_sam(request, out, name, as_json)


if __name__ == "__main__":
    main(prog_name="python finetune/sam_decoder.py")
