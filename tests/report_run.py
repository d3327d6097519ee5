"""A run folder with every file a report may show, small, made in a second."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pandas as pd

N = 72
VARIABLES = ("severity", "episodes", "subtype", "sleep", "rater")
MEASURES = {
    "severity": "continuous",
    "episodes": "ordinal",
    "subtype": "binary",
    "sleep": "continuous",
    "rater": "continuous",
}
EFFECTS = {"continuous": "r", "ordinal": "rho", "binary": "d"}
SPACES = {"common": "common", "salient": "salient", "canonical": "canonical", "voxel_pca": "voxelpca"}
FACTORS = 6


def make_run(folder: Path, seed: int = 0) -> Path:
    """Write the folder of a run; ids are 001, 002, ... and odd ones are patients."""
    rng = np.random.default_rng(seed)
    patient = np.arange(N) % 2 == 1
    severity = rng.random(N)
    manifest = pd.DataFrame(
        {
            "participant_id": [f"{i:03}" for i in range(N)],
            "image_path": [f"../images/{i:03}.nii.gz" for i in range(N)],
            "diagnosis": np.where(patient, "patient", "control"),
            "split": np.where(np.arange(N) < 24, "train", "test"),
            "age": rng.uniform(20, 80, N).round(1),
            "sex": rng.choice(["F", "M"], N),
            "site": rng.choice(["A", "B"], N),
            "severity": np.where(patient, severity, np.nan),
            "subtype": np.where(patient, rng.choice(["one", "two"], N), None),
            "sleep": np.where(patient & (rng.random(N) < 0.8), rng.normal(size=N), np.nan),
        }
    )
    write(folder / "data/manifest.tsv", manifest)
    for split, rows in manifest.groupby("split"):
        write(folder / f"data/{split}.tsv", rows)
    for space, label in SPACES.items():
        values = rng.normal(size=(N, FACTORS)) + np.outer(severity * patient, np.ones(FACTORS))
        table = manifest[["participant_id", "split"]].assign(session_id=None, fold=None, model_id="0123456789ab")
        factors = pd.DataFrame(values, columns=[f"{space}_{k:03}" for k in range(FACTORS)])
        write(folder / f"embeddings/desc-{label}_embedding.tsv", pd.concat([table, factors], axis=1))
    write_run_facts(folder)
    write_check(folder)
    write_analysis(folder, rng)
    write_groups(folder, manifest, rng)
    write_maps(folder)
    return folder


def write_run_facts(folder: Path) -> None:
    (folder / "config.yaml").write_text(
        "cohort:\n  background: [control]\n  target: [patient]\n"
        "volumes: {preset: vbm, spacing: 6.0}\n"
        "method: {name: sepclr, common_dim: 6, salient_dim: 6, temperature: 0.5, "
        "w_salient: 1, w_null: 10, w_joint: 10}\n"
        "network: {backbone: small}\n"
        "training: {epochs: 3, batch_size: 8, learning_rate: 0.001, weight_decay: 0.05, seed: 7}\n"
        "evaluation: {n_bootstrap: 1000}\n"
    )
    step = {"step": "fit", "command": ["sepclr-med", "fit", "/home/ann/study/manifest.tsv", "--set=a=/home/ann/b/c"]}
    step |= {"started": "2026-03-02T10:00:00+00:00", "seconds": 61.0, "seed": 7, "device": "cpu"}
    step |= {"versions": {"python": "3.11.7", "torch": "2.9.0", "sepclr-med": "0.1"}, "manifest_sha256": "ab" * 32}
    write_object(folder / "provenance.json", {"steps": [step, {**step, "step": "evaluate", "notes": ["Held out."]}]})
    history = {"epoch": [1, 2, 3], "train_total": [3.0, 2.0, 1.5], "val_total": [np.nan, 2.5, 2.0]}
    history |= {"train_salient_norm_background": [2, 1, 0.5], "train_salient_norm_target": [2.0, 2.5, 3.0]}
    write(folder / "history.tsv", pd.DataFrame(history))


def write_check(folder: Path) -> None:
    problem = {"severity": "warning", "code": "tiv", "file": "/home/ann/m.tsv", "row": 3, "column": "tiv"}
    problem |= {"participant_id": "017", "message": "sub-017 has a small head", "got": "900", "fix": "look at it"}
    write(folder / "check/problems.tsv", pd.DataFrame([problem]))
    facts = {"ok": True, "n_images": N + 2, "n_usable": N, "verdicts": ["age differs between groups."]}
    write_object(folder / "check/check.json", facts)
    one = {"variable": ["age", "sex", "sex"], "level": ["", "", "F"], "statistic": ["mean (SD)", "n", "n (%)"]}
    one |= {"background": [50.4, 36, 20], "background_spread": [9.1, np.nan, 55.6], "smd": [0.1, 0.2, np.nan]}
    one |= {"target": [51.0, 36, 18], "target_spread": [8.8, np.nan, 50.0]}
    one |= {"missing_background": [0, 0, np.nan], "missing_target": [1, 0, np.nan]}
    write(folder / "check/table_one.tsv", pd.DataFrame(one))


def write_analysis(folder: Path, rng: np.random.Generator) -> None:
    rows = []
    for variable, metric in (("diagnosis", "balanced_accuracy"), ("age", "r2"), ("severity", "r2")):
        for space in ("common", "salient", "both", "covariates", "voxel_pca"):
            for scheme in ("held-out", "leave-site-out"):
                value = 0.6 + 0.01 * len(rows)
                row = {"variable": variable, "measure": "binary", "space": space, "scheme": scheme, "metric": metric}
                row |= {"value": value, "ci_low": value - 0.1, "ci_high": value + 0.1, "chance": 0.5, "p_value": 0.001}
                rows.append(row | {"n": 48})
    write(folder / "analysis/separation.tsv", pd.DataFrame(rows))
    verdict = {"space": "salient", "variable": "age", "level": "warning", "text": "salient carries age: R2 -0.42."}
    card = {"verdicts": [{"level": "good", "text": "salient carries severity."}, verdict]}
    card |= {"salient_norm": {"auc": 0.9, "ci_low": 0.8, "ci_high": 0.95, "median_background": 0.5, "n_target": 24}}
    card |= {"dependence": [{"measure": "distance_correlation", "group": "target", "value": 0.4, "chance": 0.3}]}
    write_object(
        folder / "analysis/card.json", card | {"scheme": "held out", "notes": ["A note."], "target": ["patient"]}
    )
    links = make_links(rng)
    write(folder / "analysis/links.tsv", links)
    sites = links[links["factor"] == "salient_001"]
    tables = [sites.assign(site=site, n=24, tau2=0.01, i2=0.2, q=1.0, p_heterogeneity=0.4) for site in ("A", "pooled")]
    kept = ["factor", "variable", "site", "n", "estimate", "ci_low", "ci_high", "tau2", "i2", "q", "p_heterogeneity"]
    write(folder / "analysis/sites.tsv", pd.concat(tables)[kept])
    settings = {"covariates": ["age", "sex"], "blocks": ["site"], "n_permutations": 999, "seed": 3, "over": "targets"}
    settings |= {"n": 48, "factors": ["salient"], "kin": None, "families": {"clinical": list(VARIABLES)}}
    link = {"settings": settings, "verdicts": [], "notes": ["Sessions were averaged."]}
    write_object(folder / "analysis/link.json", link)
    predicted = [
        {"variable": "severity", "measure": "continuous", "scheme": scheme, "predictors": predictors, "metric": "r2",
         "value": 0.3, "ci_low": 0.1, "ci_high": 0.5, "chance": -0.02, "p_value": 0.01, "p_free": 0.01, "n": 48}
        for scheme in ("cross-validated", "leave-site-out")
        for predictors in ("covariates", "salient", "covariates + salient")
    ]  # fmt: skip
    write(folder / "analysis/prediction.tsv", pd.DataFrame(predicted))
    similar = [
        {"variable": "severity", "measure": "continuous", "space": space, "dissimilarity": "euclidean", "n": 48,
         "method": "Spearman, partial", "estimate": 0.2, "ci_low": 0.1, "ci_high": 0.3, "p_value": 0.01, "p_free": 0.01}
        for space in ("common", "salient", "salient - common")
    ]  # fmt: skip
    write(folder / "analysis/similarity.tsv", pd.DataFrame(similar))


def make_links(rng: np.random.Generator) -> pd.DataFrame:
    """Severity goes with every factor, most with salient_001; the rater's habit vanishes within site."""
    rows = []
    for variable in VARIABLES:
        for k in range(FACTORS):
            found = variable == "severity"
            r = 0.5 + 0.1 * (k == 1) if found else 0.01 * k
            p = 0.001 if found else 0.6
            row = {"factor": f"salient_{k:03}", "space": "salient", "variable": variable, "measure": MEASURES[variable]}
            row |= {"method": "partial correlation", "n": 48, "n_missing": 0, "estimate": r, "ci_low": r - 0.2}
            row |= {"ci_high": r + 0.2, "effect": EFFECTS[MEASURES[variable]], "statistic": r * r, "p_value": p}
            row |= {"p_free": 0.001 if variable == "rater" else p, "p_fwe": p, "p_fdr": p, "family": "clinical"}
            row |= {"p_fwe_free": 0.001 if variable == "rater" else p}
            rows.append(row | {"mde": 0.35, "note": ""})
    whole = {**rows[0], "factor": "salient (whole)", "method": "ridge, cross-validated", "effect": "r2", "mde": np.nan}
    return pd.DataFrame([*rows, whole])


def write_groups(folder: Path, manifest: pd.DataFrame, rng: np.random.Generator) -> None:
    criteria = [
        {"model": model, "k": k, "bic": 100.0 + k, "silhouette": 0.3, "silhouette_null_95": 0.2, "p_value": 0.01,
         "stability_bootstrap": 0.9, "stability_split_half": 0.8}
        for model in ("kmeans", "gaussian_mixture")
        for k in range(1, 5)
    ]  # fmt: skip
    write(folder / "analysis/subtypes_criteria.tsv", pd.DataFrame(criteria))
    people = manifest.loc[manifest["diagnosis"] == "patient", ["participant_id", "split"]]
    groups = np.where(rng.random(len(people)) < 0.5, "group_1", "group_2")
    write(folder / "analysis/subtypes.tsv", people.assign(group=groups, probability=0.9))
    facts = {"verdict": "Two groups: all criteria agree.", "n_groups": 2, "model": "kmeans"}
    write_object(folder / "analysis/subtypes.json", facts)
    write(folder / "analysis/subtypes_links.tsv", make_links(rng).head(2).assign(factor="group_1"))


def write_maps(folder: Path) -> None:
    entry = {"factor": "salient_001", "n": 24, "covariates": ["age"], "max_t": -5.2, "peak_mm": [33.0, -2.0, -10.0]}
    entry |= {
        "p_fwe": 0.002,
        "n_significant_voxels": {"max_t": 12, "tfce": 20},
        "files": {"picture": "salient_001.png"},
    }
    entry |= {"verdicts": [{"level": "good", "text": "salient_001: 12 voxels."}], "notes": []}
    entry |= {"overlap": [{"map": "t", "truth": "subtypeA", "dice_equal_volume": 0.7, "dice_chance": 0.1}]}
    facts = {"settings": {"covariates": ["age"], "n_permutations": 500}, "factors": [entry], "notes": ["Free."]}
    write_object(folder / "maps/maps.json", facts)
    clusters = {"factor": ["salient_001"], "cluster": [1], "x": [33.0], "peak_p_fwe": [0.002], "size_mm3": [216]}
    write(folder / "maps/salient_001_clusters.tsv", pd.DataFrame(clusters))
    (folder / "maps/salient_001.png").write_bytes(png())


def png() -> bytes:
    """Return one grey pixel."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0\x80")) + chunk(b"IEND", b"")
    )


def write(path: Path, table: pd.DataFrame) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(path, sep="\t", index=False, na_rep="n/a")


def write_object(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
