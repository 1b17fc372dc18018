"""The files of a run, which other programs may write too: what each may hold, checked when it is read."""

from typing import Annotated, Any, Literal, NotRequired

from pydantic import AfterValidator, BeforeValidator, Field, with_config
from typing_extensions import TypedDict

from converters.cli.door import STRICT


@with_config(STRICT)
class Base(TypedDict):
    """The dataset that synthetic images were added to."""

    dataset: str
    sha256: str


@with_config(STRICT)
class RunRecord(TypedDict, total=False):
    """``run.json``: how a model came about. Ours hold more; a comparison needs the split alone."""

    dataset: str
    split_sha256: str
    family: str
    label_settings: dict[str, Any]
    base: Base
    classes: list[str]
    model: str
    command: Annotated[list[str], Field(min_length=1)]
    settings: dict[str, Any]
    versions: dict[str, str]
    commit: str | None
    start: str  # `random`, `published NAME`, `embedded` or `installed` ones, or `file` and the SHA-256's beginning
    licences: dict[str, str]  # of its `code`, `start` and training `images`, as far as known
    random_weights: bool
    weights_sha256: str | None
    synthetic_images: int
    pretrain_synthetic_images: int
    pretrained_on: str | None
    metrics: dict[str, Any]
    operating_points: dict[str, list[dict[str, Any]]]  # by set; see ``held_out.measured_points``
    parameters: int | None
    weights_bytes: int | None
    train_seconds: float | None
    train_cpu_seconds: float | None
    seconds_per_image: float | None
    peak_memory_mb: float | None
    gpu_peak_memory_mb: float | None
    device: str | None


@with_config(STRICT)
class SetRecord(TypedDict, total=False):
    """``set.json``: how a model was asked, and the kind of label that it needed."""

    model: str
    prompt: str | None
    oracle: bool
    label: Literal["none", "good", "class", "box", "mask"] | None
    clicks: float
    classes: bool
    heatmap: str
    heatmap_middle: float
    score_middle: float  # the distance that normality scores 0.5
    level: float  # of SAM's maps, 0..1
    box_threshold: float | None
    cells: float
    gpu_peak_memory_mb: float | None
    seconds_per_image: float | None


def _no_empty_mask(entry: Any) -> Any:
    """Some programs write ``"segmentation": []`` or null of a box: that is no mask."""
    if isinstance(entry, dict) and not entry.get("segmentation", True):
        return {name: value for name, value in entry.items() if name != "segmentation"}
    return entry


def _somewhere(entry: Any) -> Any:
    if "bbox" not in entry and "segmentation" not in entry:
        raise ValueError("neither bbox nor segmentation is there")
    return entry


@with_config(STRICT)
class _Result(TypedDict):
    """An entry of COCO's results format; a mask is looked at with its image."""

    image_id: int
    category_id: int
    score: Annotated[float, Field(ge=0, le=1)]
    bbox: NotRequired[Annotated[list[float], Field(min_length=4, max_length=4)]]
    segmentation: NotRequired[Any]


Result = Annotated[_Result, BeforeValidator(_no_empty_mask), AfterValidator(_somewhere)]
