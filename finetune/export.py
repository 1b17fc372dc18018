"""Export the model of a finished run for other programs.

python finetune/export.py runs/screw/yolo/seed-0                       # best.onnx beside its checkpoint
python finetune/export.py runs/screw/normality/seed-0 --check          # for docs/examples/line_pc.py
python finetune/export.py runs/screw/sam/seed-0                        # sam.pth, sam_encoder.onnx, sam_decoder.onnx
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
@click.option("--to", type=FOLDER, metavar="FILE", show_default="in RUN", help="File to write; of a SAM a folder, too.")
@out_option
@click.option("--check", is_flag=True, help="Hold the ONNX against RUN on val and test.")
@click.option("--weights", type=FOLDER, help="Where the checkpoint lies now that RUN began with.")
@click.option("--device", default="", show_default="GPU, else CPU", help="cpu, cuda, or the number of a GPU.")
def main(run: Path, to: Path | None, out: Path, check: bool, weights: Path | None, device: str) -> None:
    """Write the model of the finished run in RUN for other programs; print the paths.

    YOLO, classifier and normality become an ONNX file, SAM two (encoder and decoder, FILE.onnx) and a checkpoint for
    Meta's SamPredictor (FILE.pth).
    """
    from finetune.prediction.again import export

    export(run, out, to, device, weights, check)


if __name__ == "__main__":
    main(prog_name="python finetune/export.py")
