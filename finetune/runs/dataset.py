"""A converted dataset as trainers see it: its split, its classes, its images and the ground truth of a part."""

import json
import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from converters.cli.errors import DatasetError
from converters.cli.publishing import MARKER, recover
from converters.datasets.synthetic_images import KEYS
from converters.sources.samples import CALIBRATION, PARTS
from finetune.runs.checksums import sha256

if TYPE_CHECKING:
    from numpy.typing import NDArray


SUFFIXES = {  # what the converters add to a category's name, and the options that make them do so
    r"tile-(\d+)": "--tile {}",
    r"kfold-(\d+)-(\d+)": "--protocol kfold --folds {} --fold {}",
    r"official": "--protocol official",
    r"few-shot-(\d+)-s(-?\d+)": "--protocol few-shot --shots {} --seed {}",
    r"few-shot-(\d+)-per-type-s(-?\d+)": "--protocol few-shot --shots {} --per type --seed {}",
}
AUGMENTED = re.compile(r"(paste|perlin|both)-(\d+)(-balanced)?(-object|-anywhere)?(-s-?\d+)?")  # by converters.augment


@dataclass(frozen=True)
class Dataset:
    """One folder that the converters published."""

    folder: Path
    synthetic_share: float | None = None  # of synthetic images in the train part, 0..<1; None takes all that there are

    @property
    def name(self) -> str:
        return self.folder.name

    @cached_property
    def split(self) -> dict[str, Any]:
        """``split.json``, with its own hash as ``sha256``."""
        from converters.datasets.records import read_split  # pydantic

        return read_split(self.folder)

    @cached_property
    def card(self) -> dict[str, Any]:
        from converters.datasets.records import read_card

        return read_card(self.folder)

    @property
    def classes(self) -> list[str]:
        return self.card["classes"]

    @property
    def label_settings(self) -> dict[str, Any]:
        """Settings that decide the labels, besides the split: options of the conversion, and classes."""
        options = ("classes", "instances", "connectivity", "merge_gap", "min_area", "tile")
        return {"class_names": self.classes} | {name: self.card["settings"].get(name) for name in options}

    @property
    def synthetic(self) -> bool:
        return self.card["synthetic"]

    def format(self, name: str) -> Path:
        """The folder of one format, which is written now if the dataset lacks it; see ``write_format``."""
        path = self.folder / name
        if not path.is_dir():
            from converters.datasets.completion import write_format

            write_format(self.folder, name)
        return path

    @cached_property
    def tiles(self) -> dict[str, Any] | None:
        """``tiles.json``: where each image lies in which image of another dataset; None for whole images."""
        from converters.datasets.records import read_tiles

        return read_tiles(self.folder) if "tile" in self.card["settings"] else None

    @property
    def base(self) -> str:
        """The name of the dataset of whole images on the same split: for most datasets their own."""
        return self.tiles["base"] if self.tiles else self.name

    @cached_property
    def parts(self) -> dict[str, str]:
        """Image name -> its part, in the order of COCO ids, left-out images among them."""
        parts = {key.replace("/", "__"): part for key, part in sorted(self.split["parts"].items())}
        if self.tiles:
            return {name: parts[tile["image"]] for name, tile in self.tiles["tiles"].items()}
        return parts

    @cached_property
    def image_ids(self) -> dict[str, int]:
        """Image name -> its COCO id: 1, 2, ... over the whole split in the order of the source paths.

        Left-out images are not in it, but leave a gap: the ids of the others do not depend on them.
        """
        left_out = {problem["file"].replace("/", "__") for problem in self.card["left_out"]}
        whole = {name: tile["image"] for name, tile in self.tiles["tiles"].items()} if self.tiles else {}
        numbered = enumerate(self.parts, start=1)
        return {name: number for number, name in numbered if not {name, whole.get(name)} & left_out}

    @property
    def has_calibration(self) -> bool:
        """Whether good images were put aside for thresholds alone (``--good-val``)."""
        return CALIBRATION in self.split["parts"].values()

    @property
    def judged_parts(self) -> tuple[str, ...]:
        """The parts that a trained model predicts."""
        return ("val", "test", *([CALIBRATION] if self.has_calibration else []))

    def images(self, part: str) -> list[str]:
        """Names of the images in a part by their ids; of synthetic ones as many as ``synthetic_share`` asks for."""
        names = [name for name in self.image_ids if self.parts[name] == part]
        return names if part != "train" or self.synthetic_share is None else self._mixed(names, self.synthetic_share)

    @property
    def synthetic_images(self) -> list[str]:
        """Names of the images of the train part that `python -m converters.augment` made, as ``images`` has them."""
        return list(filter(_is_synthetic, self.images("train")))

    def _mixed(self, names: list[str], share: float) -> list[str]:
        """All real images of ``names`` and so many synthetic ones, taken evenly: names sort by type."""
        made = list(filter(_is_synthetic, names))
        real = names[: len(names) - len(made)]  # synthetic ones sort last
        wanted = round(share / (1 - share) * len(real))
        if not made:
            raise DatasetError(
                f"--synthetic-share {share:g}: {self.folder} holds no synthetic images; make some with "
                f"`python -m converters.augment --dataset {self.name}`, and name the dataset that it writes"
            )
        if wanted > len(made):
            most = int(100 * len(made) / len(names)) / 100
            raise DatasetError(
                f"--synthetic-share {share:g}: takes {wanted} synthetic images beside {len(real)} real ones, and "
                f"{self.folder} holds {len(made)}: take {most:g} or less, or make more"
            )
        return real + [made[index * len(made) // wanted] for index in range(wanted)]

    def ground_truth(self, part: str) -> dict[str, Any]:
        """A part in COCO's annotation format: from ``coco/`` or, where there is none, from ``yolo/``'s boxes.

        It is read once: leave it as it is.
        """
        if part not in (*PARTS, CALIBRATION):
            raise ValueError(f"{part!r} is none of {', '.join(PARTS)}, {CALIBRATION}")
        if part == CALIBRATION and self.has_calibration:
            self.format("coco")  # of which yolo/ knows nothing
        source = "coco" if (self.folder / "coco").is_dir() else "yolo"
        if (source, part) not in self._truths:
            read = self._read_coco if source == "coco" else self._boxes_of_yolo
            self._truths[source, part] = read(part)
        return self._truths[source, part]

    @cached_property
    def _truths(self) -> dict[tuple[str, str], dict[str, Any]]:
        """Format and part -> the ground truth, read when it is first asked for."""
        return {}

    def _read_coco(self, part: str) -> dict[str, Any]:
        path = self.folder / "coco" / "annotations" / f"instances_{part}.json"
        try:
            truth = json.loads(path.read_text("utf-8"))
            made_from = truth["info"]["split_sha256"]
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise DatasetError(f"{path}: cannot be read ({error}): convert again with --overwrite") from None
        if made_from != self.split["sha256"]:
            raise DatasetError(f"{path}: made from another split than {self.folder / 'split.json'}: convert again")
        if part == "train" and self.synthetic_share is not None:
            ids = {self.image_ids[name] for name in self.images(part)}
            truth["images"] = [entry for entry in truth["images"] if entry["id"] in ids]
            truth["annotations"] = [entry for entry in truth["annotations"] if entry["image_id"] in ids]
        return truth

    def image_file(self, part: str, name: str) -> Path:
        """The path of an image, in whichever format was written."""
        for folder in ("masks", "coco", "yolo"):
            if part == CALIBRATION and folder == "coco":
                self.format("coco")  # yolo/ does not hold it
            path = self.folder / folder / "images" / part / name
            if path.is_file():
                return path
        raise DatasetError(f"{self.folder}: {name} is in none of masks, coco and yolo: convert again with --overwrite")

    def labels(self, part: str) -> dict[str, int | None]:
        """Image name -> index of its class; None for a good image.

        From the card's tags, without a look at masks or boxes; older conversions wrote none, and there the class is
        that of the largest area.
        """
        if "tags" in self.card:
            return {name: self._class_of_tag(name) for name in self.images(part)}
        found: dict[str, int | None] = dict.fromkeys(self.images(part))
        if not any((self.folder / kind).is_dir() for kind in ("coco", "yolo")):
            return {name: self._class_of_mask(part, name) for name in found}
        names = {number: name for name, number in self.image_ids.items()}
        areas: dict[str, list[float]] = {name: [0.0] * len(self.classes) for name in found}
        for entry in self.ground_truth(part)["annotations"]:
            areas[names[entry["image_id"]]][entry["category_id"] - 1] += entry["area"]
        return {name: area.index(max(area)) if any(area) else None for name, area in areas.items()}

    def _class_of_tag(self, name: str) -> int | None:
        tag = self.card["tags"].get(name)
        if tag is not None and tag not in self.classes:
            file = self.folder / "card.json"
            raise DatasetError(f"{file}: tags.{name}: {tag} is none of its classes: convert again with --overwrite")
        return None if tag is None else self.classes.index(tag)

    def _class_of_mask(self, part: str, name: str) -> int | None:
        import numpy as np

        mask = read_mask(self.format("masks") / "semantic" / part / f"{Path(name).stem}.png")
        areas = np.bincount(mask.ravel(), minlength=len(self.classes) + 1)[1:]
        return int(areas.argmax()) if areas.any() else None

    def _boxes_of_yolo(self, part: str) -> dict[str, Any]:
        from PIL import Image

        folder = self.format("yolo")
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for name in self.images(part):
            with Image.open(folder / "images" / part / name) as image:
                width, height = image.size
            images.append({"id": self.image_ids[name], "file_name": name, "width": width, "height": height})
            file = folder / "labels" / part / f"{Path(name).stem}.txt"
            for index, cx, cy, w, h in _rows_of_yolo(file, len(self.classes)):
                box = [(cx - w / 2) * width, (cy - h / 2) * height, w * width, h * height]
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": self.image_ids[name],
                        "category_id": int(index) + 1,
                        "bbox": [round(value, 3) for value in box],
                        "area": box[2] * box[3],
                        "iscrowd": 0,
                    }
                )
        categories = [{"id": index + 1, "name": name} for index, name in enumerate(self.classes)]
        return {"info": {}, "images": images, "annotations": annotations, "categories": categories}


def read_image(path: Path, flags: int) -> "NDArray[Any]":
    """An image as cv2.imread decodes it with ``flags``; raises DatasetError for what it can't read."""
    import cv2

    image = cv2.imread(str(path), flags)
    if image is None:
        raise DatasetError(f"{path}: is no image that OpenCV reads: convert again with --overwrite")
    return image


def _rows_of_yolo(path: Path, classes: int) -> list[list[float]]:
    """Rows of a class index and a box's centre and sides; raises DatasetError for anything else."""
    try:
        rows = [[float(value) for value in row.split()] for row in path.read_text("utf-8").splitlines()]
        if any(len(row) != 5 or row[0] not in range(classes) for row in rows):
            raise ValueError("a row is no class and box")
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: cannot be read ({error}): convert again with --overwrite") from None
    return rows


def read_mask(path: Path) -> "NDArray[Any]":
    """A mask PNG's values, H x W, of a palette the indices; raises DatasetError for what is missing or damaged."""
    import numpy as np
    from PIL import Image

    try:
        with Image.open(path) as image:
            return np.asarray(image)
    except (OSError, SyntaxError, ModuleNotFoundError):  # ultralytics patches Pillow to look for pi_heif then
        raise DatasetError(f"{path}: is no readable PNG: convert again with --overwrite") from None


def _is_synthetic(name: str) -> bool:
    return name.startswith(f"{KEYS}__")


def choose_dataset(out: Path, name: str | None) -> str:
    """``name`` or, without one, the name of the only dataset in ``out``, or of the one converted last; said on stderr.

    Raises DatasetError where there is none.
    """
    return name or last_of(out, ((path.parent.name, path.with_name(MARKER)) for path in out.glob("*/split.json")))


def last_of(out: Path, times: Iterable[tuple[str, Path]], what: str = "converted last") -> str:
    """Of datasets' names, each with a file, that whose file was written last; it is said on stderr.

    Raises DatasetError where there is none.
    """
    known = sorted((file.stat().st_mtime_ns, name) for name, file in times if not name.startswith("."))
    if not known:
        raise DatasetError(f"{out}: holds no dataset; make one with `python -m converters all --category NAME`")
    several = len({name for _, name in known})
    why = f"{what} of the {several}" if several > 1 else "the only dataset"
    click.echo(f"Dataset: {known[-1][1]}, {why} in {out} (--category names another)", err=True)
    return known[-1][1]


def open_dataset(out: Path, name: str, synthetic_share: float | None = None) -> Dataset:
    """Open ``OUT/NAME``, with synthetic images as that share of its train part, or as many as there are.

    Raises DatasetError that tells how to make one, or which ones there are, or how many synthetic images it holds.
    """
    dataset = Dataset(out / name, synthetic_share)
    recover(dataset.folder)
    if (dataset.folder / "split.json").is_file():
        if synthetic_share is not None:
            dataset.images("train")  # refused now rather than when it is trained on
        return dataset
    there = sorted(path.parent.name for path in out.glob("*/split.json")) if out.is_dir() else []
    hint = f"; {out} holds {', '.join(there)}" if there else ""
    commands = how_to_make(out, name)
    raise DatasetError(f"{dataset.folder}: no such dataset{hint}. Make it with {commands}")


def how_to_make(out: Path, name: str) -> str:
    """The commands that write ``OUT/NAME``: its conversion and, for synthetic images, `converters.augment`."""
    base, _, last = name.rpartition("@")
    where = "" if out == Path("datasets_out") else f" --out {shlex.quote(str(out))}"
    if base and (made := AUGMENTED.fullmatch(last)):
        method, count, balance, place, seed = made.groups()
        wanted = f"--dataset {shlex.quote(base)} --count {count}" + ("" if method == "paste" else f" --method {method}")
        wanted += " --balance" if balance else ""
        wanted += f" --place {place[1:]}" if place else ""
        wanted += f" --seed {seed[2:]}" if seed else ""
        first = "" if (out / base / "split.json").is_file() else f"{how_to_make(out, base)}, then "
        return f"{first}`python -m converters.augment {wanted}{where}`"
    category, *suffixes = name.split("@")
    options = [options for suffix in suffixes if (options := _options_of(suffix))]
    if len(options) < len(suffixes):  # not all are ours: an @ of the category's own
        category, options = name, []
    if category == "all":
        options.append("--classes category-defect")
    return f"`{' '.join(['python -m converters all --category', shlex.quote(category), *options])}{where}`"


def _options_of(suffix: str) -> str | None:
    found = (
        options.format(*match.groups())
        for pattern, options in SUFFIXES.items()
        if (match := re.fullmatch(pattern, suffix))
    )
    return next(found, None)


def whole_images(out: Path, dataset: Dataset) -> Dataset:
    """The dataset of whole images that tiles were cut from; any other is its own."""
    if dataset.tiles is None:
        return dataset
    whole = open_dataset(out, dataset.base)
    if whole.split["sha256"] != dataset.tiles["split_sha256"]:
        raise DatasetError(f"{dataset.folder}: was cut on another split than {whole.folder}: convert it again")
    return whole


def check_apart(first: Dataset, dataset: Dataset) -> None:
    """Raise DatasetError if training on ``first`` would show images of ``dataset`` that are held back."""
    parts = dataset.judged_parts
    held_back = {sha256(dataset.image_file(part, name)): part for part in parts for name in dataset.images(part)}
    for name in first.images("train"):
        if part := held_back.get(sha256(first.image_file("train", name))):
            purpose = "thresholds" if part == CALIBRATION else "val or test"
            raise DatasetError(
                f"--pretrain {first.name}: its train part holds {name}, which {dataset.name} keeps for {purpose}: "
                "make it from the same split"
            )
    base = first.split.get("base")
    if base and base["dataset"] == dataset.name and base["sha256"] != dataset.split["sha256"]:
        raise DatasetError(
            f"--pretrain {first.name}: was made from another split of {dataset.name}: its synthetic images may show "
            "val or test; make it again"
        )


def open_pretrain(out: Path, name: str, dataset: Dataset, needed_by: str | None) -> Dataset:
    """The dataset of --pretrain; ``needed_by`` says what needs it to have the classes of ``dataset``, if anything does.

    It may have more of them. Raises DatasetError if it has others, or shows images of val or test.
    """
    first = open_dataset(out, name)
    check_apart(whole_images(out, first), whole_images(out, dataset))
    if needed_by and first.classes[: len(dataset.classes)] != dataset.classes:
        raise DatasetError(
            f"--pretrain {name}: its classes ({', '.join(first.classes)}) are not those of {dataset.name} "
            f"({', '.join(dataset.classes)}), which {needed_by} needs: name a dataset made from {dataset.name}"
        )
    return first
