"""``embed RUN NEW -o OUT``: new participants embedded, placed among the run's cohort, and judged on whether they fit.

Everything that is fitted was fitted before, on the run's own cohort; the one exception is the effect of a new site,
from controls of that site, who are embedded without themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from sepclr_med.analysis.applicability import APPLICABILITY_COLUMNS, judge_applicability, summarise
from sepclr_med.analysis.linking import derive_new
from sepclr_med.analysis.norms import GROUPS, Norms, load_norms
from sepclr_med.analysis.percentiles import PERCENTILE_COLUMNS, jackknife, percentile_table
from sepclr_med.analysis.spaces import image_keys
from sepclr_med.cohort.embeddings import NOTICE, embedding_path, factor_columns, read_embeddings, read_spread
from sepclr_med.cohort.manifest import read_manifest
from sepclr_med.embedding import embed_at_sites, place_embeddings
from sepclr_med.engine import is_first_process
from sepclr_med.ensembles import embed_cross_fitted_at_sites, find_jobs
from sepclr_med.errors import ConfigError, Problem
from sepclr_med.onboarding import find_new_sites, load_site_effects, onboard_sites, save_site_effects
from sepclr_med.rundir import RunDir, as_written, read_json, write_json, write_table
from sepclr_med.runs import read_config
from sepclr_med.volumes.image_statistics import WORDS
from sepclr_med.volumes.site_effects import SITE, SiteEffect

SITE_FILE = "site_effects.safetensors"
Effects = Mapping[str, Mapping[str, SiteEffect]]


@dataclass(frozen=True)
class NewParticipants:
    """What is known of new participants.

    Parameters
    ----------
    tables : dict of space to DataFrame
        Embeddings.
    applicability : DataFrame
        From :func:`sepclr_med.analysis.applicability.judge_applicability`.
    percentiles : DataFrame
        From :func:`sepclr_med.analysis.percentiles.percentile_table`.
    notes : list of str
        What must be said of them; the first says that they are not for diagnosis.
    written : list of Path
        Files beside the embeddings.
    """

    tables: dict[str, pd.DataFrame]
    applicability: pd.DataFrame
    percentiles: pd.DataFrame
    notes: list[str]
    written: list[Path]


def embed_new(
    run_dir: str | Path,
    manifest: pd.DataFrame,
    output_dir: str | Path,
    onboard_site: bool = False,
    site_effect: str | Path | None = None,
    checkpoint: str | None = None,
    batch_size: int = 64,
    cache_dir: str | Path | None = None,
    devices: int | None = None,
) -> NewParticipants | None:
    """Embed new participants with a trained run, compare them with its cohort, and write all that as a BIDS derivative.

    Parameters
    ----------
    run_dir : path
        Folder of a run or of a cross-fit.
    manifest : DataFrame
        New images.
    output_dir : path
    onboard_site : bool, default=False
        Estimate the effects of sites that the run's reference does not know from their controls in the manifest, and
        keep them in ``OUTPUT_DIR/site_effects.safetensors``.
    site_effect : path or None, default=None
        Such a file of an earlier call.
    checkpoint, batch_size, cache_dir, devices
        As for :func:`sepclr_med.embed`; of single models only.

    Returns
    -------
    NewParticipants or None
        None in all but the first of several processes.

    Raises
    ------
    ConfigError
        When options are given that a cross-fit does not have.
    ManifestError
        When a new site has no or too few controls, or covariates are missing.
    RunError, VolumeError
        As for :func:`sepclr_med.embed`.

    Notes
    -----
    Beside the embeddings: ``desc-applicability_embedding.tsv`` (a row for each image) and
    ``desc-percentiles_embedding.tsv`` (a row for each image, factor and norm group), each with its JSON sidecar. The
    run folder stays as it is, but for a line in ``provenance.json``, and ``norms.json`` if it was not there.
    """
    run = RunDir(run_dir)
    folder = place_embeddings(run, manifest, output_dir)
    cross_fitted = run.cross_fit.is_file()
    if cross_fitted:
        refuse_single_model_options(run.path, checkpoint, cache_dir, devices)
    models = {job.name: RunDir(run.job(job.name)) for job in find_jobs(run)} if cross_fitted else {"": run}
    effects: dict[str, dict[str, SiteEffect]] = {}
    effects |= load_site_effects(Path(site_effect), models) if site_effect is not None else {}
    notes = []
    if onboard_site:
        new, nothing = _onboard(models, manifest, effects, cache_dir)
        notes += [f"{nothing}."] if nothing else []
        effects = {model: {**effects.get(model, {}), **sites} for model, sites in new.items()} or effects
    by_site = next(iter(effects.values()), {})
    if cross_fitted:
        tables, shifted, by_fold = embed_cross_fitted_at_sites(run.path, manifest, folder, effects)
    else:
        how = (checkpoint, batch_size, cache_dir, devices)
        tables, shifted = embed_at_sites(run.path, manifest, folder, by_site, *how)
        by_fold = {}
    if not is_first_process():
        return None
    here = _rows_of(manifest, tables["salient"])
    moved = _moved(here, by_site, shifted)
    written = derive_new(run.path, tables, folder)
    norms = load_norms(run)
    if norms is not None and norms.model_id != tables["salient"]["model_id"].iloc[0]:
        norms = None
        notes.append(
            "The run's own embeddings are of other weights (--checkpoint), with which nothing can be compared."
        )
    derived = ("image", "canonical") if embedding_path(folder, "canonical") in written else ("image",)
    tables_and_derived = {**tables, **read_embeddings(folder, derived)}
    onboarded = {site: effect.facts["n_controls"] for site, effect in by_site.items()}
    judged = by_fold or {"": tables_and_derived}
    if norms is not None:
        with as_written(run.norms):
            norms.require_fit(judged)
    applicability = judge_applicability(judged, here, norms, WORDS, onboarded, _trained_families(run))
    percentiles = _place(tables_and_derived, norms, moved, folder, cross_fitted)
    said = [_say_site(site, effect, percentiles, here, norms) for site, effect in by_site.items()]
    notes = [NOTICE, *notes, *summarise(applicability, norms), *(words for words in said if words)]
    written += _write(folder, applicability, percentiles, norms, notes)
    if onboard_site and by_site:
        save_site_effects(folder / SITE_FILE, models, effects, {"Notice": NOTICE, "Statements": said})
        written.append(folder / SITE_FILE)
    return NewParticipants(tables, applicability, percentiles, notes, written)


def refuse_single_model_options(run_dir: str | Path, *options: object) -> None:
    """Refuse options that a cross-fit does not have.

    Raises
    ------
    ConfigError
        When any of them is given.
    """
    if any(options):
        fix = "leave them out, or embed one of its models: sepclr-med embed RUN_DIR/models/NAME"
        one = Problem("--checkpoint, --cache-dir and --devices are of single models", fix=fix)
        raise ConfigError(f"embed: {run_dir} is a cross-fit", [one])


def _onboard(
    models: Mapping[str, RunDir], manifest: pd.DataFrame, known: Effects, cache_dir: str | Path | None
) -> tuple[dict[str, dict[str, SiteEffect]], str]:
    """Estimate the effects of new sites in each model; say why where there is nothing to estimate."""
    found = {}
    for name, model in models.items():
        config = read_config(model)
        onboarding = find_new_sites(model, manifest, config)
        sites = [site for site in onboarding.sites if site not in known.get(name, {})]
        if not sites:
            return {}, onboarding.nothing or "All new sites are in the file of site effects"
        found[name] = onboard_sites(model, manifest, config, sites, cache_dir)
    return found, ""


def _trained_families(run: RunDir) -> set[str]:
    """Return the families of whoever the run was trained on or watched, of a cross-fit all of its own."""
    own = read_manifest(run.manifest)
    if "split" in own:
        own = own[own["split"] != "test"]
    return set(own["family_id"].dropna()) if "family_id" in own else set()


def _rows_of(manifest: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Return the manifest's rows of the images that were embedded, in the order of their embeddings."""
    own = image_keys(manifest)
    places = pd.Series(np.arange(len(manifest)), index=own)
    places = places[~places.index.duplicated()]
    return manifest.iloc[places.loc[image_keys(table)].to_numpy()].reset_index(drop=True)


class _Moved(NamedTuple):
    """Salient factors with each group of a new site's controls left out, (K, n, d), and K of each row's site, (n,)."""

    replicates: np.ndarray
    n_groups: np.ndarray


def _moved(manifest: pd.DataFrame, by_site: Mapping[str, SiteEffect], shifted: list[pd.DataFrame]) -> _Moved | None:
    """Put the embeddings of images of new sites, moved, beside those of all; None where there are none."""
    if not shifted:
        return None
    n_groups = manifest[SITE].astype(str).map({site: effect.n_groups for site, effect in by_site.items()})
    n_groups = n_groups.fillna(0).to_numpy(dtype=int)
    found = np.stack([table[factor_columns(table)].to_numpy(dtype=float) for table in shifted])
    replicates = np.full((len(found), len(manifest), found.shape[2]), np.nan)
    replicates[:, n_groups > 0] = found
    return _Moved(replicates, n_groups)


def _place(
    tables: Mapping[str, pd.DataFrame], norms: Norms | None, moved: _Moved | None, folder: Path, cross_fitted: bool
) -> pd.DataFrame:
    """Return the percentiles of every factor."""
    half = {}
    if moved is not None:
        half["salient"] = jackknife(moved.replicates, moved.n_groups)
        if "canonical" in tables:
            loadings = np.array(read_json(embedding_path(folder, "canonical").with_suffix(".json"))["Loadings"])
            half["canonical"] = jackknife(moved.replicates @ loadings, moved.n_groups)
    spaces = {space: tables[space] for space in ("canonical", "salient", "common") if space in tables}
    spreads = {space: read_spread(space, folder) for space in ("salient", "common") if cross_fitted and space in tables}
    groups = norms.groups if norms is not None else {name: {"part": None} for name in GROUPS.values()}
    return percentile_table(spaces, norms.factors if norms is not None else {}, groups, spreads, half)


def _say_site(
    site: str, effect: SiteEffect, percentiles: pd.DataFrame, manifest: pd.DataFrame, norms: Norms | None
) -> str:
    """Say how sure factors at a new site are, in standard deviations of the cohort's patients."""
    n = effect.facts["n_controls"]
    here = set(manifest.loc[manifest[SITE].astype(str) == site, "participant_id"]) if SITE in manifest else set()
    rows = percentiles[(percentiles["space"] == "salient") & percentiles["participant_id"].isin(here)]
    rows = rows[rows["norm"] == GROUPS["target"]]
    if rows.empty or norms is None:
        return f"Site {site}: its effect was estimated from {n} controls."
    spread = {factor: float(np.std(groups[GROUPS["target"]])) for factor, groups in norms.factors["salient"].items()}
    share = (rows["value_high"] - rows["value"]) / rows["factor"].map(spread).replace(0.0, np.nan)
    return (
        f"Site {site}: its effect was estimated from {n} controls, each embedded without their own group. For want of "
        f"more, a salient factor there is uncertain by {share.median():.2f} standard deviations of the cohort's "
        f"patients (median half-width of the 95% intervals; a tenth are above {share.quantile(0.9):.2f}). That the "
        "scanner's noise, or effects of age and sex, may differ there is not in these intervals."
    )


def _write(
    folder: Path, applicability: pd.DataFrame, percentiles: pd.DataFrame, norms: Norms | None, notes: list[str]
) -> list[Path]:
    compared = {"ModelId": norms.model_id, "People": norms.n_calibration, "Part": norms.part} if norms else {}
    written = []
    for name, table, columns, about in (
        (
            "applicability",
            applicability,
            APPLICABILITY_COLUMNS,
            "Whether each image is like those the model is made for.",
        ),
        ("percentiles", percentiles, PERCENTILE_COLUMNS, "Where each factor lies among controls and among patients."),
    ):
        path = folder / f"desc-{name}_embedding.tsv"
        described = {column: {"Description": text} for column, text in columns.items() if column in table}
        sidecar = {"Description": about, "Notice": NOTICE, "ComparedWith": compared, "Statements": notes, **described}
        write_json(path.with_suffix(".json"), sidecar)
        written.append(write_table(path, table[list(described)]))
    return written
