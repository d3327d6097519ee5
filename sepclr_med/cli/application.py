"""The program: its name, its common options, and what becomes of an error."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from sepclr_med.cli.mistaken_words import Program
from sepclr_med.cli.options import Verbose, traceback_wanted
from sepclr_med.errors import UserError, describe_lost_resource

NAME = "sepclr-med"
app = Program(
    name=NAME,
    help="What varies among patients that does not vary among controls? From MRI and a table to salient embeddings.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Run the program; user errors become a message and exit code 1."""
    try:
        app(prog_name=NAME)
    except (UserError, OSError) as error:
        if traceback_wanted["yes"]:
            raise
        code = getattr(error, "exit_code", 1)
        print(f"{'error' if code == 1 else 'stopped'}: {error}", file=sys.stderr)
        raise SystemExit(code) from None
    except (MemoryError, RuntimeError) as error:
        said = describe_lost_resource(error)
        if said is None or traceback_wanted["yes"]:
            raise
        # Every process of a training finds out; the first one speaks.
        if os.environ.get("LOCAL_RANK", "0") == "0":
            print(f"error: {said}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the last finished step", file=sys.stderr)
        raise SystemExit(130) from None


def _version(wanted: bool) -> None:
    if wanted:
        from sepclr_med import __version__

        print(f"sepclr-med {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    verbose: Verbose = False,
) -> None:
    """Common options."""
