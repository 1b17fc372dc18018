"""A finished run on new images: one after the other, into a folder that is published whole."""

import csv
import heapq
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

import click
import numpy as np

from converters.cli.errors import DatasetError
from converters.cli.publishing import publish
from converters.cli.terminal import progress
from finetune.prediction.families import open_run
from finetune.prediction.image_files import Found, find_images, read_pixels
from finetune.prediction.labelling import LabelFile, masks_of
from finetune.prediction.page import write_page
from finetune.prediction.pictures import heat_picture, overlay, save_picture
from finetune.runs.answers import Answer, Predictor
from finetune.runs.held_out import rejects_threshold

SHOWN = 500  # images on the page, those most in doubt
COLUMNS = ("image", "verdict", "score", "threshold", "class", "boxes")
DEFECT, GOOD = "defect", "good"


@dataclass(frozen=True)
class Judged:
    """One image's row in verdicts.csv and on the page."""

    name: str
    verdict: str
    score: float
    kind: str  # the likeliest class of a defective image; empty where none is told
    boxes: int
    overlay: str
    heat: str | None

    def doubt(self, threshold: float) -> float:
        """How near the score is to the threshold, 0 at the far end of its side of it, 1 at the threshold."""
        side = 1 - threshold if self.score >= threshold else threshold
        return 1 - abs(self.score - threshold) / max(side, 1e-9)


def predict_images(
    run: Path,
    images: Sequence[str],
    to: Path,
    out: Path,
    device: str,
    weights: Path | None,
    boxes: Path | None,
    rejects: float | None,
    pre_label: bool,
    max_pixels: int,
    overwrite: bool,
) -> None:
    """Judge the images by the run and write all that is found into ``to``; exit code 1 if images were skipped."""
    found = find_images(images)
    predictor = open_predictor(run, out, device, weights, boxes, rejects)
    with publish(to, overwrite) as folder:
        skipped, counts = judge(predictor, found, folder, str(run), pre_label, max_pixels)
    click.echo(f"{counts[DEFECT]} defect, {counts[GOOD]} good, {len(skipped)} skipped: {to / 'index.html'}")
    for name, reason in skipped:
        click.echo(f"skipped: {name} {reason}", err=True)
    if skipped:
        click.get_current_context().exit(1)


def open_predictor(
    run: Path, out: Path, device: str, weights: Path | None, boxes: Path | None, rejects: float | None = None
) -> Predictor:
    """A finished run of any family, ready for new images; ``boxes`` is the YOLO run whose boxes a SAM is to take.

    ``rejects``: the share of good images that its threshold may reject, 0..1; by default val's best F1 decides.
    """
    room, dataset = open_run(run, out)
    prompts = open_predictor(boxes, out, device, None, None) if boxes else None
    predictor: Predictor = room.predictor(run, dataset, device, weights, prompts)
    if rejects is None:
        return predictor
    threshold = rejects_threshold(predictor.source, dataset, rejects)
    least = threshold if predictor.least == predictor.threshold else predictor.least
    return replace(predictor, threshold=threshold, least=least)


def judge(
    predictor: Predictor, images: Sequence[Found], folder: Path, title: str, pre_label: bool, max_pixels: int
) -> tuple[list[tuple[str, str]], dict[str, int]]:
    """Write what is found in the images into an empty folder; those that can't be read, with the reason, and counts."""
    skipped: list[tuple[str, str]] = []
    counts = {DEFECT: 0, GOOD: 0}
    most_in_doubt: list[tuple[float, int, Judged]] = []
    names = Names()
    labels = LabelFile(folder, predictor.classes) if pre_label else None
    with (
        json_list(folder / "predictions.json") as write_result,
        (folder / "verdicts.csv").open("w", newline="", encoding="utf-8") as file,
        progress(images, len(images), "predicting") as bar,
    ):
        rows = csv.writer(file)
        rows.writerow(COLUMNS)
        for number, image in enumerate(bar, start=1):
            try:
                pixels = read_pixels(image.path, max_pixels)
                answer = predictor.look(pixels)
            except (DatasetError, OSError) as error:
                skipped.append((image.name, getattr(error, "strerror", None) or str(error)))
                continue
            stem = names.of(image.name)
            judged = judgement(predictor, image.name, stem, answer)
            counts[judged.verdict] += 1
            for result in answer.detections:
                kind = predictor.classes[result["category_id"] - 1]
                write_result({"image_id": number, "file_name": image.name, "category": kind, **result})
            score, threshold = f"{judged.score:.6g}", f"{predictor.threshold:.6g}"
            rows.writerow([judged.name, judged.verdict, score, threshold, judged.kind, judged.boxes])
            shown = shown_of(predictor, answer)
            save_picture(folder / judged.overlay, overlay(pixels, shown, predictor.classes))
            if answer.heat is not None and judged.heat:
                save_picture(folder / judged.heat, heat_picture(answer.heat, predictor.middle))
            if labels:
                size = (pixels.shape[1], pixels.shape[0])
                labels.add(number, image.name, size, masks_of(answer, shown, predictor.level, size))
            entry = (judged.doubt(predictor.threshold), -number, judged)
            (heapq.heappush if len(most_in_doubt) < SHOWN else heapq.heappushpop)(most_in_doubt, entry)
    if labels:
        labels.close()
    rows_shown = [row for *_, row in sorted(most_in_doubt, reverse=True)]
    write_page(folder / "index.html", title, rows_shown, counts, predictor.threshold, skipped)
    return skipped, counts


def judgement(predictor: Predictor, name: str, stem: str, answer: Answer) -> Judged:
    score, *by_class = answer.scores
    defective = score >= predictor.threshold
    told = defective and by_class and all(map(math.isfinite, by_class))
    return Judged(
        name=name,
        verdict=DEFECT if defective else GOOD,
        score=score,
        kind=predictor.classes[int(np.argmax(by_class))] if told else "",
        boxes=len(shown_of(predictor, answer)),
        overlay=f"overlays/{stem}.jpg",
        heat=None if answer.heat is None else f"heat_maps/{stem}.png",
    )


def shown_of(predictor: Predictor, answer: Answer) -> list[dict[str, Any]]:
    """The detections that are sure enough to be shown; none in a good image."""
    if answer.scores[0] < predictor.threshold:
        return []
    return [found for found in answer.detections if found["score"] >= predictor.least]


class Names:
    """File names without suffix for images: ``a/b.png`` -> ``a__b``, or ``a__b.png`` where that is taken."""

    def __init__(self) -> None:
        self.taken: set[str] = set()

    def of(self, name: str) -> str:
        whole = name.replace("/", "__")
        stem = Path(whole).stem
        stem = whole if stem in self.taken else stem
        self.taken.add(stem)
        return stem


@contextmanager
def json_list(path: Path) -> Iterator[Any]:
    """Yield a function that appends an entry to the JSON list in ``path``: entries are never all in memory."""
    with path.open("w", encoding="utf-8") as file:
        file.write("[")
        yield Entries(file)
        file.write("\n]\n")


class Entries:
    """Entries of a JSON list, one a line."""

    def __init__(self, file: TextIO) -> None:
        self.file, self.separator = file, "\n"

    def __call__(self, entry: Any) -> None:
        self.file.write(f"{self.separator}{json.dumps(entry, ensure_ascii=False)}")
        self.separator = ",\n"
