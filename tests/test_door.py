"""Files from outside: read as their type says, or refused in one line that names the file and the field."""

from pathlib import Path
from typing import Any

import pytest
from conftest import converted, refusal, run_cli

from converters.cli.door import Checked, read_json, read_yaml
from converters.cli.errors import DatasetError


class Size(Checked):
    width: int
    shares: list[float] = []  # noqa: RUF012 - pydantic copies it


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"width": "3"}', "width: Input should be a valid integer, not '3': measure again"),
        ('{"width": true}', "width: Input should be a valid integer, not True: measure again"),
        ('{"width": 3, "shares": [0, NaN]}', "shares.1: Input should be a finite number, not nan: measure again"),
        ('{"shares": "all"}', "width: Field required (and 1 more): measure again"),
        ("[3]", "Input should be an object, not [3]: measure again"),
        ("{", "Invalid JSON: EOF while parsing an object at line 1 column 1: measure again"),
        (None, "No such file or directory: measure again"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line(tmp_path: Path, text: str | None, expected: str) -> None:
    path = tmp_path / "size.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DatasetError) as caught:
        read_json(path, Size, "measure again")
    assert caught.value.message == f"{path}: {expected}"


def test_what_is_right_is_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_text('{"width": 3, "shares": [1, 0.5], "more": 1}')
    assert read_json(tmp_path / "a", Size) == read_yaml(tmp_path / "a", Size) == Size(width=3, shares=[1.0, 0.5])


def test_a_damaged_card_is_refused_by_its_field(make_category: Any, tmp_path: Path) -> None:
    folder = make_category()
    card = converted("to_coco", folder, tmp_path) / "card.json"
    card.write_text(card.read_text("utf-8").replace('"connectivity": 8', '"connectivity": "8"'), "utf-8")
    line = refusal(run_cli("to_yolo", "--root", folder, "--out", tmp_path))
    assert f"{card}: settings.connectivity: Input should be 8 or 4, not '8': convert again with --overwrite" in line
