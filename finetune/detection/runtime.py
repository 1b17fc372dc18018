"""ultralytics at work: checkpoints, one training, its log, Ctrl-C, and what makes it quick on a CPU."""

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
from torch.utils._pytree import tree_map_only
from ultralytics import YOLO
from ultralytics.nn.tasks import BaseModel, DetectionModel
from ultralytics.utils.downloads import attempt_download_asset
from ultralytics.utils.patches import torch_load
from ultralytics.utils.torch_utils import select_device, strip_optimizer, unwrap_model

from converters.cli.errors import DatasetError
from converters.cli.terminal import progress
from finetune.detection.evaluation import LEAST_SCORE
from finetune.detection.recipe import LIGHT, SUFFIXES, Recipe, Starter
from finetune.detection.runs import CHECKPOINTS
from finetune.runs.checksums import sha256
from finetune.training.checkpoints import load_state
from finetune.training.weights import find_weights

NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")  # in messages of CUDA, CPU and Windows


@dataclass(frozen=True)
class Start:
    """What a training begins with, and its name in run.json: random, published or installed NAME, file SHA-256[:12]."""

    file: Path | None  # None: random weights
    name: str
    starter: Starter | None = None  # the installed one, if it is that

    def shown(self, wanted: str | None) -> str:
        """In words for the terminal; ``wanted`` is --weights, which names a file by its path."""
        if self.starter:
            return f"{self.name} (the published one is neither cached nor within reach)"
        return "random weights" if self.file is None else wanted or self.name


def find_start(wanted: str | None, usual: str, names: Iterable[str], starter: Starter | None) -> Start:
    """What --weights asks for: a file, one of ``names`` that ultralytics publishes (without .pt), or none.

    For None it is the published ``usual`` or, where that is neither in the cache nor within reach, the ``starter``.
    """
    address = "https://github.com/ultralytics/assets/releases/download/v8.4.0"
    known = {f"{name}.pt": f"{address}/{name}.pt" for name in names}
    try:
        file = find_weights(wanted or usual, known, fetch_weights)
    except DatasetError:
        if wanted is None and starter is not None:
            return Start(starter.file, f"installed {starter.file.stem}", starter)
        raise
    if file is None:
        return Start(None, "random")
    named = wanted or usual
    return Start(file, f"published {named}" if named in known and file != Path(named) else f"file {sha256(file)[:12]}")


def fetch_weights(name: str) -> Path:
    """A published checkpoint by ultralytics' own download, into torch's cache of checkpoints."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return Path(attempt_download_asset(path))


def load_model(arch: str, weights: Path | None, task: str) -> Any:
    """A model from a checkpoint or, for None, of the named architecture with random weights."""
    if weights is None:
        return YOLO(LIGHT if arch == LIGHT.stem else f"{arch}{SUFFIXES[task]}.yaml", task=task)
    model = read_checkpoint(YOLO, weights, f"yolo11n{SUFFIXES[task]}.pt")
    if model.task != task:
        raise DatasetError(
            f"--weights {weights}: was trained for the task {model.task}, not {task}: "
            f"add --task {model.task}, or choose other weights"
        )
    return model


def load_start(start: Start, arch: str, task: str) -> Any:
    """The model that a training begins with."""
    return load_starter(start.starter) if start.starter else load_model(arch, start.file, task)


def load_starter(starter: Starter) -> Any:
    """The installed model, whose file is read without running any code in it; raises DatasetError for another file."""
    if not starter.file.is_file() or sha256(starter.file) != starter.sha256:
        raise DatasetError(
            f"{starter.file}: is missing, damaged or of another version: install this package again, or name a "
            "checkpoint with --weights FILE"
        )
    state = load_state(starter.file)
    classes = state[max(name for name in state if name.endswith("cv3.0.2.bias"))].numel()
    model = YOLO(LIGHT, task="detect")
    model.model = DetectionModel(LIGHT, nc=classes, verbose=False)  # fewer classes, a narrower branch for them
    model.model.load_state_dict(state)
    model.ckpt = {"model": model.model}  # else training would begin with random weights
    return model


def read_checkpoint(kind: Callable[[str], Any], weights: Path, published: str) -> Any:
    """The model that ``kind`` (YOLO or YOLOWorld) makes of a checkpoint; raises DatasetError for a file that is none.

    Of files not called .pt, ultralytics makes a network with random weights (.yaml), or keeps the name as the model.
    """
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
    try:
        select_device(device, verbose=False)
    except ValueError:
        raise DatasetError(f"--device {device}: not on this machine; leave it out, or name cpu") from None


def precision(device: torch.device) -> str | bool:
    """ultralytics' ``amp`` for a device: bf16 where a GPU computes in bfloat16 itself, else False.

    False on other GPUs too, where ``True`` would fetch a checkpoint to try it with: ``suit_gpu`` turns it on.
    """
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else False


def gpu_peak_memory_mb(device: str) -> int | None:
    """Most memory that this process has held on its GPU so far; None without one, or of several (own processes)."""
    known = torch.cuda.is_available() and torch.cuda.is_initialized() and "," not in device
    return round(torch.cuda.max_memory_allocated() / (1 << 20)) if known else None


@contextmanager
def out_of_memory_named(recipe: Recipe) -> Iterator[None]:
    """Turn a want of memory, of a GPU or this machine, into one line that names what can be made smaller."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is a RuntimeError
        if not isinstance(error, MemoryError) and not lacks_memory(str(error)):
            raise
        raise DatasetError(no_memory(recipe)) from None


def lacks_memory(message: str) -> bool:
    return any(words in message.lower() for words in NO_MEMORY)


def no_memory(recipe: Recipe) -> str:
    asked = "what fits (-1)" if recipe.batch == -1 else recipe.batch
    return f"--batch {asked}, --imgsz {recipe.imgsz}: out of memory; name a smaller --batch or a smaller --imgsz"


def train(
    model: Any,
    data: Path,
    recipe: Recipe,
    within: Path,
    device: str,
    seed: int,
    name: str = "train",
    trainer: Callable[..., Any] | None = None,
    resume: bool = False,
) -> Path:
    """Train in the folder ``within``/``name``, a run's, with val choosing the epoch; return the best checkpoint.

    ``trainer`` makes ultralytics' trainer, where it isn't the usual one of the model. With ``resume``, ``model`` is
    the last.pt of the same folder, and continues with the settings and the epoch that it holds.
    """
    threads, several = int(os.environ["OMP_NUM_THREADS"]), "," in device
    each = max(1, threads // (device.count(",") + 1))  # several devices have a process each
    model.add_callback("on_train_start", lambda trainer: torch.set_num_threads(each))  # it trains on cores - 1
    model.add_callback("on_train_start", check_all_read)
    model.add_callback("on_train_start", suit_cpu)
    model.add_callback("on_train_start", suit_gpu)
    if recipe.batch == -1:
        model.add_callback("on_pretrain_routine_start", count_found_batch)
    folder = within.absolute() / name
    amp = precision(select_device(device, verbose=False))
    overrides = {"resume": True, "save_dir": str(folder)} if resume else recipe.overrides() | {"amp": amp}
    log = folder.with_suffix(".log")
    with (
        nullcontext() if several else epochs_shown(model, recipe.epochs),
        printed_into(log, several, recipe),
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
def printed_into(log_file: Path, by_children: bool, recipe: Recipe) -> Iterator[None]:
    """Let what ultralytics prints go into a file, and what the processes that it starts for several GPUs print.

    Raises DatasetError where these fail.
    """
    if by_children:
        click.echo(f"on several devices; {log_file} tells how training goes", err=True)
    with log_file.open("a", encoding="utf-8") as log, redirect_stdout(log), redirect_stderr(log):
        if not by_children:
            yield
            return
        kept, before = [os.dup(stream) for stream in (1, 2)], log_file.stat().st_size
        try:
            for stream in (1, 2):
                os.dup2(log.fileno(), stream)
            yield
        except subprocess.CalledProcessError:
            printed = log_file.read_bytes()[before:].decode("utf-8", "replace")
            if lacks_memory(printed):
                raise DatasetError(f"{no_memory(recipe)} ({log_file})") from None
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


def suit_gpu(trainer: Any) -> None:
    """Mixed precision on a GPU: bfloat16, or float16 with scaled losses where it has none; on other devices, none.

    Here, and not by ``amp`` alone, so that no checkpoint is fetched for ultralytics' check of float16, and a run that
    is resumed on another kind of device suits that. ``args.amp`` goes into checkpoints.
    """
    trainer.args.amp = precision(trainer.device)
    trainer.amp = trainer.device.type == "cuda"
    trainer.scaler = torch.amp.GradScaler("cuda", enabled=trainer.amp and not trainer.args.amp)


def count_found_batch(trainer: Any) -> None:
    """Let the batch that ultralytics finds to fit the GPU be the nominal one too: no accumulation, no other decay."""
    find = trainer.auto_batch

    def auto_batch() -> int:
        trainer.args.nbs = find()
        return int(trainer.args.nbs)

    trainer.auto_batch = auto_batch


class Interrupt:
    """A Ctrl-C that waits. As a callback, it goes along to the processes that ultralytics starts for several GPUs."""

    def __init__(self) -> None:
        self.wanted = False

    def note(self, number: int, _: Any) -> None:
        self.check()  # the second one does not wait
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
    """The progress of the training with these checkpoints: ``absent``, ``unfinished`` or ``ended``.

    A last.pt holds the optimizer and the epoch, until ultralytics takes them out of it at the end.
    """
    if not (weights / "last.pt").is_file():
        return "absent"
    checkpoint = _read_checkpoint(weights / "last.pt")
    done = checkpoint["epoch"] + 1
    return "unfinished" if 0 < done < checkpoint["train_args"]["epochs"] else "ended"


def best_of(weights: Path) -> Path:
    """best.pt of a training that has ended, without the optimizer, even if a kill came before that was taken out."""
    best = weights / "best.pt"
    if _read_checkpoint(best)["epoch"] >= 0:
        strip_optimizer(best)
    return best


def _read_checkpoint(file: Path) -> dict[str, Any]:
    try:
        return torch_load(file, map_location="cpu")
    except Exception as error:  # whatever half a pickle makes its loader raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DatasetError(f"{file}: is damaged ({reason}); train again with --overwrite") from None


def _map50(trainer: Any) -> float:
    return float(trainer.metrics.get("metrics/mAP50(B)", 0.0))


def facts_of(model: Any, checkpoint: Path | None) -> dict[str, Any]:
    """What run.json tells of a model and of its checkpoint, whose training may have begun with a batch of -1."""
    return {
        "batch_used": model.ckpt["train_args"]["batch"] if checkpoint else None,
        "weights_bytes": checkpoint and checkpoint.stat().st_size,
        "parameters": sum(parameter.numel() for parameter in model.model.parameters()),
        "device": str(next(model.model.parameters()).device),
    }


def cpu_seconds() -> float:
    """CPU time of this process and of its children that have ended, such as workers that load images."""
    return sum(os.times()[:4])


def export_onnx(model: Any, imgsz: int, device: str = "cpu") -> Path:
    """Write NAME.onnx beside the model's NAME.pt: 1 x 3 x imgsz x imgsz of 0..1 in, boxes after NMS out.

    See docs/measurements.
    """
    settings = {"imgsz": imgsz, "conf": LEAST_SCORE, "device": device}
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        return Path(model.export(format="onnx", nms=True, simplify=False, **settings))


def open_exported(file: Path, task: str) -> Any:
    """An exported file as ultralytics runs it in onnxruntime: its letterbox before, its places on the image after."""
    return YOLO(str(file), task=task)
