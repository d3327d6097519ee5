"""``link``: what the salient factors have to do with clinical variables, once site, age and sex are accounted for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import pandas as pd

from sepclr_med.analysis.associations.batteries import add_batteries
from sepclr_med.analysis.associations.claims import describe_links
from sepclr_med.analysis.associations.designs import settle_plan
from sepclr_med.analysis.associations.links import link_factors
from sepclr_med.analysis.associations.prediction import predict_variables
from sepclr_med.analysis.associations.similarity import compare_similarity
from sepclr_med.analysis.canonical import canonical_table
from sepclr_med.analysis.choices import PARTS, Over, check_choices, choose_families, choose_tested
from sepclr_med.analysis.participants import Participants, gather_participants
from sepclr_med.analysis.stability import GOOD, Replicates, study_stability
from sepclr_med.analysis.variables import Groups, choose_variables, describe_left_out
from sepclr_med.errors import UserError

DEFAULT_COVARIATES = ("age", "sex", "site", "tiv")
WHOLE_SPACE_PERMUTATIONS = 2000
SIMILARITY_PERMUTATIONS = 1000
MOST_COMPARED = 300
GIVEN = "Canonical factors: as they were given, not fitted anew"


@dataclass(frozen=True)
class Linkage:
    """Everything ``link`` found.

    Parameters
    ----------
    links : DataFrame
        One row per variable and factor, and one per variable and whole space.
    sites : DataFrame
        Each site's estimate, and the random-effects mean.
    prediction, similarity : DataFrame
        Prediction from the whole space; dissimilarities. Empty when left out.
    stability, space_stability, reading_stability : DataFrame
        How far models agree on factors, spaces, and what is read from the salient one. Empty for a single model.
    people, tested : Participants
        Everyone, and those the tests are about.
    canonical : (DataFrame, dict) or None
        Canonical factors of every image and what their sidecar says, when they were fitted here.
    settings : dict
        What was asked, as it was understood.
    verdicts : list of dict
        ``level`` and ``text``: what may be said.
    notes : list of str
        What must be said beside it.
    not_tested : dict of str to str
        Variables of which no test could be made, and why.
    """

    links: pd.DataFrame
    sites: pd.DataFrame
    prediction: pd.DataFrame
    similarity: pd.DataFrame
    stability: pd.DataFrame
    space_stability: pd.DataFrame
    reading_stability: pd.DataFrame
    people: Participants
    tested: Participants
    canonical: tuple[pd.DataFrame, dict[str, Any]] | None
    settings: dict[str, Any]
    verdicts: list[dict[str, str]]
    notes: list[str] = field(default_factory=list)
    not_tested: dict[str, str] = field(default_factory=dict)


def link(
    embeddings: Mapping[str, pd.DataFrame],
    manifest: pd.DataFrame,
    variables: Sequence[str] | None = None,
    covariates: Sequence[str] | None = None,
    target: Sequence[str] | None = None,
    *,
    blocks: Sequence[str] | None = None,
    factors: Sequence[str] = ("salient",),
    over: Over = "held-out",
    families: Mapping[str, Sequence[str]] | None = None,
    batteries: Mapping[str, Sequence[str]] | None = None,
    measures: Mapping[str, str] | None = None,
    canonical: Literal["pca", "varimax"] = "pca",
    robust: bool | None = None,
    n_permutations: int = 10_000,
    n_bootstrap: int = 1000,
    parts: Sequence[str] | None = None,
    replicates: Replicates | None = None,
    smallest_icc: float = GOOD,
    seed: int = 0,
) -> Linkage:
    """Test each salient factor, and the salient space as a whole, against each variable.

    Participants are those the model was not trained on, target participants only, sessions averaged. P-values come
    from permutations within sites, whose indicators join the covariates
    (:func:`sepclr_med.analysis.associations.links.link_factors`).

    Parameters
    ----------
    embeddings : mapping of str to DataFrame
        Space to table: ids, ``split`` if any, factors. ``salient`` is needed, ``common`` compared with it;
        ``canonical`` factors are tested as they are where they are given.
    manifest : DataFrame
        One row per image or participant; ``attrs["dictionary"]`` has the BIDS sidecar.
    variables : sequence of str or None, default=None
        Columns to test; none means every known and clinical column that varies among the tested participants, and
        every battery.
    covariates : sequence of str or None, default=None
        Columns to adjust for; none means age, sex, site and tiv as far as they are there.
    target : sequence of str or None, default=None
        Diagnoses of patients; none means that everyone is tested.
    blocks : sequence of str or None, default=None
        Columns within which permutations stay; none means site where there are several, empty means free. Families
        (``family_id``) always move as wholes.
    factors : sequence of str, default=("salient",)
        ``salient``: the axes as trained; ``canonical``: their rotation, fitted on training targets unless given.
    over : {"held-out", "train", "all"}, default="held-out"
        Whose rows: the test part, or the validation part without one, or everyone without any.
    families : mapping of str to sequence of str or None, default=None
        Variables corrected together; the others are in ``clinical``, or ``shared`` (age, sex, site, ...).
    batteries : mapping of str to sequence of str or None, default=None
        Columns to be reduced to a first component each.
    measures : mapping of str to str or None, default=None
        ``continuous``, ``ordinal``, ``binary`` or ``categorical``, where it must not be inferred.
    canonical : {"pca", "varimax"}, default="pca"
        How canonical factors are rotated.
    robust : bool or None, default=None
        Huber regression for continuous variables; none means for those with outlying values.
    n_permutations : int, default=10000
        Of factors; whole-space tests use at most 2,000, dissimilarities at most 1,000.
    n_bootstrap : int, default=1000
        Resamples of participants behind intervals of whole-space figures.
    parts : sequence of str or None, default=None
        What to add to the factors: ``prediction``, ``similarity``, ``subtypes``. None means all, but similarity for
        at most 300 participants: its time grows with their square.
    replicates : mapping or None, default=None
        Embeddings of single models of a cross-fit (:func:`sepclr_med.cohort.embeddings.read_replicates`): only factors
        on which they agree are tested one by one. Tests of whole spaces are not touched.
    smallest_icc : float, default=0.75
        Least agreement (:func:`sepclr_med.analysis.stability.factor_stability`); 0 tests every factor.
    seed : int, default=0

    Returns
    -------
    Linkage

    Raises
    ------
    ManifestError
        When names are unknown or ids do not match.
    UserError
        When too few participants are left.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> ids = [f"{i:02}" for i in range(60)]
    >>> manifest = pd.DataFrame({"participant_id": ids, "severity": rng.normal(size=60)})
    >>> table = pd.DataFrame({"participant_id": ids, "salient_000": manifest["severity"] + rng.normal(size=60)})
    >>> found = link({"salient": table}, manifest, ["severity"], n_permutations=999, parts=[])
    >>> print(*found.links.loc[0, ["factor", "variable", "n", "p_value"]])
    salient_000 severity 60 0.001
    """
    check_choices(embeddings, factors, over, parts or ())
    # First of all: a misspelt target is no want of rows to rotate.
    people = gather_participants(embeddings, manifest, target)
    rotated = None
    if "canonical" in factors and "canonical" not in embeddings:
        rotated = canonical_table(embeddings["salient"], manifest, target, canonical)
        people = gather_participants({**embeddings, "canonical": rotated[0]}, manifest, target)
    described = manifest.attrs.get("dictionary", {})
    # Fitted on training rows where there are any, so before they are left out.
    rows, notes = add_batteries(people.rows, batteries or {}, people.is_target)
    people = replace(people, rows=rows.reset_index(drop=True))
    said = [_describe_rotation(canonical, rotated[1]) if rotated else GIVEN] if "canonical" in factors else []
    tested, over_words, warned = choose_tested(people, over, target)
    if parts is None:
        parts = PARTS if len(tested) <= MOST_COMPARED else [part for part in PARTS if part != "similarity"]
        if len(parts) < len(PARTS):
            warned.append(
                f"Similarity was left out: {len(tested)} participants make many pairs. --parts "
                f"{','.join(PARTS)} takes the time."
            )
    covariates = [name for name in DEFAULT_COVARIATES if name in rows] if covariates is None else list(covariates)
    chosen, remarks, left_out = choose_variables(tested.rows, variables, Groups(), measures, described)
    said += remarks
    names = [variable.name for variable in chosen if variables or tested.rows[variable.name].nunique() >= 2]
    if not names:
        raise UserError("link: no column varies among the tested participants; name some with --variables")
    family_of = choose_families(names, families or {})
    kin = "family_id" if "family_id" in rows and tested.rows["family_id"].nunique() < len(tested) else None
    plan = settle_plan(tested.rows, names, covariates, blocks, kin, family_of)
    agreed, stable, remarks = study_stability(
        replicates or {}, people, tested, factors, names, rotated, smallest_icc, seed
    )
    said += remarks
    shared = {"families": kin, "measures": measures, "described": described}
    links, sites = [], []
    for space in (space for space in factors if stable.factors[space]):
        found, by_site, remarks = link_factors(
            stable, space, names, covariates, blocks, family_of, n_permutations, seed, robust=robust, **shared
        )
        links.append(found)
        sites.append(by_site)
        said += [remark for remark in remarks if remark not in said]
    prediction = similarity = pd.DataFrame()
    if "prediction" in parts:
        prediction, whole, remarks = predict_variables(
            tested, "salient", names, covariates, blocks, min(n_permutations, WHOLE_SPACE_PERMUTATIONS), seed,
            batteries=batteries, family_of=family_of, n_bootstrap=n_bootstrap, **shared,
        )  # fmt: skip
        links.append(whole)
        said += [remark for remark in remarks if remark not in said]
    if "similarity" in parts:
        similarity = compare_similarity(
            tested, names, covariates, blocks,
            spaces=[space for space in ("salient", "common") if space in tested.spaces],
            n_permutations=min(n_permutations, SIMILARITY_PERMUTATIONS), n_bootstrap=n_bootstrap, seed=seed, **shared,
        )  # fmt: skip
    if not links:
        raise UserError(f"link: nothing to test. {said[-1]}, --parts prediction tests the whole space")
    table = pd.concat(links, ignore_index=True)
    settings = {
        "over": over_words,
        "n": len(tested),
        "target": list(target) if target else None,
        "variables": names,
        "covariates": covariates,
        "blocks": list(plan.blocks),
        "factors": list(factors),
        "families": {
            family: [n for n in names if family_of[n] == family] for family in dict.fromkeys(family_of.values())
        },
        "batteries": {name: list(items) for name, items in (batteries or {}).items()},
        "vary_among_controls": [name for name in names if people.rows.loc[~people.is_target, name].nunique() >= 2],
        "kin": kin,
        "parts": list(parts),
        "robust": robust,
        "n_permutations": n_permutations,
        "smallest_icc": smallest_icc if replicates else None,
        "seed": seed,
        "canonical": canonical if rotated else None,
    }
    not_tested = left_out | _find_not_tested(table)
    notes = [*warned, *notes, *people.notes, *filter(None, [describe_left_out(not_tested)]), *said]
    return Linkage(
        table,
        pd.concat([pd.DataFrame(), *sites], ignore_index=True),
        prediction,
        similarity,
        *agreed,
        people,
        tested,
        rotated,
        settings,
        describe_links(table, settings),
        list(dict.fromkeys(f"{note.rstrip('.')}." for note in notes)),
        not_tested,
    )


def _find_not_tested(links: pd.DataFrame) -> dict[str, str]:
    """Return the variables that were asked for and could not be tested, with what their rows say of it."""
    asked = links.groupby("variable", sort=False)
    silent = links[asked["p_value"].transform("count") == 0]
    said = silent["note"].str.extract(r"not tested: ([^;]+)", expand=False)
    return dict(zip(silent["variable"][said.notna()], said.dropna(), strict=True))


def _describe_rotation(method: str, facts: Mapping[str, Any]) -> str:
    shares = ", ".join(f"{share:.0%}" for share in facts["VarianceExplained"][:3])
    return (
        f"Canonical factors: {method} of the salient space, fitted on {facts['FittedParticipants']} participants "
        f"({facts['FittedOn']}); the first hold {shares} of the variance."
    )
