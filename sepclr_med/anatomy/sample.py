"""Who a map is made over: one row per participant, and which images belong to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from sepclr_med.cohort.manifest import KEY
from sepclr_med.errors import ManifestError, Problem, RunError, UserError, did_you_mean

COVARIATES = ("age", "sex", "site", "tiv")
CLASSES = ("sex", "site", "scanner")
# In this order: what the encoder has never seen comes first.
SPLITS = ("test", "val", "train")
EVERYONE = "all"
MISSING = "n/a"


@dataclass(frozen=True)
class Sample:
    """Participants a map is made over.

    Parameters
    ----------
    rows : DataFrame
        One row per participant: ``participant_id`` and the manifest's columns and factors, averaged over images; of
        classes the first image's.
    images : list of int array
        For each participant the manifest's rows of their images, counted from 0.
    split : str
        ``test``, ``val``, ``train`` or ``all``.
    notes : list of str
        What a reader must know about the choice.
    """

    rows: pd.DataFrame
    images: list[np.ndarray]
    split: str
    notes: list[str]

    def only(self, chosen: np.ndarray) -> Sample:
        """Return the sample of the participants marked in a boolean array."""
        images = [image for image, keep in zip(self.images, chosen, strict=True) if keep]
        return Sample(self.rows[chosen].reset_index(drop=True), images, self.split, self.notes)


def add_factors(manifest: pd.DataFrame, table: pd.DataFrame, factors: Sequence[str]) -> pd.DataFrame:
    """Return the manifest with columns of an embedding table, joined on the ids; missing where there is no embedding.

    Parameters
    ----------
    manifest : DataFrame
    table : DataFrame
        Embedding table of the same run.
    factors : sequence of str
        Columns of ``table``.

    Raises
    ------
    RunError
        When an embedding has no row in the manifest.

    Examples
    --------
    >>> manifest = pd.DataFrame({"participant_id": ["01", "02"]})
    >>> table = pd.DataFrame({"participant_id": ["02"], "salient_000": [0.5]})
    >>> add_factors(manifest, table, ["salient_000"])["salient_000"].tolist()
    [nan, 0.5]
    """
    places = _keys(manifest).get_indexer(_keys(table))
    if (places < 0).any():
        who = ", ".join(table["participant_id"][places < 0].astype(str).unique()[:5])
        raise RunError(f"embeddings of {who} have no row in the run's manifest; run `sepclr-med embed RUN_DIR` again")
    values = table[list(factors)].set_axis(places).reindex(range(len(manifest)))
    return pd.concat([manifest.reset_index(drop=True), values], axis=1)


def choose_sample(
    manifest: pd.DataFrame, has_image: np.ndarray, target: Sequence[str], split: str | None = None
) -> Sample:
    """Return the target participants of one split.

    Parameters
    ----------
    manifest : DataFrame
        With ``split``; factors among its columns.
    has_image : bool array (n_rows,)
        Whether the row's image could be preprocessed.
    target : sequence of str
        Values of ``diagnosis`` that are patients.
    split : {"test", "val", "train", "all"} or None, default=None
        None means the first of test, val, train with a target participant in it.

    Returns
    -------
    Sample

    Raises
    ------
    UserError
        For an unknown split, or one without target participants.

    Examples
    --------
    >>> manifest = pd.DataFrame(
    ...     {
    ...         "participant_id": ["01", "01", "02"],
    ...         "diagnosis": ["patient", "patient", "control"],
    ...         "split": "test",
    ...         "age": [30.0, 32.0, 40.0],
    ...     }
    ... )
    >>> sample = choose_sample(manifest, np.ones(3, bool), ["patient"])
    >>> sample.rows["age"].tolist(), sample.images[0].tolist(), sample.split
    ([31.0], [0, 1], 'test')
    """
    if split not in (None, EVERYONE, *SPLITS):
        raise UserError(f"explain: split is one of {', '.join([*SPLITS, EVERYONE])}; got {split}")
    usable = has_image & manifest["diagnosis"].isin(list(target)).to_numpy()
    counts = {name: int((usable & (manifest["split"] == name).to_numpy()).sum()) for name in SPLITS}
    split = split or next((name for name in SPLITS if counts[name]), "test")
    if split != EVERYONE:
        usable = usable & (manifest["split"] == split).to_numpy()
    if not usable.any():
        there = ", ".join(f"{n} in {name}" for name, n in counts.items())
        raise UserError(f"explain: no image of {' or '.join(target)} in split {split}; images there are: {there}")
    notes = []
    if split in ("train", EVERYONE):
        notes.append(
            "The encoder was trained on these images: maps of its own factors are maps of what it was fitted to."
        )
    if split == "val":
        notes.append("These participants were watched during training and may have chosen the checkpoint.")
    skipped = int((~has_image).sum())
    if skipped:
        notes.append(f"{skipped} images of the cohort could not be read and are left out.")
    rows, images = _average(manifest, np.flatnonzero(usable))
    notes += _several_classes(manifest, usable)
    return Sample(rows, images, split, notes)


def choose_covariates(rows: pd.DataFrame, asked: Sequence[str] | None) -> list[str]:
    """Return the covariates to adjust for: those asked, or as many of age, sex, site and tiv as have values.

    Raises
    ------
    ManifestError
        Naming every column asked that does not exist.
    """
    if asked is None:
        return [name for name in COVARIATES if name in rows and rows[name].notna().any()]
    unknown = [name for name in asked if name not in rows]
    if unknown:
        problems = [
            Problem("no such column", column=name, fix=did_you_mean(name, map(str, rows.columns))) for name in unknown
        ]
        raise ManifestError(f"explain: {len(unknown)} covariate(s) are not in the manifest", problems)
    return list(dict.fromkeys(asked))


def confound_matrix(rows: pd.DataFrame, covariates: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Return the covariates as numbers: centred, classes as 0/1 columns, of full rank beside an intercept.

    Parameters
    ----------
    rows : DataFrame
        Without missing values in ``covariates``.
    covariates : sequence of str
        Text, and ``sex``, ``site`` and ``scanner`` in any form, are classes; everything else is linear.

    Returns
    -------
    matrix : float array (n, q)
        Without the intercept; q may be 0. Columns have mean 0 and length 1.
    dropped : list of str
        Covariates that add nothing beside the others.

    Examples
    --------
    >>> rows = pd.DataFrame({"age": [20.0, 30.0, 60.0], "sex": ["F", "M", "F"], "site": ["a", "a", "a"]})
    >>> matrix, dropped = confound_matrix(rows, ["age", "sex", "site"])
    >>> matrix.shape, dropped
    ((3, 2), ['site'])
    """
    kept: list[np.ndarray] = []
    dropped = []
    for name in covariates:
        before = len(kept)
        for column in _columns(rows[name], is_class(rows[name])):
            centred = column - column.mean()
            # What the columns before it and the intercept leave of it.
            rest = centred.copy()
            if kept:
                basis = np.column_stack(kept)
                rest -= basis @ np.linalg.lstsq(basis, centred, rcond=None)[0]
            if np.linalg.norm(rest) > 1e-8 * max(np.linalg.norm(column), 1e-300):
                kept.append(centred / np.linalg.norm(centred))
        if len(kept) == before:
            dropped.append(name)
    return (np.column_stack(kept) if kept else np.empty((len(rows), 0))), dropped


def is_class(values: pd.Series) -> bool:
    """Return whether a column holds classes: text or booleans, and sex, site and scanner in any form."""
    number = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    return values.name in CLASSES or not number


def _columns(values: pd.Series, classes: bool) -> list[np.ndarray]:
    if not classes:
        return [values.to_numpy(dtype=float)]
    dummies = pd.get_dummies(values.astype(str), drop_first=True, dtype=float)
    return [dummies[name].to_numpy() for name in dummies]


def _average(manifest: pd.DataFrame, places: np.ndarray) -> tuple[pd.DataFrame, list[np.ndarray]]:
    chosen = manifest.reset_index(drop=True).loc[places]
    grouped = chosen.groupby("participant_id", sort=False)
    numbers = chosen.select_dtypes("number").columns.difference(["participant_id"])
    # `first` passes over missing values, as `mean` does.
    rows = grouped.first()
    rows[numbers] = grouped[list(numbers)].mean()
    images = [np.asarray(grouped.indices[who]) for who in rows.index]
    return rows.reset_index(), [places[within] for within in images]


def _several_classes(manifest: pd.DataFrame, usable: np.ndarray) -> list[str]:
    notes = []
    for name in [column for column in CLASSES if column in manifest]:
        pairs = manifest.loc[usable, ["participant_id", name]].dropna().drop_duplicates()
        n_several = pairs.loc[pairs["participant_id"].duplicated(), "participant_id"].nunique()
        if n_several:
            notes.append(f"{n_several} participants have more than one {name}; that of their first image is used.")
    return notes


def _keys(table: pd.DataFrame) -> pd.MultiIndex:
    absent = pd.Series(MISSING, index=table.index, dtype=object)
    columns = [table[column].astype(object).fillna(MISSING) if column in table else absent for column in KEY]
    return pd.MultiIndex.from_arrays(columns)
