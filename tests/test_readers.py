"""Other layouts than MVTec AD's: small trees in each true layout, read, converted and verified."""

import csv
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY, blobs, converted, refusal, run_cli, save_mask, save_noise
from PIL import Image

from converters.__main__ import COMMANDS
from converters.cli.errors import DatasetError
from converters.datasets.completion import COMMANDS as WRITING
from converters.datasets.options import FORMATS
from converters.masks.reading import mask_of
from converters.sources.layouts import LAYOUTS
from converters.sources.reading import find_categories, find_layout, read_category
from converters.sources.samples import Category
from converters.verification.readers import readers

SIZE = (48, 40)


def save_values(path: Path, mask: np.ndarray, value: int) -> np.ndarray:
    """Write a mask whose foreground has one grey value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((mask * value).astype(np.uint8)).save(path)
    return mask


def save_many(folder: Path, names: Iterable[str], mode: str = "RGB") -> None:
    for name in names:
        save_noise(folder / name, SIZE, mode)


def write_loco(root: Path) -> Path:
    """MVTec LOCO AD: a folder of masks per image, whose values say which defect they show."""
    folder = root / "pushpins"
    for part in ("train", "validation", "test"):
        save_many(folder / part / "good", [f"{n:03d}.png" for n in range(4)])
    for defect in ("logical_anomalies", "structural_anomalies"):
        for index in range(4):
            save_noise(folder / "test" / defect / f"{index:03d}.png", SIZE, "RGB")
            masks = folder / "ground_truth" / defect / f"{index:03d}"
            left, right = blobs(index, SIZE), blobs(index, SIZE)
            left[20:], right[:20] = 0, 0
            save_values(masks / "000.png", left, 255)
            save_values(masks / "001.png", right, 40)
    config = [{"defect_name": "missing", "pixel_value": 255, "saturation_threshold": 1.0, "relative_saturation": True}]
    (folder / "defects_config.json").write_text(json.dumps(config))
    return folder


def write_mvtec_3d(root: Path) -> Path:
    """MVTec 3D-AD: colour, mask and depth of each kind in folders of their own; masks number the types of defects."""
    folder = root / "bagel"
    for kind in ("train/good", "validation/good", "test/good", "test/crack", "test/hole"):
        save_many(folder / kind / "rgb", [f"{n:03d}.png" for n in range(4)])
        for index in range(4):
            (folder / kind / "xyz").mkdir(exist_ok=True)
            Image.fromarray(np.zeros(SIZE[::-1], np.float32)).save(folder / kind / "xyz" / f"{index:03d}.tiff")
            mask = blobs(index, SIZE) * (not kind.endswith("good"))
            save_values(folder / kind / "gt" / f"{index:03d}.png", mask, 3 if kind == "test/crack" else 255)
    return folder


def write_mvtec_ad_2(root: Path) -> Path:
    folder = root / "vial"
    for part in ("train", "validation", "test_public"):
        save_many(folder / part / "good", [f"{n:03d}_regular.png" for n in range(4)])
    for index in range(4):
        save_noise(folder / "test_public" / "bad" / f"{index:03d}_overexposed.png", SIZE, "RGB")
        mask = folder / "test_public" / "ground_truth" / "bad" / f"{index:03d}_overexposed_mask.png"
        save_mask(mask, blobs(index, SIZE))
    for part in ("test_private", "test_private_mixed"):
        save_many(folder / part, [f"{n:03d}_mixed.png" for n in range(2)])
    return folder


def write_btad(root: Path) -> Path:
    """Images are BMP, masks PNG, as in its category 01."""
    folder = root / "01"
    for part in ("train", "test"):
        save_many(folder / part / "ok", [f"{n:04d}.bmp" for n in range(4)])
    for index in range(4):
        save_noise(folder / "test" / "ko" / f"{index:04d}.bmp", SIZE, "RGB")
        save_mask(folder / "ground_truth" / "ko" / f"{index:04d}.png", blobs(index, SIZE))
    return folder


def write_kolektor(root: Path) -> Path:
    """KolektorSDD2: every image has a mask beside it; black means good."""
    folder = root / "KolektorSDD2"
    for part, first in (("train", 10000), ("test", 20000)):
        for index in range(6):
            save_noise(folder / part / f"{first + index}.png", SIZE, "RGB")
            mask = blobs(index, SIZE) if index < 3 else np.zeros(SIZE[::-1], np.uint8)
            save_mask(folder / part / f"{first + index}_GT.png", mask)
    return folder


def write_magnetic_tile(root: Path) -> Path:
    """Masks have soft edges; those of good images are black."""
    folder = root / "Magnetic-tile"
    for defect in ("Blowhole", "Crack", "Free"):
        for index in range(4):
            path = folder / f"MT_{defect}" / "Imgs" / f"exp1_num_{defect}{index}.jpg"
            save_noise(path, SIZE, "L")
            mask = blobs(index, SIZE) * 255
            if defect == "Free":
                mask = mask * 0
            else:
                mask[36, 3:9] = 90
            Image.fromarray(mask).save(path.with_suffix(".png"))
    return folder


def write_visa(root: Path) -> Path:
    """VisA: masks hold a type's number; the types are in image_anno.csv, the official split in split_csv/1cls.csv."""
    folder = root / "pcb1"
    save_many(folder / "Data" / "Images" / "Normal", [f"{n:04d}.JPG" for n in range(8)])
    labels, split = [], []
    for index in range(8):
        part = "train" if index < 4 else "test"
        split.append(["pcb1", part, "normal", f"pcb1/Data/Images/Normal/{index:04d}.JPG", ""])
        labels.append([f"pcb1/Data/Images/Normal/{index:04d}.JPG", "normal", ""])
    for index, label in enumerate(["bent"] * 3 + ["melt"] * 3 + ["bent,melt"]):
        image, mask = f"Data/Images/Anomaly/{index:03d}.JPG", f"Data/Masks/Anomaly/{index:03d}.png"
        save_noise(folder / image, SIZE, "RGB")
        save_values(folder / mask, blobs(index, SIZE), 1 + index % 2)
        labels.append([f"pcb1/{image}", label, f"pcb1/{mask}"])
        split.append(["pcb1", "test", "anomaly", f"pcb1/{image}", f"pcb1/{mask}"])
    write_table(folder / "image_anno.csv", [["image", "label", "mask"], *labels])
    write_table(root / "split_csv" / "1cls.csv", [["object", "split", "label", "image", "mask"], *split])
    return folder


def write_table(path: Path, rows: list[list[str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def write_folder(root: Path, classes: bool = True) -> Path:
    """A plain folder; the first images are good, one of them with an empty mask."""
    folder = root / "mine"
    rows = [["image", "class"]]
    for index in range(9):
        name = ("good", "dent", "scratch")[index // 3]
        save_noise(folder / "images" / f"a {index}.jpg", SIZE, "RGB")
        rows.append([f"a {index}.jpg", name])
        if index:
            mask = blobs(index, SIZE) if index > 2 else np.zeros(SIZE[::-1], np.uint8)
            save_mask(folder / "masks" / f"a {index}.png", mask)
    if classes:
        write_table(folder / "classes.csv", rows)
    return folder


WRITERS: dict[str, Callable[[Path], Path]] = {
    "mvtec_3d": write_mvtec_3d,
    "loco": write_loco,
    "mvtec_ad_2": write_mvtec_ad_2,
    "btad": write_btad,
    "kolektor": write_kolektor,
    "magnetic_tile": write_magnetic_tile,
    "visa": write_visa,
    "folder": write_folder,
}
# layout -> (images that are good and meant for training, other good ones, {defect: images})
EXPECTED = {
    "mvtec_3d": (8, 4, {"crack": 4, "hole": 4}),
    "loco": (8, 4, {"logical_anomalies": 4, "structural_anomalies": 4}),
    "mvtec_ad_2": (8, 4, {"bad": 4}),
    "btad": (4, 4, {"ko": 4}),
    "kolektor": (3, 3, {"defect": 6}),
    "magnetic_tile": (0, 4, {"Blowhole": 4, "Crack": 4}),
    "visa": (4, 4, {"bent": 3, "combined": 1, "melt": 3}),
    "folder": (0, 3, {"dent": 3, "scratch": 3}),
}


def counts(category: Category) -> tuple[int, int, dict[str, int]]:
    good = [sample.origin for sample in category.samples if sample.defect == "good"]
    defects = {name: sum(s.defect == name for s in category.samples) for name in category.defects}
    return good.count("train"), good.count("test"), defects


def problems(folder: Path) -> str:
    return "\n".join(map(str, read_category(folder).problems))


@pytest.mark.parametrize("layout", WRITERS)
def test_every_layout_is_guessed_and_read(layout: str, tmp_path: Path) -> None:
    folder = WRITERS[layout](tmp_path)
    assert next(name for name in LAYOUTS if find_layout(folder, name)) == layout
    category = read_category(folder)
    assert category.problems == [] and category.layout == layout
    assert counts(category) == EXPECTED[layout]
    for sample in category.samples:
        assert (sample.mask is None) == (sample.defect == "good")
        if sample.mask is not None:
            assert 150 < mask_of(sample).mask.sum() < 250  # what `blobs` paints: 8 * 24 - 24 + 37 - x


@pytest.mark.parametrize("layout", WRITERS)
def test_every_layout_converts_and_verifies(layout: str, tmp_path: Path) -> None:
    folder = WRITERS[layout](tmp_path / "data")
    dataset = converted("all", folder, tmp_path / "out")
    assert json.loads((dataset / "card.json").read_text())["settings"]["layout"] == layout
    result = run_cli("verify", dataset)
    assert result.exit_code == 0, result.output
    for command in ("describe", "preview"):
        extra = ["--to", tmp_path / "previews"] if command == "preview" else []
        result = run_cli(command, "--root", folder, *extra)
        assert result.exit_code == 0, result.output
        assert result.stderr.startswith(f"layout: {layout}, guessed from")


def test_every_layout_but_mvtec_has_a_tree_here() -> None:
    assert set(WRITERS) == set(LAYOUTS) - {"mvtec"}


def rows_of(heading: str) -> list[list[str]]:
    """The rows of the first table under a heading of docs/formats.md, without code marks."""
    section = (
        (REPOSITORY / "docs" / "formats.md").read_text("utf-8").partition(f"## {heading}\n")[2].partition("## ")[0]
    )
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_tables_of_layouts_and_formats_are_those_of_the_code() -> None:
    assert [row[:2] for row in rows_of("Layouts of source folders")] == [[n, r.TREE] for n, r in LAYOUTS.items()]
    importers = [name for name in COMMANDS if name.startswith("from_")]
    assert [row[0] for row in rows_of("Labels of annotation programs")] == importers
    formats = {row[0]: row[1:3] for row in rows_of("Formats of datasets")}
    known = {
        name: [WRITING[name], reader.name.replace("fillPoly", "ultralytics")] for name, reader in readers().items()
    }
    assert list(formats) == list(FORMATS) and formats == known


def with_validation(make_category: Callable[..., Path]) -> Path:
    """MVTec AD's layout with good images in validation/, too, and masks that are files."""
    folder = make_category(masks={"crack": 3})
    save_many(folder / "validation" / "good", ["000.png", "001.png"], "L")
    return folder


def test_validation_beside_masks_that_are_files_is_no_loco(make_category: Callable[..., Path]) -> None:
    folder = with_validation(make_category)
    category = read_category(folder)
    assert (category.layout, category.problems, category.asides) == ("mvtec", [], ())
    assert counts(category) == (5, 3, {"crack": 3})
    assert run_cli("describe", "--root", folder).stderr == ""
    save_noise(folder / "validation" / "crack" / "000.png")
    with pytest.raises(DatasetError, match="validation/crack: validation/ may hold good images only"):
        read_category(folder)


def test_of_two_layouts_that_a_folder_may_have_both_are_named(make_category: Callable[..., Path]) -> None:
    folder = with_validation(make_category)
    save_mask(folder / "ground_truth" / "bend" / "000" / "000.png", blobs(0, SIZE))
    said = run_cli("describe", "--root", folder).stderr
    assert said.startswith("layout: loco, guessed from validation/good and ")
    assert "or else mvtec (train/ and test/); --layout names another" in said
    assert counts(read_category(folder, layout="mvtec")) == (5, 3, {"crack": 3})


def test_depth_of_mvtec_3d_is_told_and_defects_have_no_place_in_train(tmp_path: Path) -> None:
    folder = write_mvtec_3d(tmp_path)
    assert [(aside.file, aside.count) for aside in read_category(folder).asides] == [("train/good/xyz", 20)]
    (folder / "test" / "hole").rename(folder / "train" / "hole")
    assert "train/hole: train/ may hold good images only: move defects to test/hole" in problems(folder)


def test_one_root_may_hold_several_layouts(tmp_path: Path) -> None:
    for write in WRITERS.values():
        write(tmp_path)
    found = find_categories(tmp_path, "all")
    assert {find_layout(folder) for folder in found} == set(WRITERS)
    assert [folder.name for folder in find_categories(tmp_path, "all", "visa")] == ["pcb1"]


def test_categories_of_several_layouts_make_one_dataset_that_verifies(tmp_path: Path) -> None:
    for write in (write_visa, write_btad):
        write(tmp_path / "data")
    arguments = ["--root", tmp_path / "data", "--category", "all", "--classes", "category-defect"]
    assert run_cli("to_coco", *arguments, "--out", tmp_path / "out", "--workers", 1).exit_code == 0
    result = run_cli("verify", tmp_path / "out" / "all")
    assert result.exit_code == 0, result.output


def test_a_layout_that_is_not_there_is_refused_with_its_tree(tmp_path: Path) -> None:
    write_btad(tmp_path)
    line = refusal(run_cli("to_yolo", "--root", tmp_path, "--layout", "visa", "--out", tmp_path / "out"))
    assert "Data/Images/{Normal,Anomaly}" in line


def test_masks_of_loco_are_united_whatever_their_values(tmp_path: Path) -> None:
    category = read_category(write_loco(tmp_path))
    first = next(sample for sample in category.samples if sample.key == "test/logical_anomalies/000.png")
    assert (mask_of(first).mask == blobs(0, SIZE)).all() and mask_of(first).in_between == 0
    before = first.mask_digest
    save_values(category.folder / "ground_truth/logical_anomalies/000/002.png", blobs(3, SIZE), 7)
    again = next(sample for sample in read_category(category.folder).samples if sample.key == first.key)
    assert again.mask_digest != before and mask_of(again).mask.sum() > mask_of(first).mask.sum() - 1


def test_soft_edges_of_magnetic_tile_masks_are_counted(tmp_path: Path) -> None:
    dataset = converted("to_masks", write_magnetic_tile(tmp_path / "data"), tmp_path / "out")
    assert set(json.loads((dataset / "card.json").read_text())["soft_masks"].values()) == {6}


def test_defects_of_kolektor_are_divided_although_they_lie_in_train(tmp_path: Path) -> None:
    folder = write_kolektor(tmp_path / "data")
    dataset = converted("to_yolo", folder, tmp_path / "out")
    parts = json.loads((dataset / "split.json").read_text())["parts"]
    defects = [s.key for s in read_category(folder).samples if s.defect == "defect"]
    assert {parts[key] for key in defects} == {"train", "val", "test"}


def test_visa_without_its_tables_has_one_class_and_nothing_reserved(tmp_path: Path) -> None:
    folder = write_visa(tmp_path)
    (folder / "image_anno.csv").unlink()
    (tmp_path / "split_csv" / "1cls.csv").unlink()
    assert counts(read_category(folder)) == (0, 8, {"anomaly": 7})


def test_a_plain_folder_without_a_table_has_one_class(tmp_path: Path) -> None:
    assert counts(read_category(write_folder(tmp_path, classes=False))) == (0, 3, {"defect": 6})


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "I;16"])
def test_an_empty_mask_of_any_kind_means_good(mode: str, tmp_path: Path) -> None:
    folder = write_folder(tmp_path, classes=False)
    grey = Image.new("L", SIZE)
    wide = Image.fromarray(np.zeros(SIZE[::-1], np.uint16))
    (wide if mode == "I;16" else grey.convert(mode)).save(folder / "masks" / "a 5.png")
    assert counts(read_category(folder)) == (0, 4, {"defect": 5})


@pytest.mark.parametrize(
    ("layout", "lost", "expected"),
    [
        ("mvtec_3d", "test/crack/gt/001.png", "has no mask: test/crack/gt/001.png is missing"),
        ("loco", "ground_truth/logical_anomalies/001/000.png", ""),
        ("mvtec_ad_2", "test_public/ground_truth/bad/001_overexposed_mask.png", "001_overexposed_mask.png is missing"),
        ("btad", "ground_truth/ko/0001.png", "ground_truth/ko/0001.png is missing"),
        ("kolektor", "train/10001_GT.png", "10001_GT.png is missing"),
        ("magnetic_tile", "MT_Crack/Imgs/exp1_num_Crack1.png", "exp1_num_Crack1.png is missing"),
        ("visa", "Data/Masks/Anomaly/001.png", "Data/Masks/Anomaly/001.png is missing"),
        ("folder", "masks/a 4.png", "masks/a 4.png is missing"),
    ],
)
def test_a_missing_mask_is_named(layout: str, lost: str, expected: str, tmp_path: Path) -> None:
    folder = WRITERS[layout](tmp_path)
    (folder / lost).unlink()
    assert expected in problems(folder)
    if layout == "loco":  # one of several masks may be missing, not all
        assert problems(folder) == ""
        (folder / lost).with_name("001.png").unlink()
        assert "ground_truth/logical_anomalies/001/000.png is missing" in problems(folder)


@pytest.mark.parametrize(
    ("layout", "lost", "expected"),
    [
        ("mvtec_3d", "test/crack/rgb/001.png", "test/crack/gt/001.png"),
        ("loco", "test/logical_anomalies/001.png", "ground_truth/logical_anomalies/001"),
        ("mvtec_ad_2", "test_public/bad/001_overexposed.png", "ground_truth/bad/001_overexposed_mask.png"),
        ("btad", "test/ko/0001.bmp", "ground_truth/ko/0001.png"),
        ("kolektor", "train/10001.png", "train/10001_GT.png"),
        ("magnetic_tile", "MT_Crack/Imgs/exp1_num_Crack1.jpg", "MT_Crack/Imgs/exp1_num_Crack1.png"),
        ("visa", "Data/Images/Anomaly/001.JPG", "Data/Masks/Anomaly/001.png"),
        ("folder", "images/a 4.jpg", "masks/a 4.png"),
    ],
)
def test_a_mask_without_an_image_is_named(layout: str, lost: str, expected: str, tmp_path: Path) -> None:
    folder = WRITERS[layout](tmp_path)
    (folder / lost).unlink()
    assert expected in problems(folder)


def test_a_good_image_whose_mask_shows_a_defect_is_named(tmp_path: Path) -> None:
    tile, mine = write_magnetic_tile(tmp_path), write_folder(tmp_path)
    save_mask(tile / "MT_Free" / "Imgs" / "exp1_num_Free1.png", blobs(0, SIZE))
    save_mask(mine / "masks" / "a 1.png", blobs(0, SIZE))
    assert "exp1_num_Free1.png shows a defect" in problems(tile)
    assert "a 1.png shows a defect" in problems(mine)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "the first line must be image,class"),
        ("picture,class\n", "the first line must be image,class"),
        ("image,class\na 0.jpg\n", "line 2"),
        ("image,class\na 0.jpg,good\na 1.jpg,\n", "line 3"),
        ("image,class\na 0.jpg,../up\n", "line 2"),
        ("image,class\na 0.jpg,good\na 0.jpg,dent\n", "line 3 gives a 0.jpg another class"),
        ("image,class\n\x80\n", "is no CSV table"),
    ],
)
def test_a_bad_table_of_classes_is_refused(text: str, expected: str, tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    (folder / "classes.csv").write_bytes(text.encode("latin-1"))
    line = run_cli("to_yolo", "--root", folder, "--out", tmp_path / "out", "--layout", "folder")
    assert "classes.csv" in refusal(line) and expected in line.stderr


def test_images_without_a_row_and_rows_without_an_image_are_named(tmp_path: Path) -> None:
    folder = write_folder(tmp_path)
    text = (folder / "classes.csv").read_text().replace("a 4.jpg", "a 44.jpg")
    (folder / "classes.csv").write_text(text)
    assert "a 4.jpg: has no row in classes.csv" in problems(folder)
    assert "names 'a 44.jpg', which is not in images/" in problems(folder)


@pytest.mark.parametrize("text", ["image,mask\nx,y\n", "image,label\npcb1/a\n"])
def test_a_visa_table_without_its_columns_is_refused(text: str, tmp_path: Path) -> None:
    folder = write_visa(tmp_path / "data")
    (folder / "image_anno.csv").write_text(text)
    result = run_cli("to_yolo", "--root", folder, "--out", tmp_path / "out", "--layout", "visa")
    assert "image_anno.csv: every row needs the columns image, label" in refusal(result)


def test_the_images_of_all_categories_keep_what_they_were_meant_for(make_category: Callable, tmp_path: Path) -> None:
    """In one dataset of all categories, train/good stays in train, as it does in a category's own dataset."""
    for name in ("nut", "bolt"):
        make_category(name=name, good=(5, 5))
    result = run_cli(
        "to_yolo", "--root", tmp_path / "data", "--category", "all", "--out", tmp_path / "out", "--classes",
        "category-defect",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    parts = json.loads((tmp_path / "out" / "all" / "split.json").read_text())["parts"]
    assert {part for key, part in parts.items() if "/train/good/" in key} == {"train"}
