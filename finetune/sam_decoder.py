"""Fine-tune SAM's mask decoder on a converted dataset, prompted as it will be used, and measure it before and after.

    python finetune/sam_decoder.py --category screw                                  # vit_b, embeddings cached
    python finetune/sam_decoder.py --category screw --auto --boxes runs/screw/yolo/seed-0
    python finetune/sam_decoder.py --category washer --arch tiny --weights none --train all
    python finetune/sam_decoder.py --category screw --export sam_screw.pth           # for Meta's SamPredictor

The frozen image encoder runs once for each image (and view), then only the decoder is trained. Val chooses the
epoch and all thresholds; test is looked at once.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
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
    progress,
    seed_option,
    table,
    to_json,
)
from finetune.category import Dataset, open_dataset
from finetune.predictions import Run, run_folder, start_run
from finetune.weights import find_weights, sha256

if TYPE_CHECKING:
    from finetune.sam_images import MarkedImage
    from finetune.sam_models import Origin, Segmenter, Tiny
    from finetune.sam_training import Recipe, Source

ARCHS = ("tiny", "vit_b", "vit_l", "vit_h")
VIEW_ORDER = (0, 4, 2, 6, 1, 3, 5, 7)  # as it is, mirrored, half a turn, ...: the first N of them for --views N
WARM_UP = 2400  # steps
RATE, REFERENCE = 8e-4, 256  # SAM's own rate, at its own batch; scaled by the square root of the batch's share
RANDOM_RATE = 1e-3  # where everything is learned anew


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
    overwrite: bool


@dataclass
class Job:
    """A training with all that it needs at hand."""

    segmenter: "Segmenter"
    recipe: "Recipe"
    warm_up: int  # steps
    origin: "Origin"
    parts: dict[str, list["MarkedImage"]]
    boxes: dict[str, dict[int, list[dict[str, Any]]]] | None  # another model's, by part and image id
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


# -------------------------------------------------------------------------------------------------------- embeddings


def encode(segmenter: "Segmenter", batch: Sequence[tuple["MarkedImage", int]]) -> Any:
    """Embeddings of images in views, B x C x g x g."""
    import torch

    from finetune.sam_models import framed

    frames = [framed(segmenter.sam, image.pixels(view)) for image, view in batch]
    return segmenter.sam.image_encoder(torch.stack(frames))


def cached_source(
    segmenter: "Segmenter", wanted: Sequence[tuple["MarkedImage", int]], folder: Path, cache_gb: float, batch: int
) -> "Source":
    """Embed all images in all views that are asked for, unless they lie in the cache; then read them from there."""
    import numpy as np
    import torch

    from finetune.embeddings import GB, EmbeddingCache
    from finetune.sam_models import hash_of

    sam = segmenter.sam
    side = sam.prompt_encoder.image_embedding_size[0]
    encoder = f"{hash_of(sam.image_encoder)} {sam.image_encoder.img_size}"
    cache = EmbeddingCache(folder, encoder, (sam.prompt_encoder.embed_dim, side, side), int(cache_gb * GB))
    keys = {(image.name, view): cache.key(image.path, view) for image, view in wanted}
    missing = sum(cache.read(key) is None for key in keys.values())
    cache.make_room(keys.values())
    click.echo(
        f"embeddings: {len(keys)} of {cache.entry_bytes / 1e6:.1f} MB, together "
        f"{len(keys) * cache.entry_bytes / GB:.2f} GB in {folder}; {missing} are to be made",
        err=True,
    )

    @torch.no_grad()
    def embed(pairs: Sequence[Any]) -> Any:
        return encode(segmenter, pairs).float().cpu().numpy()

    with progress(None, missing, "embedding") as bar:
        cache.fill([(keys[image.name, view], (image, view)) for image, view in wanted], embed, batch, bar.update)

    def source(pairs: Sequence[tuple["MarkedImage", int]], training: bool) -> Any:
        entries = [cache.read(keys[image.name, view]) for image, view in pairs]
        if any(entry is None for entry in entries):
            raise DatasetError(f"{folder}: embeddings vanished during the run: another run with a smaller --cache-gb?")
        return torch.from_numpy(np.stack(entries).astype(np.float32)).to(sam.device)

    return source


def encoding_source(segmenter: "Segmenter") -> "Source":
    """Encode in the loop: where the encoder learns, or once it has. Training images change in colour as well."""
    import torch

    from finetune.sam_models import framed

    sam = segmenter.sam

    def source(pairs: Sequence[tuple["MarkedImage", int]], training: bool) -> Any:
        frames = []
        for image, view in pairs:
            pixels = image.pixels(view)
            frames.append(framed(sam, recolour(pixels) if training else pixels))
        with torch.set_grad_enabled(training):
            return sam.image_encoder(torch.stack(frames))

    return source


def recolour(pixels: Any) -> Any:
    """H x W x 3, RGB, with brightness, contrast and saturation changed by up to 30 %, by torch's random generator."""
    import torch
    from torchvision.transforms import v2

    return v2.ColorJitter(0.3, 0.3, 0.3)(torch.from_numpy(pixels).permute(2, 0, 1)).permute(1, 2, 0).numpy()


# -------------------------------------------------------------------------------------------------------- evaluation


def evaluate(
    segmenter: "Segmenter",
    source: "Source",
    parts: dict[str, list["MarkedImage"]],
    dataset: Dataset,
    boxes: dict[str, dict[int, list[dict[str, Any]]]] | None,
    run: Run | None,
) -> dict[str, list[Any]]:
    """Rows of test for each way of asking; with a run, predictions for val and test are written as its sets."""
    from finetune import sam_evaluation as measuring
    from finetune.predictions import image_scores

    about = {"model": "SAM decoder", "label": "mask"}
    rows: dict[str, list[Any]] = {}
    for kind in measuring.ORACLES:
        for part in ("val", "test") if run else ("test",):
            rows[kind], expected = measuring.ask(segmenter, source, parts[part], kind)
            if run:
                found = [
                    measuring.detection(dataset.image_ids[row.image.name], row.kind, score, row.rle)
                    for row, score in zip(rows[kind], expected, strict=True)
                    if row.rle
                ]
                names = dataset.images(part)
                run.write_predictions(
                    kind, part, found, image_scores(names, dataset.image_ids, len(dataset.classes), found)
                )
        if run:
            run.describe_set(kind, **about, prompt=kind, oracle=True, clicks=measuring.CLICKS[kind])
    makers: dict[str, Any] = {}
    if segmenter.tokens is not None and run:
        makers[measuring.AUTO] = lambda image: measuring.token_map(segmenter, source, image)
    if boxes:
        by_id = boxes["val"] | boxes["test"]

        def from_boxes(image: "MarkedImage") -> Any:
            id_ = dataset.image_ids[image.name]
            return measuring.boxes_map(segmenter, source, image, id_, by_id.get(id_, []))

        makers[measuring.BOXES] = from_boxes
    for kind, make in makers.items():
        rows[kind], level = measuring.measure_maps(make, parts, kind, run)
        if run:
            run.describe_set(
                kind, **about, prompt=None if kind == measuring.AUTO else "box", oracle=False, clicks=0,
                heatmap="chance of a defect", heatmap_scale=1.0, **level,
            )  # fmt: skip
    return rows


def compare_rows(
    dataset: Dataset, before: dict[str, list[Any]], after: dict[str, list[Any]]
) -> dict[str, dict[str, Any]]:
    """Measures of each way of asking, before and after, and what was gained over both rivals."""
    import numpy as np

    from finetune.sam_evaluation import gain, summarise

    found: dict[str, dict[str, Any]] = {}
    for kind, rows in after.items():
        found[kind] = {"after": summarise(rows, dataset.classes)}
        if not np.isnan([row.rival for row in rows]).any():
            found[kind]["over_filled_box"] = gain(dataset, "test", rows, [row.rival for row in rows])
        if kind in before:
            found[kind]["before"] = summarise(before[kind], dataset.classes)
            found[kind]["over_before"] = gain(dataset, "test", rows, [row.measures["iou"] for row in before[kind]])
    return found


HEADER = (
    "prompt", "of", "IoU before", "IoU after", "filled box", "over filled box, 95 %", "Dice", "boundary 0.02",
    "boundary 0.005", "worst class",
)  # fmt: skip


def cells(kind: str, found: dict[str, Any]) -> tuple[str, ...]:
    after, over = found["after"], found.get("over_filled_box")
    worst = next(entry for entry in after["classes"] if entry["class"] == after["worst_class"])
    low, high = (over or {}).get("interval") or (float("nan"),) * 2
    return (
        kind,
        f"{after['count']} {'images' if kind in ('auto', 'yolo-box') else 'instances'}",
        f"{found['before']['iou']:.3f}" if "before" in found else "-",
        f"{after['iou']:.3f}",
        f"{after['filled_box_iou']:.3f}" if over else "-",
        f"{over['gain']:+.3f} ({low:+.3f} to {high:+.3f})" if over else "-",
        f"{after['dice']:.3f}",
        f"{after['boundary_iou_0.02']:.3f}",
        f"{after['boundary_iou_0.005']:.3f}",
        f"{after['worst_class']} {worst['iou']:.2f}",
    )


def seconds_per_image(segmenter: "Segmenter", images: Sequence["MarkedImage"]) -> float:
    """Wall time of encoder and decoder for an image and one box, without the cache; the mean of up to four."""
    import numpy as np
    import torch

    from finetune.prompts import Prompt
    from finetune.sam_evaluation import answer

    began = time.perf_counter()
    with torch.no_grad():
        for image in images[:4]:
            size = image.size()
            box = Prompt(box=np.array([0, 0, size[1], size[0]], np.float32))
            list(answer(segmenter, encode(segmenter, [(image, 0)]), [box], size))
    return round((time.perf_counter() - began) / len(images[:4]), 4)


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
    job = make_job(wish, dataset)
    folder = run_folder(wish.runs, dataset, wish.run_name, wish.seed)
    if job.origin.weights and folder.resolve() in job.origin.weights.resolve().parents:
        raise DatasetError(f"--weights {wish.weights}: lies in the run that would be replaced; name another with --run")
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(wish).items()}
    settings |= {**asdict(job.recipe), "warm_up": job.warm_up, "imgsz": job.segmenter.sam.image_encoder.img_size}
    run = start_run(folder, dataset, settings, wish.overwrite)
    measured = train_and_measure(wish, job, run)
    if as_json:
        click.echo(to_json(measured), nl=False)
        return
    origin = "random weights" if job.origin.weights is None else job.origin.weights.name
    synthetic = ", SYNTHETIC images" if dataset.synthetic else ""
    click.echo(f"{name}: SAM {wish.arch} from {origin}, --train {wish.train}, seed {wish.seed}{synthetic}; on test:")
    click.echo(table([cells(kind, found) for kind, found in measured.items()], HEADER))
    click.echo(f"run: {folder}")


def make_job(wish: Wish, dataset: Dataset) -> Job:
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
    parts = {part: images_of(dataset, part, wish.instances == "image") for part in ("train", "val", "test")}
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
    return Job(segmenter, recipe, warm_up, Origin(wish.arch, tiny, checkpoint, recipe.lora), parts, boxes, device)


def source_of(wish: Wish, job: Job) -> "Source":
    """Where embeddings come from: the cache, filled now, or the encoder in the loop."""
    if not job.frozen:
        return encoding_source(job.segmenter)
    views = VIEW_ORDER[: wish.views]
    wanted = [(image, view) for image in job.parts["train"] if image.marked or wish.auto for view in views]
    wanted += [(image, 0) for part in ("val", "test") for image in job.parts[part]]
    together = 1 if job.device == "cpu" else wish.batch  # several at once cost a CPU memory and no less time
    return cached_source(job.segmenter, wanted, wish.runs / ".cache" / "embeddings", wish.cache_gb, together)


def train_and_measure(wish: Wish, job: Job, run: Run) -> dict[str, dict[str, Any]]:
    """Measure, train, save, load what was saved, and measure that; leaves a finished run."""
    from finetune.sam_evaluation import draw_worst
    from finetune.sam_models import export, load_tuned, save_tuned
    from finetune.sam_training import choose_trained, fit
    from finetune.sam_warmup import warm_up

    segmenter, source, tuned = job.segmenter, source_of(wish, job), run.folder / "tuned.pt"
    embed_seconds = run.seconds
    before = evaluate(segmenter, source, job.parts, run.dataset, job.boxes, None)
    began, cpu = run.seconds, time.process_time()
    if job.warm_up:
        warm_up(segmenter, job.origin.tiny, job.parts["train"], job.warm_up, recolour, wish.seed)
    choose_trained(segmenter, job.recipe)
    judge = judge_of(segmenter, source, job.parts["val"])
    history = fit(segmenter, source, job.parts["train"], VIEW_ORDER[: wish.views], job.recipe, judge)
    train_seconds, train_cpu_seconds = run.seconds - began, time.process_time() - cpu
    trained = sum(value.numel() for value in segmenter.parameters() if value.requires_grad)
    save_tuned(segmenter, job.origin, tuned)
    segmenter = load_tuned(tuned).to(job.device)
    source = source if job.frozen else encoding_source(segmenter)
    after = evaluate(segmenter, source, job.parts, run.dataset, job.boxes, run)
    draw_worst(after["gt-box"], run.dataset.classes, run.folder / "worst.png")
    measured = compare_rows(run.dataset, before, after)
    run.finish(
        model="SAM decoder",
        parameters=sum(value.numel() for value in segmenter.parameters()),
        trained_parameters=trained,
        random_weights=job.origin.weights is None,
        weights_sha256=None if job.origin.weights is None else sha256(job.origin.weights),
        embed_seconds=round(embed_seconds, 1),
        train_seconds=round(train_seconds, 1),
        train_cpu_seconds=round(train_cpu_seconds, 1),
        seconds_per_image=seconds_per_image(segmenter, job.parts["test"]),
        weights_bytes=tuned.stat().st_size,
        device=job.device,
        history=history,
        metrics=measured,
    )
    if wish.export_to:
        export(segmenter.sam, wish.export_to)
    return measured


def judge_of(segmenter: "Segmenter", source: "Source", val: Sequence["MarkedImage"]) -> Any:
    """What chooses the epoch: the mean IoU of val's instances with their boxes; None where val shows no defect.

    With learned tokens, the mean of that and of the Dice of their map at one half.
    """
    import numpy as np

    from finetune.sam_evaluation import TOP, mean_iou, overlap, token_map

    marked = [image for image in val if image.marked]
    if not marked:
        return None

    def judge() -> float:
        score = mean_iou(segmenter, source, marked)
        if segmenter.tokens is None:
            return score
        heats = ((image.mask(), token_map(segmenter, source, image).heat) for image in marked)
        dices = [overlap((heat > TOP // 2).astype(np.uint8), mask, ())["dice"] for mask, heat in heats]
        return (score + float(np.mean(dices))) / 2

    return judge


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
