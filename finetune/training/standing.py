"""Where a training stands: what --resume needs, saved at the end of each epoch."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from finetune.training.checkpoints import load_saved, save_state
from finetune.training.processes import leads


@dataclass
class Standing:
    """Epochs that have ended, and which of them was the best."""

    epoch: int = 0
    best: list[float] = field(default_factory=list)  # its scores, the first one first; higher is better
    best_epoch: int = 0
    cpu_seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)

    def improves(self, scores: list[float]) -> bool:
        """Are the scores of the epoch that has just ended the best so far? If so, they are noted."""
        better = scores > self.best
        if better:
            self.best, self.best_epoch = scores, self.epoch
        return better


def keep_standing(at: Standing, states: Mapping[str, Any], file: Path) -> None:
    """Save it with the ``state_dict`` of everything in ``states``, whole or not at all; only the first process does."""
    if leads():
        save_state({name: state.state_dict() for name, state in states.items()} | {"standing": asdict(at)}, file)


def load_standing(states: Mapping[str, Any], file: Path) -> Standing:
    """Set ``states`` to what the file holds; without a file, no epoch had ended, and the training starts again."""
    if not file.is_file():
        return Standing()
    saved = load_saved(file)
    for name, state in states.items():
        state.load_state_dict(saved[name])
    return Standing(**saved["standing"])
