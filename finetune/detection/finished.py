"""A finished run of YOLO or YOLO-World, used again."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from converters.cli.errors import DatasetError
from finetune.detection.environment import prepare_ultralytics
from finetune.runs.answers import Asked, Predictor
from finetune.runs.dataset import Dataset
from finetune.runs.run_folder import read_record


def evaluate_again(
    folder: Path, dataset: Dataset, device: str, weights: Path | None = None, boxes: Path | None = None
) -> None:
    """Predict val and test again with the weights that the finished run in ``folder`` left; rewrite its measures.

    ``weights`` is for YOLO-World, where the checkpoint that the run started from has moved.
    """
    prepare_ultralytics(folder.absolute().parents[:3][-1])
    from finetune.detection import runtime, training, world_training

    runtime.check_device(device)
    world = is_world(folder)
    if boxes or (weights and not world):
        raise DatasetError(f"--{'boxes' if boxes else 'weights'}: is not used for {folder}; leave it out")
    if world:
        world_training.evaluate_again(folder, dataset, device, weights)
    else:
        training.evaluate_again(folder, dataset, device)


def export_run(folder: Path, dataset: Dataset, device: str, to: Path | None, weights: Path | None = None) -> list[Path]:
    """Write the best checkpoint of a finished run as ONNX: to ``to`` or, for None, beside it; of YOLO-World with the
    words that it was tuned with.
    """  # fmt: skip
    if find_spec("onnx") is None:
        raise DatasetError("onnx is not installed: pip install -e '.[export]'")
    prepare_ultralytics(folder.absolute().parents[:3][-1])
    from finetune.detection import new_images, runtime

    tuned = new_images.open_tuned(folder, dataset, is_world(folder))
    file = runtime.export_onnx(tuned.model, tuned.size, device or "cpu")
    return [Path(shutil.move(file, to)) if to else file]


def exported(folder: Path, dataset: Dataset, files: Sequence[Path]) -> dict[str, Asked]:
    """What the exported file says in onnxruntime, with ultralytics before and after it, of the tuned set's images.

    Raises DatasetError without that library.
    """
    if find_spec("onnxruntime") is None:
        raise DatasetError("onnxruntime is not installed: pip install -e '.[export]'")
    prepare_ultralytics(folder.absolute().parents[:3][-1])
    from finetune.detection import new_images, runtime

    tuned = new_images.open_tuned(folder, dataset, is_world(folder))
    model = runtime.open_exported(files[0], tuned.model.task)
    look = new_images.look_of(replace(tuned, model=model), dataset, "cpu")
    return {"tuned": lambda part, name, image: look(image)}


def predictor(
    folder: Path, dataset: Dataset, device: str, weights: Path | None = None, boxes: Predictor | None = None
) -> Predictor:
    """The finished run in ``folder``, ready for new images; of YOLO-World its tuned set."""
    prepare_ultralytics(folder.absolute().parents[:3][-1])
    from finetune.detection import new_images, runtime

    runtime.check_device(device)
    return new_images.predictor(folder, dataset, device, is_world(folder))


def is_world(folder: Path) -> bool:
    return bool(read_record(folder)["model"] == "YOLO-World")
