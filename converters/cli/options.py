"""The command line's common ground: shared options, one error style, tables and progress bars."""

import json
import math
import multiprocessing
import sys
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from click.exceptions import NoArgsIsHelpError

from converters.cli.errors import DatasetError

# Modules of converters.sources.reading, in the order in which a folder is tried; four could be taken for MVTec AD's.
LAYOUTS = ("loco", "mvtec_ad_2", "btad", "kolektor", "mvtec", "visa", "magnetic_tile", "folder")
TRAINING = (
    "torch",
    "torchvision",
    "ultralytics",
    "cloudpickle",
    "torchcam",
    "segment_anything",
    "imblearn",
    "matplotlib",
    "sklearn",
    "scipy",
    "jinja2",
)
# Of training commands: what --eval-only honours, what leaves others unused, and what does nothing without another.
MEASURING = ("--eval-only", "--category", "--data", "--out", "--runs", "--device", "--json")
OVERRULED = {"--resume": ("--overwrite",)}
NEEDS = {"--pretrain-epochs": "--pretrain"}
ARGUMENTS = "converters.arguments"  # key of click's ctx.meta: the words of the command line
MISSING_LIBRARY = "{error}: OpenCV needs it; on Debian or Ubuntu run `apt-get install libgl1 libglib2.0-0`"


class OneLineErrors(click.Command):
    """Usage errors in one line, as all others, instead of click's three."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> click.Context:
        try:
            return super().make_context(info_name, args, parent, **extra)
        except NoArgsIsHelpError:
            raise
        except click.UsageError as error:
            command_path = error.ctx.command_path if error.ctx else info_name
            message = " ".join(error.format_message().split())
            raise DatasetError(f"{message.rstrip('.')}. See `{command_path} --help`.") from None


def given_options(ctx: click.Context, replayed: bool = True) -> set[str]:
    """Names of the parameters that stand on the command line or, where ``replayed``, in the run of --config."""
    sources = [ParameterSource.COMMANDLINE, *([ParameterSource.DEFAULT_MAP] if replayed else [])]
    return {option.name for option in ctx.command.params if ctx.get_parameter_source(option.name) in sources}


@dataclass(frozen=True)
class Acting:
    """Beside which others the options of a training command act; all are named by their flags."""

    beside_eval_only: Collection[str] = ()  # what is honoured there besides MEASURING
    needs: Mapping[str, str] = field(default_factory=dict)  # option -> `--other` or `--other value`
    overruled: Mapping[str, Collection[str]] = field(default_factory=dict)  # option -> those that it leaves unused

    def check(self, ctx: click.Context) -> None:
        """Raise DatasetError for an option on the command line that would do nothing there."""
        flags = {option.name: option.opts[0] for option in ctx.command.params}
        values = {flags[key]: value for key, value in ctx.params.items()}
        said = {flags[key] for key in given_options(ctx)}
        given = sorted(flags[key] for key in given_options(ctx, replayed=False))
        for flag in given if values.get("--eval-only") else ():
            if flag not in {*MEASURING, *self.beside_eval_only}:
                raise DatasetError(
                    f"{flag}: is not used with --eval-only RUN, which goes by the settings of that finished run; "
                    f"leave {flag} out"
                )
        for stronger, others in {**OVERRULED, **self.overruled}.items():
            for flag in given if stronger in said else ():
                if flag in others:
                    raise DatasetError(f"{flag}: is not used with {stronger}; leave one of them out")
        for flag, wanted in {**NEEDS, **self.needs}.items():
            other, _, value = wanted.partition(" ")
            if flag in given and (values[other] != value if value else values[other] is None):
                raise DatasetError(f"{flag}: is used with {wanted} only; add that, or leave {flag} out")


class Command(OneLineErrors):
    """A click command that turns what users can cause into one line and a documented exit code."""

    def __init__(self, *given: Any, acting: Acting | None = None, **settings: Any) -> None:
        super().__init__(*given, **settings)
        self.acting = acting

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[ARGUMENTS] = list(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        if self.acting:
            self.acting.check(ctx)
        warnings.filterwarnings("ignore", module=r"PIL\.")  # about files that we refuse in one line
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            click.echo(f"Interrupted: {str(interrupt) or 'nothing unfinished was published.'}", err=True)
            ctx.exit(130)
        except BrokenPipeError:
            ctx.exit(141)  # the reader of our output (head, less) has gone; as a shell reports it
        except ImportError as error:
            if ".so" in str(error):
                raise DatasetError(MISSING_LIBRARY.format(error=error)) from error
            if error.name and error.name.partition(".")[0] in TRAINING:
                raise DatasetError(f"{error.name} is not installed: pip install -e '.[train]'") from error
            raise
        except OSError as error:
            raise DatasetError(f"{error.filename or 'file system'}: {error.strerror or error}") from error


def command(**settings: Any) -> Any:
    """``click.command`` with the project's errors and exit codes; ``--help`` shows every default."""
    context: dict[str, Any] = {"show_default": True, "help_option_names": ["-h", "--help"]}
    return click.command(cls=Command, context_settings=context, **settings)


def progress(items: Iterable[Any] | None, length: int, label: str, **settings: Any) -> Any:
    """click's progress bar on stderr, with an estimate; nothing where stderr is no terminal, or in a worker."""
    hidden = not sys.stderr.isatty() or multiprocessing.parent_process() is not None
    return click.progressbar(items, length=length, label=label, file=sys.stderr, hidden=hidden, **settings)


def table(rows: Sequence[Sequence[Any]], header: Sequence[str], style: str = "simple") -> str:
    """Rows as text; ``style`` is any of tabulate's (``simple`` for terminals, ``github`` for Markdown)."""
    from tabulate import tabulate

    return tabulate(rows, header, tablefmt=style, disable_numparse=True, colalign=_alignment(rows, header))


def _alignment(rows: Sequence[Sequence[Any]], header: Sequence[str]) -> list[str] | None:
    if not rows:
        return None
    columns = list(zip(*rows, strict=True))
    return ["right" if all(_numeric(cell) for cell in column) else "left" for column in columns[: len(header)]]


def _numeric(cell: Any) -> bool:
    return isinstance(cell, int | float) or str(cell)[:1].isdigit() or cell in ("", "-")


def to_json(value: Any) -> str:
    """JSON as every file of ours is written: readable, stable, UTF-8."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _bundle(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def add(function: Any) -> Any:
        for option in reversed(options):
            function = option(function)
        return function

    return add


def _ratios(ctx: click.Context, parameter: click.Parameter, value: str) -> tuple[int, int, int]:
    try:
        train, val, test = (int(part) for part in value.split("/"))
    except ValueError:
        raise click.BadParameter(f"{value!r} is not three whole numbers such as 60/20/20") from None
    if min(train, val, test) < 1 or train + val + test != 100:
        raise click.BadParameter(f"{value!r}: three positive numbers that add up to 100 are needed")
    return train, val, test


class Number(click.FloatRange):
    """A finite number; click lets NaN through every range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{number} is no number")
        return number


class FoldCount(click.IntRange):
    """How many folds; click's own message does not say why."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        folds: int = click.INT.convert(value, param, ctx)
        if folds < 3:
            self.fail(f"{folds} folds leave none to train on, as test is one and val the next: 3 or more are needed")
        return folds


FOLDER = click.Path(path_type=Path)
FOLDS = FoldCount(3)
CHOICE = click.Choice

json_option = click.option("--json", "as_json", is_flag=True, help="Print the result table as JSON.")
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace what an earlier run wrote.")
out_option = click.option("--out", type=FOLDER, default="datasets_out", help="Where datasets are written.")
seed_option = click.option(
    "--seed", type=click.IntRange(0, 2**32 - 1), default=0, help="Seed of every random choice."
)  # what the generators of all libraries take
any_seed_option = click.option("--seed", type=int, default=0, help="Seed of every random choice.")  # for hashes
max_pixels_option = click.option(
    "--max-pixels", type=click.IntRange(1), default=256_000_000, help="Refuse images larger than this."
)
simplify_option = click.option(
    "--simplify",
    type=Number(0, 100),
    default=0.0,
    help="Drop polygon vertices that lie this near to the line between others, px; 0 is exact.",
)
synthetic_share_option = click.option(
    "--synthetic-share",
    type=Number(0, 1, max_open=True),
    default=None,
    show_default="all that there are",
    help="Share of synthetic images (converters.augment) in the train part; all real ones stay.",
)
images_option = click.option(
    "--images",
    type=CHOICE(["link", "copy", "symlink"]),
    default="link",
    help="How images come into the dataset; link means hard link.",
)
source_options = _bundle(
    click.option(
        "--root",
        type=FOLDER,
        default=None,
        show_default="$MVTEC_ROOT, else data/mvtec_anomaly_detection",
        help="Folder that holds the categories, or one category's folder.",
    ),
    click.option("--category", default=None, help="Category to read, or `all`; not needed where --root is one."),
    click.option(
        "--layout", type=CHOICE(["auto", *LAYOUTS]), default="auto", help="How the source is laid out; auto guesses."
    ),
    max_pixels_option,
)
split_options = _bundle(
    click.option(
        "--protocol",
        type=CHOICE(["stratified", "kfold", "few-shot"]),
        default="stratified",
        help="How images are divided into train, val and test.",
    ),
    click.option(
        "--ratios",
        default="60/20/20",
        callback=_ratios,
        help="Percent train/val/test (stratified, few-shot).",
    ),
    click.option("--folds", type=FOLDS, default=5, help="Number of folds (kfold)."),
    click.option("--fold", type=click.IntRange(0), default=0, help="Fold that is the test part (kfold)."),
    click.option("--shots", type=click.IntRange(1), default=10, help="Defect images to train on (few-shot)."),
    click.option("--per", type=CHOICE(["category", "type"]), default="category", help="What --shots counts."),
    any_seed_option,
)
class_options = _bundle(
    click.option(
        "--classes",
        type=CHOICE(["defect", "single", "category-defect"]),
        default="defect",
        help="One class per defect type, one for all, or one per category and type.",
    ),
    click.option(
        "--combined",
        type=CHOICE(["keep", "drop", "train-only"]),
        default="keep",
        help="What to do with MVTec's `combined` type (several defects in one image).",
    ),
)
instance_options = _bundle(
    click.option(
        "--instances",
        type=CHOICE(["component", "image"]),
        default="component",
        help="One instance per connected component, or one per image.",
    ),
    click.option("--merge-gap", type=click.IntRange(0), default=0, help="Join components closer than this, px."),
    click.option("--connectivity", type=CHOICE(["8", "4"]), default="8", help="Do pixels connect at corners?"),
    click.option("--min-area", type=click.IntRange(1), default=1, help="Leave out smaller instances, px."),
)
tile_options = _bundle(
    click.option(
        "--tile",
        type=click.IntRange(32),
        default=None,
        show_default="whole images",
        help="Cut images into squares of this side, px, after the split; the dataset is called NAME@tile-SIDE.",
    ),
    click.option(
        "--overlap",
        type=Number(0, 0.9),
        default=0.2,
        help="Least share of a tile that it has in common with the next (--tile).",
    ),
)
output_options = _bundle(
    out_option,
    images_option,
    click.option(
        "--workers",
        type=click.IntRange(1),
        default=None,
        show_default="one per core",
        help="Processes; the result does not depend on it.",
    ),
    click.option(
        "--on-error",
        type=CHOICE(["stop", "skip"]),
        default="stop",
        help="Stop at a bad file, or continue, list it, and exit with 1.",
    ),
    overwrite_option,
    click.option("--resume", is_flag=True, help="Keep datasets that are written already, if nothing has changed."),
    click.option("--log-json", type=FOLDER, help="Append a line of JSON per dataset to this file."),
    click.option("--dry-run", is_flag=True, help="Print the table, write nothing."),
    json_option,
)
import_options = _bundle(
    click.option("--to", type=FOLDER, required=True, help="Folder to write: images/, masks/ and classes.csv."),
    click.option(
        "--mixed",
        type=CHOICE(["stop", "combined"]),
        default="stop",
        help="Images of several classes: an error, or the class `combined`.",
    ),
    click.option(
        "--touching",
        type=CHOICE(["stop", "merge"]),
        default="stop",
        help="Instances that touch or overlap: an error, or one instance.",
    ),
    click.option(
        "--on-error",
        type=CHOICE(["stop", "skip"]),
        default="stop",
        help="Stop at a bad image, or continue, list it, and exit with 1.",
    ),
    max_pixels_option,
    overwrite_option,
)
conversion_options = _bundle(
    source_options, split_options, class_options, instance_options, tile_options, output_options
)
