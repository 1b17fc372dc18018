"""Learn which residuals are defects, from masks, boxes, image tags or no labels: one network at four prices of labels.

    python finetune/weakrest.py --category screw                                    # from masks
    python finetune/weakrest.py --category screw --labels boxes                     # two clicks a defect
    python finetune/weakrest.py --category screw --labels tags                      # one click a defect image
    python finetune/weakrest.py --category screw@perlin-200 --labels none           # noise painted on good images
    torchrun --nproc_per_node 2 -- finetune/weakrest.py --category screw            # two GPUs; mind the --

Built after the abstract of H. Li et al., Industrial Anomaly Detection and Localization Using Weakly-Supervised Residual
Transformers (WeakREST, arXiv 2306.03492), not reproduced: a small transformer with shifted windows classifies blocks of
8 x 8 px by their residuals, features of a frozen network minus those of the nearest good patch. What a label leaves
unknown (a box its inside, a tag everything) is labelled by the moving average of the network where that is sure.
"""

import sys
from pathlib import Path
from typing import Any

import click

if not __package__:  # run as a file: import from the repository, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from converters.cli.command import command
from converters.cli.options import FOLDER, Number, json_option, out_option, overwrite_option, seed_option
from finetune.anomaly.recipe import ARCHS
from finetune.anomaly.weak.recipe import LABELS, Recipe
from finetune.runs.dataset import choose_dataset
from finetune.runs.replay import as_begun, config_option


@command()
@click.option("--category", "--dataset", "dataset_name", metavar="NAME", help="Dataset in --out to train on.")
@out_option
@click.option("--runs", type=FOLDER, default="runs", help="Where runs are written.")
@click.option("--run", "name", show_default="weakrest-LABELS", help="Name of the run.")
@click.option(
    "--labels",
    type=click.Choice(list(LABELS)),
    default=Recipe.labels,
    help="What it may see of train's defects; none: painted noise (augment --method perlin) in their place.",
)
@click.option("--arch", type=click.Choice(ARCHS), default=Recipe.arch, help="Features: lite0, or torchvision's.")
@click.option("--weights", default=Recipe.weights, help="torchvision's name, state_dict FILE, or none (random, weak).")
@click.option("--imgsz", type=click.IntRange(64), default=Recipe.imgsz, help="Side of the square network input, px.")
@click.option(
    "--coreset", type=Number(0, 1, min_open=True), default=Recipe.coreset, help="Share of good patches to remember."
)
@click.option("--epochs", type=click.IntRange(1), default=Recipe.epochs, help="Epochs of 128 windows; the last counts.")
@click.option("--batch", type=click.IntRange(1), default=Recipe.batch, help="Windows a step, of all processes.")
@click.option("--lr", type=Number(0, min_open=True), default=Recipe.lr, help="Peak learning rate.")
@click.option("--device", default="", show_default="GPU, else CPU", help="cpu, cuda, cuda:1.")
@click.option("--resume", is_flag=True, help="Continue an interrupted run, with its own settings.")
@seed_option
@config_option
@overwrite_option
@json_option
def main(**options: Any) -> None:
    """Train on residuals of a converted dataset; print how well test's defects stand out; leave a run folder."""
    if options["resume"]:
        name = options["name"] or f"weakrest-{options['labels']}"
        folder = options["runs"] / choose_dataset(options["out"], options["dataset_name"]) / name
        options = as_begun(options, folder / f"seed-{options['seed']}")
    from finetune.anomaly.weak.training import train_weakrest

    train_weakrest(**options)


if __name__ == "__main__":
    main(prog_name="python finetune/weakrest.py")
