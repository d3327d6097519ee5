"""Columns that settings name: those of a default as far as they are there, others without exception."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

import pandas as pd

from sepclr_med.cohort.columns import STRUCTURE, suggest_column
from sepclr_med.config import Config
from sepclr_med.errors import ConfigError, Problem
from sepclr_med.settings import Section


def list_columns(section: Section, setting: str, table: pd.DataFrame) -> list[str]:
    """Return the columns that a setting names: of its default list those that the table has, of another list all.

    Examples
    --------
    >>> table = pd.DataFrame(columns=["participant_id", "age"])
    >>> list_columns(Config().evaluation, "covariates", table)
    ['age']
    """
    names: list[str] = getattr(section, setting)
    usual = names == type(section).model_fields[setting].default
    return [name for name in names if name in table] if usual else list(names)


def require_named_columns(table: pd.DataFrame, config: Config, source: str = "settings") -> None:
    """Refuse settings that name columns which the table does not have, before anything is made of them.

    Parameters
    ----------
    table : DataFrame
        The manifest.
    config : Config
    source : str, default="settings"
        Where the settings are from, for the message.

    Raises
    ------
    ConfigError
        With every such name, the setting it is in, and the column that may be meant.

    Examples
    --------
    >>> from sepclr_med.config import load_config
    >>> config = load_config(overrides=["evaluation.covariates=[gender]"])
    >>> require_named_columns(pd.DataFrame(columns=["age", "sex"]), config)
    Traceback (most recent call last):
    ...
    sepclr_med.errors.ConfigError: settings: 1 name(s) that are no column of the manifest
      evaluation.covariates: no such column; got "gender"; fix: did you mean "sex"?
    """
    columns = [str(name) for name in table.columns if name not in STRUCTURE]
    problems = [
        _describe(setting, name, columns)
        for setting, names, known in _list_named(table, config)
        for name in names
        if name not in known
    ]
    if problems:
        raise ConfigError(f"{source}: {len(problems)} name(s) that are no column of the manifest", problems)


def _list_named(table: pd.DataFrame, config: Config) -> Iterator[tuple[str, Iterable[str], Collection[str]]]:
    """Yield settings, the columns that each names, and what it may name."""
    evaluation, anything = config.evaluation, set(table.columns)
    asked = anything.difference(STRUCTURE) | set(evaluation.batteries)
    yield "evaluation.variables", evaluation.variables or (), asked
    for name in ("covariates", "blocks"):
        yield f"evaluation.{name}", list_columns(evaluation, name, table), anything
    for name, members in evaluation.families.items():
        yield f"evaluation.families.{name}", members, asked
    for name, items in evaluation.batteries.items():
        yield f"evaluation.batteries.{name}", items, anything
    yield "evaluation.measures", evaluation.measures, asked
    yield "method.attributes", config.method.attributes, anything
    yield "method.common_attributes", config.method.common_attributes, anything
    yield "volumes.normative.covariates", list_columns(config.volumes.normative, "covariates", table), anything
    yield "cohort.split.stratify", list_columns(config.cohort.split, "stratify", table), anything


def _describe(setting: str, name: str, columns: list[str]) -> Problem:
    if name in STRUCTURE:
        return Problem(f"{setting}: not a variable", got=name, allowed=", ".join(columns))
    hint = suggest_column(name, columns)
    return Problem(f"{setting}: no such column", got=name, allowed="" if hint else ", ".join(columns), fix=hint)
