"""From images to participants: what every test below counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from sepclr_med.analysis.spaces import Space, join_spaces
from sepclr_med.cohort.embeddings import factor_columns
from sepclr_med.errors import ManifestError, Problem, did_you_mean


@dataclass(frozen=True)
class Participants:
    """One row per participant: the manifest's columns beside the factors of every space, sessions averaged.

    Parameters
    ----------
    rows : DataFrame
        Columns of the manifest and the embeddings' ``split``; numbers are means over images, a text that differs
        between the images of one participant is missing.
    spaces : dict of str to array of shape (n, d)
        Factors, in the order of ``rows``.
    factors : dict of str to list of str
        Their names.
    is_target : bool array of shape (n,)
        Patients; everyone when no target diagnoses were given.
    notes : list of str
        What was averaged or left out.
    """

    rows: pd.DataFrame
    spaces: dict[str, np.ndarray]
    factors: dict[str, list[str]]
    is_target: np.ndarray
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, mask: np.ndarray) -> Participants:
        """Return the chosen participants, given as a mask."""
        chosen = {space: values[mask] for space, values in self.spaces.items()}
        return replace(self, rows=self.rows[mask].reset_index(drop=True), spaces=chosen, is_target=self.is_target[mask])

    def with_space(self, space: str, values: np.ndarray, names: Sequence[str]) -> Participants:
        """Return the same participants with one more space."""
        return replace(self, spaces={**self.spaces, space: values}, factors={**self.factors, space: list(names)})


def gather_participants(
    embeddings: Mapping[str, pd.DataFrame], manifest: pd.DataFrame, target: Sequence[str] | None = None
) -> Participants:
    """Join embeddings to the manifest and average the images of each participant.

    Parameters
    ----------
    embeddings : mapping of str to DataFrame
        One table per space: ids, ``split`` if any, and factors.
    manifest : DataFrame
        One row per image or per participant.
    target : sequence of str or None, default=None
        Values of ``diagnosis`` that are patients.

    Returns
    -------
    Participants
        Sorted by participant; those that every space has.

    Raises
    ------
    ManifestError
        As for :func:`sepclr_med.analysis.spaces.join_spaces`, and for a target that is no diagnosis.

    Examples
    --------
    >>> manifest = pd.DataFrame({"participant_id": ["a", "a"], "session_id": ["1", "2"], "age": [30.0, 32.0]})
    >>> table = manifest[["participant_id", "session_id"]].assign(salient_000=[1.0, 3.0])
    >>> people = gather_participants({"salient": table}, manifest)
    >>> people.rows["age"].tolist(), people.spaces["salient"].tolist()
    ([31.0], [[2.0]])
    """
    spaces = join_spaces(embeddings, manifest)
    means = {space.name: _mean_factors(space) for space in spaces}
    shared = sorted(set.intersection(*(set(table.index) for table in means.values())))
    everyone = set.union(*(set(table.index) for table in means.values()))
    notes = (
        [f"{len(everyone) - len(shared)} participants lack a space and are left out."]
        if shared != sorted(everyone)
        else []
    )
    images = pd.concat([space.rows for space in spaces])
    images = images[~images.index.duplicated()].sort_index()
    rows, differing = _merge_images(images[images["participant_id"].isin(shared)])
    if differing:
        notes.append(f"Missing where images of one participant differ: {', '.join(differing)}.")
    if n_repeated := int((images.groupby("participant_id").size() > 1).sum()):
        notes.append(f"{n_repeated} participants have several images, which were averaged.")
    rows = rows.loc[shared].reset_index()
    return Participants(
        rows=rows,
        spaces={name: table.loc[shared].to_numpy() for name, table in means.items()},
        factors={name: factor_columns(embeddings[name]) for name in means},
        is_target=_is_target(rows, target),
        notes=notes,
    )


def design_matrix(rows: pd.DataFrame, covariates: Sequence[str]) -> np.ndarray:
    """Return intercept and covariates as numbers: numbers standardised, classes as indicators but for the first.

    Parameters
    ----------
    rows : DataFrame
        No covariate missing.
    covariates : sequence of str
        Columns; a covariate that the ones before determine adds nothing and is left out.

    Returns
    -------
    array of shape (n, q)
        Of full column rank; the intercept comes first.

    Examples
    --------
    >>> design_matrix(pd.DataFrame({"age": [20.0, 30.0, 40.0], "site": ["a", "b", "a"]}), ["age", "site"]).round(2)
    array([[ 1.  , -1.22,  0.  ],
           [ 1.  ,  0.  ,  1.  ],
           [ 1.  ,  1.22,  0.  ]])
    """
    columns = [np.ones(len(rows))]
    for name in covariates:
        values = rows[name]
        if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
            numbers = values.to_numpy(dtype=float)
            spread = numbers.std()
            columns += [(numbers - numbers.mean()) / spread] if spread > 0 else []
        else:
            text = values.astype(str).to_numpy()
            columns += [(text == level).astype(float) for level in np.unique(text)[1:]]
    return _full_rank(np.column_stack(columns))


def mean_factors(table: pd.DataFrame) -> pd.DataFrame:
    """Average the images of each participant.

    Parameters
    ----------
    table : DataFrame
        Ids and factors.

    Returns
    -------
    DataFrame
        Factors, indexed and sorted by participant.

    Examples
    --------
    >>> mean_factors(pd.DataFrame({"participant_id": ["a", "a"], "salient_000": [1.0, 3.0]}))
                    salient_000
    participant_id
    a                       2.0
    """
    return table.groupby("participant_id", sort=True)[factor_columns(table)].mean()


def _full_rank(matrix: np.ndarray) -> np.ndarray:
    kept: list[np.ndarray] = []
    basis = np.empty((len(matrix), 0))
    for column in matrix.T:
        # Twice is enough: the second pass removes what rounding left of the first.
        left = column - basis @ (basis.T @ column)
        left -= basis @ (basis.T @ left)
        size = np.linalg.norm(left)
        if size > 1e-8 * max(float(np.linalg.norm(column)), 1e-300):
            kept.append(column)
            basis = np.column_stack([basis, left / size])
    return np.column_stack(kept)


def _mean_factors(space: Space) -> pd.DataFrame:
    table = pd.DataFrame(space.features)
    return table.groupby(space.rows["participant_id"].astype(str).to_numpy(), sort=True).mean()


def _merge_images(images: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    grouped = images.groupby(images["participant_id"].astype(str), sort=True)
    merged, differing = {}, []
    for name in images.columns.drop("participant_id"):
        values = images[name]
        if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
            merged[name] = grouped[name].mean()
            continue
        same = grouped[name].nunique().le(1)
        merged[name] = grouped[name].first().where(same)
        if not same.all() and name not in ("session_id", "run", "image_path"):
            differing.append(name)
    return pd.DataFrame(merged), differing


def _is_target(rows: pd.DataFrame, target: Sequence[str] | None) -> np.ndarray:
    if target is None:
        return np.ones(len(rows), dtype=bool)
    seen = sorted(rows["diagnosis"].dropna().astype(str).unique()) if "diagnosis" in rows else []
    problems = [
        Problem(
            "no such diagnosis among the embedded participants",
            column="diagnosis",
            got=str(name),
            allowed=", ".join(seen),
            fix=did_you_mean(str(name), seen),
        )
        for name in target
        if str(name) not in seen
    ]
    if problems:
        raise ManifestError(f"{len(problems)} target diagnosis(es) that the manifest does not have", problems)
    return rows["diagnosis"].isin(list(target)).to_numpy()
