"""The one loop: every mask is read once, and its instances go to every format that was asked for."""

import dataclasses
import os
import shutil
from collections import Counter
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import chain, groupby
from pathlib import Path
from typing import Any

import click

from converters.cli import publishing as staging
from converters.cli.errors import DatasetError
from converters.cli.terminal import progress, to_json
from converters.cli.workers import in_processes
from converters.datasets import splits, tiles
from converters.datasets.card import Summary, card_as_markdown, make_card, simplifications
from converters.datasets.groups import with_groups
from converters.datasets.journal import Journal, Order, can_resume, program
from converters.datasets.records import read_card, read_split
from converters.datasets.splits import Split, SplitRule
from converters.datasets.tiles import TileRule
from converters.formats.writer import (
    TOO_SMALL,
    DatasetInfo,
    LabelledImage,
    Outcome,
    Planned,
    Rendered,
    Writer,
    check_length,
)
from converters.masks.instances import Instance, InstanceRule, cropped, find_instances
from converters.masks.reading import ReadMask, mask_of
from converters.sources.samples import GOOD, Category, Problem, Sample

MOST_CLASSES = 254  # 0 is background and 255 VOC's void
MASKS_PER_WORKER = 200  # starting a process costs about as much as converting this many masks


@dataclass(frozen=True)
class Conversion:
    """A conversion as the command line asks for it."""

    root: Path | None = None
    category: str | None = None
    layout: str = "auto"
    out: Path = Path("datasets_out")
    split: SplitRule = SplitRule()
    group: str | None = None
    group_file: Path | None = None
    classes: str = "defect"
    instances: InstanceRule = InstanceRule()
    simplify: float = 0.0
    tile: TileRule | None = None
    images: str = "link"
    workers: int | None = None
    on_error: str = "stop"
    max_pixels: int = 256_000_000
    overwrite: bool = False
    resume: bool = False
    dry_run: bool = False

    @classmethod
    def from_options(cls, **options: Any) -> "Conversion":
        """Build from the command line's flat options (see ``converters.datasets.options``)."""
        options["connectivity"] = int(options["connectivity"])
        for name, protocol in (("fold", "kfold"), ("shots", "few-shot")):
            if options["protocol"] != protocol and options[name] != getattr(SplitRule, name):
                raise DatasetError(
                    f"--{name} means nothing to --protocol {options['protocol']}: add --protocol {protocol}"
                )
        if options["group"] is not None and options["group_file"] is not None:
            raise DatasetError("--group and --group-file exclude each other: leave one of them out")
        size, overlap = options.pop("tile"), options.pop("overlap")
        if size is None and overlap != TileRule.overlap:
            raise DatasetError("--overlap means nothing without --tile: add --tile 640")
        if size is not None and options["images"] != "link":
            raise DatasetError(f"--images {options['images']} means nothing to --tile: tiles are cut, not linked")
        options["tile"] = None if size is None else TileRule(size, overlap)
        rules = {"split": SplitRule, "instances": InstanceRule}
        nested = {
            name: rule(**{field.name: options.pop(field.name) for field in dataclasses.fields(rule)})
            for name, rule in rules.items()
        }
        return cls(**options, **nested)

    @property
    def suffix(self) -> str:
        """The end of a dataset's name that tells its tiles and its split."""
        return (self.tile.suffix if self.tile else "") + self.split.suffix


@dataclass(frozen=True)
class Job:
    """Everything a worker needs to turn one sample, or its tiles, into files; calling it does so."""

    info: DatasetInfo
    rule: InstanceRule
    writers: tuple[Writer, ...]
    folder: Path | None  # None writes nothing
    images: str

    def __call__(self, plans: Sequence[Planned]) -> list[Outcome]:
        """One outcome per plan of a sample; one in all if its mask cannot be read."""
        first = plans[0]
        try:
            read = mask_of(first.sample) if first.sample.mask else None
        except DatasetError as error:
            return [self._outcome(first, problem=Problem(first.sample.key, str(error)))]
        return [self._convert(plan, read) for plan in plans]

    def _convert(self, plan: Planned, read: ReadMask | None) -> Outcome:
        instances, dropped = self._instances(plan, read)
        if dropped and not instances:
            return self._outcome(plan, problem=Problem(plan.key, TOO_SMALL), below_min_area=dropped)
        if plan.crop and not instances:
            plan = dataclasses.replace(plan, class_index=None)
        image = LabelledImage(
            plan.sample, plan.name, plan.part, plan.class_index, self.info.classes, instances, plan.crop
        )
        try:
            rendered = [writer.render(image) if plan.part in writer.parts else None for writer in self.writers]
        except DatasetError as error:
            return self._outcome(plan, problem=Problem(plan.key, str(error)))
        if self.folder is not None:
            self._write(self.folder, image, rendered)
        return self._outcome(
            plan,
            instances=len(instances),
            below_min_area=dropped,
            in_between=read.in_between if read else 0,
            ignored=read.ignored if read else 0,
            records=tuple(done.record if done else None for done in rendered),
            ious=tuple(done.ious if done else () for done in rendered),
        )

    def _outcome(self, plan: Planned, **became: Any) -> Outcome:
        class_name = GOOD if plan.class_index is None else self.info.classes[plan.class_index]
        return Outcome(plan.number, plan.sample, plan.name, plan.part, class_name, **became)

    def _instances(self, plan: Planned, read: ReadMask | None) -> tuple[list[Instance], int]:
        """The instances, and how many more are below --min-area."""
        if read is None:
            return [], 0
        every = dataclasses.replace(self.rule, min_area=1)
        if plan.crop is None:
            found = find_instances(read.mask, every, read.xywh)
        else:
            found = find_instances(cropped(read.mask, plan.crop), every)
        instances = [instance for instance in found if instance.area >= self.rule.min_area]
        return instances, len(found) - len(instances)

    def _write(self, folder: Path, image: LabelledImage, rendered: Sequence[Rendered | None]) -> None:
        """Write what each writer has made of the image; None is a format that does not hold its part."""
        targets = []
        for writer, done in zip(self.writers, rendered, strict=True):
            if done is not None:
                for path, content in done.files.items():
                    (folder / writer.folder / path).write_bytes(content)
                targets.append(folder / writer.folder / writer.image_path(image))
        if not targets:
            return  # an image for thresholds alone, where only formats for training are written
        if image.crop is None and not image.sample.remade:
            staging.place_image(image.sample.image, targets, self.images)
            return
        targets[0].write_bytes(tiles.as_png(image.sample.image, image.crop))
        if targets[1:]:
            staging.place_image(targets[0], targets[1:], "link")


def convert_dataset(
    name: str, categories: list[Category], conversion: Conversion, writer_types: Sequence[type[Writer]]
) -> Summary:
    """Convert one dataset.

    Raises DatasetError at the first bad file, unless ``on_error`` is ``skip``. Nothing is published then.
    """
    categories = [with_groups(category, conversion.group, conversion.group_file) for category in categories]
    samples, problems = all_samples(categories)
    if problems and conversion.on_error == "stop":
        root = categories[0].folder if len(categories) == 1 else categories[0].folder.parent
        more = f" (and {len(problems) - 1} more; --on-error skip continues without them)" if problems[1:] else ""
        raise DatasetError(f"{root}/{problems[0]}{more}")
    split = splits.make_split(samples, conversion.split)
    class_names = [class_of(sample, conversion.classes) for sample in samples if sample.key in split.parts]
    classes = tuple(sorted(set(class_names) - {GOOD}))
    if conversion.classes == "category-defect":
        _check_class_names(samples)
    if len(classes) > MOST_CLASSES:
        raise DatasetError(f"{name}: {len(classes)} classes, and masks hold {MOST_CLASSES}: try --classes single")
    synthetic = any(category.synthetic for category in categories)
    info = DatasetInfo(name, classes, split.sha256, synthetic, conversion.simplify, split.all_parts)
    if conversion.resume and _is_finished(conversion.out / name, split, categories, conversion, writer_types):
        return Summary.from_card(read_card(conversion.out / name))
    plans = plan_images(samples, split.parts, classes, conversion.classes)
    if conversion.tile and plans and all(max(p.sample.width, p.sample.height) <= conversion.tile.size for p in plans):
        click.echo(f"{name}: nothing is cut, as no image is larger than --tile {conversion.tile.size}", err=True)
    asides = [aside for category in categories for aside in category.asides]
    if len(categories) > 1:
        asides = [dataclasses.replace(a, file=f"{c.name}/{a.file}") for c in categories for a in c.asides]
    summary = Summary(name, classes, left_out=problems, asides=asides, unused=Counter(split.unused.values()))
    summary.grouped = {"images": len(split.groups), "groups": len(set(split.groups.values()))} if split.groups else {}
    summary.train_good_divided = splits.train_good_divided(samples)
    if conversion.dry_run:
        target = conversion.out / name
        _formats_to_keep(target, split, _settings(conversion, categories, target), conversion, writer_types)
        writers = tuple(writer_type(info) for writer_type in writer_types)
        for outcome in _outcomes(Job(info, conversion.instances, writers, None, conversion.images), plans, conversion):
            summary.add(outcome, writers)
        return summary
    _publish(info, split, plans, summary, categories, conversion, writer_types)
    return summary


def _publish(
    info: DatasetInfo,
    split: Split,
    plans: list[Planned],
    summary: Summary,
    categories: list[Category],
    conversion: Conversion,
    writer_types: Sequence[type[Writer]],
) -> None:
    target = conversion.out / info.name
    for category in categories:
        if category.folder.resolve() in (target.resolve(), *target.resolve().parents):
            raise DatasetError(f"{target} would lie in the source {category.folder}: choose another --out")
    settings = _settings(conversion, categories, target)
    options = _options(conversion, target)
    order = _order(info, settings, options, conversion, writer_types)
    resumes = partial(can_resume, order=order) if conversion.resume else lambda left: False
    with staging.publish(target, True, resumes) as folder, closing(Journal(folder, order)) as journal:
        staging.check_space(conversion.out, _space_needed(plans[journal.finished :], conversion, target))
        conversion = dataclasses.replace(conversion, overwrite=journal.order["overwrite"])
        kept = _formats_to_keep(target, split, settings, conversion, writer_types)
        written = {writer.folder for writer in writer_types}
        for path in folder.iterdir():
            if path.is_dir() and path.name not in written:  # a killed run linked it
                shutil.rmtree(path)
        for path in kept:
            staging.link_tree(path, folder / path.name)
        write_formats(folder, info, plans, summary, conversion, writer_types, journal)
        earlier = read_card(target) if kept else {"formats": {}}
        names = {path.name for path in kept}
        formats = {name: writer for name, writer in earlier["formats"].items() if name in names}
        formats |= {writer.folder: writer.__name__ for writer in writer_types}
        summary.simplified |= {name: said for name, said in simplifications(earlier).items() if name in names}
        card = make_card(info, settings, dict(sorted(formats.items())), summary, categories, options)
        if kept and earlier["left_out"] != card["left_out"]:
            raise DatasetError(f"{target}: {kept[0].name} leaves out other images; write the formats in one run")
        (folder / "card.json").write_text(to_json(card), "utf-8")
        (folder / "card.md").write_text(card_as_markdown(info, summary, card), "utf-8")
        (folder / "split.json").write_text(split.to_json(), "utf-8")
        if conversion.tile:
            record = tiles.as_record(plans, conversion.tile, info.name, split.sha256)
            (folder / tiles.RECORD).write_text(to_json(record), "utf-8")
        journal.path.unlink()


def write_formats(
    folder: Path,
    info: DatasetInfo,
    plans: list[Planned],
    summary: Summary,
    conversion: Conversion,
    writer_types: Sequence[type[Writer]],
    journal: Journal | None = None,
) -> None:
    """Write the formats' folders into an existing folder, and add what became of each image to the summary.

    With a journal, samples that it says are finished are not converted again.
    """
    writers = tuple(writer_type(info) for writer_type in writer_types)
    job = Job(info, conversion.instances, writers, folder, conversion.images)
    running = tuple(writer_type(info) for writer_type in writer_types)
    for writer in running:
        writer.start(folder / writer.folder)
    with closing(_outcomes(job, plans, conversion, journal)) as outcomes:
        for outcome in outcomes:
            summary.add(outcome, running)
            for writer, record in zip(running, outcome.records, strict=False):
                if outcome.part in writer.parts:
                    writer.add(outcome, record)
    for writer in running:
        writer.finish()


def all_samples(categories: list[Category]) -> tuple[list[Sample], list[Problem]]:
    """All samples, sorted by key, and all problems, images that contradict each other among them.

    With several categories the category's name goes in front of keys, groups and files.
    """
    samples, problems = list(categories[0].samples), list(categories[0].problems)
    if len(categories) > 1:
        samples = [
            dataclasses.replace(s, key=f"{c.name}/{s.key}", group=s.group and f"{c.name}/{s.group}")
            for c in categories
            for s in c.samples
        ]
        problems = [Problem(f"{c.name}/{problem.file}", problem.reason) for c in categories for problem in c.problems]
    found = splits.contradictions(samples)
    refused = {problem.file for problem in found}
    kept = [sample for sample in samples if sample.key not in refused]
    return sorted(kept, key=lambda sample: sample.key), problems + found


def _check_class_names(samples: list[Sample]) -> None:
    """Raise DatasetError if two categories and types make one name: ``a-b`` + ``c`` and ``a`` + ``b-c``."""
    meant: dict[str, tuple[str, str]] = {}
    for sample in samples:
        pair = sample.category, sample.defect
        name = class_of(sample, "category-defect")
        if name != GOOD and meant.setdefault(name, pair) != pair:
            raise DatasetError(f"{sample.category}: the class {name} would stand for two defect types: rename a folder")


def class_of(sample: Sample, mode: str) -> str:
    """The class of a sample's defects, or ``good``; ``mode`` is the option ``--classes``."""
    if sample.defect == GOOD:
        return GOOD
    return {"single": "defect", "category-defect": f"{sample.category}-{sample.defect}"}.get(mode, sample.defect)


def plan_images(samples: list[Sample], parts: dict[str, str], classes: tuple[str, ...], mode: str) -> list[Planned]:
    """Name every image that is in the split; raises DatasetError for names that clash or are too long."""
    plans: dict[str, Planned] = {}
    for sample in samples:
        if sample.key not in parts:
            continue
        name = sample.key.replace("/", "__")
        check_length(name, sample)
        stem = Path(name).stem
        if stem in plans:
            raise DatasetError(f"{sample.image} and {plans[stem].sample.image} would both be {stem}: rename one")
        class_name = class_of(sample, mode)
        index = None if class_name == GOOD else classes.index(class_name)
        plans[stem] = Planned(len(plans) + 1, sample, name, parts[sample.key], index)
    return list(plans.values())


def _outcomes(
    job: Job, plans: list[Planned], conversion: Conversion, journal: Journal | None = None
) -> Generator[Outcome, None, None]:
    """One outcome per image or tile, in order. Closing it ends the workers: only then may their folder be removed."""
    finished = journal.finished if journal else 0
    masks = sum(plan.sample.mask is not None for plan in plans)
    cores = os.cpu_count() or 1
    made = tiles.cut(plans, conversion.tile) if conversion.tile else plans
    by_sample = [tuple(group) for _, group in groupby(made, key=lambda plan: plan.sample.key)]
    workers = conversion.workers or min(cores, 1 + (len(made) if conversion.tile else masks) // MASKS_PER_WORKER)
    left = by_sample[finished:]
    results = (job(group) for group in left) if workers == 1 else in_processes(job, left, workers)
    replayed = journal.replayed(by_sample) if journal else ()
    if finished:
        _remove_images(job, chain.from_iterable(left))
    with closing(results), progress(chain(replayed, results), len(by_sample), f"converting {job.info.name}") as bar:
        for index, outcomes in enumerate(bar):
            for outcome in outcomes:
                if outcome.problem and not outcome.too_small and conversion.on_error == "stop":
                    raise DatasetError(outcome.problem.reason)
            if journal and index >= finished:
                journal.note(outcomes)
            yield from outcomes


def _remove_images(job: Job, plans: Iterable[Planned]) -> None:
    """Images that a killed run had placed, but not noted: they are placed again, and links replace nothing."""
    assert job.folder is not None
    for plan in plans:
        for writer in job.writers:
            if plan.part in writer.parts:
                (job.folder / writer.folder / writer.image_path(plan)).unlink(missing_ok=True)


def _settings(conversion: Conversion, categories: list[Category], target: Path) -> dict[str, Any]:
    """The settings that decide a dataset's content besides its split; formats of one dataset must agree in it."""
    layouts = {category.layout for category in categories}
    return {
        "classes": conversion.classes,
        **dataclasses.asdict(conversion.instances),
        **({"tile": dataclasses.asdict(conversion.tile)} if conversion.tile else {}),
        "layout": layouts.pop() if len(layouts) == 1 else "auto",
        "source": {c.name: _relative(c.folder, target) for c in categories},
    }


def _order(
    info: DatasetInfo,
    settings: dict[str, Any],
    options: dict[str, Any],
    conversion: Conversion,
    writer_types: Sequence[type[Writer]],
) -> Order:
    """What the run that resumes this one must ask for as well."""
    return {
        "schema": 1,
        "split": info.split_sha256,
        "settings": settings,
        "options": options,
        "formats": {writer.folder: writer.__name__ for writer in writer_types},
        "simplify": info.simplify,
        "program": program(),
        "overwrite": conversion.overwrite,
    }


def _options(conversion: Conversion, target: Path) -> dict[str, Any]:
    """What a further format is written with besides the settings (see ``records.Options``)."""
    options = {name: getattr(conversion, name) for name in ("images", "on_error", "max_pixels")}
    if conversion.group is not None:
        options["group"] = conversion.group
    if conversion.group_file is not None:
        options["group_file"] = _relative(conversion.group_file, target)
    return options


def _relative(path: Path, target: Path) -> str:
    return Path(os.path.relpath(path.resolve(), target.resolve())).as_posix()


def _is_finished(
    target: Path, split: Split, categories: list[Category], conversion: Conversion, writers: Sequence[type[Writer]]
) -> bool:
    """Has an earlier run published these formats with the same split, sources and settings?"""
    if not all((target / writer.folder).is_dir() for writer in writers):
        return False
    card = read_card(target)
    made = all(card["formats"].get(writer.folder) == writer.__name__ for writer in writers)
    tolerances = {name: said.tolerance for name, said in simplifications(card).items()}
    made &= all(tolerances.get(w.folder, 0) == (conversion.simplify if w.simplifies else 0) for w in writers)
    same_settings = card["settings"] == _settings(conversion, categories, target)
    return made and same_settings and read_split(target)["sha256"] == split.sha256


def _formats_to_keep(
    target: Path, split: Split, settings: dict[str, Any], conversion: Conversion, writers: Sequence[type[Writer]]
) -> list[Path]:
    """Folders of the earlier dataset that belong to the same split and settings and stay as they are.

    Raises DatasetError if something would be replaced and ``--overwrite`` was not given.
    """
    if not target.exists():
        return []
    earlier = read_card(target)
    same = read_split(target)["sha256"] == split.sha256 and earlier["settings"] == settings
    written = {writer.folder for writer in writers}
    present = sorted(path for path in target.iterdir() if path.is_dir())
    if not conversion.overwrite:
        if not same:
            raise DatasetError(
                f"{target} was made with another split, other sources or other options: "
                "add --overwrite to replace all of it, or choose another --out"
            )
        clash = [path.name for path in present if path.name in written]
        if clash:
            keep = "" if conversion.resume else ", or --resume to keep what is written already"
            raise DatasetError(f"{target / clash[0]} exists: add --overwrite to replace it{keep}")
    kept = [path for path in present if same and path.name not in written]
    dropped = [path.name for path in present if path not in kept and path.name not in written]
    if dropped:
        click.echo(f"{target}: removing {', '.join(dropped)}, which belong to another split or options", err=True)
    return kept


def _space_needed(plans: list[Planned], conversion: Conversion, target: Path) -> int:
    """Bytes that the images will take: none as links on the same file system, else one copy of each.

    Of tiles, which are written as new files, as many as they have values: no PNG is much larger than that.
    """
    if conversion.tile:
        return sum(
            width * height * plan.sample.channels
            for plan in plans
            for _, _, width, height in tiles.grid(plan.sample.width, plan.sample.height, conversion.tile)
        )
    remade = sum(p.sample.width * p.sample.height * p.sample.channels for p in plans if p.sample.remade)
    if conversion.images == "symlink" or not plans:
        return remade
    out = next(path for path in (target.absolute(), *target.absolute().parents) if path.exists())
    same_device = out.stat().st_dev == plans[0].sample.image.stat().st_dev
    linked = conversion.images == "link" and same_device
    return remade + (0 if linked else sum(plan.sample.size for plan in plans if not plan.sample.remade))
