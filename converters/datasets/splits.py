"""The split into train, val and test: decided once, recorded in ``split.json``, carried by every format.

Images are ranked by a hash of the seed and their path, so that a split depends on no library's random
generator and adding images reorders none of the others. Byte-identical images stay in one part, and so do those of
one group (``Sample.group``), whichever the protocol.
"""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from converters.cli.errors import DatasetError
from converters.cli.terminal import to_json
from converters.sources.duplicates import Unit, grouped_by_content, grouped_by_object
from converters.sources.samples import CALIBRATION, GOOD, PARTS, Problem, Sample

COMBINED = "combined"  # MVTec's type for images that show several defects
Stratum = tuple[str, str]  # category and defect type
HELD_OUT = 0.1  # of train/good, for thresholds: protocol official
_ORDER = (2, 0, 1)  # of PARTS: a tie goes to test


@dataclass(frozen=True)
class SplitRule:
    """The rule of a split: ``--protocol --ratios --folds --fold --shots --per --seed --combined --good-val``."""

    protocol: str = "stratified"
    ratios: tuple[int, int, int] = (60, 20, 20)
    folds: int = 5
    fold: int = 0
    shots: int = 10
    per: str = "category"
    seed: int = 0
    combined: str = "keep"
    good_val: float = 0.0  # share of train's good images in the part CALIBRATION, 0..<1

    @property
    def settings(self) -> dict[str, object]:
        """Settings that matter to the protocol, without the member of its family (the fold, the number of shots)."""
        relevant = {"kfold": ["folds"], "few-shot": ["ratios", "per"], "official": []}.get(self.protocol, ["ratios"])
        asked_for = ["good_val"] if self.good_val else []
        return {name: getattr(self, name) for name in ("protocol", *relevant, "seed", "combined", *asked_for)}

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
            "official": "@official",
        }.get(self.protocol, "")


@dataclass(frozen=True)
class Split:
    """The answer to "who is in test", as it is recorded in ``split.json``."""

    rule: SplitRule
    sources: str  # SHA-256 over all paths and file contents
    parts: dict[str, str]  # image key -> part
    unused: dict[str, str]  # image key -> why it is in no part
    base: dict[str, str] | None = None  # of a dataset with synthetic images: the dataset without them, and their hash
    groups: dict[str, str] = field(default_factory=dict)  # image key -> its group, of images that share one

    @property
    def all_parts(self) -> tuple[str, ...]:
        """PARTS, and CALIBRATION where there is one."""
        return (*PARTS, CALIBRATION) if CALIBRATION in self.parts.values() else PARTS

    @property
    def family(self) -> str:
        """Equal for all folds of one k-fold split, and for all shots of one few-shot split."""
        groups = [self.groups] if self.groups else []
        return _sha256(json.dumps([self.rule.settings, self.sources, *groups], sort_keys=True))

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
                **({"groups": self.groups} if self.groups else {}),
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
        "official": _official,
    }
    if rule.protocol == "kfold" and rule.fold >= rule.folds:
        raise DatasetError(f"--fold {rule.fold} is not below --folds {rule.folds}; the first fold is 0")
    kept = [sample for sample in samples if not (sample.defect == COMBINED and _drops_combined(rule))]
    units = grouped_by_object(kept)
    folders = set(train_good_divided(kept))
    official = rule.protocol == "official"
    pinned = {unit: "train" for unit in units if not official and _belongs_to_train(unit, rule, folders)}
    free = sorted((unit for unit in units if unit not in pinned), key=lambda unit: _rank(unit, rule.seed))
    assigned = pinned | protocols[rule.protocol](free, rule)
    if rule.good_val:
        trained = [unit for unit, part in assigned.items() if part == "train"]
        assigned |= dict.fromkeys(_good_share(trained, rule.good_val, rule.seed), CALIBRATION)
    parts = {sample.key: part for unit, part in assigned.items() for sample in unit}
    unused = {sample.key: _why_unused(sample, rule) for sample in samples if sample.key not in parts}
    groups = {sample.key: min(s.group for s in unit if s.group) for unit in _several(units) for sample in unit}
    return Split(
        rule,
        hash_sources(samples),
        dict(sorted(parts.items())),
        dict(sorted(unused.items())),
        groups=dict(sorted(groups.items())),
    )


def train_good_divided(samples: Iterable[Sample]) -> list[str]:
    """Categories without ``test/good``, whose ``train/good`` is divided: val and test need good images as well.

    There is no other folder of good images then that a model could tell from it.
    """
    origins: dict[str, set[str]] = defaultdict(set)
    for sample in samples:
        if sample.defect == GOOD:
            origins[sample.category].add(sample.origin)
    return sorted(category for category, found in origins.items() if found == {"train"})


def _drops_combined(rule: SplitRule) -> bool:
    """Few-shot counts every defect that is trained on, so there ``train-only`` would break the count."""
    return rule.combined == "drop" or (rule.combined == "train-only" and rule.protocol == "few-shot")


def _belongs_to_train(unit: Unit, rule: SplitRule, divided: set[str]) -> bool:
    """Good images that their source meant for training; defects are divided wherever they lie.

    A group that holds others as well is divided: it could not be tested otherwise.
    """
    if rule.combined == "train-only" and any(sample.defect == COMBINED for sample in unit):
        return True
    meant = [s.origin == "train" and s.defect == GOOD and s.category not in divided for s in unit]
    return any(meant) if _size(unit) == 1 else all(meant)


def _why_unused(sample: Sample, rule: SplitRule) -> str:
    if sample.defect == COMBINED and rule.combined != "keep":
        return f"--combined {rule.combined}"
    if rule.protocol == "official":
        return "no part of train/good or test, which are all that the official protocol knows"
    return f"not among the {rule.shots} shots"


def _stratified(units: Sequence[Unit], rule: SplitRule) -> dict[Unit, str]:
    """Groups first, the largest to the part that lacks most of what it shows; single images fill up what is left."""
    totals = _totals(units)
    taken = {stratum: [0, 0, 0] for stratum in totals}
    assigned: dict[Unit, str] = {}
    left = Counter(stratum for unit in units for stratum in _counts(unit))  # units that show it
    for unit in _several(units):
        counts = _counts(unit)
        rarest = min(counts, key=lambda stratum: (totals[stratum], stratum))
        empty = [part for part in _ORDER if not taken[rarest][part]]
        choice = empty if left[rarest] <= len(empty) else _ORDER

        def lack(part: int, counts: Counter[Stratum] = counts) -> float:
            """The slope of the squared distance from the ratios, in shares of each stratum."""
            missing = {s: totals[s] * rule.ratios[part] / 100 - taken[s][part] for s in counts}
            return sum(counts[s] * missing[s] / totals[s] ** 2 for s in counts)

        chosen = max(choice, key=lack)
        assigned[unit] = PARTS[chosen]
        for stratum, count in counts.items():
            taken[stratum][chosen] += count
            left[stratum] -= 1
    for stratum, singles in _strata(unit for unit in units if unit not in assigned).items():
        for part, members in zip(PARTS, _cut(singles, rule.ratios, taken[stratum]), strict=True):
            assigned.update(dict.fromkeys(members, part))
    return assigned


def _kfold(units: Sequence[Unit], rule: SplitRule) -> dict[Unit, str]:
    """Deal each stratum out to the folds, continuing where the last one ended, so that folds are equally large.

    Each unit goes to the fold that has least of what it shows, then least of all: groups first, the largest in front,
    as scikit-learn's StratifiedGroupKFold deals them.
    """
    part = {rule.fold: "test", (rule.fold + 1) % rule.folds: "val"}
    totals, loads = _totals(units), [0] * rule.folds
    taken = {stratum: [0] * rule.folds for stratum in totals}
    groups = _several(units)
    singles = _strata(unit for unit in units if _size(unit) == 1).values()
    assigned = {}
    for unit in (*groups, *(unit for stratum in singles for unit in stratum)):
        counts = _counts(unit)
        shares = {s: [held / totals[s] ** 2 for held in taken[s]] for s in counts}
        has = [sum(count * shares[s][fold] for s, count in counts.items()) for fold in range(rule.folds)]
        chosen = min(range(rule.folds), key=lambda fold: (has[fold], loads[fold], fold))
        assigned[unit] = part.get(chosen, "train")
        loads[chosen] += counts.total()
        for stratum, count in counts.items():
            taken[stratum][chosen] += count
    return assigned


def _few_shot(units: Sequence[Unit], rule: SplitRule) -> dict[Unit, str]:
    """Shots come from the head of what stratified would train on; all other defects of val and test are tested.

    So the test part is the same for every number of shots, 5 shots are among the 10, and val holds good
    images only: enough to set a threshold at a quantile of their scores. Shots are single images: those of a group
    that are not among them are in no part.
    """
    defects = sorted(stratum for stratum in _totals(units) if stratum[1] != GOOD)
    pools: dict[str, list[Unit]] = {_pool(stratum, rule): [] for stratum in defects}
    assigned: dict[Unit, str] = {}
    for unit, part in _stratified(units, rule).items():
        images = grouped_by_content(unit)
        if part != "train":
            shows_defects = any(image[0].defect != GOOD for image in images)
            assigned[unit] = "test" if shows_defects else part
            continue
        for image in images:
            if image[0].defect == GOOD:
                assigned[image] = "train"
            else:
                pools[_pool((image[0].category, image[0].defect), rule)].append(image)
    for name, pool in pools.items():
        if rule.shots > len(pool):
            raise DatasetError(f"--shots {rule.shots}: {name} has {len(pool)} images to train on; ask for fewer")
        ranked = sorted(pool, key=lambda unit: _rank(unit, rule.seed))
        assigned.update(dict.fromkeys(ranked[: rule.shots], "train"))
    return assigned


def _official(units: Sequence[Unit], rule: SplitRule) -> dict[Unit, str]:
    """Train on ``train/good`` alone, of which HELD_OUT goes to val for thresholds; test is the whole of ``test``.

    What papers on anomaly detection measure on (P. Bergmann et al., MVTec AD, IJCV 2021), for models that need no
    defects. An image that lies in both folders, byte for byte, is tested.
    """
    tested = [unit for unit in units if any(sample.origin == "test" for sample in unit)]
    good = [unit for unit in units if unit not in set(tested) and all(sample.defect == GOOD for sample in unit)]
    for unit_kind, found in (("train/good", good), ("test/good", [u for u in tested if u[0].defect == GOOD])):
        if not found:
            raise DatasetError(
                f"--protocol official: trains on train/good and tests on test, and there is no {unit_kind}: "
                "take another --protocol"
            )
    held_out = _good_share(good, HELD_OUT, rule.seed)
    return {**dict.fromkeys(tested, "test"), **dict.fromkeys(good, "train"), **dict.fromkeys(held_out, "val")}


def _good_share(units: Iterable[Unit], share: float, seed: int) -> list[Unit]:
    """Units of good images, by their rank, that hold that share of them: one image at least, and never all.

    Of ``train/good`` where some of ``units`` lie there, since ``test/good`` may look different.
    """
    good = [unit for unit in units if all(sample.defect == GOOD for sample in unit)]
    good = [unit for unit in good if all(sample.origin == "train" for sample in unit)] or good
    total = sum(map(_size, good))
    wanted, taken, chosen = max(1, round(share * total)), 0, []
    for unit in sorted(good, key=lambda unit: _rank(unit, seed)):
        if taken + _size(unit) <= min(wanted, total - 1):
            chosen.append(unit)
            taken += _size(unit)
    return chosen


def _pool(stratum: Stratum, rule: SplitRule) -> str:
    """What shots are counted in."""
    return stratum[0] if rule.per == "category" else "/".join(stratum)


def _cut(ranked: list[Unit], ratios: tuple[int, int, int], taken: Sequence[int]) -> list[list[Unit]]:
    """Cut a stratum's single images, ranked, by the largest-remainder method, with one for each part of three or more.

    ``taken``: how many images of the stratum the parts have in groups.
    """
    size = len(ranked) + sum(taken)
    exact = [size * ratio / 100 - held for ratio, held in zip(ratios, taken, strict=True)]
    if min(exact) < 0:  # a part has more than its share: the others share the rest
        exact = [max(0.0, wanted) for wanted in exact]
        exact = [wanted * len(ranked) / sum(exact) for wanted in exact]
    counts = [int(share) for share in exact]
    by_remainder = sorted(_ORDER, key=lambda i: exact[i] - counts[i], reverse=True)
    for i in by_remainder[: len(ranked) - sum(counts)]:
        counts[i] += 1
    while size >= 3 and (empty := [i for i in range(3) if not counts[i] + taken[i]]):
        can_give = [i for i in range(3) if counts[i] and counts[i] + taken[i] > 1]
        if not can_give:
            break
        counts[empty[0]] += 1
        counts[max(can_give, key=lambda i: counts[i])] -= 1
    train, val, _ = counts
    return [ranked[:train], ranked[train : train + val], ranked[train + val :]]


def _counts(unit: Unit) -> Counter[Stratum]:
    """How many images of each category and defect type a unit holds, byte-identical ones as one (its first)."""
    return Counter({s.image_digest: (s.category, s.defect) for s in reversed(unit)}.values())


def _size(unit: Unit) -> int:
    return len({sample.image_digest for sample in unit})


def _several(units: Iterable[Unit]) -> list[Unit]:
    """The units of more than one image, byte-identical ones counted as one; the largest first."""
    return sorted((unit for unit in units if _size(unit) > 1), key=lambda unit: -_size(unit))


def _totals(units: Iterable[Unit]) -> Counter[Stratum]:
    totals: Counter[Stratum] = Counter()
    for unit in units:
        totals += _counts(unit)
    return totals


def _strata(ranked: Iterable[Unit]) -> dict[Stratum, list[Unit]]:
    """Ranked units by category and defect type (of a unit's first image), good ones in front."""
    strata: dict[Stratum, list[Unit]] = defaultdict(list)
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
