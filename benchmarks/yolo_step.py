"""What `channels_last` saves `finetune/yolo.py` on a CPU: CPU seconds of a training step, one thread.

    python benchmarks/yolo_step.py [--imgsz 128] [--batch 8] [--pairs 20]

Forward, loss and backward of `yolo11n-light` from random weights on random squares. Steps with and without alternate.
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from converters.options import command, table


@command()
@click.option("--imgsz", type=click.IntRange(32), default=128, help="Side of a square, px.")
@click.option("--batch", type=click.IntRange(1), default=8, help="Squares a step.")
@click.option("--pairs", type=click.IntRange(1), default=20)
def main(imgsz: int, batch: int, pairs: int) -> None:
    """Compare training steps with weights in the usual order and with channels last."""
    import torch

    from finetune import yolo

    yolo.prepare_ultralytics(Path(tempfile.mkdtemp()))  # its settings are not to lie in the home folder
    torch.set_num_threads(1)
    networks = [network_of(yolo), network_of(yolo).to(memory_format=torch.channels_last)]
    labels = {"batch_idx": torch.arange(batch).float(), "cls": torch.zeros(batch, 1)}
    labels["bboxes"] = torch.full((batch, 4), 0.3)
    seconds: list[list[float]] = [[], []]
    for number in range(pairs + 2):
        images = torch.rand(batch, 3, imgsz, imgsz)
        for network, spent in zip(networks, seconds, strict=True):
            began = time.process_time()
            network.loss({"img": images, **labels})[0].sum().backward()
            if number >= 2:  # the first ones prepare
                spent.append(time.process_time() - began)
    usual, last = map(statistics.median, seconds)
    rows = [["usual", f"{usual:.4f}", "1.00"], ["channels last", f"{last:.4f}", f"{last / usual:.2f}"]]
    click.echo(table(rows, ["order", "CPU s a step, median", "ratio"]))


def network_of(yolo: Any) -> Any:
    """yolo11n-light for five classes, ready to be trained."""
    from ultralytics.cfg import get_cfg
    from ultralytics.nn.tasks import DetectionModel

    network = DetectionModel(yolo.LIGHT, nc=5, verbose=False).train()
    network.args = get_cfg()
    return network


if __name__ == "__main__":
    sys.exit(main(prog_name="python benchmarks/yolo_step.py"))
