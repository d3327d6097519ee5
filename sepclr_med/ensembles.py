"""Models of a cross-fit as one: their spaces laid over one another, and averaged."""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from sepclr_med.analysis.alignment import Alignment, align_tables
from sepclr_med.analysis.spaces import image_keys
from sepclr_med.cohort.crossfolds import Job, read_plan
from sepclr_med.cohort.embeddings import (
    SPACES,
    embedding_path,
    factor_columns,
    keep_replicates,
    read_embeddings,
    write_embeddings,
    write_spread,
)
from sepclr_med.cohort.manifest import read_manifest
from sepclr_med.crossfitting import is_done
from sepclr_med.embedding import (
    alone_with_own,
    embed,
    embed_at_sites,
    embeddings_are_current,
    place_embeddings,
)
from sepclr_med.errors import RunError
from sepclr_med.provenance import record_step
from sepclr_med.rundir import RunDir, write_json
from sepclr_med.volumes.site_effects import SiteEffect

logger = logging.getLogger(__name__)

ALL = (*SPACES, "image")


def embed_cross_fitted(
    run_dir: str | Path,
    manifest: pd.DataFrame | None = None,
    output_dir: str | Path | None = None,
) -> dict[str, pd.DataFrame]:
    """Embed every participant by the models that never saw them, or new ones by all models; average over models.

    The spaces of all models are laid over that of one by orthogonal Procrustes on training participants of both: the
    first that there was when the cohort was embedded first.

    Parameters
    ----------
    run_dir : path
        Folder of :func:`cross_fit`.
    manifest : DataFrame or None, default=None
        New images; none means the run's own cohort.
    output_dir : path or None, default=None
        None means ``RUN_DIR/embeddings``.

    Returns
    -------
    dict of space to DataFrame
        As :func:`sepclr_med.embed` gives it, and written the same way; beside each, ``desc-SPACE_spread.tsv`` has the
        standard deviation over the averaged models, ``seed-N`` the embeddings of each seed alone, and ``seen`` those by
        the models that were trained on the participant: for comparison, never for results.

    Raises
    ------
    RunError
        When a fold has no finished model; when another process works in the run folder, and its own cohort is embedded.
    """
    run = RunDir(run_dir)
    with alone_with_own(run, place_embeddings(run, manifest, output_dir)):
        return embed_cross_fitted_at_sites(run_dir, manifest, output_dir, {}).tables


class CrossFitted(NamedTuple):
    """Embeddings by the models of a cross-fit.

    Parameters
    ----------
    tables : dict of space to DataFrame
        Means over models.
    moved : list of DataFrame
        As :func:`sepclr_med.embedding.embed_at_sites` gives them, averaged over models.
    by_fold : dict of fold to (dict of space to DataFrame)
        Means over the models of each fold, of new images: comparable with embeddings of the fold's own people, whom
        these models never saw either.
    """

    tables: dict[str, pd.DataFrame]
    moved: list[pd.DataFrame]
    by_fold: dict[str, dict[str, pd.DataFrame]]


def embed_cross_fitted_at_sites(
    run_dir: str | Path,
    manifest: pd.DataFrame | None,
    output_dir: str | Path | None,
    site_effects: Mapping[str, Mapping[str, SiteEffect]],
) -> CrossFitted:
    """Embed images as :func:`embed_cross_fitted` does, some of them of sites that were not in training.

    Parameters
    ----------
    run_dir, manifest, output_dir
        As for :func:`embed_cross_fitted`.
    site_effects : mapping of model to (mapping of site to SiteEffect)

    Returns
    -------
    CrossFitted
    """
    started = datetime.now(timezone.utc)
    run = RunDir(run_dir)
    folder, plan = place_embeddings(run, manifest, output_dir), read_plan(run)
    done = find_jobs(run)
    own = {job: _own_embeddings(run.job(job.name)) for job in done}
    first = _choose_reference(run, own, renew=manifest is None)
    alignments = _lay_over(own, first)
    reference = own[first]
    new, shifted = (None, {}) if manifest is None else _embed_new(run, done, manifest, site_effects)
    aligned = {
        job: {
            space: _move(table, alignments[job][space]) if space in alignments[job] else table
            for space, table in (new or own)[job].items()
        }
        for job in done
    }
    # Statistics of images are nobody's space; models embedded by an earlier version lack them.
    spaces = [space for space in reference if all(space in tables for tables in aligned.values())]
    found = {space: _average(aligned, space, "test" if new is None else None) for space in spaces}
    tables = {space: mean for space, (mean, _) in found.items()}
    if manifest is None:
        tables = {space: _in_order_of(read_manifest(run.manifest), table) for space, table in tables.items()}
    facts = {"Models": [job.name for job in done], "Reference": first.name, "Alignment": "orthogonal Procrustes",
             "Ensemble": str(tables["salient"]["model_id"].iloc[0])}  # fmt: skip
    if new is None:
        _write_replicates(aligned, spaces, plan, folder, facts)
    write_embeddings(tables, folder, facts)
    for space, (_, spread) in found.items():
        write_spread(space, spread, folder)
    record_step(run.provenance, "embed", started, {**facts, "own_cohort": new is None})
    moved = [
        _average(
            {job: {"salient": _move(shifted[job][number], alignments[job]["salient"])} for job in done}, "salient", None
        )[0]
        for number in range(min((len(tables) for tables in shifted.values()), default=0))
    ]
    by_fold = {
        fold: {
            space: _average({job: aligned[job] for job in done if job.fold == fold}, space, None)[0] for space in spaces
        }
        for fold in (plan["folds"] if new is not None else ())
    }
    return CrossFitted({space: table for space, table in tables.items() if space in SPACES}, moved, by_fold)


def find_jobs(run: RunDir) -> list[Job]:
    """Return the finished models of a cross-fit.

    Raises
    ------
    RunError
        When a fold has none.
    """
    plan = read_plan(run)
    done = [job for seed in plan["seeds"] for fold in plan["folds"] if is_done(run, job := Job(fold, seed))]
    if absent := sorted(set(plan["folds"]) - {job.fold for job in done}):
        raise RunError(f"{run.path}: no finished model of fold {', '.join(absent)}; run the same `fit` command again")
    return done


def _choose_reference(run: RunDir, own: Mapping[Job, Mapping[str, pd.DataFrame]], renew: bool) -> Job:
    """Return the model over which all others are laid: that of the first embedding, as long as it is there.

    Which one it was is in the record of the cross-fit, for a model that is repaired later must not turn the axes.
    ``renew`` takes another one down where that one is gone or was trained anew, and says so; new images change nothing.
    """
    plan = read_plan(run)
    known = plan.get("reference")
    named = next((job for job in own if known and job.name == known.get("model")), None)
    chosen = named or next(iter(own))
    now = {"model": chosen.name, "model_id": str(own[chosen]["salient"]["model_id"].iloc[0])}
    if known and known != now:
        what = "was trained anew" if named else "is gone"
        advice = "repeat link, explain and report" if renew else "embed and link the cohort itself again"
        logger.warning(
            "%s: %s, over which all models were laid, %s; they are laid over %s now, and factors are other axes: %s",
            run.path, known.get("model"), what, chosen.name, advice,
        )  # fmt: skip
    if known != now and (renew or not known):
        write_json(run.cross_fit, {**plan, "reference": now})
    return chosen


def _lay_over(own: Mapping[Job, Mapping[str, pd.DataFrame]], first: Job) -> dict[Job, dict[str, Alignment]]:
    """Return how each space of every model is laid over that of one."""
    spaces = {job: {space: table for space, table in own[job].items() if space in SPACES} for job in own}
    return {job: align_tables(spaces[job], spaces[first]) for job in own}


def _write_replicates(
    aligned: dict[Job, dict[str, pd.DataFrame]],
    spaces: list[str],
    plan: Mapping[str, Any],
    folder: Path,
    facts: Mapping[str, Any],
) -> None:
    """Write what the models say that are averaged, each seed alone and those that saw the participant, and no others.

    What was derived from embeddings that are replaced here, and what belongs to models that are gone, goes first: a
    process that is killed meanwhile leaves nothing that could be taken for a part of the new.
    """
    seen = {space: _average(aligned, space, "train")[0] for space in spaces}
    replicates = {"seen": (seen, {"Models": "those that were trained on the participant"})}
    for seed in plan["seeds"]:
        parts = {job: tables for job, tables in aligned.items() if job.seed == seed}
        if {job.fold for job in parts} == set(plan["folds"]):
            alone = {space: _average(parts, space, "test")[0] for space in spaces}
            replicates[f"seed-{seed}"] = alone, {"Seed": seed}
    embedding_path(folder, "canonical").unlink(missing_ok=True)
    keep_replicates(folder, replicates)
    for name, (tables, said) in replicates.items():
        write_embeddings(tables, folder / name, {**facts, **said})


def _average(
    models: dict[Job, dict[str, pd.DataFrame]], space: str, part: str | None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the mean over models and their standard deviation, each image by those to which it is this part."""
    held_out = part == "test"
    parts = [
        (table[table["split"] == part] if part else table).assign(fold=job.fold if held_out else None)
        for job, table in ((job, tables[space]) for job, tables in models.items())
    ]
    together = pd.concat(parts, ignore_index=True)
    together = together.set_index(image_keys(together))
    factors = factor_columns(parts[0])
    grouped = together.groupby(level=[0, 1, 2], sort=False)
    identity = hashlib.sha256("".join(sorted(together["model_id"].unique())).encode()).hexdigest()[:12]
    ids = together[~together.index.duplicated()].drop(columns=factors).assign(model_id=identity)
    if not held_out:
        # Some of the models were trained on whoever is in the cohort.
        ids["split"] = ids["split"].mask(ids["split"].notna(), "train")
    mean, spread = grouped[factors].mean(), grouped[factors].std()
    number = grouped.size().rename("n_models")
    return (
        pd.concat([ids, mean], axis=1).reset_index(drop=True),
        pd.concat([ids, number, spread], axis=1).reset_index(drop=True),
    )


def _in_order_of(manifest: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    order, found = image_keys(manifest), table.set_index(image_keys(table))
    return found.loc[order[order.isin(found.index)]].reset_index(drop=True)


def _move(table: pd.DataFrame, alignment: Callable[[np.ndarray], np.ndarray]) -> pd.DataFrame:
    factors = factor_columns(table)
    return table.assign(**dict(zip(factors, alignment(table[factors].to_numpy(float)).T, strict=True)))


def _embed_new(
    run: RunDir, jobs: list[Job], manifest: pd.DataFrame, site_effects: Mapping[str, Mapping[str, SiteEffect]]
) -> tuple[dict[Job, dict[str, pd.DataFrame]], dict[Job, list[pd.DataFrame]]]:
    found, shifted = {}, {}
    with tempfile.TemporaryDirectory() as scratch:
        for job in jobs:
            folder, known = Path(scratch) / job.name, site_effects.get(job.name, {})
            _, shifted[job] = embed_at_sites(run.job(job.name), manifest, folder, known)
            found[job] = read_embeddings(folder, ALL)
    return found, shifted


def _own_embeddings(model: Path) -> dict[str, pd.DataFrame]:
    if not embeddings_are_current(model):
        embed(model)
    return read_embeddings(RunDir(model).embeddings, ALL)
