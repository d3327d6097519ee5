"""Every method behind one fit and one embed, and each against what it is said to be."""

import logging
import os
import shutil
import signal

import numpy as np
import pandas as pd
import pytest
import torch
from lightning_fabric import Fabric
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression
from torch.distributions import Normal, kl_divergence

from sepclr_med import embed, epochs, fit, load_config, simulate, training
from sepclr_med.checkpoint import load_checkpoint, save_checkpoint
from sepclr_med.cohort.embeddings import factor_columns, read_embeddings
from sepclr_med.cohort.labels import Wanted, encode_labels
from sepclr_med.errors import ConfigError, ManifestError, PreemptedError
from sepclr_med.losses.critics import DensityRatio
from sepclr_med.losses.independence import hsic, mmd
from sepclr_med.method_settings import CLOSED_FORM, METHODS, MethodConfig
from sepclr_med.methods import build_network, cpca, cvae, find_method, mm_cvae, pca, pcpca, sepvae, vae
from sepclr_med.methods.erasure import fit_erasure
from sepclr_med.methods.linear import measure_moments
from sepclr_med.methods.sepclr import SepCLRObjective, find_labels
from sepclr_med.networks import split_inputs
from sepclr_med.rundir import RunDir
from sepclr_med.step import backward_batch, divide_batch
from sepclr_med.volumes.cache import CachedVolumes
from sepclr_med.volumes.reader import VolumeReader

SETTINGS = [
    "volumes.spacing=12",
    "network.backbone=small",
    "network.width=2",
    "training.epochs=2",
    "training.batch_size=12",
    "training.validate_every=2",
    "training.threads=1",
    "method.common_dim=4",
    "method.salient_dim=3",
    "evaluation.voxel_pca_components=3",
]
DISORDERS = ["cohort.target=[A,B]", "method.disorder_dim=2", "method.salient_dim=6"]
DISORDERS += ["method.erase=[age,sex,site]", "method.erase_salient=2"]
FACTORS = {"common": 4, "salient": 3, "voxel_pca": 3}


@pytest.fixture(scope="module", autouse=True)
def no_pictures():
    """Drawing the curves takes two thirds of such a small fit; test_training has them drawn."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "draw_progress", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return simulate(tmp_path_factory.mktemp("cohort"), n_train=36, n_val=8, n_test=12, spacing=12.0, seed=0)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One folder for all runs, which share the cache of volumes there."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def run_of(cohort, runs):
    """Fit a method once, whoever asks."""

    def fitted(name, *settings):
        folder = runs / "-".join([name, *settings]).replace("=", "_")
        return fit(cohort, load_config(overrides=[*SETTINGS, f"method.name={name}", *settings]), folder)

    return fitted


def numbers(table):
    return table[factor_columns(table)].to_numpy(dtype=float)


# Every method, from images to tables.


@pytest.mark.parametrize("name", METHODS)
def test_a_method_fits_and_embeds_the_spaces_it_says_and_again_the_same(name, run_of, cohort, tmp_path):
    run = run_of(name)
    config = load_config(overrides=[f"method.name={name}"])
    tables = embed(run)
    assert set(tables) == {*find_method(config).SPACES, "voxel_pca"}
    for space, table in tables.items():
        values = numbers(table)
        # Of covariates there are as many as columns: age and head size, their squares, sex and two sites.
        assert values.shape == (len(cohort), 7 if (name, space) == ("covariates", "salient") else FACTORS[space])
        assert np.isfinite(values).all()
        assert (values.std(axis=0) > 0).all()
        assert list(table["participant_id"]) == list(cohort["participant_id"])
    for space, written in read_embeddings(run / "embeddings").items():
        np.testing.assert_allclose(numbers(written), numbers(tables[space]), rtol=1e-5, atol=1e-5)
    # From the checkpoint once more, for a new manifest, in batches of another size.
    some = cohort.iloc[[40, 3, 50]].reset_index(drop=True)
    found = embed(run, some, tmp_path / "out", batch_size=2)
    assert sorted(read_embeddings(tmp_path / "out")) == sorted(tables)
    for space, table in found.items():
        expected = tables[space].set_index("participant_id").loc[some["participant_id"]]
        np.testing.assert_allclose(numbers(table), expected[factor_columns(table)], rtol=1e-4, atol=1e-4)
    assert fit(cohort, load_config(overrides=[*SETTINGS, f"method.name={name}"]), run) == run


@pytest.mark.parametrize("name", [name for name in METHODS if name not in CLOSED_FORM])
def test_every_term_is_logged_and_the_critic_is_kept_beside_the_network(name, run_of):
    run = run_of(name)
    history = pd.read_csv(run / "history.tsv", sep="\t", na_values="n/a")
    assert len(history) == 2
    terms = [column for column in history if column.startswith(("train_", "val_"))]
    assert {"train_total", "val_total", "train_gradient_norm"} <= set(terms)
    assert np.isfinite(history[terms].iloc[-1]).all()
    kept, facts = load_checkpoint(RunDir(run).checkpoint())
    critic = [key for key in kept if key.startswith("loss.")]
    assert any(key.startswith("loss.critic.") for key in critic) == (name in ("cvae", "sepvae"))
    # One optimiser moves both.
    config = load_config(overrides=[*SETTINGS, f"method.name={name}"])
    network = list(build_network(config, facts["in_channels"], facts["spatial_size"]).parameters())
    assert sum(key.endswith(".exp_avg") for key in kept) == len(network) + len(critic)


def test_methods_in_closed_form_have_no_history_and_say_what_they_chose(run_of):
    for name in ("cpca", "pcpca"):
        facts = load_checkpoint(RunDir(run_of(name)).checkpoint())[1]
        assert facts["history"] == []
        assert facts["fitted"]["contrast"] in find_method(load_config(overrides=[f"method.name={name}"])).SWEEP


@pytest.mark.parametrize("name", ["cpca", "covariates"])
def test_a_fit_in_closed_form_that_was_killed_before_its_record_goes_on_with_what_it_had(
    name, run_of, cohort, tmp_path
):
    whole = run_of(name)
    killed = shutil.copytree(whole, tmp_path / "killed")
    RunDir(killed).provenance.unlink()
    before = RunDir(killed).checkpoint().read_bytes()
    settings = [*SETTINGS, f"method.name={name}", f"volumes.cache_dir={whole.parent / 'cache'}"]
    fit(cohort, load_config(overrides=settings), killed)
    assert RunDir(killed).checkpoint().read_bytes() == before
    assert RunDir(killed).provenance.is_file()
    ours, theirs = embed(killed), embed(whole)
    for space, table in theirs.items():
        np.testing.assert_allclose(numbers(ours[space]), numbers(table), rtol=1e-6, atol=1e-6)


def test_only_the_salient_encoder_of_sepclr_sees_deviations(run_of):
    for name, sees in (("sepclr", True), ("sepclr_paper", False), ("pca", False)):
        assert RunDir(run_of(name)).reference.is_file() == sees
    network = build_network(load_config(overrides=[*SETTINGS]), 1, (16, 16, 16)).eval()
    images, other = torch.randn(2, 2, 16, 16, 16), torch.randn(2, 1, 16, 16, 16)
    before, after = network(images), network(torch.cat([images[:, :1], other], dim=1))
    assert torch.equal(before.common, after.common)
    assert not torch.allclose(before.salient, after.salient)
    after = network(torch.cat([other, images[:, 1:]], dim=1))
    assert torch.equal(before.salient, after.salient)
    assert not torch.allclose(before.common, after.common)


def test_covariates_are_coded_over_training_rows_and_shown_no_image(run_of, cohort):
    table = embed(run_of("covariates"))["salient"]
    age = cohort["age"][cohort["split"] == "train"]
    expected = (cohort["age"] - age.mean()) / age.std(ddof=0)
    np.testing.assert_allclose(table["salient_000"], expected, atol=1e-4)
    np.testing.assert_allclose(table["salient_002"], expected**2, atol=1e-4)
    assert set(table["salient_004"]) == {0, 1}
    assert (table["salient_004"] == (cohort["sex"] == "M")).all()


# Training with a critic.


@pytest.mark.parametrize("name", ["sepclr", "cvae"])
def test_a_run_stopped_in_an_epoch_resumes_to_the_uninterrupted_one_critic_and_moments_included(
    name, run_of, cohort, tmp_path, monkeypatch
):
    extra = ["method.independence=club", "method.salient_input=plain", "method.w_joint=0"] if name == "sepclr" else []
    whole = run_of(name, *extra)
    config = load_config(overrides=[*SETTINGS, f"method.name={name}", *extra])
    real, steps = epochs.backward_batch, []

    def and_a_signal(*args, **kwargs):
        steps.append(1)
        if len(steps) in (2, 4):
            os.kill(os.getpid(), signal.SIGUSR1)
        return real(*args, **kwargs)

    monkeypatch.setattr(epochs, "backward_batch", and_a_signal)
    for expected in ((0, 2), (1, 1)):
        with pytest.raises(PreemptedError):
            fit(cohort, config, tmp_path / "run")
        facts = load_checkpoint(RunDir(tmp_path / "run").checkpoint())[1]
        assert (facts["epoch"], facts["unfinished"]["step"]) == expected
    fit(cohort, config, tmp_path / "run")
    ours, theirs = (load_checkpoint(RunDir(run).checkpoint())[0] for run in (whole, tmp_path / "run"))
    assert set(ours) == set(theirs)
    assert any(key.startswith("loss.critic") for key in ours)
    for key, tensor in ours.items():
        torch.testing.assert_close(theirs[key], tensor, rtol=1e-4, atol=1e-6, msg=key)


def labels_of(config, n, seed=0):
    """Labels of a batch, half background, as training would lay them out."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame({"age": rng.uniform(20, 80, n), "severity": rng.uniform(0, 1, n)})
    table["sex"], table["subtype"] = rng.choice(["F", "M"], n), rng.choice(["A", "B", "C"], n)
    targets = np.array(config.cohort.target)[np.arange(n) % len(config.cohort.target)]
    table["diagnosis"] = np.where(np.arange(n) < n // 2, "control", targets)
    find = getattr(find_method(config), "find_labels", lambda _: [])
    return table, encode_labels(table, find(config), np.ones(n, bool))


def gradients(config, micro_batch, n=12):
    """The gradient of one batch: of the network, and of the loss's own weights."""
    torch.manual_seed(5)
    network = build_network(config, 1, (12, 14, 12))
    table, labels = labels_of(config, n)
    loss = find_method(config).build_loss(config, labels, (1, 12, 14, 12))
    fabric = Fabric(accelerator="cpu", devices=1)
    prepared, critic = fabric.setup(network), list(loss.parameters())
    network.train()
    images = torch.randn(2, n, 1, 12, 14, 12, generator=torch.Generator().manual_seed(0))
    is_target, known = torch.from_numpy(table["diagnosis"].to_numpy() != "control"), torch.from_numpy(labels.numbers)
    terms, _ = backward_batch(
        fabric,
        prepared,
        lambda rows: loss(list(rows.chunk(2, dim=1)), is_target, known),
        lambda part: images[:, part].flatten(0, 1),
        n,
        divide_batch(n, 1, micro_batch),
        critic=critic,
    )
    parts = [torch.cat([p.grad.flatten() for p in of]) for of in (list(network.parameters()), critic) if of]
    return parts, terms, (network, loss, images, is_target, known)


@pytest.mark.parametrize(
    "settings",
    [
        ["method.name=sepclr", "method.independence=total_correlation"],
        ["method.name=sepclr", "method.independence=club", "method.nuisances=[age]"],
        ["method.name=sepclr", "method.attributes={severity: continuous}", "method.common_attributes={sex: discrete}"],
        ["method.name=simclr"],
        ["method.name=y_aware"],
        ["method.name=supervised"],
    ],
    ids=lambda settings: "-".join(settings)[:60],
)
def test_micro_batches_give_the_gradient_of_the_plain_loss(settings):
    config = load_config(overrides=[*SETTINGS, *settings, "network.norm=group", "network.width=4"])
    whole, terms, (network, loss, images, is_target, known) = gradients(config, None)
    divided, same_terms, _ = gradients(config, 3)
    network.zero_grad(), loss.zero_grad()
    rows = torch.cat(network(images.flatten(0, 1)).rows.chunk(2), dim=1)
    loss(list(rows.chunk(2, dim=1)), is_target, known).total.backward()
    plain = [torch.cat([p.grad.flatten() for p in of.parameters()]) for of in (network, loss) if list(of.parameters())]
    assert len(plain) == len(whole) == (2 if loss.state_dict() else 1)
    for one, other, expected in zip(whole, divided, plain, strict=True):
        assert float(expected.norm()) > 1e-4
        assert float((one - expected).norm() / expected.norm()) < 1e-5
        assert float((other - expected).norm() / expected.norm()) < 2e-5
    torch.testing.assert_close(torch.stack(list(same_terms)), torch.stack(list(terms)), rtol=1e-4, atol=1e-5)


# Linear methods.


def tiny_images(size, n=60, seed=0):
    """Images whose largest direction is shared, and whose second varies among targets only."""
    rng = np.random.default_rng(seed)
    n_voxels, is_target = int(np.prod(size)), rng.permutation(n) < n // 2
    directions = np.linalg.qr(rng.normal(size=(n_voxels, 3)))[0].T
    flat = rng.normal(size=(n, n_voxels)) * np.linspace(0.4, 0.6, n_voxels)
    flat += (
        5 * rng.normal(size=(n, 1)) * directions[0] + 3 * is_target[:, None] * rng.normal(size=(n, 1)) * directions[1]
    )
    flat += 4 * is_target[:, None] * directions[2] + 1
    images = flat.astype(np.float16).reshape(n, *size)
    rows = np.arange(n + 5)
    cached = CachedVolumes(np.concatenate([images, 9 * images[:5]]), rows, None, [], size[1:], ("",) * len(rows))
    extended = np.concatenate([is_target, is_target[:5]])
    return (
        VolumeReader(cached, None, torch.device("cpu")),
        np.arange(n),
        extended,
        images.reshape(n, -1).astype(float),
        directions,
    )


SMALL, LARGE = (1, 3, 4, 2), (1, 5, 5, 4)


def fit_linear(method, images, *settings):
    read, train, is_target, *_ = images
    config = load_config(overrides=[f"method.name={method.__name__.split('.')[-1]}", *SETTINGS, *settings])
    network = method.build_network(config, 1, read.shape[1:])
    facts = method.fit_network(network, read, pd.DataFrame(index=range(len(is_target))), train, is_target, config)
    return network, facts


def covariances(images):
    _, train, is_target, flat, _ = images
    targets = is_target[train]
    return np.cov(flat[targets].T), np.cov(flat[~targets].T)


def assert_same_axes(found, expected, atol=2e-3):
    found = np.asarray(found, dtype=float)
    np.testing.assert_allclose(found * np.sign((found * expected).sum(axis=1, keepdims=True)), expected, atol=atol)


def dense_axes(matrix, k):
    values, vectors = np.linalg.eigh(matrix)
    return values[::-1][:k], vectors[:, ::-1][:, :k].T


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_pca_is_that_of_the_voxels_of_both_groups_about_their_own_means(size):
    images = tiny_images(size)
    network, _ = fit_linear(pca, images)
    read, train, is_target, flat, _ = images
    centred = flat.copy()
    for group in (is_target[train], ~is_target[train]):
        centred[group] -= centred[group].mean(axis=0)
    assert_same_axes(network.salient_axes, PCA(3).fit(centred).components_)
    scores = network(read(train)).spaces["salient"].numpy()
    expected = (flat - flat.mean(axis=0)) @ network.salient_axes.numpy().T
    np.testing.assert_allclose(scores, expected, atol=1e-2)


@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest.mark.parametrize("alpha", [0.0, 1.0, 4.0])
def test_contrastive_axes_solve_the_eigenproblem_in_voxel_space(size, alpha):
    images = tiny_images(size)
    network, facts = fit_linear(cpca, images, f"method.contrast={alpha}")
    assert facts == {"contrast": alpha}
    target, background = covariances(images)
    values, expected = dense_axes(target - alpha * background, 3)
    assert_same_axes(network.salient_axes, expected, atol=5e-3)
    axes = network.salient_axes.numpy().astype(float)
    np.testing.assert_allclose((target - alpha * background) @ axes.T, axes.T * values, atol=2e-2)
    _, expected = dense_axes(background, 4)
    assert_same_axes(network.common_axes, expected, atol=5e-3)


@pytest.mark.parametrize(("method", "smallest"), [(cpca, 0.9), (pcpca, 0.9)])
def test_the_contrast_chosen_finds_what_only_targets_have_where_pca_finds_what_everyone_has(method, smallest):
    images = tiny_images(LARGE, n=100)
    shared, own, _ = images[-1]
    network, facts = fit_linear(method, images, "method.salient_dim=1", "method.common_dim=1")
    salient = torch.nn.functional.normalize(network.salient_axes, dim=1).numpy()[0]
    assert abs(salient @ own) > smallest
    assert abs(salient @ shared) < 0.3
    assert abs(network.common_axes.numpy()[0] @ shared) > smallest
    plain, _ = fit_linear(pca, images, "method.salient_dim=1")
    assert abs(plain.salient_axes.numpy()[0] @ shared) > smallest
    # No other value of the sweep holds more of the target's own variance.
    target, background = (matrix / np.trace(matrix) for matrix in covariances(images))
    excess = {}
    for alpha in method.SWEEP:
        moved = covariances(images)[0] - alpha * covariances(images)[1]
        axis = dense_axes(moved, 1)[1]
        excess[alpha] = float((axis @ (target - background) @ axis.T).item())
    assert facts["contrast"] in excess
    assert excess[facts["contrast"]] > max(excess.values()) - 1e-4


@pytest.mark.parametrize(("size", "n"), [(SMALL, 120), (LARGE, 60)])
def test_probabilistic_contrastive_axes_without_contrast_are_probabilistic_pca_of_the_target(size, n):
    """With fewer voxels than targets, and with more."""
    images = tiny_images(size, n)
    network, facts = fit_linear(pcpca, images, "method.contrast=0")
    assert facts == {"contrast": 0}
    read, train, is_target, flat, _ = images
    truth = PCA(3).fit(flat[is_target[train]])
    variance = truth.explained_variance_
    noise = (flat[is_target[train]].var(axis=0, ddof=1).sum() - variance.sum()) / (flat.shape[1] - 3)
    loadings = truth.components_.T * np.sqrt(variance - noise)
    # E[z | x] of Tipping and Bishop.
    centred = flat - flat.mean(axis=0)
    expected = centred @ loadings @ np.linalg.inv(loadings.T @ loadings + noise * np.eye(3))
    found = network(read(train)).spaces["salient"].numpy()
    assert_same_axes(found.T, expected.T, atol=1e-2)


def test_probabilistic_contrastive_axes_follow_their_formula_and_the_contrast_stays_below_one():
    images = tiny_images(LARGE)
    gamma = 0.5
    network, _ = fit_linear(pcpca, images, f"method.contrast={gamma}")
    target, background = covariances(images)
    combined = (target - gamma * background) / (1 - gamma)
    values, vectors = dense_axes(combined, 3)
    noise = (np.trace(combined) - values.sum()) / (len(combined) - 3)
    assert_same_axes(network.salient_axes, (np.sqrt(values - noise) / values)[:, None] * vectors, atol=5e-3)
    assert fit_linear(pcpca, images, "method.contrast=7")[1] == {"contrast": 0.9}


def test_more_factors_than_the_images_span_stay_zero():
    network, _ = fit_linear(pca, tiny_images(LARGE, n=10), "method.salient_dim=20")
    lengths = network.salient_axes.norm(dim=1)
    torch.testing.assert_close(lengths[:8], torch.ones(8), rtol=0, atol=1e-2)
    assert (lengths[8:] == 0).all()


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_moments_hold_the_covariances_of_both_groups(size):
    """Also where there are more images than voxels, whose products have no full rank."""
    images = tiny_images(size)
    read, train, is_target, flat, _ = images
    moments = measure_moments(read, train, is_target[train])
    axes = moments.basis @ flat
    assert len(axes) == min(len(flat) - 2, flat.shape[1])
    np.testing.assert_allclose(axes @ axes.T, np.eye(len(axes)), atol=1e-3)
    for coordinates, group in ((moments.target, is_target[train]), (moments.background, ~is_target[train])):
        np.testing.assert_allclose(coordinates @ axes, flat[group] - flat[group].mean(axis=0), atol=5e-2)


# The VAE family, by hand.

DIMS = {"common_dim": 3, "salient_dim": 2}


@pytest.fixture(scope="module")
def decoded():
    """What a network gives for a batch, and its parts by hand."""
    torch.manual_seed(0)
    config = load_config(overrides=["method.name=cvae", *SETTINGS, *(f"method.{k}={v}" for k, v in DIMS.items())])
    network = build_network(config, 1, (12, 14, 12)).eval()
    images = torch.randn(8, 1, 12, 14, 12)
    with torch.no_grad():
        # Untrained, neither space would say much nor the decoder listen to it.
        for encoder in (network.common_encoder, network.salient_encoder):
            encoder.fc.weight *= 10
        for layer in network.decoder.parameters():
            layer *= 2
        rows = network(images).rows
        c_mean, c_log, c, s_mean, s_log, s, _ = rows.split([3, 3, 3, 2, 2, 2, 2], dim=1)
        likelihood = [
            Normal(network.decode(torch.cat([c, salient], dim=1)), 1.0).log_prob(images).flatten(1).sum(dim=1)
            for salient in (s, torch.zeros_like(s))
        ]
    common, salient = Normal(c_mean, (c_log / 2).exp()), Normal(s_mean, (s_log / 2).exp())
    return {
        "rows": rows,
        "is_target": torch.arange(8) >= 4,
        "likelihood": torch.where(torch.arange(8) >= 4, *likelihood),
        "common": kl_divergence(common, Normal(0.0, 1.0)).sum(dim=1),
        "salient": salient,
        "draws": (c, s),
        "n_voxels": images[0].numel(),
    }


def score(objective, decoded, rows=None):
    objective.variance = 1.0
    return objective([decoded["rows"] if rows is None else rows], decoded["is_target"], torch.zeros(8, 0))


def test_the_vae_is_scored_by_its_evidence_lower_bound():
    torch.manual_seed(0)
    config = load_config(overrides=["method.name=vae", *SETTINGS])
    network = build_network(config, 1, (12, 14, 12)).eval()
    images = torch.randn(6, 1, 12, 14, 12)
    with torch.no_grad():
        rows = network(images).rows
        mean, log_variance, draw = rows[:, :3], rows[:, 3:6], rows[:, 6:9]
        posterior = Normal(mean, (log_variance / 2).exp())
        likelihood = Normal(network.decode(draw), 1.0).log_prob(images).flatten(1).sum(dim=1)
    divergence = kl_divergence(posterior, Normal(0.0, 1.0)).sum(dim=1)
    n_voxels = images[0].numel()
    for beta in (1.0, 4.0):
        terms = vae.VAEObjective(3, n_voxels, beta, variance=1.0)([rows], torch.arange(6) >= 3, torch.zeros(6, 0))
        bound = likelihood.mean() - beta * divergence.mean()
        torch.testing.assert_close(terms.total * n_voxels, -bound, rtol=1e-5, atol=1e-2)
        torch.testing.assert_close(terms.divergence, divergence.mean(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["cvae", "mm_cvae", "sepvae"])
def test_contrastive_vaes_are_scored_by_their_bounds_and_what_keeps_spaces_apart(name, decoded):
    torch.manual_seed(0)
    beta, w_matching, is_target = 2.0, 30.0, decoded["is_target"]
    dims = (3, 2, decoded["n_voxels"], beta, w_matching)
    c, s = decoded["draws"]
    own = kl_divergence(decoded["salient"], Normal(0.0, 1.0)).sum(dim=1)
    if name == "cvae":
        objective = cvae.CVAEObjective(*dims)
        salient = torch.where(is_target, own, 0.0)
        matching = objective.critic.estimate(c[4:], s[4:]).clamp(min=0)
        fitting = objective.critic.fitting_loss(c[4:], s[4:])
    elif name == "mm_cvae":
        objective = mm_cvae.MMcVAEObjective(*dims)
        salient = torch.where(is_target, own, 0.0)
        matching, fitting = mmd(c[:4], c[4:]) + mmd(s[:4], torch.zeros(4, 2)), 0.0
    else:
        objective = sepvae.SepVAEObjective(*dims, 0.1)
        salient = torch.where(is_target, own, kl_divergence(decoded["salient"], Normal(0.0, 0.1)).sum(dim=1))
        logits = objective.classifier(decoded["salient"].mean)[:, 0]
        told = torch.nn.functional.binary_cross_entropy_with_logits(logits, is_target.float())
        matching, fitting = objective.critic.estimate(c, s).clamp(min=0) + told, None
    terms = score(objective, decoded)
    torch.testing.assert_close(terms.reconstruction, -decoded["likelihood"].mean(), rtol=1e-5, atol=1e-2)
    torch.testing.assert_close(terms.common_divergence, decoded["common"].mean(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(terms.salient_divergence, salient.mean(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(terms.matching, matching)
    parts = terms.reconstruction + beta * (decoded["common"].mean() + salient.mean()) + w_matching * matching
    if fitting is not None:
        torch.testing.assert_close(terms.total, parts / decoded["n_voxels"] + fitting, rtol=1e-5, atol=1e-5)
    if name != "mm_cvae":
        # An estimate below zero is no gain.
        torch.nn.init.constant_(objective.critic.layers[-1].bias, -9.0)
        assert float(objective.critic.estimate(c, s)) < -1
        torch.testing.assert_close(score(objective, decoded).matching, told if name == "sepvae" else torch.tensor(0.0))


@pytest.mark.parametrize("name", ["cvae", "mm_cvae", "sepvae"])
def test_the_background_is_never_decoded_with_salient_factors(name, decoded):
    dims = (3, 2, decoded["n_voxels"], 1.0, 0.0)
    objective = {
        "cvae": lambda: cvae.CVAEObjective(*dims),
        "mm_cvae": lambda: mm_cvae.MMcVAEObjective(*dims),
        "sepvae": lambda: sepvae.SepVAEObjective(*dims, 0.1),
    }[name]()
    rows = decoded["rows"].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(score(objective, decoded, rows).total, rows)
    background, target = gradient[:4], gradient[4:]
    assert (background[:, 15] == 0).all()
    assert (background[:, 16] != 0).all()
    assert (target[:, 15] != 0).all()
    assert (target[:, 16] == 0).all()
    # Mean and log-variance of salient factors: a prior of their own in SepVAE, no role in the others.
    assert bool((background[:, 9:13] != 0).all()) == (name == "sepvae")
    assert (target[:, 9:13] != 0).all()
    assert (background[:, 13:15] == 0).all()
    assert (background[:, :6] != 0).all()


def test_through_the_network_the_salient_encoder_learns_nothing_from_background_images():
    config = load_config(overrides=["method.name=cvae", *SETTINGS, "network.norm=group"])
    torch.manual_seed(0)
    network = build_network(config, 1, (12, 14, 12))
    images = torch.randn(8, 1, 12, 14, 12, requires_grad=True)
    objective = cvae.CVAEObjective(4, 3, images[0].numel(), 1.0, 100.0)
    salient = []
    network.salient_encoder.register_full_backward_hook(lambda _module, _into, out: salient.append(out[0]))
    objective([network(images).rows], torch.arange(8) >= 4, torch.zeros(8, 0)).total.backward()
    assert float(salient[0][:4].abs().max()) == 0
    assert float(salient[0][4:].abs().max()) > 0


def test_sepvaes_critic_sees_dependence_that_runs_through_the_group():
    """Batches hold one group after the other: an exchange with the neighbouring row would stay within the group."""
    torch.manual_seed(0)
    objective = sepvae.SepVAEObjective(1, 1, 8, 1.0, 1.0, 0.1)
    assert isinstance(objective.critic, DensityRatio)
    optimiser = torch.optim.Adam(objective.critic.parameters(), lr=0.01)
    is_target, found = torch.arange(128) >= 64, []
    for _ in range(200):
        draws = torch.where(is_target, 1.0, -1.0)[:, None] + 0.1 * torch.randn(128, 2)
        blank = torch.zeros(128, 1)
        rows = torch.cat([blank, blank, draws[:, :1], blank, blank, draws[:, 1:], blank + 1, blank + 1], dim=1)
        terms = objective([rows], is_target, blank)
        told = float(torch.log(torch.tensor(2.0)))
        found.append(float(terms.matching.detach()) - told)
        optimiser.zero_grad()
        terms.total.backward()
        optimiser.step()
        torch.nn.init.zeros_(objective.classifier.weight), torch.nn.init.zeros_(objective.classifier.bias)
    # What one says of the other is the group, one bit.
    assert np.mean(found[-20:]) == pytest.approx(np.log(2), abs=0.12)


# SepCLR's further terms, on embeddings that are free to move.


def optimise(config, n=40, n_steps=100, seed=0):
    """Move embeddings down the loss; both views are the embedding and a little noise."""
    table, _ = labels_of(config, n, seed)
    labels = encode_labels(table, find_labels(config), np.ones(n, bool))
    loss = find_method(config).build_loss(config, labels, (1,))
    method = config.method
    n_salient = method.salient_dim + method.disorder_dim * (len(config.cohort.target) if method.disorder_dim else 0)
    torch.manual_seed(seed)
    common, salient = torch.randn(n, method.common_dim), 0.1 * torch.randn(n, n_salient)
    free = [common.requires_grad_(), salient.requires_grad_()]
    optimiser = torch.optim.Adam([*free, *loss.parameters()], lr=0.05)
    is_target, known = torch.from_numpy(table["diagnosis"].to_numpy() != "control"), torch.from_numpy(labels.numbers)
    for _ in range(n_steps):
        heads = torch.cat([torch.nn.functional.normalize(common, dim=1), salient], dim=1)
        views = [heads + 0.02 * torch.randn_like(heads) for _ in range(2)]
        optimiser.zero_grad()
        terms = loss(views, is_target, known)
        terms.total.backward()
        optimiser.step()
    common = torch.nn.functional.normalize(common, dim=1)
    return table, is_target.numpy(), common.detach().numpy(), salient.detach().numpy(), terms


FREE = [*SETTINGS, "method.independence=none", "method.salient_input=plain"]


def apart(values, labels):
    """How far rows of like labels lie from each other, as a share of the distance of any two rows."""
    distance = np.linalg.norm(values[:, None] - values, axis=2)
    if labels.dtype == object:
        like = labels[:, None] == labels
    else:
        like = np.abs(labels[:, None] - labels) < 0.2 * labels.std()
    pairs = ~np.eye(len(values), dtype=bool)
    return distance[like & pairs].mean() / distance[pairs].mean()


def test_supervised_salient_factors_learn_their_own_attribute_and_not_the_others():
    settings = ["method.attributes={severity: continuous, subtype: discrete}", "method.w_attributes=10"]
    config = load_config(overrides=[*FREE, *settings])
    table, is_target, _, salient, terms = optimise(config)
    severity, subtype = (table[name].to_numpy()[is_target] for name in ("severity", "subtype"))
    subtype = subtype.astype(object)
    first, second, rest = (salient[is_target][:, place] for place in (slice(1), slice(1, 2), slice(2, 3)))
    assert apart(first, severity) < 0.25
    assert apart(second, subtype) < 0.25
    assert apart(second, severity) > 0.75
    assert apart(first, subtype) > 0.75
    for other in (severity, subtype):
        assert apart(rest, other) > 0.75
    assert np.abs(salient[~is_target]).max() < 0.1
    assert first.std() > 0.3
    assert np.isfinite(terms.total.item())


def test_rows_without_a_label_are_pulled_nowhere_and_leave_the_others_as_they_are():
    config = load_config(overrides=[*FREE, "method.attributes={severity: continuous}", "method.salient_dim=1"])
    table, _ = labels_of(config, 24)
    is_target = torch.from_numpy(table["diagnosis"].to_numpy() != "control")
    torch.manual_seed(0)
    heads = torch.cat([torch.nn.functional.normalize(torch.randn(24, 4), dim=1), torch.randn(24, 1)], dim=1)

    def attribute_gradient(missing):
        known = table.assign(severity=table["severity"].where(~table.index.isin(missing)))
        labels = encode_labels(known, find_labels(config), np.ones(24, bool))
        loss, views = find_method(config).build_loss(config, labels, (1,)), [heads.clone(), heads + 0.1]
        views[0].requires_grad_()
        terms = loss(views, is_target, torch.from_numpy(labels.numbers))
        return torch.autograd.grad(terms.attributes, views[0])[0][:, 4]

    everyone = list(range(24))
    spread_only, found = attribute_gradient(everyone[:-1]), attribute_gradient([15, 20])
    torch.testing.assert_close(found[[15, 20]], spread_only[[15, 20]], rtol=1e-4, atol=1e-6)
    others = [row for row in everyone[12:23] if row not in (15, 20)]
    assert float((found[others] - spread_only[others]).abs().min()) > 1e-4
    assert torch.isfinite(found).all()


def test_common_attributes_arrange_the_common_space():
    plain = load_config(overrides=FREE)
    arranged = load_config(
        overrides=[*FREE, "method.common_attributes={age: continuous, sex: discrete}", "method.w_attributes=10"]
    )
    found = {}
    for name, config in (("plain", plain), ("arranged", arranged)):
        table, _, common, *_ = optimise(config)
        age, sex = table["age"].to_numpy(), table["sex"].to_numpy().astype(object)
        found[name] = (apart(common, age), apart(common, sex))
    assert found["arranged"][0] < 0.65
    assert found["arranged"][1] < 0.9
    assert min(found["plain"]) > 0.95


def test_factors_of_one_disorder_are_null_for_members_of_the_other_and_for_controls():
    config = load_config(overrides=[*FREE, "cohort.target=[A,B]", "method.disorder_dim=2"])
    table, is_target, _, salient, _ = optimise(config)
    assert salient.shape[1] == 3 + 2 * 2
    diagnosis = table["diagnosis"].to_numpy()
    for index, name in enumerate("AB"):
        own = salient[:, 3 + 2 * index : 5 + 2 * index]
        assert np.abs(own[diagnosis != name]).max() < 0.1
        assert np.linalg.norm(own[diagnosis == name], axis=1).mean() > 0.5
    assert np.abs(salient[~is_target]).max() < 0.1
    for name in "AB":
        assert np.linalg.norm(salient[diagnosis == name, :3], axis=1).mean() > 0.5


@pytest.mark.parametrize(
    ("independence", "gives_way"),
    [
        ("hsic", "salient"),
        ("distance_correlation", "salient"),
        ("mmd", "salient"),
        ("hsic", "common"),
        ("hsic", "both"),
    ],
)
def test_independence_is_of_target_rows_and_moves_the_head_that_gives_way(independence, gives_way):
    method = MethodConfig(common_dim=2, salient_dim=2, independence=independence, gives_way=gives_way, erase_salient=0)
    objective = SepCLRObjective(method, {}, [])
    torch.manual_seed(0)
    common = torch.nn.functional.normalize(torch.randn(40, 2), dim=1)
    salient = (common + 0.1 * torch.randn(40, 2)).requires_grad_()
    common.requires_grad_()
    is_target = torch.arange(40) >= 20

    def dependence():
        return objective([torch.cat([common, salient], dim=1)] * 2, is_target, torch.zeros(40, 0)).independence

    gradients = torch.autograd.grad(dependence(), [common, salient])
    for name, gradient in zip(("common", "salient"), gradients, strict=True):
        assert float(gradient[:20].abs().max()) == 0
        assert bool(gradient[20:].abs().min() > 0) == (gives_way in (name, "both"))
    before = float(dependence().detach())
    optimiser = torch.optim.Adam([common, salient], lr=0.05)
    for _ in range(40):
        optimiser.zero_grad()
        dependence().backward()
        optimiser.step()
    assert float(dependence().detach()) < before / 4


def test_nuisances_are_held_against_the_salient_heads_of_targets():
    config = load_config(overrides=[*FREE, "method.nuisances=[age,sex]"])
    table, labels = labels_of(config, 30)
    loss = find_method(config).build_loss(config, labels, (1,))
    heads = torch.cat([torch.nn.functional.normalize(torch.randn(30, 4), dim=1), torch.randn(30, 3)], dim=1)
    is_target = torch.from_numpy(table["diagnosis"].to_numpy() != "control")
    terms = loss([heads, heads], is_target, torch.from_numpy(labels.numbers))
    age = torch.tensor(((table["age"] - table["age"].mean()) / table["age"].std(ddof=0)).tolist())[:, None]
    sex = torch.tensor(pd.get_dummies(table["sex"]).to_numpy(float).tolist())
    salient = heads[is_target, 4:]
    expected = (hsic(age[is_target], salient) + hsic(sex[is_target], salient)) / 2
    torch.testing.assert_close(terms.nuisance, expected, rtol=1e-4, atol=1e-5)
    without = load_config(overrides=FREE)
    base = find_method(without).build_loss(without, labels, (1,))([heads, heads], is_target, torch.zeros(30, 0))
    torch.testing.assert_close(terms.total, base.total + 10 * expected, rtol=1e-4, atol=1e-4)


# Several disorders and erasure, from images to tables.


@pytest.fixture(scope="module")
def two_disorders(cohort, runs):
    """Two disorders with factors of their own; what is erased from them, and what of them from the common space."""
    patient = cohort["diagnosis"] == "patient"
    manifest = cohort.assign(diagnosis=cohort["diagnosis"].where(~patient, cohort["subtype"]))
    assert set(manifest["diagnosis"]) == {"control", "A", "B"}
    run = fit(manifest, load_config(overrides=[*SETTINGS, *DISORDERS]), runs / "disorders")
    return run, manifest


def explained(table, covariates, rows):
    """R2 of the best straight line from all factors to each covariate."""
    factors = numbers(table)[rows]
    scaled = (factors - factors.mean(axis=0)) / np.maximum(factors.std(axis=0), 1e-9)
    return [
        LinearRegression().fit(scaled, covariates[name][rows]).score(scaled, covariates[name][rows])
        for name in covariates
    ]


def codes(manifest):
    return {
        "age": manifest["age"].to_numpy(),
        "sex": (manifest["sex"] == "M").to_numpy(float),
        "site1": (manifest["site"] == "site1").to_numpy(float),
        "site2": (manifest["site"] == "site2").to_numpy(float),
    }


def test_each_disorder_has_factors_beside_those_that_all_patients_share(two_disorders):
    tables = embed(two_disorders[0])
    assert factor_columns(tables["salient"]) == [f"salient_{i:03d}" for i in range(6 + 2 * 2)]
    assert len(factor_columns(tables["common"])) == 4


@pytest.mark.parametrize("taught", [["method.attributes={severity: continuous}"], ["method.disorder_dim=2"]])
def test_factors_that_the_loss_gives_a_meaning_are_exported_as_the_loss_sees_them(taught):
    config = load_config(overrides=["cohort.target=[a,b]", "network.backbone=small", "network.width=2", *taught])
    network = build_network(config, 1, (16, 16, 16)).eval()
    factors = torch.randn(5, network(torch.zeros(2, 1, 16, 16, 16)).salient.shape[1])
    assert torch.equal(network.salient_head(factors), factors)


def test_no_straight_line_reads_erased_columns_from_the_salient_factors_of_training_targets(two_disorders, tmp_path):
    run, manifest = two_disorders
    rows = ((manifest["split"] == "train") & (manifest["diagnosis"] != "control")).to_numpy()
    without = shutil.copytree(run, tmp_path / "without")
    RunDir(without).erasure().unlink()
    cleaned, raw = embed(run), embed(without, cache_dir=run.parent / "cache")
    assert load_checkpoint(RunDir(run).erasure())[1]["n_rows"] == rows.sum()
    assert max(explained(cleaned["salient"], codes(manifest), rows)) < 1e-6
    assert min(explained(raw["salient"], codes(manifest), rows)) > 0.1
    np.testing.assert_allclose(numbers(cleaned["voxel_pca"]), numbers(raw["voxel_pca"]), atol=1e-6)
    assert numbers(cleaned["salient"]).std(axis=0).max() > 0.1 * numbers(raw["salient"]).std(axis=0).max()
    # Nor can one read the leading salient axes from the common space, but those after them.
    scores = PCA(4).fit_transform(numbers(raw["salient"])[rows])
    axes = {name: np.full(len(rows), np.nan) for name in range(4)}
    for name in axes:
        axes[name][rows] = scores[:, name]
    from_cleaned, from_raw = (explained(tables["common"], axes, rows) for tables in (cleaned, raw))
    assert max(from_cleaned[:2]) < 1e-6 < 1e-3 < min(from_raw[:2])
    assert max(from_raw[:2]) > 0.01
    assert max(from_cleaned[2:]) > 0.01


def test_what_is_erased_is_fitted_for_each_set_of_weights(two_disorders, tmp_path, caplog):
    run, manifest = two_disorders
    rows = ((manifest["split"] == "train") & (manifest["diagnosis"] != "control")).to_numpy()
    # Weights that differ from the last ones, as those of an earlier epoch do.
    other = shutil.copytree(run, tmp_path / "other")
    tensors, facts = load_checkpoint(RunDir(other).checkpoint())
    moved = {
        k: t + 0.1 * torch.randn_like(t) if k.startswith("network.salient") and t.dim() > 1 else t
        for k, t in tensors.items()
    }
    save_checkpoint(RunDir(other).checkpoint("best"), moved, facts)
    RunDir(other).provenance.unlink()
    settings = [*SETTINGS, *DISORDERS, f"volumes.cache_dir={run.parent / 'cache'}"]
    fit(manifest, load_config(overrides=settings), other)
    for which in ("last", "best"):
        found = embed(other, checkpoint=which, output_dir=tmp_path / which)["salient"]
        assert max(explained(found, codes(manifest), rows)) < 1e-6
    RunDir(other).erasure("best").unlink()
    with caplog.at_level(logging.WARNING):
        embed(other, checkpoint="best", output_dir=tmp_path / "raw")
    assert "nothing is erased" in caplog.text


def test_of_the_salient_space_only_leading_axes_of_patients_are_exported(cohort, runs, tmp_path):
    extra = ["method.name=pca", "method.salient_dim=8"]
    plain = fit(cohort, load_config(overrides=[*SETTINGS, *extra]), runs / "pca_whole")
    kept = fit(cohort, load_config(overrides=[*SETTINGS, *extra, "method.salient_variance=0.8"]), runs / "pca_leading")
    both = fit(
        cohort,
        load_config(overrides=[*SETTINGS, *extra, "method.salient_variance=0.8", "method.erase=[age]"]),
        runs / "pca_both",
    )
    rows = ((cohort["split"] == "train") & (cohort["diagnosis"] == "patient")).to_numpy()
    whole, leading, erased = (embed(run)["salient"] for run in (plain, kept, both))
    fitted = PCA(0.8, svd_solver="full").fit(numbers(whole)[rows])
    assert 1 < fitted.n_components_ < 8
    np.testing.assert_allclose(numbers(leading), fitted.inverse_transform(fitted.transform(numbers(whole))), atol=1e-4)
    assert np.linalg.matrix_rank(np.cov(numbers(leading).T), tol=1e-6) == fitted.n_components_
    assert explained(erased, {"age": cohort["age"].to_numpy()}, rows)[0] < 1e-6
    assert np.linalg.matrix_rank(np.cov(numbers(erased).T), tol=1e-6) < 7
    alone = embed(kept, cohort.iloc[:3].drop(columns=["age", "sex", "site"]), tmp_path / "three")["salient"]
    np.testing.assert_allclose(numbers(alone), numbers(leading)[:3], rtol=1e-5, atol=1e-5)
    with pytest.raises(ConfigError, match="leave it at 1 with attributes"):
        load_config(overrides=[*SETTINGS, "method.salient_variance=0.8", "method.disorder_dim=2"])


def test_erasing_more_directions_than_there_are_is_refused_before_training(cohort, tmp_path):
    with pytest.raises(ConfigError) as error:
        fit(cohort, load_config(overrides=[*SETTINGS, "method.erase=[age,sex,site]"]), tmp_path / "run")
    for words in ("erasing takes 4 of 3 salient directions", "age, sex, site", "raise method.salient_dim"):
        assert words in str(error.value)
    with pytest.raises(ConfigError, match="erase_salient=4 leaves nothing of a common_dim of 4"):
        load_config(overrides=[*SETTINGS, "method.erase_salient=4"])


def test_erasing_works_for_methods_in_closed_form_and_needs_no_column_of_a_new_participant(
    cohort, runs, tmp_path, caplog
):
    extra = ["method.name=pca", "method.salient_dim=8", "method.erase=[age,nosuchcolumn]"]
    run = fit(cohort, load_config(overrides=[*SETTINGS, *extra]), runs / "pca_erased")
    assert "method.erase does without nosuchcolumn: no such column" in caplog.text
    plain = fit(cohort, load_config(overrides=[*SETTINGS, *extra[:2]]), runs / "pca_plain")
    rows = ((cohort["split"] == "train") & (cohort["diagnosis"] == "patient")).to_numpy()
    table, before = embed(run)["salient"], embed(plain)["salient"]
    age = {"age": cohort["age"].to_numpy()}
    assert explained(table, age, rows)[0] < 1e-6 < 0.1 < explained(before, age, rows)[0]
    bare = embed(run, cohort.drop(columns=["age", "sex", "site"]), tmp_path / "bare")["salient"]
    np.testing.assert_allclose(numbers(bare), numbers(table), rtol=1e-5, atol=1e-5)


def test_erasure_moves_features_no_more_than_it_must():
    rng = np.random.default_rng(0)
    columns = np.column_stack([rng.normal(size=80), rng.integers(0, 2, 80)])
    features = np.hstack([columns + rng.normal(size=(80, 2)), rng.normal(size=(80, 4))]) @ rng.normal(size=(6, 6)) + 3
    erasure = fit_erasure(features, columns)
    left = erasure(features)
    assert np.abs(np.cov(left.T, columns.T)[:6, 6:]).max() < 1e-10
    np.testing.assert_allclose(left.mean(axis=0), features.mean(axis=0))
    np.testing.assert_allclose(erasure.projection @ erasure.projection, erasure.projection, atol=1e-9)
    assert np.linalg.matrix_rank(erasure.projection) == 2
    # Any other affine map that erases adds something that the columns do not correlate with either.
    whitened = np.linalg.cholesky(np.linalg.inv(np.cov(features.T))).T
    shared = np.cov(features.T, columns.T)[:6, 6:]
    q, _ = np.linalg.qr(shared)
    rivals = [q @ q.T]
    u, _ = np.linalg.qr(whitened @ shared)
    rivals.append(np.linalg.inv(whitened) @ u @ u.T @ whitened)
    moved = np.square(left - features).sum()
    for rival in rivals:
        other = features - (features - features.mean(axis=0)) @ rival.T
        assert np.abs(np.cov(other.T, columns.T)[:6, 6:]).max() < 1e-10
        assert np.square(other - features).sum() > moved * (1 - 1e-9)
    assert np.square(features - (features - features.mean(axis=0)) @ rivals[0].T - features).sum() > 1.01 * moved


def test_erasure_of_what_is_not_there_or_of_collapsed_features_changes_nothing_and_stays_finite():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(30, 4)).astype(np.float32)
    np.testing.assert_allclose(fit_erasure(features, np.ones((30, 2)))(features), features, atol=1e-6)
    twins = np.hstack([features, features[:, :1], np.ones((30, 1), np.float32)])
    left = fit_erasure(twins, features[:, :1])(twins)
    assert left.dtype == np.float32
    assert np.abs(left[:, 0] - left[:, 0].mean()).max() < 1e-5
    np.testing.assert_allclose(left[:, 4], left[:, 0], atol=1e-5)
    np.testing.assert_allclose(left[:, 5], 1)
    collapsed = np.zeros((30, 3))
    assert np.isfinite(fit_erasure(collapsed, features[:, :1])(collapsed)).all()


# Labels.


def test_labels_are_coded_by_training_rows_alone():
    table = pd.DataFrame(
        {
            "age": [20.0, 40, 60, 500, np.nan],
            "sex": ["F", "M", "F", "O", None],
            "seen": [True, False, True, True, False],
        }
    )
    wanted = [
        Wanted("common", "age", "continuous"),
        Wanted("salient", "sex", "discrete"),
        Wanted("nuisance", "age", "design"),
        Wanted("nuisance", "sex", "design"),
        Wanted("erase", "seen", "design"),
    ]
    found = encode_labels(table, wanted, np.array([True, True, True, False, False]))
    spread = np.std([20, 40, 60])
    ages = np.array([-20, 0, 20, 460, np.nan]) / spread
    np.testing.assert_allclose(found.numbers[:, found.places["common", "age"]][:, 0], ages, rtol=1e-6)
    np.testing.assert_array_equal(found.numbers[:, found.places["salient", "sex"]][:, 0], [0, 1, 0, np.nan, np.nan])
    np.testing.assert_allclose(found.numbers[:, found.places["nuisance", "age"]][:, 0], np.nan_to_num(ages), rtol=1e-6)
    design = [[1, 0], [0, 1], [1, 0], [0, 0], [0, 0]]
    np.testing.assert_array_equal(found.numbers[:, found.places["nuisance", "sex"]], design)
    assert found.numbers[:, found.places["erase", "seen"]].shape == (5, 2)
    assert found.levels["sex"] == ["F", "M"]


# What the user must be told.


def refused(cohort, tmp_path, *settings, manifest=None):
    with pytest.raises(ManifestError) as error:
        fit(cohort if manifest is None else manifest, load_config(overrides=[*SETTINGS, *settings]), tmp_path / "run")
    return "\n".join(map(str, error.value.problems))


def test_an_attribute_that_is_no_column_is_named_with_the_nearest_one(cohort, tmp_path):
    for key, settings in (
        ("method.attributes", ["method.attributes={severty: continuous}"]),
        ("method.common_attributes", ["method.name=y_aware", "method.common_attributes={severty: continuous}"]),
    ):
        with pytest.raises(ConfigError, match=f'{key}: no such column; got "severty"; fix: did you mean "severity"'):
            fit(cohort, load_config(overrides=[*SETTINGS, *settings]), tmp_path / "run")
    said = refused(cohort, tmp_path, "method.name=y_aware", manifest=cohort.drop(columns="age"))
    assert 'column "age"' in said


def test_text_cannot_be_continuous_and_a_column_without_a_training_value_is_no_attribute(cohort, tmp_path):
    said = refused(cohort, tmp_path, "method.attributes={site: continuous}")
    for words in ('column "site"', "not a number", "site: discrete"):
        assert words in said
    empty = cohort.assign(severity=cohort["severity"].where(cohort["split"] == "test"))
    said = refused(cohort, tmp_path, "method.attributes={severity: continuous}", manifest=empty)
    for words in ('column "severity"', "no value in the training part"):
        assert words in said


def test_a_method_that_is_not_known_is_refused_with_those_that_are():
    with pytest.raises(ConfigError) as error:
        load_config(overrides=["method.name=sepclrr"])
    for name in ("method.name", 'got "sepclrr"', 'did you mean "sepclr"?', *METHODS):
        assert name in str(error.value)
    with pytest.raises(ConfigError, match=r"method\.name"):
        load_config(overrides=["method.name=[sepclr]"])


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("method.attributes={severity: number}", "method.attributes.severity"),
        ("method.independence=cluub", "method.independence"),
        ("method.erasse=[age]", 'did you mean "erase"?'),
        ("method.contrast=-1", "method.contrast"),
        ("volumes.normative.n_component=3", 'did you mean "n_components"?'),
        ("volumes.normative.pooled=[sitte]", "pooled: sitte not among covariates: age, sex, site"),
        ("method.salient_dim=1", "2 attributes need as many salient factors"),
    ],
)
def test_a_setting_that_cannot_be_is_named(setting, words):
    two = "method.attributes={severity: continuous, subtype: discrete}"
    with pytest.raises(ConfigError) as error:
        load_config(overrides=[two, setting])
    assert words in str(error.value)


def test_presets_fill_in_what_a_recipe_does_not_say_and_nothing_else():
    for name in METHODS:
        method = load_config(overrides=[f"method.name={name}"]).method
        assert (method.salient_input == "plain") == (name != "sepclr")
        assert name == "sepclr" or not (method.erase or method.erase_salient)
    paper = load_config(overrides=["method.name=sepclr_paper", "method.independence=hsic"]).method
    assert paper.independence == "hsic"
    seen = load_config(overrides=["method.name=cpca", "method.salient_input=deviation"]).method
    assert seen.salient_input == "deviation"


def test_the_paper_s_objective_has_no_further_term():
    config = load_config(overrides=["method.name=sepclr_paper", *SETTINGS])
    table, labels = labels_of(config, 12)
    loss = find_method(config).build_loss(config, labels, (1,))
    heads = torch.cat([torch.nn.functional.normalize(torch.randn(12, 4), dim=1), torch.randn(12, 3)], dim=1)
    views = [heads, heads + 0.1]
    is_target = torch.from_numpy(table["diagnosis"].to_numpy() != "control")
    terms = loss(views, is_target, torch.from_numpy(labels.numbers))
    parts = [split for view in views for split in view.split([4, 3], dim=1)]
    expected = loss.pairwise(parts[0], parts[2], parts[1], parts[3], is_target)
    assert [float(value) for value in terms[:7]] == pytest.approx([float(value) for value in expected])
    assert float(terms.independence) == float(terms.nuisance) == float(terms.attributes) == 0
    assert split_inputs(heads[:, :, None, None], 7)[0].shape[1] == 7
