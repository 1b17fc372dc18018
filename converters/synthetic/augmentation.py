"""A dataset with synthetic images in its train part: real defects pasted, or noise."""

import csv
import dataclasses
import os
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import click

from converters.cli.errors import DatasetError
from converters.cli.publishing import check_space, publish, recover
from converters.cli.terminal import progress, table, to_json
from converters.cli.workers import in_processes
from converters.datasets import pipeline, splits
from converters.datasets.card import HEADER, Summary, card_as_markdown, make_card
from converters.datasets.origin import source_of
from converters.datasets.pipeline import Conversion
from converters.datasets.records import read_card, read_split, split_of
from converters.datasets.splits import Split
from converters.datasets.synthetic_images import FOLDER, KEYS, RECORD, read_synthetic
from converters.drawing.contact_sheets import spread, title
from converters.drawing.panels import Child, synthetic_sheet
from converters.formats import coco, png_masks, voc, yolo
from converters.formats.writer import DatasetInfo
from converters.masks.instances import InstanceRule
from converters.sources.samples import GOOD, Category, Sample
from converters.synthetic.composition import Made, Maker, Stock, take_stock
from converters.synthetic.pasting import BORDER, SPREAD, VISIBLE
from converters.synthetic.request import PASTE, SYNTHETIC, Order, Request

SHOWN = 12  # synthetic images on the sheet
PER_WORKER = 20  # images; starting a process costs about as much as making them


def augment(base: Path, root: Path | None, request: Request, conversion: Conversion) -> Summary:
    """Write the dataset with synthetic images beside the dataset ``base``; return what is in it.

    The conversion says how; what decides the content is that of ``base``.

    Raises DatasetError if ``base`` is no dataset that can be added to, if its source is gone or has changed, or if a
    type cannot be placed anywhere.
    """
    recover(base)
    record, card = read_split(base), read_card(base)
    if record.get("base"):
        raise DatasetError(f"{base}: has synthetic images already: name {record['base']['dataset']} instead")
    if "tile" in card["settings"]:
        raise DatasetError(f"{base}: holds tiles: name the dataset of whole images")
    if request.method != PASTE and SYNTHETIC in card["classes"]:
        raise DatasetError(f"{base}: has a class {SYNTHETIC} already, which noise would mix with: use --method {PASTE}")
    if len(card["settings"]["source"]) > 1:
        raise DatasetError(f"{base}: holds several categories: name a dataset of one")
    (category,), samples = source_of(base, root, record, conversion.max_pixels)
    left_out = {problem["file"] for problem in card["left_out"]}
    train = [s for s in samples if record["parts"].get(s.key) == "train" and s.key not in left_out]
    target = base.parent / (base.name + request.suffix)
    if conversion.overwrite and category.folder.resolve() in (target.resolve(), *target.resolve().parents):
        raise DatasetError(f"{target} would lie in the source {category.folder}: choose another --out")
    rule = InstanceRule.of(card["settings"])
    conversion = dataclasses.replace(conversion, classes=card["settings"]["classes"], instances=rule)
    stock = take_stock(train, rule, base)
    orders = request.orders(Counter(sample.defect for sample in train if sample.defect != GOOD))
    check_space(base, sum(stock.goods[i % len(stock.goods)].size for i in range(request.count)) * 3 // 2)
    with publish(target, conversion.overwrite) as folder:
        made = list(_make(Maker(stock, folder / FOLDER, request), orders, conversion.workers))
        _write_classes(folder, made)
        images = read_synthetic(folder, category.name, conversion.max_pixels)
        parts = record["parts"] | {sample.key: "train" for sample in images}
        origin = {"dataset": base.name, "sha256": record["sha256"], "synthetic_images": splits.hash_sources(images)}
        split = dataclasses.replace(split_of(record), parts=parts, base=origin)
        summary = _convert(folder, target, card, category, [*samples, *images], split, conversion)
        _write_record(folder, request, stock, origin, made)
        _write_sheet(folder, target.name, category, images, made)
        if read_split(base)["sha256"] != record["sha256"] or read_card(base) != card:
            raise DatasetError(f"{base}: was replaced meanwhile: start again")
    return summary


def _make(maker: Maker, orders: Sequence[Order], workers: int | None) -> Generator[Made, None, None]:
    for name in ("images", "masks"):
        (maker.folder / name).mkdir(parents=True)
    processes = workers or min(os.cpu_count() or 1, 1 + len(orders) // PER_WORKER)
    results = (maker(order) for order in orders) if processes == 1 else in_processes(maker, orders, processes)
    with closing(results), progress(results, len(orders), "making images") as bar:
        yield from bar


def _write_classes(folder: Path, made: Sequence[Made]) -> None:
    """The table that tells a reader of plain folders each image's class."""
    with (folder / FOLDER / "classes.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(("image", "class"))
        rows.writerows((one.name, one.defect) for one in made)


def _convert(
    folder: Path,
    target: Path,
    card: dict[str, Any],
    category: Category,
    samples: list[Sample],
    split: Split,
    conversion: Conversion,
) -> Summary:
    """Write the formats that ``base`` has, the card and the split."""
    used = {pipeline.class_of(sample, conversion.classes) for sample in samples if sample.key in split.parts}
    classes = (*card["classes"], *sorted(used - {GOOD, *card["classes"]}))
    tolerances = {name: said["tolerance"] for name, said in card.get("simplified", {}).items()}
    info = DatasetInfo(target.name, classes, split.sha256, category.synthetic, parts=split.all_parts)
    plans = pipeline.plan_images(samples, split.parts, classes, conversion.classes)
    summary = Summary(
        target.name,
        classes,
        left_out=list(category.problems),
        asides=list(category.asides),
        unused=Counter(split.unused.values()),
    )
    summary.grouped, summary.train_good_divided = card.get("grouped", {}), card.get("train_good_divided", [])
    writers = [_writer(name, tolerances.get(kind, 0.0)) for kind, name in card["formats"].items()]
    pipeline.write_formats(folder, info, plans, summary, conversion, writers)
    lost = [problem for problem in summary.left_out if problem.file.startswith(KEYS)]
    if lost:
        raise DatasetError(f"{target}: {lost[0]}")
    source = os.path.relpath(category.folder.resolve(), target.resolve())
    settings = card["settings"] | {"source": {category.name: Path(source).as_posix()}}
    made = make_card(info, settings, card["formats"], summary, [category], card["options"])
    made["synthetic_images"] = sum(key.startswith(f"{KEYS}/") for key in split.parts)
    (folder / "card.json").write_text(to_json(made), "utf-8")
    note = (
        f"- {made['synthetic_images']} images of train were made from others of train: see {RECORD} and synthetic.png\n"
    )
    (folder / "card.md").write_text(card_as_markdown(info, summary, made) + note, "utf-8")
    (folder / "split.json").write_text(split.to_json(), "utf-8")
    return summary


def _writer(name: str, tolerance: float) -> Any:
    """The writer class that a card names, with the tolerance that the format has there."""
    writer = next(getattr(module, name) for module in (coco, png_masks, voc, yolo) if hasattr(module, name))
    return lambda info: writer(dataclasses.replace(info, simplify=tolerance))


def _write_record(folder: Path, request: Request, stock: Stock, origin: dict[str, str], made: Sequence[Made]) -> None:
    record = {
        "schema": 1,
        "base": origin,
        **dataclasses.asdict(request),
        "product": stock.kind,
        "visible": VISIBLE,
        "spread": SPREAD,
        "border": BORDER,
        "images": [{"image": one.name, "class": one.defect, **one.record} for one in made],
    }
    (folder / RECORD).write_text(to_json(record), "utf-8")


def _write_sheet(folder: Path, name: str, category: Category, images: Sequence[Sample], made: Sequence[Made]) -> None:
    by_name = {sample.image.name: sample for sample in images}
    by_key = {sample.key: sample for sample in category.samples}
    children = [
        Child(by_name[one.name], by_key[one.record["background"]], by_key[one.record["parts"][0]["source"]])
        for one in spread(made, SHOWN)
    ]
    heading = title(category, name.partition("@")[2])
    sheet = synthetic_sheet(heading, f"{len(children)} of {len(made)} synthetic images", children)
    sheet.save(folder / "synthetic.png", compress_level=6)


def augment_dataset(
    name: str,
    out: Path,
    root: Path | None,
    as_json: bool,
    workers: int | None,
    max_pixels: int,
    images: str,
    overwrite: bool,
    **options: Any,
) -> None:
    """Write the augmented dataset, and print what is in it."""
    request = Request(**options)
    conversion = Conversion(
        out=out, images=images, workers=workers, on_error="skip", max_pixels=max_pixels, overwrite=overwrite
    )
    summary = augment(out / name, root, request, conversion)
    target = (out / name).parent / summary.dataset
    if as_json:
        click.echo(to_json({"dataset": summary.dataset, **summary.card()}), nl=False)
        return
    click.echo("\n".join([table(summary.rows, HEADER), *summary.notes()]))
    counts = {summary.images["train", defect] for defect in summary.classes if defect != SYNTHETIC}
    if request.balance and len(counts) > 1:
        click.echo("the types still differ in number: a larger --count is needed to balance them", err=True)
    click.echo(f"made {request.count} images; wrote {target}; look at {target}/synthetic.png")
    if summary.left_out:
        raise SystemExit(1)
