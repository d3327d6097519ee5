"""``explain``: where in the brain a factor lives."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import pandas as pd

from sepclr_med.anatomy.encoders import map_sensitivity
from sepclr_med.anatomy.factors import MappedFactor, default_factors, join_values, read_tables, resolve_factors
from sepclr_med.anatomy.mapping import Mapper, MapSettings
from sepclr_med.anatomy.overlap import find_truth, read_truth
from sepclr_med.anatomy.results import summarise, write_facts
from sepclr_med.anatomy.run_images import open_images
from sepclr_med.anatomy.sample import choose_covariates, choose_sample
from sepclr_med.anatomy.tables import read_atlas
from sepclr_med.cohort.manifest import read_manifest
from sepclr_med.errors import UserError
from sepclr_med.occupancy import alone
from sepclr_med.opening import guard_test
from sepclr_med.provenance import record_step
from sepclr_med.rundir import RunDir
from sepclr_med.runs import read_config

SENSITIVITIES = ("ig", "occlusion")
FREE = (
    "Corrected p-values come from free permutations (nilearn's permuted OLS): once the covariates are taken out of the "
    "images, any participant may take any other's place. They assume that what is left varies alike at every site; "
    "p_within_site permutes within sites."
)

SEVERAL = (
    "The factors of a cross-fit are means over several encoders: there are voxelwise maps, but no sensitivity of one."
)

logger = logging.getLogger(__name__)


@alone
def explain(
    run_dir: str | Path,
    factors: Sequence[str] | None = None,
    variables: Sequence[str] | None = None,
    covariates: Sequence[str] | None = None,
    split: str | None = None,
    n_permutations: int = 1000,
    tfce: bool = True,
    sensitivity: Sequence[str] = SENSITIVITIES,
    atlas: str | Path | None = None,
    atlas_labels: str | Path | None = None,
    alpha: float = 0.05,
    n_images: int = 12,
    seed: int = 0,
    n_jobs: int = -1,
    cache_dir: str | Path | None = None,
    open_test: str | None = None,
) -> pd.DataFrame:
    """Map factors of a run onto the brain and write ``RUN_DIR/maps``.

    Two questions are asked of each factor among target participants, of a cross-fit the first alone. *Which voxels go
    with it*: regression of the preprocessed images on the factor and the covariates, with p-values corrected over the
    brain by permutation
    (:func:`sepclr_med.anatomy.voxelwise.map_factor`). *What does the encoder read*: integrated gradients and occlusion,
    beside those of a network with random weights (:func:`sepclr_med.anatomy.sensitivity.explain_factors`). On simulated
    cohorts both are compared with what was planted.

    Parameters
    ----------
    run_dir : path
        Folder with a trained model and embeddings.
    factors : sequence of str or None, default=None
        Such as ``salient_003`` or ``canonical_000``; columns of the manifest may be named as well. None means the
        first two canonical factors, or without any the two salient factors that vary most among training targets;
        nothing when ``variables`` are given.
    variables : sequence of str or None, default=None
        Columns of the manifest to map beside the factors: numbers, or two classes.
    covariates : sequence of str or None, default=None
        Adjusted for. None means age, sex, site and tiv as far as the manifest has them; empty means none.
    split : {"test", "val", "train", "all"} or None, default=None
        Whose images; None means the first of test, val and train that has target participants.
    n_permutations : int, default=1000
        0 leaves the regression out.
    tfce : bool, default=True
        Threshold-free cluster enhancement too; most of the time goes there.
    sensitivity : sequence of {"ig", "occlusion"}
        Empty leaves it out. ``ig`` needs captum (extra ``explain``).
    atlas, atlas_labels : path or None, default=None
        Label image in template space and a table ``index name``, for a table of regions.
    alpha : float, default=0.05
        Of the corrected p.
    n_images : int, default=12
        Participants over which sensitivity is averaged.
    seed : int, default=0
    n_jobs : int, default=-1
        Processes for the permutations; -1 means one per core. It does not change the result.
    cache_dir : path or None, default=None
        Folder of preprocessed volumes; none means the run's.
    open_test : str or None, default=None
        Why a sealed test set is opened; without, it takes no part.

    Returns
    -------
    DataFrame
        One row per factor: ``factor space n n_missing covariates max_t x y z p_fwe p_tfce p_within_site
        n_significant_voxels random_correlation truth dice peak_distance_mm``; what was not asked is missing.
        ``attrs["notes"]`` lists what a reader must know. ``maps.json`` has more.

    Raises
    ------
    ManifestError
        For unknown names.
    RunError
        When the run has no embeddings or they were made with other weights; when captum is missing.
    UserError
        When no map at all can be made, saying why.

    References
    ----------
    Freedman and Lane 1983 (permutation of residuals); Smith and Nichols, NeuroImage 2009 (TFCE); Winkler et al.,
    NeuroImage 2014 (exchangeability); Sundararajan et al., ICML 2017 (integrated gradients); Adebayo et al., NeurIPS
    2018 (sanity check).
    """
    started = datetime.now(timezone.utc)
    _check(n_permutations, alpha, n_images, seed, sensitivity)
    run = RunDir(run_dir)
    config = read_config(run)
    manifest = read_manifest(run.manifest)
    tables = read_tables(run.embeddings)
    view = guard_test(tables.tables, manifest, run, "explain", open_test)
    tables, manifest = replace(tables, tables=view.tables), view.manifest
    target = config.cohort.target
    names = [*(factors or []), *(variables or [])] or default_factors(manifest, tables, target)
    mapped = resolve_factors(names, manifest, tables)
    joined = join_values(manifest, mapped, tables)
    images = open_images(run, config, manifest, cache_dir)
    sample = choose_sample(joined, images.has_image, target, split)
    adjusted = choose_covariates(sample.rows, covariates)
    labelled = read_atlas(atlas, atlas_labels, images.mask, images.affine) if atlas and images.template else None
    folder = find_truth(run.path, list(manifest["image_path"].astype(str))) if images.template else None
    truth = read_truth(folder, images.mask, images.affine) if folder else {}
    several = run.cross_fit.is_file()
    asked = () if several else sensitivity
    attributions = map_sensitivity(run, config, tables, images, manifest, sample, mapped, asked, n_images, seed)
    settings = MapSettings(adjusted, n_permutations, tfce, alpha, seed, n_jobs)
    mapper = Mapper(run.path / "maps", images, sample, settings, labelled, truth)
    notes = [
        *view.open(),
        *sample.notes,
        *([SEVERAL] if several else ()),
        *_remarks(images.template, n_permutations, sample.rows, mapped),
    ]
    entries = [mapper.map(factor, attributions.get(factor.name)) for factor in mapped]
    if not any(entry["files"] for entry in entries):
        raise UserError("explain: no map could be made:\n" + "\n".join(f"  {n}" for e in entries for n in e["notes"]))
    facts = {
        "over": f"target participants ({', '.join(target)}), split {sample.split}",
        "split": sample.split,
        "target": list(target),
        "n_participants": len(sample.rows),
        "space": "MNI152" if images.template else "each image's own",
        "spacing_mm": images.spacing,
        "mask_voxels": int(images.mask.sum()),
        "covariates": adjusted,
        "n_permutations": n_permutations,
        "tfce": tfce,
        "alpha": alpha,
        "seed": seed,
        "atlas": Path(atlas).name if labelled else None,
        "simulated": bool(truth),
    }
    model = next(iter(tables.tables.values())).get("model_id", pd.Series(["n/a"])).iloc[0]
    write_facts(run.path / "maps", str(model), facts, entries, notes)
    record_step(run.provenance, "explain", started, {"seed": seed, "factors": names, "settings": facts, "notes": notes})
    for note in notes:
        logger.info(note)
    return summarise(entries, notes)


def _check(n_permutations: int, alpha: float, n_images: int, seed: int, sensitivity: Sequence[str]) -> None:
    unknown = [name for name in sensitivity if name not in SENSITIVITIES]
    if unknown:
        raise UserError(f"explain: sensitivity is ig, occlusion or both; got {', '.join(unknown)}")
    if n_permutations < 0 or n_images < 1 or seed < 0 or not 0 < alpha < 1:
        raise UserError(
            "explain: permutations and seed are 0 or more, images 1 or more, alpha between 0 and 1; got "
            f"{n_permutations}, {seed}, {n_images} and {alpha}"
        )
    if n_permutations and not sensitivity and n_permutations < round(1 / alpha) - 1:
        raise UserError(f"explain: {n_permutations} permutations can never give a p below {alpha}; ask for more")
    if not n_permutations and not sensitivity:
        raise UserError("explain: no permutations and no sensitivity leave nothing to map")


def _remarks(template: bool, n_permutations: int, rows: pd.DataFrame, mapped: Sequence[MappedFactor]) -> list[str]:
    notes = []
    if template and n_permutations:
        notes.append(FREE)
        if "family_id" in rows and rows["family_id"].dropna().duplicated().any():
            notes.append("Members of one family are permuted as if they were strangers: read p-values with care.")
    if not template:
        notes.append(
            "These images are in no common template space, so voxels cannot be compared between people: only the "
            "encoder's sensitivity is mapped, and its average is blurred. Use the vbm preset for voxelwise maps."
        )
    variables = [factor.name for factor in mapped if factor.encoder is None]
    if variables:
        notes.append(f"No encoder gives {', '.join(variables)}: there is a voxelwise map, but no sensitivity.")
    return notes
