"""Whole objectives of a small batch, as a step of training asks for them, against numpy and the formulas alone."""

import math

import numpy as np
import pandas as pd
import pytest
import reference_losses as reference
import torch
from lightning_fabric import Fabric

from sepclr_med import load_config
from sepclr_med.cohort.labels import encode_labels
from sepclr_med.epochs import Tools
from sepclr_med.methods import build_network, find_method

TINY = [
    "network.backbone=small",
    "network.width=2",
    "cohort.target=[A,B]",
    "method.common_dim=4",
    "method.salient_dim=3",
]
SHAPE = (12, 12, 12)
N_TRAIN, BATCH = 12, np.array([0, 2, 5, 7, 8, 11])
CONTRAST = 0.1
LABEL_BANDWIDTH = 0.025


@pytest.fixture(scope="module")
def people():
    """Twelve people to train on, and two others whose values must not count; somebody's age is missing."""
    table = pd.DataFrame(
        {
            "age": [20.0, 31, 22, 47, 52, 23, 60, 21, np.nan, 38, 70, 24, 900, -900],
            "sex": list("FMFMFMFMFMFMFM"),
            "diagnosis": ["control", "A", "B", "control", "A", "B", "control"] * 2,
        }
    )
    table.loc[8, "diagnosis"] = "B"
    return table


def settings(name, *more):
    return load_config(overrides=[*TINY, f"method.name={name}", *more])


def score(config, people, rows):
    """Return the terms of the batch, through what the training loop calls."""
    method = find_method(config)
    wanted = method.find_labels(config) if hasattr(method, "find_labels") else []
    labels = encode_labels(people, wanted, np.arange(len(people)) < N_TRAIN)
    loss = method.build_loss(config, labels, (1, *SHAPE))
    tools = Tools(Fabric(accelerator="cpu", devices=1), None, loss, None, config, method.N_VIEWS)
    is_target = people["diagnosis"].isin(config.cohort.target).to_numpy()
    return tools.objective(is_target[BATCH], labels.numbers[BATCH])(rows)


def look(config):
    """Return what the loss gets of both views side by side, and what the head says before it is made unit length."""
    torch.manual_seed(0)
    network = build_network(config, 1, SHAPE).train()
    with torch.no_grad():
        embedded = network(torch.randn(2 * len(BATCH), 1, *SHAPE))
        raw = network.salient_head(embedded.representation)
    return torch.cat(embedded.rows.chunk(2), dim=1), raw.double().numpy()


def shares(raw):
    """Return the logarithm of each other view's share in what a view is like, (2n, 2n); its own is not a number."""
    z = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    found = np.full((len(z), len(z)), np.nan)
    for i in range(len(z)):
        others = [j for j in range(len(z)) if j != i]
        likeness = np.array([z[i] @ z[j] / CONTRAST for j in others])
        found[i, others] = likeness - math.log(np.exp(likeness).sum())
    return found


def test_the_objective_of_simclr_is_the_contrast_of_each_view_with_its_other_one(people):
    config = settings("simclr")
    rows, raw = look(config)
    n, share = len(BATCH), shares(raw)
    by_hand = -sum(share[i, (i + n) % (2 * n)] for i in range(2 * n)) / (2 * n)
    terms = score(config, people, rows)
    assert terms._fields == ("total",)
    assert float(terms.total) == pytest.approx(by_hand, rel=1e-5)


def age_weights(people):
    trained = people["age"][:N_TRAIN]
    age = ((people["age"] - trained.mean()) / trained.std(ddof=0)).to_numpy()[BATCH]
    return np.exp(-((age[:, None] - age) ** 2) / (2 * LABEL_BANDWIDTH))


def sex_weights(people):
    sex = people["sex"].to_numpy()[BATCH]
    return (sex[:, None] == sex).astype(float)


def attracted(share, weights):
    """Return the contrast in which images of like labels attract one another; a missing label attracts nothing."""
    n, found = len(weights), []
    for i in range(2 * n):
        others = [j for j in range(2 * n) if j != i]
        own = [1.0 if j % n == i % n else np.nan_to_num(weights[i % n, j % n]) for j in others]
        found.append(-sum(w * share[i, j] for w, j in zip(own, others, strict=True)) / sum(own))
    return sum(found) / (2 * n)


def test_the_objective_of_y_aware_is_a_mean_over_its_columns_standardised_by_training_rows(people):
    assert np.isnan(age_weights(people)).any()
    assert ((age_weights(people) > 0.2) & (age_weights(people) < 0.99)).any()
    both = "method.common_attributes={age: continuous, sex: discrete}"
    for more, columns in (([], [age_weights]), ([both], [age_weights, sex_weights])):
        config = settings("y_aware", *more)
        rows, raw = look(config)
        by_hand = np.mean([attracted(shares(raw), weights(people)) for weights in columns])
        terms = score(config, people, rows)
        assert terms._fields == ("total",)
        assert float(terms.total) == pytest.approx(by_hand, rel=1e-5)


def test_the_objective_of_supervised_is_the_cross_entropy_of_every_diagnosis_over_both_views(people):
    config = settings("supervised")
    rows, raw = look(config)
    assert raw.shape == (2 * len(BATCH), 3)
    codes = people["diagnosis"].map({"A": 0, "B": 1, "control": 2}).to_numpy()[BATCH]
    assert set(codes) == {0, 1, 2}
    by_hand = -np.mean(
        [logits[code] - math.log(np.exp(logits).sum()) for logits, code in zip(raw, np.tile(codes, 2), strict=True)]
    )
    terms = score(config, people, rows)
    assert terms._fields == ("total",)
    assert float(terms.total) == pytest.approx(by_hand, rel=1e-5)


# SepCLR with k-MI.


def entropy(u, tau):
    """Minus the mean over rows of the logarithm of the mean kernel to all rows, itself included."""
    kernel = np.array([[math.exp(-sum((a - b) ** 2) / (2 * tau)) for b in u] for a in u])
    return -np.log(kernel.mean(axis=1)).mean()


def information(common, salient, tau):
    """k-MI of both views, of rows of patients."""
    found = [
        entropy(c, tau) + entropy(s, tau) - entropy(np.hstack([c, s]), tau)
        for c, s in zip(common, salient, strict=True)
    ]
    return sum(found) / 2


@pytest.mark.parametrize("tau", [0.1, 2.0])
def test_the_objective_of_sepclr_with_mutual_information_is_that_of_its_temperature(people, tau):
    more = ["method.independence=mutual_information", "method.w_independence=7", f"method.temperature={tau}"]
    config = settings("sepclr", *more, "method.w_joint=3")
    rng = np.random.default_rng(0)
    # As near as the kernel is wide: farther apart a narrow one is blind, and all terms are those of single rows.
    centre = rng.normal(size=(len(BATCH), 7)) * np.array([1.0] * 4 + [0.4] * 3)
    views = centre + 0.1 * rng.normal(size=(2, len(BATCH), 7))
    common, salient = views[:, :, :4], views[:, :, 4:]
    common = common / np.linalg.norm(common, axis=2, keepdims=True)
    rows = torch.from_numpy(np.hstack([np.hstack(pair) for pair in zip(common, salient, strict=True)])).requires_grad_()
    ill = people["diagnosis"].isin(["A", "B"]).to_numpy()[BATCH]
    assert 3 < ill.sum() < len(BATCH)

    terms = score(config, people, rows)

    by_hand = information(common[:, ill], salient[:, ill], tau)
    assert float(terms.independence.detach()) == pytest.approx(by_hand, rel=1e-9)
    assert abs(by_hand - information(common[:, ill], salient[:, ill], 0.5)) > 0.1 * by_hand
    assert abs(by_hand - information(common, salient, tau)) > 0.01 * by_hand
    base = reference.sepclr(*common, *salient, ill, 1.0, 10.0, 3.0, tau)
    assert float(terms.total.detach()) == pytest.approx(base.total + 7 * by_hand, rel=1e-9)

    # The salient head gives way, and patients' rows alone.
    gradient = torch.autograd.grad(terms.independence, rows)[0].numpy().reshape(len(BATCH), 2, 7)
    assert not gradient[:, :, :4].any()
    assert not gradient[~ill].any()
    for place in [(0, np.flatnonzero(ill)[0], 0), (1, np.flatnonzero(ill)[2], 2)]:
        ends = []
        for sign in (1, -1):
            moved = salient.copy()
            moved[place] += sign * 1e-6
            ends.append(information(common[:, ill], moved[:, ill], tau))
        view, row, factor = place
        assert gradient[row, view, 4 + factor] == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-4, abs=1e-7)
