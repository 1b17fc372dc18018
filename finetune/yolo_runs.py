"""How a run of YOLO or YOLO-World is begun, interrupted, gone on with and done again for each fold."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from converters.errors import DatasetError
from converters.options import to_json
from finetune.category import Dataset, whole_images
from finetune.predictions import Run, read_run, run_folder, start_run

SETTINGS = "settings.json"  # what a run was begun with, for --resume
CHECKPOINTS = Path("weights")  # where ultralytics keeps last.pt and best.pt, in the folder of a training
ASIDE = {"out", "runs", "run_name", "export", "overwrite", "resume"}  # options that are no setting of a run


@dataclass(frozen=True)
class Wish:
    """What is asked for, apart from the recipe and the dataset; the fields are a command's options."""

    out: Path
    runs: Path
    run_name: str
    arch: str
    weights: str
    device: str
    seed: int
    overwrite: bool
    resume: bool

    def folder(self, dataset: Dataset) -> Path:
        return run_folder(self.runs, whole_images(self.out, dataset), self.run_name, self.seed)

    def settings(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if name not in ASIDE}


AnyWish = TypeVar("AnyWish", bound=Wish)
AnyRecipe = TypeVar("AnyRecipe")


def cost_of(seconds: float, cpu: float, resumed: bool) -> dict[str, float | None]:
    """What training cost; unknown of a resumed run, of which only the rest was timed."""
    known = {"train_seconds": seconds, "train_cpu_seconds": cpu}
    return {name: None if resumed else round(value, 1) for name, value in known.items()}


def given_options(ctx: click.Context) -> set[str]:
    """Names of the parameters that stand on the command line."""
    return {key for key in ctx.params if ctx.get_parameter_source(key) is ParameterSource.COMMANDLINE}


def fold_names(name: str, folds: int | None) -> list[str]:
    return [f"{name}@kfold-{folds}-{fold}" for fold in range(folds)] if folds else [name]


def begin(folder: Path, dataset: Dataset, settings: dict[str, Any], overwrite: bool) -> Run:
    """Start a run and write down its settings; raises DatasetError before it would throw an interrupted one away."""
    if not overwrite and has_last(folder) and not (folder / "run.json").exists():
        raise DatasetError(f"{folder} was interrupted: go on with --resume, or train anew with --overwrite")
    run = start_run(folder, dataset, settings, overwrite)
    (folder / SETTINGS).write_text(to_json(settings), "utf-8")
    return run


def go_on(folder: Path, dataset: Dataset, origin: dict[str, Any]) -> Run:
    """An interrupted run; raises DatasetError if a setting in ``origin`` is another now."""
    settings = json.loads((folder / SETTINGS).read_text("utf-8"))
    if any(settings[key] != value for key, value in origin.items()):
        raise DatasetError(f"--resume: {folder} was begun on another split, labels or weights; use --overwrite")
    return Run(folder, dataset, settings)


def has_last(folder: Path) -> bool:
    """Whether one of a run's trainings has come to the end of an epoch."""
    return any(folder.glob(f"*/{CHECKPOINTS}/last.pt"))


@contextmanager
def told_to_resume(folder: Path) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        how = "with --resume goes on after its last epoch" if has_last(folder) else "begins anew: no epoch had ended"
        click.echo(f"{folder}: interrupted; the same command {how}", err=True)
        raise


def as_begun(wish: AnyWish, recipe: AnyRecipe, folder: Path, given: set[str]) -> tuple[AnyWish, AnyRecipe]:
    """What a run was begun with; raises DatasetError for an option in ``given`` that says otherwise."""
    settings = json.loads((folder / SETTINGS).read_text("utf-8"))
    for name in sorted(given & settings.keys() - {"device"}):
        now = getattr(wish, name) if hasattr(wish, name) else getattr(recipe, name)
        if now != settings[name]:
            raise DatasetError(
                f"--{name.replace('_', '-')} {now}: this run was begun with {settings[name]}; leave it out to resume"
            )
    begun = {name: settings[name] for name in wish.settings() if name != "device"}
    return replace(wish, **begun), replace(recipe, **{field.name: settings[field.name] for field in fields(recipe)})


def train_on_each(
    datasets: Sequence[Dataset],
    wish: AnyWish,
    recipe: AnyRecipe,
    given: set[str],
    train_on: Callable[[AnyWish, AnyRecipe, Dataset], dict[str, Any]],
    measures_in: Callable[[dict[str, Any]], dict[str, Any]],
) -> dict[str, dict[str, Any]]:
    """Leave a run on each dataset; return what ``train_on`` measured by dataset.

    With --resume, finished folds are kept (``measures_in`` finds in run.json what they measured), and those whose
    turn had not come are trained as the others were.
    """
    found = {}
    for dataset in datasets:
        folder = wish.folder(dataset)
        if wish.resume and len(datasets) == 1:
            _check_interrupted(folder)
        if wish.resume and (folder / SETTINGS).is_file():
            wish, recipe = as_begun(wish, recipe, folder, given)
        if wish.resume and (folder / "run.json").is_file():
            found[dataset.name] = measures_in(read_run(folder, dataset))
        else:
            own = replace(wish, resume=wish.resume and has_last(folder))
            found[dataset.name] = train_on(own, recipe, dataset)
    return found


def _check_interrupted(folder: Path) -> None:
    if (folder / "run.json").is_file():
        raise DatasetError(f"--resume: {folder} is a finished run; train anew with --overwrite")
    if not (folder / SETTINGS).is_file() or not has_last(folder):
        raise DatasetError(f"--resume: {folder} holds no interrupted run with a last.pt; start it without --resume")


def check_alone(folds: int | None, wish: Wish) -> None:
    if folds or wish.resume:
        raise DatasetError("--eval-only: takes one finished run; leave --folds and --resume out")


def finished_run(folder: Path, dataset: Dataset, model: str, trainings: Sequence[str]) -> tuple[Run, dict[str, Any]]:
    """The run that --eval-only names and its record; raises DatasetError if it lacks the checkpoint of a training."""
    if not (folder / "run.json").is_file():
        raise DatasetError(f"--eval-only {folder}: holds no finished run (no run.json)")
    record = read_run(folder, dataset)
    for best in (Path(name) / CHECKPOINTS / "best.pt" for name in trainings):
        if record.get("model") != model or not (folder / best).is_file():
            raise DatasetError(f"--eval-only {folder}: is no run of {model} that holds {best}")
    return Run(folder, dataset, record["settings"]), record
