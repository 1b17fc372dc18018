"""Train ultralytics YOLO on a converted dataset, and measure it on the test part.

    python finetune/yolo.py --category screw --weights yolo11n.pt
    python finetune/yolo.py --data datasets_out/screw/yolo-seg/data.yaml                 # the same as --task segment
    python finetune/yolo.py --category screw --weights none --pretrain screw@paste-500   # random start
    python finetune/yolo.py --category screw --resume                                    # after Ctrl-C
    python finetune/yolo.py --category screw --device 0,1                                # two GPUs
    python finetune/yolo.py --category screw --folds 5                                   # screw@kfold-5-0 ... -4
    python finetune/yolo.py --category screw --eval-only runs/screw/yolo/seed-0 --export onnx

Val chooses the epoch and the threshold, test is looked at once, and all measures come from the saved predictions by
pycocotools.
ultralytics is AGPL-3.0, its checkpoints are pickles that can run code: load only those that you trust.
"""

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass, fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

if not __package__:  # run as a file: import from the repository, not from this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from converters.cli.errors import DatasetError
from converters.cli.options import (
    FOLDER,
    FOLDS,
    Acting,
    Number,
    command,
    given_options,
    json_option,
    out_option,
    overwrite_option,
    progress,
    seed_option,
    synthetic_share_option,
    to_json,
)
from finetune.detection import runs as yolo_runs
from finetune.detection.dataset_view import FORMATS, check_scale, named_by, size_of_whole, view_of
from finetune.detection.evaluation import LEAST_SCORE, evaluate, report, spread
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
from finetune.runs.dataset import Dataset, check_apart, choose_dataset, open_dataset, whole_images
from finetune.runs.predictions import Run, finished_run, read_run, start_run, told_to_resume, write_record
from finetune.runs.replay import config_option
from finetune.training.weights import RANDOM, find_weights, sha256

SUFFIXES = {"detect": "", "segment": "-seg", "obb": "-obb"}
SIZES = [f"{family}{size}" for family in ("yolo11", "yolo26") for size in "nsmlx"]
ACTING = Acting(beside_eval_only=("--export",), needs={"--arch": "--weights none"}, overruled={"--data": ("--out",)})
STAGES = ("pretrain", "train")  # a run's trainings, each in a folder of its name
LIGHT = (
    Path(__file__).with_name("detection") / "yolo11n-light.yaml"
)  # ultralytics takes the `n` for a size: yolo11-light.yaml


@dataclass(frozen=True)
class Recipe:
    """Training settings, with defaults for 50 to 300 defect images of about 1024 px and small defects."""

    epochs: int = 100  # mAP stays 0 for the first ones from random weights; early stopping ends sooner
    imgsz: int = 640  # a defect of 0.1 % of a 1024 px image is 20 px wide here, and 10 px at 320
    batch: int = 8  # a small set needs many steps rather than smooth ones
    lr: float = 1e-3  # AdamW's usual rate
    optimizer: str = "AdamW"  # `auto` would ignore --lr
    freeze: int = 0  # 10 keeps the backbone of a pre-trained start
    patience: int = 50  # val holds few defects, so its mAP is noisy
    background: float = 0.2  # share of good images in training: they prevent false alarms, but teach no defect
    mosaic: float = 1.0  # share of training images that are put together from parts of four
    degrees: float = 0.0  # up to 180 where products lie as they fall; boxes grow when they are turned

    def overrides(self) -> dict[str, Any]:
        """The same in ultralytics' words, with what products under a camera allow as augmentation."""
        return {
            "epochs": self.epochs,
            "imgsz": self.imgsz,
            "batch": self.batch,
            "lr0": self.lr,
            "optimizer": self.optimizer,
            "freeze": self.freeze or None,
            "patience": self.patience,
            "cos_lr": True,
            "scale": 0.25,  # a camera keeps its distance
            "mosaic": self.mosaic,
            "degrees": self.degrees,
            "close_mosaic": min(10, self.epochs // 5),  # its default of 10 means no mosaic at all in short runs
            "flipud": 0.5,  # a product has no "up" to its defects
            "fliplr": 0.5,
            "warmup_bias_lr": 0.0,  # its default of 0.1 is for SGD: a hundred times AdamW's rate
            "hsv_h": 0.0,  # colour is what some defects are
            "hsv_s": 0.2,
            "hsv_v": 0.3,
            "amp": False,  # ultralytics would fetch another checkpoint to test it
            "cache": "ram",  # small sets fit, and no image is decoded again in every epoch
            "nbs": self.batch,  # no accumulation over batches: steps are scarce
        }


def prepare_ultralytics(folder: Path) -> None:
    """Keep ultralytics from telling, installing and writing anywhere but in ``folder``. Before its first import."""
    os.environ.setdefault("YOLO_CONFIG_DIR", str(folder.absolute()))  # unless the user has set it
    os.environ["YOLO_OFFLINE"] = "1"  # no telemetry, no look-ups; weights are fetched by `fetch_weights`
    os.environ["YOLO_AUTOINSTALL"] = "False"
    os.environ["YOLO_VERBOSE"] = "False"
    os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count()))  # ultralytics would set 1


def addresses(names: Iterable[str]) -> dict[str, str]:
    """Where ultralytics publishes its checkpoints, by name."""
    return {name: f"https://github.com/ultralytics/assets/releases/download/v8.4.0/{name}" for name in names}


def fetch_weights(name: str) -> Path:
    """A published checkpoint by ultralytics' own download, into torch's cache of checkpoints."""
    import torch
    from ultralytics.utils.downloads import attempt_download_asset

    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return Path(attempt_download_asset(path))


def load_model(arch: str, weights: Path | None, task: str) -> Any:
    """A model from a checkpoint or, for None, of the named architecture with random weights."""
    from ultralytics import YOLO

    if weights is None:
        return YOLO(LIGHT if arch == LIGHT.stem else f"{arch}{SUFFIXES[task]}.yaml", task=task)
    model = read_checkpoint(YOLO, weights, f"yolo11n{SUFFIXES[task]}.pt")
    if model.task != task:
        raise DatasetError(
            f"--weights {weights}: was trained for the task {model.task}, not {task}: "
            f"add --task {model.task}, or choose other weights"
        )
    return model


def read_checkpoint(kind: Callable[[str], Any], weights: Path, published: str) -> Any:
    """What ``kind`` (YOLO or YOLOWorld) makes of a checkpoint; raises DatasetError for a file that is none.

    Of files not called .pt, ultralytics makes a network with random weights (.yaml), or keeps the name as the model.
    """
    from ultralytics.nn.tasks import BaseModel

    why = f"a {weights.suffix} file" if weights.suffix else "its name has no suffix"
    if weights.suffix.lower() == ".pt":
        try:
            model = kind(str(weights))
            if isinstance(model.model, BaseModel):
                return model
            why = type(model.model).__name__
        except Exception as error:  # whatever a foreign file makes its loader raise
            why = (str(error).splitlines() or [type(error).__name__])[0]
            why = why.removeprefix(f"ERROR ❌️ {weights} ").rstrip(".")
    raise DatasetError(
        f"--weights {weights}: is no checkpoint of ultralytics ({why}); name a .pt file that its training has "
        f"written, a published one such as {published}, or none for random weights"
    )


def check_freeze(model: Any, recipe: Recipe) -> None:
    """Raise DatasetError for a recipe that freezes all layers of the model."""
    if recipe.freeze >= (layers := len(model.model.model)):
        raise DatasetError(f"--freeze {recipe.freeze}: the network has {layers} layers, and one has to learn")


def check_device(device: str) -> None:
    """Raise DatasetError for a device that this machine does not have."""
    from ultralytics.utils.torch_utils import select_device

    try:
        select_device(device, verbose=False)
    except ValueError:
        raise DatasetError(f"--device {device}: not on this machine; leave it out, or name cpu") from None


def train(
    model: Any,
    data: Path,
    recipe: Recipe,
    run: Run,
    device: str,
    seed: int,
    name: str = "train",
    trainer: Callable[..., Any] | None = None,
    resume: bool = False,
) -> Path:
    """Train in the run's folder ``name`` with val choosing the epoch; return the best checkpoint.

    ``trainer`` makes ultralytics' trainer, where it isn't the usual one of the model. With ``resume``, ``model`` is
    the last.pt of the same folder, and continues with the settings and the epoch that it holds.
    """
    import torch

    threads, several = int(os.environ["OMP_NUM_THREADS"]), "," in device
    each = max(1, threads // (device.count(",") + 1))  # several devices have a process each
    model.add_callback("on_train_start", lambda trainer: torch.set_num_threads(each))  # it trains on cores - 1
    model.add_callback("on_train_start", check_all_read)
    model.add_callback("on_train_start", suit_cpu)
    folder = run.folder.absolute() / name
    overrides = {"resume": True, "save_dir": str(folder)} if resume else recipe.overrides()
    log = folder.with_suffix(".log")
    with (
        nullcontext() if several else epochs_shown(model, recipe.epochs),
        printed_into(log, several),
        interrupted_between_batches(model, several),
    ):
        model.train(
            trainer=trainer,
            data=str(data),
            project=str(folder.parent),
            name=name,
            exist_ok=True,
            device=device or None,
            seed=seed,
            verbose=False,
            plots=False,
            **overrides,
        )
    return folder / CHECKPOINTS / "best.pt"


@contextmanager
def epochs_shown(model: Any, epochs: int) -> Iterator[None]:
    bar: Any
    with progress(None, epochs, "training", item_show_func=lambda item: item) as bar:
        model.add_callback("on_train_start", lambda trainer: bar.update(trainer.start_epoch))
        model.add_callback("on_fit_epoch_end", lambda trainer: bar.update(1, f"val mAP50 {_map50(trainer):.3f}"))
        yield


@contextmanager
def printed_into(log_file: Path, by_children: bool) -> Iterator[None]:
    """Let what ultralytics prints go into a file, and what the processes that it starts for several GPUs print.

    Raises DatasetError where these fail.
    """
    if by_children:
        click.echo(f"on several devices; {log_file} tells how training goes", err=True)
    with log_file.open("a", encoding="utf-8") as log, redirect_stdout(log), redirect_stderr(log):
        if not by_children:
            yield
            return
        kept = [os.dup(stream) for stream in (1, 2)]
        try:
            for stream in (1, 2):
                os.dup2(log.fileno(), stream)
            yield
        except subprocess.CalledProcessError:
            raise DatasetError(f"{log_file}: a training process failed; the end of this file tells why") from None
        finally:
            for stream, copy in zip((1, 2), kept, strict=True):
                os.dup2(copy, stream)
                os.close(copy)


def check_all_read(trainer: Any) -> None:
    """Raise DatasetError for an image that ultralytics could not read: it would train without it, and only log that."""
    for dataset in (trainer.train_loader.dataset, trainer.test_loader.dataset):
        read = {Path(file).name for file in dataset.im_files}
        for link in sorted(Path(dataset.img_path).iterdir()):
            if link.name not in read:
                file = link.resolve()
                raise DatasetError(f"{file}: ultralytics cannot read it: convert again with --overwrite")


def suit_cpu(trainer: Any) -> None:
    """On a CPU, keep channels last, update all weights in one go, and multiply bfloat16 matrices where it can (AMX).

    ultralytics' own ``channels_last`` and ``amp`` know GPUs only. Weights stay float32, validation stays as it is.
    What each saves: benchmarks/yolo_step.py.
    """
    import torch
    from torch.utils._pytree import tree_map_only
    from ultralytics.utils.torch_utils import unwrap_model

    if trainer.device.type != "cpu":
        return
    network = unwrap_model(trainer.model).to(memory_format=torch.channels_last)
    for group in trainer.optimizer.param_groups:
        if "fused" in group:  # of torch's optimizers
            group |= {"fused": True, "foreach": False}
    if not torch.cpu._is_amx_tile_supported():
        return
    plain = network.predict

    def predict(*images: Any, **settings: Any) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            answer = plain(*images, **settings)
        return tree_map_only(torch.Tensor, torch.Tensor.float, answer)

    network.predict = predict  # the copy of the network that is averaged and saved was made before


class Interrupt:
    """A Ctrl-C that waits. As a callback, it goes along to the processes that ultralytics starts for several GPUs."""

    def __init__(self) -> None:
        self.wanted = False

    def note(self, number: int, _: Any) -> None:
        if self.wanted:  # the second one does not wait
            raise KeyboardInterrupt
        self.wanted = True

    def check(self, _: Any = None) -> None:
        if self.wanted:
            raise KeyboardInterrupt

    def wait_in_child(self, _: Any) -> None:
        """A child hears of one Ctrl-C twice, from the terminal and from torchrun."""
        signal.signal(signal.SIGINT, lambda number, frame: setattr(self, "wanted", True))


@contextmanager
def interrupted_between_batches(model: Any, in_children: bool = False) -> Iterator[None]:
    """Let Ctrl-C wait for the end of a training step, or of all, so that last.pt is never half written."""
    interrupt = Interrupt()
    model.add_callback("on_train_batch_end", interrupt.check)
    if in_children:
        model.add_callback("on_train_start", interrupt.wait_in_child)
    if threading.current_thread() is not threading.main_thread():  # Python takes signals there only
        yield
        return
    before = signal.signal(signal.SIGINT, interrupt.note)  # workers that load images inherit it, and stay calm
    try:
        yield
    except subprocess.CalledProcessError:
        interrupt.check()
        raise
    finally:
        signal.signal(signal.SIGINT, before)
    interrupt.check()  # it came after the last step, in validation


def state_of(weights: Path) -> str:
    """How far the training with these checkpoints has come: ``absent``, ``unfinished`` or ``ended``.

    A last.pt holds the optimizer and the epoch, until ultralytics takes them out of it at the end.
    """
    if not (weights / "last.pt").is_file():
        return "absent"
    checkpoint = _read_checkpoint(weights / "last.pt")
    done = checkpoint["epoch"] + 1
    return "unfinished" if 0 < done < checkpoint["train_args"]["epochs"] else "ended"


def best_of(weights: Path) -> Path:
    """best.pt of a training that has ended, without the optimizer, even if a kill came before that was taken out."""
    from ultralytics.utils.torch_utils import strip_optimizer

    best = weights / "best.pt"
    if _read_checkpoint(best)["epoch"] >= 0:
        strip_optimizer(best)
    return best


def _read_checkpoint(file: Path) -> dict[str, Any]:
    from ultralytics.utils.patches import torch_load

    try:
        return torch_load(file, map_location="cpu")
    except Exception as error:  # whatever half a pickle makes its loader raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DatasetError(f"{file}: is damaged ({reason}); train again with --overwrite") from None


def _map50(trainer: Any) -> float:
    return float(trainer.metrics.get("metrics/mAP50(B)", 0.0))


def recipe_options(defaults: Recipe) -> Callable[[Any], Any]:
    """The options that make up a recipe, with its fields as parameters."""
    options = (
        click.option("--epochs", type=click.IntRange(1), default=defaults.epochs),
        click.option("--imgsz", type=click.IntRange(32), default=defaults.imgsz, help="Longest side in training, px."),
        click.option("--batch", type=click.IntRange(1), default=defaults.batch),
        click.option("--lr", type=Number(0, min_open=True), default=defaults.lr),
        click.option("--optimizer", type=click.Choice(["AdamW", "SGD", "MuSGD"]), default=defaults.optimizer),
        click.option(
            "--freeze", type=click.IntRange(0), default=defaults.freeze, help="First layers that stay as they are."
        ),
        click.option(
            "--patience", type=click.IntRange(1), default=defaults.patience, help="Epochs without gain before a stop."
        ),
        click.option(
            "--background",
            type=Number(0, 1, max_open=True),
            default=defaults.background,
            help="Share of good images.",
        ),
        click.option("--mosaic", type=Number(0, 1), default=defaults.mosaic, help="Share of images made of four."),
        click.option("--degrees", type=Number(0, 180), default=defaults.degrees, help="Turned by up to this."),
    )

    def add(function: Any) -> Any:
        for option in reversed(options):
            function = option(function)
        return function

    return add


@dataclass(frozen=True)
class Request(yolo_runs.Request):
    """What is asked for, apart from the recipe and the dataset; the fields are the command's options."""

    task: str
    crop: int
    pretrain: str | None
    pretrain_epochs: int | None
    synthetic_share: float | None
    export: str | None


def train_and_evaluate(request: Request, recipe: Recipe, dataset: Dataset) -> dict[str, Any]:
    """Leave a whole run on one dataset; return its measures by part.

    A run on tiles is a run of the dataset of whole images that they were cut from, and is measured on those.
    """
    dataset = replace(dataset, synthetic_share=request.synthetic_share)
    first = open_dataset(request.out, request.pretrain) if request.pretrain else None
    check(request, recipe, dataset, first)
    prepare_ultralytics(request.runs / ".ultralytics")
    check_device(request.device)
    run, model = start(request, recipe, dataset, first)
    parts = [part for part in (first, dataset) if part]
    size = size_of_whole(dataset, recipe.imgsz, request.crop)
    cpu = cpu_seconds()
    with told_to_resume(run.folder, has_last):
        best = train_in_turn(model, parts, request, recipe, run, size)
        cost = cost_of(run.seconds, cpu_seconds() - cpu, request.resume)
        model = load_model(request.arch, best, request.task)
        tiles = dataset if dataset.tiles else None
        measured = evaluate(model, run, request.task, size, request.device.split(",")[0], tiles=tiles)
    run.finish(
        model="YOLO",
        random_weights=request.weights == RANDOM,
        weights_sha256=run.settings["weights_sha256"],
        pretrained_on=request.pretrain,
        synthetic_images=sum(len(part.synthetic_images) for part in parts),
        pretrain_synthetic_images=len(first.synthetic_images) if first else 0,
        resumed=request.resume,
        seconds_per_image=measured.pop("seconds_per_image"),
        metrics=measured,
        **cost,
        **facts_of(model, best),
    )
    return measured


def facts_of(model: Any, checkpoint: Path | None) -> dict[str, Any]:
    return {
        "weights_bytes": checkpoint and checkpoint.stat().st_size,
        "parameters": sum(parameter.numel() for parameter in model.model.parameters()),
        "device": str(next(model.model.parameters()).device),
    }


def check(request: Request, recipe: Recipe, dataset: Dataset, first: Dataset | None) -> None:
    """Raise DatasetError for what cannot be trained or measured; ``first`` is the dataset of --pretrain."""
    whole = whole_images(request.out, dataset)
    dataset.format(FORMATS[request.task])
    if request.arch == LIGHT.stem and request.task != "detect":
        raise DatasetError(f"--arch {request.arch}: finds boxes only; choose another for --task {request.task}")
    if request.crop and (request.task != "detect" or dataset.tiles):
        raise DatasetError("--crop: is for boxes on whole images; make tiles with the converter's --tile instead")
    check_batch(recipe.batch, request.device)
    if not dataset.classes:
        raise DatasetError(f"{dataset.folder}: holds no defects to learn")
    check_parts(whole)
    if request.crop:
        check_scale(whole)
    if first:
        first.format(FORMATS[request.task])
        check_apart(whole_images(request.out, first), whole)


def start(request: Request, recipe: Recipe, dataset: Dataset, first: Dataset | None) -> tuple[Run, Any]:
    """The run and the model that it starts from; of an interrupted run, no model."""
    whole, folder = whole_images(request.out, dataset), request.folder(dataset)
    origin = {
        "tiles": dataset.name if dataset.tiles else None,
        "split_sha256": dataset.split["sha256"],
        "label_settings": dataset.label_settings,
        "pretrain_split_sha256": first and first.split["sha256"],
    }
    if request.resume:
        return continue_run(folder, whole, origin), None
    checkpoint = find_weights(
        request.weights, addresses(f"{size}{SUFFIXES[request.task]}.pt" for size in SIZES), fetch_weights
    )
    if checkpoint and folder.resolve() in checkpoint.resolve().parents:
        raise DatasetError(f"--weights {request.weights}: lies in the run that would be replaced; name another --run")
    model = load_model(request.arch, checkpoint, request.task)
    check_freeze(model, recipe)
    settings = request.settings() | {"weights_sha256": checkpoint and sha256(checkpoint)} | asdict(recipe) | origin
    return start_run(folder, whole, settings, request.overwrite, settings), model


def whole_image_trainer(imgsz: int) -> Callable[..., Any]:
    """ultralytics' trainer of boxes, which measures val on whole images of this size while it trains on squares."""
    from ultralytics.data import build_yolo_dataset
    from ultralytics.models.yolo.detect import DetectionTrainer
    from ultralytics.utils import IterableSimpleNamespace

    class WholeImageTrainer(DetectionTrainer):
        def build_dataset(self, img_path: str, mode: str = "train", batch: int | None = None) -> Any:
            if mode == "train":
                return super().build_dataset(img_path, mode, batch)
            settings = IterableSimpleNamespace(**{**vars(self.args), "imgsz": imgsz})
            return build_yolo_dataset(settings, img_path, batch, self.data, mode=mode, rect=True)

    return WholeImageTrainer


def train_in_turn(
    model: Any, datasets: Sequence[Dataset], request: Request, recipe: Recipe, run: Run, size: int
) -> Path:
    """Train on each dataset, the next one from the best checkpoint of the one before; return the last best.

    A model of None continues where an interrupted run stopped. ``size`` is that of whole images.
    """
    best = None
    for name, dataset in zip(STAGES[-len(datasets) :], datasets, strict=True):
        weights, data = run.folder / name / CHECKPOINTS, run.folder / f"{name}-data"
        state = state_of(weights) if request.resume else "absent"
        if state == "ended":
            best = best_of(weights)
            continue
        if state == "unfinished":
            model = load_model(request.arch, weights / "last.pt", request.task)
        else:
            model = load_model(request.arch, best, request.task) if best else model
            shutil.rmtree(data, ignore_errors=True)
            view_of(dataset, request.task, recipe.background, data, request.crop)
        epochs = request.pretrain_epochs if name == "pretrain" and request.pretrain_epochs else recipe.epochs
        own = replace(recipe, epochs=epochs)
        trainer = whole_image_trainer(size) if request.crop else None
        best = train(
            model, data / "data.yaml", own, run, request.device, request.seed, name, trainer, state == "unfinished"
        )
        if request.crop:
            shutil.rmtree(data)  # many files, which can be cut again
    assert best is not None
    return best


def cpu_seconds() -> float:
    """CPU time of this process and of its children that have ended, such as workers that load images."""
    return sum(os.times()[:4])


def export_onnx(best: Path, task: str, imgsz: int) -> Path:
    """Write best.onnx beside best.pt: 1 x 3 x imgsz x imgsz of 0..1 in, boxes after NMS out (see docs/measurements)."""
    model = load_model("", best, task)
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        return Path(model.export(format="onnx", imgsz=imgsz, nms=True, conf=LEAST_SCORE, simplify=False, device="cpu"))


def evaluate_again(request: Request, folder: Path, dataset: Dataset) -> dict[str, Any]:
    """Predict and measure again with the best checkpoint of a finished run, and write that into the run."""
    best = folder / STAGES[-1] / CHECKPOINTS / "best.pt"
    dataset = whole_images(request.out, dataset)
    record = finished_run(folder, dataset, "YOLO", [best.relative_to(folder)])
    run, settings = Run(folder, dataset, record["settings"]), record["settings"]
    prepare_ultralytics(request.runs / ".ultralytics")
    check_device(request.device)
    model = load_model(settings["arch"], best, settings["task"])
    tiles = open_dataset(request.out, settings["tiles"]) if settings["tiles"] else None
    size = size_of_whole(dataset, settings["imgsz"], settings["crop"])
    measured = evaluate(model, run, settings["task"], size, request.device.split(",")[0], tiles=tiles)
    record |= {"seconds_per_image": measured.pop("seconds_per_image"), "metrics": measured, **facts_of(model, best)}
    write_record(folder, record)
    return measured


def export_run(request: Request, folder: Path, dataset: Dataset) -> Path:
    """Export the best checkpoint of a finished run, one of an earlier call too; ``dataset`` may be of its tiles."""
    settings = read_run(folder, whole_images(request.out, dataset))["settings"]
    prepare_ultralytics(request.runs / ".ultralytics")
    size = size_of_whole(dataset, settings["imgsz"], settings["crop"])
    return export_onnx(folder / STAGES[-1] / CHECKPOINTS / "best.pt", settings["task"], size)


def read_data_option(
    name: str | None, data: Path | None, folds: int | None, options: dict[str, Any], given: set[str]
) -> str:
    """The dataset's name; what --data says besides goes into ``options`` and ``given``.

    Raises DatasetError where others say otherwise.
    """
    if data is None:
        return choose_dataset(options["out"], name)
    if name is not None:
        raise DatasetError("--category and --data: both name the dataset; leave one of them out")
    if folds:
        raise DatasetError("--folds: needs --category NAME; a data.yaml is of one fold")
    assert data is not None
    out, name, task = named_by(data)
    if "task" in given and options["task"] != task:
        raise DatasetError(f"--task {options['task']}: {data} is for {task}; leave --task out, or name other data")
    options |= {"out": out, "task": task}
    given |= {"out", "task"}
    return name


@command(acting=ACTING)
@click.option("--category", "--dataset", "name", metavar="NAME", help="Dataset in --out to train on.")
@click.option("--data", type=FOLDER, metavar="FILE", help="The same by its OUT/NAME/yolo/data.yaml, which sets --task.")
@out_option
@click.option("--runs", type=FOLDER, default="runs", help="Where runs are written.")
@click.option("--run", "run_name", show_default="yolo, or yolo-tile-SIDE on tiles", help="Name of the run.")
@click.option("--task", type=click.Choice(list(FORMATS)), default="detect", help="Boxes, polygons or rotated boxes.")
@click.option(
    "--arch", type=click.Choice([*SIZES, LIGHT.stem]), default="yolo11n", help="Architecture, for --weights none."
)
@click.option("--weights", default="yolo11n.pt", help="Published name, checkpoint FILE, or none (random).")
@click.option("--pretrain", metavar="DATASET", help="Train on this dataset first (screw@paste-500), then on NAME.")
@click.option("--pretrain-epochs", type=click.IntRange(1), show_default="as --epochs", help="Epochs of --pretrain.")
@synthetic_share_option
@recipe_options(Recipe())
@click.option("--crop", type=click.IntRange(0), default=0, help="Train on squares of so many px, scaled to --imgsz.")
@click.option("--folds", type=FOLDS, help="Train on NAME@kfold-FOLDS-0, -1 ... one after another.")
@click.option("--device", default="", show_default="GPU, else CPU", help="cpu, or the numbers of GPUs: 0 or 0,1.")
@seed_option
@click.option("--resume", is_flag=True, help="Continue an interrupted run.")
@click.option(
    "--eval-only", type=FOLDER, metavar="RUN", help="Predict and measure again with a finished run's weights."
)
@click.option("--export", type=click.Choice(["onnx"]), help="Also write the best checkpoint as best.onnx.")
@click.option("--world", is_flag=True, help="YOLO-World, which knows words: the options of finetune/yolo_world.py.")
@config_option
@overwrite_option
@json_option
@click.pass_context
def main(
    ctx: click.Context,
    name: str | None,
    data: Path | None,
    folds: int | None,
    eval_only: Path | None,
    world: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Train YOLO on a converted dataset; print mAP on test; leave a run folder.

    The run folder RUNS/DATASET/RUN/seed-SEED holds run.json, predictions/tuned/ for val and test in the COCO
    results format, figures/, and train/weights/best.pt. A run on tiles (NAME@tile-SIDE) is measured on the whole
    images, and so lies among the runs of NAME.
    """
    if world:
        raise DatasetError("--world: is for the command line; from Python, call finetune.yolo_world.main")
    given = given_options(ctx)
    name = read_data_option(name, data, folds, options, given)
    recipe = Recipe(**{field.name: options.pop(field.name) for field in fields(Recipe)})
    request = Request(**options)
    if request.export and find_spec("onnx") is None:
        raise DatasetError("--export onnx: needs onnx: pip install -e '.[export]'")
    if eval_only:
        found = {name: evaluate_again(request, eval_only, open_dataset(request.out, name))}
    else:
        datasets = [open_dataset(request.out, each, request.synthetic_share) for each in fold_names(name, folds)]
        found = train_on_each(datasets, request, recipe, given, train_and_evaluate, lambda record: record["metrics"])
    for each in found if request.export else ():  # of folds, the finished ones that --resume kept too
        dataset = open_dataset(request.out, each)
        export_run(request, eval_only or request.folder(dataset), dataset)
    if as_json:
        click.echo(to_json(found if folds else found[name]), nl=False)
        return
    for each, measured in found.items():
        folder = eval_only or request.folder(open_dataset(request.out, each))
        click.echo(report(folder, measured["test"]))
    if folds:
        click.echo(spread([measured["test"] for measured in found.values()]))


if __name__ == "__main__":
    if "--world" in sys.argv:
        from finetune.yolo_world import main as main_of_world

        sys.argv.remove("--world")
        main_of_world(prog_name="python finetune/yolo_world.py")
    main(prog_name="python finetune/yolo.py")
