"""Every format, read back by programs that are not ours."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from conftest import blobs, converted, refusal, run_cli, tree, write_category
from defusedxml import ElementTree
from PIL import Image
from pycocotools.coco import COCO
from scipy import ndimage

MakeCategory = Callable[..., Path]
PARTS = ("train", "val", "test")

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools


def true_mask(folder: Path, name: str) -> np.ndarray:
    """H x W of False and True of the image that an output calls ``name``."""
    _, defect, file = name.split("__")
    path = folder / "ground_truth" / defect / f"{Path(file).stem}_mask.png"
    if defect == "good":
        with Image.open(folder / "test" / "good" / "000.png") as image:
            return np.zeros(image.size[::-1], bool)
    return np.asarray(Image.open(path)) > 0


def components(mask: np.ndarray) -> list[np.ndarray]:
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    return [labels == label for label in range(1, count + 1)]


def box(part: np.ndarray) -> tuple[int, int, int, int]:
    """x0, y0, x1, y1 on pixel edges."""
    rows, columns = np.nonzero(part)
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


EVERYTHING = {
    "crack": [blobs(i, (48, 40)) for i in range(6)],
    "hole": [np.eye(40, 48, i, dtype=np.uint8) for i in range(5)],
    "stain": [
        np.ones((40, 48), np.uint8),
        np.pad(np.ones((1, 1), np.uint8), ((7, 32), (0, 47))),  # on one edge each
        np.pad(np.ones((1, 1), np.uint8), ((0, 39), (7, 40))),
        np.pad(np.ones((2, 3), np.uint8), ((7, 31), (45, 0))),
        np.pad(np.ones((2, 3), np.uint8), ((38, 0), (7, 38))),
    ],
}


@pytest.fixture(scope="module", params=["small", "screw"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A category folder and its dataset in all formats, once small and once the real one."""
    base = tmp_path_factory.mktemp("formats")
    if request.param == "screw":
        folder = request.getfixturevalue("screw")
    else:
        folder = write_category(base / "data", masks=EVERYTHING, mode="RGB", good=(4, 6))
    dataset = converted("all", folder, base / "out")
    result = run_cli("to_yolo", "--task", "obb", "--root", folder, "--out", base / "out")
    assert result.exit_code == 0, result.output
    return folder, dataset


def classes_of(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "test").iterdir() if path.name != "good")


def images_of(folder: Path) -> set[str]:
    return {
        path.relative_to(folder).as_posix().replace("/", "__")
        for pattern in ("train/good/*.png", "test/*/*.png")
        for path in folder.glob(pattern)
    }


def split_of(dataset: Path) -> dict[str, str]:
    parts = json.loads((dataset / "split.json").read_text("utf-8"))["parts"]
    return {key.replace("/", "__"): part for key, part in parts.items()}


def split_hash(dataset: Path) -> str:
    return json.loads((dataset / "card.json").read_text("utf-8"))["split_sha256"]


# ---------------------------------------------------------------- COCO


def test_coco_gives_back_every_mask_box_and_area(pair: tuple[Path, Path]) -> None:
    folder, dataset = pair
    seen: set[str] = set()
    ids: list[tuple[int, int]] = []
    for part in PARTS:
        coco = COCO(dataset / "coco" / "annotations" / f"instances_{part}.json")
        assert {c["id"]: c["name"] for c in coco.loadCats(coco.getCatIds())} == dict(
            enumerate(classes_of(folder), start=1)
        )
        for image in coco.loadImgs(coco.getImgIds()):
            name = image["file_name"]
            annotations = coco.loadAnns(coco.getAnnIds(image["id"]))
            mask = true_mask(folder, name) if "train__" not in name else np.zeros((image["height"], image["width"]))
            expected = {p.tobytes(): p for p in components(mask)}
            found = {coco.annToMask(a).astype(bool).tobytes(): a for a in annotations}
            assert found.keys() == expected.keys(), name
            for key, a in found.items():
                x0, y0, x1, y1 = box(expected[key])
                assert a["bbox"] == [x0, y0, x1 - x0, y1 - y0] and a["area"] == expected[key].sum()
                assert a["iscrowd"] == 0 and coco.cats[a["category_id"]]["name"] == name.split("__")[1]
            assert (dataset / "coco" / "images" / part / name).is_file()
            assert split_of(dataset)[name] == part
            seen.add(name)
            ids += [("image", image["id"]), *(("annotation", a["id"]) for a in annotations)]
    assert seen == images_of(folder)
    assert len(ids) == len(set(ids)), "ids are unique over the parts"


def test_rle_gives_back_every_mask(make_category: MakeCategory, tmp_path: Path) -> None:
    folder = make_category(masks=EVERYTHING)
    dataset = converted("to_coco", folder, tmp_path / "out", "--segmentation", "rle")
    checked = 0
    for part in PARTS:
        coco = COCO(dataset / "coco" / "annotations" / f"instances_{part}.json")
        for image in coco.loadImgs(coco.getImgIds()):
            if "test__" in image["file_name"]:
                found = [coco.annToMask(a) for a in coco.loadAnns(coco.getAnnIds(image["id"]))]
                union = np.any(found, axis=0) if found else np.zeros((40, 48), bool)
                assert np.array_equal(union, true_mask(folder, image["file_name"]))
                checked += len(found)
    assert checked == 6 * 2 + 5 + 5


@pytest.mark.parametrize("segmentation", ["polygon", "rle"])
def test_roboflows_folders_hold_the_same_entries(
    make_category: MakeCategory, tmp_path: Path, segmentation: str
) -> None:
    folder = make_category(masks=EVERYTHING)
    arguments = ["--segmentation", segmentation]
    dataset = converted("to_coco", folder, tmp_path / "out", *arguments)
    converted("to_coco", folder, tmp_path / "out", *arguments, "--style", "roboflow")
    for part, place in (("train", "train"), ("val", "valid"), ("test", "test")):
        coco = json.loads((dataset / "coco" / "annotations" / f"instances_{part}.json").read_text())
        path = dataset / "coco-roboflow" / place / "_annotations.coco.json"
        theirs = json.loads(path.read_text())
        assert [(c["id"], c["name"], c["supercategory"]) for c in theirs["categories"]] == [
            (number, name, "none") for number, name in enumerate(classes_of(folder), start=1)
        ]  # a category that another names as its parent would be dropped by RF-DETR
        assert coco.pop("categories") != theirs.pop("categories") and coco == theirs
        assert {path.name for path in path.parent.iterdir()} == {path.name} | {
            image["file_name"] for image in theirs["images"]
        }
    assert run_cli("verify", dataset).exit_code == 0


# ---------------------------------------------------------------- YOLO


def rows_of(dataset: Path, task: str) -> Iterator[tuple[str, str, list[np.ndarray]]]:
    """(part, image name, rows as float arrays with the class first)."""
    names = {Path(name).stem: name for name in split_of(dataset)}
    for path in sorted((dataset / task / "labels").glob("*/*.txt")):
        rows = [np.array(line.split(), float) for line in path.read_text().splitlines()]
        yield path.parent.name, names[path.stem], rows


@pytest.mark.parametrize("task", ["yolo", "yolo-seg", "yolo-obb"])
def test_yolo_has_a_label_file_in_the_right_part_for_every_image(pair: tuple[Path, Path], task: str) -> None:
    folder, dataset = pair
    rows = list(rows_of(dataset, task))
    assert {name: part for part, name, _ in rows} == split_of(dataset)
    assert {name for _, name, _ in rows} == images_of(folder)
    for part, name, found in rows:
        assert (dataset / task / "images" / part / name).is_file()
        assert bool(found) == ("good" not in name), "the label file of a good image is empty"
        assert {classes_of(folder)[int(row[0])] for row in found} <= {name.split("__")[1]}


def test_yolo_boxes_are_those_of_the_masks(pair: tuple[Path, Path]) -> None:
    folder, dataset = pair
    for _, name, rows in rows_of(dataset, "yolo"):
        mask = true_mask(folder, name)
        size = np.array([mask.shape[1], mask.shape[0]] * 2)
        found = {
            tuple(np.round(np.array([x - w / 2, y - h / 2, x + w / 2, y + h / 2]) * size, 3)) for _, x, y, w, h in rows
        }
        assert found == {box(part) for part in components(mask)}, name


def test_yolo_polygons_truncated_and_filled_are_the_masks(pair: tuple[Path, Path]) -> None:
    folder, dataset = pair
    for _, name, rows in rows_of(dataset, "yolo-seg"):
        mask = true_mask(folder, name)
        found = set()
        for row in rows:
            assert len(row) >= 7, "a row of a segment set with a box only is dropped as corrupt"
            canvas = np.zeros(mask.shape, np.uint8)
            vertices = row[1:].astype(np.float32).reshape(-1, 2) * np.float32(mask.shape[::-1])
            found.add(cv2.fillPoly(canvas, [vertices.astype(np.int32)], 1).astype(bool).tobytes())
        assert found == {part.tobytes() for part in components(mask)}, name


def test_rotated_boxes_hold_their_instance_and_are_never_larger_than_the_box(pair: tuple[Path, Path]) -> None:
    folder, dataset = pair
    for _, name, rows in rows_of(dataset, "yolo-obb"):
        mask = true_mask(folder, name)
        parts = components(mask)
        assert len(rows) == len(parts)
        for row in rows:
            assert len(row) == 9 and row[1:].min() >= 0 and row[1:].max() <= 1
            corners = (row[1:].reshape(4, 2) * mask.shape[::-1]).astype(np.float32)
            inside = [
                part
                for part in parts
                if all(
                    cv2.pointPolygonTest(corners, (x + 0.5, y + 0.5), True) > 0.4
                    for y, x in np.argwhere(part & ~ndimage.binary_erosion(part)).tolist()
                )
            ]
            x0, y0, x1, y1 = min((box(part) for part in inside), key=lambda b: -((b[2] - b[0]) * (b[3] - b[1])))
            assert cv2.contourArea(corners) <= (x1 - x0) * (y1 - y0) + 0.01


def test_data_yaml_names_classes_and_no_machine_path(pair: tuple[Path, Path]) -> None:
    folder, dataset = pair
    for task in ("yolo", "yolo-seg", "yolo-obb"):
        text = (dataset / task / "data.yaml").read_text("utf-8")
        data = yaml.safe_load(text)
        assert data["names"] == dict(enumerate(classes_of(folder)))
        assert {part: data[part] for part in PARTS} == {part: f"images/{part}" for part in PARTS}
        assert "path" not in data and str(dataset.parent) not in text and str(folder) not in text


def private_view(dataset: Path, task: str, target: Path) -> Path:
    """A copy, because ultralytics writes ``.cache`` files beside the labels."""
    shutil.copytree(dataset / task, target)
    return target


def ultralytics_reads(view: Path, part: str, imgsz: int, task: str) -> object:
    from ultralytics.cfg import get_cfg
    from ultralytics.data.dataset import YOLODataset

    data = yaml.safe_load((view / "data.yaml").read_text("utf-8")) | {"channels": 3}
    return YOLODataset(
        img_path=str(view / "images" / part),
        data=data,
        task=task,
        imgsz=imgsz,
        augment=False,
        hyp=get_cfg(overrides={"mask_ratio": 1, "overlap_mask": False}),
    )


SLOW_SCREW = pytest.param("screw", marks=pytest.mark.slow)


@pytest.mark.parametrize("which", ["small", SLOW_SCREW])
def test_ultralytics_own_loader_gives_back_masks_and_boxes(
    which: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if which == "screw":
        folder, dataset = (request.getfixturevalue(name) for name in ("screw", "screw_datasets"))
        dataset = dataset / "screw"
    else:
        folder = write_category(tmp_path / "data", masks=EVERYTHING, mode="RGB")
        dataset = converted("to_yolo", folder, tmp_path / "out", "--task", "segment")
    before = tree(dataset)
    view = private_view(dataset, "yolo-seg", tmp_path / "view")
    names: set[str] = set()
    for part in PARTS:
        files = list((view / "images" / part).iterdir())
        loaded = ultralytics_reads(view, part, max(Image.open(files[0]).size), "segment")
        assert len(loaded) == len(files), "no image is dropped as corrupt"
        for index in range(len(loaded)):
            item = loaded[index]
            name = Path(item["im_file"]).name
            mask = true_mask(folder, name)
            check_item(item, mask, name)
            names.add(name)
    assert names == images_of(folder)
    assert list(view.rglob("*.cache")), "if ultralytics stops writing these, the private view can go"
    assert tree(dataset) == before


def check_item(item: dict, mask: np.ndarray, name: str) -> None:
    height, width = mask.shape
    side = max(width, height)
    top, left = round((side - height) / 2 - 0.1), round((side - width) / 2 - 0.1)  # letterbox
    expected = {part.tobytes(): box(part) for part in components(mask)}
    masks = item["masks"].numpy()[:, top : top + height, left : left + width] > 0
    if not expected:
        assert len(item["cls"]) == 0
        return
    assert {m.tobytes() for m in masks} == expected.keys(), name
    for found, (x, y, w, h) in zip(masks, item["bboxes"].numpy() * side, strict=True):
        edges = np.array([x - w / 2 - left, y - h / 2 - top, x + w / 2 - left, y + h / 2 - top])
        assert np.abs(edges - expected[found.tobytes()]).max() < 0.02, name


# ---------------------------------------------------------------- PNG masks


def test_png_masks_hold_classes_and_instances(pair: tuple[Path, Path]) -> None:
    folder, dataset = pair
    classes = json.loads((dataset / "masks" / "classes.json").read_text("utf-8"))["classes"]
    assert classes == {"0": "background", **{str(i + 1): name for i, name in enumerate(classes_of(folder))}}
    for name, part in split_of(dataset).items():
        mask = true_mask(folder, name)
        with Image.open(dataset / "masks" / "semantic" / part / name) as semantic:
            assert semantic.mode == "P"
            palette = semantic.getpalette() or []
            value = 0 if "good" in name else int(next(k for k, v in classes.items() if v == name.split("__")[1]))
            assert np.array_equal(np.asarray(semantic), mask * value), name
            assert palette[:3] == [0, 0, 0] and palette[3:6] == [128, 0, 0]
        with Image.open(dataset / "masks" / "instance" / part / name) as instance:
            assert instance.mode == "I;16"
            ids = np.asarray(instance)
        found = {(ids == i).tobytes() for i in range(1, ids.max() + 1)}
        assert found == {part.tobytes() for part in components(mask)}, name


# ---------------------------------------------------------------- VOC


def test_voc_boxes_are_one_based_and_inclusive(pair: tuple[Path, Path]) -> None:
    folder, dataset = pair
    for name in split_of(dataset):
        mask = true_mask(folder, name)
        root = ElementTree.parse(dataset / "voc" / "Annotations" / f"{Path(name).stem}.xml").getroot()
        found = {
            tuple(int(o.find("bndbox").findtext(t)) for t in ("xmin", "ymin", "xmax", "ymax"))
            for o in root.iter("object")
        }
        parts = components(mask)
        expected = {
            (int(c.min()) + 1, int(r.min()) + 1, int(c.max()) + 1, int(r.max()) + 1) for r, c in map(np.nonzero, parts)
        }
        assert found == expected, name
        assert {o.findtext("name") for o in root.iter("object")} <= {name.split("__")[1]}
        for o in root.iter("object"):
            edges = [int(o.find("bndbox").findtext(t)) for t in ("xmin", "ymin", "xmax", "ymax")]
            on_edge = edges[0] == 1 or edges[1] == 1 or edges[2] == mask.shape[1] or edges[3] == mask.shape[0]
            assert o.findtext("truncated") == str(int(on_edge))
        assert root.findtext("filename") == name and root.findtext("segmented") == str(int(bool(parts)))
        assert (int(root.findtext("size/height")), int(root.findtext("size/width"))) == mask.shape
        with Image.open(dataset / "voc" / "JPEGImages" / name) as image:
            assert int(root.findtext("size/depth")) == len(image.getbands())


def test_voc_masks_and_lists_agree_with_the_split(pair: tuple[Path, Path]) -> None:
    folder, dataset = pair
    voc = dataset / "voc"
    split = split_of(dataset)
    for part in PARTS:
        stems = sorted(Path(name).stem for name, p in split.items() if p == part)
        for kind in ("Main", "Segmentation"):
            assert (voc / "ImageSets" / kind / f"{part}.txt").read_text("utf-8").splitlines() == stems
        for index, defect in enumerate(classes_of(folder), start=1):
            lines = (voc / "ImageSets" / "Main" / f"{defect}_{part}.txt").read_text("utf-8").splitlines()
            shown = dict(line.rsplit(maxsplit=1) for line in lines)
            assert sorted(shown) == stems
            assert {s for s, flag in shown.items() if flag == "1"} == {s for s in stems if f"__{defect}__" in s}
            for stem in (s for s in stems if f"__{defect}__" in s):
                mask = true_mask(folder, f"{stem}.png")
                assert np.array_equal(np.asarray(Image.open(voc / "SegmentationClass" / f"{stem}.png")), mask * index)
                ids = np.asarray(Image.open(voc / "SegmentationObject" / f"{stem}.png"))
                found = {(ids == i).tobytes() for i in range(1, ids.max() + 1)}
                assert found == {p.tobytes() for p in components(mask)}


def test_more_instances_than_a_palette_holds_are_refused_by_voc_only(
    make_category: MakeCategory, tmp_path: Path
) -> None:
    mask = np.zeros((48, 48), np.uint8)
    mask[::3, ::3] = 1
    assert mask.sum() == 256
    folder = make_category(masks={"spots": [mask] * 3}, size=(48, 48))
    assert "256 instances" in refusal(run_cli("to_voc", "--root", folder, "--out", tmp_path / "out"))
    dataset = converted("to_masks", folder, tmp_path / "out")
    part = split_of(dataset)["test__spots__000.png"]
    assert np.asarray(Image.open(dataset / "masks" / "instance" / part / "test__spots__000.png")).max() == 256


# ---------------------------------------------------------------- what all formats share


def test_every_format_carries_the_hash_of_the_split(pair: tuple[Path, Path]) -> None:
    _, dataset = pair
    carried = {
        *(yaml.safe_load((dataset / t / "data.yaml").read_text("utf-8"))["split_sha256"] for t in ("yolo", "yolo-seg")),
        *(
            json.loads((dataset / "coco" / "annotations" / f"instances_{p}.json").read_text("utf-8"))["info"][
                "split_sha256"
            ]
            for p in PARTS
        ),
        json.loads((dataset / "masks" / "classes.json").read_text("utf-8"))["split_sha256"],
        json.loads((dataset / "voc" / "dataset.json").read_text("utf-8"))["split_sha256"],
        split_hash(dataset),
    }
    assert carried == {hashlib.sha256((dataset / "split.json").read_bytes()).hexdigest()}


def test_images_are_the_files_of_the_source(pair: tuple[Path, Path]) -> None:
    folder, dataset = pair
    for name, part in split_of(dataset).items():
        source = folder / name.replace("__", "/")
        for path in (f"yolo/images/{part}", f"yolo-seg/images/{part}", f"coco/images/{part}", f"masks/images/{part}"):
            assert (dataset / path / name).read_bytes() == source.read_bytes()
        assert (dataset / "voc" / "JPEGImages" / name).read_bytes() == source.read_bytes()


def test_no_format_names_this_machine(make_category: MakeCategory, tmp_path: Path) -> None:
    dataset = converted("all", make_category(), tmp_path / "out")
    for path in dataset.rglob("*"):
        if path.is_file() and path.suffix in (".json", ".yaml", ".xml", ".txt", ".md"):
            assert str(tmp_path) not in path.read_text("utf-8"), path
