"""A finished run of the classifier, used again."""

from dataclasses import fields
from pathlib import Path

from finetune.classification.evaluation import answer_cost, evaluate
from finetune.classification.loop import Job, load_network
from finetune.classification.recipes import Attempt
from finetune.runs.dataset import Dataset
from finetune.runs.run_folder import Run, finished_run, write_record
from finetune.training.images import load_images
from finetune.training.processes import prepare_device

NEEDED = ("model.pt",)


def evaluate_again(
    folder: Path, dataset: Dataset, device: str, weights: Path | None = None, boxes: Path | None = None
) -> None:
    """Predict val and test again by the settings and the weights of the finished run in ``folder``.

    Rewrites the predictions, and the measures in run.json. ``weights`` and ``boxes`` are for models that need other
    files than the run's own; this one does not.
    """
    record = finished_run(folder, dataset, NEEDED)
    settings = record["settings"]
    attempt = Attempt(**{item.name: settings[item.name] for item in fields(Attempt)})
    job = Job(attempt, 1 + len(dataset.classes), None, prepare_device(device), settings["seed"])
    parts = {part: load_images(dataset, part, attempt.imgsz) for part in ("val", "test")}
    network = load_network(job, folder / "model.pt")
    measured, *_ = evaluate(Run(folder, dataset, settings), job, network, parts)
    write_record(folder, record | answer_cost(dataset, job, network) | {"metrics": measured})
