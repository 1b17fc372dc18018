"""Predict with a finished run, of whichever trainer.

python finetune/predict.py runs/screw/yolo/seed-0 --part test      # predict and measure val and test again
"""

import sys
from pathlib import Path

import click

if not __package__:  # run as a file: import from the repository, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from converters.cli.command import command
from converters.cli.options import FOLDER, json_option, out_option


@command()
@click.argument("run", type=FOLDER)
@click.option(
    "--part", type=click.Choice(["test"]), required=True, help="Predict test (and val) of RUN's dataset again."
)
@out_option
@click.option("--weights", type=FOLDER, help="Where the checkpoint lies now that RUN began with (SAM, YOLO-World).")
@click.option("--boxes", type=FOLDER, metavar="RUN", help="Where the YOLO run lies now whose boxes RUN used (SAM).")
@click.option("--device", default="", show_default="GPU, else CPU", help="cpu, cuda, or the number of a GPU.")
@json_option
def main(run: Path, part: str, out: Path, weights: Path | None, boxes: Path | None, device: str, as_json: bool) -> None:
    """Predict again with what the finished run in RUN has saved; replace its predictions and measures.

    RUN is a folder RUNS/DATASET/NAME/seed-SEED; its settings are those that it was trained with.
    """
    from finetune.prediction.again import predict_again

    predict_again(run, out, device, weights, boxes, as_json)


if __name__ == "__main__":
    main(prog_name="python finetune/predict.py")
