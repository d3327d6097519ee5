"""What new participants are compared with: kept in the run folder, without anyone's id.

Who calibrates: people the network was not trained on, the validation and test parts of a run (a sealed test part once
it was opened, not before), everybody of a cross-fit. Distances are fitted on training people and ranked among these.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from sepclr_med.analysis.conformal import conformal_p
from sepclr_med.analysis.distances import GroupDistance, fit_distance
from sepclr_med.analysis.spaces import image_keys
from sepclr_med.cohort.coverage import compare_geometry, compare_ranges, learn_geometry, learn_ranges
from sepclr_med.cohort.embeddings import NOTICE, embedding_path, factor_columns, read_embeddings
from sepclr_med.cohort.images import ImageFacts, read_header
from sepclr_med.cohort.manifest import assign_roles, read_manifest
from sepclr_med.errors import RunError
from sepclr_med.opening import sealed_entries
from sepclr_med.rundir import RunDir, as_written, file_sha256, read_json, write_json
from sepclr_med.runs import read_config

logger = logging.getLogger(__name__)

# Raised whenever the same embeddings would give other norms, or norms are written down otherwise.
VERSION = 2
COMPARED = ("common", "salient", "image")
GROUPS = {"background": "controls", "target": "patients"}
# A percentile among fewer says nothing that training people would not say better, with their fault.
FEWEST_HELD_OUT = 10


@dataclass(frozen=True)
class Norms:
    """Distributions of a run's cohort.

    Parameters
    ----------
    model_id : str
        Weights the embeddings were made with.
    source : str
        Hash of what the norms were made from.
    part : str
        ``held-out`` or ``training``: whom distances are ranked among.
    words : str
        The same, for people.
    distances : dict of fold to (dict of space to dict)
        :meth:`~sepclr_med.analysis.distances.GroupDistance.to_dict`; a single run has one fold, ``""``. In a cross-fit
        that of a fold is fitted on the other folds, for whoever the fold's models embed.
    columns : dict of space to list of str
        Factors of each distance.
    scores : dict of space to list of float
        Distances of the calibration people, in one order.
    groups : dict of group to dict
        ``n`` and ``part`` of controls and patients.
    factors : dict of space to dict
        Sorted values of each factor in each group; which values are one person's is not kept.
    ranges, geometry : dict
        From :mod:`sepclr_med.cohort.coverage`.
    """

    model_id: str
    source: str
    part: str
    words: str
    distances: dict[str, dict[str, dict[str, Any]]]
    columns: dict[str, list[str]]
    scores: dict[str, list[float]]
    groups: dict[str, dict[str, Any]]
    factors: dict[str, dict[str, dict[str, list[float]]]]
    ranges: dict[str, Any]
    geometry: dict[str, Any]

    @property
    def n_calibration(self) -> int:
        """People whom distances are ranked among."""
        return len(next(iter(self.scores.values()), []))

    def distance(self, fold: str, space: str) -> GroupDistance:
        """Return the distance of a space, for embeddings by the models of a fold."""
        return GroupDistance.from_dict(self.distances[fold][space])

    def require_fit(self, by_fold: Mapping[str, Mapping[str, pd.DataFrame]]) -> None:
        """Refuse norms of other folds or factors than those of these embeddings.

        Raises
        ------
        KeyError
            For the first fold or factor that the embeddings lack.
        """
        for fold in self.distances:
            for space, columns in self.columns.items():
                if absent := set(columns).difference(by_fold[fold].get(space, pd.DataFrame(columns=columns))):
                    raise KeyError(absent.pop())


def load_norms(run: RunDir) -> Norms | None:
    """Return the norms of a run: made anew when its embeddings or its seal have changed, None where there are none.

    A run folder without embeddings, such as a copy that was passed on, has those that were made before.

    Parameters
    ----------
    run : RunDir

    Raises
    ------
    RunError
        When they cannot be read, or a ledger was changed.
    """
    kept = _read(run) if run.norms.is_file() else None
    if not embedding_path(run.embeddings, "salient").is_file():
        if kept is None and run.norms.is_file():
            raise RunError(f"{run.norms}: is of another version; embed the run's own cohort again")
        return kept
    if kept is not None and kept.source == _hash_source(run):
        return kept
    norms = make_norms(run)
    try:
        write_json(run.norms, {"Notice": NOTICE, "Version": VERSION, **asdict(norms)})
    except RunError as error:
        # A run shared read-only still serves.
        logger.warning("not kept: %s", error)
    return norms


def make_norms(run: RunDir) -> Norms:
    """Make the norms of a run from its own embeddings.

    Raises
    ------
    RunError
        When there are none, or a ledger was changed.
    """
    config, manifest = read_config(run), read_manifest(run.manifest)
    tables = _own_tables(run)
    people = _people(
        tables["salient"], manifest, assign_roles(manifest, config.cohort.background, config.cohort.target)
    )
    cross_fitted, sealed = run.cross_fit.is_file(), _is_sealed(run)
    split = people["split"].to_numpy()
    held_out = np.isin(split, ["val"] if sealed else ["val", "test"])
    trained_on = held_out if cross_fitted else split == "train"
    part = "held-out" if held_out.any() else "training"
    calibrating = held_out if held_out.any() else trained_on
    group = people["role"].map(GROUPS).to_numpy()
    places = people["place"].to_numpy()
    folds = people["fold"].to_numpy() if cross_fitted else np.repeat("", len(people))
    distances: dict[str, dict[str, dict[str, Any]]] = {str(fold): {} for fold in np.unique(folds)}
    columns, scores = {}, {}
    for space in (space for space in COMPARED if space in tables):
        columns[space] = factor_columns(tables[space])
        rows = tables[space][columns[space]].to_numpy(dtype=float)[places]
        found = np.empty(len(rows))
        for fold, known in distances.items():
            here = folds == fold
            fitting = trained_on & ~here if cross_fitted else trained_on
            fitted = fit_distance(rows[fitting], group[fitting], space == "image")
            known[space], found[here] = fitted.to_dict(), fitted(rows[here])
        scores[space] = _plain(found[calibrating])
    parts = {}
    for name in GROUPS.values():
        of_group = held_out & (group == name)
        enough = of_group.sum() >= FEWEST_HELD_OUT
        parts[name] = (of_group if enough else trained_on & (group == name), "held-out" if enough else "training")
    factors = {
        space: {
            factor: {
                name: _plain(np.sort(table[factor].to_numpy(float)[places[rows]])) for name, (rows, _) in parts.items()
            }
            for factor in factor_columns(table)
        }
        for space, table in tables.items()
        if space != "image"
    }
    covariates = [*config.volumes.normative.covariates, *config.evaluation.covariates]
    training = manifest.loc[people.loc[trained_on, "label"]]
    return Norms(
        model_id=str(tables["salient"]["model_id"].iloc[0]),
        source=_hash_source(run),
        part=part,
        words=_describe(people, calibrating, part, cross_fitted, sealed),
        distances=distances,
        columns=columns,
        scores=scores,
        groups={name: {"n": int(rows.sum()), "part": said} for name, (rows, said) in parts.items()},
        factors=factors,
        ranges=learn_ranges(training, covariates),
        geometry=learn_geometry([read_header(str(path)) for path in training["image_path"]]),
    )


def _own_tables(run: RunDir) -> dict[str, pd.DataFrame]:
    """Return the run's embeddings, row by row the same images, with derived ones if they are of the same weights."""
    tables = read_embeddings(run.embeddings, ["common", "salient", "canonical", "image"])
    keys, model = image_keys(tables["salient"]), tables["salient"]["model_id"].iloc[0]
    aligned = {}
    for space, table in tables.items():
        own = image_keys(table)
        if table["model_id"].iloc[0] == model and keys.isin(own).all():
            aligned[space] = table.set_index(own).loc[keys].reset_index(drop=True)
    return aligned


def _people(salient: pd.DataFrame, manifest: pd.DataFrame, roles: pd.Series) -> pd.DataFrame:
    """Return an image of each participant in a group: its ``place`` in the embeddings, ``label`` in the manifest."""
    known = pd.DataFrame({"label": manifest.index, "role": roles.to_numpy()}, index=image_keys(manifest))
    known = known[~known.index.duplicated()].reindex(image_keys(salient)).reset_index(drop=True)
    people = known.assign(
        place=np.arange(len(salient)),
        participant_id=salient["participant_id"].to_numpy(),
        split=salient["split"].to_numpy(),
        fold=salient["fold"].astype(str).to_numpy(),
    )
    return people[people["role"].notna()].drop_duplicates("participant_id").reset_index(drop=True)


def _is_sealed(run: RunDir) -> bool:
    try:
        entries = sealed_entries(run)
    except RunError as error:
        # Of a copy that was passed on the ledger may be elsewhere: then nobody can say that it was opened.
        logger.warning("the test part counts as sealed: %s", error)
        return True
    return entries is not None and all(entry["event"] != "opened" for entry in entries)


def _describe(people: pd.DataFrame, calibrating: np.ndarray, part: str, cross_fitted: bool, sealed: bool) -> str:
    n = int(calibrating.sum())
    if part == "training":
        return (
            f"Distances are ranked among the {n} people the network was trained on, for want of others: unseen people "
            "lie further away, so that more of them are flagged than is said"
            + ("; the sealed test part serves once it was opened" if sealed else "")
        )
    if cross_fitted:
        return (
            f"Distances are ranked among the {n} people of the cohort, each embedded by the models that never saw "
            "them; those of new people by the models of each fold, and the p-values are combined"
        )
    counts = people.loc[calibrating, "split"].value_counts()
    parts = " and ".join(f"{counts[name]} of {name}" for name in ("val", "test") if name in counts)
    more = "; the sealed test part takes no part" if sealed else ""
    return f"Distances are ranked among {n} people that the network was not trained on ({parts}){more}"


def _hash_source(run: RunDir) -> str:
    paths = [
        run.manifest,
        *(embedding_path(run.embeddings, space) for space in ("common", "salient", "canonical", "image")),
    ]
    parts = [file_sha256(path) for path in paths if path.is_file()]
    return hashlib.sha256("\n".join([*parts, f"sealed {_is_sealed(run)}", f"version {VERSION}"]).encode()).hexdigest()


def _read(run: RunDir) -> Norms | None:
    """Return the norms that were kept, None where they are of another version."""
    content = read_json(run.norms, {})
    if content.get("Version") != VERSION:
        return None
    with as_written(run.norms):
        norms = Norms(**{name: value for name, value in content.items() if name not in ("Notice", "Version")})
        _try_out(norms)
    return norms


def _try_out(norms: Norms) -> None:
    """Use all of the norms once, on nobody's values, so that damage is met here and not among results."""
    if norms.scores.keys() != norms.columns.keys() or len({len(scores) for scores in norms.scores.values()}) > 1:
        raise ValueError("other people in each space")
    for fold in norms.distances:
        for space, columns in norms.columns.items():
            conformal_p(norms.distance(fold, space)(np.zeros((1, len(columns)))), _numbers(norms.scores[space]))
    for factors in (norms.factors["salient"], *norms.factors.values()):
        for values in factors.values():
            [_numbers(values[group]) for group in GROUPS.values()]
    if not all(isinstance(norms.groups[group]["part"], str) for group in GROUPS.values()):
        raise ValueError("parts of the groups")
    compare_ranges(dict.fromkeys(norms.ranges, 0.0), norms.ranges)
    for image in (
        ImageFacts("", shape=(1, 1, 1), spacing=(1.0, 1.0, 1.0), orientation="RAS"),
        ImageFacts("", mode="L"),
    ):
        compare_geometry(image, norms.geometry)


def _numbers(values: list[float]) -> np.ndarray:
    found = np.array(values)
    if found.ndim != 1 or found.dtype.kind not in "if":
        raise ValueError("no list of numbers")
    return found


def _plain(values: np.ndarray) -> list[float]:
    return [float(f"{value:.7g}") for value in values]
