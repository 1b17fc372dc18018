"""KolektorSDD2: ``{train,test}/{10000.png,10000_GT.png}``, one mask per image; an all-black one means good.

Layout: Bozic, Tabernik, Skocaj, "Mixed supervision for surface-defect detection: From weakly to fully supervised
learning", Computers in Industry 2021, https://www.vicos.si/resources/kolektorsdd2/. Both folders hold good and
defective images; defects of both are split as usual, since the layout knows no defect types: the class is ``defect``.
"""

from collections.abc import Iterator
from pathlib import Path

from converters.sources.pairing import orphans
from converters.sources.samples import Listed, Problem, files

TREE = "train/ and test/ with NAME.png beside NAME_GT.png"
_MASK = "_GT"


def is_category(folder: Path) -> bool:
    return any(file.name.endswith(f"{_MASK}.png") for part in ("train", "test") for file in files(folder / part))


def list_images(folder: Path) -> Iterator[Listed | Problem]:
    for origin in ("train", "test"):
        found = files(folder / origin)
        masks = {file.stem.removesuffix(_MASK): file for file in found if file.stem.endswith(_MASK)}
        for image in (file for file in found if not file.stem.endswith(_MASK)):
            mask = masks.pop(image.stem, None)
            problem = "" if mask else f"has no mask: {origin}/{image.stem}{_MASK}.png is missing (all black for good)"
            yield Listed(image, "defect", origin, mask, problem, empty_is_good=True)
        yield from orphans(folder, masks.values())
