"""Whole-space tests: does a space predict a variable that it has not seen, beyond the covariates?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from sepclr_med.analysis.associations.batteries import add_batteries
from sepclr_med.analysis.associations.designs import name_classes, settle_plan
from sepclr_med.analysis.associations.families import adjust_families
from sepclr_med.analysis.associations.links import LINK_COLUMNS
from sepclr_med.analysis.associations.questions import ask
from sepclr_med.analysis.associations.whole_space import COLUMNS, SpacePredictor
from sepclr_med.analysis.participants import Participants
from sepclr_med.errors import UserError, did_you_mean
from sepclr_med.progress import report_progress


def predict_variables(
    participants: Participants,
    space: str,
    variables: Sequence[str],
    covariates: Sequence[str] = (),
    blocks: Sequence[str] | None = None,
    n_permutations: int = 10_000,
    seed: int = 0,
    *,
    families: str | None = None,
    batteries: Mapping[str, Sequence[str]] | None = None,
    family_of: Mapping[str, str] | None = None,
    site: str = "site",
    n_bootstrap: int = 1000,
    measures: Mapping[str, str] | None = None,
    described: Mapping[str, Mapping[str, Any]] | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """Predict each variable from all factors of a space together, against a baseline of covariates.

    Predictions: ridge regression (continuous, ordinal) or logistic regression (binary, categorical), five-fold
    cross-validated with families undivided; where there are several sites also leave-site-out, each site predicted
    from the others. Factors are freed of the covariates inside the folds, penalties chosen inside the folds. Blocks
    count as covariates in cross-validation; in leave-site-out neither they nor the site can be one. Intervals are
    bootstraps of participants with the predictions as they are: the doubt of the fit itself is not in them.

    Test: :func:`sepclr_med.analysis.associations.space_test.test_space`, the cross-validated share of the variable's
    score residuals that ridge regression predicts beyond the covariates, everything refitted for every permutation
    within blocks. For classes the figure beside it is logistic, the test is ridge regression on class membership.

    Parameters
    ----------
    participants : Participants
        Whom the question is about, usually target participants only; everyone given is used.
    space : str
        The space.
    variables : sequence of str
        Columns, or names of batteries.
    covariates : sequence of str, default=()
        Columns adjusted for.
    blocks : sequence of str or None, default=None
        Columns within whose combinations participants may change places. None means ``site`` where there are several;
        an empty sequence means free permutations.
    n_permutations : int, default=10000
        K; no p-value is below 1 / (K + 1).
    seed : int, default=0
        A variable's result depends on the seed and on who has it, not on the other variables.
    families : str or None, default=None
        Column of relatives, who are never divided and move as wholes.
    batteries : mapping of str to sequence of str or None, default=None
        Items by battery. Predictions fit the first component anew in every fold; the test takes one component, which
        has seen no factor.
    family_of : mapping of str to str or None, default=None
        Declared families of variables for ``p_fdr``.
    site : str, default="site"
        Column left out in turn.
    n_bootstrap : int, default=1000
        Draws behind each 95 % interval; none with 0.
    measures, described : mapping or None, default=None
        Measures asked for by column; entries of the BIDS sidecar by column.

    Returns
    -------
    DataFrame
        ``variable measure scheme predictors metric value ci_low ci_high chance p_value p_free n``. The p-values stand
        in the rows of the space alone, once per scheme; ``p_free`` has covariates as named and free permutations.
    DataFrame
        One row per variable in the columns of :func:`sepclr_med.analysis.associations.links.link_factors`: factor
        ``<space> (whole)``, estimate the cross-validated R2 or AUC of the space alone, statistic that of the test.
    list of str
        What must be said.

    Raises
    ------
    ManifestError
        When a name is unknown or a variable cannot be measured as asked.
    UserError
        When the space is not there.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> rows = pd.DataFrame({"score": rng.normal(size=60), "site": ["a", "b", "c"] * 20})
    >>> factors = rng.normal(size=(60, 3)) + rows[["score"]].to_numpy()
    >>> people = Participants(rows, {"salient": factors}, {"salient": ["s_0", "s_1", "s_2"]}, np.ones(60, dtype=bool))
    >>> table, whole, notes = predict_variables(people, "salient", ["score"], n_permutations=999)
    >>> whole[["factor", "method", "effect", "p_value"]]
                factor                  method effect  p_value
    0  salient (whole)  ridge, cross-validated     r2    0.001
    """
    from threadpoolctl import threadpool_limits

    if space not in participants.spaces:
        hint = did_you_mean(space, participants.spaces) or f"there are: {', '.join(participants.spaces)}"
        raise UserError(f"link: no space {space!r} among the embeddings; {hint}")
    batteries, variables = dict(batteries or {}), list(dict.fromkeys(variables))
    absent = {name: items for name, items in batteries.items() if name not in participants.rows}
    rows, notes = add_batteries(participants.rows, absent)
    plan = settle_plan(rows, variables, covariates, blocks, families, family_of)
    usable = np.isfinite(participants.spaces[space]).all(axis=1)
    rows = name_classes(rows[usable].reset_index(drop=True), plan)
    predictor = SpacePredictor(
        plan, space, participants.spaces[space][usable], batteries, site, n_permutations, n_bootstrap, seed
    )
    records: list[dict[str, object]] = []
    whole: list[dict[str, object]] = []
    with threadpool_limits(1), report_progress("predicting", len(variables)) as advance:
        for name in variables:
            question = ask(rows, name, plan.covariates, plan.blocks, plan.families, described, measures)
            found = predictor.answer(question)
            records += found.records
            whole.append(found.whole | {"n_missing": question.n_missing + int((~usable).sum())})
            notes += [f"{name}: {note}" for note in dict.fromkeys(found.notes)]
            advance(name)
    rest = "others" if family_of else "all"
    links = pd.DataFrame(whole).assign(family=[(family_of or {}).get(name, rest) for name in variables])
    # One test per variable: nothing to correct over factors.
    links = adjust_families(links.assign(p_fwe=links["p_value"]))
    return pd.DataFrame(records, columns=COLUMNS), links.reindex(columns=LINK_COLUMNS), notes
