"""SAM's models: the published ones, a tiny one of the same classes, and what was trained of them, saved and loaded.

segmenter = load_tuned("runs/screw/sam/seed-0/tuned.pt")
predictor = segment_anything.SamPredictor(segmenter.sam)
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from segment_anything import sam_model_registry
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, Sam, TwoWayTransformer
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.utils.transforms import ResizeLongestSide
from torch import Tensor, nn

from converters.cli.errors import DatasetError
from finetune.runs.checksums import sha256
from finetune.segmentation.drawn_prompts import DrawingPromptEncoder
from finetune.segmentation.images import fitted
from finetune.segmentation.lite0 import build_lite0, completed
from finetune.segmentation.mobile import build_mobile, renamed
from finetune.segmentation.prompts import Prompt
from finetune.segmentation.settings import LITE0, MOBILE, STARTER, STARTER_SHA256, TINY, Tiny
from finetune.training.checkpoints import load_state

URL = "https://dl.fbaipublicfiles.com/segment_anything/"
PUBLISHED = {  # name -> where the file is, and the first digits of its SHA-256
    "sam_vit_b": (f"{URL}sam_vit_b_01ec64.pth", "01ec64"),
    "sam_vit_l": (f"{URL}sam_vit_l_0b3195.pth", "0b3195"),
    "sam_vit_h": (f"{URL}sam_vit_h_4b8939.pth", "4b8939"),
    MOBILE: ("https://github.com/ChaoningZhang/MobileSAM/raw/master/weights/mobile_sam.pt", "6dbb90523a35"),
}


class Stem(nn.Sequential):
    """Convolutions that halve the image until a cell is ``patch`` px, B x 3 x S x S -> B x g x g x width.

    A transformer learns faster behind them than behind ImageEncoderViT's one large convolution: T. Xiao et al.,
    Early Convolutions Help Transformers See Better, NeurIPS 2021.
    """

    def __init__(self, patch: int, width: int) -> None:
        widths = [max(16, width * 2**step // patch) for step in range(1, patch.bit_length())]
        layers = [
            (nn.Conv2d(before, after, 3, stride=2, padding=1), LayerNorm2d(after), nn.GELU())
            for before, after in pairwise([3, *widths])
        ]
        super().__init__(*chain.from_iterable(layers), nn.Conv2d(width, width, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        return super().forward(pixels).permute(0, 2, 3, 1)


def build_tiny(tiny: Tiny) -> Sam:
    grid = tiny.side // tiny.patch
    sam = Sam(
        image_encoder=ImageEncoderViT(
            img_size=tiny.side,
            patch_size=tiny.patch,
            embed_dim=tiny.width,
            depth=tiny.depth,
            num_heads=tiny.heads,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=tiny.window,
            out_chans=tiny.dim,
        ),
        prompt_encoder=DrawingPromptEncoder(
            embed_dim=tiny.dim,
            image_embedding_size=(grid, grid),
            input_image_size=(tiny.side, tiny.side),
            mask_in_chans=16,
        ),
        mask_decoder=MaskDecoder(
            transformer_dim=tiny.dim,
            transformer=TwoWayTransformer(depth=2, embedding_dim=tiny.dim, mlp_dim=4 * tiny.dim, num_heads=4),
            iou_head_hidden_dim=tiny.dim,
        ),
    )
    sam.image_encoder.patch_embed = Stem(tiny.patch, tiny.width)
    code_places(sam)
    return sam.eval()


@torch.no_grad()
def code_places(sam: Sam) -> None:
    """Let a tiny Sam's encoder begin with the prompt encoder's code of places, so that they need not be learned."""
    embedding = sam.image_encoder.pos_embed
    assert embedding is not None
    places = sam.prompt_encoder.get_dense_pe().permute(0, 2, 3, 1)
    embedding.copy_(places[..., : embedding.shape[-1]])


class Segmenter(nn.Module):
    """A Sam and, for use without prompts, one learned token for "any defect" and one for each class."""

    def __init__(self, sam: Sam, classes: Sequence[str], auto: bool) -> None:
        super().__init__()
        self.sam, self.classes = sam, list(classes)
        dim = sam.prompt_encoder.embed_dim
        self.tokens = nn.Parameter(torch.randn(1 + len(classes), 1, dim) * 0.02) if auto else None


def build_sam(arch: str, tiny: Tiny = Tiny()) -> Sam:
    """A Sam with random weights, in evaluation mode; ``tiny`` is that architecture's, its side lite0's too.

    Raises DatasetError for mobile_sam without the timm library.
    """
    if arch == LITE0:
        return build_lite0(tiny.side)
    if arch == MOBILE:
        return build_mobile()
    return build_tiny(tiny) if arch == TINY else sam_model_registry[arch](checkpoint=None)


def load_sam(arch: str, checkpoint: Path | None, tiny: Tiny = Tiny()) -> Sam:
    """A Sam with a checkpoint's weights, read without running any code in it; random ones where there is none.

    Raises DatasetError where the file holds no weights of this architecture.
    """
    sam = build_sam(arch, tiny)
    if checkpoint is None:
        return sam
    state = {MOBILE: renamed, LITE0: completed}.get(arch, dict)(load_state(checkpoint))
    try:
        sam.load_state_dict(state)
    except RuntimeError as error:
        size, reason = sam.image_encoder.img_size, str(error).splitlines()[1].strip()
        message = f"--weights {checkpoint}: doesn't fit --arch {arch} at {size} px: {reason:.120}"
        raise DatasetError(message) from None
    return sam


def fetch_published(name: str) -> Path:
    """The authors' file, from torch's cache or downloaded into it; raises RuntimeError for a wrong SHA-256."""
    url, digits = PUBLISHED[name]
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), hash_prefix=digits, progress=False)
    elif not sha256(path).startswith(digits):
        raise RuntimeError(f"{path} is damaged: remove it")
    return path


def starter() -> Path:
    """The installed start of lite0; raises DatasetError for another file than the one that we know."""
    if not STARTER.is_file() or sha256(STARTER) != STARTER_SHA256:
        raise DatasetError(f"{STARTER}: is missing, damaged or another version: install mvtec-finetune again")
    return STARTER


def hash_of(module: nn.Module) -> str:
    """SHA-256 over the names, shapes and values of a module's weights."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().numpy())
    return digest.hexdigest()


def framed(sam: Sam, pixels: NDArray[np.uint8]) -> Tensor:
    """An image (H x W x 3, RGB) as the encoder takes it, 3 x S x S, by the steps of SamPredictor."""
    resized = ResizeLongestSide(sam.image_encoder.img_size).apply_image(pixels)
    return sam.preprocess(torch.as_tensor(resized, device=sam.device).permute(2, 0, 1).contiguous())


def embed_prompts(
    sam: Sam, prompts: Sequence[Prompt], size: tuple[int, int], masks: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Sparse (N x T x C) and dense (N x C x g x g) embeddings of N prompts, with ``masks`` N x 1 x 4g x 4g, logits.

    The prompts lie on an image, or mask, of ``size``, (height, width). Prompts with a box, and those without, must have
    the same number of points among themselves; where both occur, the former have one less, so that T is the same:
    a box is two tokens, and points without a box come with one token that says so.
    """
    height, width = fitted(size, sam.image_encoder.img_size)
    kinds = [[i for i, prompt in enumerate(prompts) if (prompt.box is None) is plain] for plain in (True, False)]
    sparse, dense = [], []
    for indices in filter(None, kinds):
        group = [prompts[i].scaled(width / size[1], height / size[0]) for i in indices]
        points = (_stack(sam, [prompt.points for prompt in group]), _stack(sam, [prompt.labels for prompt in group]))
        boxes = None if group[0].box is None else _stack(sam, [prompt.box for prompt in group])
        given = points if points[1].shape[1] else None
        found = sam.prompt_encoder(given, boxes, None if masks is None else masks[indices])
        sparse.append(found[0])
        dense.append(found[1])
    order = torch.tensor(kinds[0] + kinds[1]).argsort()
    return torch.cat(sparse)[order], torch.cat(dense)[order]


def _stack(sam: Sam, arrays: Sequence[Any]) -> Tensor:
    return torch.as_tensor(np.stack(arrays), device=sam.device)


def half_precision(sam: Sam, wanted: bool) -> torch.autocast:
    """Where it is wanted and a GPU has bfloat16, a context of that."""
    able = wanted and sam.device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.autocast(sam.device.type, torch.bfloat16, enabled=able)


def decode(sam: Sam, embedding: Tensor, sparse: Tensor, dense: Tensor, fast: bool = False) -> tuple[Tensor, Tensor]:
    """All four masks (N x 4 x 4g x 4g logits) and their expected IoU (N x 4) of N prompts; ``embedding`` 1 x C x g x g.

    Mask 0 is for prompts that leave no doubt, masks 1 to 3 are the answers to a single point. ``fast``: 16 bits
    where a GPU has bfloat16.
    """
    places = sam.prompt_encoder.get_dense_pe()
    with half_precision(sam, fast):
        low, ious = sam.mask_decoder.predict_masks(embedding, places, sparse, dense)
    return low.float(), ious.float()


def enlarged(sam: Sam, low: Tensor, size: tuple[int, int]) -> Tensor:
    """Logits N x M x 4g x 4g at ``size``, the image's (height, width), by SAM's own two steps."""
    return sam.postprocess_masks(low, fitted(size, sam.image_encoder.img_size), size)


def add_lora(encoder: nn.Module, rank: int) -> None:
    """Put low-rank adapters beside the attention's linear layers; all but them is frozen. E. Hu et al., ICLR 2022.

    Raises DatasetError without the peft library.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise DatasetError("--train lora: peft is not installed: pip install -e '.[lora]'") from None
    patches = "patch_embed.proj"  # a convolution, of SAM's own encoders
    exclude = [patches] if patches in dict(encoder.named_modules()) else None
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=["qkv", "proj"], exclude_modules=exclude)
    inject_adapter_in_model(config, encoder)


def merge_lora(encoder: nn.Module) -> None:
    """Add the adapters to the weights they adapt and take them out, so that the encoder is an ordinary one again."""
    from peft.tuners.lora import LoraLayer

    adapted = [(name, layer) for name, layer in encoder.named_modules() if isinstance(layer, LoraLayer)]
    for name, layer in adapted:
        layer.merge(safe_merge=True)
        parent, _, child = name.rpartition(".")
        setattr(encoder.get_submodule(parent), child, layer.get_base_layer())


@dataclass(frozen=True)
class Origin:
    """The origin of a segmenter: all that ``load_tuned`` needs beside the trained weights."""

    arch: str
    tiny: Tiny
    weights: Path | None  # None: random
    lora: int = 0  # rank; 0 for none
    start: str = "random"  # the weights' name in run.json: random, published or installed NAME, file SHA-256[:12]


def trained_state(segmenter: nn.Module) -> dict[str, Tensor]:
    """A copy, in main memory, of what is trained."""
    learned = {name: value.detach() for name, value in segmenter.named_parameters() if value.requires_grad}
    return {name: value.to("cpu", copy=True) for name, value in learned.items()}


def save_tuned(segmenter: Segmenter, origin: Origin, path: Path) -> None:
    """Save what was trained; all weights where the start was random, since nobody else has them."""
    whole = origin.weights is None
    torch.save(
        {
            "schema": 1,
            "arch": origin.arch,
            "tiny": asdict(origin.tiny),
            "lora": origin.lora,
            "classes": segmenter.classes,
            "auto": segmenter.tokens is not None,
            "weights": None if origin.weights is None else str(origin.weights.absolute()),
            "weights_sha256": None if origin.weights is None else sha256(origin.weights),
            "state": segmenter.state_dict() if whole else trained_state(segmenter),
        },
        path,
    )


def load_tuned(path: Path | str, weights: Path | str | None = None) -> Segmenter:
    """The segmenter that a run has left, in evaluation mode, with LoRA merged.

    ``weights`` names the checkpoint that the training began with, where it has moved. Raises DatasetError for a
    file that isn't ours, or where that checkpoint is missing or another one.
    """
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        arch, tiny, lora = saved["arch"], Tiny(**saved["tiny"]), saved["lora"]
    except Exception:  # torch raises whatever its unpickler and its zip reader do
        raise DatasetError(f"{path}: is no tuned.pt of finetune/sam_decoder.py; name the one of a run") from None
    base = _base_of(saved, weights)
    segmenter = Segmenter(load_sam(arch, base, tiny), saved["classes"], saved["auto"])
    if lora:
        add_lora(segmenter.sam.image_encoder, lora)
    segmenter.load_state_dict(saved["state"], strict=base is None)
    if lora:
        merge_lora(segmenter.sam.image_encoder)
    return segmenter.eval().requires_grad_(False)


def _base_of(saved: dict[str, Any], weights: Path | str | None) -> Path | None:
    if saved["weights"] is None:
        return None
    if weights is None and saved["weights_sha256"] == STARTER_SHA256:
        return starter()
    base = Path(weights or saved["weights"])
    if not base.is_file():
        raise DatasetError(f"{base}: the training began with this checkpoint: name where it lies now, with --weights")
    if sha256(base) != saved["weights_sha256"]:
        raise DatasetError(f"{base}: is another checkpoint than the training began with: name that, with --weights")
    return base


def export(sam: Sam, path: Path) -> None:
    """Write a full checkpoint, as Meta's own builders and SamPredictor load it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({name: value.cpu() for name, value in sam.state_dict().items()}, path)
