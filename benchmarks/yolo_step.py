"""What `suit_cpu` of `finetune/yolo.py` saves: CPU seconds of a training step, one thread.

    python benchmarks/yolo_step.py [--imgsz 128] [--batch 8] [--rounds 20]

Forward, loss, backward and AdamW of `yolo11n-light` from random weights on random squares. The steps take turns.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click

from converters.cli.command import command
from converters.cli.terminal import table

KINDS = ("usual", "channels last", "and a fused AdamW", "and bfloat16 (AMX)")


@command()
@click.option("--imgsz", type=click.IntRange(32), default=128, help="Side of a square, px.")
@click.option("--batch", type=click.IntRange(1), default=8, help="Squares a step.")
@click.option("--rounds", type=click.IntRange(1), default=20)
def main(imgsz: int, batch: int, rounds: int) -> None:
    """Compare training steps as ultralytics does them on a CPU with ours."""
    with tempfile.TemporaryDirectory() as folder:  # ultralytics' settings are not to lie in the home folder
        compare(Path(folder), imgsz, batch, rounds)


def compare(folder: Path, imgsz: int, batch: int, rounds: int) -> None:
    import torch

    from finetune.detection import environment

    environment.prepare_ultralytics(folder)
    torch.set_num_threads(1)
    kinds = KINDS if torch.cpu._is_amx_tile_supported() else KINDS[:3]
    trainers = {kind: trainer_of(kind) for kind in kinds}
    labels = {"batch_idx": torch.arange(batch).float(), "cls": torch.zeros(batch, 1)}
    labels["bboxes"] = torch.full((batch, 4), 0.3)
    spent: dict[str, list[float]] = {kind: [] for kind in kinds}
    for number in range(rounds + 2):
        images = torch.rand(batch, 3, imgsz, imgsz)
        for kind, trainer in trainers.items():
            began = time.process_time()
            trainer.model.loss({"img": images, **labels})[0].sum().backward()
            trainer.optimizer.step()
            trainer.optimizer.zero_grad()
            if number >= 2:  # the first ones prepare
                spent[kind].append(time.process_time() - began)
    medians = {kind: statistics.median(seconds) for kind, seconds in spent.items()}
    rows = [[kind, f"{median:.4f}", f"{median / medians['usual']:.2f}"] for kind, median in medians.items()]
    click.echo(table(rows, ["a step", "CPU s, median", "ratio"]))


def trainer_of(kind: str) -> Any:
    """What a step needs: yolo11n-light for five classes, and AdamW."""
    import torch
    from ultralytics.cfg import get_cfg
    from ultralytics.nn.tasks import DetectionModel

    from finetune.detection import recipe, runtime

    model: Any = DetectionModel(recipe.LIGHT, nc=5, verbose=False).train()
    model.args = get_cfg()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    trainer = SimpleNamespace(device=torch.device("cpu"), model=model, optimizer=optimizer)
    plain = model.predict
    if kind == "channels last":
        model.to(memory_format=torch.channels_last)
    elif kind != "usual":
        runtime.suit_cpu(trainer)
    if kind == "and a fused AdamW":
        model.predict = plain
    return trainer


if __name__ == "__main__":
    sys.exit(main(prog_name="python benchmarks/yolo_step.py"))
