"""The journal of a conversion: what became of each image, so that a killed run can be resumed.

It lies in the folder that is being built: in its first line what was asked for, then in each line the outcomes of one
sample (of its tiles, where it is cut), noted once their files are written, in the order of the samples. So a killed
run's lines are those of its first samples; a last line that is not whole is cut off, and its sample done again.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import with_config
from typing_extensions import TypedDict

from converters.cli.door import STRICT, check_json
from converters.cli.errors import DatasetError
from converters.datasets.records import LeftOut
from converters.formats.writer import Outcome, Planned
from converters.sources.samples import Problem, Sample

NAME = ".journal"
ANEW = "leave --resume out to begin anew"
_TOLD = [field.name for field in dataclasses.fields(Outcome) if field.name != "sample"]


@with_config(STRICT)
class Order(TypedDict):
    """What was asked for: a run is only resumed by one that asks for the same; ``overwrite`` it need not ask for."""

    schema: int
    split: str
    settings: dict[str, Any]
    options: dict[str, Any]
    formats: dict[str, str]
    simplify: float
    program: str
    overwrite: bool


@with_config(STRICT)
class ToldOutcome(TypedDict):
    """An ``Outcome`` without its sample, which the place of the line tells."""

    number: int
    name: str
    part: str
    class_name: str
    instances: int
    below_min_area: int
    in_between: int
    ignored: int
    records: list[Any]
    ious: list[list[float]]
    problem: LeftOut | None


def program() -> str:
    """SHA-256 over the code of ``converters``: another version may write other bytes."""
    files = sorted(Path(__file__).parents[1].rglob("*.py"))
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()


def can_resume(folder: Path, order: Order) -> bool:
    """Did a killed run leave a journal in this folder? Raises DatasetError if it was asked for something else."""
    path = folder / NAME
    if not path.is_file():
        return False
    with path.open("rb") as file:
        line = file.readline()
    if not line.endswith(b"\n"):  # killed at once
        return False
    begun = check_json(line, Order, str(path), ANEW)
    other = [key for key, value in order.items() if key != "overwrite" and begun.get(key) != value]
    if other:
        raise DatasetError(f"{folder}: a run that was killed began it with other {', '.join(other)}: {ANEW}")
    return True


class Journal:
    """The journal in a folder: a new one, or that of a killed run, whose first ``finished`` samples are done."""

    def __init__(self, folder: Path, order: Order) -> None:
        self.path = folder / NAME
        if not self.path.exists():
            self.path.write_text(f"{json.dumps(order)}\n", "utf-8")
        self.finished, whole = -1, 0
        with self.path.open("rb+") as file:
            for line in file:
                if line.endswith(b"\n"):
                    self.finished, whole = self.finished + 1, whole + len(line)
            file.truncate(whole)
        with self.path.open("rb") as file:
            self.order = check_json(file.readline(), Order, str(self.path), ANEW)
        self._file = self.path.open("a", encoding="utf-8", buffering=1)  # a line is there as soon as it is whole

    def close(self) -> None:
        self._file.close()

    def note(self, outcomes: Sequence[Outcome]) -> None:
        """Add what became of one sample, whose files are all written."""
        told = [{name: getattr(outcome, name) for name in _TOLD} for outcome in outcomes]
        self._file.write(f"{json.dumps(told, default=vars)}\n")

    def replayed(self, samples: Sequence[Sequence[Planned]]) -> Iterator[list[Outcome]]:
        """The outcomes of the samples that are finished: the first of ``samples``."""
        with self.path.open("rb") as file:
            file.readline()
            for plans, line in zip(samples[: self.finished], file, strict=False):
                told = check_json(line, list[ToldOutcome], str(self.path), ANEW)
                yield [_outcome(plans[0].sample, dict(one)) for one in told]


def _outcome(sample: Sample, told: dict[str, Any]) -> Outcome:
    return Outcome(sample=sample, **told | {"problem": told["problem"] and Problem(**told["problem"])})
