"""The records of a published dataset, read back: ``card.json``, ``split.json``, ``tiles.json``, ``augment.json``.

Each becomes a dictionary of the type below, checked; what a type does not name is kept. Like ``cli.door``, this is
for code that has begun its work.
"""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any, Literal, NotRequired

from pydantic import with_config
from typing_extensions import TypedDict

from converters.cli.door import STRICT, read_json
from converters.datasets.splits import Split, SplitRule
from converters.datasets.synthetic_images import RECORD as AUGMENTATION
from converters.datasets.tiles import RECORD as TILES
from converters.masks.instances import InstanceRule

AGAIN = "convert again with --overwrite"
Record = dict[str, Any]  # of one of the types below: their readers elsewhere take keys by variables, too


class TileSettings(TypedDict):
    size: int
    overlap: float


class Settings(TypedDict):
    """What decides the content of a dataset besides its split."""

    classes: Literal["defect", "single", "category-defect"]
    instances: Literal["component", "image"]
    connectivity: Literal[8, 4]
    merge_gap: int
    min_area: int
    tile: NotRequired[TileSettings]
    layout: str
    source: dict[str, str]  # category -> its folder, relative to the dataset's


class Options(TypedDict):
    """What decides none of it, or nothing but the groups that ``split.json`` holds."""

    images: Literal["link", "copy", "symlink"]
    on_error: Literal["stop", "skip"]
    max_pixels: int
    group: NotRequired[str]
    group_file: NotRequired[str]  # relative to the dataset's folder


class Grouped(TypedDict):
    """How many images share how many groups."""

    images: int
    groups: int


class LeftOut(TypedDict):
    file: str
    reason: str


class Simplified(TypedDict):
    tolerance: float
    instances: int
    mean_iou: float
    min_iou: float


class ToldAside(TypedDict):
    """See ``samples.Aside``."""

    file: str
    reason: str
    count: int


Count = TypedDict("Count", {"part": str, "class": str, "images": int, "instances": int})


@with_config(STRICT)
class Card(TypedDict):
    """``card.json``: what is in a dataset, and what was left out."""

    schema: Literal[1]
    dataset: str
    synthetic: bool
    classes: list[str]
    settings: Settings
    options: Options
    formats: dict[str, str]  # folder -> name of the writer's class
    counts: list[Count]
    left_out: list[LeftOut]
    asides: NotRequired[list[ToldAside]]
    unused: dict[str, int]
    below_min_area: int
    soft_masks: dict[str, int]
    simplified: NotRequired[dict[str, Simplified]]  # by format
    empty_tiles: NotRequired[int]
    grouped: NotRequired[Grouped]
    train_good_divided: NotRequired[list[str]]  # categories
    tags: NotRequired[dict[str, str]]  # image that shows a defect -> its class; older conversions wrote none
    incomplete: list[str]
    duplicates: list[list[str]]


class Base(TypedDict):
    """The dataset that synthetic images were added to, and the hashes of its split and of these images."""

    dataset: str
    sha256: str
    synthetic_images: str


@with_config(STRICT)
class SplitRecord(TypedDict):
    """``split.json``: see ``splits.Split``; of the protocol's settings those that matter to it."""

    schema: Literal[1]
    protocol: Literal["stratified", "kfold", "few-shot", "official"]
    ratios: NotRequired[tuple[int, int, int]]
    folds: NotRequired[int]
    fold: NotRequired[int]
    shots: NotRequired[int]
    per: NotRequired[Literal["category", "type"]]
    seed: int
    combined: Literal["keep", "drop", "train-only"]
    good_val: NotRequired[float]
    family: str
    sources: str
    base: NotRequired[Base]
    parts: dict[str, Literal["train", "val", "test", "calibration"]]
    unused: dict[str, str]
    groups: NotRequired[dict[str, str]]


class Tile(TypedDict):
    """The place of a tile in its image, px."""

    image: str
    x: int
    y: int
    width: int
    height: int


@with_config(STRICT)
class TileRecord(TypedDict):
    """``tiles.json``: see ``tiles.as_record``."""

    schema: Literal[1]
    base: str
    split_sha256: str
    images: dict[str, dict[str, int]]  # id, width, height
    tiles: dict[str, Tile]


@with_config(STRICT)
class AugmentRecord(TypedDict):
    """``augment.json``: how synthetic images were asked for."""

    schema: Literal[1]
    base: Base
    count: int
    method: str
    place: str
    balance: bool
    seed: int


def _read(path: Path, model: Any, step: str = AGAIN) -> Record:
    return read_json(path, model, step)


def read_card(dataset: Path) -> Record:
    """``card.json``; raises DatasetError if there is none."""
    return _read(dataset / "card.json", Card)


def read_split(dataset: Path) -> Record:
    """``split.json``, with its hash as ``sha256``; raises DatasetError if there is none."""
    path = dataset / "split.json"
    step = AGAIN
    if not path.exists():
        inside = ", ".join(sorted(str(found.parent) for found in dataset.glob("*/split.json")))
        step = f"name one in it: {inside}" if inside else "write one with `python -m converters all --category NAME`"
        step = f"no dataset has been published there; {step}"
    return _read(path, SplitRecord, step) | {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def instance_rule(card: Record) -> InstanceRule:
    """The rule by which the masks of a dataset were divided."""
    names = [field.name for field in dataclasses.fields(InstanceRule)]
    return InstanceRule(**{name: card["settings"][name] for name in names})


def split_of(record: Record) -> Split:
    """The split that a record tells of."""
    names = [field.name for field in dataclasses.fields(SplitRule)]
    rule = SplitRule(**{name: record[name] for name in names if name in record})
    shared = record.get("base"), record.get("groups", {})
    return Split(rule, record["sources"], record["parts"], record["unused"], *shared)


def read_tiles(dataset: Path) -> Record:
    """``tiles.json``; raises DatasetError if there is none."""
    return _read(dataset / TILES, TileRecord)


def read_augmentation(dataset: Path) -> Record:
    """``augment.json``; raises DatasetError if there is none."""
    return _read(dataset / AUGMENTATION, AugmentRecord, "make the dataset again with --overwrite")
