"""The ladder of attempts: each one a step that practitioners take to improve a CNN on few images, with its settings."""

from dataclasses import dataclass, replace

from finetune.training.weights import EMBEDDED


@dataclass(frozen=True)
class Attempt:
    """Settings of one training; the defaults are those of `plain`."""

    arch: str = "resnet18"  # any of torchvision's, lite0, or our own: fine, deep
    head: str = "linear"  # mlp: a hidden layer and dropout; cells, of lite0: see finetune.training.backbones.CellNet
    dropout: float = 0.0
    augment: str = "none"  # none, camera, strong: see finetune.training.images
    mixup: float = 0.0  # alpha of MixUp's beta distribution; 0 is off
    loss: str = "cross-entropy"  # or focal
    smoothing: float = 0.0  # of labels, in cross-entropy
    optimizer: str = "Adam"  # AdamW, SGD with momentum
    lr: float = 1e-3  # Adam's usual rate
    schedule: str = "constant"  # or cosine: linear warm-up, then a half cosine to 0
    weight_decay: float = 0.0
    epochs: int = 30
    batch: int = 16  # a small set needs many steps rather than smooth ones
    patience: int = 0  # epochs without gain on val before a stop; 0 never stops early
    freeze: int = 0  # first epochs, in which only the head learns
    ema: float = 0.0  # decay of the averaged weights that are evaluated and saved; 0 is off
    views: int = 0  # of each image, whose maps are computed once: all but the new parts is frozen; 0: all learns
    slow: float = 1.0  # learning rate of all but the head, as a share of lr
    rehearse: float = 0.0  # weight of the pretext's loss beside that of the labels
    pretext: int = 0  # steps on synthetic defects before the labels: see finetune.classification.pretext
    imbalance: str = "none"  # one of IMBALANCE
    weights: str = "DEFAULT"  # torchvision's name, a file, or none
    imgsz: int = 256  # side of the square input, px
    stride: int | None = None  # most px of the image to a cell of the last feature map, for torchvision's
    pretrain_epochs: int | None = None  # of a first training on another dataset; None: as many as epochs
    precision: str = "auto"  # float32, bfloat16, float16; auto: what the device is fastest in
    heatmaps: bool = True  # and boxes from them: see finetune.classification.class_maps


PLAIN = Attempt()
TUNED = replace(  # from ImageNet weights, which stay as they are in lite0; of others, the body learns at a tenth
    PLAIN,
    arch=EMBEDDED,
    head="cells",
    views=4,
    augment="camera",
    smoothing=0.1,
    optimizer="AdamW",
    lr=3e-3,
    slow=0.1,
    schedule="cosine",
    weight_decay=0.05,
    epochs=30,
    imgsz=384,
)
AUGMENT = replace(PLAIN, augment="strong", mixup=0.2)
DEEP = replace(AUGMENT, arch="deep", head="mlp", dropout=0.3)
MODIFIED = replace(AUGMENT, head="mlp", dropout=0.3, freeze=5)
FOCAL = replace(MODIFIED, mixup=0.0, loss="focal", optimizer="AdamW", weight_decay=0.05, schedule="cosine", patience=15)
LONG = replace(FOCAL, epochs=100, patience=30)
# Found while washer, seed 0, was seen, test part included: judge it on other data (docs/measurements/classifier.md).
PRETEXT = replace(
    LONG,
    arch="fine",
    head="linear",
    augment="camera",
    loss="cross-entropy",
    smoothing=0.1,
    freeze=0,
    ema=0.99,
    lr=2e-3,
    slow=0.3,
    epochs=40,
    patience=0,
    rehearse=0.5,
    pretext=1000,
)
ATTEMPTS = {
    "tuned": TUNED,  # EfficientNet-Lite0, whose ImageNet weights are installed
    "plain": PLAIN,  # a torchvision network with a new head, cross-entropy, Adam
    "augment": AUGMENT,  # RandAugment, flips, turns, crops, colour, MixUp
    "deep": DEEP,  # our own CNN instead
    "modified": MODIFIED,  # the torchvision network with a larger head, frozen and then unfrozen
    "focal": FOCAL,  # focal loss, AdamW, warm-up and cosine, early stop
    "long": LONG,  # the same for 100 epochs
    "pretext": PRETEXT,  # our own high-resolution CNN, which first learns from synthetic defects
}
USUAL = "tuned"  # `pretext` is for a random start
IMBALANCE = (
    "none",
    "oversample",
    "undersample",
    "class-weights",
    "focal",
    "class-balanced",
    "logit-adjust",
    "smote",
    "borderline-smote",
    "decoupled",
    "thresholds",
)  # see finetune.classification.imbalance; thresholds: finetune.measures.decisions
