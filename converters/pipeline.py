"""The one loop: every mask is read once, and its instances go to every format that was asked for."""

import dataclasses
import os
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from converters import splits, staging
from converters.card import Summary, card_as_markdown, make_card, read_card
from converters.errors import DatasetError
from converters.instances import Instance, InstanceRule, find_instances, mask_of
from converters.options import progress, to_json
from converters.samples import GOOD, Category, Problem, Sample
from converters.splits import Split, SplitRule
from converters.workers import in_processes
from converters.writer import DatasetInfo, LabelledImage, Outcome, Planned, Writer

MOST_CLASSES = 254  # 0 is background and 255 VOC's void
LONGEST_NAME = 255  # bytes, what common file systems take
MASKS_PER_WORKER = 200  # starting a process costs about as much as converting this many masks


@dataclass(frozen=True)
class Conversion:
    """What one run was asked for."""

    root: Path | None = None
    category: str | None = None
    layout: str = "auto"
    out: Path = Path("datasets_out")
    split: SplitRule = SplitRule()
    classes: str = "defect"
    instances: InstanceRule = InstanceRule()
    images: str = "link"
    workers: int | None = None
    on_error: str = "stop"
    max_pixels: int = 256_000_000
    overwrite: bool = False
    resume: bool = False
    dry_run: bool = False

    @classmethod
    def from_options(cls, **options: Any) -> "Conversion":
        """Build from the command line's flat options (see ``converters.options``)."""
        options["connectivity"] = int(options["connectivity"])
        rules = {"split": SplitRule, "instances": InstanceRule}
        nested = {
            name: rule(**{field.name: options.pop(field.name) for field in dataclasses.fields(rule)})
            for name, rule in rules.items()
        }
        return cls(**options, **nested)


@dataclass(frozen=True)
class Job:
    """Everything a worker needs to turn one sample into its files; calling it does so."""

    info: DatasetInfo
    rule: InstanceRule
    writers: tuple[Writer, ...]
    folder: Path | None  # None writes nothing
    images: str

    def __call__(self, plan: Planned) -> Outcome:
        sample, name, part, class_index = plan.sample, plan.name, plan.part, plan.class_index
        outcome = Outcome(sample, name, part, GOOD if class_index is None else self.info.classes[class_index])
        try:
            instances, dropped, in_between = self._instances(sample)
            image = LabelledImage(sample, name, part, class_index, self.info.classes, instances)
            rendered = [writer.render(image) for writer in self.writers]
        except DatasetError as error:
            return dataclasses.replace(outcome, problem=Problem(sample.key, str(error)))
        if self.folder is not None:
            self._write(self.folder, image, [files for files, _ in rendered])
        return dataclasses.replace(
            outcome,
            instances=len(instances),
            below_min_area=dropped,
            in_between=in_between,
            records=tuple(record for _, record in rendered),
        )

    def _instances(self, sample: Sample) -> tuple[list[Instance], int, int]:
        if sample.mask is None:
            return [], 0, 0
        read = mask_of(sample)
        found = find_instances(read.mask, dataclasses.replace(self.rule, min_area=1), read.xywh)
        instances = [instance for instance in found if instance.area >= self.rule.min_area]
        return instances, len(found) - len(instances), read.in_between

    def _write(self, folder: Path, image: LabelledImage, rendered: Sequence[dict[str, bytes]]) -> None:
        for writer, files in zip(self.writers, rendered, strict=True):
            for path, content in files.items():
                (folder / writer.folder / path).write_bytes(content)
        targets = [folder / writer.folder / writer.image_path(image) for writer in self.writers]
        staging.place_image(image.sample.image, targets, self.images)


def convert_dataset(
    name: str, categories: list[Category], conversion: Conversion, writer_types: Sequence[type[Writer]]
) -> Summary:
    """Convert one dataset.

    Raises DatasetError at the first bad file, unless ``on_error`` is ``skip``. Nothing is published then.
    """
    problems = [problem for category in categories for problem in category.problems]
    if problems and conversion.on_error == "stop":
        folder = next(category.folder for category in categories if category.problems)
        more = f" (and {len(problems) - 1} more; --on-error skip goes on without them)" if problems[1:] else ""
        raise DatasetError(f"{folder}/{problems[0]}{more}")
    samples = all_samples(categories)
    split = splits.make_split(samples, conversion.split)
    class_names = [_class_name(sample, conversion.classes) for sample in samples if sample.key in split.parts]
    classes = tuple(sorted(set(class_names) - {GOOD}))
    if len(classes) > MOST_CLASSES:
        raise DatasetError(f"{name}: {len(classes)} classes, and masks hold {MOST_CLASSES}: try --classes single")
    info = DatasetInfo(name, classes, split.sha256, any(category.synthetic for category in categories))
    if conversion.resume and _is_finished(conversion.out / name, split, categories, conversion, writer_types):
        return Summary.from_card(read_card(conversion.out / name))
    plans = plan_images(samples, split.parts, classes, conversion.classes)
    summary = Summary(name, classes, left_out=problems, unused=Counter(split.unused.values()))
    if conversion.dry_run:
        writers = tuple(writer_type(info) for writer_type in writer_types)
        for outcome in _outcomes(Job(info, conversion.instances, writers, None, conversion.images), plans, conversion):
            summary.add(outcome)
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
    settings = _settings(conversion, categories, target)
    staging.check_space(conversion.out, _space_needed(plans, conversion, target))
    with staging.publish(target, overwrite=True) as folder:
        kept = _formats_to_keep(target, split, settings, conversion, writer_types)
        for earlier in kept:
            staging.link_tree(earlier, folder / earlier.name)
        writers = tuple(writer_type(info) for writer_type in writer_types)
        job = Job(info, conversion.instances, writers, folder, conversion.images)
        running = tuple(writer_type(info) for writer_type in writer_types)
        for writer in running:
            writer.start(folder / writer.folder)
        with closing(_outcomes(job, plans, conversion)) as outcomes:
            for outcome in outcomes:
                summary.add(outcome)
                for writer, record in zip(running, outcome.records, strict=False):
                    writer.add(outcome, record)
        for writer in running:
            writer.finish()
        card = make_card(info, settings, summary, categories)
        if kept and read_card(target).get("left_out") != card["left_out"]:
            raise DatasetError(f"{target}: {kept[0].name} leaves out other images; write the formats in one run")
        (folder / "card.json").write_text(to_json(card), "utf-8")
        (folder / "card.md").write_text(card_as_markdown(info, summary, card), "utf-8")
        (folder / "split.json").write_text(split.to_json(), "utf-8")


def all_samples(categories: list[Category]) -> list[Sample]:
    """All samples, sorted by key; with several categories the category's name goes in front of the key."""
    if len(categories) == 1:
        return categories[0].samples
    samples = [
        dataclasses.replace(sample, key=f"{category.name}/{sample.key}")
        for category in categories
        for sample in category.samples
    ]
    return sorted(samples, key=lambda sample: sample.key)


def _class_name(sample: Sample, mode: str) -> str:
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
        if len(name.encode()) > LONGEST_NAME:
            raise DatasetError(f"{sample.image}: {name!r} would be longer than {LONGEST_NAME} bytes: shorten the name")
        stem = Path(name).stem
        if stem in plans:
            raise DatasetError(f"{sample.image} and {plans[stem].sample.image} would both be {stem}: rename one")
        class_name = _class_name(sample, mode)
        index = None if class_name == GOOD else classes.index(class_name)
        plans[stem] = Planned(sample, name, parts[sample.key], index)
    return list(plans.values())


def _outcomes(job: Job, plans: list[Planned], conversion: Conversion) -> Generator[Outcome, None, None]:
    """One outcome per image, in order. Closing it ends the workers: only then may their folder be removed."""
    masks = sum(plan.sample.mask is not None for plan in plans)
    cores = os.cpu_count() or 1
    workers = conversion.workers or min(cores, 1 + masks // MASKS_PER_WORKER)
    results = (job(plan) for plan in plans) if workers == 1 else in_processes(job, plans, workers)
    with closing(results), progress(results, len(plans), f"converting {job.info.name}") as bar:
        for outcome in bar:
            if outcome.problem and conversion.on_error == "stop":
                raise DatasetError(outcome.problem.reason)
            yield outcome


def _settings(conversion: Conversion, categories: list[Category], target: Path) -> dict[str, Any]:
    """What decides a dataset's content besides its split; formats of one dataset must agree in it."""
    return {
        "classes": conversion.classes,
        **dataclasses.asdict(conversion.instances),
        "layout": categories[0].layout,
        "source": {c.name: Path(os.path.relpath(c.folder, target)).as_posix() for c in categories},
    }


def _is_finished(
    target: Path, split: Split, categories: list[Category], conversion: Conversion, writers: Sequence[type[Writer]]
) -> bool:
    """Has an earlier run published these formats with the same split, sources and settings?"""
    if not all((target / writer.folder).is_dir() for writer in writers):
        return False
    same_settings = read_card(target).get("settings") == _settings(conversion, categories, target)
    return same_settings and splits.read_split(target)["sha256"] == split.sha256


def _formats_to_keep(
    target: Path, split: Split, settings: dict[str, Any], conversion: Conversion, writers: Sequence[type[Writer]]
) -> list[Path]:
    """Folders of the earlier dataset that belong to the same split and settings and are not written anew.

    Raises DatasetError if something would be replaced and ``--overwrite`` was not given.
    """
    if not target.exists():
        return []
    earlier = read_card(target)
    same = splits.read_split(target)["sha256"] == split.sha256 and earlier.get("settings") == settings
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
            raise DatasetError(f"{target / clash[0]} exists: add --overwrite to replace it")
    kept = [path for path in present if same and path.name not in written]
    dropped = [path.name for path in present if path not in kept and path.name not in written]
    if dropped:
        click.echo(f"{target}: removing {', '.join(dropped)}, which belong to another split or options", err=True)
    return kept


def _space_needed(plans: list[Planned], conversion: Conversion, target: Path) -> int:
    """Bytes that the images will take: none as links on the same file system, else one copy of each."""
    if conversion.images == "symlink" or not plans:
        return 0
    out = next(path for path in (target.absolute(), *target.absolute().parents) if path.exists())
    same_device = out.stat().st_dev == plans[0].sample.image.stat().st_dev
    return 0 if conversion.images == "link" and same_device else sum(plan.sample.size for plan in plans)
