"""Predict with a finished run, of whichever trainer.

python finetune/predict.py runs/screw/yolo/seed-0 new/*.png line2/ --to looked   # judge new images
python finetune/predict.py runs/screw/sam/seed-0 new/ --boxes runs/screw/yolo/seed-0 --to looked
python finetune/predict.py runs/screw/yolo/seed-0 --part test      # predict and measure val and test again
"""

import sys
from pathlib import Path

import click

if not __package__:  # run as a file: import from the repository, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from converters.cli.command import command
from converters.cli.errors import DatasetError
from converters.cli.options import FOLDER, Percent, json_option, max_pixels_option, out_option, overwrite_option


@command()
@click.argument("run", type=FOLDER)
@click.argument("images", nargs=-1)
@click.option("--to", type=FOLDER, metavar="DIR", help="Folder to write what is found in IMAGES.")
@click.option("--part", type=click.Choice(["test"]), help="Predict test (and val) of RUN's dataset again instead.")
@click.option("--pre-label", type=click.Choice(["coco"]), help="Write labels to correct as well: pre-labels.json.")
@out_option
@click.option("--weights", type=FOLDER, help="Where the checkpoint lies now that RUN began with.")
@click.option("--boxes", type=FOLDER, metavar="RUN", help="The YOLO run whose boxes a SAM takes (with --part: took).")
@click.option(
    "--rejects",
    type=Percent(),
    metavar="SHARE%",
    show_default="best F1 on val",
    help="Threshold that so many good images reach at most, such as 1%, from the run's held-out good images.",
)
@click.option("--device", default="", show_default="GPU, else CPU", help="cpu, cuda, or the number of a GPU.")
@max_pixels_option
@overwrite_option
@json_option
def main(
    run: Path,
    images: tuple[str, ...],
    to: Path | None,
    part: str | None,
    pre_label: str | None,
    out: Path,
    weights: Path | None,
    boxes: Path | None,
    rejects: float | None,
    device: str,
    max_pixels: int,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Judge IMAGES (files, folders, patterns) by the finished run in RUN, and write what it finds into DIR.

    RUN is a folder RUNS/DATASET/NAME/seed-SEED. DIR gets predictions.json (COCO results), verdicts.csv, overlays,
    heat maps, and index.html with the images most in doubt first. Images that cannot be read are listed and skipped,
    exit code 1. With --part test, replace RUN's own predictions and measures instead.
    """
    if part:
        if images or to or pre_label or rejects:
            raise DatasetError(
                "--part: predicts RUN's own images again; leave IMAGES, --to, --pre-label and --rejects out"
            )
        from finetune.prediction.again import predict_again

        predict_again(run, out, device, weights, boxes, as_json)
        return
    if not images or to is None:
        raise DatasetError("name IMAGES and --to DIR or, to predict RUN's own test part again, --part test")
    from finetune.prediction.new_images import predict_images

    predict_images(run, images, to, out, device, weights, boxes, rejects, bool(pre_label), max_pixels, overwrite)


if __name__ == "__main__":
    main(prog_name="python finetune/predict.py")
