"""What the normative reference keeps and hides, by the number of controls it is fitted on. No training.

    python pipelines/ablation/reference.py OUTPUT_DIR [--sizes 30,60,...] [--spacing 8] [--model pca] [--new 200]
                                           [--default]

A cohort with as many controls and 400 patients is simulated for each size; the reference is fitted on the controls and
renders patients and 200 further controls. With ``--default`` it is what ``fit`` does by default: head size is among the
covariates, and as many further patients help to estimate effects. One row per size in ``OUTPUT_DIR/reference.tsv``:

``n_components``
    chosen by the likelihood of held-out controls;
``kept_*``
    share of the planted map (common atrophy, subtypes A and B) that the components leave, ``|m - QQ'm|^2 / |m|^2``;
``auc_norm``
    area under the curve of the length of the deviation, unseen patients against unseen controls;
``severity, subtype, age, sex, site, shared_pattern``
    read from the 32 leading components of patients' deviations by the probes of ``evaluate`` (200 fitted, 200 scored);
``*_in_sample``
    length of the deviation of training controls over that of unseen ones: cross-fitted (near 1) and in-sample.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import torch
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score

from sepclr_med import evaluate, simulate
from sepclr_med.rendering import assign_folds
from sepclr_med.rundir import write_table
from sepclr_med.settings import NormativeConfig, VolumesConfig
from sepclr_med.volumes.cache import cache_volumes
from sepclr_med.volumes.normative import Rendering, fit_normative, render_with

N_COMPONENTS = 32
TRUTH = ["severity", "subtype", "age", "sex", "site", "shared_pattern"]
COVARIATES = ["age", "sex", "site"]
MAPS = ["common", "subtypeA", "subtypeB"]


def main() -> None:
    options = parser().parse_args()
    people, cached = simulate_people(options)
    rows = [measure(n, people, cached, options) for n in options.sizes]
    table = pd.DataFrame(rows)
    write_table(options.output / "reference.tsv", table)
    print(table.round(2).to_string(index=False))


def simulate_people(options: argparse.Namespace) -> tuple[pd.DataFrame, Any]:
    """Return the manifest of everyone, and their volumes."""
    # Participant i of a seed is the same whatever the cohort's size: one simulation serves all sizes.
    people = simulate(
        options.output / "cohort",
        2 * max(options.sizes),
        0,
        2 * 2 * options.new,
        options.spacing,
        seed=options.cohort,
        n_jobs=-1,
    )
    return people, cache_volumes(people, VolumesConfig(spacing=options.spacing), options.output / "cache")


def choose_helpers(people: pd.DataFrame, n: int) -> np.ndarray:
    """Return the rows of n patients who are not among those that are looked at."""
    return np.flatnonzero((people["diagnosis"] == "patient") & (people["split"] == "train"))[:n]


def choose_people(people: pd.DataFrame, n: int, n_new: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the rows of n training controls, of new controls and of patients."""
    control = (people["diagnosis"] == "control").to_numpy()
    train = (people["split"] == "train").to_numpy()
    fitted = np.flatnonzero(control & train)[:n]
    return fitted, np.flatnonzero(control & ~train)[:n_new], np.flatnonzero(~control)[-2 * n_new :]


def fit_reference(
    fitted: np.ndarray,
    people: pd.DataFrame,
    cached,
    n_components: int | str = "auto",
    model="pca",
    helpers: np.ndarray | None = None,
):
    """Return the reference of these controls, of default settings where patients help."""
    rows = fitted if helpers is None else np.concatenate([fitted, helpers])
    table = people.iloc[rows].reset_index(drop=True)
    is_control = np.arange(rows.size) < fitted.size
    settings = NormativeConfig()
    how = {} if helpers is None else {"pooled": settings.pooled, "borrow": settings.borrow}
    return fit_normative(
        lambda places: cached.load(rows[places]),
        table,
        is_control,
        assign_folds(table, is_control, 5),
        COVARIATES if helpers is None else settings.covariates,
        n_components,
        model,
        **how,
    )


def render(rendering: Rendering, cached, rows: np.ndarray) -> np.ndarray:
    """Return the deviations of these rows, (n, voxels)."""
    parts = [rendering(torch.from_numpy(cached.load(part)).float(), part) for part in np.array_split(rows, 10)]
    return torch.cat(parts).flatten(1).numpy()


def measure(n: int, people: pd.DataFrame, cached, options: argparse.Namespace) -> dict[str, float]:
    fitted, new, patients = choose_people(people, n, options.new)
    helpers = choose_helpers(people, n) if options.default else None
    reference = fit_reference(fitted, people, cached, model=options.model, helpers=helpers)
    rendering = render_with(reference, people)
    in_sample = render_with(reference, people.assign(participant_id="someone else"))
    unseen, ill = (render(rendering, cached, rows) for rows in (new, patients))
    norm = np.square(unseen).sum(axis=1).mean()
    found = {
        "n": n,
        "n_components": reference.facts["n_components"],
        **{f"kept_{name}": kept(reference, cached, options.output, name) for name in MAPS},
        "auc_norm": auc_of_lengths(unseen, ill),
        "cross_fitted_in_sample": np.square(render(rendering, cached, fitted)).sum(axis=1).mean() / norm,
        "plain_in_sample": np.square(render(in_sample, cached, fitted)).sum(axis=1).mean() / norm,
    }
    return found | read_truth(ill, people.iloc[patients].reset_index(drop=True))


def auc_of_lengths(unseen: np.ndarray, ill: np.ndarray) -> float:
    """Return how well the length of the deviation tells patients from controls."""
    lengths = np.linalg.norm(np.concatenate([unseen, ill]), axis=1)
    return roc_auc_score(np.repeat([0, 1], [len(unseen), len(ill)]), lengths)


def kept(reference, cached, folder: Path, name: str) -> float:
    """Return the share of a planted map that the components leave."""
    image = nib.load(folder / "cohort" / "truth" / f"desc-{name}_atrophy.nii.gz")
    truth = pd.DataFrame({"participant_id": ["truth"], "image_path": [image.get_filename()], "diagnosis": ["n/a"]})
    spacing = float(image.header.get_zooms()[0])
    volume = cache_volumes(truth, VolumesConfig(spacing=spacing), folder / "cache").load([0])
    flat = torch.from_numpy(volume).float().flatten() * (reference.inverse_std != 0)
    scores = reference.components[reference.last] @ flat * reference.weights[reference.last]
    left = flat - scores @ reference.components[reference.last]
    return float(left.square().sum() / flat.square().sum())


def read_truth(deviations: np.ndarray, people: pd.DataFrame) -> dict[str, float]:
    """Return what linear probes read from leading components of deviations, fitted on the first half."""
    n = len(people)
    split = np.where(np.arange(n) < n // 2, "train", "test")
    scores = PCA(N_COMPONENTS, random_state=0).fit(deviations[: n // 2]).transform(deviations)
    names = [f"salient_{index:03d}" for index in range(N_COMPONENTS)]
    space = pd.DataFrame(scores, columns=names).assign(participant_id=people["participant_id"], split=split)
    found = evaluate({"salient": space}, people.drop(columns="split"), TRUTH, n_bootstrap=0, n_permutations=0)
    found = found[(found["space"] == "salient") & (found["scheme"] == "held-out")]
    found = found[found["metric"].isin(["r2", "balanced_accuracy"])]
    return dict(zip(found["variable"], found["value"], strict=True))


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("output", type=Path)
    options.add_argument(
        "--sizes", type=lambda text: [int(n) for n in text.split(",")], default=[30, 60, 120, 300, 1000]
    )
    options.add_argument("--spacing", type=float, default=8.0)
    options.add_argument("--cohort", type=int, default=0, help="seed of the simulation")
    options.add_argument("--model", choices=["pca", "ppca"], default="pca")
    options.add_argument(
        "--new", type=int, default=200, help="unseen controls, and patients that probes are fitted on; 32 or more"
    )
    options.add_argument("--default", action="store_true", help="with head size, and patients who help")
    return options


if __name__ == "__main__":
    main()
