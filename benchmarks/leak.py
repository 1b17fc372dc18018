"""What a random split of photographs of the same objects flatters: one classifier on it and on a split by object.

    python benchmarks/leak.py DATA/magnetic_tile mobilenet_v2.pth --seeds 5 --to docs/measurements/results/leak.json

The classifier is a logistic regression on frozen features of torchvision's mobilenet_v2 (the state_dict of the second
argument; average of its last map at 224 px, the image squeezed to a square). It tells good and every defect type
apart. Its strength C is the best of five on val, by macro-F1; then test is looked at once. Both splits are the
default 60/20/20: one with the groups that the source's layout knows, and one as if it knew none
(`--group '(.+)'` makes that one with the converters).
"""

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torchvision.models import mobilenet_v2
from torchvision.transforms.v2.functional import normalize, pil_to_tensor, resize

from converters.cli.terminal import to_json
from converters.datasets.splits import SplitRule, make_split
from converters.sources.reading import read_category
from converters.sources.samples import GOOD, Sample
from finetune.runs.checksums import sha256

SIDE, BATCH = 224, 32
STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)  # C of the logistic regression
MEAN, DEVIATION = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # ImageNet's


@torch.inference_mode()
def features(samples: Sequence[Sample], weights: Path) -> np.ndarray:
    """N x 1280."""
    network = mobilenet_v2()
    network.load_state_dict(torch.load(weights, weights_only=True))
    network.eval()
    found = []
    for start in range(0, len(samples), BATCH):
        images = [Image.open(sample.image).convert("RGB") for sample in samples[start : start + BATCH]]
        squares = [resize(pil_to_tensor(image), [SIDE, SIDE], antialias=True) for image in images]
        maps = network.features(normalize(torch.stack(squares) / 255, MEAN, DEVIATION))
        found.append(maps.mean(dim=(2, 3)).numpy())
    return np.concatenate(found)


def scores(samples: Sequence[Sample], vectors: np.ndarray, seed: int) -> dict[str, Any]:
    """The measures on test of the classifier that is best on val, and how many groups the split tears apart."""
    split = make_split(samples, SplitRule(seed=seed))
    part = np.array([split.parts[sample.key] for sample in samples])
    labels = np.array([sample.defect for sample in samples])
    train, val, test = (part == name for name in ("train", "val", "test"))
    models = [
        make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2000)).fit(
            vectors[train], labels[train]
        )
        for strength in STRENGTHS
    ]
    on_val = [f1_score(labels[val], model.predict(vectors[val]), average="macro") for model in models]
    best = int(np.argmax(on_val))
    said = models[best].predict(vectors[test])
    defective = 1 - models[best].predict_proba(vectors[test])[:, list(models[best].classes_).index(GOOD)]
    return {
        "seed": seed,
        "C": STRENGTHS[best],
        "images": {name: int(chosen.sum()) for name, chosen in (("train", train), ("val", val), ("test", test))},
        "macro_f1_val": round(on_val[best], 4),
        "macro_f1": round(f1_score(labels[test], said, average="macro"), 4),
        "auroc": round(roc_auc_score(labels[test] != GOOD, defective), 4),
    }


def torn(samples: Sequence[Sample], seed: int) -> int:
    """Groups that a split without groups puts into more than one part."""
    parts = make_split([dataclasses.replace(s, group="") for s in samples], SplitRule(seed=seed)).parts
    where: dict[str, set[str]] = {}
    for sample in samples:
        where.setdefault(sample.group, set()).add(parts[sample.key])
    return sum(len(found) > 1 for group, found in where.items() if group)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--seeds", type=int, default=5, help="splits with the seeds 0, 1, ...")
    parser.add_argument("--to", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    began = time.process_time()
    samples = read_category(arguments.source).samples
    vectors = features(samples, arguments.weights)
    alone = [dataclasses.replace(sample, group="") for sample in samples]
    seeds = range(arguments.seeds)
    rows = {
        "random": [scores(alone, vectors, seed) for seed in seeds],
        "grouped": [scores(samples, vectors, seed) for seed in seeds],
    }
    names = ("macro_f1", "auroc")
    means = {
        kind: {name: round(statistics.mean(row[name] for row in rows[kind]), 4) for name in names} for kind in rows
    }
    record = {
        "schema": 1,
        "command": " ".join(["python", *sys.argv]),
        "commit": subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip(),
        "start": {"arch": "mobilenet_v2, frozen", "file": arguments.weights.name, "sha256": sha256(arguments.weights)},
        "images": len(samples),
        "groups": len({sample.group for sample in samples if sample.group}),
        "groups_torn_by_random_splits": [torn(samples, seed) for seed in seeds],
        "mean": means,
        "difference": {name: round(means["random"][name] - means["grouped"][name], 4) for name in names},
        "splits": rows,
        "cpu_seconds": round(time.process_time() - began, 1),
    }
    if arguments.to:
        arguments.to.parent.mkdir(parents=True, exist_ok=True)
        arguments.to.write_text(to_json(record), "utf-8")
    print(json.dumps({key: value for key, value in record.items() if key != "splits"}, indent=2))


if __name__ == "__main__":
    main()
