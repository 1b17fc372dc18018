"""A converted dataset as ultralytics gets to see it: a folder of links under the run, for whole images or squares."""

import math
import os
import shutil
from pathlib import Path

import yaml
from PIL import Image

from converters.cli.errors import DatasetError
from finetune.detection.crops import cut_train_part
from finetune.detection.recipe import FORMATS, PRETRAINED
from finetune.runs.dataset import Dataset

MOST_APART = 1.25  # ratio of image sizes; training scales by as much


def view_of(dataset: Dataset, task: str, background: float, folder: Path, crop: int = 0) -> Path:
    """A folder of links to the dataset's files, since ultralytics writes caches beside labels; its data.yaml.

    Good images of the train part beyond the share ``background`` are left out of it. With ``crop``, the train part
    is squares of so many px instead of whole images.
    """
    source = dataset.format(FORMATS[task])
    data = yaml.safe_load((source / "data.yaml").read_text("utf-8"))
    if data["split_sha256"] != dataset.split["sha256"]:
        raise DatasetError(f"{source}: made from another split than {dataset.folder / 'split.json'}: convert it again")
    shutil.copytree(source.absolute(), folder, copy_function=os.symlink)
    images, labels = (folder / kind / "train" for kind in ("images", "labels"))
    names = dataset.images("train")
    for name in {path.name for path in images.iterdir()}.difference(names):  # synthetic images beyond --synthetic-share
        (images / name).unlink()
    if crop:
        for part in (images, labels):
            shutil.rmtree(part)
            part.mkdir()
        names = cut_train_part(dataset, crop, images, labels)
    good = [name for name in names if not (labels / f"{Path(name).stem}.txt").stat().st_size]
    keep = round(background / (1 - background) * (len(names) - len(good)))
    for name in evenly_left_out(good, keep):
        (images / name).unlink()
    return folder / "data.yaml"


def evenly_left_out(names: list[str], keep: int) -> list[str]:
    """The names that go when ``keep`` of them stay, taken from the whole list evenly."""
    keep = min(keep, len(names))
    stay = {names[index * len(names) // keep] for index in range(keep)}
    return [name for name in names if name not in stay]


def check_scale(dataset: Dataset) -> None:
    """Raise DatasetError if whole images differ so much in size that ``size_of_whole`` cannot be right for all."""
    least, most = longest_sides(dataset)
    if most > MOST_APART * least:
        raise DatasetError(
            f"--crop: looks at whole images on one scale, and those of val and test have {least} to {most} "
            "px on their longest side: leave it out, or convert with --tile instead"
        )


def longest_sides(dataset: Dataset) -> tuple[int, int]:
    """The least and the most that an image of val and test has on its longest side, px; 0 where these hold none."""
    entries = [entry for part in ("val", "test") for entry in dataset.ground_truth(part)["images"]]
    sides = [max(entry["width"], entry["height"]) for entry in entries] or [0]
    return min(sides), max(sides)


def usual_crop(dataset: Dataset, task: str) -> int:
    """Side of the squares that a pre-trained start is trained on, px: half an image's, at most ``PRETRAINED.crop``.

    0 where squares cannot be cut: for other tasks than boxes, of tiles, and of whole images on several scales.
    """
    if task != "detect" or dataset.tiles:
        return 0
    least, most = longest_sides(dataset)
    return min(PRETRAINED.crop, least // 2) if most <= MOST_APART * least else 0


def size_of_whole(dataset: Dataset, imgsz: int, crop: int) -> int:
    """Longest side of the images when they are looked at, px: as large as in training, on squares too."""
    if not crop:
        return imgsz
    with Image.open(dataset.image_file("val", dataset.images("val")[0])) as image:
        return 32 * math.ceil(max(image.size) * imgsz / crop / 32)  # the network halves its input five times
