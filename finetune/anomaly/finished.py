"""A finished run of normality, used again."""

from dataclasses import fields
from pathlib import Path

from converters.cli.errors import DatasetError
from finetune.anomaly.evaluation import evaluate
from finetune.anomaly.features import build_backbone
from finetune.anomaly.recipe import Recipe
from finetune.runs.checksums import sha256
from finetune.runs.dataset import Dataset
from finetune.runs.run_folder import Run, finished_run, write_record
from finetune.training.checkpoints import load_state
from finetune.training.images import load_images
from finetune.training.processes import prepare_device
from finetune.training.published import start_weights


def evaluate_again(
    folder: Path, dataset: Dataset, device: str, weights: Path | None = None, boxes: Path | None = None
) -> None:
    """Score val and test again with the memory that the finished run in ``folder`` kept.

    Rewrites the predictions, and the measures in run.json. ``weights`` is where the network's file lies now; ``boxes``
    are for other models. Raises DatasetError for other weights than the run's.
    """
    record = finished_run(folder, dataset, ("memory.pt",))
    settings = record["settings"]
    recipe = Recipe(**{item.name: settings[item.name] for item in fields(Recipe)})
    checkpoint = start_weights(str(weights or recipe.weights), recipe.arch)
    if (checkpoint and sha256(checkpoint)) != settings["weights_sha256"]:
        raise DatasetError(f"{folder}: was not made with {checkpoint}: name the file that it was, with --weights")
    device = prepare_device(device)
    backbone = build_backbone(recipe, checkpoint).to(device)
    memory = load_state(folder / "memory.pt", "RUN")["memory"].to(device)
    parts = {part: load_images(dataset, part, recipe.imgsz) for part in ("val", "test")}
    measured = evaluate(Run(folder, dataset, settings), backbone, recipe.arch, memory, parts, device)
    write_record(folder, record | measured.pop("cost") | {"metrics": measured})
