"""The page: whole in itself, honest in its banners, and its filters work in a browser."""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import converted, write_category
from fake_runs import results_file, write_run
from test_compare import SIZE, compare, discs

from finetune.comparison import gallery
from finetune.runs.dataset import Dataset

MARKUP = "<i>odd</i>"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with every kind of model, one with an awkward name, and someone else's results."""
    root = tmp_path_factory.mktemp("page")
    masks = {name: [discs(index, kind) for index in range(10)] for kind, name in enumerate(("crack", "hole"))}
    dataset = Dataset(
        converted("all", write_category(root / "data", masks=masks, good=(4, 15), size=SIZE), root / "out")
    )
    runs = root / "runs"
    write_run(runs, dataset, "classifier", {"tuned": ("class", 0.6)}, train_seconds=90.0, seconds_per_image=0.02)
    for seed in range(3):
        write_run(runs, dataset, "yolo", {"tuned": ("box", 0.7)}, seed, random_weights=True)
    write_run(runs, dataset, "sam_decoder", {"gt-box": ("mask", 0.95), "yolo-box": ("mask", 0.7)})
    write_run(runs, dataset, "normality", {"tuned": ("good", 0.5)})
    shutil.copytree(runs / "widget/yolo", runs / "widget/odd")
    results = results_file(root / "theirs.json", dataset)
    result = compare(root, runs, "--results", f"{MARKUP}={results}")
    assert result.exit_code == 0, result.output
    return runs / "widget/report/index.html"


@pytest.fixture(scope="module")
def text(page: Path) -> str:
    return page.read_text("utf-8")


def test_page_loads_nothing(text: str) -> None:
    links = re.findall(r"(?:src|href)=\"([^\"]*)\"", text)
    assert links and all(link.startswith(("data:", "#")) for link in links)
    assert not re.search(r"https?://(?!www\.w3\.org)|@import|url\(", text)


def test_page_is_small_and_every_image_has_a_text(text: str) -> None:
    assert len(text) < 10_000_000
    images = re.findall(r"<img [^>]*>", text)
    assert images and all(re.search(r"alt=\"[^\"]+\"", image) for image in images)


def test_page_says_what_to_mind(text: str) -> None:
    for words in (
        "random weights: ",
        "Oracles, prompted with ground truth: sam_decoder/gt-box",
        "No predictions for val",
    ):
        assert words in text
    assert "too few to trust" in text  # two test images of each type


def test_oracles_stand_apart_in_every_table_of_models(text: str) -> None:
    tables = re.findall(r"<table class=\"[^\"]*models\">(.*?)</table>", text, re.DOTALL)
    by_row = [table for table in tables if "gt-box</th>" in table or "gt-box\n" in table]
    assert len(by_row) >= 5  # summary, differences, costs and the measures of each level
    for table in by_row:
        automatic, _, oracles = table.partition("Oracles: prompted with ground truth")
        assert "gt-box\n" not in automatic and "yolo-box\n" not in oracles and "gt-box\n" in oracles


def test_names_cannot_break_the_page(text: str) -> None:
    assert MARKUP not in text and "&lt;i&gt;odd&lt;/i&gt;" in text


def test_images_that_are_left_out_are_told(text: str, page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "worst of" not in text
    monkeypatch.setattr(gallery, "MOST_CASES", 3)
    root = page.parents[3]
    result = compare(root, root / "runs", "--report", root / "few")
    assert result.exit_code == 0, result.output
    shown = (root / "few/index.html").read_text("utf-8")
    assert shown.count('<article class="case"') == 3 and "The 3 worst of 7 test images" in shown


def test_synthetic_images_are_announced(page: Path) -> None:
    from finetune.comparison.rows import Row
    from finetune.comparison.wording import banners

    class Made(Dataset):
        synthetic = True

    made = Made(page.parents[3] / "out" / "widget")
    row = Row("a", "tuned", records={"0": {"widget": {}}}, evidence={"0": []})
    row.answers["0"] = {"widget": type("Told", (), {"about": {}})()}
    assert banners([made], [row])[0].startswith("Synthetic images")


def boxes(*xywh: tuple[list[float], int]) -> list[dict[str, Any]]:
    return [{"bbox": box, "category_id": category, "score": 0.9} for box, category in xywh]


@pytest.mark.parametrize(
    ("kept", "kinds", "errors"),
    [
        ([([10, 10, 20, 20], 1)], ["right"], []),
        ([([10, 10, 20, 20], 2)], ["wrong class"], ["wrong class"]),
        ([([20, 10, 20, 20], 1)], ["loose box"], ["loose box"]),
        ([([60, 60, 9, 9], 1)], ["false alarm"], ["false alarm", "missed"]),
        ([], [], ["missed"]),
        ([([10, 10, 20, 20], 1), ([11, 10, 20, 20], 2)], ["right", "wrong class"], []),  # the defect is found
    ],
)
def test_errors_are_told_apart(kept: list, kinds: list[str], errors: list[str]) -> None:
    item: Any = type("Item", (), {"tells_classes": True, "truth": type("T", (), {"dataset": None})()})()
    item.truth.dataset = type("D", (), {"classes": ["crack", "hole"]})()
    found, wrong = gallery.match(item, boxes(([10, 10, 20, 20], 1)), boxes(*kept))
    assert [box.kind for box in found] == kinds and wrong == errors


def test_outline_goes_round_a_mask_and_its_hole() -> None:
    mask = np.zeros((40, 40), np.uint8)
    mask[5:30, 5:30] = 1
    mask[12:20, 12:20] = 0
    assert gallery.outline(mask).count("M") == 2


# ------------------------------------------------------------------------------------------------------- browser


def choose(browser: Any, name: str, value: str) -> int:
    """Choose in one filter as a user does; how many images are then shown."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select

    Select(browser.find_element(By.NAME, name)).select_by_visible_text(value)
    shown = len([one for one in browser.find_elements(By.CSS_SELECTOR, ".case") if one.is_displayed()])
    assert browser.find_element(By.ID, "count").text.startswith(f"{shown} of ")
    return shown


@pytest.mark.slow
def test_filters_sorting_viewer_and_theme_work_without_a_console_error(browser: Any, page: Path) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    browser.get(page.as_uri())
    total = len(browser.find_elements(By.CSS_SELECTOR, ".case"))
    by_class = [choose(browser, "class", name) for name in ("good", "crack", "hole")]
    assert sum(by_class) == total == choose(browser, "class", "all")
    with_errors = choose(browser, "kind", "any error")
    for kind in gallery.KINDS:
        assert choose(browser, "kind", kind) <= with_errors
    choose(browser, "model", "yolo")
    wrong, right = choose(browser, "kind", "any error"), choose(browser, "kind", "no error")
    assert wrong + right == total
    choose(browser, "kind", "all")
    bad = [choose(browser, "order", order) and _badness(browser, "yolo") for order in ("worst first", "best first")]
    assert bad[0] == sorted(bad[0], reverse=True) and bad[1] == sorted(bad[1])
    browser.find_element(By.NAME, "show-truth").click()
    assert "hide-truth" in browser.find_element(By.ID, "cases").get_attribute("class")
    heading = browser.find_element(By.CSS_SELECTOR, "table.summary thead tr:last-child th:nth-child(4) button")
    heading.click()
    assert browser.find_element(By.CSS_SELECTOR, "table.summary th[aria-sort=descending]").text.startswith("AUROC")
    thumb = browser.find_element(By.CSS_SELECTOR, ".case .thumb button")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", thumb)
    thumb.send_keys(Keys.ENTER)  # by keyboard
    viewer = browser.find_element(By.ID, "viewer")
    first = viewer.find_element(By.CSS_SELECTOR, ".caption").text
    viewer.send_keys(Keys.ARROW_RIGHT)
    assert viewer.is_displayed() and viewer.find_element(By.CSS_SELECTOR, ".caption").text != first
    assert browser.execute_script("return document.querySelector('#viewer img').naturalWidth") > 0
    viewer.send_keys(Keys.ESCAPE)
    browser.find_element(By.ID, "theme").click()
    assert browser.execute_script("return document.documentElement.dataset.theme") in ("dark", "light")
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_sticks_out_of_the_page(browser: Any, page: Path, width: int) -> None:
    command = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", command)
    browser.get(page.as_uri())
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    thumbs = "[...document.querySelectorAll('.case .thumb')].map((one) => one.getBoundingClientRect().right)"
    assert max(browser.execute_script(f"return {thumbs}")) <= width - 10  # none is cut off by its row


def _badness(browser: Any, model: str) -> list[float]:
    return browser.execute_script(
        "return [...document.querySelectorAll('.case')].map((c) => Number([...c.querySelectorAll('.thumb[data-model]')]"
        ".find((t) => t.dataset.model === arguments[0]).dataset.bad))",
        model,
    )
