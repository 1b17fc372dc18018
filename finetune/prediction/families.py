"""The model families: which room a finished run belongs to. A room is imported when one of its runs is at hand."""

from pathlib import Path
from types import ModuleType

from converters.cli.errors import DatasetError
from finetune.runs.dataset import Dataset, open_dataset
from finetune.runs.run_folder import read_record, read_run


def open_run(folder: Path, out: Path) -> tuple[ModuleType, Dataset]:
    """The module ``finished`` of the run's room, and the dataset in ``out`` that it was trained on.

    Raises DatasetError for a folder without a finished run of ours, or whose dataset has another split or labels now.
    """
    if not (folder / "run.json").is_file():
        raise DatasetError(f"{folder}: holds no finished run (no run.json); name a folder RUNS/DATASET/NAME/seed-S")
    record = read_record(folder)
    room = room_of(record.get("model"))
    if room is None or "dataset" not in record:
        raise DatasetError(f"{folder / 'run.json'}: is of the model {record.get('model')}, which no trainer here makes")
    dataset = open_dataset(out, record["dataset"])
    read_run(folder, dataset)
    return room, dataset


def room_of(model: str | None) -> ModuleType | None:
    """The module ``finished`` of the room whose runs have this ``model`` in run.json."""
    if model in ("YOLO", "YOLO-World"):
        import finetune.detection.finished as detection

        return detection
    if model == "SAM decoder":
        import finetune.segmentation.finished as segmentation

        return segmentation
    if model == "CNN classifier":
        import finetune.classification.finished as classification

        return classification
    if model == "nearest good patches":
        import finetune.anomaly.finished as anomaly

        return anomaly
    if model == "residual transformer":
        import finetune.anomaly.weak.finished as weak

        return weak
    return None
