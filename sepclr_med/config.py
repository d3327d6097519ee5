"""The configuration: defaults below, a recipe over them, ``--set section.key=value`` over both.

The sections and their fields are in :mod:`sepclr_med.settings`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from sepclr_med.errors import ConfigError, Problem, did_you_mean, make_printable
from sepclr_med.method_settings import MethodConfig
from sepclr_med.settings import (
    CohortConfig,
    EvaluationConfig,
    NetworkConfig,
    Section,
    TrainingConfig,
    ViewsConfig,
    VolumesConfig,
)

S = TypeVar("S", bound=Section)
# PyYAML needs seconds for more; the largest recipe here has 6 KB.
LARGEST_RECIPE, DEEPEST = 64 << 10, 50
SETTINGS = "settings"
TABLES = (".tsv", ".csv")
# What pydantic finds wrong, in words for those who do not program.
WORDS = {
    "int_parsing": "not a whole number",
    "int_type": "not a whole number",
    "int_from_float": "not a whole number",
    "float_parsing": "not a number",
    "float_type": "not a number",
    "bool_parsing": "neither true nor false",
    "bool_type": "neither true nor false",
    "string_type": "not a text",
    "list_type": "not a list: write [a, b]",
    "finite_number": "not a finite number",
    "model_type": "not a section of keys with values",
    "dict_type": "not a section of keys with values",
}
BOUNDS = {
    "greater_than_equal": "{ge:g} or more",
    "greater_than": "more than {gt:g}",
    "less_than_equal": "{le:g} or less",
    "less_than": "less than {lt:g}",
}
# What pydantic adds to a place where one of several kinds of values is allowed.
ALTERNATIVE = re.compile(r"literal\[.*\]|constrained-\w+")


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
    source = str(recipe) if recipe is not None else SETTINGS
    values = read_yaml(recipe) if recipe is not None else {}
    assigned = [_assign(values, assignment) for assignment in overrides]
    # Without a recipe nothing else can be to blame.
    return parse_section(Config, values, source, assigned if recipe is not None else ())


def parse_config(values: dict[str, Any], source: str = SETTINGS) -> Config:
    """Build a ``Config`` from a plain dictionary, with all its problems at once.

    Raises
    ------
    ConfigError
        As for :func:`load_config`.
    """
    return parse_section(Config, values, source)


def parse_section(
    section: type[S], values: dict[str, Any], source: str = "configuration", assigned: Sequence[tuple[str, ...]] = ()
) -> S:
    """Build a section from a plain dictionary, with all its problems at once.

    Parameters
    ----------
    section : type
    values : dict
    source : str, default="configuration"
        File that they come from.
    assigned : sequence of tuple of str, default=()
        Keys that ``--set`` put over those of the file.

    Raises
    ------
    ConfigError
        With every unknown key (and the nearest known one) and every value that is not allowed.

    Examples
    --------
    >>> from sepclr_med.settings import SplitConfig
    >>> parse_section(SplitConfig, {"test_size": 0.3}).test_size
    0.3
    """
    try:
        return section.model_validate(values)
    except ValidationError as error:
        file = "" if source == SETTINGS else source
        found: dict[tuple[str, ...], list[Any]] = {}
        for detail in error.errors():
            place = tuple(part for part in map(str, detail["loc"]) if not ALTERNATIVE.fullmatch(part))
            found.setdefault(place, []).append(detail)
        problems = [_problem(place, details, file, section, assigned) for place, details in found.items()]
    blamed = source if not assigned or any(problem.file for problem in problems) else "--set"
    raise ConfigError(f"{blamed}: {len(problems)} problem(s) to mend", problems)


def dump_config(config: Config) -> str:
    """Return the whole resolved configuration as YAML."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def read_yaml(path: str | Path, fix: str = "`sepclr-med init` writes a recipe that works") -> dict[str, Any]:
    """Read a YAML mapping; anything else is a :class:`ConfigError` with this remedy."""
    try:
        with open(path, "rb") as stream:
            content = stream.read(LARGEST_RECIPE + 1)
    except OSError as error:
        absent = Problem(error.strerror or str(error), file=str(path), fix=_suggest_recipe(Path(path)) or fix)
        raise ConfigError(f"{path}: this recipe cannot be opened", [absent]) from None
    if Path(path).suffix.lower() in TABLES:
        fix = f"give the recipe first, and the table with --manifest {path}"
        raise ConfigError(f"{path}: not a recipe", [Problem("this is a table, not a recipe", file=str(path), fix=fix)])
    try:
        values = _load_plain(content)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: cannot be read as YAML", [_describe_yaml_error(error, str(path), fix)]) from None
    if not isinstance(values, dict | None):
        raise ConfigError(
            f"{path}: not a recipe",
            [Problem("expected sections with keys", got=type(values).__name__, fix=fix)],
        )
    return values or {}


def _suggest_recipe(path: Path) -> str:
    beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    return did_you_mean(path.name, beside)


def _describe_yaml_error(error: yaml.YAMLError, file: str, fix: str) -> Problem:
    said = " ".join(str(error).split())
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return Problem(said, file=file, fix=fix)
    if "'\\t'" in said:
        wrong, fix = "a tab, where YAML wants spaces", "write two spaces in its place"
    else:
        wrong = " ".join(part for part in (error.context, error.problem) if part)
    return Problem(
        f"{wrong} (column {error.problem_mark.column + 1} of the line)",
        file=file,
        row=error.problem_mark.line + 1,
        fix=fix,
    )


def _assign(values: dict[str, Any], assignment: str) -> tuple[str, ...]:
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
    return tuple(path)


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

    # The stubs take the class's table for an instance's.
    yaml_implicit_resolvers: ClassVar = {  # type: ignore[misc]
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


def _problem(
    path: tuple[str, ...],
    details: Sequence[Any],
    file: str,
    section: type[Section],
    assigned: Sequence[tuple[str, ...]],
) -> Problem:
    """Put what is wrong at one place into words; several details are the kinds of values it could have."""
    name, detail = ".".join(path) or "configuration", details[0]
    if any(path[: len(key)] == key for key in assigned):
        file, name = "", f"--set {name}"
    elif beneath := [".".join(key) for key in assigned if key[: len(path)] == path]:
        # Of a section as a whole either may be to blame.
        file = f"{file} with --set {', '.join(beneath)}"
    if detail["type"] == "extra_forbidden":
        known = list(_fields_at(path[:-1], section))
        hint = _find_elsewhere(path[-1], section) or did_you_mean(path[-1], known)
        message = f"unknown key {name}" if not name.startswith("--set") else f"{name}: unknown key"
        return Problem(message, file=file, allowed=", ".join(known), fix=hint or "remove it")
    got = _show(detail["input"])
    allowed = ", or ".join(filter(None, map(_describe_allowed, details)))
    if detail["type"] == "literal_error":
        hint = did_you_mean(got.lower(), _list_choices(detail))
        return Problem(f"{name}: no such choice", file=file, got=got, allowed=allowed, fix=hint)
    if detail["type"] in BOUNDS:
        return Problem(f"{name}: is {got}", file=file, allowed=allowed)
    said = WORDS.get(detail["type"], detail["msg"].removeprefix("Value error, "))
    return Problem(f"{name}: {said}", file=file, got=got)


def _describe_allowed(detail: Any) -> str:
    if detail["type"] == "literal_error":
        return ", ".join(_list_choices(detail)) or str(detail["ctx"]["expected"])
    if detail["type"] in BOUNDS:
        return BOUNDS[detail["type"]].format(**detail["ctx"])
    return WORDS.get(detail["type"], "").removeprefix("not ")


def _list_choices(detail: Any) -> list[str]:
    return re.findall(r"'([^']*)'", detail["ctx"]["expected"])


def _show(value: Any) -> str:
    """Return a value as it is written in YAML; what a whole section holds is said by the message itself."""
    if isinstance(value, dict | BaseModel):
        return ""
    return (json.dumps(value) if value is None or isinstance(value, bool) else str(value))[:80]


def find_settings(key: str, section: type[Section] = Config) -> list[str]:
    """Return the full names of the settings that are called so.

    Examples
    --------
    >>> find_settings("epochs"), find_settings("seed")
    (['training.epochs'], ['training.seed', 'evaluation.seed'])
    """
    return [f"{name}.{key}" for name in section.model_fields if key in _fields_at([name], section)]


def _find_elsewhere(key: str, section: type[Section]) -> str:
    """Return a hint for a key that stands in another section than its own."""
    homes = find_settings(key, section)
    return f"did you mean {' or '.join(homes)}?" if homes else ""


def _fields_at(path: Sequence[str], section: type[Section]) -> Iterable[str]:
    model: type[BaseModel] = section
    # The number of a section in a list of sections names no field.
    for part in (part for part in path if not part.isdecimal()):
        field = model.model_fields.get(part)
        inner = (getattr(field.annotation, "__args__", ()) or (field.annotation,)) if field else ()
        models = [t for t in inner if isinstance(t, type) and issubclass(t, BaseModel)]
        if not models:
            return ()
        model = models[0]
    return model.model_fields
