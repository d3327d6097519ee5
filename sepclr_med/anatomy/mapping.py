"""All maps of one factor: made, compared, drawn and written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from sepclr_med.anatomy.factors import MappedFactor, values_of
from sepclr_med.anatomy.figures import Panel, draw_maps
from sepclr_med.anatomy.overlap import compare_with_truth
from sepclr_med.anatomy.run_images import RunImages
from sepclr_med.anatomy.sample import Sample, confound_matrix
from sepclr_med.anatomy.sensitivity import Sensitivity
from sepclr_med.anatomy.tables import atlas_table, cluster_table, save_map
from sepclr_med.anatomy.verdicts import judge
from sepclr_med.anatomy.voxelwise import VoxelMaps, map_factor
from sepclr_med.errors import UserError
from sepclr_med.rundir import write_table

BLOCK = "site"
KINDS = ("t", "beta", "neglogp", "tfce_neglogp", "ig", "ig_random", "occlusion")
TITLES = {
    "t": "voxelwise regression: t (black line: corrected p <= {alpha:g})",
    "ig": "what the encoder reads: integrated gradients",
    "occlusion": "what the encoder reads: occlusion",
}


@dataclass(frozen=True)
class MapSettings:
    """How the regression is done; see :func:`sepclr_med.anatomy.explanation.explain`."""

    covariates: list[str]
    n_permutations: int
    tfce: bool
    alpha: float
    seed: int
    n_jobs: int


@dataclass(frozen=True)
class Mapper:
    """Makes and writes the maps of factors, one at a time.

    Parameters
    ----------
    folder : Path
        ``RUN_DIR/maps``.
    images : RunImages
    sample : Sample
    settings : MapSettings
    atlas : (int array, dict of int to str) or None
        On the maps' grid.
    truth : mapping of str to bool array
        Planted regions; empty for real cohorts.
    """

    folder: Path
    images: RunImages
    sample: Sample
    settings: MapSettings
    atlas: tuple[np.ndarray, dict[int, str]] | None
    truth: Mapping[str, np.ndarray]

    def map(self, factor: MappedFactor, sensitivity: Sensitivity | None) -> dict[str, Any]:
        """Write every map of a factor and return its facts, JSON-ready."""
        entry: dict[str, Any] = {"factor": factor.name, "space": factor.space, "levels": list(factor.levels)}
        entry |= {"n": 0, "files": {}, "verdicts": [], "notes": [], "overlap": []}
        self._remove(factor.name)
        volumes: dict[str, np.ndarray] = {}
        claims: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        if self.images.template and self.settings.n_permutations:
            try:
                volumes, claims, found = self._regress(factor)
                entry |= found
            except UserError as error:
                entry["notes"].append(f"{factor.name}: no voxelwise map: {str(error).removeprefix('explain: ')}")
        if sensitivity is not None:
            entry["sensitivity"] = dict(sensitivity.facts)
            volumes |= sensitivity.maps
        for kind, values in volumes.items():
            path = self.folder / f"{file_name(factor.name)}_{kind}.nii.gz"
            entry["files"][kind] = save_map(values, self.images.affine, path, self.images.template).name
        if volumes:
            entry["overlap"] = self._compare(volumes, claims)
            self._write_tables(factor, volumes, claims, entry)
            entry["verdicts"] = judge(entry, self.settings.alpha)
            self._draw(factor, volumes, claims, entry)
        return entry

    def _regress(self, factor: MappedFactor) -> tuple[dict, dict, dict[str, Any]]:
        settings, rows = self.settings, self.sample.rows
        values = values_of(rows, factor)
        covariates = [name for name in settings.covariates if name != factor.name]
        missing = np.isnan(values) | rows[covariates].isna().any(axis=1).to_numpy()
        if (~missing).sum() < 3:
            raise UserError(f"{(~missing).sum()} participants have a value and every covariate")
        chosen = self.sample.only(~missing)
        values = values[~missing]
        if np.ptp(values) < 1e-9 * max(np.abs(values).max(), 1e-300):
            raise UserError(f"the same value for all {values.size} participants")
        confounds, dropped = confound_matrix(chosen.rows, covariates)
        sites = chosen.rows[BLOCK].astype(str).to_numpy() if BLOCK in chosen.rows else None
        if sites is not None and (chosen.rows[BLOCK].isna().any() or len(set(sites)) < 2):
            sites = None
        found = map_factor(
            self.images.participant_voxels(chosen.images),
            values,
            confounds,
            self.images.mask,
            settings.n_permutations,
            settings.tfce,
            sites,
            settings.alpha,
            settings.seed,
            settings.n_jobs,
        )
        volumes = self._volumes(found)
        claims = {"max_t": self._claim(found.neglogp)}
        if found.tfce_neglogp is not None:
            claims["tfce"] = self._claim(found.tfce_neglogp)
        facts = {
            "n": int(values.size),
            "n_missing": int(missing.sum()),
            "covariates": covariates,
            "covariates_that_add_nothing": dropped,
            **self._facts(found, volumes["t"], claims),
        }
        return volumes, claims, facts

    def _facts(self, found: VoxelMaps, t: np.ndarray, claims: Mapping[str, tuple]) -> dict[str, Any]:
        peak = np.unravel_index(np.argmax(np.abs(t)), t.shape)
        within = found.neglogp_within
        line = -np.log10(self.settings.alpha)
        counts = {kind: int(significant.sum()) for kind, (significant, _) in claims.items()}
        return {
            "dof": found.dof,
            "n_permutations": self.settings.n_permutations,
            "threshold_t": round(found.threshold_t, 3) if np.isfinite(found.threshold_t) else None,
            "max_t": round(float(t[peak]), 3),
            "peak_mm": [round(float(x), 1) for x in nib.affines.apply_affine(self.images.affine, peak)],
            "p_fwe": _p(found.neglogp),
            "p_tfce": None if found.tfce_neglogp is None else _p(found.tfce_neglogp),
            "p_within_site": None if within is None else _p(within),
            "n_significant_voxels": counts,
            "n_significant_within_site": None if within is None else int((within >= line - 1e-9).sum()),
            "beta_unit": "unit of the image per standard deviation of the factor",
        }

    def _volumes(self, found: VoxelMaps) -> dict[str, np.ndarray]:
        kinds = {"t": found.t, "beta": found.beta, "neglogp": found.neglogp, "tfce_neglogp": found.tfce_neglogp}
        return {kind: self._spread(values) for kind, values in kinds.items() if values is not None}

    def _claim(self, neglogp: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        whole = self._spread(neglogp)
        # p may equal alpha exactly, up to rounding of the logarithm.
        return whole >= -np.log10(self.settings.alpha) - 1e-6, whole

    def _spread(self, values: np.ndarray) -> np.ndarray:
        whole = np.zeros(self.images.mask.shape, dtype=np.float32)
        whole[self.images.mask] = values
        return whole

    def _compare(self, volumes: Mapping[str, np.ndarray], claims: Mapping[str, tuple]) -> list[dict[str, Any]]:
        rows = []
        for kind in ("t", "ig", "occlusion"):
            if kind not in volumes or not self.truth:
                continue
            claimed = claims["max_t"][0] if kind == "t" else None
            found = compare_with_truth(volumes[kind], self.truth, self.images.mask, self.images.affine, claimed)
            rows += [{"map": kind, **row} for row in found]
        return rows

    def _write_tables(self, factor: MappedFactor, volumes: Mapping, claims: Mapping, entry: dict[str, Any]) -> None:
        affine = self.images.affine
        if claims:
            table = cluster_table(factor.name, volumes["t"], affine, claims)
            entry["n_clusters"] = {kind: int((table["map"] == kind).sum()) for kind in claims}
            entry["files"]["clusters"] = write_table(self._path(factor.name, "clusters.tsv"), table).name
        if self.atlas is not None:
            regions, names = self.atlas
            shown = {kind: volumes[kind] for kind in ("t", "ig", "occlusion") if kind in volumes}
            claimed = claims["max_t"][0] if claims else None
            table = atlas_table(factor.name, shown, regions, names, affine, claimed)
            entry["files"]["atlas"] = write_table(self._path(factor.name, "atlas.tsv"), table).name

    def _draw(self, factor: MappedFactor, volumes: Mapping, claims: Mapping, entry: dict[str, Any]) -> None:
        best = max((row for row in entry["overlap"]), key=lambda row: row["dice_equal_volume"], default=None)
        panels = [
            Panel(
                title.format(alpha=self.settings.alpha),
                volumes[kind],
                kind == "t",
                claims["max_t"][0] if kind == "t" else None,
                self.truth[best["truth"]] if best else None,
            )
            for kind, title in TITLES.items()
            if kind in volumes
        ]
        background = None if self.images.template else nib.Nifti1Image(self.images.mean, self.images.affine)
        n = entry["n"] or entry["sensitivity"]["n_images"]
        adjusted = f", adjusted for {', '.join(entry['covariates'])}" if entry.get("covariates") else ""
        planted = f"; green line: planted ({best['truth']})" if best else ""
        caption = f"{n} target participants, split {self.sample.split}{adjusted}{planted}"
        path = self._path(factor.name, "").with_suffix(".png")
        entry["files"]["picture"] = draw_maps(panels, self.images.affine, path, factor.name, caption, background).name

    def _path(self, name: str, ending: str) -> Path:
        return self.folder / (f"{file_name(name)}_{ending}" if ending else f"{file_name(name)}.png")

    def _remove(self, name: str) -> None:
        """Remove what an earlier call with other options left."""
        endings = [f"_{kind}.nii.gz" for kind in KINDS] + ["_clusters.tsv", "_atlas.tsv", ".png"]
        for ending in endings:
            (self.folder / f"{file_name(name)}{ending}").unlink(missing_ok=True)


def file_name(name: str) -> str:
    """Return a name that every file system takes.

    Examples
    --------
    >>> file_name("MADRS total (0/60)")
    'MADRS_total_0_60'
    """
    return re.sub(r"[^\w-]+", "_", name).strip("_") or "factor"


def _p(neglogp: np.ndarray) -> float:
    return float(f"{10.0 ** -float(neglogp.max()):.4g}")
