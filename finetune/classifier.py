"""Train a CNN classifier (good, and the classes of a dataset), measure it, and show where it looked.

    python finetune/classifier.py --category screw                                            # ImageNet start
    python finetune/classifier.py --category washer --weights none --attempt pretext          # random start
    python finetune/classifier.py --category washer --weights none --attempt all --repeat 3   # ablation table
    python finetune/classifier.py --category screw --pretrain screw@paste-500                 # synthetic images first
    torchrun --nproc_per_node 2 -- finetune/classifier.py --category screw --imgsz 512        # two GPUs; mind the --

It learns from the class of an image alone, never from a mask; synthetic images, though, were cut out along masks. Val
chooses the epoch (also of --pretrain), the temperature and all thresholds; test is looked at once. Good counts as a
class in accuracy, balanced accuracy and macro-F1.
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
from finetune.classification.recipes import ATTEMPTS, IMBALANCE, USUAL
from finetune.runs.replay import config_option

ACTING = Acting(beside_eval_only=("--cost", "--heatmaps", "--precision"))


@command(acting=ACTING)
@click.option("--category", "--dataset", "dataset_name", metavar="NAME", help="Dataset in --out.")
@out_option
@click.option("--runs", type=FOLDER, default="runs", help="Where runs are written.")
@click.option("--run", "name", default="classifier", help="Name of the run; ladders add the attempt's.")
@click.option("--attempt", type=click.Choice([*ATTEMPTS, "all"]), default=USUAL, help="Preset; all: the ladder.")
@click.option("--imbalance", type=click.Choice([*IMBALANCE, "all"]), default="none", help="Against the long tail.")
@click.option("--arch", default=None, show_default="the attempt's", help="Any torchvision classifier; fine, deep.")
@click.option("--weights", default="DEFAULT", help="torchvision's name, state_dict FILE, or none (random).")
@click.option("--epochs", type=click.IntRange(1), default=None, show_default="the attempt's")
@click.option("--imgsz", type=click.IntRange(32), default=256, help="Side of the square network input, px.")
@click.option("--stride", type=click.Choice(["4", "8", "16"]), default=None, help="Largest px per feature cell.")
@click.option("--batch", type=click.IntRange(1), default=None, show_default="the attempt's", help="Per process.")
@click.option("--lr", type=Number(0, min_open=True), default=None, show_default="the attempt's")
@click.option("--optimizer", type=click.Choice(["Adam", "AdamW", "SGD"]), default=None, show_default="the attempt's")
@click.option("--pretext", type=click.IntRange(0), default=None, help="Steps on synthetic defects before the labels.")
@click.option("--pretrain", metavar="DATASET", help="Train on this dataset first (screw@paste-500), then on NAME.")
@click.option("--pretrain-epochs", type=click.IntRange(1), show_default="as --epochs", help="Epochs of --pretrain.")
@synthetic_share_option
@click.option("--ensemble", type=click.IntRange(1), default=1, help="Networks trained on bootstraps, averaged.")
@click.option("--cost", type=FOLDER, default=None, help="CSV of what each decision costs for each truth.")
@click.option("--repeat", type=click.IntRange(1), default=1, help="Trainings with seeds SEED, SEED+1, ...")
@click.option("--heatmaps/--no-heatmaps", default=True, help="Write Grad-CAM++ maps and boxes from them.")
@click.option("--precision", type=click.Choice(["auto", "float32", "bfloat16", "float16"]), show_default="auto")
@click.option("--device", default="", show_default="GPU, else CPU", help="cpu, cuda, cuda:1.")
@click.option("--resume", is_flag=True, help="Continue an interrupted run.")
@click.option(
    "--eval-only", type=FOLDER, default=None, metavar="RUN", help="Predict again with a finished run's weights."
)
@seed_option
@config_option
@overwrite_option
@json_option
def main(**options: Any) -> None:
    """Train a CNN classifier on a converted dataset; print its measures on test; leave a run folder.

    RUNS/DATASET/RUN/seed-SEED holds run.json, predictions/tuned/ (scores, heat maps and boxes from them for val
    and test), model.pt, and the learning curve, confusion matrix and reliability as PNG. `--attempt all`,
    `--imbalance all` and `--repeat` write a table to RUNS/DATASET/RUN-table.md and .json.
    """
    from finetune.classification.ladder import train_classifiers

    train_classifiers(**options)


if __name__ == "__main__":
    main(prog_name="python finetune/classifier.py")
