"""Fine-tune YOLO-World, a detector that knows words, and see what the words, the boxes and both together are worth.

    python finetune/yolo_world.py --category screw --weights yolov8s-worldv2.pt
    python finetune/yolo_world.py --category screw --prompts words.yaml                  # synonyms a class, averaged
    python finetune/yolo_world.py --category screw --keep-vocabulary scratch_head        # known by its words alone
    python finetune/yolo_world.py --category washer --weights none --text-weights none   # random: shows the road only
    python finetune/yolo_world.py --category screw --resume                              # after Ctrl-C
    python finetune/yolo_world.py --category screw --device 0,1                          # two GPUs

One run leaves three prediction sets: `zero-shot` (words alone), `tuned` (fine-tuned on boxes) and `prompt-tuned` (only
the vectors of the words are trained, all else is frozen). Val chooses the epoch, test is looked at once.
YOLO-World is Cheng et al. 2024; training vectors in place of words follows CoOp, Zhou et al. 2022.
ultralytics is AGPL-3.0, its checkpoints are pickles that can run code: load only those that you trust.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if not __package__:  # run as a file: import from the repository, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from converters.cli.errors import DatasetError
from converters.cli.options import (
    FOLDER,
    FOLDS,
    Acting,
    command,
    given_options,
    json_option,
    out_option,
    overwrite_option,
    seed_option,
    table,
    to_json,
)
from finetune.detection import runs as yolo_runs
from finetune.detection.evaluation import shown, spread
from finetune.detection.runs import (
    CHECKPOINTS,
    check_batch,
    check_parts,
    continue_run,
    cost_of,
    fold_names,
    has_last,
    train_on_each,
)
from finetune.detection.vocabulary import (
    PUBLISHED,
    TEMPLATE,
    Prompts,
    class_vectors,
    find_tower,
    prompts_from,
    read_prompts,
    read_vectors,
    write_vectors,
)
from finetune.runs.dataset import Dataset, choose_dataset, open_dataset
from finetune.runs.predictions import Run, finished_run, read_run, run_folder, start_run, told_to_resume, write_record
from finetune.runs.replay import config_option
from finetune.training.weights import find_weights, sha256
from finetune.yolo import (
    Recipe,
    addresses,
    best_of,
    check_device,
    check_freeze,
    cpu_seconds,
    evaluate,
    facts_of,
    fetch_weights,
    prepare_ultralytics,
    read_checkpoint,
    recipe_options,
    state_of,
    train,
    view_of,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

ARCHS = [f"yolov8{size}-worldv2" for size in "smlx"]
SETS = {"zero-shot": "none", "tuned": "box", "prompt-tuned": "box"}  # and the labels that each needs
MOST_CLASSES = 80  # ultralytics shows no more words than this in a training step
RECIPE = Recipe(lr=2e-4)  # the rate of the paper: a larger one makes the detector forget words
PROMPT_LR = 1e-3  # few numbers, which may move far: a vector's components are about 0.04
WORDS = "text_embeddings.npz"  # the vectors that a run was begun with, in its folder
ACTING = Acting(
    needs={"--arch": "--weights none"},
    overruled={"--text-embeddings": ("--prompts", "--template", "--text-weights"), "--prompts": ("--template",)},
)


@dataclass(frozen=True)
class Words:
    """What the classes of a dataset are called, and how that looks to the detector."""

    classes: Sequence[str]
    prompts: Prompts | None  # None: ready vectors were given
    vectors: "NDArray[Any]"  # classes x 512, of length 1
    source: str  # where the vectors come from
    kept: str | None = None  # the class that training does not see

    @property
    def trained(self) -> list[str]:
        return [name for name in self.classes if name != self.kept]

    def of(self, names: Sequence[str]) -> "NDArray[Any]":
        return self.vectors[[self.classes.index(name) for name in names]]

    def with_learned(self, vectors: "NDArray[Any]") -> "NDArray[Any]":
        """Classes x 512: learned vectors for the trained classes, the words' for one that was kept back."""
        merged = self.vectors.copy()
        merged[[self.classes.index(name) for name in self.trained]] = vectors
        return merged


def load_world(arch: str, weights: Path | None, seed: int = 0) -> Any:
    """A YOLO-World model from a checkpoint or, for None, of the named architecture with random weights."""
    import torch
    from ultralytics import YOLOWorld
    from ultralytics.nn.tasks import WorldModel

    if weights is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return YOLOWorld(f"{arch}.yaml")
    model = read_checkpoint(YOLOWorld, weights, f"{ARCHS[0]}.pt")
    if not isinstance(model.model, WorldModel):
        raise DatasetError(f"--weights {weights}: knows no words; name a YOLO-World checkpoint such as {ARCHS[0]}.pt")
    return model


def set_words(model: Any, classes: Sequence[str], vectors: "NDArray[Any]") -> None:
    """Ask for these classes (vectors: classes x 512). ultralytics' own ``set_classes`` would call CLIP."""
    import torch

    network = model.model
    network.txt_feats = torch.from_numpy(vectors).float()[None]
    network.model[-1].nc = len(classes)
    network.names = dict(enumerate(classes))
    model.predictor = None  # it holds on to the words before


def word_trainer(start: Any, classes: Sequence[str], vectors: "NDArray[Any]", tune_words: bool) -> Callable[..., Any]:
    """ultralytics' trainer of YOLO-World for given vectors (classes x 512) instead of CLIP.

    It begins with the network ``start``. With ``tune_words``, the vectors are a parameter of the network, and the
    recipe is expected to freeze all layers. Where ultralytics would call CLIP, and what is here instead: caching the
    embeddings of the training set (nothing is cached), the callback that gives words to the averaged network that
    val is measured with (not added: that is a copy of our network, words and all), and validation of a checkpoint
    with other names than the dataset's (the names are equal). The fourth is ``set_classes``: see ``set_words``.

    For several devices, ultralytics hands the class to its processes through cloudpickle, which takes along ``start``
    and the vectors, since the class is made in here. The vectors are in the network, so their gradients are averaged.
    """
    import torch
    from ultralytics.models.yolo.detect import DetectionTrainer
    from ultralytics.models.yolo.world import WorldTrainer
    from ultralytics.nn.tasks import WorldModel
    from ultralytics.utils.torch_utils import unwrap_model

    words = torch.from_numpy(vectors).float()[None]
    index = {name: number for number, name in enumerate(classes)}

    class WordTrainer(WorldTrainer):
        def get_model(self, cfg: Any = None, weights: Any = None, verbose: bool = True) -> Any:
            network = WorldModel(start.yaml["yaml_file"], ch=self.data["channels"], nc=len(classes), verbose=False)
            network.load(start)
            network.txt_feats = torch.nn.Parameter(words.clone()) if tune_words else words.clone()
            return network

        def set_text_embeddings(self, datasets: list[Any], batch: int | None) -> None:
            """Nothing to cache, and nothing written into the dataset."""

        def preprocess_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
            """Add ``txt_feats``, images x words x 512, which the loss reads: each image has its own order of words."""
            batch = DetectionTrainer.preprocess_batch(self, batch)
            rows = torch.tensor([[index[text] for text in texts] for texts in batch["texts"]], device=self.device)
            batch["txt_feats"] = unwrap_model(self.model).txt_feats.to(self.device)[0][rows]
            return batch

        def build_optimizer(self, model: Any, **settings: Any) -> Any:
            """Vectors of words do not decay: zero means nothing among them."""
            return super().build_optimizer(model, **settings | ({"decay": 0.0} if tune_words else {}))

    return WordTrainer


def settle_learned(checkpoint: Path) -> None:
    """Make the vectors that prompt tuning learned plain words of the checkpoint.

    As a parameter they would stand in the way of anyone's ``set_classes``.
    """
    import torch
    from ultralytics.utils.patches import torch_load

    saved = torch_load(checkpoint, map_location="cpu")
    learned = saved["model"].txt_feats.detach().float()
    del saved["model"].txt_feats
    saved["model"].txt_feats = learned
    partial = checkpoint.with_suffix(".partial")
    torch.save(saved, partial)
    partial.replace(checkpoint)


def hold_back(data: Path, dataset: Dataset, kept: str) -> None:
    """Take a class out of a training view: its images leave train and val, the classes behind it move up."""
    import yaml

    number = dataset.classes.index(kept)
    for part in ("train", "val"):
        for name in dataset.images(part):
            image = data.parent / "images" / part / name
            label = data.parent / "labels" / part / f"{Path(name).stem}.txt"
            rows = [row.split(" ", 1) for row in label.read_text("utf-8").splitlines()]
            label.unlink()  # a link into the dataset
            if any(int(row[0]) == number for row in rows):
                image.unlink(missing_ok=True)
                continue
            moved = (f"{int(row[0]) - (int(row[0]) > number)} {row[1]}\n" for row in rows)
            label.write_text("".join(moved), "utf-8")
        if not any((data.parent / "images" / part).iterdir()):
            raise DatasetError(f"--keep-vocabulary {kept}: no image of {part} is left without it: keep another class")
    about = yaml.safe_load(data.read_text("utf-8"))
    about["names"] = dict(enumerate(name for name in dataset.classes if name != kept))
    data.unlink()
    data.write_text(yaml.safe_dump(about, sort_keys=False), "utf-8")


def find_words(request: "Request", dataset: Dataset) -> Words:
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
        return Words(classes, None, read_vectors(file, classes), f"file {file.name}", kept)
    categories = list(dataset.card["settings"]["source"])
    prompts = (
        read_prompts(Path(request.prompts), classes)
        if request.prompts
        else prompts_from(request.template, classes, categories)
    )
    tower = find_tower(request.text_weights, request.seed, request.folder(dataset).parent / "text")
    return Words(classes, prompts, class_vectors(prompts, tower.encode), tower.model, kept)


def words_of(run: Run) -> Words:
    """The words that a run was begun with."""
    settings, classes = run.settings, run.dataset.classes
    vectors = read_vectors(run.folder / WORDS, classes)
    return Words(classes, settings["words"], vectors, settings["text_model"], settings["keep_vocabulary"])


def tune(name: str, load_start: Callable[[], Any], words: Words, request: "Request", recipe: Recipe, run: Run) -> None:
    """Train in the run's folder ``name``, unless that had ended when the run was interrupted."""
    weights, vectors = run.folder / name / CHECKPOINTS, words.of(words.trained)
    tune_words = name == "prompt-tuned"
    state = state_of(weights) if request.resume else "absent"
    if state != "ended":
        resume = state == "unfinished"
        start = load_world("", weights / "last.pt") if resume else load_start()
        if tune_words:
            recipe = replace(recipe, freeze=len(start.model.model), lr=PROMPT_LR)
            vectors = start.model.txt_feats[0].detach().numpy() if resume else vectors
        trainer = word_trainer(start.model, words.trained, vectors, tune_words)
        data = run.folder / "data" / "data.yaml"
        train(start, data, recipe, run, request.device, request.seed, name, trainer, resume)
    best = best_of(weights)
    if tune_words:
        settle_learned(best)


def ask(
    name: str, load_start: Callable[[], Any], words: Words, run: Run, device: str, cost: dict[str, Any]
) -> dict[str, Any]:
    """Predict, save and measure one of the three sets; what is known of it, with its ``cost``."""
    best = None if name == "zero-shot" else run.folder / name / CHECKPOINTS / "best.pt"
    model, vectors = load_world("", best) if best else load_start(), words.vectors
    if name == "prompt-tuned":
        vectors = words.with_learned(model.model.txt_feats[0].numpy())
        write_vectors(run.folder / f"{name}.npz", words.classes, vectors)
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
    measured = evaluate(model, run, "detect", run.settings["imgsz"], device.split(",")[0], name, **about, **cost)
    seconds = measured.pop("seconds_per_image")
    return {**cost, "seconds_per_image": seconds, **facts_of(model, best), "metrics": measured}


def three_results(
    load_start: Callable[[], Any], words: Words, request: "Request", recipe: Recipe, run: Run
) -> dict[str, dict[str, Any]]:
    """Zero-shot, fine-tuned and prompt-tuned: predictions of each are saved as a set; measures and costs by set.

    ``load_start`` gives the start again each time, since training and predicting change a model.
    """
    results = {}
    for name in SETS:
        cost: dict[str, float | None] = {"train_seconds": 0.0, "train_cpu_seconds": 0.0}
        if name != "zero-shot":
            began, cpu = run.seconds, cpu_seconds()
            tune(name, load_start, words, request, recipe, run)
            cost = cost_of(run.seconds - began, cpu_seconds() - cpu, request.resume)
        results[name] = ask(name, load_start, words, run, request.device, cost)
    return results


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


@dataclass(frozen=True)
class Request(yolo_runs.Request):
    """What is asked for, apart from the recipe and the dataset; the fields are the command's options."""

    run_name: str  # ``main`` gives it one
    template: str
    prompts: str | None
    text_weights: str
    text_embeddings: str | None
    keep_vocabulary: str | None

    def folder(self, dataset: Dataset) -> Path:
        return run_folder(self.runs, dataset, self.run_name, self.seed)


def train_and_evaluate(request: Request, recipe: Recipe, dataset: Dataset) -> dict[str, Any]:
    """Leave a whole run on one dataset; return its measures by set and part."""
    dataset.format("yolo")
    if not dataset.classes:
        raise DatasetError(f"{dataset.folder}: holds no defects to learn")
    check_parts(dataset)
    check_batch(recipe.batch, request.device)
    prepare_ultralytics(request.runs / ".ultralytics")
    check_device(request.device)
    checkpoint = find_weights(request.weights, addresses(f"{arch}.pt" for arch in ARCHS), fetch_weights)
    run, words = start(request, recipe, dataset, checkpoint)
    with told_to_resume(run.folder, has_last):
        results = three_results(lambda: load_world(request.arch, checkpoint, request.seed), words, request, recipe, run)
    run.finish(
        model="YOLO-World",
        random_weights=checkpoint is None,
        random_text_weights=is_random(words),
        weights_sha256=run.settings["weights_sha256"],
        text_model=words.source,
        resumed=request.resume,
        sets=results,
        **results["tuned"],
    )
    return measures_in({"sets": results})


def measures_in(record: dict[str, Any]) -> dict[str, Any]:
    return {name: found["metrics"] for name, found in record["sets"].items()}


def start(request: Request, recipe: Recipe, dataset: Dataset, checkpoint: Path | None) -> tuple[Run, Words]:
    """The run, begun or continued with, and its words; raises DatasetError for what cannot be trained."""
    folder = request.folder(dataset)
    for file in (checkpoint, request.text_embeddings):
        if file and folder.resolve() in Path(file).resolve().parents:
            raise DatasetError(f"{file}: lies in the run that would be replaced; name another run with --run")
    origin = {
        "split_sha256": dataset.split["sha256"],
        "label_settings": dataset.label_settings,
        "weights_sha256": checkpoint and sha256(checkpoint),
    }
    if request.resume:
        run = continue_run(folder, dataset, origin)
        return run, words_of(run)
    words = find_words(request, dataset)
    check_freeze(load_world(request.arch, checkpoint, request.seed), recipe)  # refused before a run is begun
    settings = request.settings() | asdict(recipe) | {"prompt_lr": PROMPT_LR}
    settings |= {"words": words.prompts, "text_model": words.source} | origin
    run = start_run(folder, dataset, settings, request.overwrite, settings)
    data = view_of(dataset, "detect", recipe.background, folder / "data")
    if words.kept:
        hold_back(data, dataset, words.kept)
    write_vectors(folder / WORDS, words.classes, words.vectors)
    return run, words


def evaluate_again(request: Request, folder: Path, dataset: Dataset) -> dict[str, Any]:
    """Predict and measure again with what a finished run started from and learned, and write that into the run."""
    needed = [Path(name) / CHECKPOINTS / "best.pt" for name in SETS if name != "zero-shot"]
    record = finished_run(folder, dataset, "YOLO-World", needed)
    older = {"words": record["settings"]["prompts"], "text_model": record["text_model"]}  # where older runs have these
    run = Run(folder, dataset, older | record["settings"])
    prepare_ultralytics(request.runs / ".ultralytics")
    check_device(request.device)
    settings, words = run.settings, words_of(run)
    checkpoint = find_weights(settings["weights"], addresses(f"{arch}.pt" for arch in ARCHS), fetch_weights)
    if checkpoint and sha256(checkpoint) != record["weights_sha256"]:
        raise DatasetError(f"--eval-only {folder}: {checkpoint} is no longer the file that this run started from")
    for name, found in record["sets"].items():
        cost = {key: found[key] for key in ("train_seconds", "train_cpu_seconds")}
        load = partial(load_world, settings["arch"], checkpoint, settings["seed"])
        record["sets"][name] = ask(name, load, words, run, request.device, cost)
    record |= record["sets"]["tuned"]
    write_record(folder, record)
    return measures_in(record)


def report(folder: Path, dataset: Dataset) -> str:
    """A run and its measures on test as text for the terminal."""
    record = read_run(folder, dataset)
    settings = record["settings"]
    begun = "random weights" if record["random_weights"] else settings["weights"]
    text = (
        "RANDOM text weights"
        if record["random_text_weights"]
        else f"text from {settings.get('text_embeddings') or settings['text_weights']}"
    )
    seconds = [found["train_seconds"] for found in record["sets"].values()]
    trained = "resumed" if None in seconds else f"{sum(seconds):.0f} s of training"
    synthetic = ", SYNTHETIC images" if record["synthetic"] else ""
    return "\n".join(
        [
            f"{dataset.name}: YOLO-World from {begun}, {text}, seed {settings['seed']}, {trained}{synthetic}",
            table(list(rows_of(record["sets"], settings["keep_vocabulary"])), ("AP50 on test", "instances", *SETS)),
            f"run: {folder}",
        ]
    )


@command(acting=ACTING)
@click.option("--category", "--dataset", "name", metavar="NAME", help="Dataset in --out to train on.")
@out_option
@click.option("--runs", type=FOLDER, default="runs", help="Where runs are written.")
@click.option("--run", "run_name", show_default="yolo-world, or yolo-world-without-CLASS", help="Name of the run.")
@click.option("--arch", type=click.Choice(ARCHS), default=ARCHS[0], help="Architecture, for --weights none.")
@click.option("--weights", default=f"{ARCHS[0]}.pt", help="Published name, checkpoint FILE, or none (random).")
@click.option("--template", default=TEMPLATE, help="How a class name becomes a prompt.")
@click.option("--prompts", type=click.Path(), help="YAML file of `class: prompt` or `class: [prompt, synonym]`.")
@click.option("--text-weights", default=PUBLISHED, help="CLIP's text tower: openai, open_clip FILE, or none (random).")
@click.option("--text-embeddings", type=click.Path(), help="NPZ file of ready vectors (names, embeddings) instead.")
@click.option("--keep-vocabulary", metavar="CLASS", help="Keep this class out of training: words alone.")
@recipe_options(RECIPE)
@click.option("--folds", type=FOLDS, help="Train on NAME@kfold-FOLDS-0, -1 ... one after another.")
@click.option("--device", default="", show_default="GPU, else CPU", help="cpu, or the numbers of GPUs: 0 or 0,1.")
@seed_option
@click.option("--resume", is_flag=True, help="Continue an interrupted run.")
@click.option(
    "--eval-only", type=FOLDER, metavar="RUN", help="Predict and measure again with what a finished run left."
)
@config_option
@overwrite_option
@json_option
@click.pass_context
def main(
    ctx: click.Context, name: str | None, folds: int | None, eval_only: Path | None, as_json: bool, **options: Any
) -> None:
    """Ask YOLO-World for the classes of a dataset in words, fine-tune it, tune its words; print all three on test.

    The run folder RUNS/DATASET/RUN/seed-SEED holds run.json, predictions/{zero-shot,tuned,prompt-tuned}/ for val and
    test in the COCO results format, figures/, the vectors of the words (text_embeddings.npz, prompt-tuned.npz; give
    them back with --text-embeddings), and a best.pt below tuned/ and prompt-tuned/.
    """
    given, name = given_options(ctx), choose_dataset(options["out"], name)
    kept = options["keep_vocabulary"]
    options["run_name"] = options["run_name"] or (f"yolo-world-without-{kept}" if kept else "yolo-world")
    recipe = Recipe(**{field.name: options.pop(field.name) for field in fields(Recipe)})
    request = Request(**options)
    if eval_only:
        found = {name: evaluate_again(request, eval_only, open_dataset(request.out, name))}
    else:
        datasets = [open_dataset(request.out, each) for each in fold_names(name, folds)]
        found = train_on_each(datasets, request, recipe, given, train_and_evaluate, measures_in)
    if as_json:
        click.echo(to_json(found if folds else found[name]), nl=False)
        return
    for each in found:
        dataset = open_dataset(request.out, each)
        click.echo(report(eval_only or request.folder(dataset), dataset))
    for way in SETS if folds else ():
        click.echo(f"{way}: {spread([measured[way]['test'] for measured in found.values()])}")


if __name__ == "__main__":
    main(prog_name="python finetune/yolo_world.py")
