"""The normative reference against synthetic volumes whose truth is known, and against direct fits in voxel space."""

import json
import logging
import warnings

import numpy as np
import pandas as pd
import pytest
import torch

from sepclr_med.checkpoint import load_checkpoint, save_checkpoint
from sepclr_med.config import load_config
from sepclr_med.errors import ManifestError
from sepclr_med.rendering import assign_folds, fit_reference, load_rendering
from sepclr_med.rundir import RunDir
from sepclr_med.volumes import normative_fit
from sepclr_med.volumes.cache import CachedVolumes
from sepclr_med.volumes.normative import NormativeReference, Rendering, fit_normative, render_with
from sepclr_med.volumes.normative_design import code_covariates, learn_design
from sepclr_med.volumes.normative_regression import fit_regression
from sepclr_med.volumes.reader import VolumeReader
from sepclr_med.volumes.standardisation import fit_standardisation

SIZE = (1, 5, 6, 5)
AIR = 30
N_BRAIN = int(np.prod(SIZE)) - AIR
COVARIATES = ["age", "sex", "site"]
LESION = slice(100, 110)


class World:
    """A generator of participants: what covariates, hidden factors and the disease do to each voxel."""

    def __init__(self, n_factors=2, noise=0.3, seed=0):
        rng = np.random.default_rng(seed)
        self.noise = noise
        self.effects = rng.normal(0, 0.5, (6, N_BRAIN))
        self.effects[0] += 3
        self.factors = np.linalg.qr(rng.normal(size=(N_BRAIN, max(1, n_factors))))[0].T[:n_factors]
        self.strengths = np.linspace(6, 4, n_factors)

    def people(self, n, is_target=False, seed=1, start=0):
        rng = np.random.default_rng([seed, start])
        table = pd.DataFrame(
            {
                "participant_id": [f"sub-{start + i:04d}" for i in range(n)],
                "age": rng.uniform(20, 80, n) + (10 if is_target else 0),
                "sex": rng.choice(["F", "M"], n),
                "site": np.array(["A", "B", "C"])[np.arange(n) % 3],
            }
        )
        age = (table["age"].to_numpy() - 50) / 15
        design = [np.ones(n), age, age**2, table["sex"] == "M", table["site"] == "B", table["site"] == "C"]
        brain = np.column_stack(design).astype(float) @ self.effects
        brain += (rng.normal(size=(n, len(self.factors))) * self.strengths) @ self.factors
        brain += self.noise * rng.normal(size=brain.shape)
        if is_target:
            brain[:, LESION] -= 2
        volumes = np.hstack([brain, np.zeros((n, AIR))]).astype(np.float32)
        return table, volumes.reshape(n, *SIZE)

    def cohort(self, n_background=90, n_target=45, n_folds=5):
        (a, x), (b, y) = self.people(n_background), self.people(n_target, is_target=True, start=5000)
        table, is_background = pd.concat([a, b], ignore_index=True), np.arange(n_background + n_target) < n_background
        return table, np.concatenate([x, y]), is_background, assign_folds(table, is_background, n_folds)


def fitted(cohort, covariates=COVARIATES, n_components="auto", model="pca", pooled=(), borrow=False):
    table, volumes, is_background, folds = cohort
    return fit_normative(
        lambda rows: volumes[rows], table, is_background, folds, covariates, n_components, model, pooled, borrow
    )


def deviations(reference, table, volumes):
    return render_with(reference, table)(torch.from_numpy(volumes), np.arange(len(table))).flatten(1).numpy()


@pytest.fixture(scope="module")
def world():
    return World()


@pytest.fixture(scope="module")
def cohort(world):
    return world.cohort()


@pytest.fixture(scope="module")
def reference(cohort):
    return fitted(cohort)


def line_fit(x, y):
    """Share of the variance of each column of y that a line in x explains."""
    x, y = x - x.mean(), y - y.mean(axis=0)
    return (x @ y) ** 2 / (x @ x) / np.maximum((y**2).sum(axis=0), 1e-12)


# Truth recovered.


def test_effects_of_age_its_square_sex_and_site_are_recovered():
    world = World(n_factors=0, noise=0.05)
    cohort = world.cohort()
    reference, table = fitted(cohort), cohort[0]
    assert reference.design.coding.names == ["age", "sex=M", "site=B", "site=C"]
    # Effects are of age in standard deviations of these controls, and of its square.
    centre, scale = reference.design.centre[0], reference.design.scale[0]
    controls = table["age"][cohort[2]]
    assert (centre, scale) == pytest.approx((controls.mean(), controls.std(ddof=0)))
    constant, linear, squared, *classes = world.effects
    step, shift = scale / 15, (centre - 50) / 15
    expected = [constant + shift * linear + shift**2 * squared, step * (linear + 2 * shift * squared)]
    expected.append(step**2 * squared)
    found = reference.coefficients[reference.last][:, :N_BRAIN].numpy()
    np.testing.assert_allclose(found, [*expected, *classes], atol=0.06)
    assert float(reference.coefficients[:, :, N_BRAIN:].abs().max()) < 1e-6


def test_a_pooled_effect_is_that_of_everyone_and_the_others_those_of_controls_alone(cohort):
    table, volumes, is_background, folds = cohort
    # Two disorders of different sites, one ageing faster: neither may be taken for the site or for age.
    disorder = np.where(table["site"] == "A", "A-like", "B-like")
    table = table.assign(diagnosis=np.where(is_background, "control", disorder))
    ill = np.where(is_background, 0.0, 1 + (disorder == "A-like") + table["age"] / 20).astype(np.float32)
    volumes = volumes + ill[:, None, None, None, None]
    reference = fitted((table, volumes, is_background, folds), pooled=["site"])
    site = reference.design.columns_of(["site"])
    assert site.tolist() == [False, False, False, False, True, True]
    assert reference.facts["pooled"] == ["site"]
    assert reference.facts["n_components"] == 2
    design = reference.design.encode(table).astype(float)
    groups = [is_background, *(table["diagnosis"] == name for name in ("A-like", "B-like"))]
    for number in (0, reference.last):
        seen = folds != number
        whole = [design[:, site], *(design[:, ~site] * np.asarray(group)[:, None] for group in groups)]
        direct = np.linalg.lstsq(np.hstack(whole)[seen], volumes[seen].reshape(seen.sum(), -1), rcond=None)[0]
        ours = reference.coefficients[number].numpy()
        np.testing.assert_allclose(ours[site], direct[:2], atol=2e-3)
        np.testing.assert_allclose(ours[~site], direct[2:6], atol=2e-3)


def test_pooling_halves_the_error_of_a_site_effect():
    world = World(n_factors=0)
    cohort = world.cohort(n_background=60, n_target=180)
    errors = []
    for pooled in ([], ["site"]):
        reference = fitted(cohort, n_components=0, pooled=pooled)
        found = reference.coefficients[reference.last][:, :N_BRAIN].numpy()[4:]
        errors.append(np.square(found - world.effects[4:]).mean())
    assert errors[1] < 0.5 * errors[0]


def effects_and_errors(world, cohort, **how):
    reference = fitted(cohort, n_components=0, **how)
    found = reference.coefficients[reference.last][:, :N_BRAIN].numpy()
    slopes = fitted_slopes(world, reference)
    return reference, {"age": np.square(found[1] - slopes).mean(), "sex": np.square(found[3] - world.effects[3]).mean()}


def fitted_slopes(world, reference):
    """What the coefficient of age is in truth, in the units of the design."""
    scale, shift = reference.design.scale[0] / 15, (reference.design.centre[0] - 50) / 15
    return scale * (world.effects[1] + 2 * shift * world.effects[2])


def test_patients_in_whom_covariates_act_alike_halve_the_errors_of_their_effects():
    world = World()
    cohort = world.cohort(n_background=60, n_target=180)
    alone = effects_and_errors(world, cohort)[1]
    reference, helped = effects_and_errors(world, cohort, borrow=True)
    assert helped["age"] < 0.5 * alone["age"]
    assert helped["sex"] < 0.5 * alone["sex"]
    assert reference.facts["borrowed"].keys() == {"age", "sex", "site"}
    assert min(reference.facts["borrowed"].values()) > 0.5


@pytest.mark.parametrize("strength", [1.0, 3.0])
def test_patients_who_age_otherwise_do_not_say_what_normal_ageing_is(strength):
    world = World()
    table, volumes, is_background, folds = world.cohort(n_background=90, n_target=180)
    faster = strength * (table["age"].to_numpy() - 50) / 15 * ~is_background
    volumes = volumes + (faster[:, None] * np.linspace(-1, 1, volumes[0].size)).reshape(volumes.shape).astype(
        np.float32
    )
    cohort = (table, volumes, is_background, folds)
    alone = effects_and_errors(world, cohort)[1]
    reference, helped = effects_and_errors(world, cohort, borrow=True)
    assert reference.facts["borrowed"]["age"] < 0.1
    assert helped["age"] < 1.2 * alone["age"]
    assert reference.facts["borrowed"]["sex"] > 0.4
    assert helped["sex"] < 0.6 * alone["sex"]


def test_shares_equal_a_slow_computation_on_voxels(cohort):
    table, volumes, is_background, _ = cohort
    design = code_covariates(table[is_background], COVARIATES).encode(table).astype(float)
    images, n_voxels = volumes.reshape(len(table), -1).astype(float), volumes[0].size
    own = np.array([True, True, True, True, False, False])
    controls, patients = design[is_background], design[~is_background]
    whole = np.vstack(
        [np.hstack([controls, 0 * controls[:, own]]), np.hstack([np.where(own, 0, patients), patients[:, own]])]
    )
    effects, inverse = np.linalg.lstsq(whole, images, rcond=None)[0], np.linalg.pinv(whole)
    residuals = images - whole @ effects
    aside = np.linalg.svd(residuals[:90], full_matrices=False)[2][:9]
    left = residuals - residuals @ aside.T @ aside
    size = n_voxels - 9
    noise = [np.square(left[:90]).sum() / size / (90 - 4), np.square(left[90:]).sum() / size / (len(table) - 94)]
    noise = np.repeat(noise, [90, len(table) - 90])
    expected = []
    for effect in range(4):
        weights = [inverse[effect], inverse[6 + effect]]
        apart = effects[6 + effect] - effects[effect]
        apart = apart - apart @ aside.T @ aside
        tau = max(0.0, np.square(apart).sum() / size - noise @ np.square(weights[1] - weights[0]))
        variances = [noise @ np.square(weights[0]), noise @ np.square(weights[1]) + tau]
        expected.append(variances[0] / sum(variances))
    groups = np.where(is_background, 0, 1)
    found = fit_regression(images @ images.T, design, np.ones(len(table), bool), groups, ~own, n_voxels)
    np.testing.assert_allclose(found.borrowed[1:4], expected[1:], rtol=1e-6)
    assert found.borrowed[[0, 4, 5]].tolist() == [0, 0, 0]
    # Controls are what is normal on average, whoever helped.
    np.testing.assert_allclose((images - design @ found.weights @ images)[:90].mean(axis=0), 0, atol=1e-9)


@pytest.mark.parametrize("sex", ["F", "M"])
def test_patients_of_one_sex_have_no_say_in_the_effect_of_sex(sex):
    world = World()
    # Hardly there: "nothing", which is what such patients show, would not differ from it.
    world.effects[3] *= 0.1
    table, volumes, is_background, folds = world.cohort(n_background=90, n_target=180)
    kept = is_background | (table["sex"] == sex).to_numpy()
    cohort = (table[kept].reset_index(drop=True), volumes[kept], is_background[kept], folds[kept])
    alone = effects_and_errors(world, cohort)[1]
    reference, helped = effects_and_errors(world, cohort, borrow=True)
    assert reference.facts["borrowed"]["sex"] == 0
    assert helped["sex"] == pytest.approx(alone["sex"], rel=0.2)
    assert reference.facts["borrowed"]["age"] > 0.1
    assert helped["age"] < 0.8 * alone["age"]


def test_patients_of_one_site_have_no_say_in_those_of_others(world):
    table, volumes, is_background, folds = world.cohort(n_background=90, n_target=180)
    kept = is_background | (table["site"] == "B").to_numpy()
    cohort = (table[kept].reset_index(drop=True), volumes[kept], is_background[kept], folds[kept])
    alone, helped = (fitted(cohort, n_components=0, borrow=borrow) for borrow in (False, True))
    assert helped.facts["borrowed"]["site"] == 0
    errors = [
        np.square(r.coefficients[r.last][4:, :N_BRAIN].numpy() - world.effects[4:]).mean() for r in (alone, helped)
    ]
    assert errors[1] < 1.1 * errors[0]


def test_patients_too_few_for_effects_of_their_own_change_nothing(cohort):
    table, volumes, is_background, _ = cohort
    design = code_covariates(table[is_background], COVARIATES).encode(table).astype(float)
    images = volumes.reshape(len(table), -1).astype(float)
    some = np.arange(len(table)) < 90 + 11
    arguments = (images @ images.T, design, some, np.where(is_background, 0, 1), np.zeros(6, bool), images.shape[1])
    alone, helped = fit_regression(*arguments, borrow=False), fit_regression(*arguments)
    np.testing.assert_array_equal(helped.weights, alone.weights)
    assert (helped.weights[:, 90:] == 0).all()
    assert not helped.borrowed.any()


@pytest.mark.parametrize("n_factors", [0, 1, 3, 5])
def test_held_out_likelihood_finds_how_many_factors_the_background_shares(n_factors):
    world = World(n_factors)
    reference = fitted(world.cohort())
    assert reference.facts["n_components"] == n_factors
    assert reference.components.shape[1] == reference.facts["n_components"]
    found = reference.components[reference.last].numpy()[:, :N_BRAIN]
    captured = np.square(found @ world.factors.T).sum(axis=0)
    assert (captured > 0.9).all()


def test_what_covariates_and_components_explain_is_gone_from_new_people_and_the_disease_is_not(world, reference):
    table, volumes = world.people(150, seed=7, start=8000)
    left, raw = deviations(reference, table, volumes)[:, :N_BRAIN], volumes.reshape(150, -1)[:, :N_BRAIN]
    assert np.abs(left.mean(axis=0)).mean() < 0.15
    assert np.abs(left.std(axis=0) - 1).mean() < 0.1
    age, site = table["age"].to_numpy(), (table["site"] == "B").to_numpy(float)
    for covariate in (age, site):
        # Of noise alone a line explains 1 / 150, and the coefficients come from 90.
        assert line_fit(covariate, left).mean() < 0.025
        assert line_fit(covariate, raw).mean() > 3 * line_fit(covariate, left).mean()
    patients = deviations(reference, *world.people(60, is_target=True, seed=7, start=9000))[:, :N_BRAIN]
    assert (patients[:, LESION].mean(axis=0) < -3).all()
    elsewhere = np.delete(patients.mean(axis=0), np.r_[LESION])
    assert np.abs(elsewhere).max() < 0.6 * np.abs(patients[:, LESION].mean(axis=0)).min()


def test_deviations_of_training_controls_look_like_those_of_new_ones(cohort, world, reference):
    """Rendered by a reference that they took part in, they would be smaller than those of any new person."""
    table, volumes, is_background, _ = cohort
    own = deviations(reference, table, volumes)[is_background][:, :N_BRAIN]
    new = deviations(reference, *world.people(150, seed=7, start=8000))[:, :N_BRAIN]
    assert own.std() == pytest.approx(1, abs=0.03)
    assert own.std() == pytest.approx(new.std(), abs=0.06)
    assert np.abs(own.mean(axis=0)).mean() < 0.05
    assert line_fit(table["age"][is_background].to_numpy(), own).mean() < 0.02
    strangers = table.assign(participant_id="new-" + table["participant_id"])
    seen = deviations(reference, strangers, volumes)[is_background][:, :N_BRAIN]
    assert seen.std() < 0.93 * own.std()


def test_air_has_no_deviation_and_extreme_ones_are_bounded(world, reference):
    table, volumes = world.people(3, seed=9, start=8000)
    volumes[0] = 1e4
    found = deviations(reference, table, volumes)
    assert np.abs(found[:, N_BRAIN:]).max() == 0
    assert np.abs(found).max() == 10
    assert np.isfinite(found).all()


# Who sees whom.


def test_a_training_image_has_no_part_in_the_reference_that_renders_it(cohort):
    table, volumes, is_background, folds = cohort
    before = fitted(cohort, n_components=2)
    assert (before.fold_of(table) == folds).all()
    row = int(np.flatnonzero(is_background & (folds == 3))[-1])
    changed = volumes.copy()
    changed[row, ..., :2] += 50
    after = fitted((table, changed, is_background, folds), n_components=2)
    for number in range(before.last + 1):
        same = number == 3
        for name in ("coefficients", "components"):
            ours, theirs = getattr(before, name)[number], getattr(after, name)[number]
            assert torch.allclose(ours.abs(), theirs.abs(), rtol=1e-3, atol=1e-4) == same, (number, name)


def test_targets_have_no_part_in_any_reference(cohort):
    table, volumes, is_background, folds = cohort
    before = fitted(cohort)
    changed = np.where(is_background[:, None, None, None, None], volumes, 7 - 3 * volumes)
    after = fitted((table, changed, is_background, folds))
    assert all(torch.equal(before.state()[0][name], after.state()[0][name]) for name in before.state()[0])


@pytest.mark.parametrize("model", ["pca", "ppca"])
def test_the_reference_that_renders_is_that_of_the_persons_fold_and_for_strangers_the_last(cohort, model):
    table, volumes, _, folds = cohort
    reference = fitted(cohort, model=model)
    mixed = pd.concat([table.iloc[[5, 100]], table.iloc[[0]].assign(participant_id="stranger")], ignore_index=True)
    assert reference.fold_of(mixed).tolist() == [folds[5], folds[100], reference.last]
    images = volumes[[5, 100, 0]]
    found = deviations(reference, mixed, images)
    for row, number in enumerate([folds[5], folds[100], reference.last]):
        predicted = reference.design.encode(mixed)[row] @ reference.coefficients[number].numpy()
        left = images[row].ravel() - predicted
        components = reference.components[number].numpy()
        left -= (reference.weights[number].numpy() * (components @ left)) @ components
        expected = np.clip(left * reference.inverse_std.numpy(), -10, 10)
        np.testing.assert_allclose(found[row], expected, atol=1e-3)


def test_relatives_and_sessions_share_a_fold_and_every_fold_has_both_groups_of_every_site(cohort):
    table, _, is_background, folds = cohort
    for number in range(5):
        inside = folds == number
        assert set(table["site"][inside & is_background]) == set(table["site"][inside & ~is_background]) == set("ABC")
        assert inside[is_background].sum() == 18
    families = [None if i % 4 == 0 else f"f{i // 8}" for i in range(len(table))]
    sessions = pd.concat([table.assign(family_id=families)] * 2, ignore_index=True)
    found = pd.Series(assign_folds(sessions, np.tile(is_background, 2), 4))
    assert set(found) == {0, 1, 2, 3}
    assert found.groupby(sessions["participant_id"]).nunique().max() == 1
    assert found.groupby(sessions["family_id"]).nunique().max() == 1
    # Missing is no family.
    assert found[sessions["family_id"].isna()].nunique() == 4


def test_no_fold_holds_all_controls_of_a_site_however_small_the_sites_are():
    """A reference that never saw a site would take none of its effect out, without a word."""
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(60)
        sites = np.array([f"S{i // 3}" for i in range(30)] * 2)[order]
        table, is_background = pd.DataFrame({"participant_id": order.astype(str), "site": sites}), order < 30
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            folds = assign_folds(table, is_background, 5)
        assert (np.bincount(folds[is_background]) == 6).all()
        for site in set(sites):
            assert len(set(folds[is_background & (sites == site)])) == 3


# The fit in the space of participants is the fit in voxel space.


def direct_fit(design, volumes, k, n_varying):
    coefficients, *_ = np.linalg.lstsq(design, volumes, rcond=None)
    residuals = volumes - design @ coefficients
    _, singular, components = np.linalg.svd(residuals, full_matrices=False)
    eigenvalues = singular**2 / (len(design) - design.shape[1])
    noise = eigenvalues[k:].sum() / (n_varying - k)
    return coefficients, components[:k], eigenvalues[:k], noise


def test_products_are_the_same_in_pieces_and_a_large_constant_costs_no_digits(cohort, monkeypatch):
    _, volumes, is_background, _ = cohort
    rows = np.flatnonzero(is_background)[:20]
    centred = volumes[rows].reshape(20, -1).astype(float) - volumes[rows[0]].ravel()
    for constant in (0, 1000):
        moved = volumes + np.float32(constant)
        monkeypatch.setattr(normative_fit, "CHUNK_BYTES", 64 << 20)
        whole = normative_fit.gram_matrix(lambda some, moved=moved: moved[some], rows)
        monkeypatch.setattr(normative_fit, "CHUNK_BYTES", 4 * volumes[0].size * 7)
        pieces = normative_fit.gram_matrix(lambda some, moved=moved: moved[some], rows)
        np.testing.assert_allclose(pieces, whole, rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose(whole, centred @ centred.T, rtol=1e-3, atol=2e-2)


@pytest.mark.parametrize("model", ["pca", "ppca"])
def test_the_fit_equals_least_squares_and_a_singular_value_decomposition_of_the_voxels(cohort, model):
    table, volumes, is_background, folds = cohort
    reference = fitted(cohort, n_components=3, model=model)
    design, flat = reference.design.encode(table).astype(float), volumes.reshape(len(table), -1).astype(float)
    for number in range(reference.last + 1):
        rows = is_background & (folds != number)
        coefficients, components, eigenvalues, noise = direct_fit(design[rows], flat[rows], 3, N_BRAIN)
        np.testing.assert_allclose(reference.coefficients[number], coefficients, atol=2e-3)
        found = reference.components[number].numpy()
        sign = np.sign((found * components).sum(axis=1, keepdims=True))
        np.testing.assert_allclose(found, sign * components, atol=5e-3)
        expected = 1 - noise / eigenvalues if model == "ppca" else np.ones(3)
        np.testing.assert_allclose(reference.weights[number], expected, atol=1e-3)


def test_the_spread_is_that_of_background_residuals_from_references_without_them(cohort):
    """And nowhere less than a tenth of the usual one: nothing is divided by almost nothing."""
    table, volumes, is_background, folds = cohort
    volumes = volumes.copy()
    volumes[:, 0, 0, 0, :2] *= 0.01
    reference = fitted((table, volumes, is_background, folds))
    design, flat = reference.design.encode(table).astype(float), volumes.reshape(len(table), -1).astype(float)
    k, left = reference.facts["n_components"], []
    for number in range(reference.last):
        inside, outside = is_background & (folds != number), is_background & (folds == number)
        coefficients, components, *_ = direct_fit(design[inside], flat[inside], k, N_BRAIN)
        residuals = flat[outside] - design[outside] @ coefficients
        left.append(residuals - residuals @ components.T @ components)
    std = np.concatenate(left).std(axis=0)[:N_BRAIN]
    found = 1 / reference.inverse_std[:N_BRAIN]
    np.testing.assert_allclose(found[2:], std[2:], rtol=2e-4)
    assert (std[:2] < 0.05 * np.median(std)).all()
    np.testing.assert_allclose(found[:2], 0.1 * np.median(std), rtol=0.02)


def test_the_held_out_likelihood_is_that_of_probabilistic_pca_in_voxel_space(cohort, reference):
    table, volumes, is_background, folds = cohort
    design = reference.design.encode(table).astype(float)
    brain = volumes.reshape(len(table), -1)[:, :N_BRAIN].astype(float)
    scores = np.zeros(6)
    for number in range(reference.last):
        inside, outside = is_background & (folds != number), is_background & (folds == number)
        for k in range(len(scores)):
            coefficients, components, eigenvalues, noise = direct_fit(design[inside], brain[inside], k, N_BRAIN)
            covariance = noise * np.eye(N_BRAIN) + (components.T * (eigenvalues - noise)) @ components
            left = brain[outside] - design[outside] @ coefficients
            distance = (left * np.linalg.solve(covariance, left.T).T).sum()
            scores[k] -= (distance + outside.sum() * np.linalg.slogdet(covariance)[1]) / 2
    found = reference.facts["held_out_log_likelihood"]
    np.testing.assert_allclose(found[: len(scores)], scores / is_background.sum(), atol=0.1)
    assert reference.facts["n_components"] == int(np.argmax(found))


# Kept, and used.


def test_a_reference_survives_a_checkpoint(cohort, reference, tmp_path):
    table, volumes, *_ = cohort
    tensors, state = reference.state()
    assert json.loads(json.dumps(state)) == state
    save_checkpoint(tmp_path / "reference.safetensors", tensors, state)
    again = NormativeReference.from_state(*load_checkpoint(tmp_path / "reference.safetensors"))
    assert again.facts == reference.facts
    np.testing.assert_array_equal(deviations(again, table, volumes), deviations(reference, table, volumes))


def test_a_reader_gives_deviations_after_the_plain_channels_as_the_reference_called_by_hand(cohort, reference):
    table, volumes, is_background, _ = cohort
    stored = volumes.astype(np.float16)
    cached = CachedVolumes(stored, np.arange(len(table)), None, [], SIZE[1:], ("",) * len(table))
    standardisation = fit_standardisation(cached.load, np.flatnonzero(is_background))
    rendering = render_with(reference, table)
    read = VolumeReader(cached, standardisation, torch.device("cpu"), rendering=rendering)
    assert read.shape == (2, *SIZE[1:])
    assert VolumeReader(cached, standardisation, torch.device("cpu")).shape == SIZE
    rows = np.array([100, 3, 60])
    raw = torch.from_numpy(stored[rows]).float()
    design = torch.from_numpy(reference.design.encode(table.iloc[rows]))
    by_hand = reference(raw.clone(), design, torch.from_numpy(reference.fold_of(table.iloc[rows])))
    found = read(rows)
    assert found.shape == (3, 2, *SIZE[1:])
    assert torch.equal(found[:, :1], standardisation(raw))
    torch.testing.assert_close(found[:, 1:], by_hand, rtol=0, atol=1e-4)
    assert float((found[:, 1:] - by_hand[[1, 2, 0]]).abs().max()) > 1
    for one, other in zip(read.stream([rows, rows[:1]]), [found, found[:1]], strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_no_warning_of_torch_reaches_the_user(cohort, reference):
    assert reference.fold_of(cohort[0]).flags.writeable
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert isinstance(render_with(reference, cohort[0]), Rendering)


def fit_run(path, cohort, *settings):
    table, volumes, is_background, _ = cohort
    run, config = RunDir(path), load_config(overrides=settings)
    fit_reference(run, lambda rows: volumes[rows], table, ~is_background, np.arange(len(table)), config)
    return run, config


def test_a_manifest_without_covariates_still_has_its_components_taken_out(world, cohort, tmp_path, caplog):
    table, volumes, is_background, folds = cohort
    bare = (table[["participant_id"]], volumes, is_background, folds)
    with caplog.at_level(logging.WARNING):
        run, config = fit_run(tmp_path / "run", bare)
    assert "does without age, sex, site, tiv: no such column" in caplog.text
    rendering = load_rendering(run, bare[0], config)
    assert rendering.design.shape == (len(table), 1)
    found = rendering(torch.from_numpy(volumes), np.arange(len(table))).flatten(1).numpy()[is_background]
    assert found[:, :N_BRAIN].std() == pytest.approx(1, abs=0.03)
    assert rendering.reference.facts["n_components"] >= len(world.factors)


def test_columns_that_are_empty_are_left_out_and_what_is_there_is_used(cohort, tmp_path, caplog):
    table, *rest = cohort
    with caplog.at_level(logging.WARNING):
        run, config = fit_run(tmp_path / "run", (table.assign(sex=None), *rest))
    assert "does without sex" in caplog.text
    assert load_rendering(run, table, config).reference.facts["covariates"] == ["age", "site"]


def test_the_reference_is_fitted_on_training_rows_only_once_and_only_when_it_is_used(world, cohort, tmp_path):
    table, volumes, is_background, _ = cohort
    plain, config = fit_run(tmp_path / "plain", cohort, "method.salient_input=plain")
    assert not plain.reference.exists()
    assert load_rendering(plain, table, config) is None
    extra_table, extra = world.people(20, seed=3, start=7000)
    everyone = pd.concat([extra_table.assign(site="elsewhere"), table], ignore_index=True)
    images = np.concatenate([extra + 100, volumes])
    whole, config = RunDir(tmp_path / "whole"), load_config()
    is_target = np.concatenate([np.zeros(20, bool), ~is_background])
    fit_reference(whole, lambda rows: images[rows], everyone, is_target, 20 + np.arange(len(table)), config)
    part, _ = fit_run(tmp_path / "part", cohort)
    (ours, facts), (theirs, _) = load_checkpoint(whole.reference), load_checkpoint(part.reference)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert set(facts["folds"]) == set(table["participant_id"])
    with pytest.raises(ManifestError, match="elsewhere"):
        load_rendering(whole, everyone, config)


@pytest.mark.parametrize(("n", "warned"), [(48, True), (51, False)])
def test_few_controls_are_warned_of(world, tmp_path, caplog, n, warned):
    with caplog.at_level(logging.WARNING):
        fit_run(tmp_path / "run", world.cohort(n_background=n, n_target=15))
    assert (f"{n} training controls to learn from" in caplog.text) == warned


def test_with_one_fold_everyone_is_rendered_by_the_reference_of_all_controls(cohort, tmp_path):
    run, config = fit_run(tmp_path / "run", cohort, "volumes.normative.folds=1")
    found = load_rendering(run, cohort[0], config)
    assert set(found.fold.tolist()) == {found.reference.last}


def test_a_reference_left_by_a_start_before_training_is_not_taken_for_that_of_other_images(cohort, tmp_path):
    table, volumes, is_background, folds = cohort
    run, _ = fit_run(tmp_path / "run", cohort)
    before, _ = load_checkpoint(run.reference)
    fit_run(tmp_path / "run", (table, 2 * volumes, is_background, folds))
    after, _ = load_checkpoint(run.reference)
    torch.testing.assert_close(after["coefficients"], 2 * before["coefficients"], rtol=1e-3, atol=1e-3)
    # Once there are weights that saw it, it stays.
    save_checkpoint(run.checkpoint(), {"weight": torch.zeros(1)}, {})
    fit_run(tmp_path / "run", cohort)
    assert torch.equal(load_checkpoint(run.reference)[0]["coefficients"], after["coefficients"])


# What the user must be told.


def said(error):
    """The problems, each on its line."""
    return "\n".join(map(str, error.value.problems))


def test_a_site_with_targets_and_no_controls_is_named(cohort):
    table, volumes, is_background, folds = cohort
    table = table.assign(site=np.where(~is_background & (table["site"] == "B"), "Lyon", table["site"]))
    with pytest.raises(ManifestError) as error:
        fitted((table, volumes, is_background, folds))
    for words in ('column "site"', 'got "Lyon"', "add this site's controls", "volumes.normative.covariates"):
        assert words in said(error)


def test_a_site_with_almost_no_controls_is_named_with_their_number(cohort):
    table, volumes, is_background, folds = cohort
    site = table["site"].copy()
    site[[4, 10]] = "Nice"
    with pytest.raises(ManifestError, match="too few controls to say what is normal") as error:
        fitted((table.assign(site=site), volumes, is_background, folds))
    few = "2 training background participants"
    for words in ('column "site"', few, 'got "Nice"', "3 or more", "leave the column out"):
        assert words in said(error)
    # A second session of one of them is no third control.
    site[16] = "Nice"
    again = table.assign(participant_id=table["participant_id"].where(table.index != 16, table["participant_id"][4]))
    with pytest.raises(ManifestError, match="too few controls to say what is normal"):
        learn_design(again.assign(site=site)[is_background], COVARIATES)
    assert "Nice" in str(learn_design(table.assign(site=site)[is_background], COVARIATES).state())


def test_a_new_persons_site_must_be_known_and_every_such_problem_is_said_at_once(world, reference):
    table, _ = world.people(6, seed=5, start=8000)
    table.loc[[1, 2], "site"] = ["Oslo", "Rome"]
    table.loc[4, "age"] = np.nan
    with pytest.raises(ManifestError) as error:
        render_with(reference, table)
    assert len(error.value.problems) == 3
    for words in ('"Oslo"', '"Rome"', "allowed: A, B, C", "site's controls", 'column "age"', "sub-8004", "leave these"):
        assert words in said(error)
    with pytest.raises(ManifestError) as error:
        render_with(reference, table.rename(columns={"age": "Age_"}).drop(columns="sex"))
    for words in ('column "age"', "no such column", 'column "sex"'):
        assert words in said(error)


def test_a_training_row_without_a_covariate_is_named(cohort):
    table, *rest = cohort
    for row in (7, 120):
        with pytest.raises(ManifestError) as error:
            fitted((table.assign(age=table["age"].where(table.index != row)), *rest))
        for words in ('column "age"', table["participant_id"][row], "leave these rows out, or the covariate"):
            assert words in said(error)


def test_too_few_controls_are_counted_as_participants(cohort, tmp_path):
    table, volumes, is_background, folds = cohort
    few = np.r_[np.tile(np.arange(9), 2), 90:120]
    scarce = (table.iloc[few].reset_index(drop=True), volumes[few], is_background[few], folds[few])
    with pytest.raises(ManifestError, match="too few controls") as error:
        fit_run(tmp_path / "run", scarce)
    for words in ("9 training background participants", "10 or more", "volumes.normative.folds", "salient_input=plain"):
        assert words in said(error)
    fit_run(tmp_path / "run", scarce, "volumes.normative.folds=3", "volumes.normative.covariates=[age]")
    assert RunDir(tmp_path / "run").reference.is_file()


def test_a_covariate_that_never_varies_and_a_number_of_two_values_have_no_square():
    table = pd.DataFrame({"age": [40.0] * 8, "handed": [0.0, 1.0] * 4, "tiv": np.arange(8.0)})
    design = code_covariates(table, ["age", "handed", "tiv"])
    assert design.squared == ("tiv",)
    encoded = design.encode(table)
    assert encoded.shape == (8, 5)
    assert np.isfinite(encoded).all()
    assert (encoded[:, 1] == 0).all()
    new = design.encode(pd.DataFrame({"age": [41.0], "handed": [1.0], "tiv": [3.5]}))
    np.testing.assert_allclose(new, [[1, 1, 1, 0, 0]], atol=1e-6)


def test_the_number_of_components_asked_for_is_bounded_by_what_the_controls_allow(cohort):
    reference = fitted(cohort, n_components=500)
    n_fitted = min((cohort[3][cohort[2]] != number).sum() for number in range(5))
    assert reference.facts["n_components"] == (n_fitted - 6) // 2
    assert reference.facts["n_components_asked"] == 500
    none = fitted(cohort, n_components=0)
    assert none.components.shape[1] == 0
    assert np.isfinite(deviations(none, *cohort[:2])).all()
