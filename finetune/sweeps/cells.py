"""The cells of a sweep: which datasets and trainings it is made of, and how one of them is run. No Ray here.

A dataset is ``CATEGORY@few-shot-N-sFOLD`` for N labelled defects (each fold draws its own shots and its own test
part, and all N of a fold share that test part), and ``CATEGORY@kfold-K-FOLD`` for ``all`` of them.
"""

import math
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from converters.cli.errors import DatasetError
from converters.datasets.splits import SplitRule
from converters.sources.reading import find_categories, find_root
from finetune.comparison.tables import MEASURES
from finetune.runs.dataset import Dataset, open_dataset
from finetune.runs.labelling import label_clicks
from finetune.runs.predictions import PredictionSet
from finetune.runs.run_folder import read_run, run_folder
from finetune.runs.truth import truth_of
from finetune.sweeps.request import AFTER, ALL, CONVERT, HERE, KINDS, SCRIPTS, Sweep

BAD_USAGE = 2  # the exit code that comes again however often a command is tried


class CellError(RuntimeError):
    """A command died; another try may go well. Carries one line."""


@dataclass(frozen=True)
class Recipe:
    """One dataset of a sweep."""

    category: str
    shots: str
    fold: int
    rule: SplitRule

    @property
    def dataset(self) -> str:
        return self.category + self.rule.suffix

    @property
    def options(self) -> list[str]:
        rule = self.rule
        if rule.protocol == "kfold":
            return ["--protocol", "kfold", "--folds", str(rule.folds), "--fold", str(rule.fold)]
        return ["--protocol", "few-shot", "--shots", str(rule.shots), "--seed", str(rule.seed)]


@dataclass(frozen=True)
class Cell:
    """One training of a sweep."""

    recipe: Recipe
    model: str

    @property
    def name(self) -> str:
        return f"{self.recipe.dataset}-{self.model}"

    def before(self, sweep: Sweep) -> "Cell | None":
        """The cell whose run this one takes."""
        model, _ = AFTER.get(self.model, ("", ""))
        return Cell(self.recipe, model) if model in sweep.models else None


@dataclass(frozen=True)
class Outcome:
    """The outcome of a cell; ``measures`` holds, for each way the model was asked, every measure of compare."""

    status: str  # trained, kept (an earlier sweep trained it) or failed
    attempts: int = 0
    reason: str = ""
    seconds: float = 0.0
    random_weights: bool = False
    labelled: int = 0  # defect images in train and val, all of which somebody has to label
    sets: dict[str, dict[str, Any]] = field(default_factory=dict)  # set -> about (set.json) and measures
    trivial: dict[str, dict[str, float]] = field(default_factory=dict)  # trivial score -> its image measures


def recipes(sweep: Sweep) -> list[Recipe]:
    """The datasets, with those first that need the fewest labels: a curve grows from its left end."""
    return [
        Recipe(category, shots, fold, _rule(sweep, shots, fold))
        for shots in sweep.shots
        for fold in range(sweep.folds)
        for category in sweep.categories
    ]


def cells(sweep: Sweep) -> list[Cell]:
    """All trainings, dataset by dataset; those that wait for another come after it."""
    models = sorted(sweep.models, key=lambda model: model in AFTER)
    return [Cell(recipe, model) for recipe in recipes(sweep) for model in models]


def _rule(sweep: Sweep, shots: str, fold: int) -> SplitRule:
    if shots == ALL:
        return SplitRule(protocol="kfold", folds=sweep.folds, fold=fold)
    return SplitRule(protocol="few-shot", shots=int(shots), seed=fold)


def make_dataset(recipe: Recipe, sweep: Sweep) -> str:
    """Convert a category unless its dataset is there; returns the dataset's name."""
    if not (sweep.out / recipe.dataset / "split.json").is_file():
        root = ["--root", str(sweep.root)] if sweep.root else []
        command = ["-m", "converters", "all", "--category", recipe.category, *recipe.options, *root]
        run_command([*command, *sweep.arguments.get(CONVERT, ()), "--out", str(sweep.out)], sweep.log(recipe.dataset))
    return recipe.dataset


def check_categories(sweep: Sweep) -> None:
    """Raise DatasetError for a category that is neither converted nor in --root, before anything is started.

    Where --args says how to read the source, the conversion tells.
    """
    if any(argument.startswith(("--root", "--layout")) for argument in sweep.arguments.get(CONVERT, ())):
        return
    absent = [one.category for one in recipes(sweep) if not (sweep.out / one.dataset / "split.json").is_file()]
    for category in dict.fromkeys(absent):
        find_categories(find_root(sweep.root), category)


def run_cell(cell: Cell, sweep: Sweep, dataset_name: str, before: Outcome | None = None) -> Outcome:
    """Train a cell unless it is finished, and measure what it said about test.

    ``before`` is what became of the cell that this one waits for; it is there for Ray to wait. Raises CellError where
    training died, and DatasetError where another try would end in the same way.
    """
    began = time.perf_counter()
    dataset = open_dataset(sweep.out, dataset_name)
    folder = run_folder(sweep.runs, dataset, cell.model, sweep.seed)
    wanted = [
        *KINDS.get(cell.model, ()),
        *sweep.arguments.get(cell.model, ()),
        "--dataset",
        dataset_name,
        "--run",
        cell.model,
    ]
    wanted += ["--seed", str(sweep.seed)]
    places = ["--out", str(sweep.out), "--runs", str(sweep.runs)]
    if earlier := cell.before(sweep):
        places += [AFTER[cell.model][1], str(run_folder(sweep.runs, dataset, earlier.model, sweep.seed))]
    finished = (folder / "run.json").is_file() and not sweep.overwrite
    if finished:
        _check_command(folder, dataset, wanted)
    else:
        script = str(sweep.scripts / SCRIPTS[cell.model])
        run_command([script, *wanted, *places, *(["--overwrite"] if sweep.overwrite else [])], sweep.log(cell.name))
    record = read_run(folder, dataset)
    return Outcome(
        status="kept" if finished else "trained",
        attempts=0 if finished else attempts(sweep.log(cell.name)),
        seconds=round(time.perf_counter() - began, 1),
        random_weights=bool(record.get("random_weights")),
        labelled=labelled(dataset),
        sets=dict(measure_run(folder, dataset)),
        trivial=dict(measure_trivial_scores(dataset)),
    )


def _check_command(folder: Path, dataset: Dataset, wanted: Sequence[str]) -> None:
    """Raise DatasetError if a finished run answers to other arguments than those of this sweep."""
    command = read_run(folder, dataset)["command"][1:]
    if command[: len(wanted)] != list(wanted):
        raise DatasetError(
            f"{folder}: is finished, but was trained with `{shlex.join(command)}`: add --overwrite to train all cells "
            "again, or write this sweep to other --runs"
        )


def labelled(dataset: Dataset) -> int:
    return sum(index is not None for part in ("train", "val") for index in dataset.labels(part).values())


def measure_run(folder: Path, dataset: Dataset) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each prediction set of a run with what compare measures of it on test, and what its labels cost in clicks."""
    from finetune.comparison.evidence import gather, plain

    for path in sorted(path for path in (folder / "predictions").iterdir() if path.is_dir()):
        answer = PredictionSet(path)
        paid = label_clicks(answer.about.get("label"), [dataset])
        measures = _known(plain([gather(answer, dataset)]))
        yield path.name, {"about": answer.about, "measures": measures, "clicks": paid and paid["clicks"]}


def measure_trivial_scores(dataset: Dataset) -> Iterator[tuple[str, dict[str, float]]]:
    """Each trivial score with its image measures on test."""
    from finetune.comparison.evidence import plain
    from finetune.comparison.trivial import trivial_evidence

    for name, evidence in trivial_evidence(truth_of(dataset, "test"), truth_of(dataset, "val")).items():
        yield name, {key: value for key, value in _known(plain([evidence])).items() if MEASURES[key].level == "image"}


def _known(values: dict[str, float]) -> dict[str, float]:
    return {name: values[name] for name in MEASURES if name in values and not math.isnan(values[name])}


def run_command(arguments: Sequence[str], log: Path) -> None:
    """Run Python with arguments, its output into a log; raises DatasetError or CellError with its last words."""
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])}
    with log.open("a", encoding="utf-8") as file:
        print(f"$ {shlex.join(arguments)}", file=file, flush=True)
        code = subprocess.run(
            [sys.executable, *arguments], stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=environment
        ).returncode
    if not code:
        return
    if code == BAD_USAGE:
        raise DatasetError(last_line(log).removeprefix("Error: "))
    raise CellError(f"exit code {code}: {last_line(log)} (see {log})")


def attempts(log: Path) -> int:
    return log.read_text("utf-8", "replace").count("\n$ ") + 1


def last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
    return lines[-1][:300]


def to_record(cell: Cell, outcome: Outcome) -> dict[str, Any]:
    """A cell as it stands in report.json."""
    return {
        "category": cell.recipe.category,
        "shots": cell.recipe.shots,
        "fold": cell.recipe.fold,
        "model": cell.model,
        "dataset": cell.recipe.dataset,
        **asdict(outcome),
    }
