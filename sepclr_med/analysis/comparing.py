"""Several methods on the same participants: scores, intervals over seeds and participants, paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from sepclr_med.analysis.metrics import HEADLINES, METRICS
from sepclr_med.analysis.resampling import LEVEL, draw_weights
from sepclr_med.analysis.schemes import Scheme, choose_scheme
from sepclr_med.analysis.scoring import Answer, Effort, answer_variable
from sepclr_med.analysis.spaces import Space, all_rows, join_spaces
from sepclr_med.analysis.variables import FIRST, Groups, Over, Variable, choose_variables
from sepclr_med.errors import ManifestError, Problem

COLUMNS = [
    *("method", "space", "variable", "people", "metric", "value", "ci_low", "ci_high", "seed_sd"),
    *("difference", "difference_low", "difference_high", "p_value", "chance", "expected", "n", "n_seeds"),
]
SPACES = ("common", "salient")


def compare_embeddings(
    runs: Mapping[str, Sequence[Mapping[str, pd.DataFrame]]],
    manifest: pd.DataFrame,
    target: Sequence[str],
    background: Sequence[str] | None = None,
    variables: Sequence[str] | None = None,
    n_bootstrap: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    r"""Probe both spaces of every method and seed, and compare each method with the first.

    Everyone is asked for the diagnosis; patients for the rest, shared columns included, since separation of the groups
    alone proves nothing about what varies within them; and everyone for shared columns once more. A method of one space
    has the same figures in both.

    Intervals resample participants (whole families) and seeds together, the same draws for all methods. The p-value of
    a difference is that of the corrected resampled t-test over seeds (Nadeau and Bengio, Machine Learning 2003),

    .. math:: t = \bar d \, / \sqrt{(1 / J + n_{scored} / n_{fitted}) \, s_d^2}

    with J - 1 degrees of freedom: seeds share their participants, and their spread alone would be too small.

    Parameters
    ----------
    runs : mapping of str to sequence of mapping
        Method to the embeddings of each seed, in the same order of seeds; each maps a space to its table.
    manifest : DataFrame
    target, background : sequence of str
        Diagnoses of each role.
    variables : sequence of str or None, default=None
        Columns; none means all that can be probed.
    n_bootstrap : int, default=1000
    seed : int, default=0

    Returns
    -------
    DataFrame
        ``method space variable people metric value ci_low ci_high seed_sd difference difference_low difference_high
        p_value chance expected n n_seeds``; ``expected`` is ``high`` or ``low``, ``people`` is ``everyone`` or
        ``target``.

    Raises
    ------
    ManifestError
        When embeddings and manifest do not match, or methods have other participants or numbers of seeds.
    """
    joined = {name: [join_spaces(_both_spaces(tables), manifest) for tables in seeds] for name, seeds in runs.items()}
    _require_same(joined)
    groups = Groups(list(target), list(background) if background else None)
    seen = all_rows(next(iter(joined.values()))[0])
    scheme = choose_scheme(seen["split"])
    effort = Effort(n_bootstrap, 0, seed)
    records: list[dict[str, object]] = []
    for variable, expected in questions(seen, groups, variables):
        for space in SPACES:
            answers = _answers(joined, space, variable, groups, scheme, effort)
            records += _records(answers, space, variable, expected[space], effort)
    return pd.DataFrame(records, columns=COLUMNS)


def questions(
    rows: pd.DataFrame, groups: Groups, variables: Sequence[str] | None
) -> list[tuple[Variable, dict[str, str]]]:
    """Return what is asked of whom, and whether each space is expected to know.

    A clinical column that only patients have belongs in the salient space, one that controls have too in the common
    one, as do age, sex, site and the like; the diagnosis belongs in the salient space.
    """
    chosen, _, _ = choose_variables(rows, variables, groups)
    shared = {v.name for v in chosen if v.over == "background" or v.name in FIRST[1:]}
    asked = []
    for variable in chosen:
        if variable.over == "background":
            continue
        is_shared = variable.name in shared
        expected = {"common": "high" if is_shared else "low", "salient": "low" if is_shared else "high"}
        asked.append((variable, expected))
        other: Over = "target" if variable.over == "everyone" else "everyone"
        if is_shared:
            asked.append((Variable(variable.name, variable.measure, other, variable.described), expected))
    return asked


def _both_spaces(tables: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    only = tables["salient"]
    common = tables.get("common")
    if common is None:
        common = only.rename(columns=lambda name: name.replace("salient_", "common_", 1))
    return {"common": common, "salient": only}


def _require_same(joined: Mapping[str, Sequence[Sequence[Space]]]) -> None:
    first, *others = joined.items()
    rows = first[1][0][0].rows.index
    problems = [
        Problem(f"{name}: other images or seeds than {first[0]}", fix="embed the same cohort with the same seeds")
        for name, seeds in [first, *others]
        if len(seeds) != len(first[1]) or any(not space.rows.index.equals(rows) for run in seeds for space in run)
    ]
    if problems:
        raise ManifestError("compare: methods cannot be held against one another", problems)


def _answers(
    joined: Mapping[str, Sequence[Sequence[Space]]],
    space: str,
    variable: Variable,
    groups: Groups,
    scheme: Scheme,
    effort: Effort,
) -> dict[str, list[Answer]]:
    found = {
        name: [
            answer_variable(next(s for s in run if s.name == space), variable, groups, scheme, effort) for run in seeds
        ]
        for name, seeds in joined.items()
    }
    given = {name: [answer for answer in answers if answer is not None] for name, answers in found.items()}
    return {name: answers for name, answers in given.items() if len(answers) == len(found[name])}


def _records(
    answers: Mapping[str, Sequence[Answer]], space: str, variable: Variable, expected: str, effort: Effort
) -> list[dict[str, object]]:
    if not answers:
        return []
    name = HEADLINES[variable.measure]
    metric = METRICS[variable.measure][name]
    first = next(iter(answers.values()))
    one, n_seeds = first[0], len(first)
    rng = effort.rng(f"{variable.label} {variable.over}", 2)
    weights = draw_weights(one.prediction.truth, one.families, effort.n_bootstrap, rng)
    weights = np.vstack([np.ones(weights.shape[1]), weights])
    seeds = np.vstack([np.arange(n_seeds), rng.integers(n_seeds, size=(effort.n_bootstrap, n_seeds))])
    # (seeds, 1 + draws): the first column is what was observed.
    scores = {
        method: np.stack([metric(a.prediction.truth, a.prediction.scores, weights) for a in own])
        for method, own in answers.items()
    }
    drawn = {m: np.take_along_axis(values, seeds.T, axis=0).mean(axis=0) for m, values in scores.items()}
    reference = next(iter(answers))
    n = len(np.unique(one.families))
    records = []
    for method, values in scores.items():
        gap = drawn[method] - drawn[reference]
        apart = values[:, 0] - scores[reference][:, 0]
        p_value = corrected_t_test(apart, n, one.n_fitted) if method != reference else np.nan
        spread = values[:, 0].std(ddof=1) if n_seeds > 1 else np.nan
        figures = (drawn[method][0], *_interval(drawn[method][1:]), spread, gap[0], *_interval(gap[1:]), p_value)
        head = (method, space, variable.name, variable.over, name)
        tail = (one.chance[name], expected, n, n_seeds)
        records.append(dict(zip(COLUMNS, (*head, *figures, *tail), strict=True)))
    return records


def corrected_t_test(differences: np.ndarray, n_scored: int, n_fitted: int) -> float:
    """Return the two-sided p-value of the corrected resampled t-test; missing with one difference or no spread.

    Examples
    --------
    >>> round(corrected_t_test(np.array([0.1, 0.2, 0.15]), 100, 400), 3)
    0.059
    """
    n = len(differences)
    spread = differences.std(ddof=1) if n > 1 else 0.0
    if not spread > 0:
        return np.nan
    t = differences.mean() / (spread * np.sqrt(1 / n + n_scored / n_fitted))
    return float(2 * stats.t.sf(abs(t), n - 1))


def _interval(drawn: np.ndarray) -> tuple[float, float]:
    if not drawn.size or np.isnan(drawn).all():
        return np.nan, np.nan
    tail = 100 * (1 - LEVEL) / 2
    return tuple(np.nanpercentile(drawn, [tail, 100 - tail]).tolist())
