"""People's folders: what is not as it should be is taken, or told in one line with its reason; never in silence."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import blobs, converted, refusal, run_cli, save_mask, save_noise, write_category
from PIL import Image, ImageOps
from test_imports import SIZE, SQUARE, box, classes_in, from_coco, masks_in, write_coco

from converters.datasets.groups import with_groups
from converters.masks.reading import read_mask
from converters.sources.reading import find_categories, read_category
from converters.sources.samples import told

ROW = "0 0.1 0.1 0.6 0.1 0.6 0.7 0.1 0.7"


def write_yolo(root: Path, rows: dict[str, str] | None = None, **changes: Any) -> Path:
    """images/{train,val}/0.png with their labels, a row each, and data.yaml with dent and scratch."""
    for part in ("train", "val"):
        save_noise(root / "images" / part / "0.png", SIZE)
        (root / "labels" / part).mkdir(parents=True)
        (root / "labels" / part / "0.txt").write_text((rows or {}).get(part, ROW) + "\n")
    data = {"train": "images/train", "val": "images/val", "names": ["dent", "scratch"]} | changes
    (root / "data.yaml").write_text(yaml.safe_dump({key: value for key, value in data.items() if value is not None}))
    return root / "data.yaml"


def from_yolo(file: Path, to: Path, *arguments: object) -> tuple[dict[str, str], str]:
    """Classes of the folder that was written, and what was told."""
    result = run_cli("from_yolo", file, "--to", to, *arguments)
    assert result.exit_code == 0, result.output
    return classes_in(to), result.stderr


# ---------------------------------------------------------------- any source


def test_texts_and_dead_links_among_images_and_masks_are_told(tmp_path: Path) -> None:
    folder = write_category(tmp_path, masks={"crack": 3})
    for place in ("test/crack/000.json", "test/good/notes.txt", "ground_truth/crack/000.txt", "train/readme.md"):
        (folder / place).write_text("x")
    (folder / "train" / "good" / "lost.png").symlink_to(tmp_path / "moved.png")
    category = read_category(folder)
    assert category.problems == [] and len(category.samples) == 9
    said = told(category.asides)
    assert "texts and documents among the images, not taken: 4 (first: train/readme.md)" in said
    assert "links to images that are not there, not taken: 1 (first: train/good/lost.png)" in said


def test_full_opacity_is_no_obstacle_and_any_other_is(tmp_path: Path) -> None:
    folder = write_category(tmp_path / "data", masks={"crack": 3}, mode="RGB")
    first = folder / "test" / "crack" / "000.png"
    colours = np.asarray(Image.open(first))
    Image.fromarray(np.dstack([colours, np.full(colours.shape[:2], 255, np.uint8)])).save(first)
    dataset = converted("all", folder, tmp_path / "out")
    card = (dataset / "card.md").read_text()
    assert (
        "freed of a channel of opacity that is full everywhere, written as PNG: 1 (first: test/crack/000.png)" in card
    )
    with Image.open(next((dataset / "coco" / "images").rglob("test__crack__000.png"))) as image:
        assert image.mode == "RGB" and (np.asarray(image) == colours).all()
    assert run_cli("verify", dataset).exit_code == 0
    Image.fromarray(np.dstack([colours, np.full(colours.shape[:2], 254, np.uint8)])).save(first)
    assert "000.png: has the mode RGBA" in str(read_category(folder).problems[0])


def test_a_file_instead_of_a_folder_is_called_so(tmp_path: Path) -> None:
    (tmp_path / "screw.zip").write_bytes(b"PK")
    line = refusal(run_cli("to_coco", "--root", tmp_path / "screw.zip", "--out", tmp_path / "out"))
    assert "screw.zip: is a file, and a folder is needed: unpack it" in line


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffimage;class\r\na.png;dent\r\nsub\\b.png;good\r\n;\r\n",
        "Image, Class\na.png, dent\nsub/b.png, good\n\n\n",
        'image,class\r"a.png","dent"\rsub/b.png,good\rsub/b.png,good\r',
    ],
)
def test_tables_of_spreadsheets_and_editors(tmp_path: Path, text: str) -> None:
    save_noise(tmp_path / "images" / "a.png", SIZE)
    save_noise(tmp_path / "images" / "sub" / "b.png", SIZE)
    save_mask(tmp_path / "masks" / "a.png", blobs(0, SIZE))
    (tmp_path / "classes.csv").write_bytes(text.encode())
    category = read_category(tmp_path)
    assert category.problems == []
    classes = {"images/a.png": "dent", "images/sub/b.png": "good"}
    assert {sample.key: sample.defect for sample in category.samples} == classes
    groups = tmp_path / "groups.csv"
    text = text.replace("class", "group").replace("Class", "Group")
    groups.write_bytes(text.replace("a.png", "images/a.png").replace("sub", "images/sub").encode())
    assert {sample.key: sample.group for sample in with_groups(category, None, groups).samples} == classes


# ---------------------------------------------------------------- YOLO


@pytest.mark.parametrize("suffix", [".webp", ".jfif"])
def test_a_labelled_image_of_another_type_is_refused_and_one_without_label_is_told(tmp_path: Path, suffix: str) -> None:
    file = write_yolo(tmp_path)
    save_noise(tmp_path / "images" / "train" / "1.png", SIZE).rename(tmp_path / "images" / "train" / f"1{suffix}")
    assert "images of other types than are read, without a label, not taken: 1" in from_yolo(file, tmp_path / "to")[1]
    (tmp_path / "labels" / "train" / "1.txt").write_text(ROW)
    line = refusal(run_cli("from_yolo", file, "--to", tmp_path / "more"))
    assert f"1{suffix}: {suffix} is no supported image type" in line


def test_labels_beside_their_images_are_no_good_images(tmp_path: Path) -> None:
    file = write_yolo(tmp_path)
    (tmp_path / "labels" / "train" / "0.txt").rename(tmp_path / "images" / "train" / "0.txt")
    line = refusal(run_cli("from_yolo", file, "--to", tmp_path / "to"))
    assert "its labels lie beside it, in 0.txt: move such files to" in line and "labels/train" in line


def test_a_dataset_without_any_label_file_is_refused(tmp_path: Path) -> None:
    file = write_yolo(tmp_path)
    (tmp_path / "labels").rename(tmp_path / "annotations")
    assert "none of its 2 images has a label file, such as" in refusal(
        run_cli("from_yolo", file, "--to", tmp_path / "to")
    )


def test_labels_without_images_and_images_that_no_part_names_are_told(tmp_path: Path) -> None:
    file = write_yolo(tmp_path)
    (tmp_path / "labels" / "valid").mkdir()
    (tmp_path / "labels" / "valid" / "7.txt").write_text(ROW)
    (tmp_path / "labels" / "val" / "classes.txt").write_text("dent\nscratch\n")
    save_noise(tmp_path / "images" / "test" / "0.png", SIZE)
    _, said = from_yolo(file, tmp_path / "to")
    assert "label files without an image, not taken: 1 (first: " in said and "7.txt)" in said
    assert "images that data.yaml does not name, not taken: 1 (first: test/0.png)" in said


def test_label_files_with_a_large_suffix_are_read(tmp_path: Path) -> None:
    file = write_yolo(tmp_path)
    (tmp_path / "labels" / "train" / "0.txt").rename(tmp_path / "labels" / "train" / "0.TXT")
    classes, said = from_yolo(file, tmp_path / "to")
    assert set(classes.values()) == {"dent"} and said == ""


def test_poses_are_no_outlines(tmp_path: Path) -> None:
    file = write_yolo(tmp_path, kpt_shape=[4, 2])
    assert "data.yaml: kpt_shape: these labels are poses" in refusal(
        run_cli("from_yolo", file, "--to", tmp_path / "to")
    )


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("[no, yes]", "no"),
        ("[0010, 1e3]", "0010"),
        ("[~, null]", "~"),
        ("{'0': dent, 1: scratch}", "dent"),
        ("[1.50, 2020-01-01]", "1.50"),
    ],
)
def test_names_are_taken_as_they_stand(tmp_path: Path, names: str, expected: str) -> None:
    file = write_yolo(tmp_path, names=None)
    file.write_text(f"{file.read_text()}names: {names}\n")
    assert set(from_yolo(file, tmp_path / "to")[0].values()) == {expected}


def test_two_classes_of_one_name_are_refused(tmp_path: Path) -> None:
    file = write_yolo(tmp_path, names=["dent", "dent"])
    assert "names: 0 and 1 are both 'dent'" in refusal(run_cli("from_yolo", file, "--to", tmp_path / "to"))
    file.write_text("train: images/train\nnames:\n  0: dent\n  0: scratch\n")
    assert "the key '0' comes twice" in refusal(run_cli("from_yolo", file, "--to", tmp_path / "to"))


def test_an_image_that_two_parts_name_is_taken_once(tmp_path: Path) -> None:
    classes, said = from_yolo(write_yolo(tmp_path, val="images/train"), tmp_path / "to")
    assert classes == {"train__0.png": "dent"} and "images that data.yaml names twice, taken once: 1" in said


def test_equal_names_in_several_folders_keep_their_folders(tmp_path: Path) -> None:
    file = write_yolo(tmp_path, train="train.txt", val=["images/val"])
    (tmp_path / "train.txt").write_text("./images/train/0.png\r\n./cam/images/0.png\r\n")
    save_noise(tmp_path / "cam" / "images" / "0.png", SIZE)
    classes, said = from_yolo(file, tmp_path / "to")
    assert classes == {
        "train__images__train__0.png": "dent",
        "train__cam__images__0.png": "good",
        "val__0.png": "dent",
    }
    assert "no label file, taken as good: 1" in said


def test_paths_as_windows_writes_them_are_found(tmp_path: Path) -> None:
    file = write_yolo(tmp_path, path="C:\\Users\\me\\parts", train="C:\\Users\\me\\parts\\images\\train", val="val.txt")
    (tmp_path / "val.txt").write_text("D:\\parts\\images\\val\\0.png\n")
    classes, said = from_yolo(file, tmp_path / "to")
    assert classes == {"train__0.png": "dent", "val__0.png": "dent"} and "found by their end: 1" in said


def test_coordinates_beyond_the_border_by_rounding_are_cut_and_told(tmp_path: Path) -> None:
    rows = {"train": "0 0.5 0.5 1.0000001 0.5 1.01 0.8 0.5 0.8", "val": "0 0.5 0.5 1 0.5 1 0.8 0.5 0.8"}
    _, said = from_yolo(write_yolo(tmp_path, rows), tmp_path / "to")
    assert "labels beyond the border of their image, cut there: 1 (first: " in said
    cut, exact = masks_in(tmp_path / "to").values()
    assert cut.any() and (cut == exact).all()


def test_identical_and_empty_rows_beside_others_are_left_aside_and_told(tmp_path: Path) -> None:
    classes, said = from_yolo(
        write_yolo(tmp_path, {"train": f"{ROW}\n{ROW}", "val": f"{ROW}\n1 0.5 0.5"}), tmp_path / "to"
    )
    assert set(classes.values()) == {"dent"}
    assert "in their image twice, taken once: 1" in said and "cover no pixel, beside others of their image" in said
    one, other = masks_in(tmp_path / "to").values()
    assert (one == other).all()


# ---------------------------------------------------------------- COCO


def test_crowds_overlaps_degenerate_and_repeated_polygons_are_told(tmp_path: Path) -> None:
    annotations = [
        {"segmentation": [SQUARE], "iscrowd": 1},
        {"segmentation": [SQUARE]},
        {"segmentation": [[1, 2, 3, 4]]},
        {"segmentation": [[20, 20, 30, 20, 40, 20]]},
        {"segmentation": [box(20, 20), [1, 1]], "image_id": 2},
        {"segmentation": [box(40.0000001, 5)], "image_id": 2},
        {"segmentation": [box(3, 22, 14), box(6, 25, 4)], "image_id": 2},
    ]
    result = from_coco(write_coco(tmp_path, annotations), tmp_path / "to")
    assert result.exit_code == 0, result.output
    for line in (
        "annotations with iscrowd, taken like the others: 1",
        "labels that are in their image twice, taken once: 1",
        "labels that cover no pixel, beside others of their image, left aside: 2",
        "polygons of fewer than three points, beside others of their label, left aside: 1",
        "labels beyond the border of their image, cut there: 1",
        "labels whose polygons overlap, united as COCO does (no hole): 1",
    ):
        assert line in result.stderr, line
    assert "4 labels make 4 connected parts" in result.stdout


@pytest.mark.parametrize(
    "name",
    [
        "C:\\data\\images\\0.png",
        "/data/upload/3/0.png",
        "/data/local-files/?d=parts/0.png",
        "../../label-studio/data/media/upload/1/5fa3b01c-0.png",
        "0.PNG",
    ],
)
def test_paths_of_other_machines_are_found_and_told(tmp_path: Path, name: str) -> None:
    images = [{"id": 1, "file_name": name, "width": SIZE[0], "height": SIZE[1]}]
    result = from_coco(write_coco(tmp_path, [{"segmentation": [SQUARE]}], 1, {"images": images}), tmp_path / "to")
    assert result.exit_code == 0, result.output
    assert classes_in(tmp_path / "to") == {"0.png": "dent"} and "found by their end: 1" in result.stderr


def test_accents_of_macos_and_a_byte_order_mark_are_no_obstacle(tmp_path: Path) -> None:
    file = write_coco(tmp_path, [], 0, {"images": [{"id": 1, "file_name": "m\u00fcller.png"}]})
    save_noise(tmp_path / "images" / "mu\u0308ller.png", SIZE)
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert from_coco(file, tmp_path / "to").exit_code == 0
    assert list(classes_in(tmp_path / "to").values()) == ["good"]


def test_categories_of_one_name_become_one_class_and_are_told(tmp_path: Path) -> None:
    labels = [{"segmentation": [SQUARE]}, {"segmentation": [box(20, 20)], "category_id": 2}]
    categories = [{"id": 1, "name": "dent"}, {"id": 2, "name": "dent"}]
    result = from_coco(write_coco(tmp_path, labels, 1, {"categories": categories}), tmp_path / "to")
    assert result.exit_code == 0 and "categories of a name that another has, too: 1 (first: dent)" in result.stderr


# ---------------------------------------------------------------- what lies in folders


CLUTTER: dict[str, Callable[[Path], Path]] = {
    "hidden": lambda path: path.parent / ".ipynb_checkpoints" / path.name,
    "macOS": lambda path: path.with_name(f"._{path.name}"),
    "archive": lambda path: path.parent / "__MACOSX" / path.name,
    "Synology": lambda path: path.parent / "@eaDir" / path.name,
}


@pytest.mark.parametrize("kind", CLUTTER)
def test_clutter_is_skipped_everywhere_alike_and_told(tmp_path: Path, kind: str) -> None:
    said = "images in hidden folders, or left by an operating system or file server, skipped: "
    yolo = write_yolo(tmp_path / "yolo")
    save_noise(CLUTTER[kind](yolo.parent / "images" / "train" / "0.png"), SIZE)
    classes, lines = from_yolo(yolo, tmp_path / "to")
    assert len(classes) == 2 and f"{said}1" in lines
    coco = write_coco(tmp_path / "coco", [{"segmentation": [SQUARE]}])
    save_noise(CLUTTER[kind](coco.parent / "images" / "0.png"), SIZE)
    assert f"{said}1" in from_coco(coco, tmp_path / "from_coco").stderr
    for name in ("images", "masks"):
        save_noise(CLUTTER[kind](tmp_path / "to" / name / "train__0.png"), SIZE)
    category = read_category(tmp_path / "to")
    assert len(category.samples) == 2 and not category.problems
    assert told(category.asides)[0].startswith(f"{said}2")
    mvtec = write_category(tmp_path / "data")
    for place in ("train/good", "test/crack", "ground_truth/crack"):
        save_noise(CLUTTER[kind](mvtec / place / "000.png"), SIZE)
    save_noise(CLUTTER[kind](mvtec / "test") / "more.png", SIZE)
    category = read_category(mvtec)
    assert len(category.samples) == 16 and not category.problems and told(category.asides)[0].startswith(f"{said}4")


def test_folders_inside_a_plain_folder_are_read(tmp_path: Path) -> None:
    for place in ("", "line1", "line1/late"):
        for index in range(2):
            save_noise(tmp_path / "plain" / "images" / place / f"{index}.jpg", SIZE)
        save_mask(tmp_path / "plain" / "masks" / place / "0_mask.png", blobs(0, SIZE))
    category = read_category(tmp_path / "plain")
    assert len(category.samples) == 6 and not category.problems and not category.asides
    assert [s.key for s in category.samples if s.mask] == [
        "images/0.jpg",
        "images/line1/0.jpg",
        "images/line1/late/0.jpg",
    ]
    (tmp_path / "plain" / "classes.csv").write_text(
        "image,class\n0.jpg,dent\n1.jpg,good\nline1/0.jpg,dent\nline1/1.jpg,OK\nline1/late/0.jpg,rust\n"
        "line1/late/1.jpg,good\n"
    )
    category = read_category(tmp_path / "plain")
    assert category.defects == ["dent", "rust"] and not category.problems


def test_images_where_a_layout_looks_for_none_are_told_in_table_and_card(tmp_path: Path) -> None:
    folder = write_category(tmp_path / "data")
    save_noise(folder / "overview.png", SIZE)
    save_noise(folder / "extra" / "a.webp.png", SIZE)
    result = run_cli("to_yolo", "--root", folder, "--out", tmp_path / "out")
    line = "images where this layout looks for none, not taken: 2 (first: extra/a.webp.png)"
    assert result.exit_code == 0 and line in result.stdout
    assert line in (tmp_path / "out" / "widget" / "card.md").read_text()
    card = json.loads((tmp_path / "out" / "widget" / "card.json").read_text())
    assert [aside["count"] for aside in card["asides"]] == [2]
    assert line in run_cli("describe", "--root", folder).stdout
    kept = run_cli("to_yolo", "--root", folder, "--out", tmp_path / "out", "--resume")
    assert kept.exit_code == 0 and line in kept.stdout


def test_folders_that_are_no_category_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_category(tmp_path, "a")
    save_noise(tmp_path / "b" / "1.png", SIZE)
    assert [path.name for path in find_categories(tmp_path, "all")] == ["a"]
    assert "folders of images that are no category, not taken: 1 (first: b)" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["Good", "ok", "normal"])
def test_other_names_of_the_good_folder(tmp_path: Path, name: str) -> None:
    folder = write_category(tmp_path)
    for part in ("train", "test"):
        (folder / part / "good").rename(folder / part / name)
    category = read_category(folder)
    assert category.defects == ["crack", "hole"] and len(category.samples) == 16
    assert told(category.asides) == [f"folders Good, ok or normal, taken as good: 2 (first: train/{name})"]


def test_black_masks_of_good_images_are_fine_and_others_are_not(tmp_path: Path) -> None:
    folder = write_category(tmp_path)
    (folder / "test" / "good").rename(folder / "test" / "OK")
    for index in range(3):
        save_mask(folder / "ground_truth" / "good" / f"{index:03}_mask.png", np.zeros(SIZE[::-1]))
    category = read_category(folder)
    assert not category.problems and len(category.asides) == 1 and len(category.samples) == 16
    save_mask(folder / "ground_truth" / "good" / "001_mask.png", blobs(0, SIZE))
    assert [problem.file for problem in read_category(folder).problems] == ["test/OK/001.png"]


# ---------------------------------------------------------------- images and masks


def test_turned_images_are_turned_once_and_those_of_16_bits_are_used(tmp_path: Path) -> None:
    folder = write_category(tmp_path / "data", mode="RGB", suffix=".jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    turned, upright = (
        folder / "test" / "crack" / "000.jpg",
        Image.open(folder / "test" / "crack" / "000.jpg").convert("RGB"),
    )
    upright.rotate(90, expand=True).save(turned, exif=exif, quality=95)
    deep = np.random.default_rng(0).integers(0, 65536, SIZE[::-1], np.uint16)
    Image.fromarray(deep).save(folder / "test" / "good" / "deep.png")
    dataset = converted("all", folder, tmp_path / "out")
    (image,) = (dataset / "coco" / "images").rglob("test__crack__000.*")
    assert image.suffix == ".png"
    with Image.open(image) as found, Image.open(turned) as source:
        assert not found.getexif() and found.tobytes() == ImageOps.exif_transpose(source).tobytes()
    (image,) = (dataset / "yolo" / "images").rglob("test__good__deep.png")
    assert (np.asarray(Image.open(image)) == deep >> 8).all()
    asides = json.loads((dataset / "card.json").read_text())["asides"]
    assert [(aside["file"], aside["count"]) for aside in asides] == [
        ("test/crack/000.jpg", 1),
        ("test/good/deep.png", 1),
    ]
    assert run_cli("verify", dataset).exit_code == 0


def test_an_importer_turns_images_once(tmp_path: Path) -> None:
    file = write_yolo(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 8
    path = tmp_path / "images" / "train" / "0.png"
    Image.open(path).convert("L").save(path, exif=exif)
    _, said = from_yolo(file, tmp_path / "to")
    assert "turned upright by their EXIF orientation, written as PNG: 1" in said
    category = read_category(tmp_path / "to")
    assert not category.problems and not category.asides
    assert [(s.width, s.height) for s in category.samples] == [SIZE[::-1], SIZE]


def test_pages_of_a_mask_are_not_lost(tmp_path: Path) -> None:
    path, one = tmp_path / "m.tif", Image.fromarray(blobs(0, SIZE) * 255)
    one.save(path, save_all=True, append_images=[one])
    folder = write_category(tmp_path / "data")
    path.rename(folder / "ground_truth" / "crack" / "000_mask.tif")
    (folder / "ground_truth" / "crack" / "000_mask.png").unlink()
    line = refusal(run_cli("to_masks", "--root", folder, "--out", tmp_path / "out"))
    assert "crack/000_mask.tif: the mask holds several pages" in line


def test_the_void_of_palette_masks_is_ignored_and_counted(tmp_path: Path) -> None:
    folder = write_category(tmp_path / "data")
    indices = blobs(0, SIZE)
    indices[:2, :5] = 255
    mask = Image.fromarray(indices).convert("P")
    mask.putpalette([0, 0, 0, 128, 0, 0, *[0] * 3 * 253, 224, 224, 192])
    mask.putdata(indices.ravel().tolist())
    mask.save(folder / "ground_truth" / "crack" / "000_mask.png")
    read = read_mask(folder / "ground_truth" / "crack" / "000_mask.png")
    assert read.ignored == 10 and (read.mask == blobs(0, SIZE)).all()
    line = (
        "pixels of masks that are to be ignored (index 255 of a palette), taken as good: 10 (first: test/crack/000.png)"
    )
    assert line in run_cli("to_masks", "--root", folder, "--out", tmp_path / "out").stdout
    assert line in run_cli("describe", "--root", folder).stdout


def test_more_instances_than_voc_holds(tmp_path: Path) -> None:
    mask = np.zeros((40, 60), np.uint8)
    mask[::2, ::2] = 1
    folder = write_category(tmp_path / "data", masks={"dots": [mask] * 3})
    line = refusal(run_cli("all", "--root", folder, "--out", tmp_path / "out"))
    assert "dots/000_mask.png: 600 instances, and voc holds 254" in line and "all --formats" in line
    dataset = converted("all", folder, tmp_path / "out", "--formats", "yolo,coco")
    assert sorted(path.name for path in dataset.iterdir() if path.is_dir()) == ["coco", "yolo"]
    assert "none of yolo" in run_cli("all", "--root", folder, "--formats", "yolo,pascal").stderr
