import json
import sys

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import torch
from scipy import ndimage
from torch import nn

from sepclr_med import embed, fit, load_config, read_manifest, simulate
from sepclr_med.anatomy.encoders import map_sensitivity
from sepclr_med.anatomy.explanation import explain
from sepclr_med.anatomy.factors import default_factors, join_values, read_tables, resolve_factors, values_of
from sepclr_med.anatomy.mapping import file_name
from sepclr_med.anatomy.overlap import compare_with_truth, find_truth, read_truth
from sepclr_med.anatomy.run_images import open_images
from sepclr_med.anatomy.sample import choose_covariates, choose_sample, confound_matrix
from sepclr_med.anatomy.sensitivity import FactorReadout, attribute_gradients, attribute_occlusion, explain_factors
from sepclr_med.anatomy.tables import atlas_table, cluster_table, read_atlas, save_map
from sepclr_med.anatomy.verdicts import judge
from sepclr_med.anatomy.voxelwise import map_factor, max_t_within_blocks
from sepclr_med.errors import ManifestError, RunError, UserError
from sepclr_med.rundir import RunDir
from sepclr_med.runs import read_config

SETTINGS = [
    "volumes.spacing=12",
    "network.backbone=small",
    "network.width=2",
    "training.epochs=1",
    "training.batch_size=8",
    "training.threads=1",
    "method.common_dim=3",
    "method.salient_dim=4",
    "evaluation.voxel_pca_components=3",
]
QUICK = {"n_permutations": 79, "tfce": False, "sensitivity": (), "n_jobs": 1}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("anatomy")
    simulate(folder / "cohort", n_train=24, n_val=4, n_test=80, spacing=12.0, seed=0)
    fit(read_manifest(folder / "cohort" / "manifest.tsv"), load_config(overrides=SETTINGS), folder / "run")
    embed(folder / "run")
    return folder / "run"


@pytest.fixture
def study():
    """Site effects on factor and images; the first two voxels go with the factor, the last never varies."""
    rng = np.random.default_rng(0)
    site = np.repeat([0, 1, 2], [20, 13, 7])
    rows = pd.DataFrame({"age": rng.normal(50, 10, 40), "site": site.astype(str)})
    factor = rng.normal(size=40) + site
    images = rng.normal(size=(40, 12)) + 0.5 * site[:, None] + 0.02 * rows["age"].to_numpy()[:, None]
    images[:, :2] += 2 * factor[:, None]
    images[:, 11] = 0.25
    return images, factor, confound_matrix(rows, ["age", "site"])[0], site


MASK = np.ones((2, 3, 2), bool)


def facts_of(run, name):
    entries = json.loads((run / "maps" / "maps.json").read_text())["factors"]
    return next(entry for entry in entries if entry["factor"] == name)


# The regression


def test_t_and_beta_are_those_of_ordinary_least_squares(study):
    images, factor, confounds, _ = study
    found = map_factor(images, factor, confounds, MASK, 19, tfce=False)
    design = sm.add_constant(np.column_stack([confounds, factor]))
    for voxel in range(11):
        expected = sm.OLS(images[:, voxel], design).fit()
        assert found.t[voxel] == pytest.approx(expected.tvalues[-1], rel=1e-4)
        assert found.beta[voxel] == pytest.approx(expected.params[-1] * factor.std(ddof=1), rel=1e-3, abs=1e-5)
    assert found.dof == expected.df_resid


def test_planted_voxels_are_found_and_a_constant_one_is_left_alone(study):
    images, factor, confounds, site = study
    found = map_factor(images, factor, confounds, MASK, 99, tfce=True, blocks=site, n_jobs=1)
    for neglogp in (found.neglogp, found.neglogp_within):
        assert np.flatnonzero(10.0**-neglogp <= 0.05).tolist() == [0, 1]
        assert neglogp.max() == pytest.approx(np.log10(100))
    assert {0, 1} <= set(np.flatnonzero(10.0**-found.tfce_neglogp <= 0.05))
    assert np.flatnonzero(np.abs(found.t) > found.threshold_t).tolist() == [0, 1]
    assert found.t[11] == found.neglogp[11] == 0


@pytest.mark.slow
def test_processes_do_not_change_the_result(study):
    images, factor, confounds, _ = study
    one, two = (map_factor(images, factor, confounds, MASK, 24, n_jobs=n) for n in (1, 2))
    assert np.array_equal(one.neglogp, two.neglogp)
    assert np.array_equal(one.tfce_neglogp, two.tfce_neglogp)


def test_permutations_within_blocks_match_a_slow_loop(study):
    images, factor, confounds, site = study
    basis = np.linalg.qr(sm.add_constant(confounds))[0]
    residuals = images[:, :11] - basis @ basis.T @ images[:, :11]
    rest = factor - basis @ basis.T @ factor
    found = max_t_within_blocks(residuals.astype(np.float32), rest, basis, site, 9, seed=3)
    keys = np.random.default_rng([3, 1]).random((9, 40))
    design = np.column_stack([basis, factor])
    for permutation, largest in enumerate(found):
        order = np.concatenate([np.flatnonzero(site == s)[np.argsort(keys[permutation][site == s])] for s in range(3)])
        # `order` says whose place the factor takes; the images are permuted the other way round.
        shuffled = np.empty_like(residuals)
        shuffled[order] = residuals
        slow = [abs(sm.OLS(shuffled[:, voxel], design).fit().tvalues[-1]) for voxel in range(11)]
        assert max(slow) == pytest.approx(largest, rel=1e-3)


def test_blocks_of_one_leave_nothing_to_permute(study):
    images, factor, confounds, _ = study
    found = map_factor(images, factor, confounds, MASK, 19, tfce=False, blocks=np.arange(40))
    assert found.neglogp_within.max() == pytest.approx(0)


def test_what_follows_site_only_is_not_found_once_site_is_adjusted_for():
    rng = np.random.default_rng(1)
    rows = pd.DataFrame({"site": np.repeat(["a", "b"], 20)})
    shift = (rows["site"] == "b").to_numpy(float)
    factor = rng.normal(size=40) + 3 * shift
    images = rng.normal(size=(40, 12)) + 3 * shift[:, None]
    crude = map_factor(images, factor, np.empty((40, 0)), MASK, 99, tfce=False)
    adjusted = map_factor(images, factor, confound_matrix(rows, ["site"])[0], MASK, 99, tfce=False)
    assert crude.neglogp.max() > 1.9
    assert adjusted.neglogp.max() < 1.3


def test_false_findings_stay_at_five_in_a_hundred():
    rng = np.random.default_rng(2)
    site = np.repeat([0, 1, 2], [14, 10, 6])
    confounds = confound_matrix(pd.DataFrame({"site": site}), ["site"])[0]
    hits = np.zeros(2)
    for study_seed in range(60):
        factor = rng.normal(size=30) + site
        images = rng.normal(size=(30, 1)) + rng.normal(size=(30, 12)) + site[:, None]
        found = map_factor(images, factor, confounds, MASK, 39, tfce=False, blocks=site, seed=study_seed)
        hits += [10.0 ** -neglogp.max() <= 0.05 for neglogp in (found.neglogp, found.neglogp_within)]
    # 99.9% of binomials of 60 draws at 0.05 lie within.
    assert (hits <= 9).all()
    assert (hits >= 1).all()


@pytest.mark.parametrize(
    ("n_confounds", "factor", "said"),
    [(6, np.arange(12.0), "too few"), (1, np.linspace(-1, 1, 12), "nothing of the factor is left")],
    ids=["too few", "collinear"],
)
def test_an_impossible_regression_is_refused(n_confounds, factor, said):
    confounds = np.column_stack([np.linspace(-1, 1, 12) ** (k + 1) for k in range(n_confounds)])
    with pytest.raises(UserError, match=said):
        map_factor(np.random.default_rng(0).normal(size=(12, 12)), factor, confounds, MASK, 9, tfce=False)


# Who and what


def cohort(**columns):
    n = len(next(iter(columns.values())))
    base = {"participant_id": [f"{i:03}" for i in range(n)], "diagnosis": "patient", "split": "test"}
    return pd.DataFrame({**base, **columns})


def test_the_participant_is_the_unit_and_missing_values_are_passed_over():
    manifest = cohort(age=[30.0, 32.0, 40.0, 50.0], score=[np.nan, 8.0, 3.0, 4.0], site=["a", "b", "b", "b"])
    manifest["participant_id"] = ["01", "01", "02", "03"]
    manifest.loc[3, "diagnosis"] = "control"
    sample = choose_sample(manifest, np.ones(4, bool), ["patient"])
    assert sample.rows[["participant_id", "age", "score", "site"]].to_numpy().tolist() == [
        ["01", 31.0, 8.0, "a"],
        ["02", 40.0, 3.0, "b"],
    ]
    assert [image.tolist() for image in sample.images] == [[0, 1], [2]]
    assert any("more than one site" in note for note in sample.notes)


@pytest.mark.parametrize(
    ("splits", "asked", "chosen", "warned"),
    [
        (["train", "val", "test"], None, "test", False),
        (["train", "val", "val"], None, "val", True),
        (["train", "train", "train"], None, "train", True),
        (["train", "val", "test"], "train", "train", True),
    ],
    ids=["test", "val", "train", "asked"],
)
def test_held_out_participants_come_first(splits, asked, chosen, warned):
    manifest = cohort(split=splits)
    sample = choose_sample(manifest, np.ones(3, bool), ["patient"], asked)
    assert (sample.split, bool(sample.notes)) == (chosen, warned)


def test_a_split_without_patients_is_refused_with_what_there_is():
    with pytest.raises(UserError, match="2 in test, 0 in val, 0 in train"):
        choose_sample(cohort(age=[1.0, 2.0]), np.ones(2, bool), ["patient"], "val")


def test_skipped_images_are_left_out_and_counted():
    sample = choose_sample(cohort(age=[1.0, 2.0]), np.array([True, False]), ["patient"])
    assert len(sample.rows) == 1
    assert "1 images" in sample.notes[0]


def test_confounds_have_full_rank_and_site_codes_are_classes():
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({"age": rng.normal(size=30), "site": [1, 2, 7] * 10, "sex": ["F", "M"] * 15})
    rows["scanner"] = rows["site"] * 10
    matrix, dropped = confound_matrix(rows, ["age", "site", "sex", "scanner"])
    assert matrix.shape == (30, 4)
    assert dropped == ["scanner"]
    assert np.linalg.matrix_rank(sm.add_constant(matrix)) == 5


def test_covariates_default_to_what_is_there_and_unknown_ones_are_refused():
    rows = pd.DataFrame({"age": [1.0], "tiv": [np.nan], "site": ["a"]})
    assert choose_covariates(rows, None) == ["age", "site"]
    assert choose_covariates(rows, []) == []
    with pytest.raises(ManifestError, match='did you mean "age"'):
        choose_covariates(rows, ["agee"])


def test_names_stand_for_factors_and_variables(run):
    manifest, tables = read_manifest(run / "data" / "manifest.tsv"), read_tables(run / "embeddings")
    salient, common, severity, subtype = resolve_factors(
        ["salient_002", "common_001", "severity", "subtype"], manifest, tables
    )
    assert (salient.encoder, salient.weights.tolist()) == ("salient", [0, 0, 1, 0])
    assert (common.encoder, common.weights.tolist()) == ("common", [0, 1, 0])
    assert (severity.encoder, subtype.levels) == (None, ("A", "B"))
    patients = manifest[manifest["subtype"].notna()]
    assert (values_of(patients, subtype) == (patients["subtype"] == "B")).all()
    joined = join_values(manifest, [salient], tables)
    assert joined["salient_002"].tolist() == tables.tables["salient"]["salient_002"].tolist()
    with pytest.raises(ManifestError) as refused:
        resolve_factors(["salient_02", "sevrity", "site"], manifest, tables)
    assert 'did you mean "salient_002"' in str(refused.value)
    assert 'did you mean "severity"' in str(refused.value)
    assert "3 classes" in str(refused.value)


# A whole run


def test_severity_is_mapped_where_it_was_planted(run):
    table = explain(run, variables=["severity"], **{**QUICK, "tfce": True})
    row = table.iloc[0]
    assert (row["n"], row["n_missing"], row["covariates"]) == (40, 0, "age,sex,site,tiv")
    assert row["p_fwe"] == row["p_within_site"] == pytest.approx(1 / 80)
    assert row["max_t"] < 0
    entry = facts_of(run, "severity")
    common = next(found for found in entry["overlap"] if (found["map"], found["truth"]) == ("t", "common"))
    assert common["dice_equal_volume"] > 0.4 > 4 * common["dice_chance"]
    assert common["dice_significant"] > 0.3
    assert common["peak_distance_mm"] <= 12
    assert entry["n_significant_voxels"]["tfce"] > 0
    assert "free permutations" in " ".join(table.attrs["notes"])


def test_maps_are_images_in_template_space_and_agree_with_the_tables(run):
    explain(run, variables=["severity"], **QUICK)
    maps = {kind: nib.load(run / "maps" / f"severity_{kind}.nii.gz") for kind in ("t", "beta", "neglogp")}
    assert {image.shape for image in maps.values()} == {(16, 24, 16)}
    assert all(image.header["sform_code"] == 4 for image in maps.values())
    t, neglogp = (np.asarray(maps[kind].dataobj) for kind in ("t", "neglogp"))
    clusters = pd.read_csv(run / "maps" / "severity_clusters.tsv", sep="\t")
    entry = facts_of(run, "severity")
    significant = 10.0**-neglogp <= 0.05 + 1e-6
    assert significant.sum() == entry["n_significant_voxels"]["max_t"]
    assert np.isclose(clusters["size_mm3"].sum(), significant.sum() * 12**3)
    assert np.allclose(clusters.loc[0, ["x", "y", "z"]].to_numpy(float), entry["peak_mm"])
    assert clusters.loc[0, "peak_t"] == pytest.approx(entry["max_t"], abs=1e-3)
    place = np.round(np.linalg.inv(maps["t"].affine) @ [*entry["peak_mm"], 1])[:3].astype(int)
    assert t[tuple(place)] == pytest.approx(entry["max_t"], abs=1e-3)
    assert (run / "maps" / entry["files"]["picture"]).stat().st_size > 10_000
    assert sorted(entry["files"]) == ["beta", "clusters", "neglogp", "picture", "t"]


def test_the_t_map_is_least_squares_on_the_images_as_written(run):
    explain(run, variables=["score"], covariates=["age", "sex"], **QUICK)
    manifest = read_manifest(run / "data" / "manifest.tsv")
    images = open_images(RunDir(run), read_config(RunDir(run)), manifest)
    patients = manifest[(manifest["split"] == "test") & (manifest["diagnosis"] == "patient")]
    design = pd.DataFrame({"age": patients["age"], "male": (patients["sex"] == "M") * 1.0, "score": patients["score"]})
    t = nib.load(run / "maps" / "score_t.nii.gz").get_fdata()
    for voxel in np.argwhere(images.mask)[::97]:
        values = images.cached.load(patients.index.to_numpy())[(slice(None), 0, *voxel)].astype(float)
        expected = sm.OLS(values, sm.add_constant(design.to_numpy())).fit().tvalues[-1]
        assert t[tuple(voxel)] == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_missing_values_are_counted_and_a_covariate_is_not_its_own(run, tmp_path):
    manifest_path = run / "data" / "manifest.tsv"
    text = manifest_path.read_text()
    table = pd.read_csv(manifest_path, sep="\t", dtype=str, keep_default_na=False)
    patients = table.index[(table["split"] == "test") & (table["diagnosis"] == "patient")]
    table.loc[patients[:3], "tiv"] = "n/a"
    try:
        table.to_csv(manifest_path, sep="\t", index=False)
        row = explain(run, variables=["age"], **QUICK).iloc[0]
    finally:
        manifest_path.write_text(text)
    assert (row["n"], row["n_missing"], row["covariates"]) == (37, 3, "sex,site,tiv")


def test_sensitivity_of_a_factor_and_its_sanity_check(run):
    table = explain(run, factors=["salient_001"], n_permutations=0, n_images=3)
    entry = facts_of(run, "salient_001")
    assert sorted(entry["files"]) == ["ig", "ig_random", "occlusion", "picture"]
    assert -1 <= table["random_correlation"].iloc[0] < 1
    assert entry["sensitivity"]["n_images"] == 3
    assert entry["sensitivity"]["completeness_error"] < 0.3
    maps = {kind: nib.load(run / "maps" / f"salient_001_{kind}.nii.gz").get_fdata() for kind in ("ig", "occlusion")}
    assert all(values.min() >= 0 < values.max() for values in maps.values())
    assert any("untrained network" in note for note in table.attrs["notes"])


def test_the_same_call_gives_the_same_bytes_and_other_factors_stay(run):
    options = {"factors": ["salient_000"], "n_permutations": 19, "tfce": False, "n_images": 2, "n_jobs": 1}
    explain(run, variables=["severity"], **QUICK)
    explain(run, **options)
    first = {path.name: path.read_bytes() for path in (run / "maps").glob("salient_000_*.nii.gz")}
    explain(run, **options)
    assert first == {path.name: path.read_bytes() for path in (run / "maps").glob("salient_000_*.nii.gz")}
    assert facts_of(run, "severity")["n"] == 40
    explain(run, **{**options, "sensitivity": ()})
    assert not (run / "maps" / "salient_000_ig.nii.gz").exists()


def test_canonical_factors_are_mapped_by_default(run):
    folder = run / "embeddings"
    tables = read_tables(folder)
    manifest = read_manifest(run / "data" / "manifest.tsv")
    salient = tables.tables["salient"]
    assert all(name.startswith("salient_") for name in default_factors(manifest, tables, ["patient"]))
    columns = [f"salient_{i:03}" for i in range(4)]
    rng = np.random.default_rng(0)
    loadings, centre = np.linalg.qr(rng.normal(size=(4, 3)))[0], rng.normal(size=4)
    scores = pd.DataFrame((salient[columns] - centre) @ loadings).set_axis(
        [f"canonical_{i:03}" for i in range(3)], axis=1
    )
    path = folder / "desc-canonical_embedding.tsv"
    try:
        pd.concat([salient.drop(columns=columns), scores], axis=1).to_csv(path, sep="\t", index=False, na_rep="n/a")
        path.with_suffix(".json").write_text(json.dumps({"Loadings": loadings.tolist(), "Centre": centre.tolist()}))
        table = explain(run, n_permutations=19, tfce=False, sensitivity=("occlusion",), n_images=2, n_jobs=1)
        path.with_suffix(".json").write_text(json.dumps({"Loadings": [[1.0]], "Centre": [0.0]}))
        with pytest.raises(RunError, match="fit the table"):
            explain(run)
    finally:
        path.unlink()
        path.with_suffix(".json").unlink()
    assert table["factor"].tolist() == ["canonical_000", "canonical_001"]
    assert "occlusion" in facts_of(run, "canonical_000")["files"]


def test_what_cannot_be_mapped_is_said(run):
    add_column(run, "constant", "1")
    with pytest.raises(UserError, match="the same value for all 40"):
        explain(run, variables=["constant"], **QUICK)
    with pytest.raises(UserError, match="can never give a p below"):
        explain(run, variables=["severity"], **{**QUICK, "n_permutations": 9})
    with pytest.raises(UserError, match="sensitivity is ig, occlusion or both"):
        explain(run, sensitivity=("gradcam",))


def add_column(run, name, value):
    path = run / "data" / "manifest.tsv"
    pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False).assign(**{name: value}).to_csv(
        path, sep="\t", index=False
    )


def test_stale_embeddings_are_refused(run):
    tables = read_tables(run / "embeddings")
    tables.tables["salient"]["model_id"] = "another"
    manifest, config = read_manifest(run / "data" / "manifest.tsv"), read_config(RunDir(run))
    images = open_images(RunDir(run), config, manifest)
    factors = resolve_factors(["salient_000"], manifest, tables)
    sample = choose_sample(manifest, images.has_image, ["patient"])
    with pytest.raises(RunError, match="other weights"):
        map_sensitivity(RunDir(run), config, tables, images, manifest, sample, factors, ("ig",), 2, 0)


def test_without_captum_the_message_says_what_to_do(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(RunError, match=r"sepclr-med\[explain\]"):
        explain(run, factors=["salient_000"], n_permutations=0, sensitivity=("ig",), n_images=1)


@pytest.mark.slow
def test_images_in_their_own_space_get_sensitivity_only(run, tmp_path):
    settings = [*SETTINGS, "volumes.preset=t1w", "volumes.spacing=16"]
    fit(read_manifest(run / "data" / "manifest.tsv"), load_config(overrides=settings), tmp_path / "t1w")
    embed(tmp_path / "t1w")
    table = explain(
        tmp_path / "t1w", factors=["salient_000"], variables=["severity"], sensitivity=("occlusion",), n_images=1
    )
    assert table["p_fwe"].isna().all()
    assert any("no common template space" in note for note in table.attrs["notes"])
    image = nib.load(tmp_path / "t1w" / "maps" / "salient_000_occlusion.nii.gz")
    assert image.header["sform_code"] == 1


# Sensitivity


def linear_readout(shape=(12, 12, 12)):
    """Factor 0 reads one cube with weight 2, factor 1 another with weight -1; the reference is not zero."""
    weights = torch.zeros(2, *shape)
    weights[0, 2:5, 2:5, 2:5], weights[1, 7:10, 7:10, 7:10] = 2.0, -1.0
    layer = nn.Linear(int(np.prod(shape)), 2)
    with torch.no_grad():
        layer.weight.copy_(weights.flatten(1))
        layer.bias.fill_(5.0)
    encoder = nn.Sequential(nn.Flatten(), layer)
    reference = torch.full((1, *shape), 3.0)
    return FactorReadout(encoder, reference, torch.eye(2), torch.zeros(2)), weights.numpy()


def test_integrated_gradients_of_a_linear_encoder_are_weight_times_difference():
    readout, weights = linear_readout()
    differences = torch.randn(3, 1, 12, 12, 12, generator=torch.Generator().manual_seed(0))
    maps, errors = attribute_gradients(readout, differences, n_steps=4)
    assert np.allclose(maps, np.abs(weights) * differences.abs().mean(dim=(0, 1)).numpy(), atol=1e-5)
    assert max(errors) < 1e-3


def test_occlusion_finds_the_part_that_is_read():
    readout, weights = linear_readout()
    mask = np.zeros((12, 12, 12), bool)
    mask[1:11, 1:11, 1:11] = True
    maps = attribute_occlusion(readout, torch.ones(12, 1, 12, 12, 12), mask, window=3)
    for values, read in zip(maps, weights != 0, strict=True):
        assert values[read].mean() > 5 * values[~read].mean()
        # A window covers up to two voxels beside what it hits.
        near = ndimage.binary_dilation(read, np.ones((5, 5, 5)))
        assert near[np.unravel_index((values * mask).argmax(), values.shape)]
    assert maps[0].max() > 1.5 * maps[1].max()


def test_occlusion_leaves_batch_statistics_as_they_were():
    encoder = nn.Sequential(nn.Conv3d(1, 4, 3, stride=2), nn.BatchNorm3d(4), nn.AdaptiveAvgPool3d(1), nn.Flatten())
    images = torch.randn(2, 1, 9, 9, 9, generator=torch.Generator().manual_seed(0))
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    weights, reference = np.eye(4)[:, :1], torch.zeros(1, 9, 9, 9)
    found = explain_factors(
        lambda random: encoder, weights, np.zeros(4), images, reference, np.ones((9, 9, 9), bool), ("occlusion",)
    )
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert found[0].maps["occlusion"].max() < 1


def test_the_sanity_check_tells_a_learned_map_from_one_that_any_network_gives():
    learned, _ = linear_readout()
    images = 3 + torch.randn(4, 1, 12, 12, 12, generator=torch.Generator().manual_seed(1))
    other = nn.Sequential(nn.Flatten(), nn.Linear(12**3, 2))
    correlations = []
    for untrained in (other, learned.encoder):
        found = explain_factors(
            lambda random, untrained=untrained: untrained if random else learned.encoder,
            np.eye(2),
            np.zeros(2),
            images,
            learned.reference,
            np.ones((12, 12, 12), bool),
            ("ig",),
        )
        correlations.append(found[0].facts["random_correlation"])
    assert correlations[0] < 0.3
    assert correlations[1] == pytest.approx(1)
    warned = {"factor": "f", "sensitivity": {"random_correlation": correlations[1], "input_correlation": 0.5}}
    assert judge(warned)[0]["level"] == "warning"


@pytest.mark.parametrize(("correlation", "said"), [(0.8, "much like"), (0.6, "is partly like"), (0.2, "differs from")])
def test_a_map_half_like_that_of_an_untrained_network_is_not_said_to_differ(correlation, said):
    entry = {"factor": "f", "sensitivity": {"random_correlation": correlation, "input_correlation": 0.5}}
    assert said in judge(entry)[0]["text"]


# Tables and truth


def test_every_cluster_is_listed_with_its_peak_and_volume():
    t = np.zeros((8, 8, 8), np.float32)
    t[1:3, 1, 1], t[5, 5, 5:7], t[7, 0, 0] = (4, 6), (-9, -8), 3
    p = np.where(np.abs(t) > 5, 3.0, 0.5)
    claims = {"max_t": (np.abs(t) > 3.5, p), "tfce": (t > 2, p)}
    table = cluster_table("severity", t, np.diag([2.0, 2.0, 2.0, 1.0]), claims)
    assert table[["map", "cluster", "x", "y", "z", "peak_t", "p_fwe", "size_mm3"]].to_numpy().tolist() == [
        ["max_t", 1, 10.0, 10.0, 10.0, -9.0, 0.001, 16.0],
        ["max_t", 2, 4.0, 2.0, 2.0, 6.0, 0.001, 16.0],
        ["tfce", 1, 4.0, 2.0, 2.0, 6.0, 0.001, 16.0],
        ["tfce", 2, 14.0, 0.0, 0.0, 3.0, 0.3162, 8.0],
    ]
    assert cluster_table("f", t, np.eye(4), {"max_t": (t > 99, p)}).empty


def test_an_atlas_is_brought_to_the_grid_and_named(tmp_path):
    mask, affine = np.ones((4, 4, 4), bool), np.diag([4.0, 4, 4, 1])
    fine = np.zeros((16, 16, 16), np.int16)
    fine[:8], fine[8:] = 1, 7
    fine_affine = np.diag([1.0, 1, 1, 1])
    fine_affine[:3, 3] = -1.5
    nib.save(nib.Nifti1Image(fine, fine_affine), tmp_path / "atlas.nii.gz")
    (tmp_path / "names.tsv").write_text("index\tname\n1\tleft <b>\n7\tright\n9\tabsent\n")
    regions, names = read_atlas(tmp_path / "atlas.nii.gz", tmp_path / "names.tsv", mask, affine)
    assert names == {1: "left <b>", 7: "right"}
    assert regions[:2].tolist() == np.ones((2, 4, 4)).tolist()
    t = np.where(regions == 7, -2.0, 1.0)
    t[3, 0, 0] = -5
    table = atlas_table("severity", {"t": t, "ig": np.abs(t)}, regions, names, affine, t < -3).set_index("region")
    assert table.loc["right", ["peak_t", "x", "y", "z", "size_mm3"]].tolist() == pytest.approx([-5, 12, 0, 0, 2048])
    assert table.loc["right", "share_significant"] == pytest.approx(1 / 32)
    assert table.loc["left <b>", "mean_ig"] == 1


@pytest.mark.parametrize(
    ("values", "names", "said"),
    [
        (np.full((4, 4, 4), 0.5, np.float32), None, "whole numbers"),
        (np.zeros((4, 4, 4), np.float32), None, "nothing of this atlas"),
        (np.ones((4, 4, 4), np.float32), "number\tname\n1\ta\n", "index"),
    ],
    ids=["probabilities", "elsewhere", "names"],
)
def test_an_unusable_atlas_is_refused(tmp_path, values, names, said):
    nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / "atlas.nii.gz")
    labels = tmp_path / "names.tsv" if names else None
    if labels:
        labels.write_text(names)
    with pytest.raises(UserError, match=said):
        read_atlas(tmp_path / "atlas.nii.gz", labels, np.ones((4, 4, 4), bool), np.eye(4))


def test_truth_is_found_in_the_run_or_above_its_images(run, tmp_path):
    manifest = read_manifest(run / "data" / "manifest.tsv")
    folder = find_truth(run, list(manifest["image_path"]))
    assert folder == run.parent / "cohort" / "truth"
    assert find_truth(tmp_path, [str(tmp_path / "a.nii.gz")]) is None
    images = open_images(RunDir(run), read_config(RunDir(run)), manifest)
    truth = read_truth(folder, images.mask, images.affine)
    assert set(truth) == {"age", "common", "sharedPattern", "subtypeA", "subtypeB", "subtypes", "disease"}
    assert np.array_equal(truth["subtypes"], truth["subtypeA"] | truth["subtypeB"])
    # The simulator's grid lies where that of the preset lies, but is smaller.
    planted = nib.load(folder / "desc-subtypeA_atrophy.nii.gz")
    places = np.argwhere(truth["subtypeA"]) @ images.affine[:3, :3].T + images.affine[:3, 3]
    voxels = np.round((places - planted.affine[:3, 3]) / 12).astype(int)
    assert planted.get_fdata()[tuple(voxels.T)].min() > 0.5 * 0.9 * planted.get_fdata().max()


def test_overlap_of_a_perfect_and_of_a_wrong_map():
    mask = np.ones((10, 10, 10), bool)
    planted = np.zeros((10, 10, 10), bool)
    planted[2:4, 2:4, 2:4] = True
    affine = np.diag([3.0, 3, 3, 1])
    perfect = compare_with_truth(-1.0 * planted, {"A": planted}, mask, affine, planted)[0]
    assert (perfect["dice_equal_volume"], perfect["dice_significant"], perfect["peak_distance_mm"]) == (1.0, 1.0, 0.0)
    wrong = np.zeros((10, 10, 10))
    wrong[8, 3, 3] = 1
    found = compare_with_truth(wrong, {"A": planted}, mask, affine, wrong > 2)[0]
    assert (found["dice_significant"], found["peak_distance_mm"], found["dice_chance"]) == (None, 15.0, 0.008)


def test_words_say_not_detected_and_warn_where_sites_carry_the_finding():
    base = {"factor": "f", "n": 40, "peak_mm": [1.0, 2.0, 3.0], "max_t": 5.0}
    vanishing = {**base, "p_fwe": 0.01, "p_within_site": 0.4, "n_significant_voxels": {"max_t": 7}}
    assert judge(vanishing)[0]["level"] == "warning"
    assert "within site" in judge(vanishing)[0]["text"]
    staying = {**vanishing, "p_within_site": 0.02}
    assert judge(staying)[0]["level"] == "good"
    assert "not detected" in judge({**base, "p_fwe": 0.5, "n_significant_voxels": {"max_t": 0}})[0]["text"]


def test_maps_are_written_whole_and_named_safely(tmp_path):
    path = save_map(np.ones((2, 2, 2)), np.eye(4), tmp_path / f"{file_name('a b/../c')}_t.nii.gz", template=False)
    assert path.name == "a_b_c_t.nii.gz"
    image = nib.load(path)
    assert (image.get_data_dtype(), image.header["sform_code"]) == (np.float32, 1)
    assert [found.name for found in tmp_path.iterdir()] == [path.name]
