"""Learn what good images look like, and score how far an image is from that: no defect is seen in training.

    python finetune/normality.py --category screw                                # ImageNet features, installed
    python finetune/normality.py --category screw --arch wide_resnet50_2         # the paper's, fetched once

A nearest-neighbour memory of patch features as in PatchCore (Roth et al., Towards Total Recall in Industrial Anomaly
Detection, CVPR 2022): features of two middle stages of a network, averaged over 3 x 3 cells; a greedy coreset (Sener
and Savarese 2018) of those of all good images; a cell's score is its distance to the nearest remembered one, an image's
the largest of its cells. It names no classes, unless `--labels class`
lets it learn them from residuals. Val's good images alone set the scale of scores and the box threshold.
"""

import sys
from pathlib import Path
from typing import Any

import click

if not __package__:  # run as a file: import from the repository, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from converters.cli.command import command
from converters.cli.options import FOLDER, Number, json_option, out_option, overwrite_option, seed_option
from finetune.anomaly.recipe import ARCHS, Recipe
from finetune.runs.replay import config_option


@command()
@click.option("--category", "--dataset", "dataset_name", metavar="NAME", help="Dataset in --out to learn from.")
@out_option
@click.option("--runs", type=FOLDER, default="runs", help="Where runs are written.")
@click.option("--run", "name", default="normality", help="Name of the run.")
@click.option(
    "--arch",
    type=click.Choice(ARCHS),
    default=Recipe.arch,
    help="lite0, which is installed, or torchvision's.",
)
@click.option("--weights", default=Recipe.weights, help="torchvision's name, state_dict FILE, or none (random, weak).")
@click.option("--imgsz", type=click.IntRange(64), default=Recipe.imgsz, help="Side of the square network input, px.")
@click.option(
    "--coreset", type=Number(0, 1, min_open=True), default=Recipe.coreset, help="Share of good patches to remember."
)
@click.option(
    "--labels",
    type=click.Choice(["good", "class"]),
    default=Recipe.labels,
    help="What it may see of train: good images alone, or also each image's class, to name defects.",
)
@click.option("--device", default="", show_default="GPU, else CPU", help="cpu, cuda, cuda:1.")
@seed_option
@config_option
@overwrite_option
@json_option
def main(**options: Any) -> None:
    """Learn from train's good images alone; print how well test's defects stand out; leave a run folder."""
    from finetune.anomaly.training import learn_normality

    learn_normality(**options)


if __name__ == "__main__":
    main(prog_name="python finetune/normality.py")
