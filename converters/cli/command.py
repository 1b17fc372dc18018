"""The click commands of this project: errors in one line, options that would do nothing refused."""

import warnings
from collections.abc import Mapping
from importlib import import_module
from typing import Any, ClassVar

import click
from click.core import ParameterSource
from click.exceptions import NoArgsIsHelpError

from converters.cli.errors import DatasetError

TRAINING = (
    "torch",
    "torchvision",
    "ultralytics",
    "cloudpickle",
    "torchcam",
    "segment_anything",
    "timm",
    "imblearn",
    "matplotlib",
    "sklearn",
    "scipy",
    "jinja2",
)
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


class Command(OneLineErrors):
    """A click command that turns what users can cause into one line and a documented exit code."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta[ARGUMENTS] = list(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
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
                extras = "train,yolo" if error.name.startswith("ultralytics") else "train"
                raise DatasetError(f"{error.name} is not installed: pip install -e '.[{extras}]'") from error
            raise
        except OSError as error:
            raise DatasetError(f"{error.filename or 'file system'}: {error.strerror or error}") from error


class Commands(OneLineErrors, click.Group):
    """A group whose commands lie in ``modules`` (name -> module with a ``main``), imported when one is called.

    So that ``--help`` comes at once.
    """

    modules: ClassVar[Mapping[str, str]] = {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.modules)

    def get_command(self, ctx: click.Context, name: str) -> click.Command:
        if name not in self.modules:
            raise DatasetError(f"no such command {name!r}; there are {', '.join(self.modules)}")
        module, _, attribute = self.modules[name].partition(":")
        return getattr(import_module(module), attribute or "main")


def command(**settings: Any) -> Any:
    """``click.command`` with the project's errors and exit codes; ``--help`` shows every default."""
    context: dict[str, Any] = {"show_default": True, "help_option_names": ["-h", "--help"]}
    return click.command(cls=Command, context_settings=context, **settings)
