"""`finetune/vocabulary.py`: prompts from names and files, and vectors that are of length 1, averaged and cached."""

from collections.abc import Sequence

import numpy as np
import pytest

from converters.cli.errors import DatasetError
from finetune.detection import vocabulary
from finetune.detection.vocabulary import (
    TextTower,
    class_vectors,
    find_tower,
    prompts_from,
    read_prompts,
    read_vectors,
    write_vectors,
)

CLASSES = ["missing_part", "stain"]
TURNED = {"north": [0, 2], "east": [5, 0], "stain": [0, 1]}  # texts and their vectors, of length other than 1


def encode(texts: Sequence[str]) -> np.ndarray:
    """N x 512; the first two numbers say it all."""
    return np.array([[*TURNED[text], *[0] * 510] for text in texts], float)


# ---------------------------------------------------------------- prompts


def test_a_class_name_becomes_words_about_its_category():
    assert prompts_from("{defect} on a {category}", CLASSES, ["metal_nut"]) == {
        "missing_part": ["missing part on a metal nut"],
        "stain": ["stain on a metal nut"],
    }


def test_a_class_that_carries_its_category_is_said_of_that_one():
    prompts = prompts_from("{defect} on a {category}", ["nut-bent", "metal_nut-bent"], ["nut", "metal_nut"])
    assert list(prompts.values()) == [["bent on a nut"], ["bent on a metal nut"]]


@pytest.mark.parametrize("template", ["{colour} {defect}", "{}", "{defect"])
def test_a_template_with_other_fields_is_refused(template):
    with pytest.raises(DatasetError, match=r"--template .* has a field other than {defect} and {category}"):
        prompts_from(template, CLASSES, ["washer"])


def test_synonyms_come_from_a_file_in_the_order_of_the_classes(tmp_path):
    (tmp_path / "words.yaml").write_text("stain: ' dark spot '\nmissing_part: [missing part, hole where a part was]\n")
    assert list(read_prompts(tmp_path / "words.yaml", CLASSES).items()) == [
        ("missing_part", ["missing part", "hole where a part was"]),
        ("stain", ["dark spot"]),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("stain: spot", "lacks missing_part; the dataset has missing_part, stain"),
        ("{stain: a, missing_part: b, dent: c}", "dent: no such class"),
        ("{stain: [], missing_part: b}", "stain needs a text"),
        ("{stain: 3, missing_part: b}", "stain needs a text"),
        ("{stain: [a, 3], missing_part: b}", "stain needs a text"),
        ("{stain: ' ', missing_part: b}", "stain needs a text"),
        ("- stain", "needs lines of"),
        ("a: [", "is no YAML"),
    ],
)
def test_bad_prompt_files_are_refused_in_one_line(tmp_path, text, expected):
    (tmp_path / "words.yaml").write_text(text)
    with pytest.raises(DatasetError) as refused:
        read_prompts(tmp_path / "words.yaml", CLASSES)
    assert expected in refused.value.message and "words.yaml" in refused.value.message
    assert "\n" not in refused.value.message


# ---------------------------------------------------------------- vectors


def test_synonyms_are_brought_to_length_one_averaged_and_brought_to_length_one_again():
    """By hand: (0, 1) and (1, 0), whatever their lengths were, have the mean (1/2, 1/2), so (0.7071, 0.7071)."""
    vectors = class_vectors({"missing_part": ["north", "east"], "stain": ["stain"]}, encode)
    assert vectors.shape == (2, 512) and vectors.dtype == np.float32
    assert vectors[:, :2] == pytest.approx(np.array([[0.5**0.5, 0.5**0.5], [0, 1]]))
    assert not vectors[:, 2:].any()


def test_vectors_survive_their_file_in_any_order_and_synonyms_in_it_are_averaged(tmp_path):
    vectors = class_vectors({"missing_part": ["north"], "stain": ["east"]}, encode)
    write_vectors(tmp_path / "own.npz", CLASSES, vectors)
    assert (read_vectors(tmp_path / "own.npz", CLASSES) == vectors).all()
    names = ["stain", "missing_part", "stain"]
    write_vectors(tmp_path / "other.npz", names, encode(["north", "east", "east"]))
    expected = class_vectors({"missing_part": ["east"], "stain": ["north", "east"]}, encode)
    assert np.allclose(read_vectors(tmp_path / "other.npz", CLASSES), expected, atol=1e-7)


def test_bad_files_of_vectors_are_refused_in_one_line(tmp_path):
    file = tmp_path / "own.npz"
    cases = {
        "No such file": lambda: None,
        "needs an .npz": lambda: file.write_text("no archive"),
        "needs an .npz with": lambda: np.savez(file, names=np.array(CLASSES)),
        "2 names need 2 x 512": lambda: write_vectors(file, CLASSES, np.ones((2, 3))),
        "no vector of zeros": lambda: write_vectors(file, CLASSES, np.eye(2, 512) * [[1], [0]]),
        "lacks stain": lambda: write_vectors(file, CLASSES[:1], np.ones((1, 512))),
        "dent: no such class": lambda: write_vectors(file, [*CLASSES, "dent"], np.ones((3, 512))),
    }
    for expected, write in cases.items():
        write()
        with pytest.raises(DatasetError) as refused:
            read_vectors(file, CLASSES)
        assert expected in refused.value.message and "\n" not in refused.value.message
        assert refused.value.message.startswith(f"--text-embeddings {file}")


def test_a_file_of_vectors_that_would_run_code_is_refused(tmp_path):
    np.savez(tmp_path / "own.npz", names=np.array(CLASSES), embeddings=np.array([print, print], object))
    with pytest.raises(DatasetError, match=r"needs an .npz"):
        read_vectors(tmp_path / "own.npz", CLASSES)


# ---------------------------------------------------------------- tower


class Counting(TextTower):
    """A tower that counts the texts it was asked for."""

    asked: list[str]

    def _ask(self, texts: Sequence[str]) -> np.ndarray:
        self.__dict__.setdefault("asked", []).extend(texts)
        return np.array([[len(text), self.seed, 1.0] for text in texts])


def test_each_text_is_asked_once_and_kept_apart_by_model_and_text(tmp_path):
    tower = Counting(None, 0, tmp_path / "text")
    first = tower.encode(["a scratch", "a stain"])
    assert (tower.encode(["a stain", "a scratch", "a dent"]) == [*first[::-1], [6, 0, 1]]).all()
    assert tower.asked == ["a scratch", "a stain", "a dent"]
    assert (Counting(None, 0, tmp_path / "text").encode(["a stain"]) == first[1]).all()
    other = Counting(None, 1, tmp_path / "text")
    assert other.encode(["a stain"])[0, 1] == 1 and other.asked == ["a stain"]


def test_checkpoints_are_told_apart_by_their_bytes(tmp_path):
    for name in ("one", "two", "same"):
        (tmp_path / f"{name}.pt").write_text("two" if name == "two" else "one")
    one, two, same = (TextTower(tmp_path / f"{n}.pt", 0, tmp_path).file("a") for n in ("one", "two", "same"))
    assert one == same != two


def test_without_open_clip_the_extra_and_the_other_way_are_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "open_clip", None)
    for wanted in ("openai", "none"):
        with pytest.raises(DatasetError, match=rf"--text-weights {wanted}: .*\[world\].*--text-embeddings"):
            find_tower(wanted, 0, tmp_path).encode(["a"])


def test_without_a_network_one_line_names_the_file_and_the_flag(tmp_path, monkeypatch):
    pytest.importorskip("open_clip", reason="needs the extra [world]")
    import huggingface_hub

    def refuse() -> None:
        raise ConnectionError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "get_session", refuse)
    with pytest.raises(DatasetError) as refused:
        find_tower("openai", 0, tmp_path)
    line = refused.value.message
    assert line.startswith("--text-weights openai: could not be downloaded (open_clip_model.safetensors of ")
    assert "no network" in line and "--text-weights FILE" in line and "\n" not in line


def test_a_file_that_is_no_tower_is_refused_in_one_line(tmp_path):
    pytest.importorskip("open_clip", reason="needs the extra [world]")
    (tmp_path / "notes.pt").write_text("no checkpoint")
    with pytest.raises(DatasetError, match=r"notes.pt: is no checkpoint of ViT-B-32-quickgelu") as refused:
        find_tower(str(tmp_path / "notes.pt"), 0, tmp_path / "text").encode(["a stain"])
    assert "\n" not in refused.value.message and "weights_only" not in refused.value.message


@pytest.mark.slow
def test_open_clips_tower_gives_vectors_of_length_one_that_depend_on_text_and_seed_alone(tmp_path):
    """The tower with random weights, against a second one, and against one that is read from a checkpoint."""
    pytest.importorskip("open_clip", reason="needs the extra [world]")
    import torch

    texts = ["scratch on a washer", "stain on a washer"]
    vectors = find_tower("none", 3, tmp_path / "a").encode(texts)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1], abs=1e-6)
    assert abs(vectors[0] - vectors[1]).max() > 0.01
    assert (find_tower("none", 3, tmp_path / "b").encode(texts[::-1]) == vectors[::-1]).all()
    assert abs(find_tower("none", 4, tmp_path / "c").encode(texts[:1]) - vectors[0]).max() > 0.01
    network, _ = vocabulary.load_tower(None, 3)
    torch.save(network.state_dict(), tmp_path / "tower.pt")
    from_file = find_tower(str(tmp_path / "tower.pt"), 0, tmp_path / "d").encode(texts)
    assert np.allclose(from_file, vectors, atol=1e-6)
