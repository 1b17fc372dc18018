"""PASCAL VOC: boxes as XML, classes and objects as palette images."""

import xml.etree.ElementTree as ET
from collections import defaultdict
from pathlib import Path
from typing import Any

from converters.cli.terminal import to_json
from converters.formats.writer import DatasetInfo, LabelledImage, Outcome, Planned, Rendered, Writer
from converters.masks.png import index_png, voc_palette
from converters.sources.samples import PARTS


def annotation_xml(image: LabelledImage) -> bytes:
    """The ``Annotations/*.xml`` of one image."""
    root = ET.Element("annotation")
    _texts(root, folder="JPEGImages", filename=image.name)
    _texts(ET.SubElement(root, "size"), width=image.width, height=image.height, depth=image.sample.channels)
    _texts(root, segmented=int(bool(image.instances)))
    for instance in image.instances:
        x0, y0, x1, y1 = instance.xyxy
        found = ET.SubElement(root, "object")
        truncated = x0 == 0 or y0 == 0 or x1 == image.width or y1 == image.height
        _texts(found, name=image.classes[image.label], pose="Unspecified", truncated=int(truncated), difficult=0)
        _texts(ET.SubElement(found, "bndbox"), xmin=x0 + 1, ymin=y0 + 1, xmax=x1, ymax=y1)
    ET.indent(root)
    return ET.tostring(root, encoding="utf-8") + b"\n"


def _texts(parent: ET.Element, **values: Any) -> None:
    for tag, value in values.items():
        ET.SubElement(parent, tag).text = str(value)


class VocWriter(Writer):
    folder = "voc"
    directories = (
        "JPEGImages",
        "Annotations",
        "SegmentationClass",
        "SegmentationObject",
        "ImageSets/Main",
        "ImageSets/Segmentation",
    )

    def __init__(self, info: DatasetInfo) -> None:
        super().__init__(info)
        self.members: dict[str, list[tuple[str, str]]] = defaultdict(list)

    def image_path(self, image: LabelledImage | Planned) -> str:
        return f"JPEGImages/{image.name}"

    def render(self, image: LabelledImage) -> Rendered:
        image.check_count(254, self.folder)  # ids of a palette mask; 255 is VOC's void
        objects = index_png(image.ids.astype("uint8"), image.top, image.height, len(image.instances) + 1)
        return Rendered(
            {
                f"Annotations/{image.stem}.xml": annotation_xml(image),
                f"SegmentationClass/{image.stem}.png": image.class_png,
                f"SegmentationObject/{image.stem}.png": objects,
            }
        )

    def add(self, outcome: Outcome, record: Any) -> None:
        self.members[outcome.part].append((Path(outcome.name).stem, outcome.class_name))

    def finish(self) -> None:
        """``Main/PART.txt`` and ``Segmentation/PART.txt`` list images, ``Main/CLASS_PART.txt`` says who shows it."""
        sets = self.root / "ImageSets"
        for part in PARTS:
            members = self.members[part]
            listing = "".join(f"{stem}\n" for stem, _ in members)
            (sets / "Main" / f"{part}.txt").write_text(listing, "utf-8")
            (sets / "Segmentation" / f"{part}.txt").write_text(listing, "utf-8")
            for name in self.info.classes:
                shows = "".join(f"{stem} {1 if shown == name else -1:2d}\n" for stem, shown in members)
                (sets / "Main" / f"{name}_{part}.txt").write_text(shows, "utf-8")
        colours = voc_palette(len(self.info.classes) + 1).tolist()
        labels = zip(("background", *self.info.classes), colours, strict=True)
        lines = "".join(f"{name}:{red},{green},{blue}::\n" for name, (red, green, blue) in labels)
        (self.root / "labelmap.txt").write_text(lines, "utf-8")  # the class list that CVAT and datumaro ask for
        about = {
            "schema": 1,
            "dataset": self.info.name,
            "synthetic": self.info.synthetic,
            "split_sha256": self.info.split_sha256,
            "classes": list(self.info.classes),
        }
        (self.root / "dataset.json").write_text(to_json(about), "utf-8")
