"""A finished run of YOLO or YOLO-World, ready for new images: whole, or cut into tiles as it was trained."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converters.datasets.tiles import PLACE, TileRule, grid
from finetune.detection import runtime, vocabulary, world_training
from finetune.detection.dataset_view import size_of_whole
from finetune.detection.evaluation import coco_results, settings_of
from finetune.detection.tiles import put_together
from finetune.detection.training import BEST
from finetune.detection.world import load_world, set_words
from finetune.runs.answers import Answer, Predictor, detections_scores, image_threshold
from finetune.runs.dataset import Dataset, open_dataset
from finetune.runs.predictions import PredictionSet
from finetune.runs.run_folder import finished_run

TUNED_WORLD = Path("tuned") / "weights" / "best.pt"


@dataclass(frozen=True)
class Tuned:
    """The model of a finished run, and how it looks at images."""

    model: Any
    size: int  # longest side of what it looks at, px
    rule: TileRule | None  # None: at whole images


def open_tuned(folder: Path, dataset: Dataset, world: bool) -> Tuned:
    """That of the run in ``folder``; of YOLO-World what it tuned, asked in the words that it was tuned with."""
    settings = finished_run(folder, dataset, [TUNED_WORLD if world else BEST])["settings"]
    if world:
        model = load_world("", folder / TUNED_WORLD)
        set_words(model, dataset.classes, vocabulary.read_vectors(folder / world_training.WORDS, dataset.classes))
        return Tuned(model, settings["imgsz"], None)
    model = runtime.load_model(settings["arch"], folder / BEST, settings["task"])
    rule = tile_rule(open_dataset(dataset.folder.parent, settings["tiles"])) if settings["tiles"] else None
    return Tuned(model, size_of_whole(dataset, settings["imgsz"], settings["crop"]), rule)


def predictor(folder: Path, dataset: Dataset, device: str, world: bool) -> Predictor:
    """The finished run in ``folder``, ready for new images."""
    look = look_of(open_tuned(folder, dataset, world), dataset, device)
    source = PredictionSet(folder / "predictions" / "tuned")
    threshold = image_threshold(source, dataset)
    return Predictor(look, dataset.classes, threshold, least=threshold, run=folder, source=source)


def look_of(tuned: Tuned, dataset: Dataset, device: str) -> Callable[[NDArray[np.uint8]], Answer]:
    """A function of an image, H x W x 3 RGB, that answers what the model finds."""
    model, rule, asked = tuned.model, tuned.rule, settings_of(tuned.size, device)

    def look(image: NDArray[np.uint8]) -> Answer:
        found = on_tiles(model, image, rule, asked) if rule else found_in(model, image, 0, asked)
        found = [{key: value for key, value in entry.items() if key != "image_id"} for entry in found]
        return Answer(detections_scores(found, len(dataset.classes)), found)

    return look


def tile_rule(tiles: Dataset) -> TileRule:
    about = tiles.card["settings"]["tile"]
    return TileRule(about["size"], about["overlap"])


def found_in(model: Any, image: NDArray[np.uint8], image_id: int, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Detections on one image, H x W x 3 RGB, in the COCO results format; ultralytics takes BGR as OpenCV reads it."""
    (answer,) = model.predict(np.ascontiguousarray(image[..., ::-1]), **settings)
    return list(coco_results(answer, image_id))


def on_tiles(model: Any, image: NDArray[np.uint8], rule: TileRule, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """The same by tiles, put together on the whole image."""
    height, width = image.shape[:2]
    tiles, found = {}, []
    for number, (x, y, w, h) in enumerate(grid(width, height, rule)):
        tiles[number] = {"image": "", **dict(zip(PLACE, (x, y, w, h), strict=True))}
        found += found_in(model, image[y : y + h, x : x + w], number, settings)
    return put_together(found, tiles, {"": {"id": 0, "width": width, "height": height}})
