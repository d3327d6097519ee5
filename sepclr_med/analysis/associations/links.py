"""``link``: each factor of a space against each variable, tested among exchangeable participants."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from sepclr_med.analysis.associations.claims import vanishes
from sepclr_med.analysis.associations.designs import Plan, name_classes, settle_plan
from sepclr_med.analysis.associations.families import adjust_families
from sepclr_med.analysis.associations.linking import Linker
from sepclr_med.analysis.associations.questions import Question, ask
from sepclr_med.analysis.participants import Participants
from sepclr_med.errors import ManifestError, Problem, UserError
from sepclr_med.progress import report_progress

LINK_COLUMNS = [
    *("factor", "space", "variable", "measure", "method", "n", "n_missing", "estimate", "effect", "ci_low", "ci_high"),
    *("statistic", "p_value", "p_free", "p_fwe", "p_fwe_free", "p_fdr", "family", "mde", "note"),
]
SITE_COLUMNS = [
    *("factor", "variable", "site", "n", "estimate", "ci_low", "ci_high", "tau2", "i2", "q", "p_heterogeneity"),
]
SHOWN = 8

logger = logging.getLogger(__name__)


def link_factors(
    participants: Participants,
    space: str,
    variables: Sequence[str],
    covariates: Sequence[str] = (),
    blocks: Sequence[str] | None = None,
    family_of: Mapping[str, str] | None = None,
    n_permutations: int = 10_000,
    seed: int = 0,
    *,
    families: str | None = None,
    robust: bool | None = None,
    measures: Mapping[str, str] | None = None,
    described: Mapping[str, Mapping[str, Any]] | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """Test every factor of a space against every variable.

    For each variable a model with the covariates only is fitted and its score residuals are permuted (Freedman and
    Lane 1983) within blocks, by default the sites, whose indicators join the covariates. The statistic is the share
    of a factor's variance, free of covariates, that goes with the variable. Beside ``p_value`` stands ``p_free``: the
    same test with the covariates exactly as named and everyone exchangeable, which is what would have been claimed
    without the blocks. A link with ``p_fwe_free`` of at most 0.05 and ``p_fwe`` above it is noted.

    Parameters
    ----------
    participants : Participants
        Whom the question is about, usually target participants only; everyone given is used.
    space : str
        The space whose factors are tested.
    variables : sequence of str
        Columns to test.
    covariates : sequence of str, default=()
        Columns adjusted for.
    blocks : sequence of str or None, default=None
        Columns within whose combinations participants may change places. None means ``site`` where there are several;
        an empty sequence means free permutations.
    family_of : mapping of str to str or None, default=None
        Declared families of variables for ``p_fdr``; the other variables are the family ``others``, or ``all``.
    n_permutations : int, default=10000
        K; no p-value is below 1 / (K + 1).
    seed : int, default=0
        Permutations depend on the seed and on who has the variable, not on the other variables.
    families : str or None, default=None
        Column of relatives, who move as wholes; who has none is a family of one.
    robust : bool or None, default=None
        Continuous variables by Huber's regression; none means those with values more than five robust standard
        deviations from the median, which is decided without a look at the factors.
    measures : mapping of str to str or None, default=None
        What variables measure, where the user knows better.
    described : mapping of str to mapping or None, default=None
        The manifest's JSON sidecar.

    Returns
    -------
    DataFrame
        One row per variable and factor: ``factor space variable measure method n n_missing estimate effect ci_low
        ci_high statistic p_value p_free p_fwe p_fwe_free p_fdr family mde note``. ``effect`` is the unit of
        ``estimate``, of its 95% interval and of ``mde``, the smallest effect found with 80% power at 0.05. ``p_fwe`` is
        family-wise over factors (``p_fwe_free`` without blocks), ``p_fdr`` over the variables of a family as well.
        Intervals and ``mde`` are wider where relatives or sites of unequal spread make the permutations spread wider.
        Values are missing where there is too little data; ``note`` says so.
    DataFrame
        ``factor variable site n estimate ci_low ci_high tau2 i2 q p_heterogeneity``: each site, then ``pooled``.
    list of str
        What must be said.

    Raises
    ------
    ManifestError
        When a name is unknown or a variable cannot be measured as asked.
    UserError
        When the space is not there, or the number of permutations or the seed cannot be used.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> score = rng.normal(size=60)
    >>> rows = pd.DataFrame({"score": score, "site": ["a", "b", "c"] * 20})
    >>> factors = np.column_stack([score + rng.normal(size=60), rng.normal(size=60)])
    >>> people = Participants(rows, {"salient": factors}, {"salient": ["salient_000", "salient_001"]}, score > -9)
    >>> links, sites, notes = link_factors(people, "salient", ["score"], n_permutations=999)
    >>> print(links.loc[0, ["factor", "method", "n", "effect", "p_value", "p_fwe", "p_fdr"]].to_string())
    factor             salient_000
    method     partial correlation
    n                           60
    effect                       r
    p_value                  0.001
    p_fwe                    0.001
    p_fdr                    0.001
    """
    from threadpoolctl import threadpool_limits

    _check(participants, space, n_permutations, seed)
    family_of, variables = dict(family_of or {}), list(dict.fromkeys(variables))
    plan = settle_plan(participants.rows, variables, covariates, blocks, families, family_of)
    usable = np.isfinite(participants.spaces[space]).all(axis=1)
    people = participants.take(usable)
    factors = people.spaces[space]
    questions = _ask_all(name_classes(people.rows, plan), variables, plan, described, measures)
    linker = Linker(plan, list(participants.factors[space]), n_permutations, seed, robust)
    found: dict[str, tuple[pd.DataFrame, list[str]]] = {}
    by_site: dict[str, pd.DataFrame] = {}
    # Products this narrow gain next to nothing from a second thread, and the small ones of statsmodels lose.
    with threadpool_limits(1), report_progress("linking", len(questions)) as advance:
        # Variables that the same participants have follow each other and share their permutations.
        for question in sorted(questions, key=lambda question: question.mask.tobytes()):
            found[question.name] = linker.link(question, factors)
            by_site[question.name] = linker.compare_sites(question, factors)
            advance(question.name)
    links = pd.concat([found[name][0] for name in variables], ignore_index=True)
    links["n_missing"] += int((~usable).sum())
    family = [family_of.get(name, "others" if family_of else "all") for name in links["variable"]]
    links = adjust_families(links.assign(space=space, family=family))[LINK_COLUMNS]
    sites = [by_site[name] for name in variables if len(by_site[name])]
    notes = [str(plan), *(f"{name}: {remark}." for name in variables for remark in found[name][1])]
    notes += _describe(links, plan)
    if not usable.all():
        notes.append(f"{int((~usable).sum())} participants have a factor that is no finite number and are left out.")
    for note in notes:
        logger.info(note)
    return links, _stack(sites), notes


def _check(participants: Participants, space: str, n_permutations: int, seed: int) -> None:
    if space not in participants.spaces:
        raise UserError(f"link: no space {space}; allowed: {', '.join(participants.spaces)}")
    if n_permutations < 1 or seed < 0:
        raise UserError(f"link: at least 1 permutation and a seed of 0 or more, got {n_permutations} and {seed}")


def _ask_all(
    rows: pd.DataFrame,
    variables: Sequence[str],
    plan: Plan,
    described: Mapping[str, Mapping[str, Any]] | None,
    measures: Mapping[str, str] | None,
) -> list[Question]:
    questions: list[Question] = []
    problems: list[Problem] = []
    for name in variables:
        try:
            questions.append(ask(rows, name, plan.covariates, plan.blocks, plan.families, described, measures))
        except ManifestError as error:
            problems += error.problems
    if problems:
        raise ManifestError(f"link: {len(problems)} variable(s) cannot be measured as asked", problems)
    return questions


def _stack(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    return pd.concat(tables, ignore_index=True)[SITE_COLUMNS] if tables else pd.DataFrame(columns=SITE_COLUMNS)


def _describe(links: pd.DataFrame, plan: Plan) -> list[str]:
    """Say whose values are missing, and which links a free permutation would have claimed."""
    notes = []
    counts = links.drop_duplicates("variable")
    if missing := [f"{row.variable} {row.n_missing}" for row in counts.itertuples() if row.n_missing]:
        n = int((counts["n"] + counts["n_missing"]).max())
        notes.append(f"Of {n} participants some lack the variable, a covariate or a block: {', '.join(missing)}.")
    gone = links[vanishes(links)] if plan.blocks else links[:0]
    if len(gone):
        pairs = ", ".join(
            f"{row.factor} with {row.variable} (corrected p {row.p_fwe_free:.3f}, then {row.p_fwe:.3f})"
            for row in gone.sort_values("p_fwe_free").head(SHOWN).itertuples()
        )
        more = f" and {len(gone) - SHOWN} more" if len(gone) > SHOWN else ""
        notes.append(
            f"Significant by free permutation, not once permutations stay within {plan.within}: {pairs}{more}."
        )
    return notes
