"""Fine-tune YOLO-World, a detector that knows words, and see what the words, the boxes and both together are worth.

    python finetune/yolo_world.py --category screw --weights yolov8s-worldv2.pt
    python finetune/yolo_world.py --category screw --prompts words.yaml                  # synonyms a class, averaged
    python finetune/yolo_world.py --category screw --keep-vocabulary scratch_head        # known by its words alone
    python finetune/yolo_world.py --category screw --weights yolov8n.pt --arch yolov8n-worldv2   # a plain YOLOv8
    python finetune/yolo_world.py --category washer --weights none --text-weights none   # random: shows the road only
    python finetune/yolo_world.py --category screw --resume                              # after Ctrl-C
    python finetune/yolo_world.py --category screw --device 0,1                          # two GPUs

One run leaves three prediction sets: `zero-shot` (words alone), `tuned` (fine-tuned on boxes) and `prompt-tuned` (only
the vectors of the words are trained, all else is frozen). Val chooses the epoch, test is looked at once.
YOLO-World is Cheng et al. 2024; training vectors in place of words follows CoOp, Zhou et al. 2022.
ultralytics is AGPL-3.0, its checkpoints are pickles that can run code: load only those that you trust.
"""

import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import click

if not __package__:  # run as a file: import from the repository, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from converters.cli.command import command, given_options
from converters.cli.errors import DatasetError
from converters.cli.options import Number
from converters.cli.terminal import to_json
from finetune.detection.environment import prepare_ultralytics
from finetune.detection.options import check_together, training_options
from finetune.detection.recipe import ARCHS, PROMPT_LR, PUBLISHED, TEMPLATE, WORLD_ARCHS, WORLD_RECIPE, Recipe
from finetune.runs.dataset import choose_dataset, open_dataset
from finetune.training.weights import RANDOM


@command()
@training_options(
    WORLD_ARCHS,
    WORLD_RECIPE,
    usual_name="yolo-world, or yolo-world-without-CLASS",
    usual_weights=f"{ARCHS[0]}.pt",
)
@click.option(
    "--prompt-lr", type=Number(0, min_open=True), default=PROMPT_LR, help="Learning rate of the words' vectors."
)
@click.option("--template", default=TEMPLATE, help="How a class name becomes a prompt.")
@click.option("--prompts", type=click.Path(), help="YAML file of `class: prompt` or `class: [prompt, synonym]`.")
@click.option("--text-weights", default=PUBLISHED, help="CLIP's text tower: openai, open_clip FILE, or none (random).")
@click.option("--text-embeddings", type=click.Path(), help="NPZ file of ready vectors (names, embeddings) instead.")
@click.option("--keep-vocabulary", metavar="CLASS", help="Hold this class out of training and test it zero-shot.")
@click.pass_context
def main(ctx: click.Context, name: str | None, folds: int | None, as_json: bool, **options: Any) -> None:
    """Ask YOLO-World for the classes of a dataset in words, fine-tune it, tune its words; print all three on test.

    The run folder RUNS/DATASET/RUN/seed-SEED holds run.json, predictions/{zero-shot,tuned,prompt-tuned}/ for val and
    test in the COCO results format, figures/, the vectors of the words (text_embeddings.npz, prompt-tuned.npz; give
    them back with --text-embeddings), and a best.pt below tuned/ and prompt-tuned/.
    """
    check_together(ctx, {"text_embeddings": ["prompts", "template", "text_weights"], "prompts": ["template"]})
    if "arch" in given_options(ctx, replayed=False) and options["weights"] is None:
        raise DatasetError("--arch: is used with --weights none or with a plain YOLOv8; add one, or leave --arch out")
    if "arch" not in given_options(ctx) and options["weights"] != RANDOM:
        options["arch"] = None  # the checkpoint says what it is
    name = choose_dataset(options["out"], name)
    if not folds:
        open_dataset(options["out"], name)  # refused before torch and ultralytics are imported
    prepare_ultralytics(options["runs"])
    from finetune.detection import world_training as training

    chosen = {field.name: options.pop(field.name, None) for field in fields(Recipe)}
    recipe = replace(WORLD_RECIPE, **{name: value for name, value in chosen.items() if value is not None})
    request = training.Request(**options)
    found = training.train_datasets(name, folds, request, recipe, given_options(ctx))
    if as_json:
        click.echo(to_json(found if folds else found[name]), nl=False)
    else:
        click.echo(training.report_all(found, request))


if __name__ == "__main__":
    main(prog_name="python finetune/yolo_world.py")
