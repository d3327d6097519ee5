"""One variable put to a space: whom it concerns, what is adjusted for, who may change places with whom."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from sepclr_med.analysis.associations.exchangeability import count_permutations, draw_permutations
from sepclr_med.analysis.measures import Measure, choose_measure, level_codes

MIN_PARTICIPANTS = 10
FEW_PERMUTATIONS = 1000


@dataclass(frozen=True)
class Question:
    """A variable, and the participants who have a value of it and of every covariate.

    Parameters
    ----------
    name : str
        The column.
    measure : {"continuous", "ordinal", "binary", "categorical"}
        What it is.
    mask : bool array of shape (N,)
        Who is asked, among all rows given.
    rows : DataFrame of n rows
        Their columns.
    values : array of shape (n,)
        Their values; numbers for continuous and ordinal, text for binary and categorical.
    covariates : list of str
        As named, without the variable itself.
    blocks : list of str
        Columns within whose cells rows may change places, without the variable itself.
    families : str or None
        Column of the family, if families are kept together.
    blocked : bool
        Whether the variable varies within blocks, so that it can be tested there.
    n_missing : int
        How many were left out for a missing value.
    notes : list of str
        What must be said beside the result.
    """

    name: str
    measure: Measure
    mask: np.ndarray
    rows: pd.DataFrame
    values: np.ndarray
    covariates: list[str]
    blocks: list[str]
    families: str | None
    blocked: bool
    n_missing: int
    notes: list[str]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def answerable(self) -> bool:
        """Enough participants, and a value that varies among them."""
        return len(self) >= MIN_PARTICIPANTS and len(pd.unique(self.values)) > 1

    @property
    def adjusted(self) -> list[str]:
        """Covariates of the blocked test: the named ones and the blocks."""
        return [*self.covariates, *(name for name in self.blocks if name not in self.covariates)]

    def permutations(self, n_permutations: int, blocked: bool, rng: np.random.Generator) -> np.ndarray:
        """Draw permutations within blocks and of whole families, or of everyone freely: (K, n)."""
        if not blocked:
            return draw_permutations(n_permutations, None, None, rng, n=len(self))
        labels = joint_labels(self.rows, self.blocks) if self.blocks else None
        return draw_permutations(n_permutations, labels, self.kin(), rng, n=len(self))

    def kin(self) -> np.ndarray | None:
        """Family of each row, or None; a row without one is a family of its own."""
        return None if self.families is None else family_labels(self.rows, self.families)


def ask(
    rows: pd.DataFrame,
    name: str,
    covariates: Sequence[str] = (),
    blocks: Sequence[str] = (),
    families: str | None = None,
    described: Mapping[str, Mapping[str, Any]] | None = None,
    asked: Mapping[str, str] | None = None,
) -> Question:
    """Settle who can be asked about a variable.

    Parameters
    ----------
    rows : DataFrame
        One row per participant.
    name : str
        The variable.
    covariates, blocks : sequence of str, default=()
        Columns to adjust for; columns within whose cells rows may change places.
    families : str or None, default=None
        Column of the family.
    described : mapping or None, default=None
        Entries of the BIDS sidecar by column.
    asked : mapping or None, default=None
        Measures the user asked for, by column.

    Returns
    -------
    Question

    Examples
    --------
    >>> rows = pd.DataFrame({"age": [30.0, 40.0, 50.0], "score": [1.5, None, 2.5], "site": ["a", "a", "b"]})
    >>> question = ask(rows, "score", ["age", "score"], ["site"])
    >>> len(question), question.covariates, question.adjusted, question.n_missing
    (2, ['age'], ['age', 'site'], 1)
    """
    entry = (described or {}).get(name)
    measure, _ = choose_measure(name, rows[name], entry, (asked or {}).get(name))
    values = _finite(rows[name])
    if measure == "ordinal":
        values = level_codes(values, entry)
    kept_covariates = [column for column in dict.fromkeys(covariates) if column != name]
    kept_blocks = [column for column in dict.fromkeys(blocks) if column != name]
    needed = [_finite(rows[column]).notna() for column in (*kept_covariates, *blocks)]
    mask = np.logical_and.reduce([values.notna(), *needed])
    n_missing = int((~mask).sum())
    chosen = rows[mask].reset_index(drop=True)
    known = values[mask]
    known = known.to_numpy(dtype=float) if measure in ("continuous", "ordinal") else known.astype(str).to_numpy(object)
    notes = ["not adjusted for itself"] if name in covariates else []
    blocked, note = _varies_within(chosen, known, blocks)
    notes += [note] if note else []
    return Question(
        name, measure, mask, chosen, known, kept_covariates, kept_blocks, families, blocked, n_missing, notes
    )


def joint_labels(rows: pd.DataFrame, columns: Sequence[str]) -> np.ndarray:
    """Number the cells of several columns.

    Examples
    --------
    >>> joint_labels(pd.DataFrame({"site": ["a", "b", "a"], "scanner": ["x", "x", "x"]}), ["site", "scanner"])
    array([0, 1, 0])
    """
    return rows.groupby(list(columns), sort=True, observed=True).ngroup().to_numpy()


def family_labels(rows: pd.DataFrame, column: str) -> np.ndarray:
    """Number the families; a row without one is a family of its own.

    Examples
    --------
    >>> family_labels(pd.DataFrame({"family_id": ["f", None, "f", None]}), "family_id")
    array([0, 1, 0, 2])
    """
    own = pd.Series([f"\0{place}" for place in range(len(rows))], index=rows.index, dtype=object)
    family = rows[column].astype(object)
    return pd.factorize(family.where(family.notna(), own))[0]


def seeded(seed: int, *words: str) -> np.random.Generator:
    """Return a generator of its own for each use, so that a result does not depend on what else is asked.

    Examples
    --------
    >>> int(seeded(0, "age").integers(100)) == int(seeded(0, "age").integers(100))
    True
    """
    return np.random.default_rng([seed, *(zlib.crc32(word.encode()) for word in words)])


def _finite(values: pd.Series) -> pd.Series:
    if pd.api.types.is_float_dtype(values):
        return values.mask(np.isinf(values.to_numpy(dtype=float)))
    return values


def _varies_within(rows: pd.DataFrame, values: np.ndarray, blocks: Sequence[str]) -> tuple[bool, str]:
    if not blocks or not len(rows):
        return True, ""
    labels = joint_labels(rows, blocks)
    if pd.Series(values).groupby(labels).nunique().max() <= 1:
        return False, f"does not vary within {'/'.join(blocks)}: no test within it, p_free is all there is"
    if (n_distinct := count_permutations(labels, None)) < FEW_PERMUTATIONS:
        return True, f"only {n_distinct} permutations within {'/'.join(blocks)}"
    return True, ""
