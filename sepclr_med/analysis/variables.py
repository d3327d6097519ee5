"""Which columns of a manifest can be asked about, and over whom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd

from sepclr_med.analysis.measures import Measure, choose_measure, level_codes
from sepclr_med.analysis.units import Kind
from sepclr_med.cohort.columns import STRUCTURE
from sepclr_med.errors import ManifestError, Problem, did_you_mean

Over: TypeAlias = Literal["everyone", "target", "background"]

NOT_BY_DEFAULT = (*STRUCTURE, "role")
FIRST = ("diagnosis", "age", "sex", "site", "scanner", "tiv", "qc")
MIN_PARTICIPANTS = 8
MAX_SHARE_OF_TEXTS = 0.5


@dataclass(frozen=True)
class Variable:
    """A column to probe.

    Parameters
    ----------
    name : str
        The column.
    measure : {"continuous", "ordinal", "binary", "categorical"}
        What it measures.
    over : {"everyone", "target", "background"}, default="everyone"
        Whose values are asked.
    described : mapping or None, default=None
        Its entry in the sidecar, which orders levels written as text.
    """

    name: str
    measure: Measure
    over: Over = "everyone"
    described: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)

    @property
    def kind(self) -> Kind:
        """How it is probed."""
        return "classification" if self.measure in ("binary", "categorical") else "regression"

    @property
    def label(self) -> str:
        """How tables call it: ``BDI``, and ``BDI (background)`` for the same column among controls."""
        return f"{self.name} (background)" if self.over == "background" else self.name


@dataclass(frozen=True)
class Groups:
    """Which diagnoses are patients and which are controls.

    Parameters
    ----------
    target : sequence of str or None
        Patients; none means that groups are not told apart.
    background : sequence of str or None
        Controls; none means every other diagnosis.
    """

    target: Sequence[str] | None = None
    background: Sequence[str] | None = None

    def members(self, rows: pd.DataFrame, over: Over) -> np.ndarray:
        """Return which rows belong to a group, as a mask."""
        if over == "everyone" or self.target is None:
            return np.ones(len(rows), dtype=bool)
        diagnosis = rows["diagnosis"]
        is_target = diagnosis.isin(list(self.target))
        if over == "target":
            return is_target.to_numpy()
        others = diagnosis.notna() & ~is_target
        return (others if self.background is None else others & diagnosis.isin(list(self.background))).to_numpy()


def choose_variables(
    rows: pd.DataFrame,
    variables: Sequence[str] | None = None,
    groups: Groups | None = None,
    measures: Mapping[str, str] | None = None,
    described: Mapping[str, Mapping[str, Any]] | None = None,
) -> tuple[list[Variable], list[str], dict[str, str]]:
    """Settle what is probed and over whom, and say what is left out and why.

    Without names: the diagnosis, then every known and clinical column that at least eight participants have a value
    for, that has more than one value, and that is not text with nearly as many values as participants.

    Known columns are asked of everyone. A clinical column is asked among target participants, and apart from that
    among background participants where it varies there too: over both together it would ask for the diagnosis again.

    Parameters
    ----------
    rows : DataFrame
        Rows of the manifest that have an embedding.
    variables : sequence of str or None, default=None
        Columns, in the order wanted.
    groups : Groups or None, default=None
        Patients and controls; without, everything is asked of everyone.
    measures : mapping of str to str or None, default=None
        What a column measures, where that must not be inferred.
    described : mapping of str to mapping or None, default=None
        The manifest's BIDS sidecar: column to its entry.

    Returns
    -------
    list of Variable
    list of str
        Notes.
    dict of str to str
        What is left out, and why.

    Raises
    ------
    ManifestError
        With every name that is no column or no variable, and every target that is no diagnosis.

    Examples
    --------
    >>> rows = pd.DataFrame({"participant_id": [f"{i:02}" for i in range(8)], "age": range(20, 28), "centre": "A"})
    >>> choose_variables(rows)
    ([Variable(name='age', measure='continuous', over='everyone')], [], {'centre': 'one value only'})
    """
    groups = groups or Groups()
    _check_names(rows, variables, groups)
    names = list(dict.fromkeys(variables)) if variables is not None else _candidates(rows)
    chosen, left_out = [], {}
    reasons: dict[tuple[str, Measure], str] = {}
    for name in names:
        overs = _overs(rows, name, groups)
        usable = [over for over in overs if not _unfit(rows[groups.members(rows, over)], name)]
        if variables is not None or name == "diagnosis":
            # What was asked for by name gets a line, be it one that says why there is no figure.
            usable = usable or overs[:1]
        elif not usable:
            within = _unfit(rows[groups.members(rows, overs[0])], name)
            left_out[name] = _unfit(rows, name) or f"{overs[0]}: {within}"
        for over in usable:
            entry = (described or {}).get(name)
            values = rows.loc[groups.members(rows, over), name]
            measure, reason = choose_measure(name, values, entry, (measures or {}).get(name))
            chosen.append(Variable(name, measure, over, entry))
            reasons.setdefault((name, measure), reason)
    return chosen, _notes(chosen, reasons), left_out


def describe_left_out(left_out: Mapping[str, str]) -> str:
    """Say which variables no test could be made of, and why; empty where there are none.

    Examples
    --------
    >>> describe_left_out({"MADRS": "values of 5 participants, 8 needed"})
    'Not tested: MADRS (values of 5 participants, 8 needed)'
    """
    said = ", ".join(f"{name} ({reason})" for name, reason in left_out.items())
    return f"Not tested: {said}" if said else ""


def values_of(rows: pd.DataFrame, variable: Variable, groups: Groups) -> pd.Series:
    """Return a variable's values, missing where the row is not asked; infinite numbers are missing."""
    values = rows[variable.name]
    if variable.measure == "ordinal":
        values = level_codes(values, variable.described)
    if pd.api.types.is_float_dtype(values):
        values = values.mask(np.isinf(values.astype(float).to_numpy()))
    return values.where(groups.members(rows, variable.over))


def listed(names: Sequence[str] | None) -> Sequence[str] | None:
    """Take one name for a list of one."""
    return [names] if isinstance(names, str) else names


def _candidates(rows: pd.DataFrame) -> list[str]:
    known = [name for name in FIRST if name in rows]
    return known + [str(name) for name in rows.columns if name not in (*FIRST, *NOT_BY_DEFAULT)]


def _overs(rows: pd.DataFrame, name: str, groups: Groups) -> list[Over]:
    if groups.target is None or name in FIRST:
        return ["everyone"]
    within = rows.loc[groups.members(rows, "background"), name]
    return ["target", "background"] if len(within.dropna().unique()) > 1 else ["target"]


def _notes(chosen: list[Variable], reasons: Mapping[tuple[str, Measure], str]) -> list[str]:
    notes = []
    overs = {variable.name: {other.over for other in chosen if other.name == variable.name} for variable in chosen}
    if within := [name for name, over in overs.items() if over == {"target"}]:
        notes.append(f"Among target participants only, as it does not vary outside them: {', '.join(within)}.")
    if apart := [name for name, over in overs.items() if over == {"target", "background"}]:
        notes.append(
            "Among target and among background participants apart, as over both it would ask for the diagnosis again: "
            f"{', '.join(apart)}."
        )
    if only := [name for name, over in overs.items() if over == {"background"}]:
        notes.append(f"Among background participants only, who alone have enough values: {', '.join(only)}.")
    if ordinal := [f"{name} ({reason})" for (name, measure), reason in reasons.items() if measure == "ordinal"]:
        notes.append(f"Ordinal, predicted as numbers and scored by rank correlation: {', '.join(ordinal)}.")
    return notes


def _unfit(rows: pd.DataFrame, name: str) -> str:
    known = rows[name].dropna()
    n_participants = rows.loc[known.index, "participant_id"].nunique()
    n_values = known.nunique()
    if n_participants < MIN_PARTICIPANTS:
        return f"values of {n_participants} participants, {MIN_PARTICIPANTS} needed"
    if n_values < 2:
        return "one value only"
    if not pd.api.types.is_numeric_dtype(known) and n_values > MAX_SHARE_OF_TEXTS * n_participants:
        return f"text with {n_values} values in {n_participants} participants"
    return ""


def _check_names(rows: pd.DataFrame, variables: Sequence[str] | None, groups: Groups) -> None:
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
        for name in groups.target or ()
        if name not in seen
    ]
    if problems:
        raise ManifestError(f"variables: {len(problems)} name(s) that the manifest does not have", problems)
