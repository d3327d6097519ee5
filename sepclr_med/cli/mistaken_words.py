"""What a command line that was not understood may have meant."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import Any

import typer
from typer.core import TyperCommand

# Typer has its own copy of click in some versions.
UsageError: type[Exception] = typer.BadParameter.__mro__[1]
# A verb with one of these reads settings; --set of the others gives something else.
RECIPES = {"config", "recipe", "recipes"}


class Verb(TyperCommand):
    """A command that says what may have been meant by words it does not know."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the words after the verb."""
        words = list(args)
        try:
            return super().parse_args(ctx, args)
        except UsageError as error:
            error.message += _advise(error, self.params, words)  # type: ignore[attr-defined]
            raise


class Program(typer.Typer):
    """A program of such commands."""

    def command(self, *args: Any, **options: Any) -> Any:
        """Return a decorator that makes a function a command."""
        return super().command(*args, **{"cls": Verb, **options})


def _advise(error: Any, params: Sequence[Any], words: Sequence[str]) -> str:
    option = getattr(error, "option_name", None)
    if option and RECIPES & {param.name for param in params}:
        return _suggest_setting(option, words)
    if "unexpected extra argument" in error.message:
        return _suggest_commas(params, words, len(error.message.rpartition("(")[2].split()))
    return ""


def _suggest_setting(option: str, words: Sequence[str]) -> str:
    from sepclr_med.config import find_settings

    place = next((n for n, word in enumerate(words) if word.partition("=")[0] == option), len(words))
    _, _, given = words[place].partition("=") if place < len(words) else ("", "", "")
    value = given or next((word for word in words[place + 1 : place + 2] if not word.startswith("-")), "VALUE")
    meant = [f"--set {key}={value}" for key in find_settings(option.strip("-").replace("-", "_"))]
    return f". This is a setting: {' or '.join(meant)}" if meant else ""


def _suggest_commas(params: Sequence[Any], words: Sequence[str], n_stray: int) -> str:
    lists = [name for param in params if "comma-separated" in (getattr(param, "help", "") or "") for name in param.opts]
    for place, word in enumerate(words):
        values = list(takewhile(lambda value: not value.startswith("-"), words[place + 1 :]))
        if word in lists and len(values) > n_stray:
            return f"; several values are separated by commas: {word} {','.join(values[: n_stray + 1])}"
    return ""
