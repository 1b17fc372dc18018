"""Weights that torchvision publishes, by name and as files."""

from pathlib import Path
from typing import Any

OWN = ("fine", "deep")  # networks of ours, beside torchvision's


def published(arch: str) -> dict[str, Any]:
    """torchvision's weights of an architecture by name, DEFAULT among them; none for our own networks."""
    from torchvision import models

    if arch in OWN:
        return {}
    found = models.get_model_weights(arch)
    return dict(found.__members__) | ({"DEFAULT": found.DEFAULT} if len(found) else {})


def fetch_weights(weights: Any) -> Path:
    """The file of published weights, by torchvision's own download into torch's cache."""
    import torch

    weights.get_state_dict(progress=False, check_hash=True)
    return Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rpartition("/")[2]
