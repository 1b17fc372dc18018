"""The split into train, val and test: decided once, recorded in ``split.json``, carried by every format.

Images are ranked by a hash of the seed and their path, so that a split depends on no library's random
generator and adding images reorders none of the others. Byte-identical images stay in one part.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from converters.cli.errors import DatasetError
from converters.cli.terminal import to_json
from converters.sources.duplicates import Unit, grouped_by_content
from converters.sources.samples import GOOD, PARTS, Problem, Sample

COMBINED = "combined"  # MVTec's type for images that show several defects


@dataclass(frozen=True)
class SplitRule:
    """The rule of a split: ``--protocol --ratios --folds --fold --shots --per --seed --combined``."""

    protocol: str = "stratified"
    ratios: tuple[int, int, int] = (60, 20, 20)
    folds: int = 5
    fold: int = 0
    shots: int = 10
    per: str = "category"
    seed: int = 0
    combined: str = "keep"

    @property
    def settings(self) -> dict[str, object]:
        """Settings that matter to the protocol, without the member of its family (the fold, the number of shots)."""
        relevant = {"kfold": ["folds"], "few-shot": ["ratios", "per"]}.get(self.protocol, ["ratios"])
        return {name: getattr(self, name) for name in ("protocol", *relevant, "seed", "combined")}

    @property
    def member(self) -> dict[str, int]:
        """The member of the family that this split is."""
        return {"kfold": {"fold": self.fold}, "few-shot": {"shots": self.shots}}.get(self.protocol, {})

    @property
    def suffix(self) -> str:
        """The end of a dataset's name that tells its split: nothing for the default protocol."""
        per = "-per-type" if self.per == "type" else ""
        return {
            "kfold": f"@kfold-{self.folds}-{self.fold}",
            "few-shot": f"@few-shot-{self.shots}{per}-s{self.seed}",
        }.get(self.protocol, "")


@dataclass(frozen=True)
class Split:
    """The answer to "who is in test", as it is recorded in ``split.json``."""

    rule: SplitRule
    sources: str  # SHA-256 over all paths and file contents
    parts: dict[str, str]  # image key -> part
    unused: dict[str, str]  # image key -> why it is in no part
    base: dict[str, str] | None = None  # of a dataset with synthetic images: the dataset without them, and their hash

    @property
    def family(self) -> str:
        """Equal for all folds of one k-fold split, and for all shots of one few-shot split."""
        return _sha256(json.dumps([self.rule.settings, self.sources], sort_keys=True))

    @property
    def sha256(self) -> str:
        """The hash that every format carries."""
        return _sha256(self.to_json())

    def to_json(self) -> str:
        return to_json(
            {
                "schema": 1,
                **self.rule.settings,
                **self.rule.member,
                "family": self.family,
                "sources": self.sources,
                **({"base": self.base} if self.base else {}),
                "parts": self.parts,
                "unused": self.unused,
            }
        )


def make_split(samples: Sequence[Sample], rule: SplitRule) -> Split:
    """Divide the samples of one dataset.

    Raises DatasetError where the protocol asks for more than the samples hold.
    """
    protocols: dict[str, Callable[[list[Unit], SplitRule], dict[Unit, str]]] = {
        "stratified": _stratified,
        "kfold": _kfold,
        "few-shot": _few_shot,
    }
    if rule.protocol == "kfold" and rule.fold >= rule.folds:
        raise DatasetError(f"--fold {rule.fold} is not below --folds {rule.folds}; the first fold is 0")
    kept = [sample for sample in samples if not (sample.defect == COMBINED and _drops_combined(rule))]
    units = grouped_by_content(kept)
    pinned = {unit: "train" for unit in units if any(_belongs_to_train(sample, rule) for sample in unit)}
    free = sorted((unit for unit in units if unit not in pinned), key=lambda unit: _rank(unit, rule.seed))
    assigned = pinned | protocols[rule.protocol](free, rule)
    parts = {sample.key: part for unit, part in assigned.items() for sample in unit}
    unused = {sample.key: _why_unused(sample, rule) for sample in samples if sample.key not in parts}
    return Split(rule, hash_sources(samples), dict(sorted(parts.items())), dict(sorted(unused.items())))


def _drops_combined(rule: SplitRule) -> bool:
    """Few-shot counts every defect that is trained on, so there ``train-only`` would break the count."""
    return rule.combined == "drop" or (rule.combined == "train-only" and rule.protocol == "few-shot")


def _belongs_to_train(sample: Sample, rule: SplitRule) -> bool:
    """Good images that their source meant for training; defects are divided wherever they lie."""
    return (sample.origin == "train" and sample.defect == GOOD) or (
        sample.defect == COMBINED and rule.combined == "train-only"
    )


def _why_unused(sample: Sample, rule: SplitRule) -> str:
    if sample.defect == COMBINED and rule.combined != "keep":
        return f"--combined {rule.combined}"
    return f"not among the {rule.shots} shots"


def _stratified(units: Iterable[Unit], rule: SplitRule) -> dict[Unit, str]:
    assigned = {}
    for stratum in _strata(units).values():
        for part, members in zip(PARTS, _cut(stratum, rule.ratios), strict=True):
            assigned.update(dict.fromkeys(members, part))
    return assigned


def _kfold(units: Iterable[Unit], rule: SplitRule) -> dict[Unit, str]:
    """Deal each stratum out to the folds, continuing where the last one ended, so that folds are equally large."""
    part = {rule.fold: "test", (rule.fold + 1) % rule.folds: "val"}
    in_order = [unit for stratum in _strata(units).values() for unit in stratum]
    return {unit: part.get(position % rule.folds, "train") for position, unit in enumerate(in_order)}


def _few_shot(units: Iterable[Unit], rule: SplitRule) -> dict[Unit, str]:
    """Shots come from the head of what stratified would train on; all other defects of val and test are tested.

    So the test part is the same for every number of shots, 5 shots are among the 10, and val holds good
    images only: enough to set a threshold at a quantile of their scores.
    """
    pools: dict[str, list[Unit]] = defaultdict(list)
    assigned: dict[Unit, str] = {}
    for (category, defect), stratum in _strata(units).items():
        train, val, test = _cut(stratum, rule.ratios)
        assigned.update(dict.fromkeys(test, "test"))
        if defect == GOOD:
            assigned.update(dict.fromkeys(train, "train") | dict.fromkeys(val, "val"))
        else:
            assigned.update(dict.fromkeys(val, "test"))
            pools[category if rule.per == "category" else f"{category}/{defect}"] += train
    for name, pool in pools.items():
        if rule.shots > len(pool):
            raise DatasetError(f"--shots {rule.shots}: {name} has {len(pool)} images to train on; ask for fewer")
        ranked = sorted(pool, key=lambda unit: _rank(unit, rule.seed))
        assigned.update(dict.fromkeys(ranked[: rule.shots], "train"))
    return assigned


def _cut(ranked: list[Unit], ratios: tuple[int, int, int]) -> tuple[list[Unit], list[Unit], list[Unit]]:
    """Cut a ranked stratum by the largest-remainder method, with one for each part where there are three."""
    exact = [len(ranked) * ratio / 100 for ratio in ratios]
    counts = [int(share) for share in exact]
    by_remainder = sorted((2, 0, 1), key=lambda i: exact[i] - counts[i], reverse=True)  # a tie goes to test
    for i in by_remainder[: len(ranked) - sum(counts)]:
        counts[i] += 1
    while len(ranked) >= 3 and 0 in counts:
        counts[counts.index(0)] += 1
        counts[counts.index(max(counts))] -= 1
    train, val, _ = counts
    return ranked[:train], ranked[train : train + val], ranked[train + val :]


def _strata(ranked: Iterable[Unit]) -> dict[tuple[str, str], list[Unit]]:
    """Ranked units by category and defect type (of a unit's first image), good ones in front."""
    strata: dict[tuple[str, str], list[Unit]] = defaultdict(list)
    for unit in ranked:
        strata[unit[0].category, unit[0].defect].append(unit)
    return dict(sorted(strata.items(), key=lambda item: (item[0][1] != GOOD, item[0])))


def _rank(unit: Unit, seed: int) -> str:
    """By the key inside the category: an image has the same rank alone and among other categories."""
    first = unit[0]
    return _sha256(f"{seed}/{first.key.removeprefix(first.category + '/')}")


def hash_sources(samples: Iterable[Sample]) -> str:
    """SHA-256 over the keys, the meaning and the contents of all images and masks."""
    lines = sorted(
        "\t".join((s.key, s.defect, s.origin, str(s.any_value), s.image_digest, s.mask_digest)) for s in samples
    )
    return _sha256("\n".join(lines))


def contradictions(samples: Iterable[Sample]) -> list[Problem]:
    """Byte-identical images of which one counts as good, or as another defect, than the other."""
    return [
        Problem(sample.key, f"is byte-identical to {unit[0].key}, which counts as {unit[0].defect}: remove one of them")
        for unit in grouped_by_content(samples)
        for sample in unit[1:]
        if (sample.category, sample.defect) != (unit[0].category, unit[0].defect)
    ]


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
