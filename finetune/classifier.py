"""Train a CNN classifier (good, and the classes of a dataset), measure it, and show where it looked.

    python finetune/classifier.py --category screw                                  # installed ImageNet start
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
from finetune.classification.recipes import ATTEMPTS, IMBALANCE, USUAL, Attempt
from finetune.runs.dataset import choose_dataset
from finetune.runs.replay import as_begun, config_option

OWN: dict[str, Any] = {"default": None, "show_default": "the attempt's"}


@command()
@click.option("--category", "--dataset", "dataset_name", metavar="NAME", help="Dataset in --out to train on.")
@out_option
@click.option("--runs", type=FOLDER, default="runs", help="Where runs are written.")
@click.option("--run", "name", default="classifier", help="Name of the run; a ladder adds the attempt's or method's.")
@click.option("--attempt", type=click.Choice([*ATTEMPTS, "all"]), default=USUAL, help="Preset; all: one after another.")
@click.option("--imbalance", type=click.Choice([*IMBALANCE, "all"]), default=Attempt.imbalance,
              help="How to counter class imbalance; all: one method after another.")  # fmt: skip
@click.option("--arch", **OWN, help="lite0, any torchvision classifier, or our own: fine, deep.")
@click.option("--weights", default=Attempt.weights, help="torchvision's name, state_dict FILE, or none (random).")
@click.option("--epochs", type=click.IntRange(1), **OWN, help="Passes over the training images, at most.")
@click.option("--imgsz", type=click.IntRange(32), **OWN, help="Side of the square network input, px.")
@click.option("--stride", type=click.Choice([4, 8, 16]), help="Largest stride of the last feature map, px.")
@click.option("--batch", type=click.IntRange(1), **OWN, help="Images per step and process.")
@click.option("--lr", type=Number(0, min_open=True), **OWN, help="Learning rate.")
@click.option("--optimizer", type=click.Choice(["Adam", "AdamW", "SGD"]), **OWN, help="SGD has momentum 0.9.")
@click.option("--pretext", type=click.IntRange(0), **OWN, help="Steps on painted defects before training (arch fine).")
@click.option("--pretrain", metavar="DATASET", help="Train on this dataset first (screw@paste-500), then on NAME.")
@click.option("--pretrain-epochs", type=click.IntRange(1), show_default="as --epochs", help="Epochs of --pretrain.")
@synthetic_share_option
@click.option("--repeat", type=click.IntRange(1), default=1, help="Number of trainings, with seeds SEED, SEED+1, ...")
@click.option("--heatmaps/--no-heatmaps", default=Attempt.heatmaps, help="Write heat maps and boxes from them.")
@click.option("--precision", type=click.Choice(["auto", "float32", "bfloat16", "float16"]), default=Attempt.precision,
              help="Arithmetic of training; auto: what is fastest on the device.")  # fmt: skip
@click.option("--device", default="", show_default="GPU, else CPU", help="cpu, cuda, cuda:1.")
@click.option("--resume", is_flag=True, help="Continue an interrupted run, with its own settings.")
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
    if options["resume"] and not options["overwrite"]:
        dataset = choose_dataset(options["out"], options["dataset_name"])
        options = as_begun(options, options["runs"] / dataset / options["name"] / f"seed-{options['seed']}")
    from finetune.classification.ladder import train_classifiers

    train_classifiers(**options)


if __name__ == "__main__":
    main(prog_name="python finetune/classifier.py")
