"""A new site: its effect in the normative reference of a run, estimated from its own controls and kept for later."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from sepclr_med.checkpoint import load_checkpoint, save_checkpoint
from sepclr_med.config import Config
from sepclr_med.errors import ManifestError, Problem, RunError
from sepclr_med.methods import needs_reference
from sepclr_med.rendering import load_reference
from sepclr_med.rundir import RunDir, as_written, file_sha256
from sepclr_med.runs import cache_folder
from sepclr_med.volumes.cache import cache_volumes
from sepclr_med.volumes.site_effects import SITE, SiteEffect, estimate_site

# docs/benchmarks.md: how far factors of patients of a new site are from what they would be, by number of controls.
FEWEST_CONTROLS = 5
TENSORS = ("means", "centre", "shares")


@dataclass(frozen=True)
class Onboarding:
    """Whether a run's reference can learn a new site, and which sites of a manifest it does not know.

    Parameters
    ----------
    sites : list of str
        Sites that the reference does not know.
    nothing : str
        Why nothing can or need be onboarded; empty where something can.
    """

    sites: list[str]
    nothing: str


def find_new_sites(run: RunDir, manifest: pd.DataFrame, config: Config) -> Onboarding:
    """Say which sites of a manifest the reference of a run does not know.

    Parameters
    ----------
    run : RunDir
        A single model.
    manifest : DataFrame
    config : Config
        Of the run.
    """
    if not needs_reference(config):
        return Onboarding(
            [],
            "This run has no normative reference, so there is no site effect to estimate: its encoders see images as "
            "they are, whatever the site. The flags say whether images of the new site look unlike the cohort's",
        )
    known = dict(load_reference(run).design.coding.levels).get(SITE)
    if known is None:
        return Onboarding(
            [],
            "The normative reference of this run does not know sites, so there is no site effect to estimate: images "
            "are compared with controls of all sites. The flags say whether images of the new site look unlike the "
            "cohort's",
        )
    seen = sorted(set(manifest[SITE].dropna().astype(str)) - set(known)) if SITE in manifest else []
    return Onboarding(seen, "" if seen else f"All sites are known to the run: {', '.join(known)}")


def onboard_sites(
    run: RunDir, manifest: pd.DataFrame, config: Config, sites: list[str], cache_dir: str | Path | None = None
) -> dict[str, SiteEffect]:
    """Estimate the effect of new sites from their controls in a manifest.

    Parameters
    ----------
    run : RunDir
        A single model, with a reference that knows sites.
    manifest : DataFrame
        With ``diagnosis``, ``site`` and the covariates of the reference.
    config : Config
        Of the run.
    sites : list of str
        From :func:`find_new_sites`.
    cache_dir : path or None, default=None
        Folder of preprocessed volumes; none means the run's.

    Returns
    -------
    dict of site to SiteEffect

    Raises
    ------
    ManifestError
        For each site without controls, or with fewer than the least number; when covariates are missing.
    VolumeError
        When images cannot be read and ``volumes.on_error`` is ``stop``.
    """
    require_controls(manifest, config, sites)
    cache = Path(cache_dir) if cache_dir else cache_folder(run, config)
    site = manifest[SITE].astype(str)
    controls = manifest["diagnosis"].isin(config.cohort.background)
    # The index stays: messages about images name the row of the whole manifest.
    used = manifest[controls & site.isin(sites)]
    cached = cache_volumes(used, config.volumes, cache, config.network.spatial_dims)
    kept = pd.Series(cached.rows >= 0, index=used.index)
    require_controls(used[kept], config, sites)
    reference, table = load_reference(run), used.reset_index(drop=True)
    return {
        name: estimate_site(
            reference, cached.load, table, (kept.to_numpy() & (table[SITE].astype(str) == name)).to_numpy().nonzero()[0]
        )
        for name in sites
    }


def require_controls(manifest: pd.DataFrame, config: Config, sites: list[str]) -> None:
    """Refuse sites that have no or too few controls, all at once.

    Raises
    ------
    ManifestError
        Naming each of them.
    """
    problems = []
    diagnosis = manifest.get("diagnosis", pd.Series(None, index=manifest.index, dtype=object))
    for name in sites:
        here = manifest[SITE].astype(str) == name
        counts = [
            manifest.loc[here & diagnosis.isin(group), "participant_id"].nunique()
            for group in (config.cohort.background, config.cohort.target)
        ]
        if counts[0] >= FEWEST_CONTROLS:
            continue
        message = f"{counts[0]} controls and {counts[1]} patients"
        fix = f"add controls scanned at this site (diagnosis {', '.join(config.cohort.background)})"
        if not counts[0]:
            message += ": all who were scanned there are ill, so what the scanner does to an image and what the "
            message += "disease does cannot be told apart, and either would be taken for the other"
        else:
            message += ": their mean would say more about these few people than about the scanner"
        problems.append(
            Problem(message, column=SITE, got=name, allowed=f"{FEWEST_CONTROLS} controls or more", fix=fix,
                    code="too_few_controls")
        )  # fmt: skip
    if problems:
        raise ManifestError(f"{len(problems)} new site(s) cannot be onboarded", problems)


def save_site_effects(
    path: Path, runs: Mapping[str, RunDir], effects: Mapping[str, Mapping[str, SiteEffect]], notes: Mapping[str, Any]
) -> None:
    """Write effects of new sites for later participants.

    Parameters
    ----------
    path : Path
        Ends in ``.safetensors``; a readable copy of the header lies beside it.
    runs : mapping of model to RunDir
        The single models, one of the name "" unless the run is a cross-fit.
    effects : mapping of model to (mapping of site to SiteEffect)
    notes : mapping
        For people.
    """
    tensors, models = {}, []
    for model, sites in effects.items():
        for site, effect in sites.items():
            tensors |= {f"{len(models)}.{name}": getattr(effect, name) for name in TENSORS}
            models.append({"model": model, "site": site, "reference_sha256": file_sha256(runs[model].reference),
                           "groups": effect.groups, "facts": effect.facts})  # fmt: skip
    save_checkpoint(path, tensors, {**notes, "effects": models})


def load_site_effects(path: Path, runs: Mapping[str, RunDir]) -> dict[str, dict[str, SiteEffect]]:
    """Read what :func:`save_site_effects` wrote, for the very models it was estimated with.

    Raises
    ------
    RunError
        When the file cannot be read, or was made with another reference.
    """
    if not path.is_file():
        raise RunError(f"{path}: no such file; `sepclr-med embed RUN_DIR MANIFEST -o OUT --onboard-site` writes it")
    tensors, state = load_checkpoint(path)
    found: dict[str, dict[str, SiteEffect]] = {}
    now = {model: file_sha256(run.reference) for model, run in runs.items() if run.reference.is_file()}
    with as_written(path):
        for number, entry in enumerate(state["effects"]):
            if now.get(entry["model"]) == entry["reference_sha256"]:
                kept = (tensors[f"{number}.{name}"] for name in TENSORS)
                effect = SiteEffect(*kept, entry["groups"], entry["facts"])
                effect.require_voxels(load_reference(runs[entry["model"]]).coefficients.shape[-1])
                found.setdefault(entry["model"], {})[str(entry["site"])] = effect
    if set(found) != set(runs):
        raise RunError(
            f"{path}: holds no site effects of this run's normative reference; onboard the site again with "
            "`sepclr-med embed RUN_DIR MANIFEST -o OUT --onboard-site`"
        )
    return found
