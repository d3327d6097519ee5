"""Which columns of a manifest can be asked about, and over whom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from sepclr_med.analysis.probes import Kind, probe_kind
from sepclr_med.errors import ManifestError, Problem, did_you_mean

STRUCTURE = ("participant_id", "session_id", "run", "image_path", "split", "fold", "family_id")
NOT_BY_DEFAULT = (*STRUCTURE, "qc", "role")
FIRST = ("diagnosis", "age", "sex", "site", "scanner", "tiv")
MIN_PARTICIPANTS = 8
MAX_SHARE_OF_TEXTS = 0.5


@dataclass(frozen=True)
class Variable:
    """A column to probe.

    Parameters
    ----------
    name : str
        The column.
    kind : {"classification", "regression"}
        How it is probed.
    target_only : bool
        Whether only target rows are asked.
    """

    name: str
    kind: Kind
    target_only: bool


def choose_variables(
    rows: pd.DataFrame, variables: Sequence[str] | None = None, target: Sequence[str] | None = None
) -> tuple[list[Variable], list[str]]:
    """Settle what is probed, and say what is left out and why.

    Without names: the diagnosis, then every known and clinical column that at least eight participants have a value
    for, that has more than one value, and that is not text with nearly as many values as participants.

    Parameters
    ----------
    rows : DataFrame
        Rows of the manifest that have an embedding.
    variables : sequence of str or None, default=None
        Columns, in the order wanted.
    target : sequence of str or None, default=None
        Values of ``diagnosis`` that are patients. A clinical column without values outside them, or with one value
        outside them (a severity of 0 in every control), is asked among them only: over everyone it would ask for the
        diagnosis again.

    Returns
    -------
    list of Variable
    list of str
        Notes.

    Raises
    ------
    ManifestError
        With every name that is no column or no variable, and every target that is no diagnosis.

    Examples
    --------
    >>> rows = pd.DataFrame({"participant_id": [f"{i:02}" for i in range(8)], "age": range(20, 28), "centre": "A"})
    >>> choose_variables(rows)
    ([Variable(name='age', kind='regression', target_only=False)], ['Not probed: centre (one value only).'])
    """
    _check_names(rows, variables, target)
    if variables is None:
        names, notes = _default_names(rows)
    else:
        names, notes = list(dict.fromkeys(variables)), []
    is_target = None if target is None else rows["diagnosis"].isin(list(target))
    chosen = []
    for name in names:
        target_only = is_target is not None and name not in FIRST and _belongs_to_target(rows[name], is_target)
        values = rows.loc[is_target, name] if target_only else rows[name]
        chosen.append(Variable(name, probe_kind(values), target_only))
    if within := [variable.name for variable in chosen if variable.target_only]:
        notes.append(f"Among target participants only, as it does not vary outside them: {', '.join(within)}.")
    return chosen, notes


def values_of(rows: pd.DataFrame, variable: Variable, target: Sequence[str] | None) -> pd.Series:
    """Return a variable's values, missing where the row is not asked; infinite numbers are missing."""
    values = rows[variable.name]
    if pd.api.types.is_float_dtype(values):
        values = values.mask(np.isinf(values.astype(float).to_numpy()))
    if variable.target_only:
        values = values.where(rows["diagnosis"].isin(list(target or ())))
    return values


def _default_names(rows: pd.DataFrame) -> tuple[list[str], list[str]]:
    candidates = [name for name in FIRST if name in rows]
    candidates += [name for name in rows.columns if name not in (*FIRST, *NOT_BY_DEFAULT)]
    reasons = {name: _unfit(rows[name], rows["participant_id"]) for name in candidates if name != "diagnosis"}
    left_out = [f"{name} ({reason})" for name, reason in reasons.items() if reason]
    notes = [f"Not probed: {', '.join(left_out)}."] if left_out else []
    return [name for name in candidates if not reasons.get(name)], notes


def _unfit(values: pd.Series, participants: pd.Series) -> str:
    known = values.dropna()
    n_participants = participants[known.index].nunique()
    n_values = known.nunique()
    if n_participants < MIN_PARTICIPANTS:
        return f"values of {n_participants} participants, {MIN_PARTICIPANTS} needed"
    if n_values < 2:
        return "one value only"
    if not pd.api.types.is_numeric_dtype(values) and n_values > MAX_SHARE_OF_TEXTS * n_participants:
        return f"text with {n_values} values in {n_participants} participants"
    return ""


def _belongs_to_target(values: pd.Series, is_target: pd.Series) -> bool:
    return values[is_target].notna().any() and len(values[~is_target].dropna().unique()) <= 1


def _check_names(rows: pd.DataFrame, variables: Sequence[str] | None, target: Sequence[str] | None) -> None:
    columns = [name for name in rows.columns if name not in STRUCTURE]
    allowed = ", ".join(columns)
    problems = [
        Problem(
            "not a variable" if name in rows else "no such column",
            column=str(name),
            allowed=allowed,
            fix=did_you_mean(str(name), columns),
            code="unknown_variable",
        )
        for name in variables or ()
        if name not in columns
    ]
    seen = sorted(rows["diagnosis"].dropna().astype(str).unique()) if "diagnosis" in rows else []
    problems += [
        Problem(
            "no such diagnosis among the embedded rows",
            column="diagnosis",
            got=str(name),
            allowed=", ".join(seen),
            fix=did_you_mean(str(name), seen),
            code="unknown_diagnosis",
        )
        for name in target or ()
        if name not in seen
    ]
    if problems:
        raise ManifestError(f"evaluate: {len(problems)} name(s) that the manifest does not have", problems)
