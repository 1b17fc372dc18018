"""Fine-tune SAM's mask decoder on a converted dataset, prompted as it will be used, and measure it before and after.

    python finetune/sam_decoder.py --category screw                                  # vit_b, embeddings cached
    python finetune/sam_decoder.py --category screw --arch mobile_sam                # an encoder of 6 million weights
    python finetune/sam_decoder.py --category screw --auto --boxes runs/screw/yolo/seed-0
    python finetune/sam_decoder.py --category washer --arch tiny --weights none --train all --pretrain washer@paste-400
    torchrun --nproc_per_node 2 finetune/sam_decoder.py --category screw             # two GPUs
    python finetune/sam_decoder.py --category screw --resume                         # after Ctrl-C
    python finetune/sam_decoder.py --category screw --eval-only runs/screw/sam/seed-0
    python finetune/sam_decoder.py --category screw --export sam_screw.pth           # for Meta's SamPredictor

The frozen image encoder runs once for each image (and view), then only the decoder is trained. Val chooses the
epoch and all thresholds; test is looked at once.
"""

import sys
from pathlib import Path
from typing import Any

import click

if not __package__:  # run as a file: import from the repository, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from converters.cli.command import Acting, command
from converters.cli.options import (
    FOLDER,
    Number,
    json_option,
    out_option,
    overwrite_option,
    seed_option,
    synthetic_share_option,
)
from finetune.runs.replay import config_option
from finetune.segmentation.setup import ARCHS, WARM_UP

ACTING = Acting(beside_eval_only=("--weights", "--boxes", "--cache-gb", "--export"))


@command(acting=ACTING)
@click.option("--category", "--dataset", "name", metavar="NAME", help="Dataset in --out to train on.")
@out_option
@click.option("--runs", type=FOLDER, default="runs", help="Where runs are written.")
@click.option("--run", "run_name", default="sam", help="Name of the run.")
@click.option("--arch", type=click.Choice(ARCHS), default="vit_b", help="tiny: SAM's classes, 256 px, untrained.")
@click.option("--weights", default=None, show_default="the published ones", help="sam_vit_b, ..., FILE, or none.")
@click.option("--train", default="decoder", help="decoder, prompt-encoder, all, lora:RANK; joined by commas.")
@click.option("--auto", is_flag=True, help="Also learn to find defects without a prompt.")
@click.option(
    "--instances", type=click.Choice(["component", "image"]), default="component",
    help="The dataset's instances, or one for all defects of an image.",
)  # fmt: skip
@synthetic_share_option
@click.option("--pretrain", metavar="DATASET", help="Train on this dataset first (screw@paste-500), then on NAME.")
@click.option("--pretrain-epochs", type=click.IntRange(1), show_default="as --epochs", help="Epochs of --pretrain.")
@click.option("--views", type=click.IntRange(1, 8), default=2, help="Flips and quarter turns of an image, with itself.")
@click.option("--boxes", type=FOLDER, default=None, metavar="RUN", help="Also prompt with this run's predicted boxes.")
@click.option("--epochs", type=click.IntRange(1), default=30)
@click.option("--imgsz", type=click.IntRange(32), default=None, show_default="256", help="Side of tiny's input, px.")
@click.option("--batch", type=click.IntRange(1), default=8, help="Images a step, of all processes.")
@click.option(
    "--lr",
    type=Number(0, min_open=True),
    default=None,
    show_default="8e-4 x sqrt(batch / 256); 5e-4 for all of random weights",
)
@click.option(
    "--warm-up",
    type=click.IntRange(0),
    default=None,
    show_default=f"{WARM_UP} for a tiny one of random weights with --train all",
    help="Steps on crops with synthetic shapes.",
)
@click.option("--patience", type=click.IntRange(1), default=10, help="Epochs without gain on val before a stop.")
@click.option("--cache-gb", type=Number(0), default=50.0, help="Bound of RUNS/.cache/embeddings.")
@click.option("--export", "export_to", type=FOLDER, default=None, help="Write a checkpoint for Meta's SamPredictor.")
@click.option("--device", default="", show_default="GPU, else CPU", help="cpu, cuda, cuda:1.")
@click.option("--resume", is_flag=True, help="Continue an interrupted run; give what it was begun with.")
@click.option(
    "--eval-only", type=FOLDER, metavar="RUN", help="Predict and measure again with a finished run's weights."
)
@seed_option
@config_option
@overwrite_option
@json_option
def main(**options: Any) -> None:
    """Fine-tune SAM on a converted dataset; print IoU on test before and after; leave a run folder.

    RUNS/DATASET/RUN/seed-SEED holds run.json, tuned.pt (what was trained; finetune.segmentation.models.load_tuned reads
    it), worst.png, and predictions/ with a set for each way of asking: gt-box, jittered-box, one-point,
    three-points (prompts from the truth), yolo-box (--boxes) and auto (--auto). --eval-only goes by RUN's settings,
    and takes --weights FILE and --boxes RUN where the checkpoint or the boxes that RUN began with have moved.
    """
    from finetune.segmentation.training import train_sam

    train_sam(**options)


if __name__ == "__main__":
    main(prog_name="python finetune/sam_decoder.py")
