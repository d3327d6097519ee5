"""What the covariates leave of a variable: the score residuals that every test permutes."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from sepclr_med.analysis.measures import Measure

MOST_ORDINAL_LEVELS = 20
# A normal prior with standard deviation 2.5 on the coefficients of standardised covariates (Gelman et al. 2008).
PRIOR_VARIANCE = 2.5**2


@dataclass(frozen=True)
class NullScores:
    """Score residuals of a variable under the model that knows the covariates only.

    Parameters
    ----------
    scores : array of shape (n, k)
        One column, or for a variable of k + 1 classes k columns.
    method : str
        The model, in words, with what had to be done when the usual fit failed.
    levels : tuple
        Values of a binary, ordinal or categorical variable in order; empty for a continuous one. A binary score is
        positive in the second; the columns of a categorical one belong to the second, third and so on.
    """

    scores: np.ndarray
    method: str
    levels: tuple[Any, ...] = ()


class _NotFittedError(Exception):
    """The maximum-likelihood fit separated or did not converge."""


def null_scores(values: Any, measure: Measure, covariates: np.ndarray, robust: bool = False) -> NullScores:
    r"""Return the score residuals of a variable given the covariates.

    - continuous: residual of ordinary least squares; ``robust``: Huber's psi of the residual of an M-estimate, over the
      MAD of the residuals;
    - binary: :math:`y - \hat p` of a logistic regression;
    - ordinal: the probability-scale residual :math:`P(Y < y) - P(Y > y)` of a proportional-odds model (Li and Shepherd
      2012; Liu et al. 2018). With more than twenty levels, or when the fit fails, residuals of the ranks;
    - categorical: indicators minus probabilities of a multinomial logistic regression.

    When a logistic fit separates or does not converge, coefficients get a normal prior of standard deviation 2.5.

    Parameters
    ----------
    values : Series or array of shape (n,)
        None missing. Levels are ordered as numbers, as an ordered Categorical, or else as text.
    measure : {"continuous", "ordinal", "binary", "categorical"}
        What the variable is.
    covariates : array of shape (n, q)
        Design with the intercept first, of full column rank.
    robust : bool, default=False
        For a continuous variable: outlying values count less.

    Returns
    -------
    NullScores

    Raises
    ------
    ValueError
        When values are missing, constant or of more classes than the measure allows.

    Examples
    --------
    >>> null_scores([1.0, 2.0, 6.0], "continuous", np.ones((3, 1)))
    NullScores(scores=array([[-2.],
           [-1.],
           [ 3.]]), method='partial correlation', levels=())
    >>> null_scores(["no", "yes", "yes", "no"], "binary", np.ones((4, 1))).scores.ravel()
    array([-0.5,  0.5,  0.5, -0.5])
    """
    covariates = np.asarray(covariates, dtype=float)
    if len(values) != len(covariates):
        raise ValueError(f"lengths differ: {len(values)} values, {len(covariates)} rows of covariates")
    if measure == "continuous":
        return _continuous(np.asarray(values, dtype=float), covariates, robust)
    codes, levels = encode_levels(values)
    if measure == "binary" and len(levels) != 2:
        raise ValueError(f"a binary variable has two values, got {len(levels)}")
    if len(levels) < 2:
        raise ValueError("the variable is constant")
    if len(levels) == 2:
        return _binary(codes, levels, covariates)
    return (_ordinal if measure == "ordinal" else _categorical)(codes, levels, covariates)


def encode_levels(values: Any) -> tuple[np.ndarray, tuple[Any, ...]]:
    """Return the place of each value among the levels, and the levels in order.

    Parameters
    ----------
    values : Series or array of shape (n,)
        None missing.

    Returns
    -------
    int array of shape (n,)
    tuple
        Ordered as the Categorical says, as numbers, or as text; levels that nobody has are left out.

    Examples
    --------
    >>> encode_levels(["b", "a", "b"])
    (array([1, 0, 1]), ('a', 'b'))
    """
    series = pd.Series(values).reset_index(drop=True)
    if series.isna().any():
        raise ValueError(f"{int(series.isna().sum())} values are missing")
    if isinstance(series.dtype, pd.CategoricalDtype):
        series = series.cat.remove_unused_categories()
        return series.cat.codes.to_numpy(dtype=np.intp), tuple(series.cat.categories)
    if not (pd.api.types.is_numeric_dtype(series) or pd.api.types.is_bool_dtype(series)):
        series = series.astype(str)
    levels, codes = np.unique(series.to_numpy(), return_inverse=True)
    return codes.astype(np.intp), tuple(levels.tolist())


def residualise(values: np.ndarray, covariates: np.ndarray) -> np.ndarray:
    """Return the columns without what the covariates explain by least squares.

    Parameters
    ----------
    values : array of shape (n,) or (n, m)
    covariates : array of shape (n, q)

    Returns
    -------
    array of the shape of ``values``

    Examples
    --------
    >>> residualise(np.array([1.0, 2.0, 6.0]), np.ones((3, 1)))
    array([-2., -1.,  3.])
    """
    basis = np.linalg.qr(covariates)[0]
    return values - basis @ (basis.T @ values)


def _continuous(values: np.ndarray, covariates: np.ndarray, robust: bool) -> NullScores:
    if not np.isfinite(values).all():
        raise ValueError(f"{int((~np.isfinite(values)).sum())} values are missing or infinite")
    residual = residualise(values - values.mean(), covariates)
    if np.linalg.norm(residual) <= 1e-10 * np.linalg.norm(values - values.mean()):
        raise ValueError("the covariates determine the variable")
    if not robust:
        return NullScores(residual[:, None], "partial correlation")
    scores = _huber(values, covariates)
    if scores is None:
        return NullScores(residual[:, None], "partial correlation (too many equal values for a robust fit)")
    return NullScores(scores[:, None], "robust regression (Huber)")


def _huber(values: np.ndarray, covariates: np.ndarray) -> np.ndarray | None:
    import statsmodels.api as sm

    # Standardised, so that the stopping rule does not depend on the unit.
    standard = (values - values.mean()) / values.std()
    norm = sm.robust.norms.HuberT()
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        fit = sm.RLM(standard, covariates, M=norm).fit()
    # A scale of next to nothing: more than half of the values lie on the fit, and the rest would all count the same.
    if not np.isfinite(fit.params).all() or not fit.scale > 1e-6:
        return None
    return np.asarray(norm.psi((standard - covariates @ fit.params) / fit.scale))


def _binary(codes: np.ndarray, levels: tuple[Any, ...], covariates: np.ndarray) -> NullScores:
    import statsmodels.api as sm

    method = "logistic regression"
    try:
        fit = _fitted(sm.Logit(codes, covariates), method="newton", maxiter=50)
        probability = fit.predict()
    except _NotFittedError:
        probability = _ridge_probabilities(codes, covariates)[:, 1]
        method += " (ridge-penalised: the covariates separate the classes)"
    return NullScores((codes - probability)[:, None], method, levels)


def _categorical(codes: np.ndarray, levels: tuple[Any, ...], covariates: np.ndarray) -> NullScores:
    import statsmodels.api as sm

    method = "multinomial regression"
    try:
        fit = _fitted(sm.MNLogit(codes, covariates), method="newton", maxiter=50)
        probabilities = fit.predict()
    except _NotFittedError:
        probabilities = _ridge_probabilities(codes, covariates)
        method += " (ridge-penalised: the covariates separate the classes)"
    scores = np.eye(len(levels))[codes] - probabilities
    return NullScores(scores[:, 1:], method, levels)


def _ordinal(codes: np.ndarray, levels: tuple[Any, ...], covariates: np.ndarray) -> NullScores:
    from statsmodels.miscmodels.ordinal_model import OrderedModel

    if len(levels) > MOST_ORDINAL_LEVELS:
        return _ranks(codes, levels, covariates, f"{len(levels)} levels")
    if covariates.shape[1] == 1:
        shares = np.bincount(codes) / len(codes)
        probabilities = np.broadcast_to(shares, (len(codes), len(levels)))
    else:
        try:
            model = OrderedModel(codes, covariates[:, 1:], distr="logit")
            # By differences, which is what statsmodels does, most of a whole analysis went into this gradient.
            model.score = partial(_ordinal_gradient, codes, covariates[:, 1:])
            fit = _fitted(model, method="bfgs", maxiter=500, skip_hessian=True)
            probabilities = np.asarray(model.predict(fit.params))
        except _NotFittedError:
            return _ranks(codes, levels, covariates, "the proportional-odds fit failed")
    below = np.cumsum(probabilities, axis=1)
    rows = np.arange(len(codes))
    residual = 2 * below[rows, codes] - probabilities[rows, codes] - 1
    return NullScores(residual[:, None], "ordinal regression (proportional odds)", levels)


def _ordinal_gradient(codes: np.ndarray, covariates: np.ndarray, params: np.ndarray) -> np.ndarray:
    """Gradient of the log-likelihood of proportional odds in statsmodels' parameters.

    These are the coefficients, the first threshold, and the logarithms of the steps from each to the next.
    """
    from scipy.special import expit

    q = covariates.shape[1]
    steps = np.exp(params[q + 1 :])
    cuts = np.concatenate([[-np.inf], params[q] + np.concatenate([[0.0], np.cumsum(steps)]), [np.inf]])
    linear = covariates @ params[:q]
    below, above = expit(cuts[codes] - linear), expit(cuts[codes + 1] - linear)
    # Divided by the probability of the class seen: what a threshold below and one above it would change.
    probability = np.maximum(above - below, 1e-15)
    by_lower, by_upper = below * (1 - below) / probability, above * (1 - above) / probability
    n_cuts = len(cuts) - 2
    of_cuts = np.bincount(codes, by_upper, n_cuts + 1)[:-1] - np.bincount(codes, by_lower, n_cuts + 1)[1:]
    from_here = np.cumsum(of_cuts[::-1])[::-1]
    return np.concatenate([(by_lower - by_upper) @ covariates, from_here[:1], steps * from_here[1:]])


def _ranks(codes: np.ndarray, levels: tuple[Any, ...], covariates: np.ndarray, why: str) -> NullScores:
    from scipy.stats import rankdata

    ranks = (2 * rankdata(codes) - len(codes) - 1) / len(codes)
    return NullScores(residualise(ranks, covariates)[:, None], f"partial rank correlation ({why})", levels)


def _fitted(model: Any, **options: Any) -> Any:
    """Fit, and refuse what statsmodels only warns about: separation, no convergence, numbers that overflow."""
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            warnings.filterwarnings("ignore", category=FutureWarning)
            fit = model.fit(disp=0, **options)
            params = np.asarray(fit.params, dtype=float)
    except (Warning, ArithmeticError, ValueError, np.linalg.LinAlgError) as reason:
        raise _NotFittedError(str(reason)) from reason
    except Exception as reason:
        # Separation is an error of its own in statsmodels, or a warning, by version.
        if type(reason).__name__ != "PerfectSeparationError":
            raise
        raise _NotFittedError(str(reason)) from reason
    if not fit.mle_retvals.get("converged", True) or not np.isfinite(params).all():
        raise _NotFittedError("not converged")
    return fit


def _ridge_probabilities(codes: np.ndarray, covariates: np.ndarray) -> np.ndarray:
    from sklearn.linear_model import LogisticRegression

    if covariates.shape[1] == 1:
        return np.broadcast_to(np.bincount(codes) / len(codes), (len(codes), int(codes.max()) + 1))
    model = LogisticRegression(C=PRIOR_VARIANCE, max_iter=2000)
    return model.fit(covariates[:, 1:], codes).predict_proba(covariates[:, 1:])
