"""What an answer of a model costs: measured in one way for all of them."""

import io
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr

import cv2
import torch

from finetune.runs.answers import Predictor
from finetune.runs.dataset import Dataset, read_image

IMAGES = 20


def cost_of(predictor: Predictor, dataset: Dataset, device: str) -> dict[str, float | None]:
    """What a finished run's answers to images of test cost; see ``cost_of_answers``."""

    def answer(name: str) -> object:
        return predictor.look(read_image(dataset.image_file("test", name), cv2.IMREAD_COLOR_RGB))

    return cost_of_answers(answer, dataset.images("test"), device)


def cost_of_answers(answer: Callable[[str], object], names: Sequence[str], device: str) -> dict[str, float | None]:
    """``seconds_per_image``, and ``gpu_peak_memory_mb`` (MiB that tensors took at most; None on a CPU).

    ``answer`` goes from the file of the image of that name to the heat map, the masks or the boxes at full image size,
    one image at a time, and its result lies on the CPU. After one answer that is not counted, IMAGES images spread
    over ``names`` are answered (all, where there are fewer); the time is the median of their wall times, each between
    two moments at which the GPU has nothing left to do.
    """
    chosen = names[:: max(1, len(names) // IMAGES)][:IMAGES]
    on_gpu = torch.device(device).type == "cuda"
    seconds = []
    with redirect_stderr(io.StringIO()):  # no progress bars of one image each
        answer(chosen[0])
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(device)
        for name in chosen:
            _wait(device, on_gpu)
            began = time.perf_counter()
            answer(name)
            _wait(device, on_gpu)
            seconds.append(time.perf_counter() - began)
    peak = round(torch.cuda.max_memory_allocated(device) / (1 << 20)) if on_gpu else None
    return {"seconds_per_image": round(statistics.median(seconds), 5), "gpu_peak_memory_mb": peak}


def _wait(device: str, on_gpu: bool) -> None:
    if on_gpu:
        torch.cuda.synchronize(device)
