"""``evaluate``: what a linear probe can read from each space, on participants it was not fitted on."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from sepclr_med.analysis.baselines import covariate_space, in_order, join_both, missing_covariates
from sepclr_med.analysis.layout import format_card, format_separation
from sepclr_med.analysis.schemes import Scheme, choose_scheme, leave_site_out
from sepclr_med.analysis.scoring import COLUMNS, Effort, exchange_words, score_variable
from sepclr_med.analysis.spaces import Space, all_rows, describe_coverage, join_spaces
from sepclr_med.analysis.variables import Groups, Variable, choose_variables, describe_left_out, listed
from sepclr_med.errors import UserError
from sepclr_med.progress import report_progress

__all__ = ["evaluate", "format_card", "format_separation"]

logger = logging.getLogger(__name__)


def evaluate(
    embeddings: Mapping[str, pd.DataFrame],
    manifest: pd.DataFrame,
    variables: Sequence[str] | None = None,
    target: Sequence[str] | None = None,
    n_bootstrap: int = 1000,
    seed: int = 0,
    n_permutations: int = 1000,
    background: Sequence[str] | None = None,
    measures: Mapping[str, str] | None = None,
    described: Mapping[str, Mapping[str, Any]] | None = None,
) -> pd.DataFrame:
    """Probe every variable from every space, from both together, and from the covariates alone.

    Standardised linear probes (balanced logistic regression for classes, ridge regression for numbers and ordered
    levels) are fitted on participants of the ``train`` split and scored on those of ``test``; without ``test`` on
    ``val``; without any held-out part by participant-grouped nested cross-validation, which the notes then say. With
    two sites or more each site is scored beside that by probes fitted on the other sites. Sessions of one participant
    are averaged first, embedding and number alike. Intervals are percentile bootstraps over scored participants; they
    leave out what another training set would change. P-values exchange the answers of participants of one site.

    Parameters
    ----------
    embeddings : mapping of str to DataFrame
        Space (``common``, ``salient``, ``voxel_pca``, or any other name) to table: ids, ``split`` if any, and factors.
    manifest : DataFrame
        As :func:`sepclr_med.read_manifest` gives it, or any table with ``participant_id``.
    variables : sequence of str or None, default=None
        Columns to probe; none means the diagnosis and every known and clinical column that can be probed.
    target : sequence of str or None, default=None
        Values of ``diagnosis`` that are patients. Clinical columns are probed among them, and apart from that among
        controls where they vary there. None means: over every row with a value.
    n_bootstrap : int, default=1000
        Resamples behind each interval; 0 leaves intervals missing.
    seed : int, default=0
        Seed of folds, resamples and permutations.
    n_permutations : int, default=1000
        Permutations behind each p-value; 0 leaves p-values missing.
    background : sequence of str or None, default=None
        Values of ``diagnosis`` that are controls; none means all that are not ``target``.
    measures : mapping of str to str or None, default=None
        What a column measures, where its values mislead: ``continuous``, ``ordinal``, ``binary`` or ``categorical``.
    described : mapping of str to mapping or None, default=None
        The manifest's BIDS sidecar: column to its entry, whose ``Levels`` tell ordered from unordered. None means the
        one that :func:`sepclr_med.read_manifest` found beside the manifest.

    Returns
    -------
    DataFrame
        ``variable measure space scheme metric value ci_low ci_high chance p_value n``, one row per variable, space,
        scheme and metric. Metrics are ``balanced_accuracy`` and ``auc`` (one class against the rest, averaged, for
        more than two), or ``r2``, ``mae`` and ``spearman``. ``chance`` is 1 / number of classes, 0.5, zero, or the
        score of the training mean. ``n`` is the number of scored participants. A probe with too little data has the
        value missing. ``attrs["notes"]`` lists in words how it was scored, what was left out and why a value is
        missing; ``attrs["not_tested"]`` has the variables left out, with the reason.

    Raises
    ------
    ManifestError
        When a name is unknown (with the nearest known one), when embeddings and manifest do not match, or when a
        participant or family is in two splits.

    Examples
    --------
    >>> ids = [f"{i:03}" for i in range(60)]
    >>> manifest = pd.DataFrame({"participant_id": ids, "age": range(20, 80)})
    >>> split = ["train", "train", "test"] * 20
    >>> common = pd.DataFrame({"participant_id": ids, "split": split, "common_000": manifest["age"] / 10})
    >>> table = evaluate({"common": common}, manifest)
    >>> print(*table.round(3).iloc[0])
    age continuous common held-out r2 1.0 1.0 1.0 -0.008 0.001 20
    """
    from threadpoolctl import threadpool_limits

    effort = make_effort(n_bootstrap, n_permutations, seed)
    groups = Groups(listed(target), listed(background))
    spaces = join_spaces(embeddings, manifest)
    seen = all_rows(spaces)
    described = manifest.attrs.get("dictionary") if described is None else described
    chosen, choice, left_out = choose_variables(seen, listed(variables), groups, measures, described)
    scheme = choose_scheme(seen["split"])
    beside = leave_site_out(seen, scheme)
    schemes = [scheme, beside] if beside else [scheme]
    both = join_both(spaces)
    asked = [*spaces, both] if both else spaces
    notes = [note for each in schemes for note in each.notes] + exchange_words(seen, effort)
    notes += describe_coverage(spaces, manifest)
    notes += [f"{said}." for said in [describe_left_out(left_out)] if said] + choice
    notes += [note] if (note := missing_covariates(seen)) else []
    records: list[dict[str, object]] = []
    # Matrices this small are slower on several threads than on one.
    with threadpool_limits(1), report_progress("probing", len(chosen)) as advance:
        for variable in chosen:
            covariates = covariate_space(seen, variable.name)
            found, said = _probe(
                variable, in_order([*asked, covariates] if covariates else asked), groups, schemes, effort
            )
            records += found
            notes += said
            advance(variable.label)
    for note in notes:
        logger.info(note)
    table = pd.DataFrame(records, columns=COLUMNS).astype({"n": int})
    table.attrs |= {"notes": notes, "not_tested": left_out}
    return table


def make_effort(n_bootstrap: int, n_permutations: int, seed: int) -> Effort:
    """Refuse negative counts."""
    if min(n_bootstrap, n_permutations, seed) < 0:
        got = f"{n_bootstrap}, {n_permutations} and {seed}"
        raise UserError(f"evaluate: n_bootstrap, n_permutations and seed are 0 or more, got {got}")
    return Effort(n_bootstrap, n_permutations, seed)


def _probe(
    variable: Variable, spaces: list[Space], groups: Groups, schemes: list[Scheme], effort: Effort
) -> tuple[list[dict[str, object]], list[str]]:
    records: list[dict[str, object]] = []
    said: dict[str, list[str]] = {}
    for space in spaces:
        for scheme in schemes:
            scored, remarks = score_variable(space, variable, groups, scheme, effort)
            records += scored
            for remark in remarks:
                said.setdefault(remark, []).append(space.name)
    return records, [_remark(variable.label, names, remark, len(spaces)) for remark, names in said.items()]


def _remark(variable: str, spaces: list[str], remark: str, n_spaces: int) -> str:
    where = f" ({', '.join(spaces)})" if len(spaces) < n_spaces else ""
    return f"{variable}{where}: {remark}"
