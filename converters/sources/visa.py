"""VisA: ``CATEGORY/{Data/{Images/{Normal,Anomaly},Masks/Anomaly},image_anno.csv}`` beside ``split_csv/1cls.csv``.

Layout: Zou et al., "SPot-the-Difference Self-Supervised Pre-training for Anomaly Detection and Segmentation", ECCV
2022, https://github.com/amazon-science/spot-diff (its prepare_data.py and id2class.py). Paths in both tables are
relative to the folder that holds the categories. ``image_anno.csv`` (image,label,mask) names the defect types;
an image of several types gets the class ``combined``, as in MVTec AD, and without the table the class is
``anomaly``. ``1cls.csv`` (object,split,label,image,mask) says which normal images are for training; without it all
count as test. Masks hold a type's number per pixel, 1 and up: every value above 0 counts.
"""

import csv
from collections.abc import Iterator
from pathlib import Path

from converters.cli.errors import DatasetError
from converters.sources.pairing import orphans
from converters.sources.samples import GOOD, Aside, Listed, Problem, files, fits_text_files

TREE = "Data/Images/{Normal,Anomaly}"


def is_category(folder: Path) -> bool:
    return (folder / "Data" / "Images").is_dir()


def list_images(folder: Path) -> Iterator[Listed | Problem | Aside]:
    """Raises DatasetError for a table without the columns it should have."""
    labels = {row["image"]: row["label"] for row in _table(folder / "image_anno.csv", "image", "label")}
    split = {row["image"]: row["split"] for row in _table(folder.parent / "split_csv" / "1cls.csv", "image", "split")}
    for image in files(folder / "Data" / "Images" / "Normal"):
        yield Listed(image, GOOD, split.get(_name(folder, image), "test"))
    masks = {mask.stem: mask for mask in files(folder / "Data" / "Masks" / "Anomaly")}
    for image in files(folder / "Data" / "Images" / "Anomaly"):
        mask = masks.pop(image.stem, None)
        problem = "" if mask else f"has no mask: Data/Masks/Anomaly/{image.stem}.png is missing"
        defect = _defect(labels.get(_name(folder, image), "anomaly"))
        if defect == GOOD or "/" in defect or not fits_text_files(defect):
            problem = f"image_anno.csv names it {defect!r}: no name for a defect in Data/Images/Anomaly"
        yield Listed(image, defect, "test", mask, problem, any_value=True)
    yield from orphans(folder, masks.values())
    for name in labels:
        if not (folder.parent / name).is_file():
            yield Aside(name, "rows of image_anno.csv whose image is not there")


def _name(folder: Path, image: Path) -> str:
    return image.relative_to(folder.parent).as_posix()


def _defect(label: str) -> str:
    types = [name.strip() for name in label.split(",")]
    return types[0] if len(types) == 1 else "combined"


def _table(path: Path, *columns: str) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path}: is no CSV table ({error})") from None
    if any(row.get(column) is None for row in rows for column in columns):
        raise DatasetError(f"{path}: every row needs the columns {', '.join(columns)}")
    return rows
