"""YOLO-World, a detector that knows words: its models, its trainer for given vectors, and a view without one class."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from numpy.typing import NDArray
from ultralytics import YOLOWorld
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.models.yolo.world import WorldTrainer
from ultralytics.nn.tasks import WorldModel
from ultralytics.utils.patches import torch_load
from ultralytics.utils.torch_utils import intersect_dicts, unwrap_model

from converters.cli.errors import DatasetError
from finetune.detection.recipe import ARCHS, WORLD_ARCHS
from finetune.detection.runtime import read_checkpoint
from finetune.detection.vocabulary import Prompts
from finetune.runs.dataset import Dataset


@dataclass(frozen=True)
class Words:
    """Words for the classes of a dataset, and their vectors for the detector."""

    classes: Sequence[str]
    prompts: Prompts | None  # None: ready vectors were given
    vectors: NDArray[Any]  # classes x 512, of length 1
    source: str  # where the vectors come from
    kept: str | None = None  # the class that training does not see

    @property
    def trained(self) -> list[str]:
        return [name for name in self.classes if name != self.kept]

    def of(self, names: Sequence[str]) -> NDArray[Any]:
        return self.vectors[[self.classes.index(name) for name in names]]

    def with_learned(self, vectors: NDArray[Any]) -> NDArray[Any]:
        """Classes x 512: learned vectors for the trained classes, the words' for one that was kept back."""
        merged = self.vectors.copy()
        merged[[self.classes.index(name) for name in self.trained]] = vectors
        return merged


def load_world(arch: str | None, weights: Path | None, seed: int = 0) -> Any:
    """A YOLO-World model from a checkpoint or, for None, of the named architecture with random weights.

    With an ``arch`` and a plain YOLO's checkpoint: the architecture with all tensors that fit, the others random.
    """
    found = weights and read_checkpoint(YOLOWorld, weights, f"{ARCHS[0]}.pt")
    if found and isinstance(found.model, WorldModel):
        own = f"yolov8{found.model.yaml.get('scale')}-worldv2"
        if arch and arch != own:
            raise DatasetError(f"--arch {arch}: {weights} is a {own}; leave --arch out")
        return found
    if arch is None:
        raise DatasetError(
            f"--weights {weights}: knows no words; name a YOLO-World checkpoint such as {ARCHS[0]}.pt, or add the "
            f"--arch to build on it: {', '.join(WORLD_ARCHS)}"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = YOLOWorld(f"{arch}.yaml")
    if found:
        model.model.load_state_dict(fitting(found, model), strict=False)
    return model


def fitting(plain: Any, model: Any) -> dict[str, torch.Tensor]:
    """The tensors of a plain YOLO whose name and shape a YOLO-World model has too, in single precision."""
    return intersect_dicts(plain.model.float().state_dict(), model.model.state_dict())


def shared_with(weights: Path, model: Any) -> int:
    """How many tensors a model that ``load_world`` built on a plain YOLO has from it; raises DatasetError for none."""
    count = len(fitting(YOLOWorld(str(weights)), model))
    if not count:
        raise DatasetError(f"--weights {weights}: no tensor fits --arch; name weights of a YOLOv8 of the same size")
    return count


def set_words(model: Any, classes: Sequence[str], vectors: NDArray[Any]) -> None:
    """Ask for these classes (vectors: classes x 512). ultralytics' own ``set_classes`` would call CLIP."""
    network = model.model
    network.txt_feats = torch.from_numpy(vectors).float()[None]
    network.model[-1].nc = len(classes)
    network.names = dict(enumerate(classes))
    model.predictor = None  # it holds on to the words before


def word_trainer(start: Any, classes: Sequence[str], vectors: NDArray[Any], tune_words: bool) -> Callable[..., Any]:
    """ultralytics' trainer of YOLO-World for given vectors (classes x 512) instead of CLIP.

    It begins with the network ``start``. With ``tune_words``, the vectors are a parameter of the network, and the
    recipe is expected to freeze all layers. Where ultralytics would call CLIP, and what is here instead: caching the
    embeddings of the training set (nothing is cached), the callback that gives words to the averaged network that
    val is measured with (not added: that is a copy of our network, words and all), and validation of a checkpoint
    with other names than the dataset's (the names are equal). The fourth is ``set_classes``: see ``set_words``.

    For several devices, ultralytics hands the class to its processes through cloudpickle, which takes along ``start``
    and the vectors, since the class is made in here. The vectors are in the network, so their gradients are averaged.
    """
    words = torch.from_numpy(vectors).float()[None]
    index = {name: number for number, name in enumerate(classes)}

    class WordTrainer(WorldTrainer):
        def get_model(self, cfg: Any = None, weights: Any = None, verbose: bool = True) -> Any:
            # as wide as the start, whose class branch depends on its own number of classes in the smallest network
            network = WorldModel(start.yaml["yaml_file"], self.data["channels"], start.yaml["nc"], verbose=False)
            network.load(start)
            network.model[-1].nc = len(classes)
            network.txt_feats = torch.nn.Parameter(words.clone()) if tune_words else words.clone()
            return network

        def set_text_embeddings(self, datasets: list[Any], batch: int | None) -> None:
            """Nothing to cache, and nothing written into the dataset."""

        def preprocess_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
            """Add ``txt_feats``, images x words x 512, which the loss reads: each image has its own order of words."""
            batch = DetectionTrainer.preprocess_batch(self, batch)
            rows = torch.tensor([[index[text] for text in texts] for texts in batch["texts"]], device=self.device)
            batch["txt_feats"] = unwrap_model(self.model).txt_feats.to(self.device)[0][rows]
            return batch

        def build_optimizer(self, model: Any, **settings: Any) -> Any:
            """Vectors of words do not decay: zero means nothing among them."""
            return super().build_optimizer(model, **settings | ({"decay": 0.0} if tune_words else {}))

    return WordTrainer


def settle_learned(checkpoint: Path) -> None:
    """Make the vectors that prompt tuning learned plain words of the checkpoint.

    As a parameter they would stand in the way of anyone's ``set_classes``.
    """
    saved = torch_load(checkpoint, map_location="cpu")
    learned = saved["model"].txt_feats.detach().float()
    del saved["model"].txt_feats
    saved["model"].txt_feats = learned
    partial = checkpoint.with_suffix(".partial")
    torch.save(saved, partial)
    partial.replace(checkpoint)


def hold_back(data: Path, dataset: Dataset, kept: str) -> None:
    """Take a class out of a training view: its images leave train and val, the classes behind it move up."""
    number = dataset.classes.index(kept)
    for part in ("train", "val"):
        for name in dataset.images(part):
            image = data.parent / "images" / part / name
            label = data.parent / "labels" / part / f"{Path(name).stem}.txt"
            rows = [row.split(" ", 1) for row in label.read_text("utf-8").splitlines()]
            label.unlink()  # a link into the dataset
            if any(int(row[0]) == number for row in rows):
                image.unlink(missing_ok=True)
                continue
            moved = (f"{int(row[0]) - (int(row[0]) > number)} {row[1]}\n" for row in rows)
            label.write_text("".join(moved), "utf-8")
        if not any((data.parent / "images" / part).iterdir()):
            raise DatasetError(f"--keep-vocabulary {kept}: no image of {part} is left without it: keep another class")
    about = yaml.safe_load(data.read_text("utf-8"))
    about["names"] = dict(enumerate(name for name in dataset.classes if name != kept))
    data.unlink()
    data.write_text(yaml.safe_dump(about, sort_keys=False), "utf-8")
