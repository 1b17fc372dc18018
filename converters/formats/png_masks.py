"""PNG masks: classes in a palette image, instances in 16 bit."""

from converters.cli.terminal import to_json
from converters.formats.writer import LabelledImage, Rendered, Writer
from converters.masks.png import id_png


class MasksWriter(Writer):
    folder = "masks"
    holds_calibration = True

    @property
    def directories(self) -> tuple[str, ...]:
        return tuple(f"{kind}/{part}" for kind in ("images", "semantic", "instance") for part in self.parts)

    def render(self, image: LabelledImage) -> Rendered:
        image.check_count(65535, self.folder)  # ids of 16 bit
        name = f"{image.part}/{image.stem}.png"
        ids = id_png(image.ids, image.top, image.height)
        return Rendered({f"semantic/{name}": image.class_png, f"instance/{name}": ids})

    def finish(self) -> None:
        classes = {
            "schema": 1,
            "dataset": self.info.name,
            "synthetic": self.info.synthetic,
            "split_sha256": self.info.split_sha256,
            "classes": {"0": "background", **{str(i + 1): name for i, name in enumerate(self.info.classes)}},
        }
        (self.root / "classes.json").write_text(to_json(classes), "utf-8")
