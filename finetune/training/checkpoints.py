"""State dictionaries, written whole and read without running code."""

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from converters.cli.errors import DatasetError


def load_state(path: Path, flag: str = "--weights") -> dict[str, Tensor]:
    """A state_dict from a file, read without running any code in it; raises DatasetError for anything else."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # torch raises whatever its unpickler and its zip reader do
        raise DatasetError(
            f"{flag} {path}: is no checkpoint that loads with weights_only=True; name a file that "
            "`torch.save(model.state_dict(), FILE)` has written"
        ) from None
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise DatasetError(f"{flag} {path}: holds no state_dict (names and tensors): save model.state_dict()")
    return {re.sub(r"(denselayer\d+\.(?:norm|relu|conv))\.([12])\.", r"\1\2.", key): state[key] for key in state}


def load_saved(path: Path) -> dict[str, Any]:
    """The state of a training that ``save_state`` saved, for --resume; raises DatasetError for a damaged file."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # as above
        raise DatasetError(f"--resume: {path} is damaged: train again with --overwrite") from None


def save_state(state: dict[str, Any], path: Path) -> None:
    """Save it whole or not at all: a process that is killed leaves the file as it was."""
    partial = path.with_name(f"{path.name}.partial")
    torch.save(state, partial)
    partial.replace(path)
