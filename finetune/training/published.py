"""Weights that torchvision publishes, by name and as files."""

from pathlib import Path
from typing import Any

import torch
from torchvision import models

from converters.cli.errors import DatasetError
from finetune.training.weights import OWN, RANDOM, find_weights


def start_weights(weights: str, arch: str) -> Path | None:
    """The file that ``--weights`` asks for: torchvision's by name, or any; None for random weights."""
    known = published(arch)
    if weights != RANDOM and arch in OWN and not Path(weights).exists():
        raise DatasetError(f"--weights {weights}: --arch {arch} is our own: name a file, or none")
    return find_weights(weights, {name: known[name].url for name in known}, lambda name: fetch_weights(known[name]))


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
