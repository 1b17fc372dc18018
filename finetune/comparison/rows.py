"""A row of the comparison: one model with one kind of prompt, and what stands on disk of it."""

from dataclasses import dataclass, field
from typing import Any

from finetune.comparison.evidence import Evidence
from finetune.runs.predictions import PredictionSet

CHEAPNESS = {"none": 0, "good": 0, "class": 1, "box": 2, "mask": 3}  # label kinds, by what they cost a person
PLURALS = {"none": "no labels", "good": "good images", "class": "class labels", "box": "boxes", "mask": "masks"}


@dataclass
class Row:
    """One model with one prompt kind; ``answers`` and ``records`` (run.json): seed -> dataset name -> one."""

    run: str
    set: str
    answers: dict[str, dict[str, PredictionSet]] = field(default_factory=dict)
    records: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    evidence: dict[str, list[Evidence]] = field(default_factory=dict)  # seed -> one a dataset

    @property
    def name(self) -> str:
        return self.run if self.set in ("tuned", "") else f"{self.run}/{self.set}"

    @property
    def about(self) -> dict[str, Any]:
        return next(iter(next(iter(self.answers.values())).values())).about

    @property
    def record(self) -> dict[str, Any]:
        """run.json of the first seed and dataset; empty for someone else's predictions."""
        return next(iter(next(iter(self.records.values())).values()))

    @property
    def first(self) -> list[Evidence]:
        """That of the first seed, one entry a dataset."""
        return next(iter(self.evidence.values()))

    @property
    def trainings(self) -> list[dict[str, Any]]:
        """run.json of all seeds and datasets."""
        return [record for records in self.records.values() for record in records.values()]

    @property
    def starts(self) -> list[str]:
        """What its trainings started from, as run.json says it; empty for someone else's predictions."""
        return sorted({record["start"] for record in self.trainings if record.get("start")})

    @property
    def random_weights(self) -> bool:
        return any(record.get("random_weights") for record in self.trainings)

    @property
    def label(self) -> str | None:
        """The kind of label that it needed: a mask where it saw synthetic images, which are cut out along masks."""
        return "mask" if self.synthetic_images else self.about.get("label")

    @property
    def synthetic_images(self) -> int | None:
        """The number of synthetic images it saw: none where it learned from good images alone, or not at all."""
        return self.record.get("synthetic_images") if CHEAPNESS.get(str(self.about.get("label"))) else None

    @property
    def oracle(self) -> bool:
        return bool(self.about.get("oracle"))
