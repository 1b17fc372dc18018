"""How well can a simple probe tell made defect images from real ones? 0.5 is not at all, 1.0 is always.

    python benchmarks/made_or_real.py datasets_out/screw@paste-500

Real and synthetic images of train are looked at where their largest defect lies: how much of a window of 64 px is in
which band of frequencies, and how sharp the image is inside the mask, on its border and around it. A logistic
regression and a nearest-neighbour classifier are tested by five-fold cross-validation; a real image and all its
children are in the same fold, so that nothing is recognised by its parent. Synthetic images with one paste are used.
"""

import json
import sys
from pathlib import Path

import cv2
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from converters.datasets.origin import source_of
from converters.datasets.records import read_split
from converters.masks.reading import read_mask

SIDE, BANDS, FOLDS, NEIGHBOURS = 64, 16, 5, 5


def window_around(image: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """SIDE x SIDE of the image and of its mask's largest part, whose middle is the window's; edges are mirrored."""
    _, labels, stats, centroids = cv2.connectedComponentsWithStats(mask)
    largest = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    x, y = (int(v) for v in centroids[largest])
    part = (labels == largest).astype(np.uint8)
    padded = [np.pad(array, SIDE // 2, mode="symmetric") for array in (image, part)]
    return padded[0][y : y + SIDE, x : x + SIDE], padded[1][y : y + SIDE, x : x + SIDE]


def spectrum(window: np.ndarray) -> np.ndarray:
    """Logarithm of the share of the power in BANDS rings of frequencies; brightness and contrast cancel."""
    taper = np.outer(np.hanning(SIDE), np.hanning(SIDE))
    power = np.abs(np.fft.fft2((window - window.mean()) * taper)) ** 2
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(SIDE), np.fft.fftfreq(SIDE)))
    ring = np.minimum((radius / 0.5 * BANDS).astype(int), BANDS - 1)
    sums = np.bincount(ring.ravel(), power.ravel(), BANDS)
    return np.log(sums / sums.sum() + 1e-9)


def sharpness(window: np.ndarray, part: np.ndarray) -> np.ndarray:
    """Logarithms of the mean Laplacian (absolute) on the mask's border and around it, over that inside."""
    kernel = np.ones((5, 5), np.uint8)
    grown, core = cv2.dilate(part, kernel) > 0, cv2.erode(part, kernel) > 0
    around = (cv2.dilate(part, np.ones((17, 17), np.uint8)) > 0) & ~grown
    inside = core if core.any() else part > 0
    edges = np.abs(cv2.Laplacian(window, cv2.CV_64F, ksize=1)) + 0.5
    means = [edges[area].mean() if area.any() else edges.mean() for area in (inside, grown & ~core, around)]
    return np.log([means[1] / means[0], means[2] / means[0], means[1] / means[2]])


def features(image: Path, mask: np.ndarray) -> np.ndarray:
    window, part = window_around(cv2.imread(str(image), cv2.IMREAD_GRAYSCALE).astype(np.float64), mask)
    return np.concatenate([spectrum(window), sharpness(window, part)])


def main() -> None:
    for dataset in map(Path, sys.argv[1:]):
        record, split = json.loads((dataset / "augment.json").read_text("utf-8")), read_split(dataset)
        _, samples = source_of(dataset, None, split)
        rows, made, groups = [], [], []
        for sample in samples:
            if sample.mask is not None and split["parts"].get(sample.key) == "train":
                rows.append(features(sample.image, read_mask(sample.mask).mask))
                made.append(0)
                groups.append(sample.key)
        for entry in (entry for entry in record["images"] if len(entry["parts"]) == 1):
            folder = dataset / "synthetic"
            rows.append(features(folder / "images" / entry["image"], read_mask(folder / "masks" / entry["image"]).mask))
            made.append(1)
            groups.append(entry["parts"][0]["source"])
        print(f"{dataset.name}: {len(made) - sum(made)} real images, {sum(made)} synthetic ones")
        probes = {
            "logistic regression": LogisticRegression(class_weight="balanced", max_iter=1000),
            f"{NEIGHBOURS} nearest neighbours": KNeighborsClassifier(NEIGHBOURS, weights="distance"),
        }
        for columns, what in ((slice(None), "all"), (slice(BANDS), "frequencies"), (slice(BANDS, None), "sharpness")):
            for name, probe in probes.items():
                scores = cross_val_predict(
                    make_pipeline(StandardScaler(), probe),
                    np.array(rows)[:, columns],
                    made,
                    groups=groups,
                    cv=GroupKFold(FOLDS),
                    method="predict_proba",
                )[:, 1]
                print(f"  {what}, {name}: AUROC {roc_auc_score(made, scores):.3f}")


if __name__ == "__main__":
    main()
