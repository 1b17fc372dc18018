"""The request for a run of SAM's decoder, and all that it needs at hand: images, weights, a device, its folder."""

from dataclasses import asdict, dataclass, fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converters.cli.errors import DatasetError
from finetune.runs.checksums import sha256
from finetune.runs.dataset import Dataset
from finetune.runs.run_folder import Run, check_begun, read_run, run_folder, start_run
from finetune.training.weights import find_weights

if TYPE_CHECKING:
    from finetune.segmentation.images import MarkedImage
    from finetune.segmentation.models import Origin, Segmenter, Tiny
    from finetune.segmentation.report import Boxes, Parts
    from finetune.segmentation.steps import Recipe


ARCHS = ("tiny", "mobile_sam", "vit_b", "vit_l", "vit_h")
WARM_UP = 2600  # steps
RATE, REFERENCE = 8e-4, 256  # SAM's own rate, at its own batch; scaled by the square root of the batch's share
RANDOM_RATE = 5e-4  # where everything is learned from scratch, after the warm-up
TUNED = "tuned.pt"
WARMED, LAST_FIRST, LAST = "warm-up.pt", "last-pretrain.pt", "last.pt"  # where an unfinished run stands
FREE = ("runs", "run_name", "cache_gb", "export_to", "device", "resume", "overwrite")  # may change when it continues


@dataclass(frozen=True)
class Request:
    """The request of the command line."""

    runs: Path
    run_name: str
    arch: str
    weights: str | None
    train: str
    auto: bool
    instances: str
    synthetic_share: float | None
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
    """The parts that ``--train`` names, joined by commas, as settings of a Recipe; the decoder is always among it."""
    found: dict[str, Any] = {}
    for word in map(str.strip, wanted.split(",")):
        name, _, rank = word.partition(":")
        if name == "lora" and rank.isdecimal() and int(rank):
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
    from finetune.segmentation.models import MOBILE, PUBLISHED, fetch_published

    own = arch if arch == MOBILE else f"sam_{arch}"
    wanted = own if weights is None else weights
    if own not in PUBLISHED and weights is None:
        raise DatasetError("--arch tiny: nobody has published its weights; add --weights FILE, or none for random ones")
    if wanted in PUBLISHED and wanted != own and not Path(wanted).exists():
        raise DatasetError(f"--weights {wanted}: are not those of --arch {arch}")
    return find_weights(wanted, {own: PUBLISHED[own][0]} if own in PUBLISHED else {}, fetch_published)


def geometry(arch: str, imgsz: int | None) -> "Tiny":
    from finetune.segmentation.models import SIDE, TINY, Tiny

    tiny = Tiny() if imgsz is None else Tiny(side=imgsz)
    if arch != TINY and imgsz not in (None, SIDE):
        raise DatasetError(f"--imgsz {imgsz}: {arch} takes {SIDE} px and nothing else; --arch tiny can be changed")
    if tiny.side % tiny.patch:
        raise DatasetError(f"--imgsz {imgsz}: a multiple of {tiny.patch} is needed")
    return tiny


def check_options(request: Request, trained: dict[str, Any]) -> None:
    """Raise DatasetError for options that don't go together, or that need a library that isn't there."""
    from finetune.segmentation.models import MOBILE

    if trained.get("lora") and find_spec("peft") is None:
        raise DatasetError("--train lora: peft is not installed: pip install -e '.[lora]'")
    if request.arch == MOBILE and trained.get("image_encoder"):  # timm keeps its attention's biases between steps
        raise DatasetError("--train all: trains no image encoder of mobile_sam; choose decoder, prompt-encoder, lora:4")
    if request.arch == MOBILE and request.export_to:
        raise DatasetError(
            "--export: SamPredictor knows no mobile_sam; load tuned.pt with finetune.segmentation.models.load_tuned"
        )
    if request.export_to and request.export_to.is_dir():
        raise DatasetError(f"--export {request.export_to}: is a folder; name the file to write")


def make_job(request: Request, dataset: Dataset, first: Dataset | None) -> Job:
    """A training with its weights and images at hand; raises DatasetError for what can't be had or doesn't go."""
    import cv2
    import torch

    from finetune.segmentation.evaluation import read_boxes
    from finetune.segmentation.images import images_of
    from finetune.segmentation.models import TINY, Origin, Segmenter, load_sam
    from finetune.segmentation.steps import Recipe
    from finetune.training.processes import prepare_device

    trained, tiny = parse_train(request.train), geometry(request.arch, request.imgsz)
    check_options(request, trained)
    joined = request.instances == "image"
    parts = {part: images_of(dataset, part, joined) for part in ("train", "val", "test")}
    before = images_of(first, "train", joined) if first else []
    needed = [(dataset, part, parts[part]) for part in ("train", "test")]
    for one, part, images in needed + ([(first, "train", before)] if first else []):
        if not any(image.marked for image in images):
            raise DatasetError(f"{one.folder}: its {part} part shows no defect: convert it with another --protocol")
    boxes = read_boxes(request.boxes, dataset) if request.boxes else None
    device = prepare_device(request.device)
    cv2.setNumThreads(torch.get_num_threads())
    torch.manual_seed(request.seed)
    checkpoint = find_checkpoint(request.arch, request.weights)
    anew = checkpoint is None and bool(trained.get("image_encoder"))  # everything is learned
    usual = WARM_UP if anew and request.arch == TINY else 0
    warm_up = usual if request.warm_up is None else request.warm_up
    if warm_up and not usual:
        raise DatasetError(
            "--warm-up: is for --arch tiny --weights none --train all, which learns everything from scratch"
        )
    rate = request.lr or (RANDOM_RATE if anew else RATE * (request.batch / REFERENCE) ** 0.5)
    recipe = Recipe(
        **trained, epochs=request.epochs, batch=request.batch, lr=rate, seed=request.seed, patience=request.patience
    )
    segmenter = Segmenter(load_sam(request.arch, checkpoint, tiny), dataset.classes, request.auto).to(device)
    origin = Origin(request.arch, tiny, checkpoint, recipe.lora)
    return Job(segmenter, recipe, warm_up, origin, parts, before, boxes, device)


def open_run(request: Request, job: Job, dataset: Dataset, first: Dataset | None) -> Run:
    """The run's folder, new or, with --resume, as it was left; raises DatasetError for one that doesn't continue.

    Of torchrun's processes, the first one looks and makes it.
    """
    from finetune.segmentation.evaluation import boxes_sha256
    from finetune.training.processes import leads, wait_for_all

    folder = run_folder(request.runs, dataset, request.run_name, request.seed)
    if job.origin.weights and folder.resolve() in job.origin.weights.resolve().parents:
        raise DatasetError(
            f"--weights {request.weights}: lies in the run that would be replaced; name another with --run"
        )
    settings = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(request).items()}
    settings |= {**asdict(job.recipe), "warm_up": job.warm_up, "imgsz": job.segmenter.sam.image_encoder.img_size}
    begun = {key: value for key, value in settings.items() if key not in FREE}
    begun |= {
        "weights_sha256": job.origin.weights and sha256(job.origin.weights),
        "boxes_sha256": request.boxes and boxes_sha256(request.boxes),
        "split_sha256": dataset.split["sha256"],
        "label_settings": dataset.label_settings,
        "pretrain_split_sha256": first and first.split["sha256"],
    }
    settings |= begun
    if leads() and request.resume:
        if (folder / "run.json").is_file():
            raise DatasetError(f"--resume: {folder} is a finished run; train again with --overwrite")
        check_begun(folder, begun)
    elif leads():
        start_run(folder, dataset, settings, request.overwrite, begun)
    wait_for_all()
    return Run(folder, dataset, settings)


def as_begun(request: Request, settings: dict[str, Any]) -> Request:
    """The request that a run was begun with, but for what may change and a checkpoint that has moved."""
    names = settings.keys() & {field.name for field in fields(Request)} - {*FREE}
    begun = replace(request, **{name: settings[name] for name in names})
    boxes = request.boxes or (begun.boxes and Path(begun.boxes))
    return replace(begun, boxes=boxes, weights=request.weights or begun.weights)


def check_boxes(begun: Request, settings: dict[str, Any], dataset: Dataset, folder: Path) -> None:
    """Raise DatasetError for ``begun.boxes`` if they are not those that the run in ``folder`` was begun with.

    An older run does not say what was in them: then they must be of the same split and classes.
    """
    from finetune.segmentation.evaluation import boxes_files, boxes_sha256

    if not begun.boxes:
        return
    if not settings.get("boxes"):
        raise DatasetError(f"--boxes {begun.boxes}: {folder} began without; leave --boxes out")
    known, run = settings.get("boxes_sha256"), boxes_files(begun.boxes)["val"].absolute().parents[2]
    if known and boxes_sha256(begun.boxes) != known:
        raise DatasetError(f"--boxes {begun.boxes}: {folder} began with other predictions: name the run that has those")
    if not known and (run / "run.json").is_file():
        read_run(run, dataset)
