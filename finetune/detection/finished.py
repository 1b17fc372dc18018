"""What can be done with a finished run of YOLO or YOLO-World: measure it again, export it."""

import shutil
from importlib.util import find_spec
from pathlib import Path

from converters.cli.errors import DatasetError
from finetune.detection.environment import prepare_ultralytics
from finetune.runs.answers import Predictor
from finetune.runs.dataset import Dataset
from finetune.runs.run_folder import finished_run, read_record


def evaluate_again(
    folder: Path, dataset: Dataset, device: str, weights: Path | None = None, boxes: Path | None = None
) -> None:
    """Predict val and test again with the weights that the finished run in ``folder`` left; rewrite its measures.

    ``weights`` is for YOLO-World, where the checkpoint that the run started from has moved.
    """
    prepare_ultralytics(folder.absolute().parents[:3][-1])
    from finetune.detection import runtime, training, world_training

    runtime.check_device(device)
    world = read_record(folder)["model"] == "YOLO-World"
    if boxes or (weights and not world):
        raise DatasetError(f"--{'boxes' if boxes else 'weights'}: is not used for {folder}; leave it out")
    if world:
        world_training.evaluate_again(folder, dataset, device, weights)
    else:
        training.evaluate_again(folder, dataset, device)


def export_run(folder: Path, dataset: Dataset, device: str, to: Path | None) -> Path:
    """Write the best checkpoint of a finished run of YOLO as ONNX: to ``to`` or, for None, beside it."""
    if find_spec("onnx") is None:
        raise DatasetError("onnx is not installed: pip install -e '.[export]'")
    prepare_ultralytics(folder.absolute().parents[:3][-1])
    from finetune.detection import dataset_view, runtime, training

    settings = finished_run(folder, dataset, [training.BEST])["settings"]
    size = dataset_view.size_of_whole(dataset, settings["imgsz"], settings["crop"])
    file = runtime.export_onnx(folder / training.BEST, settings["task"], size, device or "cpu")
    return Path(shutil.move(file, to)) if to else file


def predictor(
    folder: Path, dataset: Dataset, device: str, weights: Path | None = None, boxes: Predictor | None = None
) -> Predictor:
    """The finished run in ``folder``, ready for new images; of YOLO-World its tuned set."""
    prepare_ultralytics(folder.absolute().parents[:3][-1])
    from finetune.detection import new_images, runtime

    runtime.check_device(device)
    return new_images.predictor(folder, dataset, device, read_record(folder)["model"] == "YOLO-World")
