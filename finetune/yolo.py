"""Train ultralytics YOLO on a converted dataset, and measure it on the test part.

    python finetune/yolo.py --category screw --weights yolo11n.pt
    python finetune/yolo.py --data datasets_out/screw/yolo-seg/data.yaml                 # the same as --task segment
    python finetune/yolo.py --category screw --weights none --pretrain screw@paste-500   # random start
    python finetune/yolo.py --category screw --resume                                    # after Ctrl-C
    python finetune/yolo.py --category screw --device 0,1                                # two GPUs
    python finetune/yolo.py --category screw --folds 5                                   # screw@kfold-5-0 ... -4
    python finetune/yolo.py --category screw --eval-only runs/screw/yolo/seed-0 --export onnx

Val chooses the epoch and the threshold, test is looked at once, and all measures come from the saved predictions by
pycocotools.
ultralytics is AGPL-3.0, its checkpoints are pickles that can run code: load only those that you trust.
"""

import sys
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

if not __package__:  # run as a file: import from the repository, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from converters.cli.command import Acting, command, given_options
from converters.cli.errors import DatasetError
from converters.cli.options import (
    FOLDER,
    FOLDS,
    json_option,
    out_option,
    overwrite_option,
    seed_option,
    synthetic_share_option,
)
from converters.cli.terminal import to_json
from finetune.detection.environment import prepare_ultralytics
from finetune.detection.recipe import FORMATS, LIGHT, SIZES, Recipe, recipe_options
from finetune.runs.dataset import choose_dataset, open_dataset
from finetune.runs.replay import config_option

ACTING = Acting(beside_eval_only=("--export",), needs={"--arch": "--weights none"}, overruled={"--data": ("--out",)})


@command(acting=ACTING)
@click.option("--category", "--dataset", "name", metavar="NAME", help="Dataset in --out to train on.")
@click.option("--data", type=FOLDER, metavar="FILE", help="The same by its OUT/NAME/yolo/data.yaml, which sets --task.")
@out_option
@click.option("--runs", type=FOLDER, default="runs", help="Where runs are written.")
@click.option("--run", "run_name", show_default="yolo, or yolo-tile-SIDE on tiles", help="Name of the run.")
@click.option("--task", type=click.Choice(list(FORMATS)), default="detect", help="Boxes, polygons or rotated boxes.")
@click.option(
    "--arch", type=click.Choice([*SIZES, LIGHT.stem]), default="yolo11n", help="Architecture, for --weights none."
)
@click.option("--weights", default="yolo11n.pt", help="Published name, checkpoint FILE, or none (random).")
@click.option("--pretrain", metavar="DATASET", help="Train on this dataset first (screw@paste-500), then on NAME.")
@click.option("--pretrain-epochs", type=click.IntRange(1), show_default="as --epochs", help="Epochs of --pretrain.")
@synthetic_share_option
@recipe_options(Recipe())
@click.option("--crop", type=click.IntRange(0), default=0, help="Train on squares of so many px, scaled to --imgsz.")
@click.option("--folds", type=FOLDS, help="Train on NAME@kfold-FOLDS-0, -1 ... one after another.")
@click.option("--device", default="", show_default="GPU, else CPU", help="cpu, or the numbers of GPUs: 0 or 0,1.")
@seed_option
@click.option("--resume", is_flag=True, help="Continue an interrupted run.")
@click.option(
    "--eval-only", type=FOLDER, metavar="RUN", help="Predict and measure again with a finished run's weights."
)
@click.option("--export", type=click.Choice(["onnx"]), help="Also write the best checkpoint as best.onnx.")
@click.option("--world", is_flag=True, help="YOLO-World, which knows words: the options of finetune/yolo_world.py.")
@config_option
@overwrite_option
@json_option
@click.pass_context
def main(
    ctx: click.Context,
    name: str | None,
    data: Path | None,
    folds: int | None,
    eval_only: Path | None,
    world: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Train YOLO on a converted dataset; print mAP on test; leave a run folder.

    The run folder RUNS/DATASET/RUN/seed-SEED holds run.json, predictions/tuned/ for val and test in the COCO
    results format, figures/, and train/weights/best.pt. A run on tiles (NAME@tile-SIDE) is measured on the whole
    images, and so lies among the runs of NAME.
    """
    if world:
        raise DatasetError("--world: is for the command line; from Python, call finetune.yolo_world.main")
    if options["export"] and find_spec("onnx") is None:
        raise DatasetError("--export onnx: needs onnx: pip install -e '.[export]'")
    if data is None:
        name = choose_dataset(options["out"], name)
        if not folds:
            open_dataset(options["out"], name)  # refused before torch and ultralytics are imported
    prepare_ultralytics(options["runs"] / ".ultralytics")
    from finetune.detection import training

    given = given_options(ctx)
    name = training.read_data_option(name, data, folds, options, given)
    recipe = Recipe(**{field.name: options.pop(field.name) for field in fields(Recipe)})
    request = training.Request(**options)
    if eval_only:
        dataset = open_dataset(request.out, name)
        found = {name: training.evaluate_again(request, eval_only, dataset)}
    else:
        found = training.train_datasets(name, folds, request, recipe, given)
    for each in found if request.export else ():  # of folds, the finished ones that --resume kept too
        dataset = open_dataset(request.out, each)
        training.export_run(request, eval_only or request.folder(dataset), dataset)
    if as_json:
        click.echo(to_json(found if folds else found[name]), nl=False)
    else:
        click.echo(training.report_all(found, request, eval_only))


if __name__ == "__main__":
    if "--world" in sys.argv:
        from finetune.yolo_world import main as main_of_world

        sys.argv.remove("--world")
        main_of_world(prog_name="python finetune/yolo_world.py")
    main(prog_name="python finetune/yolo.py")
