"""Representational similarity: do participants who lie close together in a space resemble one another clinically?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd
from scipy.stats import kendalltau

from sepclr_med.analysis.associations.designs import Plan, make_designs, name_classes, settle_plan
from sepclr_med.analysis.associations.dissimilarity import (
    Dissimilarity,
    bin_pairs,
    rank_pairs,
    space_dissimilarity,
    upper,
    variable_dissimilarity,
)
from sepclr_med.analysis.associations.mantel import (
    TOLERANCE,
    bootstrap_kendall,
    bootstrap_spearman,
    mantel_kendall,
    mantel_spearman,
)
from sepclr_med.analysis.associations.null_models import null_scores, residualise
from sepclr_med.analysis.associations.questions import Question, ask, joint_labels, seeded
from sepclr_med.analysis.associations.score_pairs import ScorePairs, pair_scores
from sepclr_med.analysis.measures import level_codes, measure_of
from sepclr_med.analysis.participants import Participants
from sepclr_med.errors import UserError, did_you_mean
from sepclr_med.progress import report_progress

RankCorrelation: TypeAlias = Literal["spearman", "kendall"]

COLUMNS = [
    *("variable", "measure", "space", "dissimilarity", "method", "n"),
    *("estimate", "ci_low", "ci_high", "statistic", "p_value", "p_free", "note"),
]
LEVEL = 0.95
# Kendall's tau-b costs a pass over all pairs per draw: beyond 600 participants there are fewer draws, never below 200.
PAIRS_DRAWN, MIN_DRAWS = 400_000_000, 200
MIN_DEGREES = 5


def compare_similarity(
    participants: Participants,
    variables: Sequence[str],
    covariates: Sequence[str] = (),
    blocks: Sequence[str] | None = None,
    *,
    families: str | None = None,
    spaces: Sequence[str] | None = None,
    contrast: tuple[str, str] | None = ("salient", "common"),
    dissimilarities: Sequence[Dissimilarity] = ("euclidean", "cosine"),
    methods: Sequence[RankCorrelation] = ("spearman", "kendall"),
    n_permutations: int = 1000,
    n_bootstrap: int = 1000,
    seed: int = 0,
    described: Mapping[str, Mapping[str, Any]] | None = None,
    measures: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    r"""Correlate participants' dissimilarity in a space with their dissimilarity in a variable (RSA).

    Over all pairs of participants: Spearman's correlation or Kendall's tau-b of the dissimilarities (Kriegeskorte et
    al. 2008; Aglinskas et al. 2022). The test permutes participants, never pairs (Mantel 1967), and is one-sided: a
    link makes similar patients similar. :math:`p = (1 + b) / (K + 1)`, b counting permutations with at least the
    observed correlation.

    Adjustment, participant by participant: factors are freed of the covariates by least squares, their mean kept; of
    the variable the score residuals of a model with the covariates only are compared, permuted and freed of the
    covariates again (Freedman and Lane 1983). Without covariates that is |difference| of numbers, of ranks for an
    ordinal variable, and "different or not" for classes. Dissimilarities alone hold a confound only in part; for
    Spearman those in the covariates are partialled out as well (partial Mantel).

    In permutations ranks are read from a table of 8192 distances, and Kendall's tau-b is counted in at most 64 even
    bins; estimates are exact. Beyond 600 participants the interval of tau-b rests on fewer draws, 400
    at 1,000.

    The contrast of two spaces is the difference of their Spearman correlations under the same permutations and the
    same bootstrap draws. Its p-value, two-sided, takes for null hypothesis that neither space goes with the variable;
    that one goes more than the other is what the interval shows.

    Parameters
    ----------
    participants : Participants
        Those to compare; patients, as a rule.
    variables : sequence of str
        Columns of ``participants.rows``.
    covariates : sequence of str, default=()
        Columns to adjust for.
    blocks : sequence of str or None, default=None
        Columns within whose combinations participants may change places; they are covariates of the blocked test.
        None means ``site`` where there is one; an empty sequence means free permutations.
    families : str or None, default=None
        Column of the family: families are permuted and drawn as wholes.
    spaces : sequence of str or None, default=None
        All of ``participants`` when none are named.
    contrast : (str, str) or None, default=("salient", "common")
        Compared when both are there.
    dissimilarities : sequence of {"euclidean", "cosine"}, default=both
        Of the spaces.
    methods : sequence of {"spearman", "kendall"}, default=both
        Rank correlations.
    n_permutations, n_bootstrap : int, default=1000
        Permutations; draws of participants behind each 95 % percentile interval, none with 0.
    seed : int, default=0
        A variable's result depends on the seed and on who has it, not on what else is asked.
    described, measures : mapping or None, default=None
        Entries of the BIDS sidecar by column; measures asked for by column.

    Returns
    -------
    DataFrame
        Columns ``variable measure space dissimilarity method n estimate ci_low ci_high statistic p_value p_free
        note``. ``statistic`` is the estimate's distance from the mean of the permutations in their standard
        deviations: within blocks that mean is not zero. ``p_free`` is the same test with the covariates as named and
        without blocks.

    Raises
    ------
    ManifestError
        When a name is no column.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> rows = pd.DataFrame({"severity": rng.normal(size=40)})
    >>> factors = rng.normal(size=(40, 2)) + 3 * rows[["severity"]].to_numpy()
    >>> people = Participants(rows, {"salient": factors}, {"salient": ["s_0", "s_1"]}, np.ones(40, dtype=bool))
    >>> found = compare_similarity(people, ["severity"], dissimilarities=["euclidean"], methods=["spearman"])
    >>> found[["variable", "method", "n", "p_value"]]
       variable    method   n   p_value
    0  severity  Spearman  40  0.000999
    """
    plan = settle_plan(participants.rows, variables, covariates, blocks, families)
    names = _known_spaces(participants, spaces)
    usable = np.logical_and.reduce([np.isfinite(participants.spaces[space]).all(axis=1) for space in names])
    people = participants.take(usable)
    rows = name_classes(people.rows, plan)
    comparison = _Comparison(
        plan=plan,
        targets=[(space, kind) for space in names for kind in dissimilarities],
        contrast=contrast if contrast and set(contrast) <= set(names) else None,
        methods=tuple(methods),
        n_permutations=n_permutations,
        n_bootstrap=n_bootstrap,
        seed=seed,
        described=described or {},
    )
    records: list[dict[str, object]] = []
    with report_progress("similarity", len(variables)) as advance:
        for name in dict.fromkeys(variables):
            question = ask(rows, name, plan.covariates, plan.blocks, plan.families, described, measures)
            records += comparison.answer(question, people.spaces)
            advance(name)
    return pd.DataFrame(records, columns=COLUMNS)


@dataclass(frozen=True)
class _Found:
    """One correlation: as observed, in each bootstrap draw, in each permutation."""

    estimate: float
    drawn: np.ndarray
    permuted: np.ndarray
    two_sided: bool = False

    @property
    def interval(self) -> tuple[float, float]:
        draws = self.drawn[np.isfinite(self.drawn)]
        if not len(draws):
            return np.nan, np.nan
        low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return float(low), float(high)

    @property
    def statistic(self) -> float:
        spread = self.permuted.std()
        return float((self.estimate - self.permuted.mean()) / spread) if spread > TOLERANCE else np.nan

    @property
    def p_value(self) -> float:
        if not np.isfinite(self.estimate):
            return np.nan
        n = len(self.permuted) + 1
        above = (1 + int((self.permuted >= self.estimate - TOLERANCE).sum())) / n
        below = (1 + int((self.permuted <= self.estimate + TOLERANCE).sum())) / n
        return min(1.0, 2 * min(above, below)) if self.two_sided else above


@dataclass(frozen=True)
class _Comparison:
    """What is the same for every variable."""

    plan: Plan
    targets: list[tuple[str, Dissimilarity]]
    contrast: tuple[str, str] | None
    methods: tuple[RankCorrelation, ...]
    n_permutations: int
    n_bootstrap: int
    seed: int
    described: Mapping[str, Mapping[str, Any]]

    def answer(self, question: Question, spaces: Mapping[str, np.ndarray]) -> list[dict[str, object]]:
        designs = make_designs(question, self.plan) if question.answerable else None
        if designs is None or len(question) - designs.blocked.shape[1] < MIN_DEGREES:
            note = f"not tested: too few participants ({len(question)}) or one value only"
            return [self._record(question, *target, "", note=note) for target in self.targets]
        factors = {space: spaces[space][question.mask] for space, _ in self.targets}
        beside = [self._ranks_of(question.rows[name], name) for name in question.covariates]
        restricted = self.plan.restricted and question.blocked
        n_draws = 0 if restricted else self.n_bootstrap
        try:
            scores = self._scores(question, designs.free)
            within_scores = self._scores(question, designs.blocked) if restricted else scores
        except ValueError as reason:
            return [self._record(question, *target, "", note=f"not tested: {reason}") for target in self.targets]
        free = main = self._correlate(question, factors, scores, beside, n_draws, restricted=False)
        if restricted:
            cells = joint_labels(question.rows, self.plan.blocks) if self.plan.blocks else np.zeros(len(question))
            within = [*beside, rank_pairs(variable_dissimilarity(cells, "categorical"))]
            main = self._correlate(question, factors, within_scores, within, self.n_bootstrap, restricted=True)
        adjusted = (designs.blocked if restricted else designs.free).shape[1] > 1
        testable = restricted or not self.plan.restricted
        return [
            self._record(
                question,
                space,
                kind,
                _title(method, adjusted),
                (found.estimate, *found.interval),
                (found.statistic, found.p_value) if testable else (np.nan, np.nan),
                free[space, kind, method].p_value,
                "; ".join(question.notes),
            )
            for (space, kind, method), found in main.items()
        ]

    def _correlate(
        self,
        question: Question,
        factors: Mapping[str, np.ndarray],
        asked: ScorePairs,
        beside: list[np.ndarray],
        n_draws: int,
        restricted: bool,
    ) -> dict[tuple[str, str, str], _Found]:
        pairs = [space_dissimilarity(_adjust(factors[space], asked.basis), kind) for space, kind in self.targets]
        # The same permutations and draws for every space: contrasts need them.
        rng = seeded(self.seed, question.name, "blocked" if restricted else "free")
        permutations = question.permutations(self.n_permutations, restricted, rng)
        draws = _draw_participants(question, n_draws, rng)
        found: dict[tuple[str, str, str], _Found] = {}
        if "spearman" in self.methods:
            ranks = [rank_pairs(matrix) for matrix in pairs]
            observed, permuted = mantel_spearman(ranks, asked, beside, permutations)
            everyone = np.vstack([np.ones((1, len(question))), draws])
            # Ranks of permutations are read from a table: what is shown is exact, and all else moves with it.
            exact, *each = bootstrap_spearman(ranks, rank_pairs(asked.observed), beside, everyone)
            drawn = np.reshape(each, (len(draws), len(pairs)))
            found |= self._collect("spearman", observed, drawn, permuted, exact)
            found |= self._contrasts(found)
        if "kendall" in self.methods:
            levels = [bin_pairs(matrix) for matrix in pairs]
            observed, permuted = mantel_kendall(levels, asked, permutations)
            n_kept = max(MIN_DRAWS, PAIRS_DRAWN // (len(question) * (len(question) - 1)))
            drawn = bootstrap_kendall(levels, bin_pairs(asked.observed), draws[:n_kept])
            # Bins make tau-b about 1 % larger, in the draws too.
            exact = np.array([kendalltau(upper(matrix), upper(asked.observed).round(10))[0] for matrix in pairs])
            found |= self._collect("kendall", observed, drawn + exact - observed, permuted, exact)
        return found

    def _scores(self, question: Question, design: np.ndarray) -> ScorePairs:
        return pair_scores(null_scores(question.values, question.measure, design).scores, design)

    def _collect(
        self, method: str, observed: np.ndarray, drawn: np.ndarray, permuted: np.ndarray, exact: np.ndarray
    ) -> dict[tuple[str, str, str], _Found]:
        shown = np.where(np.isfinite(observed), exact, np.nan)
        return {
            (space, kind, method): _Found(float(shown[k]), drawn[:, k], (permuted + exact - observed)[:, k])
            for k, (space, kind) in enumerate(self.targets)
        }

    def _contrasts(self, found: Mapping[tuple[str, str, str], _Found]) -> dict[tuple[str, str, str], _Found]:
        if self.contrast is None:
            return {}
        one, other = self.contrast
        kinds = dict.fromkeys(kind for _, kind in self.targets)
        pairs = {kind: (found[one, kind, "spearman"], found[other, kind, "spearman"]) for kind in kinds}
        return {
            (f"{one} - {other}", kind, "contrast"): _Found(
                a.estimate - b.estimate, a.drawn - b.drawn, a.permuted - b.permuted, two_sided=True
            )
            for kind, (a, b) in pairs.items()
        }

    def _ranks_of(self, column: pd.Series, name: str) -> np.ndarray:
        entry = self.described.get(name)
        measure, _ = measure_of(column, entry)
        values = level_codes(column, entry) if measure == "ordinal" else column
        return rank_pairs(variable_dissimilarity(values.to_numpy(), measure))

    def _record(
        self,
        question: Question,
        space: str,
        kind: str,
        method: str,
        estimate: tuple[float, float, float] = (np.nan, np.nan, np.nan),
        test: tuple[float, float] = (np.nan, np.nan),
        p_free: float = np.nan,
        note: str = "",
    ) -> dict[str, object]:
        about = (question.name, question.measure, space, kind, method, len(question))
        return dict(zip(COLUMNS, (*about, *estimate, *test, p_free, note), strict=True))


def _known_spaces(participants: Participants, spaces: Sequence[str] | None) -> list[str]:
    if spaces is None:
        return list(participants.spaces)
    for space in spaces:
        if space not in participants.spaces:
            hint = did_you_mean(space, participants.spaces) or f"there are: {', '.join(participants.spaces)}"
            raise UserError(f"similarity: no space {space!r} among the embeddings; {hint}")
    return list(spaces)


def _title(method: str, adjusted: bool) -> str:
    if method == "kendall":
        return "Kendall tau-b, adjusted" if adjusted else "Kendall tau-b"
    title = "Spearman, partial" if adjusted else "Spearman"
    return f"{title}, contrast" if method == "contrast" else title


def _adjust(factors: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Free the factors of the covariates and keep their mean, from which the cosine is seen."""
    return residualise(factors, basis) + factors.mean(axis=0)


def _draw_participants(question: Question, n_draws: int, rng: np.random.Generator) -> np.ndarray:
    kin = question.kin()
    unit = np.arange(len(question)) if kin is None else kin
    n_units = int(unit.max()) + 1
    return rng.multinomial(n_units, np.full(n_units, 1 / n_units), size=n_draws)[:, unit]
