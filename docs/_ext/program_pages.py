"""Reference pages made of the program itself: the command line, and the configuration.

    python docs/_ext/program_pages.py

writes them anew. A page says ``<!-- generated: command line -->`` or ``<!-- generated: configuration -->`` where the
text begins, which goes on to its end; every build of the site makes it anew as well.
"""

from __future__ import annotations

import inspect
import re
import types
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from typer.main import get_command

from sepclr_med.cli import app as program
from sepclr_med.config import Config

PLAIN = {str: "text", int: "whole number", float: "number", bool: "true or false", Path: "path", type(None): "none"}
BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


def commands() -> dict[str, Any]:
    """Return the verbs of the program in the order of its help, each a Typer command."""
    return dict(get_command(program).commands)


def options(command: Any) -> dict[str, Any]:
    """Return every option of a command by each of its names, the negative ones of switches too."""
    named = {word: one for one in command.params for word in (*one.opts, *one.secondary_opts) if word.startswith("-")}
    return {**named, "-h": None, "--help": None}


def describe_commands() -> str:
    """Return the command line as Markdown, a section for each verb."""
    return "\n\n".join(_describe_command(name, command) for name, command in commands().items())


def describe_config() -> str:
    """Return the configuration as Markdown, a section for each of its sections."""
    return "\n\n".join(_describe_section(name, field.annotation, 2) for name, field in Config.model_fields.items())


def _describe_command(name: str, command: Any) -> str:
    says, _, example = inspect.cleandoc(command.help).partition("\n\nExample: ")
    hints = get_type_hints(command.callback, include_extras=True)
    places = [one for one in command.params if not one.opts[0].startswith("-")]
    switches = [one for one in command.params if one.opts[0].startswith("-")]
    usage = " ".join(one.name.upper() if one.required else f"[{one.name.upper()}]" for one in places)
    lines = [f"## {name}", says, f"```text\nsepclr-med {name} [OPTIONS] {usage}".rstrip() + "\n```"]
    if places:
        rows = [[f"`{one.name.upper()}`", _value(hints[one.name]), one.help or ""] for one in places]
        lines.append(_table(["argument", "what it is", "meaning"], rows))
    rows = [_option_row(one, hints[one.name]) for one in switches]
    lines.append(
        _table(["option", "value", "default", "meaning"], [*rows, ["`-h`, `--help`", "", "", "Show the help."]])
    )
    return "\n\n".join([*lines, f"Example:\n\n```bash\n{example}\n```"])


def _option_row(option: Any, hint: Any) -> list[str]:
    words = ", ".join(f"`{word}`" for word in (*option.opts, *option.secondary_opts))
    default = "needed" if option.required else _default(option.default, switch=option.is_flag)
    return [words, "" if option.is_flag else _value(hint, option.metavar), default, option.help or ""]


def _value(hint: Any, metavar: str | None = None) -> str:
    kind, extras = _unwrap(hint)
    if metavar:
        return f"`{metavar}`"
    info = extras[0]
    limits = [f"{word} {bound}" for bound, word in ((info.min, "at least"), (info.max, "at most")) if bound is not None]
    return ", ".join([_type_words(kind, "; "), *limits]).replace(" or none", "")


def _describe_section(path: str, model: type[BaseModel], level: int) -> str:
    rows, inner = [], []
    for name, field in model.model_fields.items():
        section = next((kind for kind in (field.annotation, *get_args(field.annotation)) if _is_section(kind)), None)
        if section is not None:
            inner.append(_describe_section(f"{path}.{name}", section, level + 1))
            default = "" if field.default is None or not isinstance(field.default, BaseModel) else "its own defaults"
            rows.append(
                [f"`{name}`", "section", default or "none", f"See [{path}.{name}](#{_anchor(f'{path}.{name}')})."]
            )
        else:
            rows.append([f"`{name}`", _field_type(field), _field_default(field), _prose(field.description or "")])
    head = [f"{'#' * level} {path}", _prose(inspect.cleandoc(model.__doc__ or ""))]
    return "\n\n".join([*head, _table(["field", "type", "default", "meaning"], rows), *inner])


def _field_type(field: FieldInfo) -> str:
    bounds = [_bound_words(one) for one in field.metadata]
    return ", ".join([_type_words(field.annotation), *filter(None, bounds)])


def _bound_words(constraint: Any) -> str:
    said = [f"{word} {getattr(constraint, name):g}" for name, word in BOUNDS.items() if hasattr(constraint, name)]
    return ", ".join(said)


def _field_default(field: FieldInfo) -> str:
    return "needed" if field.is_required() else _default(field.default)


def _default(value: Any, switch: bool = False) -> str:
    if value is None or (switch and value is False):
        return "" if switch else "none"
    if isinstance(value, bool):
        return "on" if switch else str(value).lower()
    if isinstance(value, list | tuple):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{value}`"


def _type_words(kind: Any, joint: str = " or ") -> str:
    """Return a type in words: ``whole number``, one of its values, a list of texts."""
    kind, extras = _unwrap(kind)
    inner, origin = get_args(kind), get_origin(kind)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if origin in (Union, types.UnionType):
        return " or ".join(_type_words(one) for one in inner)
    if origin is list:
        return f"list of {_type_words(inner[0])}"
    if origin is dict:
        return f"names, each with {_type_words(inner[1])}"
    bounds = [said for field in extras if isinstance(field, FieldInfo) for said in map(_bound_words, field.metadata)]
    return ", ".join([PLAIN.get(kind, "any value"), *bounds])


def _unwrap(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    return (hint.__origin__, hint.__metadata__) if get_origin(hint) is Annotated else (hint, ())


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _prose(text: str) -> str:
    """Return a docstring's reStructuredText as Markdown: literals and roles become code."""
    text = re.sub(r":[a-z]+:`([^`]+)`", r"`\1`", " ".join(text.split()))
    return text.replace("``", "`")


def _anchor(heading: str) -> str:
    return re.sub(r"[^a-z0-9_ -]", "", heading.lower()).replace(" ", "-")


def _table(header: list[str], rows: list[list[str]]) -> str:
    cells = [[" ".join(cell.split()).replace("|", r"\|") for cell in row] for row in (header, *rows)]
    cells.insert(1, ["---"] * len(header))
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


PAGES = [Path(__file__).parents[1] / name for name in ("cli.md", "configuration.md")]
MAKERS = {"command line": describe_commands, "configuration": describe_config}


def fill_in(text: str) -> str:
    """Return a page whose generated part is that of the program as it is now."""
    return re.sub(
        r"(<!-- generated: (.+?) -->).*\Z", lambda found: f"{found[1]}\n\n{MAKERS[found[2]]()}\n", text, flags=re.DOTALL
    )


def _on_read(_app: Any, _name: str, content: list[str]) -> None:
    content[0] = fill_in(content[0])


def setup(app: Any) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("source-read", _on_read)
    return {"parallel_read_safe": True}


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(fill_in(page.read_text()))
