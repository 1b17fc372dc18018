"""Words for a detector that understands them: prompts for the classes of a dataset, and their text embeddings.

A class has one prompt made by a template, or several synonyms from a file. CLIP's text tower turns each prompt into
a vector of 512 numbers and length 1; a class is the mean of its prompts' vectors, brought to length 1 again (Radford
et al. 2021, "prompt ensembling"). The tower is open_clip's ``ViT-B-32-quickgelu`` with OpenAI's weights, which is the
one that YOLO-World was trained with; it is loaded only if a vector is not at hand.
"""

import hashlib
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from converters.cli.errors import DatasetError
from finetune.detection.recipe import PUBLISHED
from finetune.runs.checksums import sha256
from finetune.training.weights import RANDOM, find_weights

TOWER = "ViT-B-32-quickgelu"  # plain ViT-B-32 computes another GELU than OpenAI's weights were trained with
ADDRESS = "https://huggingface.co/timm/vit_base_patch32_clip_224.openai/resolve/main/open_clip_model.safetensors"
WIDTH = 512
INSTALL = "--text-weights {wanted}: needs open_clip: pip install -e '.[world]', or name vectors with --text-embeddings"
Prompts = Mapping[str, Sequence[str]]  # class -> one prompt, or several synonyms


def prompts_from(template: str, classes: Sequence[str], categories: Sequence[str]) -> Prompts:
    """One prompt a class: ``missing_part`` of the category ``washer`` becomes "missing part on a washer".

    Where a class carries its category in front (``washer-scratch``), that one is used, else the only category there
    is. Raises DatasetError for a template with other fields than {defect} and {category}.
    """
    prompts = {}
    for name in classes:
        prefixes = [category for category in categories if name.startswith(f"{category}-")]
        category = max(prefixes, key=len) if prefixes else categories[0]
        defect = name.removeprefix(f"{category}-") if prefixes else name
        fields = {"defect": _as_words(defect), "category": _as_words(category)}
        try:
            prompts[name] = [template.format(**fields)]
        except (KeyError, IndexError, ValueError, AttributeError, TypeError) as error:
            raise DatasetError(
                f"--template {template!r}: has a field other than {{defect}} and {{category}} ({error})"
            ) from None
    return prompts


def _as_words(name: str) -> str:
    return " ".join(name.replace("_", " ").split())


def read_prompts(path: Path, classes: Sequence[str]) -> Prompts:
    """Prompts from a YAML file ``class: prompt`` or ``class: [prompt, synonym, ...]``.

    Raises DatasetError for a class that is missing or unknown, and for what is no text.
    """
    try:
        given = yaml.safe_load(path.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DatasetError(f"--prompts {path}: is no YAML ({' '.join(str(error).split())})") from None
    if not isinstance(given, dict):
        raise DatasetError(f"--prompts {path}: needs lines of `class: prompt` or `class: [prompt, synonym]`")
    _check_names(f"--prompts {path}", [str(name) for name in given], classes)
    prompts = {str(name): [texts] if isinstance(texts, str) else texts for name, texts in given.items()}
    for name, texts in prompts.items():
        if not isinstance(texts, list) or not texts or not all(isinstance(t, str) and t.strip() for t in texts):
            raise DatasetError(f"--prompts {path}: {name} needs a text or a list of texts")
    return {name: [text.strip() for text in prompts[name]] for name in classes}


def _check_names(source: str, given: Sequence[str], classes: Sequence[str]) -> None:
    missing = [name for name in classes if name not in given]
    unknown = [name for name in given if name not in classes]
    if missing or unknown:
        wrong = f"lacks {', '.join(missing)}" if missing else f"{', '.join(unknown)}: no such class"
        raise DatasetError(f"{source}: {wrong}; the dataset has {', '.join(classes)}")


def unit(vectors: NDArray[Any]) -> NDArray[Any]:
    """Rows (N x D) brought to length 1."""
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def averaged(groups: Iterable[NDArray[Any]]) -> NDArray[Any]:
    """N x D of length 1: for each group (K x D, synonyms) the mean of its unit vectors, brought to length 1."""
    return unit(np.stack([unit(np.asarray(group, np.float64)).mean(axis=0) for group in groups])).astype(np.float32)


def class_vectors(prompts: Prompts, encode: Callable[[Sequence[str]], NDArray[Any]]) -> NDArray[Any]:
    """Classes x 512 of length 1, from their prompts."""
    return averaged(encode(synonyms) for synonyms in prompts.values())


def read_vectors(path: Path, classes: Sequence[str]) -> NDArray[Any]:
    """Classes x 512, of length 1, from a file as ``write_vectors`` writes it: ``names`` and ``embeddings``.

    Several rows of one name are synonyms, and averaged. Raises DatasetError for anything else.
    """
    flag = f"--text-embeddings {path}"
    try:
        with np.load(path, allow_pickle=False) as data:
            names, vectors = [str(name) for name in data["names"]], np.asarray(data["embeddings"], np.float64)
    except Exception as error:  # whatever a foreign file makes NumPy raise
        raise DatasetError(f"{flag}: needs an .npz with `names` and `embeddings` ({error})") from None
    if vectors.shape != (len(names), WIDTH) or not np.isfinite(vectors).all() or not vectors.any(axis=1).all():
        needed = f"{len(names)} x {WIDTH} finite numbers and no vector of zeros only"
        raise DatasetError(
            f"{flag}: {len(names)} names need {needed}; the file holds {' x '.join(map(str, vectors.shape))}"
        )
    _check_names(flag, names, classes)
    return averaged(vectors[[other == name for other in names]] for name in classes)


def write_vectors(path: Path, classes: Sequence[str], vectors: NDArray[Any]) -> None:
    """Write vectors (classes x 512) as ``--text-embeddings`` reads them."""
    np.savez(path, names=np.array(classes), embeddings=np.asarray(vectors, np.float32))


@dataclass(frozen=True)
class TextTower:
    """CLIP's text tower, loaded at first use; ``cache`` keeps the vector of each text, apart for each model."""

    checkpoint: Path | None  # None: random weights
    seed: int  # of the random weights
    cache: Path

    @cached_property
    def model(self) -> str:
        """A hash that tells this tower from others."""
        start = f"random {self.seed}" if self.checkpoint is None else sha256(self.checkpoint)
        return f"open_clip {TOWER} {start}"

    def file(self, text: str) -> Path:
        return self.cache / f"{hashlib.sha256((self.model + chr(10) + text).encode()).hexdigest()[:32]}.npy"

    def encode(self, texts: Sequence[str]) -> NDArray[Any]:
        """N x 512, of length 1; from the cache where a text was asked before."""
        self.cache.mkdir(parents=True, exist_ok=True)
        new = [text for text in texts if not self.file(text).is_file()]
        if new:
            for text, vector in zip(new, self._ask(new), strict=True):
                np.save(self.file(text), vector)
        return np.stack([np.load(self.file(text), allow_pickle=False) for text in texts])

    def _ask(self, texts: Sequence[str]) -> NDArray[Any]:
        network, tokenize = load_tower(self.checkpoint, self.seed)
        with torch.inference_mode():  # one by one: what a text gives does not depend on its neighbours
            vectors = [network.encode_text(tokenize([text]), normalize=True)[0] for text in texts]
        return torch.stack(vectors).numpy()


def load_tower(checkpoint: Path | None, seed: int) -> tuple[Any, Callable[[list[str]], Any]]:
    """The network and its tokenizer; raises DatasetError for a file that holds no such network."""
    open_clip = import_open_clip(RANDOM if checkpoint is None else str(checkpoint))
    logging.disable(logging.WARNING)  # of random weights, which were asked for by name
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            network = open_clip.create_model(TOWER, pretrained=str(checkpoint) if checkpoint else None)
        except Exception:  # whatever a foreign file makes its loader raise; torch's words advise to run its code
            raise DatasetError(
                f"--text-weights {checkpoint}: is no checkpoint of {TOWER}; name a file that open_clip can load, "
                f"{PUBLISHED}, or none for random weights"
            ) from None
        finally:
            logging.disable(logging.NOTSET)
    return network.eval(), open_clip.get_tokenizer(TOWER)


def find_tower(wanted: str, seed: int, cache: Path) -> TextTower:
    """The tower that ``--text-weights`` asks for; raises DatasetError if it is not to be had."""
    if wanted == PUBLISHED:
        import_open_clip(wanted)
    return TextTower(find_weights(wanted, {PUBLISHED: ADDRESS}, fetch_tower, "--text-weights"), seed, cache)


def fetch_tower(name: str) -> Path:
    """OpenAI's weights from the hub that open_clip takes them from, into torch's cache of checkpoints."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    import huggingface_hub as hub

    where = {
        "repo_id": import_open_clip(name).get_pretrained_cfg(TOWER, name)["hf_hub"].strip("/"),
        "filename": "open_clip_model.safetensors",
        "cache_dir": Path(torch.hub.get_dir()) / "checkpoints",
    }
    try:
        return Path(hub.hf_hub_download(**where, local_files_only=True))
    except hub.errors.LocalEntryNotFoundError:
        pass
    try:
        hub.get_session().head(hub.constants.ENDPOINT, timeout=10)  # without a network, it would try for a minute
        return Path(hub.hf_hub_download(**where))
    except Exception as error:  # each of its ways to the network has errors of its own
        raise RuntimeError(f"{where['filename']} of {where['repo_id']}: {error}") from error


def import_open_clip(wanted: str) -> Any:
    try:
        import open_clip
    except ImportError:
        raise DatasetError(INSTALL.format(wanted=wanted)) from None
    return open_clip
