"""ComBat: site differences in location and scale taken out of features, fitted on some rows, applied to any."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from sepclr_med.analysis.combat_priors import shrink_nonparametric, shrink_parametric
from sepclr_med.cohort.covariates import choose_features, learn_coding, refuse, require_columns
from sepclr_med.errors import Problem

UNSEEN_SITE = (
    "ComBat knows no site it was not fitted on: fit again with some of its participants (its controls, with the "
    "preserved covariates, are enough to onboard it), or predict it as a left-out site without ComBat, or adjust for "
    "covariates other than site with CovariateResidualizer"
)


class ComBat(TransformerMixin, BaseEstimator):
    r"""Remove each site's shift and scale from features, keeping what preserved covariates explain.

    The model of feature :math:`g` of participant :math:`j` at site :math:`i` is
    :math:`Y_{ijg} = \alpha_g + x_j\beta_g + \gamma_{ig} + \delta_{ig}\varepsilon_{ijg}` (Johnson 2007). Least squares
    give :math:`\alpha, \beta` and the pooled variance :math:`\sigma_g^2`; the standardised residuals of each site give
    :math:`\gamma_{ig}` and :math:`\delta_{ig}^2`, which empirical Bayes draws towards their mean over features, the
    more the smaller the site. Adjusted values are
    :math:`\sigma_g (z - \gamma^*_{ig}) / \delta^*_{ig} + \alpha_g + x_j\beta_g`.

    Fit it on training rows, inside cross-validation. Do not preserve the variable that is predicted or tested
    afterwards: the adjusted features would carry it. A site with one group only cannot be told from the disease.

    Parameters
    ----------
    site : str, default="site"
        Column of the sites.
    preserve : sequence of str, default=()
        Covariates whose effect is kept, such as ``["age", "sex"]``.
    features : sequence of str or None, default=None
        Columns to adjust; none means every other numeric column.
    parametric : bool, default=True
        Normal and inverse gamma priors; False uses the features themselves as the prior (slower, needs many features).
    empirical_bayes : bool, default=True
        False takes each feature's own estimates; needed with fewer than two features.
    mean_only : bool, default=False
        Shift without scale, for sites with few participants.
    reference : str or None, default=None
        A site left as it is; the others are brought to it.
    classes : sequence of str, default=()
        Preserved covariates that are classes although written as numbers.

    Attributes
    ----------
    sites_ : list of str
        Sites fitted on.
    coef_ : array of shape (columns, features)
        Effects :math:`\beta` of the preserved covariates.
    grand_mean_, pooled_sd_ : array of shape (features,)
        :math:`\alpha` and :math:`\sigma`.
    shift_, scale_ : array of shape (sites, features)
        :math:`\gamma^*` and :math:`\delta^{*2}`, in units of ``pooled_sd_``.

    References
    ----------
    Johnson, Li and Rabinovic (2007), Biostatistics 8, 118-127. Fortin et al. (2018), NeuroImage 167, 104-120.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> table = pd.DataFrame(rng.normal(size=(60, 3)), columns=["f0", "f1", "f2"])
    >>> table["site"] = np.repeat(["A", "B"], 30)
    >>> table.loc[30:, ["f0", "f1", "f2"]] += 5
    >>> adjusted = ComBat().fit_transform(table)
    >>> bool((adjusted[30:].mean() - adjusted[:30].mean()).abs().max() < 0.2)
    True
    """

    def __init__(
        self,
        site: str = "site",
        preserve: Sequence[str] = (),
        features: Sequence[str] | None = None,
        parametric: bool = True,
        empirical_bayes: bool = True,
        mean_only: bool = False,
        reference: str | None = None,
        classes: Sequence[str] = (),
    ):
        self.site = site
        self.preserve = preserve
        self.features = features
        self.parametric = parametric
        self.empirical_bayes = empirical_bayes
        self.mean_only = mean_only
        self.reference = reference
        self.classes = classes

    def fit(self, X: pd.DataFrame, y: Any = None) -> ComBat:  # noqa: N803
        """Fit site shifts and scales on the rows given.

        Parameters
        ----------
        X : DataFrame
            Features, site and preserved covariates; nothing missing.
        y : ignored

        Returns
        -------
        ComBat
            Itself.

        Raises
        ------
        ManifestError
            When columns are absent or values missing, a site has one row, the reference is no site, or site and
            preserved covariates cannot be told apart.
        """
        self.coding_ = learn_coding(X, self.preserve, self.classes)
        site = learn_coding(X, [self.site], [self.site])
        self.sites_ = list(site.levels[0][1])
        self.features_ = choose_features(X, self.features, [self.site, *self.preserve])
        where = self._places(X)
        values = X[self.features_].to_numpy(dtype=float)
        covariates = self.coding_.encode(X)
        refuse("ComBat cannot be fitted", self._problems(values, covariates, where))
        dummies = np.eye(len(self.sites_))[where]
        self._standardise(values, covariates, dummies)
        standardised = self._standardised(values, covariates)
        self.shift_, self.scale_ = self._site_effects(standardised, where)
        self.feature_names_in_ = np.asarray(X.columns, dtype=object)
        self.n_features_in_ = X.shape[1]
        return self

    def transform(self, X: pd.DataFrame) -> pd.DataFrame:  # noqa: N803
        """Return the adjusted features of any rows from sites that were fitted.

        Parameters
        ----------
        X : DataFrame
            Features, site and preserved covariates by name; other columns are left out.

        Returns
        -------
        DataFrame
            The features, same index.

        Raises
        ------
        ManifestError
            When a site was not fitted on: the message says what can be done.
        """
        check_is_fitted(self, "shift_")
        require_columns(X, [*self.features_, self.site, *self.preserve])
        where = self._places(X)
        covariates = self.coding_.encode(X, fix="fit on rows that include it, or do not preserve this covariate")
        values = X[self.features_].to_numpy(dtype=float)
        clean = (self._standardised(values, covariates) - self.shift_[where]) / np.sqrt(self.scale_[where])
        adjusted = clean * self.pooled_sd_ + self.grand_mean_ + covariates @ self.coef_
        if self.reference is not None:
            adjusted = np.where((where == self.sites_.index(str(self.reference)))[:, None], values, adjusted)
        return pd.DataFrame(adjusted, index=X.index, columns=pd.Index(self.features_))

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Return the names of the adjusted features."""
        check_is_fitted(self, "shift_")
        return np.asarray(self.features_, dtype=object)

    def _places(self, table: pd.DataFrame) -> np.ndarray:
        from sepclr_med.cohort.covariates import missing_values

        refuse("site is needed for every row", missing_values(table, [self.site]))
        place = {site: number for number, site in enumerate(self.sites_)}
        named = table[self.site].astype(str)
        unseen = sorted(set(named) - set(place))
        refuse(
            "site was not fitted",
            [
                Problem(
                    f"{int((named == site).sum())} rows of a site that was not there when fitting",
                    column=self.site,
                    got=site,
                    allowed=", ".join(self.sites_),
                    fix=UNSEEN_SITE,
                    code="unseen_site",
                )
                for site in unseen
            ],
        )
        return named.map(place).to_numpy(dtype=int)

    def _problems(self, values: np.ndarray, covariates: np.ndarray, where: np.ndarray) -> list[Problem]:
        problems = []
        counts = np.bincount(where, minlength=len(self.sites_))
        for site, count in zip(self.sites_, counts, strict=True):
            if count < 2 and not self.mean_only:
                fix = "merge it with a site of the same scanner, leave it out, or use mean_only=True"
                problems.append(Problem("site has one row, two are needed", column=self.site, got=site, fix=fix))
        if self.reference is not None and str(self.reference) not in self.sites_:
            allowed = ", ".join(self.sites_)
            problems.append(Problem("reference is no site", got=str(self.reference), allowed=allowed))
        if not np.isfinite(values).all():
            names = [f for f, bad in zip(self.features_, ~np.isfinite(values).all(axis=0), strict=True) if bad]
            problems.append(Problem("features have missing values", column=", ".join(names), fix="leave them out"))
        design = np.hstack([np.eye(len(self.sites_))[where], covariates])
        if np.linalg.matrix_rank(design) < design.shape[1]:
            got = ", ".join(self.coding_.names)
            fix = "preserve fewer covariates, or leave out the sites in which they do not vary"
            problems.append(Problem("site and preserved covariates cannot be told apart", got=got, fix=fix))
        if len(self.features_) < 2 and self.empirical_bayes:
            problems.append(Problem("one feature gives no prior", fix="use empirical_bayes=False"))
        return problems

    def _standardise(self, values: np.ndarray, covariates: np.ndarray, dummies: np.ndarray) -> None:
        effects = np.linalg.lstsq(np.hstack([dummies, covariates]), values, rcond=None)[0]
        site_effects, self.coef_ = effects[: dummies.shape[1]], effects[dummies.shape[1] :]
        squared = (values - dummies @ site_effects - covariates @ self.coef_) ** 2
        if self.reference is None:
            self.grand_mean_ = dummies.mean(axis=0) @ site_effects
            variance = squared.mean(axis=0)
        else:
            mine = self.sites_.index(str(self.reference))
            self.grand_mean_ = site_effects[mine]
            variance = squared[dummies[:, mine] == 1].mean(axis=0)
        # A feature that does not vary, but for rounding, has nothing to scale and no site effect.
        self._varies = variance > 1e-20 * np.square(values).mean(axis=0)
        self.pooled_sd_ = np.sqrt(np.where(self._varies, variance, 1.0))

    def _standardised(self, values: np.ndarray, covariates: np.ndarray) -> np.ndarray:
        return (values - self.grand_mean_ - covariates @ self.coef_) / self.pooled_sd_

    def _site_effects(self, standardised: np.ndarray, where: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        shifts, scales = [], []
        for number, _ in enumerate(self.sites_):
            rows = standardised[where == number]
            shift = rows.mean(axis=0)
            scale = np.ones_like(shift) if self.mean_only else rows.var(axis=0, ddof=1)
            scale = np.where(scale > 0, scale, 1.0)
            if self.empirical_bayes:
                shrink = shrink_parametric if self.parametric else shrink_nonparametric
                kept = self._varies
                shift[kept], scale[kept] = shrink(rows[:, kept], shift[kept], scale[kept], self.mean_only)
            shifts.append(shift)
            scales.append(scale)
        return np.stack(shifts), np.stack(scales)
