"""Taking out of features what covariates explain: fitted on some rows, applied to any."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from sepclr_med.cohort.covariates import choose_features, learn_coding, refuse, require_columns
from sepclr_med.errors import Problem

UNSEEN_CLASS = (
    "fit on rows that include it, leave its rows out, or leave this covariate out of the residualisation and test "
    "within its classes instead"
)


class CovariateResidualizer(TransformerMixin, BaseEstimator):
    r"""Subtract from every feature what a linear model of the covariates explains.

    With features :math:`Y` and covariates :math:`D` of the fitted rows, :math:`\hat\beta` is the least squares solution
    of :math:`Y = 1\alpha + D\beta`; any row becomes :math:`y - (d - \bar D)\hat\beta` (``keep_mean=True``) or
    :math:`y - \hat\alpha - d\hat\beta`. Numbers enter linearly, classes as dummies. In cross-validation put it in the
    pipeline, so that each fold fits its own on training rows.

    Fitted on background rows only (``background``), it takes out what the covariates do in people without the disease
    and keeps what they do on top of it in patients: age among patients then still holds disease that comes with age.

    Parameters
    ----------
    covariates : sequence of str
        Columns to adjust for.
    features : sequence of str or None, default=None
        Columns to adjust; none means every other numeric column.
    background : (str, sequence of str) or None, default=None
        Column and values of the rows to fit on, such as ``("diagnosis", ["control"])``; none means all rows given.
    keep_mean : bool, default=True
        Whether features keep their mean over the fitted rows.
    classes : sequence of str, default=()
        Covariates that are classes although written as numbers.

    Attributes
    ----------
    coding_ : CovariateCoding
        How covariates became numbers.
    coef_ : array of shape (columns, features)
        :math:`\hat\beta`.
    intercept_ : array of shape (features,)
        :math:`\hat\alpha`.
    covariate_mean_ : array of shape (columns,)
        :math:`\bar D`.
    n_fitted_ : int
        Rows fitted on.

    Examples
    --------
    >>> table = pd.DataFrame({"salient_000": [1.0, 2.0, 3.0, 4.2], "age": [10.0, 20.0, 30.0, 40.0]})
    >>> CovariateResidualizer(["age"]).fit_transform(table).round(2)["salient_000"].tolist()
    [2.59, 2.53, 2.47, 2.61]
    """

    def __init__(
        self,
        covariates: Sequence[str],
        features: Sequence[str] | None = None,
        background: tuple[str, Sequence[str]] | None = None,
        keep_mean: bool = True,
        classes: Sequence[str] = (),
    ):
        self.covariates = covariates
        self.features = features
        self.background = background
        self.keep_mean = keep_mean
        self.classes = classes

    def fit(self, X: pd.DataFrame, y: Any = None) -> CovariateResidualizer:  # noqa: N803
        """Fit on the rows given, or on the background rows among them.

        Parameters
        ----------
        X : DataFrame
            Features and covariates.
        y : ignored

        Returns
        -------
        CovariateResidualizer
            Itself.

        Raises
        ------
        ManifestError
            When columns are absent, covariates missing, or there are too few rows for the covariates.
        """
        require_columns(X, self.covariates)
        rows = X[self._chosen(X)]
        self.coding_ = learn_coding(rows, self.covariates, self.classes)
        taken = [*self.covariates, *([self.background[0]] if self.background else [])]
        self.features_ = choose_features(X, self.features, taken)
        design = self.coding_.encode(rows)
        if len(rows) < design.shape[1] + 2:
            allowed = f"{design.shape[1] + 2} rows or more for {', '.join(self.coding_.names)}"
            refuse("covariates cannot be fitted", [Problem("too few rows", got=str(len(rows)), allowed=allowed)])
        values = rows[self.features_].to_numpy(dtype=float)
        self.covariate_mean_ = design.mean(axis=0)
        self.coef_ = _slopes(design - self.covariate_mean_, values)
        known = np.isfinite(values)
        own_mean = (known.T @ design) / known.sum(axis=0)[:, None]
        self.intercept_ = np.nanmean(values, axis=0) - (own_mean * self.coef_.T).sum(axis=1)
        self.n_fitted_ = len(rows)
        self.feature_names_in_ = np.asarray(X.columns, dtype=object)
        self.n_features_in_ = X.shape[1]
        return self

    def transform(self, X: pd.DataFrame) -> pd.DataFrame:  # noqa: N803
        """Return the adjusted features of any rows.

        Parameters
        ----------
        X : DataFrame
            With the features and covariates by name; other columns are left out.

        Returns
        -------
        DataFrame
            The features, same index.

        Raises
        ------
        ManifestError
            When a covariate is missing or has a class that was not fitted.
        """
        check_is_fitted(self, "coef_")
        require_columns(X, self.features_)
        design = self.coding_.encode(X, fix=UNSEEN_CLASS)
        explained = (design - self.covariate_mean_) @ self.coef_
        if not self.keep_mean:
            explained = self.intercept_ + design @ self.coef_
        return pd.DataFrame(
            X[self.features_].to_numpy(dtype=float) - explained, index=X.index, columns=pd.Index(self.features_)
        )

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Return the names of the adjusted features."""
        check_is_fitted(self, "coef_")
        return np.asarray(self.features_, dtype=object)

    def _chosen(self, table: pd.DataFrame) -> np.ndarray:
        if self.background is None:
            return np.ones(len(table), dtype=bool)
        column, values = self.background
        wanted = [values] if isinstance(values, str) else [str(value) for value in values]
        require_columns(table, [column])
        chosen = table[column].astype(str).isin(wanted).to_numpy()
        if not chosen.any():
            seen = ", ".join(sorted(set(table[column].dropna().astype(str))))
            problem = Problem("no background rows", column=column, got=", ".join(wanted), allowed=seen)
            refuse("covariates cannot be fitted", [problem])
        return chosen


def _slopes(design: np.ndarray, values: np.ndarray) -> np.ndarray:
    known = np.isfinite(values)
    if known.all():
        return np.linalg.lstsq(design, values - values.mean(axis=0), rcond=None)[0]
    # A feature with gaps is fitted on the rows that have it.
    columns = []
    for mine, column in zip(known.T, values.T, strict=True):
        centred = design[mine] - design[mine].mean(axis=0)
        columns.append(np.linalg.lstsq(centred, column[mine] - column[mine].mean(), rcond=None)[0])
    return np.stack(columns, axis=1)
