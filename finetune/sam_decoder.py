"""Fine-tune SAM's mask decoder on a converted dataset, prompted as it will be used, and measure it before and after.

    python finetune/sam_decoder.py --category screw                                  # vit_b, embeddings cached
    python finetune/sam_decoder.py --category screw --auto --boxes runs/screw/yolo/seed-0
    python finetune/sam_decoder.py --category washer --arch tiny --weights none --train all --pretrain washer@paste-400
    python finetune/sam_decoder.py --category screw --resume                         # after Ctrl-C
    python finetune/sam_decoder.py --category screw --export sam_screw.pth           # for Meta's SamPredictor

The frozen image encoder runs once for each image (and view), then only the decoder is trained. Val chooses the
epoch and all thresholds; test is looked at once.
"""

import json
import sys
import time
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if not __package__:  # run as a file: import from the repository, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from converters.errors import DatasetError
from converters.options import (
    FOLDER,
    command,
    json_option,
    made_share_option,
    out_option,
    overwrite_option,
    seed_option,
    table,
    to_json,
)
from finetune.category import Dataset, check_apart, open_dataset, whole_images
from finetune.predictions import Run, run_folder, start_run
from finetune.weights import find_weights, sha256

if TYPE_CHECKING:
    from finetune.sam_images import MarkedImage
    from finetune.sam_models import Origin, Segmenter, Tiny
    from finetune.sam_report import Boxes, Parts
    from finetune.sam_training import Recipe, Source

ARCHS = ("tiny", "vit_b", "vit_l", "vit_h")
VIEW_ORDER = (0, 4, 2, 6, 1, 3, 5, 7)  # as it is, mirrored, half a turn, ...: the first N of them for --views N
WARM_UP = 2400  # steps
RATE, REFERENCE = 8e-4, 256  # SAM's own rate, at its own batch; scaled by the square root of the batch's share
RANDOM_RATE = 1e-3  # where everything is learned anew
SETTINGS = "settings.json"  # what a run was begun with, for --resume
WARMED, LAST_FIRST, LAST = "warm-up.pt", "last-pretrain.pt", "last.pt"  # where an unfinished run stands
FREE = ("runs", "run_name", "cache_gb", "export_to", "device", "resume", "overwrite")  # may change when it goes on


@dataclass(frozen=True)
class Wish:
    """What the command line asks for."""

    runs: Path
    run_name: str
    arch: str
    weights: str | None
    train: str
    auto: bool
    instances: str
    made_share: float | None
    pretrain: str | None
    pretrain_epochs: int | None
    views: int
    boxes: Path | None
    epochs: int
    imgsz: int | None
    batch: int
    lr: float | None
    warm_up: int | None
    patience: int
    cache_gb: float
    export_to: Path | None
    device: str
    seed: int
    resume: bool
    overwrite: bool


@dataclass
class Job:
    """A training with all that it needs at hand."""

    segmenter: "Segmenter"
    recipe: "Recipe"
    warm_up: int  # steps
    origin: "Origin"
    parts: "Parts"
    first: list["MarkedImage"]  # to train on before the train part; may be empty
    boxes: "Boxes | None"
    device: str

    @property
    def frozen(self) -> bool:
        """Does the image encoder stay as it is, so that its embeddings can be cached?"""
        return not (self.recipe.image_encoder or self.recipe.lora)


def parse_train(wanted: str) -> dict[str, Any]:
    """What ``--train`` names, joined by commas, as settings of a Recipe; the decoder is always among it."""
    found: dict[str, Any] = {}
    for word in wanted.split(","):
        name, _, rank = word.strip().partition(":")
        if name == "lora" and rank.isdigit() and int(rank):
            found["lora"] = int(rank)
        elif word == "prompt-encoder":
            found["prompt_encoder"] = True
        elif word == "all":
            found |= {"prompt_encoder": True, "image_encoder": True}
        elif word != "decoder":
            raise DatasetError(f"--train {wanted}: known are decoder, prompt-encoder, all and lora:RANK (e.g. lora:4)")
    if found.get("lora") and found.get("image_encoder"):
        raise DatasetError(f"--train {wanted}: lora adapts a frozen image encoder, and all trains it: choose one")
    return found


def find_checkpoint(arch: str, weights: str | None) -> Path | None:
    """The checkpoint of ``--weights``, by default the published one of the architecture."""
    from finetune.sam_models import PUBLISHED, fetch_published

    own = f"sam_{arch}"
    wanted = own if weights is None else weights
    if own not in PUBLISHED and weights is None:
        raise DatasetError("--arch tiny: nobody has published its weights; add --weights FILE, or none for random ones")
    if wanted in PUBLISHED and wanted != own and not Path(wanted).exists():
        raise DatasetError(f"--weights {wanted}: are not those of --arch {arch}")
    return find_weights(wanted, [own] if own in PUBLISHED else [], fetch_published)


def geometry(arch: str, imgsz: int | None) -> "Tiny":
    from finetune.sam_models import SIDE, TINY, Tiny

    tiny = Tiny() if imgsz is None else Tiny(side=imgsz)
    if arch != TINY and imgsz not in (None, SIDE):
        raise DatasetError(f"--imgsz {imgsz}: {arch} takes {SIDE} px and nothing else; --arch tiny can be changed")
    if tiny.side % tiny.patch:
        raise DatasetError(f"--imgsz {imgsz}: a multiple of {tiny.patch} is needed")
    return tiny


# --------------------------------------------------------------------------------------------------------------- CLI


@command()
@click.option("--category", "--dataset", "name", required=True, metavar="NAME", help="Dataset in --out to train on.")
@out_option
@click.option("--runs", type=FOLDER, default="runs", help="Where runs are written.")
@click.option("--run", "run_name", default="sam", help="Name of the run.")
@click.option("--arch", type=click.Choice(ARCHS), default="vit_b", help="tiny: SAM's classes at 256 px, untrained.")
@click.option("--weights", default=None, show_default="the published ones", help="sam_vit_b, ..., FILE, or none.")
@click.option("--train", default="decoder", help="decoder, prompt-encoder, all, lora:RANK; joined by commas.")
@click.option("--auto", is_flag=True, help="Also learn to find defects without a prompt.")
@click.option(
    "--instances", type=click.Choice(["component", "image"]), default="component",
    help="The dataset's instances, or one for all defects of an image.",
)  # fmt: skip
@made_share_option
@click.option("--pretrain", metavar="DATASET", help="Train on this dataset first (screw@paste-500), then on NAME.")
@click.option("--pretrain-epochs", type=click.IntRange(1), show_default="as --epochs", help="Epochs of --pretrain.")
@click.option("--views", type=click.IntRange(1, 8), default=2, help="Flips and quarter turns of an image, with itself.")
@click.option("--boxes", type=FOLDER, default=None, metavar="RUN", help="Also prompt with this run's predicted boxes.")
@click.option("--epochs", type=click.IntRange(1), default=30)
@click.option("--imgsz", type=click.IntRange(32), default=None, show_default="256", help="Side of tiny's input, px.")
@click.option("--batch", type=click.IntRange(1), default=8, help="Images a step.")
@click.option(
    "--lr",
    type=click.FloatRange(0, min_open=True),
    default=None,
    show_default="8e-4 x sqrt(batch / 256); 1e-3 for all of random weights",
)
@click.option(
    "--warm-up",
    type=click.IntRange(0),
    default=None,
    show_default=f"{WARM_UP} for a tiny one of random weights with --train all",
    help="Steps on crops with made-up shapes.",
)
@click.option("--patience", type=click.IntRange(1), default=10, help="Epochs without gain on val before a stop.")
@click.option("--cache-gb", type=click.FloatRange(0), default=50.0, help="Bound of RUNS/.cache/embeddings.")
@click.option("--export", "export_to", type=FOLDER, default=None, help="Write a checkpoint for Meta's SamPredictor.")
@click.option("--device", default="", show_default="GPU, else CPU", help="cpu, cuda, cuda:1.")
@click.option("--resume", is_flag=True, help="Go on with a run that was interrupted; give what it was begun with.")
@seed_option
@overwrite_option
@json_option
def main(name: str, out: Path, as_json: bool, **options: Any) -> None:
    """Fine-tune SAM on a converted dataset; print IoU on test before and after; leave a run folder.

    RUNS/DATASET/RUN/seed-SEED holds run.json, tuned.pt (what was trained; finetune.sam_models.load_tuned reads
    it), worst.png, and predictions/ with a set for each way of asking: gt-box, jittered-box, one-point,
    three-points (prompts from the truth), yolo-box (--boxes) and auto (--auto).
    """
    wish = Wish(**options)
    parse_train(wish.train)
    dataset = open_dataset(out, name, wish.made_share)
    if not dataset.classes:
        raise DatasetError(f"{dataset.folder}: holds no defects to learn")
    first = open_first(out, wish, dataset) if wish.pretrain else None
    job = make_job(wish, dataset, first)
    run = open_run(wish, job, dataset, first)
    made_images = sum(len(part.made_images) for part in (first, dataset) if part)
    try:
        measured = train_and_measure(wish, job, run, made_images)
    except KeyboardInterrupt:
        click.echo(f"{run.folder}: interrupted; the same command with --resume goes on", err=True)
        raise
    if as_json:
        click.echo(to_json(measured), nl=False)
        return
    from finetune.sam_report import HEADER, cells

    origin = "random weights" if job.origin.weights is None else job.origin.weights.name
    before = f", first on {wish.pretrain} ({made_images} made images)" if wish.pretrain else ""
    synthetic = ", SYNTHETIC images" if dataset.synthetic else ""
    how = f"--train {wish.train}, seed {wish.seed}"
    click.echo(f"{name}: SAM {wish.arch} from {origin}{before}, {how}{synthetic}; on test:")
    click.echo(table([cells(kind, found) for kind, found in measured.items()], HEADER))
    click.echo(f"run: {run.folder}")


def open_first(out: Path, wish: Wish, dataset: Dataset) -> Dataset:
    """The dataset of --pretrain; raises DatasetError if it shows val or test, or names classes otherwise for --auto."""
    assert wish.pretrain is not None
    first = open_dataset(out, wish.pretrain)
    check_apart(whole_images(out, first), whole_images(out, dataset))
    if wish.auto and first.classes[: len(dataset.classes)] != dataset.classes:
        raise DatasetError(
            f"--pretrain {first.name} --auto: its classes ({', '.join(first.classes)}) are not those of {dataset.name} "
            f"({', '.join(dataset.classes)}): leave --auto out, or name a dataset made from {dataset.name}"
        )
    return first


def make_job(wish: Wish, dataset: Dataset, first: Dataset | None) -> Job:
    """A training with its weights and images at hand; raises DatasetError for what can't be had or doesn't go."""
    from finetune.sam_evaluation import read_boxes
    from finetune.sam_images import images_of
    from finetune.sam_models import TINY, Origin, Segmenter, load_sam
    from finetune.sam_training import Recipe

    trained, tiny = parse_train(wish.train), geometry(wish.arch, wish.imgsz)
    if trained.get("lora") and find_spec("peft") is None:
        raise DatasetError("--train lora: peft is not installed: pip install -e '.[lora]'")
    if wish.export_to and wish.export_to.is_dir():
        raise DatasetError(f"--export {wish.export_to}: is a folder; name the file to write")
    joined = wish.instances == "image"
    parts = {part: images_of(dataset, part, joined) for part in ("train", "val", "test")}
    before = images_of(first, "train", joined) if first else []
    for one, images in ((dataset, parts["train"]), (first, before)):
        if one and not any(image.marked for image in images):
            raise DatasetError(f"{one.folder}: its train part shows no defect to learn")
    boxes = read_boxes(wish.boxes, dataset) if wish.boxes else None
    device = prepare_device(wish.device, wish.seed)
    checkpoint = find_checkpoint(wish.arch, wish.weights)
    anew = checkpoint is None and bool(trained.get("image_encoder"))  # everything is learned
    usual = WARM_UP if anew and wish.arch == TINY else 0
    warm_up = usual if wish.warm_up is None else wish.warm_up
    if warm_up and not usual:
        raise DatasetError("--warm-up: is for --arch tiny --weights none --train all, which learns everything anew")
    rate = wish.lr or (RANDOM_RATE if anew else RATE * (wish.batch / REFERENCE) ** 0.5)
    recipe = Recipe(**trained, epochs=wish.epochs, batch=wish.batch, lr=rate, seed=wish.seed, patience=wish.patience)
    segmenter = Segmenter(load_sam(wish.arch, checkpoint, tiny), dataset.classes, wish.auto).to(device)
    origin = Origin(wish.arch, tiny, checkpoint, recipe.lora)
    return Job(segmenter, recipe, warm_up, origin, parts, before, boxes, device)


def open_run(wish: Wish, job: Job, dataset: Dataset, first: Dataset | None) -> Run:
    """The run's folder, new or, with --resume, as it was left; raises DatasetError for one that doesn't go on."""
    folder = run_folder(wish.runs, dataset, wish.run_name, wish.seed)
    if job.origin.weights and folder.resolve() in job.origin.weights.resolve().parents:
        raise DatasetError(f"--weights {wish.weights}: lies in the run that would be replaced; name another with --run")
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(wish).items()}
    settings |= {**asdict(job.recipe), "warm_up": job.warm_up, "imgsz": job.segmenter.sam.image_encoder.img_size}
    begun = {key: value for key, value in settings.items() if key not in FREE}
    begun |= {
        "weights_sha256": job.origin.weights and sha256(job.origin.weights),
        "split_sha256": dataset.split["sha256"],
        "label_settings": dataset.label_settings,
        "pretrain_split_sha256": first and first.split["sha256"],
    }
    settings |= begun
    if wish.resume:
        check_resumable(folder, json.loads(to_json(begun)))
        return Run(folder, dataset, settings)
    if (folder / SETTINGS).is_file() and not (folder / "run.json").is_file() and not wish.overwrite:
        raise DatasetError(f"{folder} was interrupted: go on with --resume, or train anew with --overwrite")
    run = start_run(folder, dataset, settings, wish.overwrite)
    (folder / SETTINGS).write_text(to_json(begun), "utf-8")
    return run


def check_resumable(folder: Path, begun: dict[str, Any]) -> None:
    """Raise DatasetError where there is nothing to go on with, or it was begun otherwise."""
    if (folder / "run.json").is_file():
        raise DatasetError(f"--resume: {folder} is a finished run; train anew with --overwrite")
    if not (folder / SETTINGS).is_file():
        raise DatasetError(f"--resume: {folder} holds no interrupted run; start it without --resume")
    before = json.loads((folder / SETTINGS).read_text("utf-8"))
    for key in begun.keys() | before.keys():
        if begun.get(key) != before.get(key):
            raise DatasetError(
                f"--resume: {folder} was begun with {key} {before.get(key)!s:.60}, not {begun.get(key)!s:.60}; "
                "give what it was begun with, or train anew with --overwrite"
            )


def source_of(wish: Wish, job: Job) -> "Source":
    """Where embeddings come from: the cache, filled now, or the encoder in the loop."""
    from finetune.sam_sources import cached_source, encoding_source

    if not job.frozen:
        return encoding_source(job.segmenter)
    views = VIEW_ORDER[: wish.views]
    training = [*job.first, *job.parts["train"]]
    wanted = [(image, view) for image in training if image.marked or wish.auto for view in views]
    wanted += [(image, 0) for part in ("val", "test") for image in job.parts[part]]
    together = 1 if job.device == "cpu" else wish.batch  # several at once cost a CPU memory and no less time
    return cached_source(job.segmenter, wanted, wish.runs / ".cache" / "embeddings", wish.cache_gb, together)


def train(wish: Wish, job: Job, source: "Source", folder: Path) -> dict[str, list[dict[str, float]]]:
    """Train the job's segmenter in place, going on where a run in ``folder`` stopped; the history of each stage.

    Val is the dataset's own in both stages.
    """
    from finetune.sam_fitting import fit
    from finetune.sam_report import judge_of
    from finetune.sam_training import choose_trained

    segmenter, views, histories = job.segmenter, VIEW_ORDER[: wish.views], {}
    if job.warm_up:
        warm(job, folder / WARMED)
    choose_trained(segmenter, job.recipe)
    judge = judge_of(segmenter, source, job.parts["val"])
    if job.first:
        recipe = replace(job.recipe, epochs=wish.pretrain_epochs or wish.epochs)
        last = folder / LAST_FIRST
        histories["pretrain_history"] = fit(segmenter, source, job.first, views, recipe, judge, last, wish.resume)
    images, last = job.parts["train"], folder / LAST
    return histories | {"history": fit(segmenter, source, images, views, job.recipe, judge, last, wish.resume)}


def warm(job: Job, saved: Path) -> None:
    """Warm the job's segmenter up, and save it; or load what an interrupted run has saved."""
    import torch

    from finetune.networks import load_state
    from finetune.sam_sources import recolour
    from finetune.sam_warmup import warm_up

    if saved.is_file():
        job.segmenter.load_state_dict(load_state(saved, "--resume"))
        return
    warm_up(job.segmenter, job.origin.tiny, job.parts["train"], job.warm_up, recolour, job.recipe.seed)
    partial = saved.with_suffix(".partial")
    torch.save(job.segmenter.state_dict(), partial)
    partial.replace(saved)


def train_and_measure(wish: Wish, job: Job, run: Run, made_images: int) -> dict[str, dict[str, Any]]:
    """Measure, train, save, load what was saved, and measure that; leaves a finished run."""
    from finetune.sam_evaluation import draw_worst
    from finetune.sam_models import export, load_tuned, save_tuned
    from finetune.sam_report import MODEL, compare_rows, evaluate, seconds_per_image
    from finetune.sam_sources import encoding_source

    segmenter, source, tuned = job.segmenter, source_of(wish, job), run.folder / "tuned.pt"
    embed_seconds = run.seconds
    before = evaluate(segmenter, source, job.parts, run.dataset, job.boxes, None)
    began, cpu = run.seconds, time.process_time()
    histories = train(wish, job, source, run.folder)
    train_seconds, train_cpu_seconds = run.seconds - began, time.process_time() - cpu
    trained = sum(value.numel() for value in segmenter.parameters() if value.requires_grad)
    save_tuned(segmenter, job.origin, tuned)
    segmenter = load_tuned(tuned).to(job.device)
    source = source if job.frozen else encoding_source(segmenter)
    after = evaluate(segmenter, source, job.parts, run.dataset, job.boxes, run)
    draw_worst(after["gt-box"], run.dataset.classes, run.folder / "worst.png")
    measured = compare_rows(run.dataset, before, after)
    run.finish(
        model=MODEL,
        parameters=sum(value.numel() for value in segmenter.parameters()),
        trained_parameters=trained,
        random_weights=job.origin.weights is None,
        weights_sha256=None if job.origin.weights is None else sha256(job.origin.weights),
        pretrained_on=wish.pretrain,
        made_images=made_images,
        resumed=wish.resume,
        embed_seconds=round(embed_seconds, 1),
        train_seconds=None if wish.resume else round(train_seconds, 1),  # of a resumed run, only the rest was timed
        train_cpu_seconds=None if wish.resume else round(train_cpu_seconds, 1),
        seconds_per_image=seconds_per_image(segmenter, job.parts["test"]),
        weights_bytes=tuned.stat().st_size,
        device=job.device,
        **histories,
        metrics=measured,
    )
    for name in (WARMED, LAST_FIRST, LAST):  # several times as large as tuned.pt
        (run.folder / name).unlink(missing_ok=True)
    if wish.export_to:
        export(segmenter.sam, wish.export_to)
    return measured


def prepare_device(wanted: str, seed: int) -> str:
    """The device by name, a GPU where there is one; seeds torch."""
    import os

    import cv2
    import torch

    threads = int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    device = wanted or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise DatasetError(f"--device {wanted}: {str(error).splitlines()[0]}") from None
    torch.manual_seed(seed)
    return device


if __name__ == "__main__":
    main(prog_name="python finetune/sam_decoder.py")
