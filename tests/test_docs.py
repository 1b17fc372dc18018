"""What is written about the code and taken from it."""

import subprocess
import sys

import pytest
from conftest import REPOSITORY


@pytest.mark.slow  # not slow, but not to stop those who are changing a message
def test_every_error_is_in_the_document() -> None:
    done = subprocess.run(
        [sys.executable, "docs/errors.py", "--check"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_document_names_causes_and_remedies() -> None:
    text = (REPOSITORY / "docs" / "errors.md").read_text("utf-8")
    for part in ("## converters/readers/", "## converters/staging.py", "--touching merge", "--archive FILE"):
        assert part in text
    assert text.count("\n- ") > 100
