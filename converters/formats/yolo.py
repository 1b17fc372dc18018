"""YOLO: boxes, polygons or rotated boxes as rows of text."""

from collections.abc import Callable, Iterable

import yaml

from converters.cli.errors import DatasetError
from converters.formats.writer import LabelledImage, Rendered, Writer
from converters.masks.instances import Instance
from converters.masks.polygons import centre_ring, filled_with_lines, simplified, smallest_rectangle
from converters.sources.samples import PARTS


def box_row(instance: Instance, class_index: int, width: int, height: int) -> str:
    """``class cx cy w h``, relative to the image's size."""
    x0, y0, x1, y1 = instance.xyxy
    return _row(class_index, ((x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height))


def polygon_row(instance: Instance, class_index: int, width: int, height: int) -> str:
    """``class x1 y1 x2 y2 ...`` on pixel centres, relative to the image's size (see ``polygons.centre_ring``)."""
    return _row(class_index, (centre_ring(instance) / (width, height)).ravel().tolist())


def simplified_row(
    instance: Instance, class_index: int, width: int, height: int, tolerance: float
) -> tuple[str, float]:
    """The same with fewer vertices, and the IoU of what ultralytics will paint with the mask."""
    rings, iou = simplified(instance, tolerance, lambda local, px: [centre_ring(local, px)], filled_with_lines)
    return _row(class_index, (rings[0] / (width, height)).ravel().tolist()), iou


def rotated_box_row(instance: Instance, class_index: int, width: int, height: int) -> str:
    """``class x1 y1 ... x4 y4``: the smallest rectangle around the outline on pixel corners."""
    return _row(class_index, (smallest_rectangle(instance, width, height) / (width, height)).ravel().tolist())


def _row(class_index: int, numbers: Iterable[float]) -> str:
    """Eight decimals: a ten-thousandth of a pixel in an image of 10,000."""
    return " ".join([str(class_index), *[f"{number:.8f}" for number in numbers]])


class YoloWriter(Writer):
    """The common part of the three YOLO formats; ``row`` makes the difference."""

    row: Callable[[Instance, int, int, int], str]

    directories = tuple(f"{kind}/{part}" for kind in ("images", "labels") for part in PARTS)

    def render(self, image: LabelledImage) -> Rendered:
        width, height = image.width, image.height
        rows = [self.row(instance, image.label, width, height) for instance in image.instances]
        return self.as_file(image, rows)

    @staticmethod
    def as_file(image: LabelledImage, rows: list[str], ious: tuple[float, ...] = ()) -> Rendered:
        text = "".join(f"{row}\n" for row in rows)
        return Rendered({f"labels/{image.part}/{image.stem}.txt": text.encode()}, ious=ious)

    def finish(self) -> None:
        """``data.yaml`` holds no machine path: ultralytics resolves its parts against the file's own folder."""
        data = {f"{part}": f"images/{part}" for part in PARTS} | {
            "names": dict(enumerate(self.info.classes)),
            "dataset": self.info.name,
            "split_sha256": self.info.split_sha256,
            "synthetic": self.info.synthetic,
        }
        text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
        (self.root / "data.yaml").write_text(text, "utf-8")


class DetectWriter(YoloWriter):
    folder = "yolo"
    row = staticmethod(box_row)


class ObbWriter(YoloWriter):
    folder = "yolo-obb"
    row = staticmethod(rotated_box_row)


class SegmentWriter(YoloWriter):
    folder = "yolo-seg"
    row = staticmethod(polygon_row)
    simplifies = True

    def render(self, image: LabelledImage) -> Rendered:
        try:
            return self._simplified(image) if self.info.simplify else super().render(image)
        except ValueError as error:
            raise DatasetError(
                f"{image.sample.mask}: {error}: leave YOLO polygons out, or use --instances component"
            ) from None

    def _simplified(self, image: LabelledImage) -> Rendered:
        width, height, tolerance = image.width, image.height, self.info.simplify
        found = [simplified_row(instance, image.label, width, height, tolerance) for instance in image.instances]
        return self.as_file(image, [row for row, _ in found], tuple(iou for _, iou in found))


WRITERS = {"detect": DetectWriter, "segment": SegmentWriter, "obb": ObbWriter}
