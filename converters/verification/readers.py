"""The readers that each format is read back by."""

from importlib.util import find_spec

from converters.verification.readback import (
    CocoReader,
    MasksReader,
    Reader,
    RoboflowReader,
    VocReader,
    YoloObbReader,
    YoloReader,
    YoloSegReader,
)
from converters.verification.ultralytics_readers import UltralyticsReader, UltralyticsSegReader


def readers() -> dict[str, type[Reader]]:
    """The reader of each format folder; ultralytics' own where it is installed."""
    there = find_spec("ultralytics") is not None
    return {
        "yolo": UltralyticsReader if there else YoloReader,
        "yolo-seg": UltralyticsSegReader if there else YoloSegReader,
        "yolo-obb": YoloObbReader,
        "coco": CocoReader,
        "coco-roboflow": RoboflowReader,
        "masks": MasksReader,
        "voc": VocReader,
    }
