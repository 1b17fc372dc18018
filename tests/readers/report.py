"""Write RESULT.md from the JSON lines of check.py.

Usage: python report.py LINES.jsonl COMMAND > RESULT.md
"""

import datetime
import json
import platform
import sys
from pathlib import Path
from typing import Any

HEADER = ("reader", "format", "read by", "images", "annotations", "boxes exact", "masks exact", "IoU mean / min")


def per_split(line: dict[str, Any], what: str) -> str:
    """``66 + 13 + 13`` where everything is there, else ``26 + 3 + 3 of 66 + 13 + 13``."""
    found, true = (" + ".join(map(str, line[key].values())) for key in (what, f"{what}_true"))
    return found if found == true else f"{found} of {true}"


def cells(line: dict[str, Any]) -> tuple[str, ...]:
    start = line["reader"], line["format"], f"`{line['how']}`"
    if "error" in line:
        return *start, f"fails: {line['error']}", *["-"] * 4
    masks = ("-", "-")
    if "masks" in line:
        masks = (f"{line['masks_exact']} of {line['masks']}", f"{line['iou_mean']:.3f} / {line['iou_min']:.3f}")
    boxes = f"{line['boxes_exact']} of {line['boxes']}"
    return *start, per_split(line, "images"), per_split(line, "annotations"), boxes, *masks


def table(lines: list[dict[str, Any]]) -> str:
    rows = [HEADER, ("---",) * len(HEADER), *map(cells, lines)]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def main(path: Path, command: str) -> None:
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    results = [line for line in lines if "format" in line]
    control = {f"{line['reader']} {line['control']}": line["value"] for line in lines if "control" in line}
    versions = {line["reader"]: line["version"] for line in lines}
    masks = next(line for line in results if "masks" in line)
    assert not any(line.get("wrong_split") for line in results), "images in another split than the truth's"
    print(
        f"""# Our datasets in other people's readers

Written by `{command}` on {datetime.date.today()}, Python {platform.python_version()}, \
{", ".join(f"{name} {number}" for name, number in versions.items())}; \
all versions: `requirements-*.txt`. Synthetic data (`converters.sample --small`, both categories in one dataset: RGB \
and grey, {masks["masks"]} instances, {masks["holed"]} of them with a hole). The truth is read by `check.py` itself: \
boxes and classes from our COCO file, masks from our instance PNGs.

Splits are train + val + test. A box counts as exact if it is there with its class (YOLO: within 0.02 px). A mask's \
IoU is that of the best mask of its class.

{table(results)}
No image was found in another split than ours. The datasets were byte for byte the same afterwards.

## What these readers lose themselves

- **supervision paints the outline of COCO polygons.** COCO fills what lies inside a polygon by parity. A polygon \
around 4 x 4 pixels (`{[2, 2, 6, 2, 6, 6, 2, 6]}`, none of ours) has 16 pixels in pycocotools \
({control["datumaro square"]} through datumaro, which calls it) and {control["supervision square"]} in supervision: \
its own docstring says 25. So every defect grows by a pixel to the right and below, and the bridge to a hole is \
painted. The same masks written by `to_coco --segmentation rle` come back exact: use that with supervision.
- **supervision rounds YOLO vertices, ultralytics truncates them.** Our rows are made for ultralytics. The same rows, \
truncated first, come back exact from supervision's own `polygon_to_mask`: {control["supervision truncated"]} of \
{masks["masks"]} masks. Rounding moves pixel centres (x.5) to the even neighbour, up to one pixel away: much for \
thin defects. Its boxes are not touched by that.
- **supervision reads no VOC masks and no VOC split.** `from_pascal_voc` takes two folders and XML alone; it never \
opens `ImageSets`, `SegmentationClass` or `SegmentationObject`. Boxes are exact.
- **datumaro reads no YOLO polygons.** Its importer takes files whose rows have five fields and silently leaves out \
the others, images included. One image with a box (not ours) gives {control["datumaro box"]} item, the same image with \
a triangle gives {control["datumaro triangle"]}. Use `coco/` there.
- **datumaro reads VOC boxes as 0-based**, unless asked for `coordinate_mode="voc-one-based"`, which is what VOC \
means; then all are exact.
- Neither reads `masks/`: supervision has no loader for PNG masks, and datumaro's format detection finds nothing. \
`voc/` holds the same pixels.

A dataset whose images are symbolic links (`--images symlink`) is refused by supervision's `from_coco`, which takes no \
image that lies outside its folder; the default, hard links, is what was read here."""
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
