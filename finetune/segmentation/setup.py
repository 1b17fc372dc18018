"""All that a run of SAM's decoder needs at hand: images, weights, a device, embeddings, its folder."""

from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import cv2
import torch

from converters.cli.errors import DatasetError
from finetune.runs.checksums import sha256
from finetune.runs.dataset import Dataset
from finetune.runs.run_folder import Run, check_begun, run_folder, start_run
from finetune.segmentation.embedding_sources import cached_source, encode
from finetune.segmentation.evaluation import Boxes, Parts, boxes_sha256, read_boxes, seconds_of_boxes
from finetune.segmentation.images import MarkedImage, images_of
from finetune.segmentation.models import PUBLISHED, Origin, Segmenter, fetch_published, load_sam, starter
from finetune.segmentation.settings import LITE0, MOBILE, STARTER, TINY, Recipe, Request
from finetune.segmentation.steps import Source, choose_trained
from finetune.training.processes import leads, prepare_device, wait_for_all
from finetune.training.weights import find_weights

FREE = ("runs", "run_name", "cache_gb", "device", "resume", "overwrite")  # may change when a run continues
PREFERRED = "vit_b"  # where no architecture is named
VIEW_ORDER = (0, 4, 2, 6, 1, 3, 5, 7)  # as it is, mirrored, half a turn, ...: the first N of them for --views N


@dataclass
class Job:
    """A training with all that it needs at hand."""

    segmenter: Segmenter
    recipe: Recipe
    origin: Origin
    parts: Parts
    first: list[MarkedImage]  # to train on before the train part; may be empty
    boxes: Boxes | None
    device: str
    detector_seconds: float | None  # that an image's boxes took on such a device, where that is known


def make_job(request: Request, dataset: Dataset, first: Dataset | None) -> Job:
    """A training with its weights and images at hand; raises DatasetError for what can't be had or doesn't go."""
    recipe, joined = request.recipe(), request.instances == "image"
    parts = {part: images_of(dataset, part, joined) for part in ("train", *dataset.judged_parts)}
    before = images_of(first, "train", joined) if first else []
    needed = [(dataset, part, parts[part]) for part in ("train", "test")]
    for one, part, images in needed + ([(first, "train", before)] if first else []):
        if not any(image.marked for image in images):
            raise DatasetError(f"{one.folder}: its {part} part shows no defect: convert it with another --protocol")
    boxes = read_boxes(request.boxes, dataset) if request.boxes else None
    device = prepare_device(request.device)
    cv2.setNumThreads(torch.get_num_threads())
    torch.manual_seed(request.seed)
    origin = replace(origin_of(request), lora=recipe.lora)
    segmenter = Segmenter(load_sam(origin.arch, origin.weights, origin.tiny), dataset.classes, request.auto).to(device)
    choose_trained(segmenter, recipe)
    return Job(
        segmenter,
        recipe,
        origin,
        parts,
        before,
        boxes,
        device,
        seconds_of_boxes(request.boxes, device) if request.boxes else None,
    )


def settled(request: Request) -> Request:
    """The request with an architecture: vit_b where its published weights can be had, or others are named; or lite0."""
    if request.arch or request.weights:
        return replace(request, arch=request.arch or PREFERRED)
    try:
        find_checkpoint(PREFERRED, None)
    except DatasetError:
        return replace(request, arch=LITE0)
    return replace(request, arch=PREFERRED)


def origin_of(request: Request) -> Origin:
    """The start that a settled request asks for."""
    assert request.arch
    if request.arch == LITE0 and request.weights is None:
        return Origin(LITE0, request.tiny, starter(), start=f"installed {STARTER.name}")
    file = find_checkpoint(request.arch, request.weights)
    if file is None:
        return Origin(request.arch, request.tiny, None)
    named = request.weights in (None, published_name(request.arch)) and str(file) != request.weights
    start = f"published {published_name(request.arch)}" if named else f"file {sha256(file)[:12]}"
    return Origin(request.arch, request.tiny, file, start=start)


def find_checkpoint(arch: str, weights: str | None) -> Path | None:
    """The checkpoint of ``--weights``, by default the published one of the architecture."""
    if arch == TINY and weights is None:
        raise DatasetError("--arch tiny: nobody has published its weights; add --weights FILE, or none for random ones")
    own = published_name(arch)
    known = {own: PUBLISHED[own][0]} if own in PUBLISHED else {}
    return find_weights(own if weights is None else weights, known, fetch_published)


def published_name(arch: str) -> str:
    """What --weights calls the published weights of an architecture."""
    return arch if arch == MOBILE else f"sam_{arch}"


def source_of(request: Request, job: Job, learns: bool = True) -> Source:
    """The source of embeddings: the cache, filled now (for training too, if it ``learns``), or the encoder itself."""
    if not job.recipe.frozen:
        return partial(encode, job.segmenter)
    training = [image for image in (*job.first, *job.parts["train"]) if image.marked or request.auto] if learns else []
    wanted = [(image, view) for image in training for view in VIEW_ORDER[: request.views]]
    wanted += [(image, 0) for part, images in job.parts.items() if part != "train" for image in images]
    together = 1 if job.device == "cpu" else request.batch  # several at once cost a CPU memory and no less time
    return cached_source(job.segmenter, wanted, request.runs / ".cache" / "embeddings", request.cache_gb, together)


def open_run(request: Request, job: Job, dataset: Dataset, first: Dataset | None) -> Run:
    """The run's folder, new or, with --resume, as it was left; raises DatasetError for one that doesn't continue.

    Of torchrun's processes, the first one looks and makes it.
    """
    folder = run_folder(request.runs, dataset, request.run_name, request.seed)
    if job.origin.weights and folder.resolve() in job.origin.weights.resolve().parents:
        raise DatasetError(
            f"--weights {request.weights}: lies in the run that would be replaced; name another with --run"
        )
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(request).items()}
    settings |= {
        **asdict(job.recipe),
        "imgsz": job.segmenter.sam.image_encoder.img_size,
        "weights_sha256": job.origin.weights and sha256(job.origin.weights),
        "boxes_sha256": boxes_sha256(request.boxes),
        "split_sha256": dataset.split["sha256"],
        "label_settings": dataset.label_settings,
        "pretrain_split_sha256": first and first.split["sha256"],
    }
    begun = {key: value for key, value in settings.items() if key not in FREE}
    if leads() and request.resume:
        if (folder / "run.json").is_file():
            raise DatasetError(f"--resume: {folder} is a finished run; train again with --overwrite")
        check_begun(folder, begun)
    elif leads():
        start_run(folder, dataset, settings, request.overwrite, begun)
    wait_for_all()
    return Run(folder, dataset, settings)
