"""A site left out of training, onboarded from its controls: errors, coverage, and how often images are flagged.

    python pipelines/benchmark/new_site.py OUTPUT_DIR [--seeds 0 1 2] [--draws 10]

For each seed 1500 simulated people at 12 mm, three sites whose gain and bias field differ twice as much as by default.
The encoders are trained on 300 people of two sites (15 epochs); 300 others of these calibrate, 400 are new. The third
site is onboarded from so many of its 250 controls, drawn again and again. Its 150 patients are compared with what they
are when all 250 controls onboard it, under a reference fitted with the whole site in training (as many components, the
same encoders), and, in severity, with a run that was trained with the site (250 controls, 100 other patients). Tables
go to ``OUTPUT_DIR``:
``new_site.tsv`` (by number of controls), ``flags.tsv`` (by kind of image), ``controls.tsv`` (controls that took part).
What is simulated and trained is not done again. ``--cross-fit`` only asks how often a cross-fit of the 300 flags images
(three folds, one seed), and writes ``cross_fit_flags.tsv``.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from sklearn.linear_model import RidgeCV

from sepclr_med import embed, fit, load_config, onboarding, read_manifest, simulate
from sepclr_med.analysis.distances import fit_distance
from sepclr_med.cohort.embeddings import factor_columns, read_embeddings
from sepclr_med.config import Config
from sepclr_med.crossfitting import cross_fit
from sepclr_med.ensembles import embed_cross_fitted
from sepclr_med.new_participants import SITE_FILE, embed_new
from sepclr_med.rendering import fit_reference, load_reference
from sepclr_med.rundir import RunDir, write_table
from sepclr_med.runs import cache_folder, read_config
from sepclr_med.volumes.cache import cache_volumes

SETTINGS = [
    *("volumes.spacing=12", "network.backbone=small", "training.epochs=15", "training.batch_size=32"),
    *("training.threads=1", "method.common_dim=16", "method.salient_dim=16"),
]
SITE = "site3"
NUMBERS = (3, 5, 8, 10, 20, 40)
N_TRAIN, N_CALIBRATION, N_ODD, N_OTHERS = 300, 300, 40, 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--cross-fit", action="store_true")
    options = parser.parse_args()
    if options.cross_fit:
        table = pd.concat([flag_rates_of_cross_fit(options.output / f"seed-{seed}", seed) for seed in options.seeds])
        write_table(options.output / "cross_fit_flags.tsv", table)
        print(table.drop(columns="seed").groupby("images", sort=False).mean().round(3).to_string())
        return
    # The benchmark is what the least number rests on.
    onboarding.FEWEST_CONTROLS = 2
    parts = [run_seed(options.output / f"seed-{seed}", seed, options.draws) for seed in options.seeds]
    for name, tables in zip(("new_site", "flags", "controls"), zip(*parts, strict=True), strict=True):
        table = pd.concat(tables, ignore_index=True)
        write_table(options.output / f"{name}.tsv", table)
        keys = ["reference", "n_controls"] if name == "new_site" else ["images"]
        numbers = table.drop(columns=["seed", "draw"], errors="ignore").groupby(keys, sort=False).mean().round(3)
        print(numbers.to_string(), end="\n\n")


def divide(folder: Path, seed: int) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Return the study, new people of its sites, and people of the third site."""
    cohort = simulate(
        folder / "cohort", n_train=1500, n_test=0, spacing=12.0, seed=seed, site_gain=0.06, site_bias=0.06
    )
    known, away = (cohort[here].reset_index(drop=True) for here in (cohort["site"] != SITE, cohort["site"] == SITE))
    split = np.repeat(["train", "test", "new"], [N_TRAIN, N_CALIBRATION, len(known) - N_TRAIN - N_CALIBRATION])
    new = known[split == "new"].drop(columns="split").reset_index(drop=True)
    return known.assign(split=split)[split != "new"].reset_index(drop=True), new, away.drop(columns="split")


def flag_rates_of_cross_fit(folder: Path, seed: int) -> pd.DataFrame:
    study, new, _ = divide(folder, seed)
    config = load_config(overrides=[*SETTINGS, f"training.seed={seed}"])
    run = cross_fit(study[study["split"] == "train"].reset_index(drop=True), config, folder / "cross_fit", 3, 1)
    if not (run / "embeddings").is_dir():
        embed_cross_fitted(run)
    return flag_rates(run, new, folder / "cross_fit_flags", seed).assign(seed=seed)


def run_seed(folder: Path, seed: int, n_draws: int) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    study, new, away = divide(folder, seed)
    config = load_config(overrides=[*SETTINGS, f"training.seed={seed}"])
    run = fit(study, config, folder / "run")
    if not (run / "embeddings").is_dir():
        embed(run)
    controls, patients = (away[away["diagnosis"] == name].reset_index(drop=True) for name in ("control", "patient"))
    others, patients = patients[:N_OTHERS], patients[N_OTHERS:].reset_index(drop=True)
    oracle = with_site_in_reference(run, study, pd.concat([controls, others]), folder / "oracle")
    everyone = pd.concat([controls, patients], ignore_index=True)
    whole = embed_new(run, everyone, folder / "whole", onboard_site=True)
    truths = {
        "all_controls": whole.tables["salient"][len(controls) :].reset_index(drop=True),
        "in_training": embed(oracle, patients, folder / "patients_oracle")["salient"],
    }
    score = fit_severity(run, study)
    ill = new[new["diagnosis"] == "patient"].reset_index(drop=True)
    retrained = train_with_site(study, pd.concat([controls, others]), config, folder / "retrained")
    expected, expected_ill = (predict_again(retrained, rows, folder) for rows in (patients, ill))
    errors = [
        draw_sites(run, controls, patients, truths, expected, score, n, draw, folder).assign(seed=seed)
        for n in NUMBERS
        for draw in range(n_draws)
    ]
    ignored = embed(run, patients.assign(site="site1"), folder / "ignored")["salient"]
    for name, salient, n in (
        ("taken for site1", ignored, 0),
        ("onboarded", truths["all_controls"], len(controls)),
        ("in training", truths["in_training"], len(controls)),
    ):
        known_as = measure(salient, None, truths, expected, patients, score, run, study)
        errors.append(known_as.assign(reference=name, n_controls=n, draw=0, seed=seed))
    again = measure_severity(expected, patients, expected)
    errors.append(
        pd.DataFrame([again]).assign(reference="retrained with the site", n_controls=len(controls), seed=seed)
    )
    found = score.predict(embed(run, ill, folder / "ill")["salient"][score.feature_names_in_])
    elsewhere = measure_severity(found, ill, expected_ill)
    errors.append(pd.DataFrame([elsewhere]).assign(reference="new patients of known sites", n_controls=0, seed=seed))
    onboarded = embed_new(run, everyone, folder / "flags", onboard_site=True).applicability
    onboarded = rates_of(onboarded.assign(images="the new site, onboarded from all its controls"))
    flags = pd.concat([flag_rates(run, new, folder, seed), onboarded], ignore_index=True)
    return pd.concat(errors, ignore_index=True), flags.assign(seed=seed), compare_controls(run, controls, folder, seed)


def with_site_in_reference(run: Path, study: pd.DataFrame, site: pd.DataFrame, folder: Path) -> Path:
    """Return a copy of the run whose reference was fitted with the site's people among the training rows."""
    if folder.is_dir():
        return folder
    unfinished = folder.with_name("oracle_unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.copytree(run, unfinished)
    copy = RunDir(unfinished)
    copy.reference.unlink()
    config = read_config(copy)
    # Another number of components would be another input, which these encoders were not trained on.
    as_before = {"n_components": load_reference(RunDir(run)).facts["n_components"]}
    normative = config.volumes.normative.model_copy(update=as_before)
    volumes = config.volumes.model_copy(update={"normative": normative})
    config = config.model_copy(update={"volumes": volumes})
    table = pd.concat([study[study["split"] == "train"], site.assign(split="train")], ignore_index=True)
    cached = cache_volumes(table, config.volumes, cache_folder(RunDir(run), config))
    is_target = (table["diagnosis"] == "patient").to_numpy(bool)
    fit_reference(copy, cached.load, table, is_target, np.arange(len(table)), config)
    unfinished.rename(folder)
    return folder


def train_with_site(study: pd.DataFrame, site: pd.DataFrame, config: Config, folder: Path) -> Path:
    """Return a run that had the site's people among its training rows, embedded."""
    run = fit(pd.concat([study, site.assign(split="train")], ignore_index=True), config, folder / "run")
    if not (run / "embeddings").is_dir():
        embed(run)
    return run


def predict_again(run: Path, rows: pd.DataFrame, folder: Path) -> np.ndarray:
    score = fit_severity(run, read_manifest(RunDir(run).manifest))
    return score.predict(embed(run, rows, folder / "again")["salient"][score.feature_names_in_])


def fit_severity(run: Path, study: pd.DataFrame) -> RidgeCV:
    """Fit severity from the salient factors of training patients."""
    table = read_embeddings(run / "embeddings")["salient"].merge(study[["participant_id", "severity"]])
    table = table[(table["split"] == "train") & table["severity"].notna()]
    return RidgeCV(np.logspace(-3, 3, 13)).fit(table[factor_columns_of(table)], table["severity"])


def factor_columns_of(table: pd.DataFrame) -> list[str]:
    return [name for name in factor_columns(table) if name.startswith("salient_")]


def draw_sites(run, controls, patients, truths, expected, score, n, draw, folder) -> pd.DataFrame:
    """Onboard the site from n controls and measure its patients."""
    drawn = controls.sample(n, random_state=1000 * n + draw)
    manifest = pd.concat([drawn, patients], ignore_index=True)
    found = embed_new(run, manifest, folder / "drawn", onboard_site=True)
    salient = found.tables["salient"][len(drawn) :].reset_index(drop=True)
    rows = found.percentiles
    rows = rows[(rows["space"] == "salient") & (rows["norm"] == "patients")]
    ends = [
        rows.pivot_table(name, "participant_id", "factor").loc[patients["participant_id"]]
        for name in ("value_low", "value_high")
    ]
    study = read_manifest(RunDir(run).manifest)
    table = measure(salient, ends, truths, expected, patients, score, run, study)
    return table.assign(reference="onboarded", n_controls=n, draw=draw)


def measure(salient, ends, truths, expected, patients, score, run, study) -> pd.DataFrame:
    """Compare patients' factors with those under references that know the site, in standard deviations of patients."""
    columns = factor_columns_of(salient)
    own = read_embeddings(run / "embeddings")["salient"].merge(study[["participant_id", "diagnosis"]])
    spread = own.loc[(own["split"] == "test") & (own["diagnosis"] == "patient"), columns].std().to_numpy()
    ours, severity = salient[columns].to_numpy(float), score.predict(salient[columns])
    found = measure_severity(severity, patients, expected)
    for name, truth in truths.items():
        theirs = truth[columns].to_numpy(float)
        found[f"error_{name}"] = np.sqrt(np.mean(((ours - theirs) / spread) ** 2))
        found[f"severity_{name}"] = np.mean(np.abs(severity - score.predict(truth[columns])))
        if ends is not None:
            low, high = (end[columns].to_numpy() for end in ends)
            found[f"coverage_{name}"] = np.mean((low <= theirs) & (theirs <= high))
            found["half_width"] = np.median((high - low) / 2 / spread)
    return pd.DataFrame([found])


def measure_severity(severity: np.ndarray, patients: pd.DataFrame, expected: np.ndarray) -> dict[str, float]:
    true = patients["severity"].to_numpy()
    return {
        "severity_r2": 1 - np.mean((severity - true) ** 2) / true.var(),
        "severity_bias": np.mean(severity - true),
        "severity_error": np.mean(np.abs(severity - true)),
        "severity_retrained": np.mean(np.abs(severity - expected)),
    }


def flag_rates(run: Path, new: pd.DataFrame, folder: Path, seed: int) -> pd.DataFrame:
    """Return which images of each kind are unusual, and in what."""
    rng = np.random.default_rng(seed)
    odd = new[:N_ODD]
    changes = {
        "another scanner: 10% brighter": lambda voxels: 1.1 * voxels,
        "another scanner: bias field of 20%": lambda voxels: voxels * np.linspace(0.8, 1.2, voxels.shape[1])[:, None],
        "another scanner: noise of 0.1": lambda voxels: voxels + (voxels > 0) * rng.normal(0, 0.1, voxels.shape),
        "left and right exchanged": lambda voxels: voxels[::-1],
        "upside down": lambda voxels: voxels[:, :, ::-1],
        "front and back exchanged": lambda voxels: voxels[:, ::-1],
        "contrast inverted": lambda voxels: (voxels > 0) * (1 - voxels),
        "noise": lambda voxels: rng.uniform(0, 1, voxels.shape),
    }
    rows = [embed_new(run, new, folder / "flags").applicability.assign(images="like the cohort")]
    for name, change in changes.items():
        table = odd.assign(image_path=[write_changed(path, change, folder / "odd", name) for path in odd["image_path"]])
        rows.append(embed_new(run, table, folder / "flags").applicability.assign(images=name))
    return rates_of(pd.concat(rows, ignore_index=True))


def rates_of(every: pd.DataFrame) -> pd.DataFrame:
    parts = {name: (every[f"{name}_p"] <= 0.05) for name in ("common", "salient", "image")}
    found = pd.DataFrame({"unusual": every["unusual"] == "yes", **parts}).astype(float)
    return found.assign(images=every["images"])


def write_changed(path: str, change, folder: Path, name: str) -> str:
    image = nib.load(path)
    folder = folder / "".join(c if c.isalnum() else "_" for c in name)
    folder.mkdir(parents=True, exist_ok=True)
    voxels = np.ascontiguousarray(change(image.get_fdata(dtype=np.float32)), dtype=np.float32)
    nib.save(nib.Nifti1Image(voxels, image.affine), folder / Path(path).name)
    return str(folder / Path(path).name)


def compare_controls(run: Path, controls: pd.DataFrame, folder: Path, seed: int) -> pd.DataFrame:
    """Return how far controls of the site lie from the run's: those that took part, without and with themselves."""
    study = read_manifest(RunDir(run).manifest)
    own = read_embeddings(run / "embeddings")["salient"].merge(study[["participant_id", "diagnosis"]])
    own = own.loc[(own["split"] == "train") & (own["diagnosis"] == "control"), factor_columns_of(own)]
    distance, found = fit_distance(own.to_numpy(float), np.repeat("controls", len(own))), []
    for draw in range(5):
        drawn = controls.sample(10, random_state=draw)
        others = controls.drop(drawn.index)
        both = pd.concat([drawn, others], ignore_index=True)
        without = embed_new(run, drawn, folder / "controls", onboard_site=True).tables["salient"]
        stranger = both.assign(participant_id="new-" + both["participant_id"])
        file = folder / "controls" / SITE_FILE
        kept = shutil.copy(file, folder / f"kept_{SITE_FILE}")
        shutil.copy(file.with_suffix(".json"), Path(kept).with_suffix(".json"))
        within = embed_new(run, stranger, folder / "strangers", site_effect=kept).tables["salient"]
        away = [distance(table[factor_columns_of(table)].to_numpy(float)) for table in (without, within)]
        found += [
            {"images": "onboarding controls, without themselves", "salient_distance": away[0].mean()},
            {"images": "onboarding controls, with themselves", "salient_distance": away[1][:10].mean()},
            {"images": "other controls of the site", "salient_distance": away[1][10:].mean()},
        ]
    return pd.DataFrame(found).assign(seed=seed)


if __name__ == "__main__":
    main()
