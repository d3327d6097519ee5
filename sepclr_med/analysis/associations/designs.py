"""What a link is adjusted for and what it is tested within, settled before anything is fitted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from sepclr_med.analysis.associations.questions import Question, joint_labels
from sepclr_med.analysis.participants import design_matrix
from sepclr_med.errors import ManifestError, Problem, did_you_mean

NO_VARIABLES = ("participant_id", "session_id", "run", "image_path", "mask_path", "split", "fold")
# Numbers in these are names, whatever they look like.
CLASSES = ("site", "scanner", "sex", "family_id", "diagnosis")
BLOCK = "\x00block"


@dataclass(frozen=True)
class Plan:
    """What all variables of one analysis share.

    Parameters
    ----------
    covariates : tuple of str
        Columns adjusted for.
    blocks : tuple of str
        Columns whose combinations rows stay within; empty for free permutations.
    families : str or None
        Column of relatives, who move as wholes.
    """

    covariates: tuple[str, ...]
    blocks: tuple[str, ...]
    families: str | None

    @property
    def restricted(self) -> bool:
        """Whether some rows may not change places with some others."""
        return bool(self.blocks or self.families)

    @property
    def within(self) -> str:
        """The blocks in words."""
        return " and ".join(self.blocks)

    def __str__(self) -> str:
        where = f"within {self.within}" if self.blocks else "freely: there are no blocks"
        together = f", families ({self.families}) as wholes" if self.families else ""
        adjusted = ", ".join(dict.fromkeys((*self.covariates, *self.blocks)))
        return f"Permuted {where}{together}; adjusted for {adjusted or 'nothing'}."


@dataclass(frozen=True)
class Designs:
    """Covariates of one variable's tests as numbers, the intercept first.

    Parameters
    ----------
    blocked : array of shape (n, q)
        With an indicator of every block.
    free : array of shape (n, p)
        As named by the user.
    same : bool
        Whether the two are one.
    redundant : list of str
        Covariates that add nothing to those before them, or only a part of what they say.
    """

    blocked: np.ndarray
    free: np.ndarray
    same: bool
    redundant: list[str]


def settle_plan(
    rows: pd.DataFrame,
    variables: Sequence[str],
    covariates: Sequence[str] = (),
    blocks: Sequence[str] | None = None,
    families: str | None = None,
    family_of: Mapping[str, str] | None = None,
) -> Plan:
    """Check every name at once; blocks that are not given are the sites, where there are several.

    Parameters
    ----------
    rows : DataFrame
        One row per participant.
    variables, covariates, blocks, families, family_of
        As for :func:`sepclr_med.analysis.associations.links.link_factors`.

    Returns
    -------
    Plan

    Raises
    ------
    ManifestError
        With every name that is no column or cannot be used as it was named.

    Examples
    --------
    >>> rows = pd.DataFrame({"age": [30.0, 40.0], "site": ["a", "b"], "score": [1.0, 2.0]})
    >>> print(settle_plan(rows, ["score"], ["age"]))
    Permuted within site; adjusted for age, site.
    """
    if blocks is None:
        blocks = ("site",) if "site" in rows and rows["site"].dropna().nunique() >= 2 else ()
    named = {
        "variable": variables,
        "covariate": covariates,
        "block": blocks,
        "families": [families] if families else [],
    }
    columns = [str(name) for name in rows.columns if name not in NO_VARIABLES]
    problems = []
    for role, name in [(role, name) for role, names in named.items() for name in names]:
        if name not in rows:
            fix = did_you_mean(name, columns)
            problems.append(Problem(f"{role}: no such column", column=name, allowed=", ".join(columns), fix=fix))
        elif role in ("variable", "covariate") and name in NO_VARIABLES:
            problems.append(Problem(f"{role}: this column describes the table, not the participants", column=name))
    for name in family_of or ():
        if name not in variables:
            problems.append(Problem("in a family, but not tested", column=name, fix=did_you_mean(name, variables)))
    if not variables:
        problems.append(Problem("no variable is named", fix="name at least one column"))
    if problems:
        raise ManifestError(f"link: {len(problems)} name(s) that cannot be used", problems)
    return Plan(tuple(dict.fromkeys(covariates)), tuple(dict.fromkeys(blocks)), families)


def name_classes(rows: pd.DataFrame, plan: Plan) -> pd.DataFrame:
    """Return the rows with blocks and known classes as text: site 2 is not twice site 1.

    Parameters
    ----------
    rows : DataFrame
        One row per participant.
    plan : Plan
        Its blocks are names whatever they look like.

    Returns
    -------
    DataFrame

    Examples
    --------
    >>> rows = pd.DataFrame({"site": [1, 2, None], "age": [30, 40, 50]})
    >>> name_classes(rows, Plan((), (), None))["site"].tolist()
    ['1', '2', None]
    """
    names = [name for name in dict.fromkeys((*CLASSES, *plan.blocks)) if name in rows]
    return rows.assign(**{name: _as_text(rows[name]) for name in names})


def make_designs(question: Question, plan: Plan) -> Designs:
    """Turn the covariates of a question into numbers.

    Parameters
    ----------
    question : Question
        Of rows as :func:`name_classes` returns them.
    plan : Plan
        Its blocks join the covariates of the blocked design.

    Returns
    -------
    Designs

    Examples
    --------
    >>> from sepclr_med.analysis.associations.questions import ask
    >>> rows = pd.DataFrame({"site": list("aabb"), "age": [30.0, 40.0, 50.0, 20.0], "score": [1.5, 2.5, 3.0, 4.0]})
    >>> plan = settle_plan(rows, ["score"], ["age"])
    >>> designs = make_designs(ask(rows, "score", plan.covariates, plan.blocks), plan)
    >>> designs.blocked.shape, designs.free.shape
    ((4, 3), (4, 2))
    """
    rows, covariates = question.rows, question.covariates
    free = design_matrix(rows, covariates)
    redundant = _redundant(rows, covariates)
    if not plan.blocks:
        return Designs(free, free, True, redundant)
    labels = joint_labels(rows, plan.blocks).astype(str)
    blocked = design_matrix(rows.assign(**{BLOCK: labels}), [*covariates, BLOCK])
    # The free columns come first in both: as many means the same.
    return Designs(blocked, free, blocked.shape == free.shape, redundant)


def _as_text(values: pd.Series) -> pd.Series:
    known = values.dropna()
    if pd.api.types.is_float_dtype(values) and np.equal(np.mod(known, 1), 0).all():
        # A numbered site whose column has a gap: "1", not "1.0".
        values = values.astype("Int64")
    return values.map(str, na_action="ignore").astype(object).where(values.notna(), None)


def _redundant(rows: pd.DataFrame, covariates: Sequence[str]) -> list[str]:
    """Name the covariates that add fewer columns beside those before them than they have alone."""
    found, rank = [], 1
    for place, name in enumerate(covariates):
        together = design_matrix(rows, covariates[: place + 1]).shape[1]
        alone = design_matrix(rows, [name]).shape[1] - 1
        if alone == 0:
            found.append(f"{name} (one value only)")
        elif together - rank < alone:
            found.append(name if together == rank else f"part of {name}")
        rank = together
    return found
