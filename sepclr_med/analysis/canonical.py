"""Canonical factors: axes for a space whose own axes are arbitrary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd

from sepclr_med.cohort.covariates import refuse
from sepclr_med.errors import ManifestError, Problem

NEGLIGIBLE = 1e-10
MIN_ROWS = 3


class CanonicalFactors:
    r"""Principal axes of a space, or a varimax rotation of the leading ones, signed by their largest loading.

    A contrastive space is defined up to a rotation: another seed gives other axes for the same space. The principal
    axes of target rows are the same whatever the rotation. With centre :math:`m` and orthonormal loadings :math:`L`
    (d, k), a row :math:`x` gets :math:`(x - m) L`. Of every factor the largest absolute loading is positive.

    Parameters
    ----------
    method : {"pca", "varimax"}, default="pca"
        ``varimax`` rotates the leading principal axes so that each loads on few factors of the space; distances stay,
        the factors may then be correlated.
    n_factors : int or None, default=None
        Factors kept; none means all with variance for ``pca``, and the leading ones
        (:func:`count_leading_factors`) for ``varimax``, where a rotation of all would give the space's own axes back.

    Attributes
    ----------
    centre_ : array of shape (d,)
        Mean of the fitted rows.
    loadings_ : array of shape (d, k)
        Orthonormal columns.
    variance_ : array of shape (k,)
        Variance of each factor over the fitted rows.
    variance_explained_ : array of shape (k,)
        Its share of the space's variance.
    n_fitted_ : int
        Rows fitted on.

    References
    ----------
    Kaiser (1958), Psychometrika 23, 187-200.

    Examples
    --------
    >>> rows = np.array([[0.0, 0.0], [1.0, 2.0], [2.0, 4.0], [3.0, 6.5]])
    >>> canonical = CanonicalFactors().fit(rows)
    >>> canonical.loadings_[:, 0].round(2), canonical.variance_explained_.round(1)
    (array([0.42, 0.91]), array([1., 0.]))
    >>> bool(np.allclose(CanonicalFactors.from_dict(canonical.to_dict()).transform(rows), canonical.transform(rows)))
    True
    """

    def __init__(self, method: Literal["pca", "varimax"] = "pca", n_factors: int | None = None):
        if method not in ("pca", "varimax"):
            problem = Problem("unknown method", got=str(method), allowed="pca, varimax")
            refuse("canonical factors cannot be fitted", [problem])
        self.method = method
        self.n_factors = n_factors

    def fit(self, features: np.ndarray) -> CanonicalFactors:
        """Fit on the rows given: target participants of the training set.

        Parameters
        ----------
        features : array of shape (n, d)
            Finite numbers, at least three rows.

        Returns
        -------
        CanonicalFactors
            Itself.

        Raises
        ------
        ManifestError
            When there are too few rows, values are not finite, or nothing varies.
        """
        features = np.asarray(features, dtype=float)
        problems = []
        if len(features) < MIN_ROWS:
            problems.append(Problem("too few rows", got=str(len(features)), allowed=f"{MIN_ROWS} or more"))
        elif not np.isfinite(features).all():
            problems.append(Problem("values are missing or not finite", fix="leave these rows out"))
        elif not features.std(axis=0).any():
            problems.append(Problem("all rows are the same", fix="look at the model: its salient space has collapsed"))
        refuse("canonical factors cannot be fitted", problems)
        self.centre_ = features.mean(axis=0)
        _, singular, axes = np.linalg.svd(features - self.centre_, full_matrices=False)
        variance = singular**2 / (len(features) - 1)
        kept = self._count(variance, len(features))
        loadings = axes[:kept].T
        if self.method == "varimax" and kept > 1:
            loadings = _rotate(loadings)
        loadings = loadings * _signs(loadings)
        own = ((features - self.centre_) @ loadings).var(axis=0, ddof=1)
        order = np.argsort(-own, kind="stable")
        self.loadings_, self.variance_ = loadings[:, order], own[order]
        self.variance_explained_ = self.variance_ / variance.sum()
        self.n_fitted_ = len(features)
        return self

    def transform(self, features: np.ndarray) -> np.ndarray:
        """Return the canonical factors of any rows, shape (n, k).

        Raises
        ------
        ManifestError
            When the number of factors is not that of the fit.
        """
        features = np.asarray(features, dtype=float)
        if features.ndim != 2 or features.shape[1] != len(self.centre_):
            got, allowed = str(features.shape), f"(n, {len(self.centre_)})"
            refuse("canonical factors do not fit", [Problem("another space", got=got, allowed=allowed)])
        return (features - self.centre_) @ self.loadings_

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values, for JSON."""
        return {
            "Method": self.method,
            "Centre": self.centre_.tolist(),
            "Loadings": self.loadings_.tolist(),
            "Variance": self.variance_.tolist(),
            "VarianceExplained": self.variance_explained_.tolist(),
            "FittedRows": self.n_fitted_,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CanonicalFactors:
        """Return what :meth:`to_dict` gave."""
        made = cls(values["Method"], len(values["Variance"]))
        made.centre_ = np.asarray(values["Centre"], dtype=float)
        made.loadings_ = np.asarray(values["Loadings"], dtype=float).reshape(len(made.centre_), -1)
        made.variance_ = np.asarray(values["Variance"], dtype=float)
        made.variance_explained_ = np.asarray(values["VarianceExplained"], dtype=float)
        made.n_fitted_ = int(values["FittedRows"])
        return made

    def _count(self, variance: np.ndarray, n_rows: int) -> int:
        with_variance = int((variance[: n_rows - 1] > NEGLIGIBLE * variance[0]).sum())
        if self.n_factors is not None:
            if not 1 <= self.n_factors <= with_variance:
                allowed = f"1 to {with_variance}, the factors with variance"
                problem = Problem("number of factors", got=str(self.n_factors), allowed=allowed)
                refuse("canonical factors cannot be fitted", [problem])
            return self.n_factors
        return with_variance if self.method == "pca" else count_leading_factors(variance[:with_variance])


def count_leading_factors(variance: np.ndarray, least: int = 2, most: int | None = None) -> int:
    """Count the factors before the largest drop of the variances, on their logarithm.

    The division into leading and trailing factors with the highest profile likelihood under two normal distributions
    of the same spread (Zhu and Ghodsi 2006, Computational Statistics and Data Analysis 51, 918-930).

    Parameters
    ----------
    variance : array of shape (d,)
        Positive, falling.
    least, most : int, default=2 and all
        Bounds of the answer.

    Returns
    -------
    int

    Examples
    --------
    >>> count_leading_factors(np.array([8.0, 5.0, 4.0, 0.1, 0.09, 0.08]))
    3
    """
    logs = np.log(variance[variance > 0])
    least, most = min(least, len(logs)), min(most or len(logs), len(logs))
    best, highest = least, -np.inf
    for count in range(1, len(logs)):
        first, rest = logs[:count], logs[count:]
        spread = (((first - first.mean()) ** 2).sum() + ((rest - rest.mean()) ** 2).sum()) / len(logs)
        likelihood = -np.log(max(spread, 1e-12))
        if likelihood > highest:
            best, highest = count, likelihood
    return int(np.clip(best, least, most))


def canonical_table(
    salient: pd.DataFrame,
    manifest: pd.DataFrame,
    target: Sequence[str] | None,
    method: Literal["pca", "varimax"] = "pca",
    n_factors: int | None = None,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Turn an embedding table into canonical factors, fitted on the target participants of its training set.

    Parameters
    ----------
    salient : DataFrame
        Ids, ``split`` and factors; one row per image.
    manifest : DataFrame
        With ``diagnosis`` for the same images.
    target : sequence of str or None
        Diagnoses of the target group; none means that all rows are.
    method : {"pca", "varimax"}, default="pca"
        As for :class:`CanonicalFactors`.
    n_factors : int or None, default=None
        As for :class:`CanonicalFactors`.

    Returns
    -------
    DataFrame
        The ids of ``salient`` and ``canonical_000`` on, row by row.
    dict
        Plain values for the sidecar: ``Loadings`` (d, k), ``Centre``, ``VarianceExplained``, whom it was fitted on,
        ``Notes``; :meth:`CanonicalFactors.from_dict` reads it.

    Raises
    ------
    ManifestError
        When ids do not match, or too few target rows are there to fit on.

    Examples
    --------
    >>> ids = [f"{i:02}" for i in range(6)]
    >>> manifest = pd.DataFrame({"participant_id": ids, "diagnosis": ["control"] * 2 + ["patient"] * 4})
    >>> salient = pd.DataFrame({"participant_id": ids, "salient_000": [0, 0, 1.0, 2, 3, 4], "salient_001": 0.5})
    >>> table, facts = canonical_table(salient, manifest, ["patient"])
    >>> table["canonical_000"].tolist(), facts["FittedParticipants"]
    ([-2.5, -2.5, -1.5, -0.5, 0.5, 1.5], 4)
    """
    from sepclr_med.analysis.spaces import join_spaces
    from sepclr_med.cohort.embeddings import ID_COLUMNS, factor_columns

    space = join_spaces({"salient": salient}, manifest)[0]
    chosen, notes = _rows_to_fit(space.rows, target)
    people = space.rows["participant_id"].astype(str).to_numpy()
    means = pd.DataFrame(space.features[chosen]).groupby(people[chosen]).mean().to_numpy()
    try:
        fitted = CanonicalFactors(method, n_factors).fit(means)
    except ManifestError as error:
        raise ManifestError("canonical factors of target training participants", error.problems) from error
    names = [f"canonical_{number:03}" for number in range(fitted.loadings_.shape[1])]
    ids = salient[[column for column in ID_COLUMNS if column in salient]].reset_index(drop=True)
    table = pd.concat([ids, pd.DataFrame(fitted.transform(space.features), columns=names)], axis=1)
    facts = {
        **fitted.to_dict(),
        "Factors": names,
        "SourceFactors": factor_columns(salient),
        "FittedParticipants": len(means),
        "FittedOn": "target rows of the training set" if not notes else "; ".join(notes),
        "Notes": notes,
    }
    return table, facts


def rotate_table(salient: pd.DataFrame, facts: Mapping[str, Any]) -> pd.DataFrame:
    """Give another salient table the canonical factors that were fitted before.

    Parameters
    ----------
    salient : DataFrame
        Ids and factors.
    facts : mapping
        The second of :func:`canonical_table`, or the sidecar it was written to.
    """
    from sepclr_med.cohort.embeddings import factor_columns

    factors = CanonicalFactors.from_dict(facts).transform(salient[list(facts["SourceFactors"])].to_numpy())
    ids = salient.drop(columns=factor_columns(salient)).reset_index(drop=True)
    return pd.concat([ids, pd.DataFrame(factors, columns=facts["Factors"])], axis=1)


def _rows_to_fit(rows: pd.DataFrame, target: Sequence[str] | None) -> tuple[np.ndarray, list[str]]:
    notes = []
    chosen = np.ones(len(rows), dtype=bool)
    if target is None or "diagnosis" not in rows:
        notes.append("No target diagnoses were given: fitted on all groups.")
    else:
        chosen &= rows["diagnosis"].isin(list(target)).to_numpy()
    training = (rows["split"] == "train").to_numpy()
    if training.any():
        chosen &= training
    else:
        notes.append("There is no training split: fitted on all rows, also those that are tested.")
    return chosen, notes


def _rotate(axes: np.ndarray) -> np.ndarray:
    from statsmodels.multivariate.factor_rotation import rotate_factors

    return rotate_factors(axes, "varimax")[0]


def _signs(loadings: np.ndarray) -> np.ndarray:
    largest = np.abs(loadings).argmax(axis=0)
    return np.where(loadings[largest, np.arange(loadings.shape[1])] < 0, -1.0, 1.0)
