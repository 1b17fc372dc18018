"""Record what anomalib and MVTec's own code say about AUPRO on synthetic arrays; writes recorded.json beside this file.

Needs an environment of its own (anomalib wants opencv-python-headless) and the two files `pro_curve_util.py` and
`generic_util.py` of MVTec's `mvtec_ad_evaluation.tar.xz`, which is CC BY-NC-SA and therefore not part of this project:

    python3.11 -m venv /tmp/anomalib && /tmp/anomalib/bin/pip install anomalib==2.7.0
    /tmp/anomalib/bin/python tests/aupro/record.py MVTEC_FOLDER
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np

RECORDED = Path(__file__).with_name("recorded.json")
LIMITS = (0.3, 0.05)


def cases() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Name -> (anomaly maps, masks of 0 and 1), both N x H x W."""
    random = np.random.default_rng(7)
    masks = np.zeros((6, 72, 96), np.uint8)
    masks[0, 10:22, 12:40] = 1
    masks[0, 40, 5:70] = 1  # a scratch of one pixel
    masks[1, 0:9, 80:96] = 1  # touches the edge
    masks[1, 30:35, 30:35] = masks[1, 35:40, 35:40] = 1  # touch at a corner: one region
    masks[2, 50:70, 2:30] = 1
    masks[2, 55:60, 10:20] = 0  # a hole
    masks[2, 57, 14] = 1  # a defect in the hole of a defect
    masks[3, 71, 95] = 1  # one pixel
    noise = random.normal(0, 1, masks.shape)
    weak = (noise + 1.2 * masks).astype(np.float32)
    return {
        "no better than chance": (noise.astype(np.float32), masks),
        "weak": (weak, masks),
        "strong": ((noise + 4 * masks).astype(np.float32), masks),
        "many ties": (np.round(weak * 2) / 2, masks),
        "two values": ((weak > 1).astype(np.float32), masks),
        "all equal": (np.zeros_like(weak), masks),
        "16 bit": (np.clip(weak * 5000 + 30000, 0, 65535).astype(np.uint16), masks),
    }


def by_anomalib(maps: np.ndarray, masks: np.ndarray, limit: float) -> float:
    import torch
    from anomalib.metrics.aupro import _AUPRO

    metric = _AUPRO(fpr_limit=limit)
    metric.update(torch.from_numpy(maps.astype(np.float32)), torch.from_numpy(masks.astype(np.int64)))
    return float(metric.compute())


def by_mvtec(maps: np.ndarray, masks: np.ndarray, limit: float) -> float:
    from generic_util import trapezoid
    from pro_curve_util import compute_pro

    return float(trapezoid(*compute_pro(list(maps.astype(np.float64)), list(masks)), x_max=limit) / limit)


def main(mvtec: str) -> None:
    sys.path.insert(0, mvtec)
    values = {
        name: {
            str(limit): {"anomalib": by_anomalib(*arrays, limit), "mvtec": by_mvtec(*arrays, limit)} for limit in LIMITS
        }
        for name, arrays in cases().items()
    }
    versions = {package: version(package) for package in ("anomalib", "torch", "numpy")}
    RECORDED.write_text(json.dumps({"versions": versions, "aupro": values}, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
