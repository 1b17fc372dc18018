"""Several processes of one training, as torchrun starts them: which one this is, and what they say to each other."""

import os
from collections.abc import Callable, Sequence
from datetime import timedelta

import torch
from torch import distributed, nn

from converters.cli.errors import DatasetError

LONGEST = timedelta(days=1)  # the others wait while the first one measures


def place() -> tuple[int, int]:
    """Rank of this process and number of processes, as torchrun says; (0, 1) without it."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def leads() -> bool:
    """Is this the process that writes?"""
    return place()[0] == 0


def prepare_device(wanted: str) -> str:
    """The device by name, a GPU where there is one; joins torchrun's other processes, each on a GPU of its own.

    Raises DatasetError for a device that can't be had, or that all processes would share.
    """
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    device = wanted or ("cuda" if torch.cuda.is_available() else "cpu")
    several = place()[1] > 1
    if several and device.startswith("cuda:"):
        raise DatasetError(f"--device {wanted}: torchrun's processes take a GPU each: use --device cuda")
    if several and device == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise DatasetError(f"--device {wanted}: {str(error).splitlines()[0]}") from None
    if several and not distributed.is_initialized():
        if device.startswith("cuda"):
            torch.cuda.set_device(device)
        distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo", timeout=LONGEST)
    return device


def wait_for_all() -> None:
    """Let torchrun's processes continue together: what the first one writes is then there for the others."""
    if place()[1] > 1:
        distributed.barrier()


def as_first(find: Callable[[], float]) -> float:
    """The finding of the first process, in all of them; the others don't look."""
    if place()[1] == 1:
        return find()
    device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
    found = torch.tensor(find() if leads() else 0.0, dtype=torch.float64, device=device)
    distributed.broadcast(found, 0)
    return found.item()


def add_up(parameters: Sequence[nn.Parameter], loss: float) -> float:
    """Add up gradients over the processes, in place, and losses. A parameter without any gradient keeps none."""
    if place()[1] == 1:
        return loss
    gradients = [torch.zeros_like(each) if each.grad is None else each.grad for each in parameters]
    counts = [float(each.grad is not None) for each in parameters]
    rest = torch.tensor([*counts, loss], device=gradients[0].device)
    whole = torch.cat([*(gradient.flatten() for gradient in gradients), rest])
    distributed.all_reduce(whole)
    *sums, rest = whole.split([*(each.numel() for each in parameters), len(rest)])
    for parameter, total, count in zip(parameters, sums, rest[:-1].tolist(), strict=True):
        parameter.grad = total.view_as(parameter) if count else None
    return float(rest[-1])
