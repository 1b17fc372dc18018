"""YOLO datasets read back by ultralytics' own loader; imports it when a dataset is opened."""

import contextlib
import io
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from converters.formats.writer import LabelledImage
from converters.masks.instances import Instance
from converters.verification.readback import Found, YoloReader, as_array


class UltralyticsReader(YoloReader):
    """ultralytics' own ``YOLODataset``, on a folder of links, since it writes caches beside the labels."""

    name = "ultralytics"
    task = "detect"

    def __init__(self, folder: Path, classes: Sequence[str]) -> None:
        super().__init__(folder, classes)
        self.stack = contextlib.ExitStack()
        self.view = Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="verify-")))
        os.environ |= {"YOLO_CONFIG_DIR": str(self.view), "YOLO_OFFLINE": "1", "YOLO_AUTOINSTALL": "False"}
        os.environ["YOLO_VERBOSE"] = "False"
        shutil.copytree(folder.absolute(), self.view / "data", copy_function=os.symlink)
        self.loaded: dict[tuple[str, int], tuple[Any, dict[str, int]]] = {}

    def load(self, image: LabelledImage) -> Iterator[Found]:
        """As the dataset's own transforms hand instances to a training, which would take all masks at once."""
        from ultralytics.data.utils import polygon2mask

        side = max(image.width, image.height)
        dataset, positions = self._dataset(image.part, side)
        if image.name not in positions:
            return  # dropped as corrupt
        letterbox, _ = dataset.transforms.transforms
        item = letterbox(dataset.get_image_and_label(positions[image.name]))
        instances = item["instances"]
        instances.convert_bbox("xyxy")
        instances.denormalize(side, side)
        top, left = ((side - length) // 2 for length in (image.height, image.width))
        for index, class_index in enumerate(item["cls"].ravel()):
            x0, y0, x1, y1 = instances.bboxes[index].astype(float)
            pixels = None
            if self.has_masks:
                mask = polygon2mask((side, side), [instances.segments[index].ravel()])
                pixels = Instance.of(mask[top : top + image.height, left : left + image.width])
            yield Found(int(class_index), as_array([x0 - left, y0 - top, x1 - left, y1 - top]), pixels)

    def _dataset(self, part: str, side: int) -> tuple[Any, dict[str, int]]:
        if (part, side) not in self.loaded:
            from ultralytics.cfg import get_cfg
            from ultralytics.data.dataset import YOLODataset

            settings = get_cfg(overrides={"task": self.task})
            names = dict(enumerate(self.classes))
            path = str(self.view / "data" / "images" / part)
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                dataset = YOLODataset(
                    img_path=path,
                    data={"names": names, "nc": len(names), "channels": 3},
                    task=self.task,
                    imgsz=side,
                    augment=False,
                    hyp=settings,
                )
            positions = {Path(file).name: index for index, file in enumerate(dataset.im_files)}
            self.loaded[part, side] = dataset, positions
        return self.loaded[part, side]


class UltralyticsSegReader(UltralyticsReader):
    task = "segment"
    has_masks = True
    exact = False
