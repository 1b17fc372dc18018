"""A run of YOLO or YOLO-World: begun, interrupted, continued, and repeated for each fold."""

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from converters.cli.errors import DatasetError
from converters.sources.samples import PARTS
from finetune.detection.recipe import Recipe
from finetune.runs.dataset import Dataset, whole_images
from finetune.runs.run_folder import SETTINGS, Run, read_begun, read_run, run_folder, start_run

CHECKPOINTS = Path("weights")  # where ultralytics keeps last.pt and best.pt, in the folder of a training
ASIDE = {"out", "runs", "run_name", "overwrite", "resume"}  # options that are no setting of a run


@dataclass(frozen=True)
class Request:
    """The request, apart from the recipe and the dataset; the fields are a command's options."""

    out: Path
    runs: Path
    run_name: str | None  # None: the usual name
    arch: str | None  # None: the one of the checkpoint
    weights: str | None  # None: the usual published ones
    device: str
    seed: int
    overwrite: bool
    resume: bool

    def folder(self, dataset: Dataset) -> Path:
        """A run on tiles lies among those of the whole images, on which it is measured."""
        return run_folder(self.runs, whole_images(self.out, dataset), self.run_name or usual_name(dataset), self.seed)

    def settings(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if name not in ASIDE}


def usual_name(dataset: Dataset) -> str:
    """The usual name of a run of yolo.py, such as `yolo` or `yolo-tile-640`."""
    return f"yolo-tile-{dataset.card['settings']['tile']['size']}" if dataset.tiles else "yolo"


AnyRequest = TypeVar("AnyRequest", bound=Request)


def cost_of(seconds: float, cpu: float, resumed: bool) -> dict[str, float | None]:
    """The cost of training; unknown of a resumed run, of which only the rest was timed."""
    known = {"train_seconds": seconds, "train_cpu_seconds": cpu}
    return {name: None if resumed else round(value, 1) for name, value in known.items()}


def fold_names(name: str, folds: int | None) -> list[str]:
    """The dataset, or those of its ``folds``; raises DatasetError for the name of a split, which has no folds."""
    found = re.search(r"@(kfold|few-shot|paste|perlin|both)-.*", name)
    if folds and found:
        plain, rest = name[: found.start()], found[0]
        raise DatasetError(
            f"--folds {folds}: give the name without {rest}: --category {plain} trains on "
            f"{plain}@kfold-{folds}-0 and the other folds; or leave --folds out to train on {name} alone"
        )
    return [f"{name}@kfold-{folds}-{fold}" for fold in range(folds)] if folds else [name]


def begin_run(
    folder: Path, dataset: Dataset, settings: dict[str, Any], overwrite: bool, *start: Path | str | None
) -> Run:
    """A run in a new folder; raises DatasetError if a file of ``start``, which it is to begin with, lies in the old."""
    for file in start:
        if file and folder.resolve() in Path(file).resolve().parents:
            raise DatasetError(f"{file}: lies in the run that would be replaced; name another run with --run")
    return start_run(folder, dataset, settings, overwrite, settings)


def continue_run(folder: Path, dataset: Dataset, origin: dict[str, Any]) -> Run:
    """An interrupted run; raises DatasetError if a setting in ``origin`` is another now."""
    settings = read_begun(folder)
    if any(settings[key] != value for key, value in origin.items()):
        raise DatasetError(f"--resume: {folder} was begun on another split, labels or weights; use --overwrite")
    return Run(folder, dataset, settings)


def has_last(folder: Path) -> bool:
    """Whether one of a run's trainings has come to the end of an epoch."""
    return any(folder.glob(f"*/{CHECKPOINTS}/last.pt"))


def as_begun(request: AnyRequest, recipe: Recipe, folder: Path, given: set[str]) -> tuple[AnyRequest, Recipe]:
    """Request and recipe that a run was begun with; raises DatasetError for an option in ``given`` that differs."""
    now, settings = as_settings(request, recipe), read_begun(folder)
    if not now.keys() | {"start"} <= settings.keys():
        raise DatasetError(f"--resume: {folder} was begun by another command or version; name another run with --run")
    begun = {name: settings[name] for name in now}
    for name in now:
        if name in given and now[name] != begun[name]:
            raise DatasetError(
                f"--{name.replace('_', '-')} {now[name]}: {folder} was begun with {begun[name]}; "
                "leave it out to resume, or train again with --overwrite"
            )
    kept = {field.name: begun.pop(field.name) for field in fields(Recipe)}
    return replace(request, **begun), Recipe(**kept)


def as_settings(request: Request, recipe: Recipe) -> dict[str, Any]:
    """Settings that a resumed run must have in common with its beginning: all but the device."""
    settings = request.settings() | asdict(recipe)
    del settings["device"]
    return settings


def train_on_each(
    datasets: Sequence[Dataset],
    request: AnyRequest,
    recipe: Recipe,
    given: set[str],
    train_on: Callable[[AnyRequest, Recipe, Dataset], dict[str, Any]],
    measures_in: Callable[[dict[str, Any]], dict[str, Any]],
) -> dict[str, dict[str, Any]]:
    """Leave a run on each dataset; return what ``train_on`` measured by dataset.

    With --resume, finished folds are kept (``measures_in`` finds in run.json what they measured), and those whose
    turn had not come are trained as the others were. Raises DatasetError if those were not all trained alike.
    """
    found, folders = {}, [request.folder(dataset) for dataset in datasets]
    if request.resume and len(folders) == 1:
        _check_interrupted(folders[0])
    for folder in folders if request.resume else ():
        if (folder / SETTINGS).is_file():
            request, recipe = as_begun(request, recipe, folder, given)
            given = given | as_settings(request, recipe).keys()
    for dataset, folder in zip(datasets, folders, strict=True):
        if request.resume and (folder / "run.json").is_file():
            found[dataset.name] = measures_in(read_run(folder, dataset))
        else:
            own = replace(request, resume=request.resume and has_last(folder))
            found[dataset.name] = train_on(own, recipe, dataset)
    return found


def _check_interrupted(folder: Path) -> None:
    if (folder / "run.json").is_file():
        raise DatasetError(f"--resume: {folder} is a finished run; train again with --overwrite")
    if not (folder / SETTINGS).is_file() or not has_last(folder):
        raise DatasetError(f"--resume: {folder} holds no interrupted run with a last.pt; start it without --resume")


def check_trainable(dataset: Dataset, batch: int, device: str) -> None:
    """Raise DatasetError for a batch that the devices cannot share, and for what would end a run after hours.

    That is a dataset without defects, an empty part, or no ground truth.
    """
    if batch % (devices := device.count(",") + 1):
        raise DatasetError(f"--batch {batch}: is divided among {devices} devices; name a multiple of {devices}")
    if not dataset.classes:
        raise DatasetError(f"{dataset.folder}: holds no defects to learn")
    for part in PARTS:
        if not dataset.images(part):
            raise DatasetError(f"{dataset.folder}: the {part} part holds no image; convert with another --protocol")
    if not any(label is not None for label in dataset.labels("train").values()):
        raise DatasetError(
            f"{dataset.folder}: its train part shows no defect to learn from: convert it with another --protocol, or "
            "take finetune/normality.py, which needs none"
        )
    for part in ("val", "test"):
        dataset.ground_truth(part)
