"""A run of YOLO-World: words alone, fine-tuned on boxes, and prompt-tuned; three sets of predictions, one record."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import click

from converters.cli.errors import DatasetError
from converters.cli.terminal import table
from finetune.detection import runs, runtime, vocabulary
from finetune.detection.dataset_view import view_of
from finetune.detection.evaluation import evaluate, shown, spread, start_of
from finetune.detection.recipe import ARCHS, PLAIN, Recipe
from finetune.detection.world import (
    Words,
    hold_back,
    load_world,
    set_words,
    settle_learned,
    shared_with,
    word_trainer,
)
from finetune.runs.checksums import sha256
from finetune.runs.dataset import Dataset, open_dataset
from finetune.runs.run_folder import Run, finished_run, read_record, run_folder, told_to_resume, write_record

SETS = {"zero-shot": "none", "tuned": "box", "prompt-tuned": "box"}  # and the labels that each needs
MOST_CLASSES = 80  # ultralytics shows no more words than this in a training step
WORDS = "text_embeddings.npz"  # the vectors that a run was begun with, in its folder


@dataclass(frozen=True)
class Request(runs.Request):
    """The request, apart from the recipe and the dataset; the fields are the command's options."""

    template: str
    prompts: str | None
    text_weights: str
    text_embeddings: str | None
    keep_vocabulary: str | None
    prompt_lr: float  # of the words' vectors, in prompt tuning

    def folder(self, dataset: Dataset) -> Path:
        usual = f"yolo-world-without-{self.keep_vocabulary}" if self.keep_vocabulary else "yolo-world"
        return run_folder(self.runs, dataset, self.run_name or usual, self.seed)


def find_words(request: Request, dataset: Dataset) -> Words:
    """Prompts and their vectors; raises DatasetError for what is missing or does not fit the dataset."""
    classes, kept = dataset.classes, request.keep_vocabulary
    if kept is not None and kept not in classes:
        raise DatasetError(f"--keep-vocabulary {kept}: no such class; the dataset has {', '.join(classes)}")
    if len(classes) == 1 and kept:
        raise DatasetError(f"--keep-vocabulary {kept}: is the only class; nothing is left to train on")
    if len(classes) > MOST_CLASSES:
        raise DatasetError(f"{dataset.folder}: has {len(classes)} classes; YOLO-World trains on up to {MOST_CLASSES}")
    if request.text_embeddings:
        file = Path(request.text_embeddings)
        return Words(classes, None, vocabulary.read_vectors(file, classes), f"file {file.name}", kept)
    categories = list(dataset.card["settings"]["source"])
    prompts = (
        vocabulary.read_prompts(Path(request.prompts), classes)
        if request.prompts
        else vocabulary.prompts_from(request.template, classes, categories)
    )
    tower = vocabulary.find_tower(request.text_weights, request.seed, request.folder(dataset).parent / "text")
    return Words(classes, prompts, vocabulary.class_vectors(prompts, tower.encode), tower.model, kept)


def words_of(run: Run) -> Words:
    """The words that a run was begun with."""
    settings, classes = run.settings, run.dataset.classes
    vectors = vocabulary.read_vectors(run.folder / WORDS, classes)
    return Words(classes, settings["words"], vectors, settings["text_model"], settings["keep_vocabulary"])


def tune(name: str, load_start: Callable[[], Any], words: Words, request: Request, recipe: Recipe, run: Run) -> None:
    """Train in the run's folder ``name``, unless that had ended when the run was interrupted."""
    weights, vectors = run.folder / name / runs.CHECKPOINTS, words.of(words.trained)
    tune_words = name == "prompt-tuned"
    state = runtime.state_of(weights) if request.resume else "absent"
    if state != "ended":
        resume = state == "unfinished"
        start = load_world(None, weights / "last.pt") if resume else load_start()
        if tune_words:
            recipe = replace(recipe, freeze=len(start.model.model), lr=request.prompt_lr)
            vectors = start.model.txt_feats[0].detach().numpy() if resume else vectors
        trainer = word_trainer(start.model, words.trained, vectors, tune_words)
        data = run.folder / "data" / "data.yaml"
        runtime.train(start, data, recipe, run.folder, request.device, request.seed, name, trainer, resume)
    best = runtime.best_of(weights)
    if tune_words:
        settle_learned(best)


def ask(
    name: str, load_start: Callable[[], Any], words: Words, run: Run, device: str, cost: dict[str, Any]
) -> dict[str, Any]:
    """Predict, save and measure one of the three sets; what is known of it, with its ``cost``."""
    best = None if name == "zero-shot" else run.folder / name / runs.CHECKPOINTS / "best.pt"
    model, vectors = load_world(None, best) if best else load_start(), words.vectors
    if name == "prompt-tuned":
        vectors = words.with_learned(model.model.txt_feats[0].numpy())
        vocabulary.write_vectors(run.folder / f"{name}.npz", words.classes, vectors)
    set_words(model, words.classes, vectors)
    about: dict[str, Any] = {
        "model": "YOLO-World",
        "prompt": "learned vectors" if name == "prompt-tuned" else "text",
        "label": SETS[name],
        "prompts": words.prompts,
        "text_model": words.source,
        "random_text_weights": is_random(words),
        "known_by_words_only": list(words.classes) if name == "zero-shot" else [words.kept] if words.kept else [],
    }
    measured = evaluate(model, run, "detect", run.settings["imgsz"], device, name, **about, **cost)
    return {**cost, **measured.pop("cost"), **runtime.facts_of(model, best), "metrics": measured}


def is_random(words: Words) -> bool:
    return " random " in words.source


def rows_of(results: dict[str, dict[str, Any]], kept: str | None) -> Iterator[tuple[Any, ...]]:
    """AP50 on test of each class in each set, and the means over classes."""
    tests = [result["metrics"]["test"] for result in results.values()]
    for entries in zip(*(test["classes"] for test in tests), strict=True):
        name = entries[0]["class"]
        called = f"{name} (words only)" if name == kept else name
        yield called, entries[0]["instances"], *(f"{entry['AP50']:.3f}" for entry in entries)
    instances = sum(entry["instances"] for entry in tests[0]["classes"])
    yield "mAP50", instances, *(shown(test["mAP50"]) for test in tests)
    yield "mAP50-95", instances, *(shown(test["mAP50-95"]) for test in tests)


def train_and_evaluate(request: Request, recipe: Recipe, dataset: Dataset) -> dict[str, Any]:
    """Leave a whole run on one dataset; return its measures by set and part."""
    dataset.format("yolo")
    runs.check_trainable(dataset, recipe.batch, request.device)
    runtime.check_device(request.device)
    begun = find_start(request.weights)
    run, words = start(request, recipe, dataset, begun)
    load_start = partial(load_world, request.arch, begun.file, request.seed)  # afresh, as training changes a model
    results: dict[str, dict[str, Any]] = {}
    with told_to_resume(run.folder, runs.has_last), runtime.out_of_memory_named(recipe):
        for name in SETS:
            cost: dict[str, float | None] = {"train_seconds": 0.0, "train_cpu_seconds": 0.0}
            if name != "zero-shot":
                began, cpu = run.seconds, runtime.cpu_seconds()
                tune(name, load_start, words, request, recipe, run)
                cost = runs.cost_of(run.seconds - began, runtime.cpu_seconds() - cpu, request.resume)
                cost["train_gpu_peak_memory_mb"] = runtime.gpu_peak_memory_mb(request.device)
            results[name] = ask(name, load_start, words, run, request.device, cost)
    run.finish(
        model="YOLO-World",
        start=begun.name,
        random_weights=begun.file is None,
        random_text_weights=is_random(words),
        weights_sha256=run.settings["weights_sha256"],
        text_model=words.source,
        resumed=request.resume,
        sets=results,
        **results["tuned"],
    )
    return measures_in({"sets": results})


def train_datasets(
    name: str, folds: int | None, request: Request, recipe: Recipe, given: set[str]
) -> dict[str, dict[str, Any]]:
    """Leave a run on the dataset or on each of its folds; return the measures by dataset and set."""
    datasets = [open_dataset(request.out, each) for each in runs.fold_names(name, folds)]
    return runs.train_on_each(datasets, request, recipe, given, train_and_evaluate, measures_in)


def measures_in(record: dict[str, Any]) -> dict[str, Any]:
    return {name: found["metrics"] for name, found in record["sets"].items()}


def find_start(wanted: str | None) -> runtime.Start:
    names = [*ARCHS, *PLAIN]
    return runtime.find_start(wanted, f"{ARCHS[0]}.pt", names, starter=None)


def start(request: Request, recipe: Recipe, dataset: Dataset, begun: runtime.Start) -> tuple[Run, Words]:
    """The run, begun or continued with, and its words; raises DatasetError for what cannot be trained."""
    folder, checkpoint = request.folder(dataset), begun.file
    origin = {
        "split_sha256": dataset.split["sha256"],
        "label_settings": dataset.label_settings,
        "weights_sha256": checkpoint and sha256(checkpoint),
    }
    if request.resume:
        run = runs.continue_run(folder, dataset, origin)
        return run, words_of(run)
    words = find_words(request, dataset)
    model = load_world(request.arch, checkpoint, request.seed)
    runtime.check_freeze(model, recipe)  # refused before a run is begun
    count = shared_with(checkpoint, model) if checkpoint and request.arch else None
    settings = request.settings() | asdict(recipe) | {"start": begun.name, "tensors_from_start": count}
    settings |= {"words": words.prompts, "text_model": words.source} | origin
    run = runs.begin_run(folder, dataset, settings, request.overwrite, checkpoint, request.text_embeddings)
    fit = f", {count} of {len(model.model.state_dict())} tensors from there" if count else ""
    click.echo(f"{dataset.name}: YOLO-World from {begun.shown(request.weights)}{fit}", err=True)
    data = view_of(dataset, "detect", recipe.background, folder / "data")
    if words.kept:
        hold_back(data, dataset, words.kept)
    vocabulary.write_vectors(folder / WORDS, words.classes, words.vectors)
    return run, words


def evaluate_again(folder: Path, dataset: Dataset, device: str, weights: Path | None) -> None:
    """Predict and measure again with what a finished run started from and learned, and write that into the run.

    ``weights``: where the checkpoint that it started from lies now, if it has moved.
    """
    needed = [Path(name) / runs.CHECKPOINTS / "best.pt" for name in SETS if name != "zero-shot"]
    record = finished_run(folder, dataset, needed)
    run, settings = Run(folder, dataset, record["settings"]), record["settings"]
    words, checkpoint = words_of(run), find_start(str(weights) if weights else settings["weights"]).file
    if checkpoint and sha256(checkpoint) != record["weights_sha256"]:
        raise DatasetError(f"{folder}: did not start from {checkpoint} as it is now; name that file with --weights")
    for name, found in record["sets"].items():
        cost = {key: value for key, value in found.items() if key.startswith("train_")}
        load = partial(load_world, settings["arch"], checkpoint, settings["seed"])
        record["sets"][name] = ask(name, load, words, run, device, cost)
    write_record(folder, record | record["sets"]["tuned"])


def report(folder: Path) -> str:
    """A run and its measures on test as text for the terminal."""
    record = read_record(folder)
    settings = record["settings"]
    begun = start_of(record)
    text = f"text from {settings['text_embeddings'] or settings['text_weights']}"
    seconds = [found["train_seconds"] for found in record["sets"].values()]
    trained = "resumed" if None in seconds else f"{sum(seconds):.0f} s of training"
    head = [
        f"{record['dataset']}: YOLO-World from {begun}",
        "RANDOM text weights" if record["random_text_weights"] else text,
        f"seed {settings['seed']}",
        trained,
        *(["SYNTHETIC images"] if record["synthetic"] else []),
    ]
    rows = list(rows_of(record["sets"], settings["keep_vocabulary"]))
    return "\n".join([", ".join(head), table(rows, ("AP50 on test", "instances", *SETS)), f"run: {folder}"])


def report_all(found: dict[str, dict[str, Any]], request: Request) -> str:
    """Runs and their measures on test as text for the terminal; of several folds, their spread too."""
    lines = [report(request.folder(open_dataset(request.out, each))) for each in found]
    for way in SETS if len(found) > 1 else ():
        lines.append(f"{way}: {spread([measured[way]['test'] for measured in found.values()])}")
    return "\n".join(lines)
