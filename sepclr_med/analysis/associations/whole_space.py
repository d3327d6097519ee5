"""One variable against a whole space: predictions by every scheme, and the tests beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from sepclr_med.analysis.associations.batteries import fit_battery
from sepclr_med.analysis.associations.designs import Designs, Plan, make_designs
from sepclr_med.analysis.associations.null_models import null_scores
from sepclr_med.analysis.associations.predictors import FoldPredictions, Values, predict_folds
from sepclr_med.analysis.associations.questions import Question, joint_labels, seeded
from sepclr_med.analysis.associations.space_test import N_FOLDS, SpaceTest, divide_rows, test_space
from sepclr_med.analysis.metrics import METRICS
from sepclr_med.analysis.participants import design_matrix
from sepclr_med.analysis.resampling import score_with_intervals
from sepclr_med.analysis.schemes import Scheme, folds_of
from sepclr_med.analysis.units import NO_SITE, Kind, Units

COLUMNS = [
    *("variable", "measure", "scheme", "predictors", "metric"),
    *("value", "ci_low", "ci_high", "chance", "p_value", "p_free", "n"),
]
N_REPEATS = 3
MIN_DEGREES = 5
MIN_PER_CLASS = 5
CROSS_VALIDATED, LEAVE_SITE_OUT = Scheme("cross-validated", None), Scheme("leave-site-out", None)


@dataclass(frozen=True)
class Answer:
    """What one variable gave.

    Parameters
    ----------
    records : list of dict
        Rows of the table of predictions.
    whole : dict
        The row of the whole space among the links.
    notes : list of str
        What must be said.
    """

    records: list[dict[str, object]]
    whole: dict[str, object]
    notes: list[str]


@dataclass(frozen=True)
class SpacePredictor:
    """What is the same for every variable.

    Parameters
    ----------
    plan : Plan
        Covariates, blocks and families.
    space : str
        Its name.
    factors : array of shape (N, d)
        Of all participants that a question chooses from.
    batteries : mapping of str to sequence of str
        Items by battery.
    site : str
        Column left out in turn.
    n_permutations, n_bootstrap, seed : int
        As for :func:`sepclr_med.analysis.associations.prediction.predict_variables`.
    """

    plan: Plan
    space: str
    factors: np.ndarray
    batteries: Mapping[str, Sequence[str]]
    site: str
    n_permutations: int
    n_bootstrap: int
    seed: int
    # The last permutations of each kind: variables that the same participants have share them.
    _drawn: dict[str, tuple[bytes, np.ndarray]] = field(default_factory=dict, repr=False)

    def answer(self, question: Question) -> Answer:
        """Predict and test one variable."""
        notes = list(question.notes)
        designs = make_designs(question, self.plan) if question.answerable else None
        if designs is None or len(question) - designs.blocked.shape[1] < MIN_DEGREES:
            notes.append(f"not predicted: too few participants ({len(question)}) or one value only")
            return Answer([], self._whole(question, notes=notes), notes)
        factors = self.factors[question.mask]
        main, free, why = self.test(question)
        notes += why
        design = designs.blocked if question.blocked else designs.free
        records = self._score(question, factors, design, CROSS_VALIDATED, main, free, notes)
        own = [row for row in records if row["predictors"] == self.space and row["metric"] == _effect(question)]
        whole = self._whole(question, own[0] if own else None, main, notes, free)
        if self._has_sites(question):
            across = self._across(question)
            found = self._test(question, factors, across, self._sites(question)[None], designs) if main else None
            records += self._score(question, factors, across, LEAVE_SITE_OUT, found, None, notes)
        return Answer(records, whole, notes)

    def test(self, question: Question) -> tuple[SpaceTest | None, SpaceTest | None, list[str]]:
        """Test one variable within blocks and freely; say why where that is impossible."""
        designs, factors = make_designs(question, self.plan), self.factors[question.mask]
        labels = joint_labels(question.rows, question.blocks) if question.blocks else np.zeros(len(question), dtype=int)
        rng = seeded(self.seed, question.name, "folds")
        # Never by the variable: folds that suit the observed values better than permuted ones would favour them.
        folds = np.stack([divide_rows(labels, question.kin(), N_FOLDS, rng) for _ in range(N_REPEATS)])
        try:
            if not self.plan.restricted:
                found = self._test(question, factors, designs.free, folds, designs)
                return found, found, []
            main = self._test(question, factors, designs.blocked, folds, designs) if question.blocked else None
            return main, self._test(question, factors, designs.free, folds, designs, free=True), []
        except ValueError as reason:
            return None, None, [f"not tested: {reason}"]

    def _test(
        self,
        question: Question,
        factors: np.ndarray,
        design: np.ndarray,
        folds: np.ndarray,
        designs: Designs,
        free: bool = False,
    ) -> SpaceTest:
        scores = null_scores(question.values, question.measure, designs.free if free else designs.blocked).scores
        restricted = self.plan.restricted and not free
        return test_space(factors, scores, design, folds, self._draw(question, restricted))

    def _draw(self, question: Question, restricted: bool) -> np.ndarray:
        kind, key = "blocked" if restricted else "free", question.mask.tobytes()
        if kind not in self._drawn or self._drawn[kind][0] != key:
            rng = seeded(self.seed, str(key), kind)
            self._drawn[kind] = (key, question.permutations(self.n_permutations, restricted, rng))
        return self._drawn[kind][1]

    def _score(
        self,
        question: Question,
        factors: np.ndarray,
        design: np.ndarray,
        scheme: Scheme,
        test: SpaceTest | None,
        free: SpaceTest | None,
        notes: list[str],
    ) -> list[dict[str, object]]:
        found, remarks = self._predict(question, factors, design, scheme)
        notes += remarks
        if found is None:
            return []
        metrics = METRICS[question.measure]
        everyone = np.ones((1, len(found.truth)))
        kin = question.kin()
        unit = found.rows if kin is None else kin[found.rows]
        records: list[dict[str, object]] = []
        for name in ("covariates", "space", "covariates + space"):
            if name not in found.scores:
                continue
            rng = seeded(self.seed, question.name, scheme.name)
            values = score_with_intervals(metrics, found.truth, found.scores[name], unit, self.n_bootstrap, rng)
            is_space = name == "space"
            for metric, value in values.items():
                blind = metrics[metric](found.truth, found.scores["chance"], everyone)[0]
                tests = (test.p_value if test and is_space else np.nan, free.p_value if free and is_space else np.nan)
                label = name.replace("space", self.space)
                about = (question.name, question.measure, scheme.name, label, metric)
                record = (*about, *value, _chance(metric, found, float(blind)), *tests, len(np.unique(found.rows)))
                records.append(dict(zip(COLUMNS, record, strict=True)))
        return records

    def _predict(
        self, question: Question, factors: np.ndarray, design: np.ndarray, scheme: Scheme
    ) -> tuple[FoldPredictions | None, list[str]]:
        kind: Kind = "regression" if question.measure in ("continuous", "ordinal") else "classification"
        kept, remarks = _frequent(question) if kind == "classification" else (np.ones(len(question), dtype=bool), [])
        people = np.arange(len(question)).astype(str)
        kin = question.kin()
        sites = self._sites(question) if scheme is LEAVE_SITE_OUT else None
        units = Units(
            features=factors,
            truth=question.values,
            participants=people,
            splits=people,
            sites=np.full(len(people), NO_SITE, dtype=object) if sites is None else sites.astype(str).astype(object),
            families=people if kin is None else kin.astype(str),
        ).take(kept)
        if kind == "classification" and len(np.unique(units.truth)) < 2:
            return None, [*remarks, f"not predicted: fewer than two classes have {MIN_PER_CLASS} participants"]
        folds, more = folds_of(units, kind, scheme, self.seed)
        if not folds:
            return None, [*remarks, f"{scheme.name}: too little to fit on"]
        battery = self._battery(question) if question.name in self.batteries else None
        return predict_folds(units, kind, design[kept], folds, self.seed, battery), [*remarks, *more]

    def _battery(self, question: Question) -> Values:
        items = list(self.batteries[question.name])

        def values(fitted: np.ndarray, scored: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            component = fit_battery(question.rows.iloc[fitted], items)
            sides = (component.transform(question.rows.iloc[rows]).to_numpy() for rows in (fitted, scored))
            return next(sides), next(sides)

        return values

    def _has_sites(self, question: Question) -> bool:
        if self.site not in question.rows or question.name == self.site or not question.blocked:
            return False
        counts = question.rows[self.site].value_counts()
        return len(counts) > 1 and bool(question.rows[self.site].notna().all())

    def _sites(self, question: Question) -> np.ndarray:
        return pd.factorize(question.rows[self.site], sort=True)[0]

    def _across(self, question: Question) -> np.ndarray:
        """Return the covariates that mean the same at a site never seen."""
        names = [name for name in question.covariates if name not in (self.site, *self.plan.blocks)]
        return design_matrix(question.rows, names)

    def _whole(
        self,
        question: Question,
        record: Mapping[str, object] | None = None,
        test: SpaceTest | None = None,
        notes: Sequence[str] = (),
        free: SpaceTest | None = None,
    ) -> dict[str, object]:
        classes = question.measure in ("binary", "categorical")
        shown = {"estimate": "value", "ci_low": "ci_low", "ci_high": "ci_high"}
        return {
            "factor": f"{self.space} (whole)",
            "space": self.space,
            "variable": question.name,
            "measure": question.measure,
            "method": f"{'logistic' if classes else 'ridge'}, cross-validated",
            "n": len(question),
            **{name: record[column] if record else np.nan for name, column in shown.items()},
            "effect": _effect(question),
            "statistic": test.statistic if test else np.nan,
            "p_value": test.p_value if test else np.nan,
            "p_free": free.p_value if free else np.nan,
            "note": "; ".join(dict.fromkeys(notes)),
        }


def _effect(question: Question) -> str:
    return "auc" if question.measure in ("binary", "categorical") else "r2"


def _frequent(question: Question) -> tuple[np.ndarray, list[str]]:
    """Set classes aside that are too rare to be in every fold."""
    labels = pd.Series(question.values)
    counts = labels.value_counts()
    rare = counts[counts < MIN_PER_CLASS]
    kept = ~labels.isin(rare.index).to_numpy()
    listed = ", ".join(f"{label} ({n})" for label, n in rare.items())
    return kept, [f"set aside for prediction as too rare: {listed}"] if len(rare) else []


def _chance(metric: str, found: FoldPredictions, blind: float) -> float:
    """Return what a predictor that knows nothing scores."""
    if metric == "balanced_accuracy":
        return 1 / found.scores["chance"].shape[1]
    return {"auc": 0.5, "spearman": 0.0}.get(metric, blind)
