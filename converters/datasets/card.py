"""The card of a dataset: what is in it, what was left out and why. A run prints it, and publishes it."""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from converters.cli.terminal import table
from converters.datasets.splits import COMBINED
from converters.formats.writer import TOO_SMALL, DatasetInfo, Outcome, Writer
from converters.sources.duplicates import duplicates
from converters.sources.mvtec_facts import missing_images
from converters.sources.samples import CALIBRATION, GOOD, IGNORED, PARTS, Aside, Category, Problem, summed_up, told

HEADER = ("split", "class", "images", "instances")


@dataclass
class Simplification:
    """The distance that polygons of a format may lie from the masks (px), and the IoU that it cost."""

    tolerance: float
    instances: int = 0
    mean_iou: float = 1.0
    min_iou: float = 1.0

    def add(self, ious: Sequence[float]) -> None:
        for iou in ious:
            self.instances += 1
            self.mean_iou += (iou - self.mean_iou) / self.instances
            self.min_iou = min(self.min_iou, iou)

    def __str__(self) -> str:
        return (
            f"{self.instances} outlines within {self.tolerance:g} px of their masks, "
            f"IoU mean {self.mean_iou:.4f}, min {self.min_iou:.4f}"
        )


@dataclass
class Summary:
    """The outcome of one conversion: the table at its end, and most of the card."""

    dataset: str
    classes: tuple[str, ...]
    images: Counter[tuple[str, str]] = field(default_factory=Counter)
    instances: Counter[tuple[str, str]] = field(default_factory=Counter)
    left_out: list[Problem] = field(default_factory=list)
    asides: list[Aside] = field(default_factory=list)
    unused: Counter[str] = field(default_factory=Counter)
    too_small: list[Problem] = field(default_factory=list)  # images that lost all instances to --min-area
    below_min_area: int = 0
    empty_tiles: int = 0  # of images that show a defect elsewhere; they count as good
    soft_masks: dict[str, int] = field(default_factory=dict)
    grouped: dict[str, int] = field(default_factory=dict)  # how many images share how many groups
    tags: dict[str, str] = field(default_factory=dict)  # name of an image that shows a defect -> its class
    train_good_divided: list[str] = field(default_factory=list)  # categories without test/good
    ignored: dict[str, int] = field(default_factory=dict)  # pixels of masks
    simplified: dict[str, Simplification] = field(default_factory=dict)  # by format
    seconds: float = 0.0
    resumed: bool = False  # an earlier run wrote it

    @classmethod
    def from_card(cls, card: dict[str, Any]) -> "Summary":
        """The summary that an earlier conversion left in its card."""
        summary = cls(card["dataset"], tuple(card["classes"]), unused=Counter(card["unused"]), resumed=True)
        for row in card["counts"]:
            summary.images[row["part"], row["class"]] = row["images"]
            summary.instances[row["part"], row["class"]] = row["instances"]
        problems = [Problem(**problem) for problem in card["left_out"]]
        summary.left_out = [problem for problem in problems if problem.reason != TOO_SMALL]
        summary.too_small = [problem for problem in problems if problem.reason == TOO_SMALL]
        summary.below_min_area, summary.soft_masks = card["below_min_area"], card["soft_masks"]
        summary.empty_tiles = card.get("empty_tiles", 0)
        summary.grouped, summary.train_good_divided = card.get("grouped", {}), card.get("train_good_divided", [])
        summary.asides = [Aside(**aside) for aside in card.get("asides", [])]
        summary.tags = card.get("tags", {})
        summary.simplified = simplifications(card)
        return summary

    def add(self, outcome: Outcome, writers: Sequence[Writer]) -> None:
        self.below_min_area += outcome.below_min_area
        if outcome.problem:
            (self.too_small if outcome.too_small else self.left_out).append(outcome.problem)
            return
        self.empty_tiles += outcome.class_name == GOOD != outcome.sample.defect
        self.images[outcome.part, outcome.class_name] += 1
        self.instances[outcome.part, outcome.class_name] += outcome.instances
        if outcome.class_name != GOOD:
            self.tags[outcome.name] = outcome.class_name
        if outcome.in_between:
            self.soft_masks[outcome.sample.key] = outcome.in_between
        if outcome.ignored:
            self.ignored[outcome.sample.key] = outcome.ignored
        for writer, ious in zip(writers, outcome.ious, strict=True):
            if writer.simplifies and writer.info.simplify:
                self.simplified.setdefault(writer.folder, Simplification(writer.info.simplify)).add(ious)

    @property
    def rows(self) -> list[tuple[str, str, int, int]]:
        """(part, class, images, instances), good first."""
        return [
            (part, name, self.images[part, name], self.instances[part, name])
            for part in (*PARTS, *([CALIBRATION] if self.images[CALIBRATION, GOOD] else []))
            for name in ((GOOD, *self.classes) if part in PARTS else (GOOD,))
        ]

    @property
    def all_asides(self) -> list[Aside]:
        """Those of the source, and those of the masks' pixels."""
        return summed_up([*self.asides, *(Aside(key, IGNORED, pixels) for key, pixels in self.ignored.items())])

    def card(self) -> dict[str, Any]:
        simplified = {name: dataclasses.asdict(said) for name, said in sorted(self.simplified.items())}
        return {
            "counts": [dict(zip(("part", "class", "images", "instances"), row, strict=True)) for row in self.rows],
            "left_out": [dataclasses.asdict(problem) for problem in (*self.left_out, *self.too_small)],
            "unused": dict(sorted(self.unused.items())),
            "below_min_area": self.below_min_area,
            "soft_masks": dict(sorted(self.soft_masks.items())),
            **({"asides": [dataclasses.asdict(aside) for aside in self.all_asides]} if self.all_asides else {}),
            **({"simplified": simplified} if simplified else {}),
            **({"empty_tiles": self.empty_tiles} if self.empty_tiles else {}),
            **({"grouped": self.grouped} if self.grouped else {}),
            **({"train_good_divided": self.train_good_divided} if self.train_good_divided else {}),
            "tags": dict(sorted(self.tags.items())),
        }

    def notes(self) -> list[str]:
        """One line each for what is not in the dataset or not as usual."""
        lines = [f"left out: {problem}" for problem in (*self.left_out, *self.too_small)]
        lines += told(self.all_asides)
        lines += [f"not used: {count} images, {reason}" for reason, count in sorted(self.unused.items())]
        if self.grouped:
            images, groups = self.grouped["images"], self.grouped["groups"]
            lines.append(f"groups: {images} images share {groups} groups, each of which is in one part")
        if self.train_good_divided:
            lines.append(f"no test/good: train/good is divided as well ({', '.join(self.train_good_divided)})")
        if untaught := [name for name in self.classes if not self.images["train", name]]:
            lines.append(f"train holds no image of {', '.join(untaught)}: what that looks like cannot be learned")
        if self.classes and not any(self.images["val", name] for name in self.classes):
            lines.append("val holds no defect: it can choose no epoch and no threshold by what is found of them")
        if self.below_min_area:
            lines.append(f"left out: {self.below_min_area} instances below --min-area")
        if self.soft_masks:
            pixels = sum(self.soft_masks.values())
            lines.append(
                f"soft masks: {len(self.soft_masks)} have {pixels} pixels between 0 and the maximum; "
                "above half counts as defect"
            )
        if self.empty_tiles:
            lines.append(
                f"counted as good: {self.empty_tiles} tiles without a defect, of images that have one elsewhere"
            )
        lines += [f"simplified: {name}, {said}" for name, said in sorted(self.simplified.items())]
        return lines


def simplifications(card: dict[str, Any]) -> dict[str, Simplification]:
    """What a card says of each format with simplified outlines."""
    return {name: Simplification(**said) for name, said in card.get("simplified", {}).items()}


def make_card(
    info: DatasetInfo,
    settings: dict[str, Any],
    formats: dict[str, str],
    summary: Summary,
    categories: list[Category],
    options: dict[str, Any],
) -> dict[str, Any]:
    """The content of card.json.

    ``formats`` says which writer made each format folder; ``options`` are those of the conversion that decide none of
    the content, and that a further format is written with all the same.
    """
    incomplete = [line for category in categories for line in missing_images(category)]
    repeated = [group for category in categories for group in duplicates(category.samples)]
    return {
        "schema": 1,
        "dataset": info.name,
        "synthetic": info.synthetic,
        "classes": list(info.classes),
        "split_sha256": info.split_sha256,
        "settings": settings,
        "options": options,
        "formats": formats,
        **summary.card(),
        "incomplete": incomplete,
        "duplicates": repeated,
    }


def card_as_markdown(info: DatasetInfo, summary: Summary, card: dict[str, Any]) -> str:
    notes = summary.notes()
    if info.synthetic:
        notes.insert(0, "SYNTHETIC: made by `python -m converters.sample`; says nothing about real products")
    notes += [f"part of a category: {line}" for line in card["incomplete"]]
    notes += [f"byte-identical, kept in one part: {', '.join(group)}" for group in card["duplicates"]]
    if COMBINED in info.classes:
        notes.append("the class `combined` holds images with several defects")
    lines = [f"# {info.name}", "", table(summary.rows, HEADER, "github"), ""]
    return "\n".join(lines + [f"- {note}" for note in notes] + [f"- split: `{info.split_sha256}`", ""])
