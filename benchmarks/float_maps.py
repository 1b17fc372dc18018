"""Pixel AP of saved heat maps beside that of the float maps they were made from.

    python benchmarks/float_maps.py RUN...

The run looks at the test images again, and scikit-learn measures its maps as floats; the other figure is the one that
`compare` and `sweep` print, from the 16-bit files. Printed as a table, one line a run; over 0.001 apart: exit 1.
"""

import sys
from pathlib import Path

import click
import numpy as np

from converters.cli.command import command
from converters.cli.options import FOLDER, out_option
from converters.cli.terminal import progress, table

APART = 1e-3


def float_pixel_ap(run: Path, out: Path) -> float:
    """Average precision over all test pixels of the maps that the run's predictor gives, as float32."""
    from sklearn.metrics import average_precision_score

    from finetune.prediction.families import open_run
    from finetune.runs.dataset import read_image
    from finetune.runs.truth import truth_of

    room, dataset = open_run(run, out)
    predictor, truth = room.predictor(run, dataset, "cpu"), truth_of(dataset, "test")
    maps = []
    with progress(truth.names, len(truth.names), str(run)) as bar:
        for name in bar:
            heat = predictor.look(read_image(dataset.image_file("test", name))[..., ::-1]).heat
            if heat is None:
                raise click.UsageError(f"{run}: gives no heat maps; name runs of normality or classifier")
            maps.append(heat)
    masks = [truth.mask(index) > 0 for index in range(len(maps))]
    return float(
        average_precision_score(np.concatenate([m.ravel() for m in masks]), np.concatenate([m.ravel() for m in maps]))
    )


def saved_pixel_ap(run: Path, out: Path) -> float:
    from finetune.comparison.evidence import gather, plain
    from finetune.prediction.families import open_run
    from finetune.runs.predictions import PredictionSet

    return plain([gather(PredictionSet(run / "predictions/tuned"), open_run(run, out)[1])])["pixel_ap"]


@command()
@click.argument("runs", nargs=-1, required=True, type=FOLDER)
@out_option
def main(runs: tuple[Path, ...], out: Path) -> None:
    """Hold the pixel AP of the saved heat maps of RUNS against that of their float maps."""
    rows = [(str(run), saved_pixel_ap(run, out), float_pixel_ap(run, out)) for run in runs]
    body = [(run, f"{saved:.5f}", f"{floats:.5f}", f"{saved - floats:+.5f}") for run, saved, floats in rows]
    click.echo(table(body, ["run", "saved", "float", "difference"], "github"))
    if any(abs(saved - floats) > APART for _, saved, floats in rows):
        sys.exit(1)


if __name__ == "__main__":
    main(prog_name="python benchmarks/float_maps.py")
