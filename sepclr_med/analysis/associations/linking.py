"""One variable against all factors of a space: null model, permutations, effects, sites."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from sepclr_med.analysis.associations.claims import vanishes
from sepclr_med.analysis.associations.designs import Designs, Plan, make_designs
from sepclr_med.analysis.associations.effects import (
    EFFECT_NAMES,
    estimate_effects,
    minimum_detectable_effect,
    widen_effect,
)
from sepclr_med.analysis.associations.exchangeability import count_permutations, draw_permutations
from sepclr_med.analysis.associations.null_models import NullScores, encode_levels, null_scores, residualise
from sepclr_med.analysis.associations.questions import Question, family_labels, joint_labels
from sepclr_med.analysis.associations.sites import estimate_sites
from sepclr_med.analysis.associations.testing import test_factors
from sepclr_med.analysis.measures import find_outlying
from sepclr_med.analysis.participants import design_matrix

MIN_DEGREES = 5
FEW_PERMUTATIONS = 1000
VALUES = ["estimate", "ci_low", "ci_high", "statistic", "p_value", "p_free", "p_fwe", "p_fwe_free", "mde"]


@dataclass(frozen=True)
class Linker:
    """How each variable is tested.

    Parameters
    ----------
    plan : Plan
        Covariates, blocks and families.
    factors : list of str
        Names of the factors.
    n_permutations, seed : int
        As for :func:`sepclr_med.analysis.associations.links.link_factors`.
    robust : bool or None
        Huber's regression for continuous variables; None means for those with outlying values.
    """

    plan: Plan
    factors: list[str]
    n_permutations: int
    seed: int
    robust: bool | None
    # The last permutations of each kind: variables that the same participants have share them.
    _drawn: dict[str, tuple[bytes, np.ndarray]] = field(default_factory=dict, repr=False)

    def link(self, question: Question, factors: np.ndarray) -> tuple[pd.DataFrame, list[str]]:
        """Test one variable.

        Parameters
        ----------
        question : Question
            The variable, and who has it.
        factors : array of shape (n_participants, F)
            Of all participants that ``question.mask`` chooses from.

        Returns
        -------
        DataFrame
            One row per factor.
        list of str
            What must be said.
        """
        n, remarks = len(question), list(question.notes)
        links = pd.DataFrame({"factor": self.factors, "variable": question.name, "measure": question.measure})
        links = links.assign(method="", n=n, n_missing=question.n_missing, effect="")
        links[VALUES] = np.nan
        if not question.answerable:
            return self._close(links, [*remarks, f"not tested: {n} participants are too few, or have one value only"])
        designs = make_designs(question, self.plan)
        if designs.redundant:
            remarks.append(f"left out, as other covariates determine it: {', '.join(designs.redundant)}")
        n_columns = designs.blocked.shape[1]
        if n - n_columns < MIN_DEGREES:
            return self._close(links, [*remarks, f"not tested: {n} participants for {n_columns} columns of covariates"])
        return self._test(links, factors[question.mask], question, designs, remarks)

    def compare_sites(self, question: Question, factors: np.ndarray) -> pd.DataFrame:
        """Estimate the variable's effects in each site; no rows where there are not two sites in which it varies.

        Parameters
        ----------
        question, factors
            As for :meth:`link`.

        Returns
        -------
        DataFrame
        """
        if "site" not in question.rows or question.name == "site" or not question.answerable:
            return pd.DataFrame()
        known = question.rows["site"].notna().to_numpy()
        rows = question.rows[known]
        if rows.groupby("site")[question.name].nunique().ge(2).sum() < 2:
            return pd.DataFrame()
        design = design_matrix(rows, [name for name in question.covariates if name != "site"])
        values, tested = _values(question)[known], factors[question.mask][known]
        sites = rows["site"].to_numpy()
        found = estimate_sites(tested, self.factors, values, question.measure, design, sites, self._is_robust(question))
        return found.assign(variable=question.name)

    def _is_robust(self, question: Question) -> bool:
        if question.measure != "continuous":
            return False
        return bool(find_outlying(question.values).any()) if self.robust is None else self.robust

    def _test(
        self, links: pd.DataFrame, factors: np.ndarray, question: Question, designs: Designs, remarks: list[str]
    ) -> tuple[pd.DataFrame, list[str]]:
        blocked = free = None
        blocked_scores, why = self._scores(question, designs.blocked)
        free_scores, why_not_free = (blocked_scores, why) if designs.same else self._scores(question, designs.free)
        if free_scores is None:
            remarks.append(f"no p_free: {why_not_free}")
        if question.blocked and blocked_scores is None:
            remarks.append(f"not tested: {why}")
        elif question.blocked and blocked_scores is not None:
            remarks += self._few(question)
            blocked = test_factors(factors, blocked_scores.scores, designs.blocked, self._draw(question, "blocked"))
            links = links.assign(statistic=blocked.statistic, p_value=blocked.p_value, p_fwe=blocked.p_fwe)
        if not self.plan.restricted:
            free = blocked
        elif free_scores is not None:
            free = test_factors(factors, free_scores.scores, designs.free, self._draw(question, "free"))
        if free is not None:
            links = links.assign(p_free=free.p_value, p_fwe_free=free.p_fwe)
        # What does not vary within blocks can only be estimated across them.
        scores, design = (blocked_scores, designs.blocked) if blocked else (free_scores, designs.free)
        if scores is not None:
            done = blocked or free
            excess = done.excess if done else 1.0
            links = self._estimate(links, factors, question, design, scores, excess)
        return self._close(links, remarks)

    def _scores(self, question: Question, design: np.ndarray) -> tuple[NullScores | None, str]:
        try:
            return null_scores(_values(question), question.measure, design, robust=self._is_robust(question)), ""
        except ValueError as reason:
            return None, str(reason)

    def _estimate(
        self,
        links: pd.DataFrame,
        factors: np.ndarray,
        question: Question,
        design: np.ndarray,
        scores: NullScores,
        excess: np.ndarray | float,
    ) -> pd.DataFrame:
        effects = estimate_effects(factors, _values(question), question.measure, design, scores, excess)
        robust = self._is_robust(question)
        n, n_covariates, n_levels = len(factors), design.shape[1] - 1, max(2, len(scores.levels))
        information = None
        if question.measure == "binary":
            member = residualise(encode_levels(_values(question))[0].astype(float), design)
            information = float(member @ member)
        smallest = minimum_detectable_effect(
            n, n_covariates, question.measure, n_levels=n_levels, information=information
        )
        return links.assign(
            method=scores.method,
            effect=EFFECT_NAMES["robust" if robust else question.measure],
            mde=widen_effect(smallest, question.measure, excess),
            **{name: effects[name].to_numpy() for name in ("estimate", "ci_low", "ci_high")},
        )

    def _draw(self, question: Question, kind: str) -> np.ndarray:
        key = question.mask.tobytes()
        if kind not in self._drawn or self._drawn[kind][0] != key:
            labels = self._labels(question) if kind == "blocked" else (None, None)
            rng = np.random.default_rng([self.seed, zlib.crc32(key), zlib.crc32(kind.encode())])
            self._drawn[kind] = (key, draw_permutations(self.n_permutations, *labels, rng, n=len(question)))
        return self._drawn[kind][1]

    def _labels(self, question: Question) -> tuple[np.ndarray | None, np.ndarray | None]:
        # All blocks of the plan: the question leaves the variable itself out of its own.
        blocks = joint_labels(question.rows, self.plan.blocks) if self.plan.blocks else None
        families = family_labels(question.rows, self.plan.families) if self.plan.families else None
        return blocks, families

    def _few(self, question: Question) -> list[str]:
        if self.plan.blocks and not self.plan.families:
            # The question has said so already.
            return []
        n_distinct = count_permutations(*self._labels(question), n=len(question))
        if n_distinct >= FEW_PERMUTATIONS:
            return []
        return [f"only {n_distinct} distinct permutations: no p-value much below {1 / n_distinct:.2g}"]

    def _close(self, links: pd.DataFrame, remarks: list[str]) -> tuple[pd.DataFrame, list[str]]:
        links["note"] = "; ".join(remarks)
        tested = links["p_value"].notna() | links["p_free"].notna()
        if tested.any():
            # Of a variable that was tested, these factors could not be.
            why = "nothing is left of this factor once the covariates are taken out"
            links.loc[~tested, "note"] = "; ".join([why, *remarks])
            links.loc[~tested, "mde"] = np.nan
            apart = tested & links["estimate"].isna() & (links["effect"] == "d")
            links.loc[apart, "note"] = "; ".join(["the classes do not overlap", *remarks])
        if self.plan.blocks:
            text = f"vanishes once permutations stay within {self.plan.within}"
            links.loc[vanishes(links), "note"] = "; ".join([text, *remarks])
        return links, remarks


def _values(question: Question) -> np.ndarray:
    column = question.rows[question.name]
    # Classes that are numbers stay numbers: as text, 10 would come before 2.
    as_it_is = question.measure in ("binary", "categorical") and pd.api.types.is_numeric_dtype(column)
    return column.to_numpy() if as_it_is else np.asarray(question.values)
