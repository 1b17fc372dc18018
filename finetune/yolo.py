"""Train ultralytics YOLO on a converted dataset, and measure it on the test part.

    python finetune/yolo.py                                                             # the only dataset, all defaults
    python finetune/yolo.py --category screw --weights yolo11s.pt
    python finetune/yolo.py --data datasets_out/screw/yolo-seg/data.yaml                 # the same as --task segment
    python finetune/yolo.py --category screw --weights none --pretrain screw@paste-500   # random start
    python finetune/yolo.py --category screw --resume                                    # after Ctrl-C
    python finetune/yolo.py --category screw --device 0,1                                # two GPUs
    python finetune/yolo.py --category screw --folds 5                                   # screw@kfold-5-0 ... -4
    python finetune/yolo.py --world ...                                                  # finetune/yolo_world.py ...

Val chooses the epoch and the threshold, test is looked at once, and all measures come from the saved predictions by
pycocotools.
ultralytics is AGPL-3.0, its checkpoints are pickles that can run code: load only those that you trust.
"""

import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import click

if not __package__:  # run as a file: import from the repository, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from converters.cli.command import command, given_options
from converters.cli.errors import DatasetError
from converters.cli.options import FOLDER, synthetic_share_option
from converters.cli.terminal import to_json
from finetune.detection.environment import prepare_ultralytics
from finetune.detection.options import check_together, named_by, training_options
from finetune.detection.recipe import FORMATS, LIGHT, PRETRAINED, SIZES, Recipe
from finetune.runs.dataset import choose_dataset, open_dataset
from finetune.training.weights import RANDOM


@command()
@training_options(
    [*SIZES, LIGHT.stem],
    PRETRAINED,
    usual_name="yolo, or yolo-tile-SIDE on tiles",
    usual_weights=f"{SIZES[0]}.pt of the task; for boxes, without a network: the installed {LIGHT.stem}",
    random=Recipe(),
)
@click.option(
    "--data", type=FOLDER, metavar="FILE", help="An OUT/NAME/yolo/data.yaml, in place of --out, --category and --task."
)
@click.option("--task", type=click.Choice(list(FORMATS)), default="detect", help="Boxes, polygons or rotated boxes.")
@click.option(
    "--crop",
    type=click.IntRange(0),
    show_default=f"half an image's side, at most {PRETRAINED.crop}, for boxes without --imgsz; random start: 0",
    help="Train on square crops of this side, px; 0: on whole images.",
)
@click.option("--pretrain", metavar="DATASET", help="Train on this dataset first (screw@paste-500), then on NAME.")
@click.option("--pretrain-epochs", type=click.IntRange(1), show_default="as --epochs", help="Epochs of --pretrain.")
@synthetic_share_option
@click.pass_context
def main(
    ctx: click.Context, name: str | None, data: Path | None, folds: int | None, as_json: bool, **options: Any
) -> None:
    """Train YOLO on a converted dataset; print mAP on test; leave a run folder.

    The run folder RUNS/DATASET/RUN/seed-SEED holds run.json, predictions/tuned/ for val and test in the COCO
    results format, figures/, and train/weights/best.pt. A run on tiles (NAME@tile-SIDE) is measured on the whole
    images, and so lies among the runs of NAME. YOLO-World, which knows words, is trained by finetune/yolo_world.py.
    Some defaults depend on the start: random weights (--weights none) want other ones than a checkpoint.
    """
    check_together(ctx, {"data": ["name", "out", "folds"]})
    if "arch" in given_options(ctx, replayed=False) and options["weights"] != RANDOM:
        raise DatasetError("--arch: is used with --weights none only; add that, or leave --arch out")
    if options["pretrain_epochs"] and not options["pretrain"]:
        raise DatasetError("--pretrain-epochs: is used with --pretrain only; add that, or leave --pretrain-epochs out")
    given = given_options(ctx)
    if data:
        options["out"], name, task = named_by(data)
        if "task" in given and options["task"] != task:
            raise DatasetError(f"--task {options['task']}: {data} is for {task}; leave --task out, or name other data")
        options["task"] = task
        given.add("task")
    name = choose_dataset(options["out"], name)
    if not folds:
        open_dataset(options["out"], name)  # refused before torch and ultralytics are imported
    prepare_ultralytics(options["runs"])
    from finetune.detection import training

    chosen = {field.name: options.pop(field.name) for field in fields(Recipe)}
    request = training.Request(**options)
    found = training.train_datasets(name, folds, request, chosen, given)
    if as_json:
        click.echo(to_json(found if folds else found[name]), nl=False)
    else:
        click.echo(training.report_all(found, request))


if __name__ == "__main__":
    if "--world" in sys.argv:
        from finetune.yolo_world import main as main_of_world

        sys.argv.remove("--world")
        main_of_world(prog_name="python finetune/yolo_world.py")
    main(prog_name="python finetune/yolo.py")
