"""What is probed: participants, and how they are divided into those a probe is fitted on and those it is scored on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

import numpy as np
import pandas as pd

Kind: TypeAlias = Literal["classification", "regression"]
Folds: TypeAlias = list[tuple[np.ndarray, np.ndarray]]

N_FOLDS = 5
NO_SITE = "n/a"
SEVERAL_SITES = "several sites"


@dataclass(frozen=True)
class Units:
    """One row per participant (and per class, where a participant's sessions differ in class).

    Parameters
    ----------
    features : array of shape (n, d)
        Embeddings, averaged over sessions.
    truth : array of shape (n,)
        Numbers, or class labels as strings.
    participants : array of shape (n,)
        Whom each row belongs to.
    splits : array of shape (n,)
        The part each row belongs to.
    sites : array of shape (n,), optional
        Where each participant was scanned, ``several sites`` or ``n/a``; without, ``n/a`` for all.
    families : array of shape (n,), optional
        Rows that are not divided; without, the participants.
    """

    features: np.ndarray
    truth: np.ndarray
    participants: np.ndarray
    splits: np.ndarray
    sites: np.ndarray = field(default=None)  # type: ignore[arg-type]  # filled below
    families: np.ndarray = field(default=None)  # type: ignore[arg-type]  # filled below

    def __post_init__(self) -> None:
        if self.sites is None:
            object.__setattr__(self, "sites", np.full(len(self.participants), NO_SITE, dtype=object))
        if self.families is None:
            object.__setattr__(self, "families", self.participants)

    def take(self, rows: np.ndarray) -> Units:
        """Return the chosen rows, given as a mask or as positions."""
        columns = ("features", "truth", "participants", "splits", "sites", "families")
        return replace(self, **{name: getattr(self, name)[rows] for name in columns})

    @property
    def n_participants(self) -> int:
        """Different participants among the rows."""
        return len(np.unique(self.participants))

    @property
    def has_one_site(self) -> np.ndarray:
        """Whether each participant was scanned at one known site."""
        return ~np.isin(self.sites.astype(str), [NO_SITE, SEVERAL_SITES])


def average_sessions(
    features: np.ndarray,
    values: pd.Series,
    participants: pd.Series,
    splits: pd.Series,
    kind: Kind,
    sites: pd.Series | None = None,
    families: pd.Series | None = None,
) -> Units:
    """Average the rows of each participant; rows without a value are left out first.

    Features are averaged, numbers too. A participant with sessions in different classes (scanned at two scanners, say)
    keeps one row per class.

    Parameters
    ----------
    features : array of shape (n, d)
        Embeddings of images; a feature that is missing in some images of a participant is averaged over the others.
    values, participants, splits : Series of length n
        The variable, whom the image shows, and the part it belongs to.
    kind : {"classification", "regression"}
        What the values are.
    sites, families : Series of length n or None, default=None
        Where the image was taken; which participants are related.

    Returns
    -------
    Units
        Sorted by participant, so that the order of the table never matters.

    Examples
    --------
    >>> units = average_sessions(
    ...     np.array([[1.0], [3.0], [5.0]]),
    ...     pd.Series([10.0, 20.0, None]),
    ...     pd.Series(["01", "01", "02"]),
    ...     pd.Series(["train", "train", "test"]),
    ...     "regression",
    ... )
    >>> units.features, units.truth, units.participants
    (array([[2.]]), array([15.]), array(['01'], dtype=object))
    """
    known = values.notna().to_numpy()
    values = values[known].astype(float if kind == "regression" else str)
    people = participants[known].astype(str)
    table = pd.DataFrame({"participant": people, "split": splits[known].astype(str), "value": values})
    keys = ["participant", "split"] if kind == "regression" else ["participant", "split", "value"]
    grouped = pd.concat([table.reset_index(drop=True), pd.DataFrame(features[known])], axis=1).groupby(keys, sort=True)
    means = grouped.mean().reset_index()
    who = means["participant"].to_numpy(object)
    nowhere = np.full(len(who), NO_SITE, dtype=object)
    return Units(
        features=means[list(range(features.shape[1]))].to_numpy(dtype=float),
        truth=means["value"].to_numpy(dtype=float if kind == "regression" else object),
        participants=who,
        splits=means["split"].to_numpy(object),
        sites=nowhere if sites is None else _label(people, sites[known], who, nowhere),
        families=who if families is None else _label(people, families[known], who, who),
    )


def held_out_fold(units: Units, held_out: str) -> Folds:
    """Return the one fold that fits on the ``train`` part and scores on the part ``held_out``."""
    return [(np.flatnonzero(units.splits == "train"), np.flatnonzero(units.splits == held_out))]


def cross_folds(units: Units, kind: Kind, seed: int = 0) -> Folds:
    """Return up to five folds in which no participant or family is on both sides, each class spread over all of them.

    Parameters
    ----------
    units : Units
        At least two participants per class.
    kind : {"classification", "regression"}
        What the values are.
    seed : int, default=0
        Seed of the division.

    Returns
    -------
    list of (int array, int array)
        Positions to fit on and to score on.
    """
    from sklearn.model_selection import KFold, StratifiedGroupKFold, StratifiedKFold

    classes = units.truth if kind == "classification" else np.zeros(len(units.truth))
    groups = np.unique(units.families, return_inverse=True)[1]
    n_groups = int(groups.max()) + 1
    smallest = pd.Series(classes).value_counts().min() if kind == "classification" else n_groups
    n_folds = int(np.clip(smallest, 2, N_FOLDS))
    if n_groups < len(classes):
        divide = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
        return [fold for fold in divide.split(units.features, classes, groups) if len(fold[1])]
    # With one row each nobody can be divided, and grouping would only cost time.
    plain = KFold if kind == "regression" else StratifiedKFold
    return list(plain(n_folds, shuffle=True, random_state=seed).split(units.features, classes))


def site_folds(units: Units, held_out: str | None) -> tuple[list[str], Folds]:
    """Return a fold per site: its participants are scored by a probe fitted on the other sites.

    Participants without one known site take no part. With a part held out, the probe is fitted on training rows of the
    other sites and scored on held-out rows of this one.

    Parameters
    ----------
    units : Units
        All rows.
    held_out : str or None
        The part that is scored; none means everyone.

    Returns
    -------
    list of str
        The sites that have anyone to score.
    list of (int array, int array)

    Examples
    --------
    >>> people = np.array(list("abcd"))
    >>> units = Units(np.zeros((4, 1)), np.zeros(4), people, people, sites=np.array(["x", "x", "y", "n/a"]))
    >>> site_folds(units, None)
    (['x', 'y'], [(array([2]), array([0, 1])), (array([0, 1]), array([2]))])
    """
    one = units.has_one_site
    may_fit = one & (units.splits == "train") if held_out else one
    may_score = one & (units.splits == held_out) if held_out else one
    # A family with members at two sites would be on both sides.
    names, folds = [], []
    for site in np.unique(units.sites[may_score].astype(str)):
        scored = may_score & (units.sites == site)
        related = np.isin(units.families.astype(str), units.families[scored].astype(str))
        names.append(str(site))
        folds.append((np.flatnonzero(may_fit & (units.sites != site) & ~related), np.flatnonzero(scored)))
    return names, folds


def _label(people: pd.Series, labels: pd.Series, who: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    """Return the label of each participant in ``who``; one with several labels has been at several sites."""
    pairs = pd.DataFrame({"participant": people.to_numpy(), "label": labels.astype(object).to_numpy()}).dropna()
    pairs = pairs.astype(str).drop_duplicates()
    repeated = pairs["participant"].duplicated(keep=False)
    label_of = dict(zip(pairs["participant"], np.where(repeated, SEVERAL_SITES, pairs["label"]), strict=True))
    return np.array([label_of.get(name, fallback) for name, fallback in zip(who, otherwise, strict=True)], dtype=object)
