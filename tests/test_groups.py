"""Images of one object stay in one part, and val and test get good images without test/good."""

import dataclasses
import json
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path

import cv2
import pytest
from click.testing import Result
from conftest import REPOSITORY, run_cli, write_category
from hypothesis import given, settings
from hypothesis import strategies as st
from test_splits import members, parts_of, sample, samples

from converters.datasets.completion import command_for, write_format
from converters.datasets.records import read_card, read_split
from converters.datasets.splits import Split, SplitRule, make_split
from converters.importing.source_card import notes
from converters.importing.statistics import describe_category
from converters.sources.magnetic_tile import list_images, tiles_of
from converters.sources.reading import read_category
from converters.sources.samples import Listed, Sample
from finetune.runs.dataset import Dataset
from finetune.runs.truth import Truth

MAGNETIC_TILE = REPOSITORY.parent / "shared" / "data" / "magnetic_tile"
EXACT = settings(derandomize=True, deadline=None, max_examples=40)
PROTOCOLS = ("stratified", "kfold", "few-shot")
DEFECTS = ("good", "crack", "hole")


def in_groups(sizes: list[tuple[str, str, int]]) -> list[Sample]:
    """A group each of (a defect, another one that its last image shows, number of images)."""
    made = []
    for number, (defect, last, size) in enumerate(sizes):
        for index in range(size):
            key = f"test/{last if index == size - 1 else defect}/{number:03d}-{index}.png"
            made.append(dataclasses.replace(sample(key), group=f"object {number}"))
    return sorted(made, key=lambda s: s.key)


GROUPS = st.lists(
    st.tuples(st.sampled_from(DEFECTS), st.sampled_from(DEFECTS), st.integers(1, 6)), min_size=12, max_size=40
)


def parts_by_group(given_samples: list[Sample], split: Split) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for s in given_samples:
        if s.key in split.parts:
            found[s.group].add(split.parts[s.key])
    return found


# ---------------------------------------------------------------- splits


@pytest.mark.parametrize(
    ("rule", "sha256"),
    [
        (SplitRule(), "193d404e1456471d"),
        (SplitRule(seed=5, ratios=(70, 20, 10)), "46927875b6889aa4"),
        (SplitRule("kfold", fold=2), "2496e833eeb41245"),
        (SplitRule("kfold", folds=4, fold=3, seed=9, combined="train-only"), "5d51b66843affb97"),
        (SplitRule("few-shot", shots=3), "800ee13ee7a7dc7a"),
        (SplitRule("few-shot", shots=2, per="type", seed=4), "7b471b8ecf99b9b0"),
    ],
)
def test_without_groups_a_split_is_what_it_was_before_there_were_any(rule: SplitRule, sha256: str) -> None:
    """Recorded at b8f32fe; groups of single images, or of byte-identical ones, are none."""
    twins = [sample(f"test/{folder}/twin.png", "twin") for folder in ("crack", "good", "hole")]
    twins += [sample("train/good/t.png", "t"), sample("test/good/t.png", "t")]
    plain = [*samples(train=7, good=23, crack=17, hole=4, combined=6), *twins]
    alone = [dataclasses.replace(s, group=s.image_digest) for s in plain]
    assert make_split(plain, rule).sha256[:16] == sha256
    assert make_split(alone, rule).to_json() == make_split(plain, rule).to_json()


@EXACT
@given(GROUPS, st.sampled_from(PROTOCOLS), st.integers(0, 9))
def test_no_group_straddles_under_any_protocol(sizes: list[tuple[str, str, int]], protocol: str, seed: int) -> None:
    given_samples = [*in_groups(sizes), *samples(train=9, good=9, crack=9, hole=9)]
    twin = dataclasses.replace(sample("test/good/twin.png"), image_digest=given_samples[0].image_digest)
    split = make_split([*given_samples, twin], SplitRule(protocol, seed=seed, shots=3))
    found = parts_by_group(given_samples, split)
    found.pop("")
    assert all(len(parts) == 1 for parts in found.values())
    of_twin = {split.parts[key] for key in (twin.key, given_samples[0].key) if key in split.parts}
    assert len(of_twin) <= 1
    shared = Counter(split.groups.values())
    assert set(shared) <= {s.group for s in given_samples} and min(shared.values(), default=2) > 1


@EXACT
@given(GROUPS, st.sampled_from([(60, 20, 20), (80, 10, 10), (34, 33, 33)]), st.integers(0, 9))
def test_shares_are_near_the_ratios_as_far_as_groups_allow(
    sizes: list[tuple[str, str, int]], ratios: tuple[int, int, int], seed: int
) -> None:
    given_samples = in_groups(sizes)
    split = make_split(given_samples, SplitRule(ratios=ratios, seed=seed))
    assert set(split.parts) == {s.key for s in given_samples}
    largest = max(size for _, _, size in sizes)
    for part, ratio in zip(("train", "val", "test"), ratios, strict=True):
        found = sum(p == part for p in split.parts.values())
        assert abs(found - len(given_samples) * ratio / 100) <= largest + 2


@EXACT
@given(GROUPS, st.integers(3, 5), st.integers(0, 9))
def test_over_all_folds_every_group_is_tested_once_and_folds_are_near(
    sizes: list[tuple[str, str, int]], folds: int, seed: int
) -> None:
    given_samples = in_groups(sizes)
    splits = [make_split(given_samples, SplitRule("kfold", folds=folds, fold=f, seed=seed)) for f in range(folds)]
    tested = Counter(key for split in splits for key, part in split.parts.items() if part == "test")
    assert tested == Counter(s.key for s in given_samples)
    counts = [sum(part == "test" for part in split.parts.values()) for split in splits]
    assert max(counts) - min(counts) <= 2 * max(size for _, _, size in sizes)
    assert len({split.family for split in splits}) == 1


def test_as_many_groups_of_each_type_are_in_each_part_as_there_can_be() -> None:
    given_samples = in_groups([("crack", "crack", 6)] * 3 + [("good", "good", 5)] * 10)
    split = make_split(given_samples, SplitRule())
    assert parts_of(split, "test/crack") == {"train": 6, "val": 6, "test": 6}
    assert parts_of(split, "test/good") == {"train": 30, "val": 10, "test": 10}


def test_shots_are_single_images_nested_and_never_of_a_group_that_is_tested() -> None:
    given_samples = [*in_groups([("crack", "good", 4)] * 12 + [("crack", "crack", 3)] * 8)]
    splits = {n: make_split(given_samples, SplitRule("few-shot", shots=n)) for n in (2, 5, 9)}
    seen: set[str] = set()
    for shots, split in splits.items():
        trained = members(split, "train", good=False)
        assert len(trained) == shots and seen < trained
        assert not members(split, "val", good=False)
        assert all(len(parts) == 1 for parts in parts_by_group(given_samples, split).values())
        seen = trained
    assert len({frozenset(members(split, "test", good=False)) for split in splits.values()}) == 1
    assert len({split.family for split in splits.values()}) == 1


def test_a_group_of_train_good_and_tested_images_is_divided_and_one_of_train_good_alone_is_not() -> None:
    mixed = [
        dataclasses.replace(sample(f"{folder}/{lot}.png"), group=f"lot {lot}")
        for lot in range(20)
        for folder in ("train/good", "test/good", "test/crack")
    ]
    alone = [dataclasses.replace(sample(f"train/good/{n}-alone.png"), group="one") for n in range(5)]
    split = make_split([*mixed, *alone], SplitRule())
    assert parts_of(split, "test/crack") == {"train": 12, "val": 4, "test": 4}
    assert {split.parts[s.key] for s in alone} == {"train"}
    assert all(len(parts) == 1 for parts in parts_by_group(mixed, split).values())


def test_other_groups_are_another_split_and_another_family() -> None:
    plain = samples(good=20, crack=20)
    pairs = [dataclasses.replace(s, group=str(index // 2)) for index, s in enumerate(plain)]
    assert make_split(plain, SplitRule()).family != make_split(pairs, SplitRule()).family
    assert json.loads(make_split(pairs, SplitRule()).to_json())["groups"][plain[0].key] == "0"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_without_test_good_train_good_is_divided(protocol: str) -> None:
    split = make_split(samples(train=31, good=0, crack=20), SplitRule(protocol, shots=3))
    counts = parts_of(split, "train/good")
    assert counts.total() == 31 and counts["val"] in (6, 7) and counts["test"] in (6, 7)
    with_one = make_split(samples(train=31, good=1, crack=20), SplitRule(protocol, shots=3))
    assert parts_of(with_one, "train/good") == {"train": 31}


# ---------------------------------------------------------------- magnetic tile


def test_a_magnetic_tile_goes_on_while_numbers_are_near_or_the_exposure_rises() -> None:
    first = ["exp1_num_100", "exp2_num_130", "exp3_num_240", "exp1_num_260", "exp2_num_320"]  # 260: they interleave
    second, third = ["exp1_num_380", "exp2_num_390"], ["exp3_num_700"]
    assert tiles_of(["mine", *third, *first, *second]) == {
        **dict.fromkeys(first, first[0]),
        **dict.fromkeys(second, second[0]),
        **dict.fromkeys(third, third[0]),
    }


def test_magnetic_tiles_own_tiles_stay_together() -> None:
    if not MAGNETIC_TILE.is_dir():
        pytest.skip(f"{MAGNETIC_TILE} is not there")
    listed = [entry for entry in list_images(MAGNETIC_TILE) if isinstance(entry, Listed)]
    given_samples = [
        dataclasses.replace(sample(f"test/{one.defect}/{one.image.name}"), group=one.group) for one in listed
    ]
    split = make_split(given_samples, SplitRule())
    number = {s.key: int(Path(s.key).stem.rpartition("_")[2]) for s in given_samples}
    ordered = sorted(given_samples, key=lambda s: number[s.key])
    near = [(a, b) for a, b in pairwise(ordered) if number[b.key] - number[a.key] < 50]
    assert len(near) == 1344 - 283 and all(split.parts[a.key] == split.parts[b.key] for a, b in near)
    for defect in ("Blowhole", "Break", "Crack", "Fray", "Uneven", "good"):
        counts = parts_of(split, f"test/{defect}")
        shares = [counts[part] / counts.total() for part in ("train", "val", "test")]
        assert shares == pytest.approx([0.6, 0.2, 0.2], abs=0.05)


# ---------------------------------------------------------------- commands


def convert(category: Path, out: Path, *arguments: object) -> Result:
    return run_cli("to_coco", "--root", category, "--out", out, "--workers", 1, *arguments)


@pytest.fixture(scope="module")
def category(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images 000 to 004 of crack, hole and test/good; those of one number show one object."""
    return write_category(tmp_path_factory.mktemp("source"), masks={"crack": 5, "hole": 5}, good=(3, 5))


def test_a_pattern_groups_images_and_a_further_format_is_written_with_it(category: Path, tmp_path: Path) -> None:
    result = convert(category, tmp_path, "--group", r"test/.*/(\d+)")
    assert result.exit_code == 0, result.output
    assert "groups: 15 images share 5 groups, each of which is in one part" in result.stdout
    assert "3 images of widget are in no group, such as train/good/000.png" in result.stderr
    dataset = tmp_path / "widget"
    split = read_split(dataset)
    assert all(len({split["parts"][k] for k in split["groups"] if Path(k).stem == f"00{n}"}) == 1 for n in range(5))
    assert read_card(dataset)["options"]["group"] == r"test/.*/(\d+)"
    write_format(dataset, "masks")
    assert (dataset / "masks").is_dir() and read_split(dataset) == split
    assert r"--group 'test/.*/(\d+)'" in command_for(dataset, "voc")


def test_a_table_groups_images_and_is_found_from_the_dataset_later(category: Path, tmp_path: Path) -> None:
    table = tmp_path / "groups.csv"
    rows = [f"test/{folder}/00{n}.png,lot {n % 3}" for folder in ("crack", "good") for n in range(5)]
    table.write_text("\n".join(["image,group", *rows, "widget/test/hole/000.png,lot 0", "test/hole/nine.png,lot 9"]))
    result = convert(category, tmp_path, "--group-file", table)
    assert result.exit_code == 0, result.output
    assert "1 rows name no image of widget, such as test/hole/nine.png" in result.stderr
    dataset = tmp_path / "widget"
    split = read_split(dataset)
    assert split["groups"]["test/hole/000.png"] == split["groups"]["test/crack/003.png"] == "lot 0"
    assert len(split["groups"]) == 11
    assert read_card(dataset)["options"]["group_file"] == "../groups.csv"
    write_format(dataset, "masks")
    assert read_split(dataset) == split
    truth = Truth(Dataset(dataset), "train")
    keys = [name.replace("__", "/") for name in truth.names]
    group_of = {key: f"group/{lot}" for key, lot in split["groups"].items()}
    assert truth.groups == [group_of.get(key, name) for key, name in zip(keys, truth.names, strict=True)]
    assert len(set(truth.groups)) < len(truth.groups)


def test_every_image_a_group_of_its_own_is_the_split_without_groups(category: Path, tmp_path: Path) -> None:
    for name, arguments in (("plain", ()), ("alone", ("--group", "(.+)"))):
        assert convert(category, tmp_path / name, *arguments).exit_code == 0
    plain, alone = (tmp_path / name / "widget" / "split.json" for name in ("plain", "alone"))
    assert plain.read_bytes() == alone.read_bytes() and "groups" not in plain.read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--group", "("], "is no regular expression"),
        (["--group", "lot"], "put what names the group in brackets"),
        (["--group", "(lot)"], "gives no image of"),
        (["--group", "(.)", "--group-file", "a.csv"], "--group and --group-file exclude each other"),
        (["--group-file", "absent.csv"], "absent.csv: is no CSV table that can be read"),
    ],
)
def test_groups_that_mean_nothing_are_refused_in_one_line(
    category: Path, tmp_path: Path, arguments: list[str], words: str
) -> None:
    result = convert(category, tmp_path, *arguments)
    assert result.exit_code == 2 and words in result.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("a,b\n", "the first line must be image,group"),
        ("image,group\nx\n", "line 2 must be an image's path and its group"),
        ("image,group\nx,1\nx,2\n", "line 3 gives x another group"),
    ],
)
def test_a_table_that_is_none_is_refused(category: Path, tmp_path: Path, table: str, words: str) -> None:
    (tmp_path / "groups.csv").write_text(table)
    result = convert(category, tmp_path, "--group-file", tmp_path / "groups.csv")
    assert result.exit_code == 2 and words in result.stderr.splitlines()[-1]


def test_the_card_says_that_train_good_is_divided(tmp_path: Path) -> None:
    source = write_category(tmp_path / "data", masks={"crack": 5}, good=(10, 0))
    result = convert(source, tmp_path / "out")
    assert "no test/good: train/good is divided as well (widget)" in result.stdout
    card = read_card(tmp_path / "out" / "widget")
    assert card["train_good_divided"] == ["widget"]
    good = {row["part"]: row["images"] for row in card["counts"] if row["class"] == "good"}
    assert good == {"train": 6, "val": 2, "test": 2}


def test_describe_warns_of_near_duplicates_that_straddle_until_they_are_one_group(tmp_path: Path) -> None:
    """All crack images become the same one but for a grey level."""
    folder = write_category(tmp_path, masks={"crack": 5}, good=(3, 5))
    read = read_category(folder)
    first = cv2.imread(str(read.samples[0].image), 0)
    for index, s in enumerate(s for s in read.samples if s.defect == "crack"):
        near = first.copy()
        near[0, 0] = index
        cv2.imwrite(str(s.image), near)
    read = read_category(folder)
    warned = describe_category(read)
    assert (warned.near_duplicates.clusters, warned.near_duplicates.straddling) == (1, 1)
    assert any("LEAK? 1 of 1 clusters" in line and "--group REGEX" in line for line in notes(warned))
    kept = [dataclasses.replace(s, group="one" if s.defect == "crack" else "") for s in read.samples]
    assert describe_category(dataclasses.replace(read, samples=kept)).near_duplicates.straddling == 0
