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
    """The module `finished` of the room whose runs have this ``model`` in run.json."""
    match model:
        case "YOLO":
            from finetune.detection import finished
        case "YOLO-World":
            from finetune.detection import world_finished as finished
        case "SAM decoder":
            from finetune.segmentation import finished
        case "CNN classifier":
            from finetune.classification import finished
        case "nearest good patches":
            from finetune.anomaly import finished
        case _:
            return None
    return finished
