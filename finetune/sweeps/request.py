"""The request of a sweep, and the scripts that train its cells."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
ALL = "all"
CONVERT = "convert"  # who gets the arguments of --args besides the models
SCRIPTS = {  # by the usual name of their runs; they share --dataset --run --seed --out --runs --overwrite
    "classifier": "classifier.py",
    "normality": "normality.py",
    "yolo": "yolo.py",
    "yolo-world": "yolo_world.py",
    "sam": "sam_decoder.py",
    "weakrest-masks": "weakrest.py",
    "weakrest-boxes": "weakrest.py",
    "weakrest-tags": "weakrest.py",
}
KINDS = {f"weakrest-{labels}": ("--labels", labels) for labels in ("masks", "boxes", "tags")}  # of one script
AFTER = {"sam": ("yolo", "--boxes")}  # who waits for whose run, where the sweep has both, and takes it by this option


def order(shots: str) -> float:
    return math.inf if shots == ALL else int(shots)


@dataclass(frozen=True)
class Sweep:
    """The request of the command line; all paths are absolute, since workers may sit in other folders."""

    categories: tuple[str, ...]
    models: tuple[str, ...]
    folds: int
    shots: tuple[str, ...]  # numbers, or ``all``
    out: Path
    runs: Path
    root: Path | None
    seed: int
    overwrite: bool
    arguments: Mapping[str, tuple[str, ...]]  # more of them for a model's script, or for the conversion
    scripts: Path = HERE

    @property
    def folder(self) -> Path:
        return self.runs / "sweep"

    def log(self, name: str) -> Path:
        return self.folder / "logs" / f"{name}.log"
