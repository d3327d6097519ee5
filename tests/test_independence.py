"""Measures of dependence, critics, contrastive and variational terms against slow references and known truths."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import chi2
from torch.distributions import Independent, Normal, kl_divergence

from sepclr_med.losses.contrastive import (
    attribute_alignment,
    kernel_info_nce,
    label_likeness,
    masked_cross_entropy,
    nt_xent,
)
from sepclr_med.losses.critics import CLUB, DensityRatio
from sepclr_med.losses.independence import (
    distance_correlation,
    hsic,
    kernel_mutual_information,
    mmd,
    mmd_independence,
)
from sepclr_med.losses.variational import gaussian_kl, image_nll, sample

# Sizes with an odd number of pairs, which have one median.
ODD_PAIRS = [6, 7, 22, 30]
CORRELATIONS = (0.0, 0.5, 0.8)


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def spaces(n, seed=0, dtype=torch.float64):
    """Two spaces that share something."""
    c = randn(n, 3, seed=seed)
    return c.to(dtype), (c[:, :2] ** 2 + randn(n, 2, seed=seed + 1000)).to(dtype)


def gaussians(n, rho, seed, dtype=torch.float32):
    """Two standard normal variables with this correlation."""
    c, other = randn(n, 1, seed=seed, dtype=dtype), randn(n, 1, seed=seed + 1_000_000, dtype=dtype)
    return c, rho * c + math.sqrt(1 - rho**2) * other


def gaussian_mutual_information(rho):
    """Of two standard normal variables with this correlation, in nats."""
    return -math.log1p(-(rho**2)) / 2


# References: loops over pairs, from the formulas alone.


def squared_distances(u):
    return np.array([[sum((a - b) ** 2 for a, b in zip(x, y, strict=True)) for y in u] for x in u])


def median_of_pairs(squared):
    return float(np.median([squared[i, j] for i in range(len(squared)) for j in range(i)]))


def u_centred(matrix):
    """Szekely and Rizzo 2014, definition 2, entry by entry."""
    n, found = len(matrix), np.zeros_like(matrix)
    matrix = matrix - np.diag(np.diag(matrix))
    for i in range(n):
        for j in range(n):
            if i != j:
                means = (matrix[i].sum() + matrix[:, j].sum()) / (n - 2)
                found[i, j] = matrix[i, j] - means + matrix.sum() / ((n - 1) * (n - 2))
    return found


def centred_cosine(one, other):
    one, other = u_centred(one), u_centred(other)
    return (one * other).sum() / math.sqrt((one**2).sum() * (other**2).sum())


def slow_hsic(c, s, widths=None):
    squared = [squared_distances(u) for u in (c, s)]
    widths = widths or [median_of_pairs(q) for q in squared]
    return centred_cosine(*(np.exp(-q / (2 * width)) for q, width in zip(squared, widths, strict=True)))


def slow_distance_correlation(c, s):
    return centred_cosine(np.sqrt(squared_distances(c)), np.sqrt(squared_distances(s)))


def slow_mmd(u, v, width=None):
    rows, n = np.concatenate([u, v]), len(u)
    squared = squared_distances(rows)
    width = width or median_of_pairs(squared)

    def kernel(i, j):
        return sum(math.exp(-squared[i, j] / (2 * (scale**2) * width)) for scale in (0.5, 1, 2)) / 3

    def mean(some, others):
        return math.fsum(kernel(i, j) for i in some for j in others) / (len(some) * len(others))

    first, second = range(n), range(n, len(rows))
    return mean(first, first) + mean(second, second) - 2 * mean(first, second)


@pytest.mark.parametrize("n", ODD_PAIRS)
def test_measures_equal_their_slow_references(n):
    c, s = spaces(n, seed=n)
    np.testing.assert_allclose(hsic(c, s), slow_hsic(c.numpy(), s.numpy()), rtol=1e-10)
    expected = slow_distance_correlation(c.numpy(), s.numpy())
    np.testing.assert_allclose(distance_correlation(c, s), expected, rtol=1e-5)


@pytest.mark.parametrize(("n", "m"), [(3, 3), (4, 7), (11, 11), (20, 10)])
def test_mmd_equals_its_slow_reference_for_groups_of_any_size(n, m):
    u, v = randn(n, 2, seed=n), 0.5 + 2 * randn(m, 2, seed=m + 100)
    np.testing.assert_allclose(mmd(u, v), slow_mmd(u.numpy(), v.numpy()), rtol=1e-10)
    if n == m:
        joint, exchanged = np.hstack([u, v]), np.hstack([u, np.roll(v, 1, axis=0)])
        np.testing.assert_allclose(mmd_independence(u, v), slow_mmd(joint, exchanged), rtol=1e-10)


@pytest.mark.parametrize("measure", [hsic, distance_correlation])
@pytest.mark.parametrize("n", [8, 32])
def test_measures_of_independent_spaces_are_zero_on_average_whatever_their_size(measure, n):
    found = [float(measure(randn(n, 32, seed=2 * seed), randn(n, 32, seed=2 * seed + 1))) for seed in range(300)]
    assert abs(np.mean(found)) < 4 * np.std(found) / math.sqrt(300)


@pytest.mark.parametrize("measure", [hsic, distance_correlation])
@pytest.mark.parametrize("n", [2, 3])
def test_too_few_rows_to_say_anything_give_zero(measure, n):
    c, s = randn(n, 2).requires_grad_(), randn(n, 2, seed=1).requires_grad_()
    assert float((value := measure(c, s)).detach()) == 0
    assert all((gradient == 0).all() for gradient in torch.autograd.grad(value, [c, s]))


def test_mmd_of_equal_samples_is_zero_in_any_order_and_grows_with_their_distance():
    u = randn(20, 3)
    assert abs(float(mmd(u, u))) < 1e-12
    assert abs(float(mmd(u, u[torch.randperm(20)]))) < 1e-12
    found = [float(mmd(u, u + shift)) for shift in (0.1, 0.5, 2.0)]
    assert 0 < found[0] < found[1] < found[2]


@pytest.mark.parametrize("measure", [hsic, distance_correlation])
def test_measures_ignore_shift_rotation_and_scale_and_see_dependence_without_correlation(measure):
    c, other = randn(400, 2), randn(400, 2, seed=1)
    rotation, _ = torch.linalg.qr(randn(2, 2, seed=2))
    bent = c.square() - c.square().mean(dim=0)
    assert abs(float(measure(3 * c @ rotation + 1, bent) - measure(c, bent))) < 1e-7
    assert float(measure(c, c)) == pytest.approx(1)
    assert float(measure(c, bent)) > 4 * float(measure(c, other))


@pytest.mark.parametrize("measure", [hsic, distance_correlation, mmd, mmd_independence])
def test_a_collapsed_space_depends_on_nothing_and_its_gradient_is_finite(measure):
    c, s = randn(8, 2).requires_grad_(), torch.zeros(8, 2, dtype=torch.float64, requires_grad=True)
    value = measure(c, s)
    for gradient in torch.autograd.grad(value, [c, s]):
        assert torch.isfinite(gradient).all()
    if measure is not mmd:
        assert abs(float(value.detach())) < 1e-6
    both = torch.zeros(8, 2, dtype=torch.float64, requires_grad=True)
    assert torch.isfinite(torch.autograd.grad(measure(both, both), both)[0]).all()


def median_rows(u):
    squared = squared_distances(u.numpy())
    pairs = [(i, j) for i in range(len(u)) for j in range(i)]
    return list(pairs[int(np.argmin([abs(squared[pair] - median_of_pairs(squared)) for pair in pairs]))])


def with_rows_held(u, held):
    """Return the other rows, and the function that puts them back."""
    free = [i for i in range(len(u)) if i not in held]
    order = torch.tensor([*free, *held]).argsort()
    return u[free].clone().requires_grad_(), lambda rows: torch.cat([rows, u[held]])[order]


def test_gradients_equal_finite_differences():
    """Of the rows that do not set the kernel's width, which is a yardstick and has no gradient."""
    c, s = spaces(7)
    whole = [c.clone().requires_grad_(), s.clone().requires_grad_()]
    assert torch.autograd.gradcheck(distance_correlation, whole, eps=1e-6, atol=1e-6)
    (free_c, put_c), (free_s, put_s) = (with_rows_held(u, median_rows(u)) for u in (c, s))
    assert torch.autograd.gradcheck(lambda a, b: hsic(put_c(a), put_s(b)), [free_c, free_s])
    u, v = randn(7, 2), randn(8, 2, seed=1)
    free, put = with_rows_held(torch.cat([u, v]), median_rows(torch.cat([u, v])))
    assert torch.autograd.gradcheck(lambda rows: mmd(*put(rows).split([7, 8])), [free])


def finite_differences(function, array, step=1e-6):
    gradient = np.zeros_like(array)
    for place in np.ndindex(array.shape):
        ends = []
        for sign in (1, -1):
            moved = array.copy()
            moved[place] += sign * step
            ends.append(function(moved))
        gradient[place] = (ends[0] - ends[1]) / (2 * step)
    return gradient


def test_the_kernels_width_is_not_optimised():
    c, s = spaces(6)
    widths = [median_of_pairs(squared_distances(u.numpy())) for u in (c, s)]
    (found,) = torch.autograd.grad(hsic(moving := c.clone().requires_grad_(), s), moving)
    expected = finite_differences(lambda moved: slow_hsic(moved, s.numpy(), widths), c.numpy())
    np.testing.assert_allclose(found, expected, atol=1e-8)
    u, v = randn(3, 2), randn(4, 2, seed=1)
    width = median_of_pairs(squared_distances(torch.cat([u, v]).numpy()))
    (found,) = torch.autograd.grad(mmd(moving := u.clone().requires_grad_(), v), moving)
    expected = finite_differences(lambda moved: slow_mmd(moved, v.numpy(), width), u.numpy())
    np.testing.assert_allclose(found, expected, atol=1e-8)


# Measures of Gaussians, whose limits are known.


def gaussian_distance_correlation(rho):
    """Squared; Szekely, Rizzo and Bakirov 2007, theorem 7."""
    said = rho * math.asin(rho) + math.sqrt(1 - rho**2) - rho * math.asin(rho / 2) - math.sqrt(4 - rho**2) + 1
    return said / (1 + math.pi / 3 - math.sqrt(3))


def gaussian_hsic(rho):
    """Normalised, of kernels as wide as the median distance: Gaussian integrals of its three terms."""
    # Half the squared difference of two standard normal variables is chi-squared with one degree of freedom.
    width = 2 * chi2(1).median()

    def raw(rho):
        both = ((1 + 2 / width) ** 2 - (2 * rho / width) ** 2) ** -0.5
        each = width / (width + 2)
        mixed = ((1 + 1 / (width + 1)) ** 2 - (rho / (width + 1)) ** 2) ** -0.5 * width / (width + 1)
        return both + each - 2 * mixed

    return raw(rho) / raw(1)


@pytest.mark.parametrize(
    ("measure", "limit"), [(hsic, gaussian_hsic), (distance_correlation, gaussian_distance_correlation)]
)
def test_measures_of_gaussians_tend_to_their_closed_forms_and_grow_with_the_correlation(measure, limit):
    assert (limit(0.0), limit(1.0)) == (pytest.approx(0, abs=1e-12), pytest.approx(1))
    # The mean of eight draws is off by chance by a hundredth at most, by much less where nothing depends on anything.
    found = {
        rho: np.mean([float(measure(*gaussians(1000, rho, seed, dtype=torch.float64))) for seed in range(8)])
        for rho in CORRELATIONS
    }
    for rho, value in found.items():
        assert value == pytest.approx(limit(rho), abs=0.01 if rho else 0.002)
    assert found[0.0] < found[0.5] < found[0.8]


# Mutual information of Gaussians, which is known.


def smoothed_information(rho, tau):
    """What k-MI tends to: the log-ratio of densities smoothed by the kernel, averaged over the true one."""
    broad = np.array([[1 + tau, rho], [rho, 1 + tau]])
    joint = np.linalg.slogdet(broad)[1] + np.trace(np.linalg.solve(broad, [[1, rho], [rho, 1]]))
    return (2 * math.log(1 + tau) + 2 / (1 + tau) - joint) / 2


@pytest.mark.parametrize("rho", CORRELATIONS)
def test_kernel_mutual_information_tends_to_its_limit_and_with_a_narrow_kernel_to_the_truth(rho):
    c, s = gaussians(2000, rho, seed=1, dtype=torch.float64)
    assert float(kernel_mutual_information(c, s, 0.5)) == pytest.approx(smoothed_information(rho, 0.5), abs=0.015)
    truth = gaussian_mutual_information(rho)
    assert truth == pytest.approx(-0.5 * math.log(1 - rho**2))
    assert float(kernel_mutual_information(c, s, 0.05)) == pytest.approx(truth, abs=0.05)


def trained(kind, rho, n_steps=200, n=256):
    torch.manual_seed(0)
    critic = kind(1, 1)
    optimiser = torch.optim.Adam(critic.parameters(), lr=0.01)
    falling = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, n_steps)
    for step in range(n_steps):
        optimiser.zero_grad()
        critic.fitting_loss(*gaussians(n, rho, seed=10 + step)).backward()
        optimiser.step()
        falling.step()
    with torch.no_grad():
        return float(critic.estimate(*gaussians(10_000, rho, seed=5)))


@pytest.mark.parametrize("kind", [DensityRatio, CLUB])
def test_critics_trained_on_gaussians_find_their_mutual_information(kind):
    found = [trained(kind, rho) for rho in CORRELATIONS]
    assert found[0] < found[1] < found[2]
    if kind is DensityRatio:
        np.testing.assert_allclose(found, [gaussian_mutual_information(rho) for rho in CORRELATIONS], atol=0.05)
    else:
        # The bound with the true conditional, which lies above the mutual information.
        np.testing.assert_allclose(found, [rho**2 / (1 - rho**2) for rho in CORRELATIONS], rtol=0.1, atol=0.03)
        assert all(
            value > gaussian_mutual_information(rho) - 0.03 for value, rho in zip(found, CORRELATIONS, strict=True)
        )


def test_club_is_the_mean_log_ratio_over_all_pairs_and_is_fitted_by_likelihood():
    critic, (c, s) = CLUB(3, 2), spaces(9, dtype=torch.float32)
    mean, log_variance = critic.layers(c).chunk(2, dim=1)
    std = (5 * torch.tanh(log_variance / 5) / 2).exp()
    log_density = torch.stack([Independent(Normal(m, v), 1).log_prob(s) for m, v in zip(mean, std, strict=True)])
    torch.testing.assert_close(critic.estimate(c, s), log_density.diagonal().mean() - log_density.mean())
    likelihood = log_density.diagonal().mean() + 2 * math.log(2 * math.pi) / 2
    torch.testing.assert_close(critic.fitting_loss(c, s), -likelihood)


def test_the_density_ratio_is_fitted_to_tell_joint_from_exchanged_rows():
    critic, (c, s) = DensityRatio(3, 2), spaces(9, dtype=torch.float32)
    joint = critic.layers(torch.hstack([c, s]))[:, 0]
    exchanged = critic.layers(torch.hstack([c, s[[8, *range(8)]]]))[:, 0]
    told = torch.cat([torch.ones(9), torch.zeros(9)])
    expected = torch.nn.functional.binary_cross_entropy_with_logits(torch.cat([joint, exchanged]), told)
    torch.testing.assert_close(critic.fitting_loss(c, s), expected)
    probability = joint.sigmoid()
    torch.testing.assert_close(critic.estimate(c, s), (probability / (1 - probability)).log().mean())


@pytest.mark.parametrize("kind", [CLUB, DensityRatio])
def test_estimates_move_embeddings_only_and_fitting_moves_the_critic_only(kind):
    critic = kind(3, 2)
    c, s = (u.requires_grad_() for u in spaces(10, dtype=torch.float32))
    critic.estimate(c, s).backward()
    assert all(weight.grad is None for weight in critic.parameters())
    assert all(float(u.grad.abs().max()) > 0 for u in (c, s))
    c.grad = s.grad = None
    critic.fitting_loss(c, s).backward()
    assert c.grad is None
    assert s.grad is None
    assert all(weight.grad is not None for weight in critic.parameters())
    assert float(critic.layers[0].weight.grad.abs().max()) > 0


# Contrastive terms.


def slow_info_nce(z_1, z_2, likeness, temperature):
    z, n = np.concatenate([z_1, z_2]), len(z_1)
    found = []
    for i in range(2 * n):
        others = [j for j in range(2 * n) if j != i]
        total = math.fsum(math.exp(float(z[i] @ z[j]) / temperature) for j in others)
        weights = {j: 1.0 if j % n == i % n else float(likeness[i % n, j % n]) for j in others}
        shares = {j: math.log(math.exp(float(z[i] @ z[j]) / temperature) / total) for j in others}
        found.append(-sum(weights[j] * shares[j] for j in others) / sum(weights.values()))
    return math.fsum(found) / len(found)


def unit_rows(n, d, seed):
    return torch.nn.functional.normalize(randn(n, d, seed=seed), dim=1)


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_contrasts_equal_loops_over_all_views(temperature):
    z_1, z_2 = unit_rows(6, 3, 0), unit_rows(6, 3, 1)
    np.testing.assert_allclose(
        nt_xent(z_1, z_2, temperature), slow_info_nce(z_1, z_2, np.eye(6), temperature), rtol=1e-10
    )
    labels = torch.tensor([0.0, 0.1, 0.2, 1.0, 1.1, torch.nan], dtype=torch.float64)
    for kind in ("continuous", "discrete"):
        likeness = label_likeness(labels, kind).double()
        found = kernel_info_nce(z_1, z_2, likeness, temperature)
        np.testing.assert_allclose(found, slow_info_nce(z_1, z_2, likeness, temperature), rtol=1e-10)


def test_likeness_of_labels_is_the_papers_kernel_and_missing_ones_are_like_nothing():
    labels = [0.0, 0.1, -0.5, 0.1, float("nan")]
    continuous = label_likeness(torch.tensor(labels), "continuous")
    discrete = label_likeness(torch.tensor(labels), "discrete")
    for i, one in enumerate(labels):
        for j, other in enumerate(labels):
            known = not (math.isnan(one) or math.isnan(other))
            expected = math.exp(-((one - other) ** 2) / (2 * 0.025)) if known else 0.0
            assert float(continuous[i, j]) == pytest.approx(expected, rel=1e-4)
            assert float(discrete[i, j]) == float(known and one == other)


def slow_attribute_alignment(s_1, s_2, likeness, temperature):
    n = len(s_1)
    pairs = [(i, j) for i in range(n) for j in range(n)]
    weights = math.fsum(likeness[i, j] for i, j in pairs)
    pull = math.fsum(likeness[i, j] * (s_1[i] - s_2[j]) ** 2 for i, j in pairs) / (2 * temperature * weights)

    def spread(s):
        apart = [(i, j) for i, j in pairs if i != j]
        return math.log(sum(math.exp(-((s[i] - s[j]) ** 2) / (2 * temperature)) for i, j in apart) / len(apart))

    return pull + (spread(s_1) + spread(s_2)) / 2


@pytest.mark.parametrize("temperature", [0.5, 0.1])
def test_attribute_alignment_equals_loops_over_pairs(temperature):
    s_1, s_2 = randn(7), randn(7, seed=1)
    labels = torch.tensor([0.0, 0.1, 0.2, 1.0, 1.1, 3.0, torch.nan], dtype=torch.float64)
    likeness = label_likeness(labels, "continuous")
    expected = slow_attribute_alignment(s_1.numpy(), s_2.numpy(), likeness.numpy(), temperature)
    np.testing.assert_allclose(attribute_alignment(s_1, s_2, likeness, temperature), expected, rtol=1e-8)


def test_cross_entropy_counts_labelled_rows_only():
    logits, labels = randn(5, 3).requires_grad_(), torch.tensor([0.0, 2.0, torch.nan, 1.0, torch.nan])
    expected = torch.nn.functional.cross_entropy(logits[[0, 1, 3]], torch.tensor([0, 2, 1]))
    torch.testing.assert_close(masked_cross_entropy(logits, labels), expected)
    nothing = masked_cross_entropy(logits, torch.full((5,), torch.nan))
    assert float(nothing.detach()) == 0
    assert float(torch.autograd.grad(nothing, logits)[0].abs().max()) == 0


# Variational terms.


@pytest.mark.parametrize("prior_std", [1.0, 0.1, 3.0])
def test_the_divergence_equals_that_of_torch(prior_std):
    mean, log_variance = randn(6, 4), randn(6, 4, seed=1)
    prior = Normal(torch.zeros(4, dtype=torch.float64), prior_std)
    expected = kl_divergence(Normal(mean, (log_variance / 2).exp()), prior).sum(dim=1)
    torch.testing.assert_close(gaussian_kl(mean, log_variance, prior_std), expected)
    at_prior = torch.full((1, 4), 2 * math.log(prior_std), dtype=torch.float64)
    assert abs(float(gaussian_kl(torch.zeros_like(at_prior), at_prior, prior_std))) < 1e-12


def test_the_likelihood_of_an_image_equals_that_of_torch():
    images, decoded = randn(5, 20), randn(5, 20, seed=1)
    error = (images - decoded).square().sum(dim=1)
    for variance in (1.0, 0.2):
        expected = -Normal(decoded, math.sqrt(variance)).log_prob(images).sum(dim=1)
        torch.testing.assert_close(image_nll(error, 20, variance), expected)
    best = float(error.mean() / 20)
    torch.testing.assert_close(image_nll(error, 20), image_nll(error, 20, best))
    means = [float(image_nll(error, 20, factor * best).mean()) for factor in (0.8, 1.0, 1.25)]
    assert means[1] == min(means)


def test_through_the_best_variance_the_gradient_is_that_of_the_whole_bound():
    error = (1 + randn(4).abs()).requires_grad_()
    assert torch.autograd.gradcheck(lambda e: image_nll(e, 3), [error])
    (gradient,) = torch.autograd.grad(image_nll(error, 3).mean(), error)
    torch.testing.assert_close(gradient, torch.full_like(error, 3 / (2 * float(error.detach().sum()))))
    perfect = torch.zeros(4, requires_grad=True)
    assert torch.isfinite(torch.autograd.grad(image_nll(perfect, 3).sum(), perfect)[0]).all()


def test_draws_have_the_mean_and_variance_asked_for_and_pass_gradients_to_both():
    torch.manual_seed(0)
    mean = torch.tensor([[1.0, -2.0]]).requires_grad_()
    log_variance = torch.tensor([[0.0, 2 * math.log(3)]]).requires_grad_()
    draws = sample(mean.expand(20_000, 2), log_variance.expand(20_000, 2))
    torch.testing.assert_close(draws.mean(dim=0), mean[0].detach(), rtol=0, atol=0.08)
    torch.testing.assert_close(draws.std(dim=0), torch.tensor([1.0, 3.0]), rtol=0.03, atol=0)
    of_mean, of_variance = torch.autograd.grad(draws.square().mean(dim=0).sum(), [mean, log_variance])
    torch.testing.assert_close(of_mean, 2 * mean.detach(), rtol=0.1, atol=0.1)
    torch.testing.assert_close(of_variance, torch.tensor([[1.0, 9.0]]), rtol=0.1, atol=0)


# Low precision.

TERMS = {
    "hsic": hsic,
    "distance_correlation": distance_correlation,
    "mmd": mmd,
    "mmd_independence": mmd_independence,
    "kernel_mutual_information": kernel_mutual_information,
    "nt_xent": lambda c, s: nt_xent(c, s, 0.5),
    "kernel_info_nce": lambda c, s: kernel_info_nce(c, s, torch.ones(len(c), len(c))),
    "attribute_alignment": lambda c, s: attribute_alignment(c[:, 0], s[:, 0], torch.ones(len(c), len(c))),
    "masked_cross_entropy": lambda c, s: masked_cross_entropy(c, torch.arange(12.0) % 3),
    "club": lambda c, s: CRITICS[0].estimate(c, s) + CRITICS[0].fitting_loss(c, s),
    "density_ratio": lambda c, s: CRITICS[1].estimate(c, s) + CRITICS[1].fitting_loss(c, s),
}
CRITICS = [CLUB(3, 3), DensityRatio(3, 3)]


@pytest.mark.parametrize("name", TERMS)
def test_terms_are_computed_in_float32_whatever_they_are_given_and_wherever(name):
    term = TERMS[name]
    c, s = (unit_rows(12, 3, seed).bfloat16() for seed in (0, 1))
    expected = term(c.float(), s.float())
    assert expected.dtype == torch.float32
    for c_given, s_given in ((c, s), (c.float(), s.float())):
        assert torch.equal(term(c_given, s_given), expected)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(term(c_given, s_given), expected)


@pytest.mark.parametrize("measure", [hsic, distance_correlation, mmd, kernel_mutual_information])
def test_double_precision_stays(measure):
    assert measure(*spaces(6)[:1] * 2).dtype == torch.float64
