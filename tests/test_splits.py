"""Who is in train, val and test."""

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converters.cli.errors import DatasetError
from converters.datasets.records import read_split
from converters.datasets.splits import Split, SplitRule, contradictions, make_split
from converters.sources.duplicates import duplicates
from converters.sources.reading import read_category
from converters.sources.samples import Sample

EXACT = settings(derandomize=True, deadline=None, max_examples=150)
GOOD = ("train", "good"), ("test", "good")


def sample(key: str, content: str = "", category: str = "widget") -> Sample:
    """A sample whose file holds ``content`` (by default something nobody else has)."""
    origin, defect, _ = key.split("/")
    digest = hashlib.sha256((content or f"{category}/{key}").encode()).hexdigest()
    mask = None if defect == "good" else Path("mask.png")
    mask_digest = "" if mask is None else digest
    return Sample(category, key, Path(key), mask, defect, 8, 8, 1, 99, digest, mask_digest, origin)


def samples(train: int = 10, good: int = 10, **defects: int) -> list[Sample]:
    counts = {"train/good": train, "test/good": good} | {f"test/{name}": n for name, n in defects.items()}
    return sorted((sample(f"{k}/{i:03d}.png") for k, n in counts.items() for i in range(n)), key=lambda s: s.key)


def parts_of(split: Split, folder: str) -> Counter[str]:
    return Counter(part for key, part in split.parts.items() if key.startswith(f"{folder}/"))


def members(split: Split, part: str, *, good: bool) -> set[str]:
    return {key for key, p in split.parts.items() if p == part and ("/good/" in key) == good}


# ---------------------------------------------------------------- stratified


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, (0, 0, 0)),
        (1, (1, 0, 0)),
        (2, (1, 0, 1)),
        (3, (1, 1, 1)),
        (4, (2, 1, 1)),
        (5, (3, 1, 1)),
        (10, (6, 2, 2)),
        (24, (14, 5, 5)),
    ],
)
def test_every_type_is_cut_60_20_20_with_one_in_each_part(count: int, expected: tuple[int, int, int]) -> None:
    split = make_split(samples(crack=count, hole=7), SplitRule())
    assert tuple(parts_of(split, "test/crack")[part] for part in ("train", "val", "test")) == expected


@EXACT
@given(
    st.dictionaries(st.sampled_from(["bent", "crack", "hole"]), st.integers(1, 40), min_size=1),
    st.sampled_from([(60, 20, 20), (80, 10, 10), (98, 1, 1), (1, 98, 1), (34, 33, 33)]),
    st.integers(0, 99),
)
def test_no_image_is_lost_and_shares_are_near_the_ratios(
    defects: dict[str, int], ratios: tuple[int, int, int], seed: int
) -> None:
    given_samples = samples(**defects)
    split = make_split(given_samples, SplitRule(ratios=ratios, seed=seed))
    assert list(split.parts) == [s.key for s in given_samples] and split.unused == {}
    for defect, count in defects.items():
        counts = parts_of(split, f"test/{defect}")
        for part, ratio in zip(("train", "val", "test"), ratios, strict=True):
            assert counts[part] >= (1 if count >= 3 else 0)
            assert abs(counts[part] - count * ratio / 100) < 2


def test_good_images_of_test_are_in_every_part_and_those_of_train_in_train() -> None:
    split = make_split(samples(train=30, good=20, crack=5), SplitRule())
    assert parts_of(split, "train/good") == {"train": 30}
    assert parts_of(split, "test/good") == {"train": 12, "val": 4, "test": 4}


def test_the_same_seed_gives_the_same_split_and_another_seed_another() -> None:
    given_samples = samples(crack=20, hole=20)
    first = make_split(given_samples, SplitRule(seed=3))
    assert make_split(list(reversed(given_samples)), SplitRule(seed=3)).to_json() == first.to_json()
    other = make_split(given_samples, SplitRule(seed=4))
    assert other.parts != first.parts
    assert other.sha256 != first.sha256 and other.family != first.family


def test_a_split_does_not_depend_on_the_version_of_anything() -> None:
    """Recorded once: a change here moves pictures between parts of datasets that people have published."""
    split = make_split(samples(train=1, good=3, crack=5), SplitRule())
    assert hashlib.sha256(json.dumps(split.parts).encode()).hexdigest()[:16] == "102c0bad93e65353"


def order_of(given_samples: Sequence[Sample], defect: str) -> list[str]:
    """The ranking of a type, as nested few-shot parts reveal it."""
    ranked: list[str] = []
    for shots in range(1, 7):
        split = make_split(given_samples, SplitRule(protocol="few-shot", shots=shots, per="type"))
        ranked += sorted(set(members(split, "train", good=False)) - set(ranked))
    return [key for key in ranked if defect in key]


def test_adding_an_image_reorders_none_of_the_others() -> None:
    before = order_of(samples(crack=12), "crack")
    added = [*samples(crack=12), sample("test/crack/new.png"), sample("test/good/new.png")]
    after = [key for key in order_of(added, "crack") if "new" not in key]
    assert len(before) == 6 and after == before[: len(after)] and len(after) >= 5


def test_other_contents_are_another_source() -> None:
    one, other = samples(crack=5), [*samples(crack=4), sample("test/crack/004.png", "changed")]
    assert [s.key for s in one] == [s.key for s in sorted(other, key=lambda s: s.key)]
    assert make_split(one, SplitRule()).sources != make_split(other, SplitRule()).sources


# ---------------------------------------------------------------- duplicates


@EXACT
@given(st.integers(0, 200), st.sampled_from(["stratified", "kfold", "few-shot"]))
def test_byte_identical_images_stay_in_one_part(seed: int, protocol: str) -> None:
    twins = [sample(f"test/{folder}/twin.png", "twin") for folder in ("crack", "good", "hole")]
    split = make_split([*samples(crack=9, hole=9), *twins], SplitRule(protocol=protocol, seed=seed, shots=3))
    assert len({split.parts.get(twin.key) for twin in twins}) == 1
    assert duplicates([*samples(crack=9), *twins]) == [[twin.key for twin in twins]]


@pytest.mark.parametrize("protocol", ["stratified", "kfold", "few-shot"])
def test_duplicates_of_a_training_image_are_trained_on(protocol: str) -> None:
    twins = [sample("train/good/twin.png", "twin"), sample("test/good/twin.png", "twin")]
    for fold in range(5):
        split = make_split([*samples(crack=20), *twins], SplitRule(protocol=protocol, fold=fold))
        assert [split.parts[twin.key] for twin in twins] == ["train", "train"]


# ---------------------------------------------------------------- k-fold


@EXACT
@given(st.integers(3, 6), st.integers(1, 17), st.integers(0, 17), st.integers(0, 9))
def test_over_all_folds_everything_is_tested_once(folds: int, crack: int, good: int, seed: int) -> None:
    given_samples = samples(good=good, crack=crack, hole=5)
    splits = [
        make_split(given_samples, SplitRule(protocol="kfold", folds=folds, fold=fold, seed=seed))
        for fold in range(folds)
    ]
    tested = Counter(key for split in splits for key, part in split.parts.items() if part == "test")
    assert tested == Counter(s.key for s in given_samples if s.origin == "test" or not good)
    for fold, split in enumerate(splits):
        following = splits[(fold + 1) % folds]
        for good_ones in (True, False):
            assert members(split, "val", good=good_ones) == members(following, "test", good=good_ones)
    sizes = [sum(part == "test" for part in split.parts.values()) for split in splits]
    assert max(sizes) - min(sizes) <= 1


def test_folds_share_a_family_that_another_seed_does_not() -> None:
    rules = [SplitRule(protocol="kfold", fold=fold) for fold in range(5)]
    splits = [make_split(samples(crack=10), rule) for rule in rules]
    assert len({split.family for split in splits}) == 1
    assert len({split.sha256 for split in splits}) == 5
    other = make_split(samples(crack=10), SplitRule(protocol="kfold", seed=1))
    assert other.family != splits[0].family


def test_a_fold_beyond_the_last_is_refused() -> None:
    with pytest.raises(DatasetError, match="--fold 5 is not below --folds 5"):
        make_split(samples(crack=10), SplitRule(protocol="kfold", fold=5))


# ---------------------------------------------------------------- few-shot


@pytest.mark.parametrize("per", ["category", "type"])
def test_shots_are_nested_counted_and_tested_on_the_same_images(per: str) -> None:
    given_samples = samples(good=20, crack=20, hole=15)
    splits = {n: make_split(given_samples, SplitRule(protocol="few-shot", shots=n, per=per)) for n in (1, 2, 5, 9)}
    types = 1 if per == "category" else 2
    seen: set[str] = set()
    for shots, split in splits.items():
        trained = members(split, "train", good=False)
        assert len(trained) == shots * types
        assert seen < trained
        assert members(split, "val", good=False) == set(), "no defect may choose a threshold"
        assert members(split, "val", good=True)
        seen = trained
    assert len({frozenset(members(split, "test", good=g)) for split in splits.values() for g in (False,)}) == 1
    assert len({frozenset(members(split, "test", good=True)) for split in splits.values()}) == 1
    assert len({split.family for split in splits.values()}) == 1
    assert set(splits[1].unused.values()) == {"not among the 1 shots"}
    assert len(splits[1].parts) + len(splits[1].unused) == len(given_samples)


def test_few_shot_tests_what_stratified_does_not_train_on() -> None:
    given_samples = samples(crack=20, hole=15)
    few = make_split(given_samples, SplitRule(protocol="few-shot", shots=3))
    stratified = make_split(given_samples, SplitRule())
    held_out = members(stratified, "test", good=False) | members(stratified, "val", good=False)
    assert members(few, "test", good=False) == held_out


@pytest.mark.parametrize(("per", "named"), [("category", "widget has 12"), ("type", "crack has 6")])
def test_more_shots_than_images_are_refused(per: str, named: str) -> None:
    with pytest.raises(DatasetError, match=rf"--shots 13: .*{named} images"):
        make_split(samples(crack=10, hole=10), SplitRule(protocol="few-shot", shots=13, per=per))


# ---------------------------------------------------------------- combined


def test_combined_is_kept_dropped_or_trained_on() -> None:
    given_samples = samples(combined=10, crack=10)
    kept, dropped, trained = (
        make_split(given_samples, SplitRule(combined=choice)) for choice in ("keep", "drop", "train-only")
    )
    assert parts_of(kept, "test/combined") == {"train": 6, "val": 2, "test": 2}
    assert parts_of(dropped, "test/combined") == {}
    assert Counter(dropped.unused.values()) == {"--combined drop": 10}
    assert parts_of(trained, "test/combined") == {"train": 10}
    for split in (dropped, trained):
        assert parts_of(split, "test/crack") == parts_of(kept, "test/crack")


@pytest.mark.parametrize("protocol", ["stratified", "kfold", "few-shot"])
@pytest.mark.parametrize("choice", ["drop", "train-only"])
def test_combined_is_never_tested_unless_it_is_kept(protocol: str, choice: str) -> None:
    rule = SplitRule(protocol=protocol, combined=choice, shots=4)
    split = make_split(samples(combined=10, crack=10), rule)
    assert parts_of(split, "test/combined")["test"] == parts_of(split, "test/combined")["val"] == 0
    if protocol == "few-shot":
        assert len(members(split, "train", good=False)) == 4


# ---------------------------------------------------------------- several categories


def test_each_category_is_stratified_by_itself() -> None:
    both = [
        sample(f"{part}/{defect}/{n}.png", category=category)
        for category in ("bolt", "nut")
        for part, defect in (*GOOD, ("test", "bent"))
        for n in range(5)
    ]

    both = [dataclasses.replace(s, key=f"{s.category}/{s.key}") for s in both]
    both = [s for s in both if s.defect == "bent"]
    split = make_split(both, SplitRule())
    for category in ("bolt", "nut"):
        assert parts_of(split, f"{category}/test/bent") == {"train": 3, "val": 1, "test": 1}


# ---------------------------------------------------------------- the record


def test_split_json_reads_back_with_its_hash(tmp_path: Path) -> None:
    split = make_split(samples(crack=5), SplitRule(protocol="kfold", fold=2, seed=7))
    (tmp_path / "split.json").write_text(split.to_json(), "utf-8")
    record = read_split(tmp_path)
    assert record["sha256"] == split.sha256 == hashlib.sha256(split.to_json().encode()).hexdigest()
    assert record["parts"] == split.parts
    assert {name: record[name] for name in ("schema", "protocol", "folds", "fold", "seed", "family")} == {
        "schema": 1,
        "protocol": "kfold",
        "folds": 5,
        "fold": 2,
        "seed": 7,
        "family": split.family,
    }


@pytest.mark.parametrize("content", [None, "", "[1]", "{"])
def test_a_missing_or_damaged_split_json_is_named(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "split.json").write_text(content)
    with pytest.raises(DatasetError, match=r"split\.json"):
        read_split(tmp_path)


def test_names_of_datasets_say_what_is_not_the_default() -> None:
    assert SplitRule(seed=4).suffix == ""
    assert SplitRule(protocol="kfold", folds=5, fold=2).suffix == "@kfold-5-2"
    assert SplitRule(protocol="few-shot", shots=10).suffix == "@few-shot-10-s0"
    assert SplitRule(protocol="few-shot", shots=3, per="type", seed=1).suffix == "@few-shot-3-per-type-s1"


# ---------------------------------------------------------------- real data


def test_screw_has_every_type_in_every_part(screw: Path) -> None:
    category = read_category(screw)
    split = make_split(category.samples, SplitRule())
    counts = {part: len(members(split, part, good=False)) for part in ("train", "val", "test")}
    assert counts == {"train": 71, "val": 23, "test": 25}
    for defect in category.defects:
        assert set(parts_of(split, f"test/{defect}")) == {"train", "val", "test"}


def test_screw_is_tested_once_over_five_folds(screw: Path) -> None:
    given_samples = read_category(screw).samples
    splits = [make_split(given_samples, SplitRule(protocol="kfold", fold=fold)) for fold in range(5)]
    tested = Counter(key for split in splits for key, part in split.parts.items() if part == "test")
    assert tested == Counter(s.key for s in given_samples if s.origin == "test")
    assert sum("/good/" not in key for key in tested) == 119


def test_an_image_has_the_same_part_alone_and_among_other_categories() -> None:
    alone = {name: samples(8, 9, crack=7) for name in ("a", "b")}
    alone = {
        name: [dataclasses.replace(s, category=name, image_digest=f"{name}{s.key}") for s in alone[name]]
        for name in alone
    }
    together = [dataclasses.replace(s, key=f"{name}/{s.key}") for name in alone for s in alone[name]]
    both = make_split(together, SplitRule()).parts
    for name, own in alone.items():
        assert make_split(own, SplitRule()).parts == {
            key.removeprefix(f"{name}/"): part for key, part in both.items() if key.startswith(f"{name}/")
        }


def test_shots_per_category_are_counted_in_each_category() -> None:
    several = [
        dataclasses.replace(s, category=name, key=f"{name}/{s.key}", image_digest=f"{name}{s.key}")
        for name in ("a", "b", "c")
        for s in samples(2, 5, crack=10, hole=10)
    ]
    parts = make_split(several, SplitRule("few-shot", shots=6)).parts
    trained = Counter(key[0] for key, part in parts.items() if part == "train" and "/good/" not in key)
    assert trained == {"a": 6, "b": 6, "c": 6}


def test_the_hash_of_the_sources_covers_what_an_image_shows() -> None:
    before = samples(2, 5, crack=5)
    after = [dataclasses.replace(s, defect="hole") if s.defect == "crack" else s for s in before]
    assert make_split(before, SplitRule()).sha256 != make_split(after, SplitRule()).sha256


def test_equal_images_with_different_labels_contradict_each_other() -> None:
    equal = [sample("test/crack/000.png", "same"), sample("train/good/000.png", "same"), sample("test/good/001.png")]
    (problem,) = contradictions(equal)
    assert problem.file == "train/good/000.png"
    assert "test/crack/000.png, which counts as crack" in problem.reason


# ---------------------------------------------------------------- calibration, official


def test_calibration_takes_a_share_of_train_good_and_moves_nothing_else() -> None:
    images = samples(train=20, good=10, crack=10)
    plain, held = (make_split(images, SplitRule(good_val=share)) for share in (0.0, 0.3))
    moved = {key for key in plain.parts if plain.parts[key] != held.parts[key]}
    assert len(moved) == 6 and {key.rpartition("/")[0] for key in moved} == {"train/good"}  # 30 % of 20
    assert {held.parts[key] for key in moved} == {"calibration"} and held.family != plain.family
    assert "good_val" not in json.loads(plain.to_json())  # so that splits without it are what they were


def test_calibration_keeps_groups_whole_and_leaves_train_a_good_image() -> None:
    grouped = [
        dataclasses.replace(s, group=f"lot{i // 4}") for i, s in enumerate(samples(train=20, good=0, crack=6)[6:])
    ]
    parts = make_split([*grouped, *samples(0, 0, crack=6)], SplitRule(good_val=0.5, ratios=(98, 1, 1))).parts
    by_lot: dict[str, set[str]] = {}
    for s in grouped:
        by_lot.setdefault(s.group, set()).add(parts[s.key])
    assert all(len(found) == 1 for found in by_lot.values()) and {"calibration"} in by_lot.values()
    assert {"train"} in by_lot.values()


def test_official_is_train_good_less_a_tenth_and_all_of_test() -> None:
    split = make_split(samples(train=40, good=7, crack=5, hole=3), SplitRule("official"))
    assert parts_of(split, "train/good") == {"train": 36, "val": 4}
    assert {part for key, part in split.parts.items() if key.startswith("test/")} == {"test"}
    assert json.loads(split.to_json())["protocol"] == "official" and "ratios" not in json.loads(split.to_json())
    with pytest.raises(DatasetError, match="there is no test/good"):
        make_split(samples(train=10, good=0, crack=5), SplitRule("official"))
