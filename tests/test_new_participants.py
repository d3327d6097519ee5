"""New participants: placed among the run's cohort, flagged where they are unlike it, and a new site onboarded."""

import json
import shutil
import sys

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch

from sepclr_med import embed, fit, load_config, read_manifest, simulate, write_manifest
from sepclr_med.analysis.conformal import combine_p, conformal_any, conformal_p
from sepclr_med.analysis.distances import fit_distance
from sepclr_med.analysis.linking import link_run
from sepclr_med.analysis.norms import load_norms
from sepclr_med.analysis.percentiles import jackknife, percentile
from sepclr_med.checkpoint import load_checkpoint, save_checkpoint
from sepclr_med.cli import main
from sepclr_med.cohort.embeddings import NOTICE, factor_columns, read_embeddings
from sepclr_med.cohort.ledger import append_event, seal
from sepclr_med.errors import ManifestError, RunError
from sepclr_med.new_participants import SITE_FILE, embed_new
from sepclr_med.onboarding import FEWEST_CONTROLS, find_new_sites
from sepclr_med.rundir import RunDir
from sepclr_med.volumes.image_statistics import ImageStatistics, MeanImage, tabulate_statistics
from sepclr_med.volumes.normative import fit_normative
from sepclr_med.volumes.site_effects import estimate_site, render_at_sites, take_out_sites

SMALL = [
    "volumes.spacing=12",
    "network.backbone=small",
    "network.width=2",
    "training.epochs=2",
    "training.batch_size=16",
    "training.threads=1",
    "volumes.normative.folds=2",
    "volumes.normative.n_components=2",
    "method.common_dim=4",
    "method.salient_dim=4",
    "evaluation.voxel_pca_components=4",
]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    return simulate(folder, n_train=48, n_test=78, spacing=12.0, seed=5, site_gain=0.1)


@pytest.fixture(scope="module")
def new(cohort):
    return cohort[cohort["site"] == "site3"].drop(columns="split").reset_index(drop=True)


@pytest.fixture(scope="module")
def run(cohort, tmp_path_factory):
    folder = tmp_path_factory.mktemp("new_participants") / "run"
    fit(cohort[cohort["site"] != "site3"].reset_index(drop=True), load_config(overrides=SMALL), folder)
    embed(folder)
    link_run(folder, variables=["severity"], n_permutations=99, parts=[])
    return folder


def some(new, n_controls, n_patients=6):
    parts = [new[new["diagnosis"] == "control"][:n_controls], new[new["diagnosis"] == "patient"][:n_patients]]
    return pd.concat(parts, ignore_index=True)


@pytest.fixture(scope="module")
def onboarded(run, new, tmp_path_factory):
    folder = tmp_path_factory.mktemp("onboarded")
    return embed_new(run, some(new, 12), folder, onboard_site=True), folder


def factors_of(found, space="salient"):
    table = found.tables[space]
    return table.set_index("participant_id")[factor_columns(table)]


# Figures of the table world.


def test_conformal_p_values_hold_their_level_whatever_the_scores_have_to_do_with_one_another():
    rng = np.random.default_rng(0)
    hits = []
    for _ in range(200):
        scores = np.exp(rng.normal(size=(60, 3)) + rng.normal(size=(60, 1)))
        hits.append(conformal_any(scores[39:], scores[:39]) <= 0.05)
        assert (conformal_p(scores[39:, 0], scores[:39, 0]) >= 1 / 40).all()
    # Of 200 cohorts, with the error of their number.
    assert np.mean(hits) == pytest.approx(0.05, abs=0.015)
    strange = np.array([[1.0, 1.0, 500.0]])
    assert conformal_any(strange, scores[:39])[0] == pytest.approx(1 / 40)


def test_p_values_of_several_models_are_one_that_holds_its_level_where_their_mean_finds_nobody():
    """As in a cross-fit, where each model sees people as they are and a little more: three folds of 100, 100 new."""
    rng = np.random.default_rng(0)
    combined, of_means = [], []
    for _ in range(30):
        own, new = rng.normal(size=(300, 4)), rng.normal(size=(100, 4))
        fold, everyone = np.repeat(np.arange(3), 100), np.repeat("everyone", 300)
        seen_own = own + rng.normal(size=own.shape)
        seen_new = new + rng.normal(size=(3, *new.shape))
        fits = [fit_distance(seen_own[fold != k], everyone[fold != k]) for k in range(3)]
        known = np.concatenate([fits[k](seen_own[fold == k]) for k in range(3)])
        combined.append(combine_p(np.array([conformal_p(fits[k](seen_new[k]), known) for k in range(3)])) <= 0.05)
        of_means.append(conformal_p(fit_distance(seen_own, everyone)(seen_new.mean(axis=0)), known) <= 0.05)
    assert np.mean(combined) == pytest.approx(0.05, abs=0.015)
    assert np.mean(of_means) < 0.02
    # One model that finds a row entirely usual does not outweigh two that never saw the like; nor is one alone changed.
    assert combine_p(np.array([[0.002], [0.002], [1.0]]))[0] < 0.01
    assert combine_p(np.array([[0.3, 1.0]])).tolist() == [0.3, 1.0]


def test_a_column_that_varies_by_rounding_alone_makes_nobody_strange():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(72, 3))
    rows[:, 0] = 0.0
    rows[0, 0] = 6e-8
    distance = fit_distance(rows, np.repeat("everyone", 72), standardise=True)
    assert distance(np.array([[1e-5, 0.0, 0.0]]))[0] < np.median(distance(rows))


def test_the_interval_of_a_percentile_holds_the_share_of_the_population():
    rng = np.random.default_rng(1)
    covered = [
        (found["ci_low"].iloc[0] <= 69.146 <= found["ci_high"].iloc[0])
        for found in (percentile(np.array([0.5]), rng.normal(size=25)) for _ in range(400))
    ]
    assert 0.93 <= np.mean(covered) <= 1
    assert percentile(np.array([np.nan, 0.0]), np.array([])).isna().all(axis=None)


def test_the_jackknife_of_a_mean_is_its_standard_error():
    values = np.random.default_rng(2).normal(size=(10, 1, 1))
    without = np.array([[(values.sum() - value) / 9] for value in values[:, 0, 0]]).reshape(10, 1, 1)
    half = jackknife(without, np.array([10]))[0, 0]
    assert half == pytest.approx(2.2622 * values.std(ddof=1) / np.sqrt(10), rel=1e-4)


# A site the reference does not know, on volumes whose truth is known.


def site_world(n, gap, seed, n_controls=40):
    """Return controls of two known sites and n of a third, of which every voxel is ``gap`` away."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(
        {"participant_id": [f"c{i}" for i in range(n_controls)], "site": ["A", "B"] * (n_controls // 2)}
    )
    volumes = rng.normal(size=(n_controls, 1, 6, 6, 6)).astype(np.float32)
    folds = np.arange(n_controls) % 2
    reference = fit_normative(lambda rows: volumes[rows], table, np.ones(n_controls, bool), folds, ["site"], 1)
    people = pd.DataFrame({"participant_id": [f"n{i}" for i in range(n)], "site": "C"})
    return reference, people, (gap + rng.normal(size=(n, 1, 6, 6, 6))).astype(np.float32)


def test_a_large_effect_of_a_site_is_found_and_one_of_chance_is_not():
    for gap, low, high in ((2.0, 0.95, 1.0), (0.0, 0.0, 0.5)):
        reference, people, images = site_world(12, np.float32(gap), 3)
        effect = estimate_site(reference, lambda rows, images=images: images[rows], people, np.arange(12))
        known = reference.coefficients[-1][0]
        assert low <= float(effect.shares[-1]) <= high
        assert float((effect.map(10) + known).mean()) == pytest.approx(gap, abs=0.2)


def test_a_control_is_rendered_by_the_controls_that_are_not_of_its_group():
    reference, people, images = site_world(12, np.float32(1.0), 4)
    people.loc[[0, 1], "family_id"] = "f"
    effect = estimate_site(reference, lambda rows: images[rows], people, np.arange(12))
    group = effect.group_of(people["participant_id"])
    assert group[0] == group[1]
    assert effect.n_groups == 10
    assert effect.group_of(pd.Series(["stranger"]))[0] == 10
    others = np.flatnonzero(group != group[5])
    alone = estimate_site(reference, lambda rows: images[others][rows], people.iloc[others], np.arange(others.size))
    ours = render_at_sites(reference, {"C": effect}, people)(torch.from_numpy(images[5:6]), np.array([5]))
    theirs = render_at_sites(reference, {"C": alone}, people.iloc[others].assign(participant_id="x"))
    assert torch.allclose(ours, theirs(torch.from_numpy(images[5:6]), np.array([0])), atol=1e-4)
    # Not by all, which it helped to estimate.
    stranger = render_at_sites(reference, {"C": effect}, people.assign(participant_id="x"))
    assert not torch.allclose(ours, stranger(torch.from_numpy(images[5:6]), np.array([5])), atol=1e-3)


def test_statistics_of_images_are_taken_without_what_the_site_does_to_them():
    reference, people, images = site_world(12, np.float32(2.0), 7)
    effect = estimate_site(reference, lambda rows: images[rows], people, np.arange(12))
    both = pd.concat([people, people.iloc[:1].assign(site="A", participant_id="k")], ignore_index=True)
    images = np.concatenate([images, images[:1]])
    found = take_out_sites(torch.from_numpy(images), np.arange(13), {"C": effect}, both)
    assert abs(found[:12].mean()) < 0.2
    assert (found[12] == images[12]).all()


def test_statistics_of_images_are_those_of_all_voxels_and_quantiles_within_their_error():
    rng = np.random.default_rng(0)
    volumes, mean = rng.gamma(2.0, size=(3, 1, 31, 40, 40)).astype(np.float32), rng.random((1, 31, 40, 40))
    inside, scale = rng.random(mean.shape) < 0.8, rng.random(mean.shape)
    compared = MeanImage(*(torch.from_numpy(a) for a in (mean.astype("f4"), inside, scale.astype("f4"))))
    found = tabulate_statistics(ImageStatistics(compared)(torch.from_numpy(volumes)))
    for row, volume in zip(found.itertuples(), volumes.astype(float), strict=True):
        values, either = volume[inside], inside | inside[:, ::-1]
        np.testing.assert_allclose([row.image_mean, row.image_sd], [values.mean(), values.std(ddof=1)], rtol=1e-4)
        whole = np.quantile(values, [0.05, 0.5, 0.95])
        np.testing.assert_allclose([row.image_q05, row.image_q50, row.image_q95], whole, rtol=0.1)
        assert row.image_likeness == pytest.approx(np.corrcoef(values, mean[inside])[0, 1], abs=1e-4)
        odd, expected = ((v - v[:, ::-1])[either] for v in (volume, mean))
        assert row.image_asymmetry == pytest.approx(np.corrcoef(odd, expected)[0, 1], abs=1e-4)
        departure = np.sqrt(np.square((values - mean[inside]) * scale[inside]).mean())
        assert row.image_departure == pytest.approx(departure, rel=1e-4)


def test_coefficients_of_covariates_before_and_after_site_stay_where_they_were():
    rng = np.random.default_rng(6)
    table = pd.DataFrame(
        {
            "participant_id": [f"{i}" for i in range(48)],
            "site": np.array(["B", "A"])[np.arange(48) % 2],
            "age": rng.uniform(20, 60, 48),
            "sex": np.array(["F", "M"])[np.arange(48) // 2 % 2],
        }
    )
    volumes = rng.normal(size=(48, 1, 4, 4, 4)).astype(np.float32)
    order = ["site", "age", "sex"]
    reference = fit_normative(lambda rows: volumes[rows], table, np.ones(48, bool), np.arange(48) % 2, order, 0)
    effect = estimate_site(reference, lambda rows: volumes[rows], table.assign(site="C"), np.arange(48))
    both = pd.concat([table.iloc[:4], table.iloc[:2].assign(site="C", participant_id="x")], ignore_index=True)
    images = torch.from_numpy(volumes[[0, 1, 2, 3, 0, 1]])
    known = render_at_sites(reference, {}, both.iloc[:4])(images[:4], np.arange(4))
    with_site = render_at_sites(reference, {"C": effect}, both)(images, np.arange(6))
    assert torch.allclose(known, with_site[:4], atol=1e-5)
    base = reference.design.encode(table.iloc[:2].assign(site="A"))
    expected = images[4:].flatten(1) - torch.from_numpy(base) @ reference.coefficients[-1] - effect.map(10)
    assert torch.allclose(with_site[4:].flatten(1), expected * reference.inverse_std, atol=1e-4)


# On a run.


def test_a_new_site_is_onboarded_kept_and_used_again_for_later_participants(run, new, onboarded, tmp_path):
    found, folder = onboarded
    before = (RunDir(run).reference.read_bytes(), RunDir(run).norms.read_bytes())
    assert (folder / SITE_FILE).is_file()
    rows = found.percentiles[found.percentiles["space"].isin(["salient", "canonical"])]
    assert (rows["value_high"] > rows["value_low"]).all()
    assert found.percentiles.loc[found.percentiles["space"] == "common", "value_low"].isna().all()
    assert any("Site site3: its effect was estimated from 12 controls" in note for note in found.notes)
    assert (found.applicability["flags"].str.contains("new_site")).all()
    everyone = some(new, 12, 18)
    again = embed_new(run, everyone, tmp_path / "later", site_effect=folder / SITE_FILE)
    ours, theirs = factors_of(found), factors_of(again)
    np.testing.assert_allclose(theirs.loc[ours.index], ours, atol=1e-4)
    assert len(theirs) == 30
    assert before == (RunDir(run).reference.read_bytes(), RunDir(run).norms.read_bytes())
    state = (folder / SITE_FILE).with_suffix(".json").read_text()
    assert NOTICE in state
    assert everyone["participant_id"].iloc[0] not in state


def test_a_file_of_another_reference_is_refused(run, new, onboarded, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    reference = RunDir(copy).reference
    reference.write_bytes(reference.read_bytes() + b"0")
    with pytest.raises(RunError, match="no site effects of this run's normative reference"):
        embed_new(copy, some(new, 2), tmp_path / "out", site_effect=onboarded[1] / SITE_FILE)
    with pytest.raises(RunError, match="no such file"):
        embed_new(run, some(new, 2), tmp_path / "out", site_effect=tmp_path / "absent.safetensors")
    assert not (tmp_path / "out").exists()


def test_a_damaged_file_of_site_effects_is_named(run, new, onboarded, tmp_path):
    tensors, state = load_checkpoint(onboarded[1] / SITE_FILE)
    path = tmp_path / SITE_FILE
    (effect,) = state["effects"]
    for spoilt in (
        (tensors | {"0.means": tensors["0.means"][:, :7]}, state),
        (tensors | {"0.centre": tensors["0.centre"] * float("nan")}, state),
        (tensors, {"effects": [effect | {"groups": {"a": 99}}]}),
        (tensors, {"effects": [{"site": "site3"}]}),
        (tensors, {}),
    ):
        save_checkpoint(path, *spoilt)
        with pytest.raises(RunError, match=r"site_effects.*: not what belongs there"):
            embed_new(run, new.head(2), tmp_path / "out", site_effect=path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(RunError, match="onboard the site again"):
        embed_new(run, new.head(2), tmp_path / "out", site_effect=path)


@pytest.mark.parametrize(("n", "words"), [(0, "cannot be told apart"), (4, "more about these few people")])
def test_a_site_without_controls_or_with_few_is_refused_in_plain_words(run, new, tmp_path, n, words):
    with pytest.raises(ManifestError, match=words) as caught:
        embed_new(run, some(new, n), tmp_path / "out", onboard_site=True)
    assert f'got "site3"; allowed: {FEWEST_CONTROLS} controls or more' in str(caught.value)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ManifestError, match="--onboard-site"):
        embed_new(run, some(new, n), tmp_path / "out")


def test_patients_only_are_no_reason_to_refuse_where_the_method_has_no_reference_and_it_is_said_why(tmp_path):
    patients = pd.DataFrame({"participant_id": ["a", "b"], "diagnosis": "patient", "site": "new"})
    found = find_new_sites(RunDir(tmp_path), patients, load_config(overrides=["method.name=sepclr_paper"]))
    assert found.sites == []
    assert "no site effect to estimate: its encoders see images as they are, whatever the site" in found.nothing


def test_a_run_that_knows_all_sites_says_that_there_is_nothing_to_onboard(run, cohort, tmp_path):
    known = cohort[(cohort["site"] == "site1") & (cohort["split"] == "test")].head(3).reset_index(drop=True)
    found = embed_new(run, known, tmp_path / "a", onboard_site=True)
    assert any("All sites are known to the run: site1, site2" in note for note in found.notes)
    assert not (tmp_path / "a" / SITE_FILE).exists()


# Whom numbers rest on.


def test_norms_are_of_people_the_network_was_not_trained_on_and_name_nobody(run, cohort):
    norms = load_norms(RunDir(run))
    n_test = int(((cohort["split"] == "test") & (cohort["site"] != "site3")).sum())
    assert norms.part == "held-out"
    assert norms.n_calibration == n_test == norms.groups["controls"]["n"] + norms.groups["patients"]["n"]
    salient = read_embeddings(run / "embeddings")["salient"]
    held_out = salient[salient["split"] == "test"].merge(cohort[["participant_id", "diagnosis"]], on="participant_id")
    expected = np.sort(held_out.loc[held_out["diagnosis"] == "patient", "salient_000"])
    np.testing.assert_allclose(norms.factors["salient"]["salient_000"]["patients"], expected, rtol=1e-5)
    assert set(norms.factors) == {"common", "salient", "canonical"}
    content = RunDir(run).norms.read_text()
    assert "sub-" not in content
    assert "nii" not in content
    assert json.loads(content)["Notice"] == NOTICE


def test_a_sealed_test_part_serves_only_once_it_was_opened(run, cohort, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    study = cohort[cohort["site"] != "site3"].reset_index(drop=True)
    path = write_manifest(study, tmp_path / "study.tsv")
    seal(read_manifest(path), path)
    content = {"ledger": "../study.ledger.jsonl", "test_sha256": None}
    RunDir(copy).seal.write_text(json.dumps(content))
    sealed = load_norms(RunDir(copy))
    assert sealed.part == "training"
    assert sealed.n_calibration == int((study["split"] == "train").sum())
    assert {facts["part"] for facts in sealed.groups.values()} == {"training"}
    assert "more of them are flagged than is said" in sealed.words
    assert "sealed" in sealed.words
    append_event(tmp_path / "study.ledger.jsonl", "opened", {"reason": "the paper"})
    assert load_norms(RunDir(copy)).part == "held-out"


def test_norms_of_another_version_are_made_anew_or_refused_where_nothing_is_left_to_make_them_from(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    ours = load_norms(RunDir(copy))
    content = json.loads(RunDir(copy).norms.read_text())
    RunDir(copy).norms.write_text(json.dumps(content | {"Version": 1, "distances": content["distances"][""]}))
    assert load_norms(RunDir(copy)) == ours
    RunDir(copy).norms.write_text(json.dumps(content | {"Version": 1}))
    shutil.rmtree(copy / "embeddings")
    with pytest.raises(RunError, match="another version; embed the run's own cohort again"):
        load_norms(RunDir(copy))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda norms: norms.pop("geometry"),
        lambda norms: norms["scores"]["common"].append("far"),
        lambda norms: norms["distances"][""]["salient"].pop("precisions"),
        lambda norms: norms["columns"]["common"].append("epoch"),
        lambda norms: norms["factors"]["salient"]["salient_000"].update(patients=None),
        lambda norms: norms["ranges"].update(age={"low": "young", "high": 90}),
        lambda norms: norms.update(distances={"another": norms["distances"][""]}),
    ],
)
def test_norms_that_were_damaged_are_named_and_nothing_is_placed_by_them(run, new, tmp_path, spoil):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "embeddings")
    norms = json.loads(RunDir(copy).norms.read_text())
    spoil(norms)
    RunDir(copy).norms.write_text(json.dumps(norms))
    with pytest.raises(RunError, match=r"norms\.json: not what belongs there"):
        embed_new(copy, new.head(2).assign(site="site1"), tmp_path / "out")
    assert not list((tmp_path / "out").glob("desc-applicability*"))


def test_a_run_that_is_passed_on_without_embeddings_still_places_people(run, new, onboarded, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "embeddings")
    found = embed_new(copy, some(new, 12), tmp_path / "out", onboard_site=True)
    ours = found.percentiles[found.percentiles["space"] == "salient"].reset_index(drop=True)
    theirs = onboarded[0].percentiles[onboarded[0].percentiles["space"] == "salient"].reset_index(drop=True)
    np.testing.assert_allclose(ours["percentile"], theirs["percentile"], atol=1e-6)
    RunDir(copy).norms.unlink()
    bare = embed_new(copy, some(new, 12), tmp_path / "bare", onboard_site=True)
    assert bare.percentiles["percentile"].isna().all()
    assert bare.percentiles.loc[bare.percentiles["space"] == "salient", "value_low"].notna().all()
    assert any("No flags and no percentiles" in note for note in bare.notes)


# What is flagged.


def change(image, path, alter=lambda voxels: voxels, affine=None):
    source = nib.load(image)
    nib.save(
        nib.Nifti1Image(alter(source.get_fdata(dtype=np.float32)), source.affine if affine is None else affine), path
    )
    return str(path)


def test_images_unlike_the_cohort_are_flagged_in_words_and_those_like_it_are_not(run, cohort, tmp_path):
    held_out = cohort[(cohort["split"] == "test") & (cohort["site"] != "site3")].reset_index(drop=True)
    rng = np.random.default_rng(0)
    alterations = {
        "noise": lambda voxels: rng.uniform(0, 1, voxels.shape).astype(np.float32),
        "upside_down": lambda voxels: voxels[:, :, ::-1].copy(),
        "mirrored": lambda voxels: voxels[::-1].copy(),
        "other_units": lambda voxels: 3 * voxels,
    }
    rows = []
    for place, (name, alter) in enumerate(alterations.items()):
        row = held_out.iloc[place].copy()
        row["participant_id"], row["image_path"] = name, change(row["image_path"], tmp_path / f"{name}.nii.gz", alter)
        rows.append(row)
    odd = held_out.iloc[4].copy()
    zoomed = nib.load(odd["image_path"]).affine @ np.diag([0.5, 0.5, 0.5, 1])
    odd["image_path"] = change(odd["image_path"], tmp_path / "odd.nii.gz", affine=zoomed)
    odd["participant_id"], odd["age"], odd["sex"] = "odd", 99.0, held_out["sex"].iloc[0]
    rows.append(odd)
    manifest = pd.concat([held_out, pd.DataFrame(rows)], ignore_index=True).drop(columns="split")
    found = embed_new(run, manifest, tmp_path / "out").applicability.set_index("participant_id")
    statistics = read_embeddings(tmp_path / "out", ["image"])["image"].set_index("participant_id")
    for name in ("noise", "upside_down", "other_units"):
        assert found.loc[name, "unusual"] == "yes", found.loc[name]
        assert found.loc[name, "image_p"] <= 0.05
    # Brains are nearly symmetric, and coarse: what is left of them is told by one number among ten.
    assert (
        statistics.loc["mirrored", "image_asymmetry"]
        < statistics.loc[held_out["participant_id"], "image_asymmetry"].min()
    )
    assert "times as far as the furthest" in found.loc["noise", "words"]
    flags = found.loc["odd", "flags"].split(",")
    assert {"geometry", "covariates"} <= set(flags)
    assert "age 99 is outside the training range" in found.loc["odd", "words"]
    assert "mm from left to right" in found.loc["odd", "words"]
    known = found.loc[held_out["participant_id"]]
    # Their own distances calibrate: at most the share that is stated.
    assert (known["unusual"] == "yes").mean() <= 0.06
    assert (known["flags"].str.contains("in_cohort")).all()
    sidecar = json.loads((tmp_path / "out" / "desc-applicability_embedding.json").read_text())
    assert sidecar["Notice"] == NOTICE
    assert "held-out" in sidecar["ComparedWith"]["Part"]


def test_a_relative_of_training_people_is_flagged_and_one_of_test_people_is_not(run, new, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    own = read_manifest(RunDir(copy).manifest)
    trained = (own["split"] == "train").to_numpy()
    own["family_id"] = None
    own.loc[trained.argmax(), "family_id"], own.loc[(own["split"] == "test").to_numpy().argmax(), "family_id"] = (
        "a",
        "b",
    )
    write_manifest(own, RunDir(copy).manifest)
    people = new.head(3).assign(site="site1", family_id=["a", "b", None])
    found = embed_new(copy, people, tmp_path / "out").applicability
    assert [str(flags).split(",").count("relative") for flags in found["flags"]] == [1, 0, 0]


def test_from_the_command_line(run, new, tmp_path, capsys, monkeypatch):
    def call(*words):
        monkeypatch.setattr(sys, "argv", ["sepclr-med", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code or 0, capsys.readouterr()

    table = write_manifest(some(new, 8), tmp_path / "new.tsv")
    code, said = call("embed", run, table, "-o", tmp_path / "out", "--onboard-site")
    assert code == 0, said.err
    assert NOTICE in said.out
    assert "Site site3" in said.out
    for space in ("salient", "canonical", "applicability", "percentiles"):
        assert json.loads((tmp_path / "out" / f"desc-{space}_embedding.json").read_text())["Notice"] == NOTICE
    few = write_manifest(some(new, 3), tmp_path / "few.tsv")
    code, said = call("embed", run, few, "-o", tmp_path / "b", "--onboard-site")
    assert code == 1
    assert "3 controls and 6 patients" in said.err
    code, said = call("embed", run, "--onboard-site")
    assert code == 1
    assert "are of new images" in said.err
    plain = write_manifest(some(new, 2).assign(site="site1").drop(columns="diagnosis"), tmp_path / "plain.tsv")
    code, said = call("embed", run, plain, "-o", tmp_path / "c")
    assert code == 0, said.err
    assert said.out.startswith(f"8 images -> {tmp_path / 'c'}")
