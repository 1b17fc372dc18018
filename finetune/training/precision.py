"""The arithmetic of a training."""

import torch


def autocast_on(device: str, precision: str = "auto") -> torch.autocast:
    """16 bits where ``auto`` finds the device faster for it; bfloat16 needs no loss scaling."""
    kind = device.split(":")[0]
    if precision == "auto":
        fast = torch.cuda.is_bf16_supported() if kind == "cuda" else torch.cpu._is_amx_tile_supported()
        precision = "bfloat16" if fast else "float16" if kind == "cuda" else "float32"
    if precision == "float32":
        return torch.autocast(kind, enabled=False)
    return torch.autocast(kind, getattr(torch, precision))
