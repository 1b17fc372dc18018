"""Export the model of a finished run for other programs.

python finetune/export.py runs/screw/yolo/seed-0                       # best.onnx beside its checkpoint
python finetune/export.py runs/screw/normality/seed-0 --check          # for docs/examples/line_pc.py
python finetune/export.py runs/screw/sam/seed-0 --to sam_screw.pth     # for Meta's SamPredictor
"""

import sys
from pathlib import Path

import click

if not __package__:  # run as a file: import from the repository, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from converters.cli.command import command
from converters.cli.options import FOLDER, out_option


@command()
@click.argument("run", type=FOLDER)
@click.option("--to", type=FOLDER, metavar="FILE", show_default="in RUN", help="File to write.")
@out_option
@click.option("--check", is_flag=True, help="Hold it against RUN on val and test (classifier, normality).")
@click.option("--device", default="", show_default="GPU, else CPU", help="cpu, cuda, or the number of a GPU.")
def main(run: Path, to: Path | None, out: Path, check: bool, device: str) -> None:
    """Write the model of the finished run in RUN as a file; print its path.

    YOLO, classifier and normality become ONNX, SAM a checkpoint for Meta's SamPredictor.
    """
    from finetune.prediction.again import export

    export(run, out, to, device, check)


if __name__ == "__main__":
    main(prog_name="python finetune/export.py")
