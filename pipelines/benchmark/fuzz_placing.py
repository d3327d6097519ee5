"""What new participants are placed by: norms, canonical factors and subtypes of a run, effects of new sites."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
from fuzz_cases import read_case
from fuzz_tensors import nifti_bytes, reference_seeds, small_model


def placing_seeds():
    """Return the norms, canonical factors and subtypes of a run whose people are two groups, without its embeddings."""
    from sepclr_med.analysis.linking import link_run
    from sepclr_med.cohort.embeddings import write_embeddings
    from sepclr_med.cohort.manifest import write_manifest
    from sepclr_med.config import dump_config

    rng, n = np.random.default_rng(0), 80
    with TemporaryDirectory() as folder:
        root = Path(folder)
        for i in range(n):
            (root / f"{i}.nii").write_bytes(nifti_bytes())
        ids = pd.DataFrame({"participant_id": [f"{i:03d}" for i in range(n)]})
        people = ids.assign(
            image_path=[str(root / f"{i}.nii") for i in range(n)],
            diagnosis=np.where(np.arange(n) % 4, "patient", "control"),
        )
        people["age"], people["site"] = rng.uniform(20, 60, n), rng.choice(["a", "b"], n)
        people["split"] = np.where(np.arange(n) < 60, "train", "test")
        (root / "config.yaml").write_text(dump_config(small_model()))
        write_manifest(people, root / "data" / "manifest.tsv")
        write_embeddings(_placed(ids, rng, people["diagnosis"].eq("patient").to_numpy()), root / "embeddings", {})
        link_run(root, variables=["age"], n_permutations=19, parts=["subtypes"])
        case = read_case(folder)
    kept = ("norms.json", "analysis/subtypes.json", "embeddings/desc-canonical_embedding")
    return [{name: content for name, content in case.items() if name.startswith(kept)} | {"scan.nii": nifti_bytes()}]


def _placed(ids, rng, ill):
    """Return common and salient embeddings, of patients in two groups far apart."""
    group = np.where(ill, rng.choice([-20.0, 20.0], len(ids)), 0.0)
    tables = {}
    for space in ("common", "salient"):
        values = rng.normal(size=(len(ids), 4)) + (group[:, None] * np.eye(4)[0] if space == "salient" else 0.0)
        columns = [f"{space}_{i:03d}" for i in range(4)]
        factors = pd.DataFrame(values, columns=columns)
        known = ids.assign(session_id=None, split=np.where(np.arange(len(ids)) < 60, "train", "test"))
        tables[space] = known.assign(fold=None, model_id="a" * 12).join(factors)
    return tables


def read_placing_case(folder):
    from sepclr_med.analysis.applicability import judge_applicability, summarise
    from sepclr_med.analysis.linking import derive_new
    from sepclr_med.analysis.norms import load_norms
    from sepclr_med.analysis.percentiles import percentile_table
    from sepclr_med.rundir import RunDir, as_written

    norms = load_norms(RunDir(folder))
    ids = pd.DataFrame({"participant_id": ["x", "y"]})
    tables = _placed(ids, np.random.default_rng(1), np.array([True, False]))
    if norms is not None:
        with as_written(folder / "norms.json"):
            norms.require_fit({"": tables})
    derive_new(folder, tables, folder / "out")
    people = ids.assign(image_path=str(folder / "scan.nii"), age=[30.0, None], site="c")
    summarise(judge_applicability({"": tables}, people, norms, {}, {}), norms)
    if norms is not None:
        percentile_table(tables, norms.factors, norms.groups, {}, {})


def site_seeds():
    """Return a run whose reference knows two sites, and the effect of a third."""
    from sepclr_med.onboarding import save_site_effects
    from sepclr_med.rendering import load_reference
    from sepclr_med.rundir import RunDir
    from sepclr_med.volumes.site_effects import estimate_site

    reference, rng = reference_seeds()[0], np.random.default_rng(1)
    people = pd.DataFrame({"participant_id": [f"{i}" for i in range(8)], "age": 40.0, "sex": "F", "site": "c"})
    volumes = rng.normal(1.0, size=(8, 1, 4, 4, 4)).astype(np.float16)
    with TemporaryDirectory() as folder:
        for name, content in reference.items():
            (path := Path(folder) / name).parent.mkdir(exist_ok=True)
            path.write_bytes(content)
        run = RunDir(folder)
        effect = estimate_site(load_reference(run), lambda rows: volumes[rows], people, np.arange(8))
        save_site_effects(Path(folder) / "effects.safetensors", {"": run}, {"": {"c": effect}}, {})
        case = read_case(folder)
    return [{name: case[name] for name in ("checkpoints/reference.safetensors", "effects.safetensors")}]


def read_site_case(folder):
    import torch

    from sepclr_med.config import parse_config
    from sepclr_med.onboarding import load_site_effects
    from sepclr_med.rendering import load_rendering
    from sepclr_med.rundir import RunDir
    from sepclr_med.volumes.site_effects import take_out_sites

    run = RunDir(folder)
    effects = load_site_effects(folder / "effects.safetensors", {"": run})[""]
    people = pd.DataFrame({"participant_id": ["0", "n"], "age": [30.0, 40.0], "sex": ["F", "M"], "site": ["a", "c"]})
    volumes, rows = torch.zeros(2, 1, 4, 4, 4), np.arange(2)
    if "c" in effects:
        for shifted in (None, 0):
            load_rendering(run, people, parse_config({"method": {"name": "sepclr"}}), effects, shifted)(volumes, rows)
    take_out_sites(volumes, rows, effects, people)
    [f"{effect.facts['n_controls']:d}" for effect in effects.values()]
