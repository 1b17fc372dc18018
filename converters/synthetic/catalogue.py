"""Names and numbers of the sample dataset."""

CATEGORIES = ("washer", "weave")
DEFECTS = ("scratch", "hole", "stain", "missing_part", "misplaced")
VERSION = 1
FULL_COUNTS = {"train/good": 60, "test/good": 60, **dict.fromkeys(DEFECTS, 40)}
SMALL_COUNTS = {"train/good": 8, "test/good": 8, **dict.fromkeys(DEFECTS, 6)}
