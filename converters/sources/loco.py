"""MVTec LOCO AD: as MVTec AD with ``validation/good`` and a folder of masks per image.

Layout: Bergmann et al., "Beyond Dents and Scratches: Logical Constraints in Unsupervised Anomaly Detection and
Localization", IJCV 2022; as read by anomalib's ``MVTecLOCODataset``. ``test/logical_anomalies/000.png`` has the
masks ``ground_truth/logical_anomalies/000/{000.png,001.png,...}``. Their union is its mask. A mask's values say
which entry of ``defects_config.json`` it shows, so every value above 0 counts. That file also says from which
area on a region counts as found (its saturation): a matter of LOCO's own measure, not of labels, so it is not read.
"""

from collections.abc import Iterator
from pathlib import Path

from converters.sources.mvtec import good_images, other_names
from converters.sources.pairing import orphans
from converters.sources.samples import GOOD, Aside, Listed, Problem, files, folders, is_good

TREE = "validation/good and ground_truth/{logical,structural}_anomalies/NNN/"
_TYPES = ("logical_anomalies", "structural_anomalies")


def is_category(folder: Path) -> bool:
    """MVTec AD's layout with a validation/ differs in its ground truth alone, where a mask is a file."""
    if not all((folder / part).is_dir() for part in ("train", "validation", "test")):
        return False
    kinds = folders(folder / "ground_truth")
    if any(map(folders, kinds)):
        return True
    return not any(map(files, kinds)) and any((folder / "test" / name).is_dir() for name in _TYPES)


def list_images(folder: Path) -> Iterator[Listed | Problem | Aside]:
    for part in ("train", "validation"):
        yield from (Listed(image, GOOD, "train") for image in good_images(folder / part))
    yield from other_names(folder / "train", folder / "validation", folder / "test")
    for defect in folders(folder / "test"):
        masks = {path.name: path for path in folders(folder / "ground_truth" / defect.name)}
        for image in files(defect):
            if is_good(defect.name):
                yield Listed(image, GOOD, "test")
                continue
            mask = masks.pop(image.stem, None)
            missing = mask is None or not files(mask)
            problem = f"has no mask: ground_truth/{defect.name}/{image.stem}/000.png is missing" if missing else ""
            yield Listed(image, defect.name, "test", mask, problem, any_value=True)
        yield from orphans(folder, masks.values())
