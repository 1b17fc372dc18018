"""Judge images on a line PC with an exported classifier or normality: onnxruntime, NumPy and Pillow, nothing else.

python finetune/export.py runs/screw/normality/seed-0 --to model.onnx
python line_pc.py model.onnx part1.png part2.png
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image


def load(file):
    """The model, and what it says of itself: classes, and the score from which an image is defective."""
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    return session, json.loads(about["classes"]), json.loads(about["threshold"])


def judge(model, path):
    """(is it defective?, score 0..1, likeliest class or None, heat map H x W or None) of an image file."""
    session, classes, threshold = model
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))  # H x W x 3 of 0..255, as large as it is
    names = [output.name for output in session.get_outputs()]
    found = dict(zip(names, session.run(None, {"image": pixels}), strict=True))
    defective = bool(found["score"] >= threshold)
    kind = classes[int(found["classes"].argmax())] if defective and "classes" in found else None
    return defective, float(found["score"]), kind, found.get("heat")


if __name__ == "__main__":
    line = load(sys.argv[1])
    for name in sys.argv[2:]:
        is_defective, score, kind, _ = judge(line, name)
        print(f"{name}: {'DEFECT' if is_defective else 'good'} {score:.3f} {kind or ''}")
