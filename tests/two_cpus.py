"""Two processes on this CPU, by gloo, in place of two GPUs; all else is ultralytics' own way, its file included."""

import os
import signal
import subprocess
import time
from collections import defaultdict
from pathlib import Path

AT_START = """
import hashlib
import os
from pathlib import Path
from types import SimpleNamespace
import torch
from ultralytics.utils import torch_utils

one = torch_utils.select_device
torch_utils.select_device = lambda device, **settings: one("cpu", **settings)
from ultralytics.engine import model, trainer, validator

init, wrap = trainer.BaseTrainer.__init__, torch.nn.parallel.DistributedDataParallel
validate, predict = trainer.BaseTrainer.validate, model.Model.predict
backend, cpu = validator.AutoBackend, torch.device("cpu")
seen = Path(os.environ["SEEN"])

def two(self, *arguments, **settings):
    init(self, *arguments, **settings)
    self.world_size, self.ddp = 2, trainer.LOCAL_RANK == -1

def gloo(self):
    torch.distributed.init_process_group("gloo", rank=trainer.RANK, world_size=2)

def note_weights(self):
    learned = [each for each in torch_utils.unwrap_model(self.model).parameters() if each.requires_grad]
    digest = hashlib.sha256(b"".join(each.detach().numpy().tobytes() for each in learned)).hexdigest()
    name = f"{self.save_dir.name},{self.epoch},{trainer.RANK} of {torch.distributed.get_world_size()}"
    (seen / name).write_text(digest)
    return validate(self)

def note_image(self, source, **settings):
    with (seen / f"predicted by {os.getpid()}").open("a") as file:
        print(source, file=file)
    return predict(self, source, **settings)

trainer.BaseTrainer.__init__, trainer.BaseTrainer._setup_ddp = two, gloo
trainer.BaseTrainer.validate, model.Model.predict = note_weights, note_image
validator.get_torch_device_backend = lambda kind: SimpleNamespace(current_device=lambda: 0)
validator.AutoBackend = lambda device, **settings: backend(device=cpu, **settings)
torch.nn.parallel.DistributedDataParallel = lambda model, device_ids, **settings: wrap(model, **settings)
"""


class TwoCpus:
    """Runs commands whose `--device 0,1` are two processes here, and tells what these processes saw."""

    def __init__(self, folder: Path) -> None:
        (folder / "python").mkdir()
        (folder / "python" / "sitecustomize.py").write_text(AT_START, "utf-8")
        self.seen = folder / "seen"
        self.seen.mkdir()
        self.config = folder / "config"
        self.environment = os.environ | {"OMP_NUM_THREADS": "2", "SEEN": str(self.seen)}
        self.environment["YOLO_CONFIG_DIR"] = str(self.config)
        path = [str(folder / "python"), os.environ.get("PYTHONPATH", "")]
        self.environment["PYTHONPATH"] = os.pathsep.join(path)

    def run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=600)

    def interrupt(self, command: list[str], file: Path) -> tuple[int, str]:
        """Press Ctrl-C as soon as ``file`` is there; return exit code and stderr."""
        process = subprocess.Popen(
            command, env=self.environment, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        until = time.monotonic() + 600
        while not file.is_file() and process.poll() is None:
            assert time.monotonic() < until
            time.sleep(0.05)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        said = process.communicate(timeout=120)[1]
        return process.returncode, said

    def weights(self, training: str) -> list[dict[str, str]]:
        """For each epoch of a training, a digest of what is trained by process."""
        found: dict[int, dict[str, str]] = defaultdict(dict)
        for file in self.seen.glob(f"{training},*"):
            _, epoch, process = file.name.split(",")
            found[int(epoch)][process] = file.read_text("utf-8")
        return [found[epoch] for epoch in sorted(found)]

    def check_weights(self, training: str, epochs: int) -> None:
        """Fail unless both processes had the same weights after each epoch, and others after the next."""
        found = self.weights(training)
        assert [set(each) for each in found] == [{"0 of 2", "1 of 2"}] * epochs
        assert all(len(set(each.values())) == 1 for each in found)
        assert len({each["0 of 2"] for each in found}) == epochs

    def predicted(self) -> list[list[str]]:
        """Images by the process that predicted them."""
        return [file.read_text("utf-8").splitlines() for file in self.seen.glob("predicted by *")]

    def check_nothing_left(self) -> None:
        """Fail where ultralytics' files for the processes are left."""
        (left,) = self.config.glob("**/DDP")
        assert not list(left.iterdir())
