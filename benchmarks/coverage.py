"""What the report's intervals cover, and how often it calls equal models different, by simulation.

    python benchmarks/coverage.py [--repeats 500] [--to docs/measurements/results/coverage.json]

Each repeat draws test images and trainings of two equal models, measures them as `finetune/compare.py` does, and asks
whether the intervals hold the true value (that of 20,000 images and all trainings) and whether the models are called
different. An image is difficult for all trainings, and for each in a way of its own (both: noise of images); a
training is more or less skilled (noise of seeds). With noise of seeds alone there are so many images that theirs
matters little. Exit status 1 where a bound is broken by more than chance explains.
"""

import sys
import time
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom, norm
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from converters.cli.terminal import table, to_json
from finetune.measures import scores
from finetune.measures.bootstrap import resample
from finetune.measures.intervals import Sampled, auroc_interval, difference_test, holm, mean_interval, share_interval
from finetune.runs.run_folder import git_commit

Floats = NDArray[np.float64]
RESAMPLES = 200
MANY = 20_000  # images that stand for all
SEEDS = (3, 5, 10)
CALLED_AT = 1.0  # the threshold of image scores
EXACT, RESAMPLED, TOO_OFTEN = (0.92, 1.0), (0.92, 0.98), 0.06  # bounds of coverage, and of calling equals different
AUROCS = ((0.8, 8, 25), (0.92, 8, 25), (0.98, 8, 25), (0.92, 20, 60), (0.98, 20, 60))  # with good, defective images
SHARES = ((0.05, 12), (0.2, 12), (0.5, 25), (0.9, 25), (0.98, 60))  # with images
MODELS = 6  # held against one baseline


@dataclass(frozen=True)
class Noise:
    """Standard deviations, where a defect raises the score by 1.8, and the number of test images."""

    images: float  # difficulty of an image, the same for all trainings
    own: float  # difficulty of an image for one training
    seeds: float  # skill of a training
    size: int  # three in four show a defect


NOISES = {
    "images": Noise(0.9, 0.45, 0.0, 60),
    "seeds": Noise(0.9, 0.45, 0.5, 300),
    "both": Noise(0.9, 0.45, 0.4, 60),
}


@dataclass(frozen=True)
class Images:
    """N test images; (N,) each."""

    defect: NDArray[np.bool_]
    difficulty: Floats
    area: Floats  # px of defects


@dataclass(frozen=True)
class Answer:
    """What one training says of N images; (N,) each."""

    scores: Floats
    found: Floats  # px of defects
    false: Floats  # px beside them


def draw_images(noise: Noise, random: np.random.Generator) -> Images:
    defect = np.arange(noise.size) % 4 > 0
    area = np.where(defect, random.lognormal(6, 0.5, noise.size), 0.0)
    return Images(defect, random.normal(0, noise.images, noise.size), area)


def train(images: Images, noise: Noise, skill: float, random: np.random.Generator) -> Answer:
    """One training of some skill looks at the images."""
    seen = images.difficulty + random.normal(0, noise.own, noise.size)
    share = 1 / (1 + np.exp(-(0.8 + skill + seen)))
    return Answer(np.where(images.defect, 1.8 + skill, 0.0) + seen, images.area * share, np.exp(3.5 - skill + seen))


def sample(images: Images, answers: list[Answer], weights: Floats) -> dict[str, Sampled]:
    """The measures of S trainings, resampled by ``weights`` (B x N), as compare has them."""
    weights = np.concatenate([np.ones((1, len(images.defect))), weights])
    found: dict[str, list[Floats]] = defaultdict(list)
    for answer in answers:
        levels = scores.score_levels(images.defect, answer.scores, weights)
        called = answer.scores >= CALLED_AT
        # found, false alarms, missed, passed
        kinds = [side & judged for judged in (called, ~called) for side in (images.defect, ~images.defect)]
        rates = scores.decisions(*(weights @ kind for kind in kinds))
        found["AUROC"].append(scores.auroc(levels))
        found["false alarms"].append(rates["false_alarms"] / 100)
        found["AP"].append(scores.average_precision(levels))
        found["F1"].append(rates["f1"])
        found["Dice"].append(2 * (weights @ answer.found) / (weights @ (answer.found + answer.false + images.area)))
    size = len(images.defect)
    return {name: Sampled(np.array(draws)[:, 0], np.array(draws)[:, 1:], size) for name, draws in found.items()}


def true_values(noise: Noise, random: np.random.Generator) -> dict[str, float]:
    """By scikit-learn, on so many images that they leave no noise, over evenly spread trainings."""
    many = replace(noise, size=MANY)
    images = draw_images(many, random)
    measured = []
    for quantile in (np.arange(25) + 0.5) / 25 if noise.seeds else [0.5]:
        answer = train(images, many, noise.seeds * norm.ppf(quantile), random)
        called = answer.scores >= CALLED_AT
        measured.append(
            {
                "AUROC": roc_auc_score(images.defect, answer.scores),
                "false alarms": called[~images.defect].mean(),
                "AP": average_precision_score(images.defect, answer.scores),
                "F1": f1_score(images.defect, called),
                "Dice": 2 * answer.found.sum() / (answer.found + answer.false + images.area).sum(),
            }
        )
    return {name: float(np.mean([one[name] for one in measured])) for name in measured[0]}


def of_images(name: str, found: Sampled, good: int, size: int) -> tuple[float, float] | None:
    """The interval for the noise of images that compare takes for this measure."""
    if name == "AUROC":
        return auroc_interval(found.mean, size - good, good)
    return share_interval(found.mean, good) if name == "false alarms" else None


def simulate(noise: Noise, seeds: int, repeats: int, random: np.random.Generator) -> dict[str, dict[str, float]]:
    """Measure -> ``covered``, and ``different`` of two equal models: shares of the repeats."""
    truth = true_values(noise, random)
    covered, different = ({name: [] for name in truth} for _ in "12")
    for _ in range(repeats):
        images = draw_images(noise, random)
        weights = resample(images.defect.tolist(), range(noise.size), RESAMPLES, random)
        models = [
            sample(
                images, [train(images, noise, skill, random) for skill in random.normal(0, noise.seeds, seeds)], weights
            )
            for _ in range(2)
        ]
        for name, true in truth.items():
            for model in models:
                bounds = of_images(name, model[name], int((~images.defect).sum()), noise.size)
                found = mean_interval(model[name], bounds)
                covered[name].append(found is not None and found[0] <= true <= found[1])
            p = difference_test(models[0][name], models[1][name])["p"]
            different[name].append(p is not None and p < 0.05)
    return {
        name: {"covered": float(np.mean(covered[name])), "different": float(np.mean(different[name]))} for name in truth
    }


def coverage_of_auroc(auroc: float, good: int, defective: int, repeats: int, random: np.random.Generator) -> float:
    """Of Newcombe's interval for one training, with normal scores."""
    shift = np.sqrt(2) * norm.ppf(auroc)
    negative, positive = random.normal(0, 1, (repeats, good, 1)), random.normal(shift, 1, (repeats, 1, defective))
    intervals = [auroc_interval(float(one), defective, good) for one in (positive > negative).mean(axis=(1, 2))]
    return float(np.mean([low <= auroc <= high for low, high in intervals]))


def coverage_of_share(share: float, size: int) -> float:
    """Of Clopper and Pearson's interval, summed over what may be counted: no chance in it."""
    counts = np.arange(size + 1)
    held = [low <= share <= high for low, high in (share_interval(count / size, size) for count in counts)]
    return float(binom.pmf(counts, size, share)[held].sum())


def any_different(repeats: int, seeds: int, random: np.random.Generator) -> float:
    """How often any of MODELS equal models is called different from the baseline after Holm's correction."""
    noise, found = NOISES["both"], []
    for _ in range(repeats):
        images = draw_images(noise, random)
        weights = resample(images.defect.tolist(), range(noise.size), RESAMPLES, random)
        models = [
            sample(
                images, [train(images, noise, skill, random) for skill in random.normal(0, noise.seeds, seeds)], weights
            )
            for _ in range(MODELS + 1)
        ]
        tests = [difference_test(model["Dice"], models[0]["Dice"])["p"] for model in models[1:]]
        found.append(min(holm([1.0 if p is None else p for p in tests])) < 0.05)
    return float(np.mean(found))


def run(repeats: int, seeds: tuple[int, ...] = SEEDS, seed: int = 0) -> list[dict[str, Any]]:
    """One entry a case: what is covered, by which method, and the bounds that it must keep."""
    random = np.random.default_rng(seed)
    found: list[dict[str, Any]] = []
    for auroc, good, defective in AUROCS:
        covered = coverage_of_auroc(auroc, good, defective, 4 * repeats, random)
        found.append({"case": f"AUROC {auroc}, {good} good and {defective} defective images", "covered": covered})
    for share, size in SHARES:
        found.append({"case": f"share {share} of {size} images", "covered": coverage_of_share(share, size)})
    for kind, noise in NOISES.items():
        for count in seeds:
            for name, one in simulate(noise, count, repeats, random).items():
                found.append({"case": f"{name}, noise of {kind}, {count} seeds"} | one)
    found.append({"case": f"Dice, {MODELS} models, 3 seeds, Holm", "different": any_different(repeats // 2, 3, random)})
    for one in found:
        low, high = EXACT if one["case"].startswith(("AUROC", "share", "false alarms")) else RESAMPLED
        least, most, often = low - chance(low, repeats), high + chance(high, repeats), TOO_OFTEN
        one["kept"] = least <= one.get("covered", low) <= most
        one["kept"] &= one.get("different", 0.0) <= often + chance(often, repeats)
    return found


def chance(share: float, repeats: int) -> float:
    """Two standard deviations of a share of so many repeats."""
    return 2 * float(np.sqrt(share * (1 - share) / repeats))


@click.command()
@click.option("--repeats", type=click.IntRange(10), default=500, help="Number of simulated comparisons a case.")
@click.option("--seed", default=0, help="Of the simulation.")
@click.option("--to", type=click.Path(path_type=Path), help="JSON file to write as well.")
def main(repeats: int, seed: int, to: Path | None) -> None:
    """Print the share of intervals that hold the truth, and of equal models that are called different."""
    began = time.process_time()
    found = run(repeats, seed=seed)
    shown = [[f"{one[key]:.3f}" if key in one else "" for key in ("covered", "different")] for one in found]
    rows = [[one["case"], *cells, "" if one["kept"] else "BROKEN"] for one, cells in zip(found, shown, strict=True)]
    click.echo(table(rows, ["case", "covered", "called different", ""], "simple"))
    if to is not None:
        record = {
            "schema": 1,
            "command": f"python benchmarks/coverage.py --repeats {repeats} --seed {seed} --to {to}",
            "commit": git_commit(),
            "seed": seed,
            "repeats": repeats,
            "cpu_seconds": round(time.process_time() - began, 1),
            "cases": found,
        }
        to.write_text(to_json(record), "utf-8")
    sys.exit(0 if all(one["kept"] for one in found) else 1)


if __name__ == "__main__":
    main()
