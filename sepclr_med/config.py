"""The configuration: defaults below, a recipe over them, ``--set section.key=value`` over both.

The sections and their fields are in :mod:`sepclr_med.settings`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import yaml
from pydantic import BaseModel, ValidationError

from sepclr_med.errors import ConfigError, Problem, did_you_mean, make_printable
from sepclr_med.settings import (
    CohortConfig,
    EvaluationConfig,
    MethodConfig,
    NetworkConfig,
    Section,
    TrainingConfig,
    ViewsConfig,
    VolumesConfig,
)

# PyYAML needs seconds for more; the largest recipe here has 6 KB.
LARGEST_RECIPE, DEEPEST = 64 << 10, 50


class Config(Section):
    """Everything a run depends on.

    Examples
    --------
    >>> Config().training.epochs
    100
    >>> load_config(overrides=["training.epochs=5"]).training.epochs
    5
    """

    cohort: CohortConfig = CohortConfig()
    volumes: VolumesConfig = VolumesConfig()
    views: ViewsConfig = ViewsConfig()
    method: MethodConfig = MethodConfig()
    network: NetworkConfig = NetworkConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()


def load_config(recipe: str | Path | None = None, overrides: Iterable[str] = ()) -> Config:
    """Read a recipe over the defaults, then ``section.key=value`` overrides over both.

    Parameters
    ----------
    recipe : path or None, default=None
        YAML file that lists only what differs from the defaults.
    overrides : iterable of str, default=()
        Assignments such as ``training.epochs=5``; values are read as YAML.

    Returns
    -------
    Config
        Frozen.

    Raises
    ------
    ConfigError
        With every unknown key (and the nearest known one) and every value out of range.
    """
    source = str(recipe) if recipe is not None else "configuration"
    values = read_yaml(recipe) if recipe is not None else {}
    for assignment in overrides:
        _assign(values, assignment)
    return parse_config(values, source)


def parse_config(values: dict[str, Any], source: str = "configuration") -> Config:
    """Build a ``Config`` from a plain dictionary, with all its problems at once.

    Raises
    ------
    ConfigError
        As for :func:`load_config`.
    """
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        problems = [_problem(detail, source) for detail in error.errors()]
    raise ConfigError(f"{source}: {len(problems)} problem(s) in the configuration", problems)


def dump_config(config: Config) -> str:
    """Return the whole resolved configuration as YAML."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML mapping; anything else is a :class:`ConfigError`."""
    fix = "see pipelines/ for recipes that work"
    try:
        with open(path, "rb") as stream:
            values = _load_plain(stream.read(LARGEST_RECIPE + 1))
    except (OSError, yaml.YAMLError) as error:
        said = " ".join(str(error).split())
        raise ConfigError(f"{path}: cannot be read as YAML", [Problem(said, file=str(path), fix=fix)]) from None
    if not isinstance(values, dict | None):
        raise ConfigError(
            f"{path}: not a recipe",
            [Problem("expected sections with keys", got=type(values).__name__, fix=fix)],
        )
    return values or {}


def _assign(values: dict[str, Any], assignment: str) -> None:
    key, equals, text = assignment.partition("=")
    path = key.strip().split(".")
    if not equals or not all(path):
        wrong = Problem("not an assignment", got=assignment, allowed="section.key=value", fix="--set training.epochs=5")
        raise ConfigError("--set: cannot be understood", [wrong])
    for part in path[:-1]:
        inner = values.get(part)
        values[part] = dict(inner) if isinstance(inner, dict) else {}
        values = values[part]
    values[path[-1]] = parse_value(text)


def parse_value(text: str) -> Any:
    """Read one value as YAML; what is no YAML is text.

    Examples
    --------
    >>> parse_value("[a, 2]"), parse_value("a: b: c")
    (['a', 2], 'a: b: c')
    """
    try:
        return _load_plain(text.encode())
    except (yaml.YAMLError, UnicodeEncodeError):
        return make_printable(text)


class _PlainLoader(yaml.SafeLoader):
    """YAML's texts, numbers, lists and mappings; dates stay the texts they are written as."""

    yaml_implicit_resolvers: ClassVar = {
        start: [(tag, form) for tag, form in forms if not tag.endswith(":timestamp")]
        for start, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    yaml_constructors: ClassVar = {
        tag: make
        for tag, make in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.rpartition(":")[2] in ("null", "bool", "int", "float", "str", "seq", "map")
    }

    # PyYAML's time grows with the square of the depth.
    def fetch_flow_collection_start(self, token: type) -> None:
        if self.flow_level > DEEPEST:
            raise yaml.YAMLError("nested too deeply")
        super().fetch_flow_collection_start(token)

    def add_indent(self, column: int) -> bool:
        if len(self.indents) > DEEPEST:
            raise yaml.YAMLError("nested too deeply")
        return bool(super().add_indent(column))


def _load_plain(content: bytes) -> Any:
    """Read YAML of bounded size, everything else a :class:`yaml.YAMLError`."""
    if len(content) > LARGEST_RECIPE:
        raise yaml.YAMLError(f"larger than {LARGEST_RECIPE} bytes")
    try:
        value = _PlainLoader(content.decode("utf-8-sig")).get_single_data()
        _require_small(value)
    except RecursionError:
        raise yaml.YAMLError("nested too deeply") from None
    except (ValueError, LookupError) as error:
        # PyYAML's constructors let these through, of a number or a tag that is none.
        raise yaml.YAMLError(f"a value that is none ({error})") from None
    return value


def _require_small(value: Any) -> None:
    """Refuse what is short as a file and endless when written out, because names (&a, *a) stand for lists of names."""
    left, n_characters = [value], 0
    while left:
        part = left.pop()
        # Encoded, because half a character (\\ud83d) is none.
        n_characters += len(part.encode()) + 1 if isinstance(part, str) else 1
        if n_characters > 4 * LARGEST_RECIPE:
            raise yaml.YAMLError("names (&a, *a) stand for too much")
        if isinstance(part, dict):
            left += [*part, *part.values()]
        elif isinstance(part, list):
            left += part


def _problem(detail: Any, source: str) -> Problem:
    path = [str(part) for part in detail["loc"]]
    name = ".".join(path) or "configuration"
    if detail["type"] == "extra_forbidden":
        known = list(_fields_at(path[:-1]))
        hint = did_you_mean(path[-1], known)
        return Problem(f"unknown key {name}", file=source, allowed=", ".join(known), fix=hint or "remove it")
    hint = ""
    if detail["type"] == "literal_error":
        hint = did_you_mean(str(detail["input"]), re.findall(r"'([^']*)'", detail["ctx"]["expected"]))
    said = detail["msg"].removeprefix("Value error, ")
    return Problem(f"{name}: {said}", file=source, got=str(detail["input"])[:80], fix=hint)


def _fields_at(path: list[str]) -> Iterable[str]:
    model: type[BaseModel] = Config
    for part in path:
        field = model.model_fields.get(part)
        inner = (getattr(field.annotation, "__args__", ()) or (field.annotation,)) if field else ()
        models = [t for t in inner if isinstance(t, type) and issubclass(t, BaseModel)]
        if not models:
            return ()
        model = models[0]
    return model.model_fields
