"""The one exception for everything a user can cause."""

import click


class DatasetError(click.ClickException):
    """Bad data or bad usage, in one line: the file, what is wrong with it, and the next step.

    click prints it as ``Error: ...`` and exits with code 2; library callers catch it like any exception.
    """

    exit_code = 2
