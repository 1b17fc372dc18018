"""Training again as a run was trained: --config run.json.

The options of the command that a run.json records become this command's defaults, so that what is given beside
--config overrules them.
"""

import inspect
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from converters.cli.command import ARGUMENTS, given_options
from converters.cli.errors import DatasetError
from converters.cli.options import FOLDER

# Not replayed: it belongs to the moment, or writes a file where the run has written one.
MOMENTARY = ("--config", "--overwrite", "--resume", "--json")
DATASET = ("--category", "--data")  # two ways of naming it
TOLD_BY_DATA = ("--category", "--out", "--task", "--folds")  # what --data takes the place of
SETTINGS = "settings.json"  # what a run was begun with, for --resume
REPLAY = "finetune.runs.replay"  # key of click's ctx.meta


def script_of(command: click.Command) -> str:
    """The file that a command is in, as users name it: finetune/yolo.py."""
    assert command.callback
    return "/".join(Path(inspect.getfile(inspect.unwrap(command.callback))).parts[-2:])


def command_line() -> list[str]:
    """The script and the arguments of the command at work; of a replay, those that say the same without --config."""
    ctx = click.get_current_context(silent=True)
    return [script_of(ctx.command), *ctx.meta[ARGUMENTS]] if ctx and ARGUMENTS in ctx.meta else sys.argv


@dataclass(frozen=True)
class Replay:
    """A run that --config replays, and the options beside it, which overrule it."""

    file: Path
    record: Mapping[str, Any]
    given: frozenset[str]  # flags


def current_replay() -> Replay | None:
    ctx = click.get_current_context(silent=True)
    return ctx.meta.get(REPLAY) if ctx else None


def _replay(ctx: click.Context, parameter: click.Parameter, file: Path | None) -> None:
    """Let the options that a run was trained with be the defaults of this command."""
    if file is None:
        return
    record, script = _read_run(file), script_of(ctx.command)
    made_by, *recorded = record["command"]
    if Path(made_by).name != Path(script).name:
        raise DatasetError(f"--config {file}: is a run of {made_by}; replay it with that, not with {script}")
    try:
        replayed = _said(ctx, recorded)
    except click.UsageError as error:
        unknown, commit = error.format_message().rstrip("."), record.get("commit")
        raise DatasetError(
            f"--config {file}: this version does not know its options ({unknown}): give those of today, or replay it "
            f"at commit {commit}"
        ) from None
    own = _said(ctx, ctx.meta[ARGUMENTS])
    if "--category" in own and "--data" in replayed:  # which told where the dataset is and what it is for
        raise DatasetError(f"--config {file}: names its dataset by --data, so name another by --data too")
    replayed = {flag: value for flag, value in replayed.items() if "--data" not in own or flag not in TOLD_BY_DATA}
    options = {option.opts[0]: option for option in ctx.command.params}
    ctx.default_map = {options[flag].name: value for flag, value in replayed.items()}
    ctx.meta[REPLAY] = Replay(file, record, frozenset(own))
    ctx.meta[ARGUMENTS] = [word for flag, value in (replayed | own).items() for word in _written(options[flag], value)]


def as_begun(options: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """``options`` of the command at work, those not given as the interrupted run in ``folder`` was begun with.

    Those that are given otherwise stay, for the run to refuse. Without such a run, all stay.
    """
    from converters.cli.door import read_json  # with pydantic, which --help does without

    ctx, settings = click.get_current_context(), folder / SETTINGS
    if not settings.is_file():
        return dict(options)
    begun = _said(ctx, read_json(settings, dict[str, Any])["command"][1:])
    known = {option.opts[0]: option for option in ctx.command.params}
    given = given_options(ctx)
    missing = {known[flag].name: known[flag].type_cast_value(ctx, value) for flag, value in begun.items()}
    return {name: value if name in given else missing.get(name, value) for name, value in options.items()}


def _read_run(file: Path) -> Mapping[str, Any]:
    from converters.cli.door import read_json  # with pydantic, which --help does without
    from finetune.runs.records import RunRecord

    step = "name the run.json of a run"
    try:
        record = read_json(file, RunRecord, step)
    except DatasetError as error:
        raise DatasetError(f"--config {error.message}") from None
    if missing := {"command", "settings", "versions"} - record.keys():
        raise DatasetError(f"--config {file}: {min(missing)}: is missing: {step}")
    return record


def _said(ctx: click.Context, arguments: Sequence[str]) -> dict[str, Any]:
    """Flag -> value of what ``arguments`` say of the recipe, as written; raises UsageError for what is not known."""
    values, rest, _ = ctx.command.make_parser(ctx).parse_args(list(arguments))
    if rest:
        raise click.UsageError(f"unexpected {rest[0]}")
    flags = {option.name: option.opts[0] for option in ctx.command.params}
    return {flags[name]: value for name, value in values.items() if name in flags and flags[name] not in MOMENTARY}


def _written(option: click.Parameter, value: Any) -> list[str]:
    """An option as it stands on a command line."""
    if isinstance(value, bool):
        return [option.opts[0] if value else option.secondary_opts[0]]
    return [option.opts[0], value]


config_option = click.option(
    "--config",
    type=FOLDER,
    metavar="RUN.JSON",
    is_eager=True,
    expose_value=False,
    callback=_replay,
    help="Train as the run of this run.json was; options beside it overrule its own.",
)
