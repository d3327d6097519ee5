from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pytest
import reference_losses as reference
import torch

from sepclr_med import losses

SIZES = [2, 3, 5, 16, 63, 257]
TEMPERATURE = 0.5
TOLERANCE = {torch.float32: {"rtol": 1e-5, "atol": 1e-5}, torch.float64: {"rtol": 1e-10, "atol": 1e-10}}
TERMS = [
    "common_alignment",
    "common_uniformity",
    "salient_alignment",
    "salient_uniformity",
    "null_salient",
    "joint_entropy",
]


@dataclass(frozen=True)
class Batch:
    common_1: torch.Tensor
    common_2: torch.Tensor
    salient_1: torch.Tensor
    salient_2: torch.Tensor
    is_target: torch.Tensor

    def heads(self, dtype=torch.float64, requires_grad=True):
        tensors = (self.common_1, self.common_2, self.salient_1, self.salient_2)
        return tuple(tensor.to(dtype, copy=True).requires_grad_(requires_grad) for tensor in tensors)


@lru_cache
def make_batch(size: int, common_dim: int = 5, salient_dim: int = 4, scale: float = 1.0) -> Batch:
    """Heads whose values float16 and bfloat16 hold exactly, with both groups in it."""
    rng = torch.Generator().manual_seed(size)
    common = torch.nn.functional.normalize(torch.randn(2, size, common_dim, generator=rng), dim=-1)
    salient = scale * torch.randn(2, size, salient_dim, generator=rng)
    is_target = torch.rand(size, generator=rng) < 0.5
    is_target[:2] = torch.tensor([True, False])
    common, salient = (t.to(torch.bfloat16).to(torch.float16).to(torch.float64) for t in (common, salient))
    return Batch(common[0], common[1], salient[0], salient[1], is_target)


@lru_cache
def expected(size: int, w_salient: float, w_null: float, w_joint: float) -> reference.Reference:
    heads = [tensor.numpy() for tensor in make_batch(size).heads(requires_grad=False)]
    target = make_batch(size).is_target.tolist()
    return reference.sepclr(*heads, target, w_salient, w_null, w_joint, TEMPERATURE)


def value_and_gradients(function, *tensors):
    """Value and gradients of a scalar function; an input nothing flows to has the gradient zero."""
    value = function(*tensors)
    gradients = torch.autograd.grad(value, tensors, allow_unused=True)
    pairs = zip(gradients, tensors, strict=True)
    return value.detach(), [torch.zeros_like(t) if g is None else g for g, t in pairs]


def assert_matches(got, want, dtype=torch.float64, **tolerance):
    value, gradients = got
    close = tolerance or TOLERANCE[dtype]
    assert value.ndim == 0
    assert value.dtype == dtype
    np.testing.assert_allclose(value.double(), want[0], **close)
    for gradient, wanted in zip(gradients, want[1:], strict=True):
        np.testing.assert_allclose(gradient.double(), wanted, **close)


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


def test_reference_gradients_are_those_of_its_value():
    batch = make_batch(5)
    heads = [tensor.numpy() for tensor in batch.heads(requires_grad=False)]
    weights = (1.5, 7.0, 3.0, TEMPERATURE)
    gradients = reference.sepclr(*heads, batch.is_target.tolist(), *weights).gradients

    for k, gradient in enumerate(gradients):

        def total(moved, k=k):
            replaced = [*heads[:k], moved, *heads[k + 1 :]]
            return reference.sepclr(*replaced, batch.is_target.tolist(), *weights).total

        np.testing.assert_allclose(finite_differences(total, heads[k]), gradient, atol=1e-7)


def test_reference_by_hand():
    u = np.array([[0.0, 0.0], [1.0, 0.0]])
    assert reference.uniformity(u, 0.5)[0] == pytest.approx(-1.0)
    assert reference.alignment(u, u + np.array([0.0, 2.0]), [True, False], 0.5)[0] == pytest.approx(4.0)
    assert reference.null_salient(u + 1, [False, True], 1.0)[0] == pytest.approx(1.0)
    assert reference.joint_entropy(u, u, 0.5)[0] == pytest.approx(np.log((1 + np.exp(-2.0)) / 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", SIZES)
def test_terms_and_gradients_equal_the_reference(size, dtype):
    batch = make_batch(size)
    target = batch.is_target
    c_1, c_2, s_1, s_2 = batch.heads(dtype)
    n_c1, n_c2, n_s1, n_s2 = (tensor.detach().double().numpy() for tensor in (c_1, c_2, s_1, s_2))
    everyone = [True] * size

    got = value_and_gradients(lambda a, b: losses.alignment(a, b, temperature=TEMPERATURE), c_1, c_2)
    assert_matches(got, reference.alignment(n_c1, n_c2, everyone, TEMPERATURE), dtype)

    got = value_and_gradients(lambda a, b: losses.alignment(a, b, temperature=TEMPERATURE, rows=target), s_1, s_2)
    assert_matches(got, reference.alignment(n_s1, n_s2, target.tolist(), TEMPERATURE), dtype)

    got = value_and_gradients(lambda a: losses.uniformity(a, temperature=TEMPERATURE), c_1)
    assert_matches(got, reference.uniformity(n_c1, TEMPERATURE), dtype)

    got = value_and_gradients(lambda a: losses.null_salient(a, target, temperature=TEMPERATURE), s_1)
    assert_matches(got, reference.null_salient(n_s1, target.tolist(), TEMPERATURE), dtype)

    got = value_and_gradients(lambda a, b: losses.joint_entropy(a, b, temperature=TEMPERATURE), c_2, s_2)
    assert_matches(got, reference.joint_entropy(n_c2, n_s2, TEMPERATURE), dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", SIZES)
def test_objective_and_gradients_equal_the_reference(size, dtype):
    batch = make_batch(size)
    heads = batch.heads(dtype)
    wanted = expected(size, 1.0, 10.0, 10.0)

    terms = losses.SepCLRLoss(temperature=TEMPERATURE)(*heads, batch.is_target)

    for name in TERMS:
        np.testing.assert_allclose(
            getattr(terms, name).double().item(), wanted.terms[name], **TOLERANCE[dtype], err_msg=name
        )
    assert_matches(
        (terms.total.detach(), torch.autograd.grad(terms.total, heads)), (wanted.total, *wanted.gradients), dtype
    )


@pytest.mark.parametrize("weights", [(1000.0, 1000.0, 10.0), (1.0, 10.0, 10.0), (1.0, 100.0, 10.0), (0.0, 0.0, 0.0)])
def test_total_is_the_weighted_sum_at_published_settings(weights):
    batch = make_batch(16)
    terms = losses.SepCLRLoss(*weights, temperature=TEMPERATURE)(*batch.heads(), batch.is_target)
    assert terms.total.item() == pytest.approx(expected(16, *weights).total, rel=1e-10)


@pytest.mark.parametrize("temperature", [0.05, 2.0])
def test_temperature_is_the_reference_s(temperature):
    batch = make_batch(16)
    heads = batch.heads()
    arrays = [tensor.detach().numpy() for tensor in heads]
    wanted = reference.sepclr(*arrays, batch.is_target.tolist(), 1.0, 10.0, 10.0, temperature)

    total = losses.SepCLRLoss(temperature=temperature)(*heads, batch.is_target).total

    assert_matches((total.detach(), torch.autograd.grad(total, heads)), (wanted.total, *wanted.gradients))


def test_one_half_is_the_default_temperature_everywhere():
    batch = make_batch(5)
    c_1, c_2, s_1, s_2 = batch.heads(requires_grad=False)
    target = batch.is_target
    assert losses.alignment(c_1, c_2) == losses.alignment(c_1, c_2, temperature=0.5)
    assert losses.uniformity(c_1) == losses.uniformity(c_1, temperature=0.5)
    assert losses.null_salient(s_1, target) == losses.null_salient(s_1, target, temperature=0.5)
    assert losses.joint_entropy(c_1, s_1) == losses.joint_entropy(c_1, s_1, temperature=0.5)
    heads = (c_1, c_2, s_1, s_2)
    explicit = losses.SepCLRLoss(w_salient=1, w_null=10, w_joint=10, temperature=0.5)
    assert losses.SepCLRLoss()(*heads, target).total == explicit(*heads, target).total


def test_background_rows_become_the_null_vector_and_pass_no_gradient():
    s = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([True, False, False, True])

    replaced = losses.replace_background(s, target)

    assert torch.equal(replaced[target], s[target])
    assert torch.equal(replaced[~target], torch.zeros(2, 3, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(replaced.sum(), s)
    assert torch.equal(gradient, target[:, None].expand(4, 3).double())


def test_a_non_finite_background_row_does_not_spread_through_the_replacement():
    s = torch.tensor([[1.0, 2.0], [float("inf"), float("nan")]])
    replaced = losses.replace_background(s, torch.tensor([True, False]))
    assert torch.equal(replaced, torch.tensor([[1.0, 2.0], [0.0, 0.0]]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_at_distance_zero_have_the_reference_s_finite_gradients(dtype):
    batch = make_batch(16)
    c_1, _, s_1, _ = batch.heads(requires_grad=False)
    c_1[3], s_1[3] = c_1[4], s_1[4]
    heads = [tensor.to(dtype, copy=True).requires_grad_() for tensor in (c_1, c_1, s_1, s_1)]
    arrays = [tensor.detach().double().numpy() for tensor in heads]
    wanted = reference.sepclr(*arrays, batch.is_target.tolist(), 1.0, 10.0, 10.0, TEMPERATURE)

    total = losses.SepCLRLoss(temperature=TEMPERATURE)(*heads, batch.is_target).total

    assert_matches((total.detach(), torch.autograd.grad(total, heads)), (wanted.total, *wanted.gradients), dtype)


def test_all_rows_alike_give_zero_repulsion():
    u = torch.ones(6, 3, requires_grad=True)
    value, (gradient,) = value_and_gradients(losses.uniformity, u)
    assert value == 0
    assert torch.equal(gradient, torch.zeros_like(u))
    assert losses.joint_entropy(u, u) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_widely_separated_rows_never_reach_the_log_of_zero(dtype):
    batch = make_batch(16, scale=100.0)
    heads = batch.heads(dtype)
    arrays = [tensor.detach().double().numpy() for tensor in heads]
    wanted = reference.sepclr(*arrays, batch.is_target.tolist(), 1.0, 10.0, 10.0, TEMPERATURE)
    spread = heads[2]

    got = value_and_gradients(lambda u: losses.uniformity(u, temperature=TEMPERATURE), spread)
    total = losses.SepCLRLoss(temperature=TEMPERATURE)(*heads, batch.is_target).total

    uniform = reference.uniformity(arrays[2], TEMPERATURE)
    assert uniform[0] < -1000, "the plain mean of these kernels must underflow for the test to mean anything"
    # Exponents of some thousands carry an absolute rounding error of 1e-3 in float32, hence the shares between pairs.
    close = {"rtol": 1e-3, "atol": 1e-3} if dtype == torch.float32 else TOLERANCE[dtype]
    assert_matches(got, uniform, dtype, **close)
    np.testing.assert_allclose(got[0].double(), uniform[0], rtol=1e-5)
    gradients = torch.autograd.grad(total, heads)
    assert_matches((total.detach(), gradients), (wanted.total, *wanted.gradients), dtype, **close)


def test_distances_survive_an_offset_shared_by_all_rows():
    # ||a||^2 + ||b||^2 - 2ab would lose these distances to rounding in float32.
    u = torch.randn(16, 4, generator=torch.Generator().manual_seed(0)) + 100.0
    got = value_and_gradients(lambda a: losses.uniformity(a, temperature=TEMPERATURE), u.requires_grad_())
    assert_matches(got, reference.uniformity(u.detach().double().numpy(), TEMPERATURE), torch.float32)


def test_order_of_the_rows_does_not_matter():
    batch = make_batch(63)
    heads = batch.heads(requires_grad=False)
    order = torch.randperm(63, generator=torch.Generator().manual_seed(1))
    loss = losses.SepCLRLoss()
    here = loss(*heads, batch.is_target)
    there = loss(*(tensor[order] for tensor in heads), batch.is_target[order])
    for name in [*TERMS, "total"]:
        torch.testing.assert_close(getattr(here, name), getattr(there, name), rtol=1e-12, atol=1e-12)


def test_exchanging_the_views_does_not_matter():
    batch = make_batch(16)
    c_1, c_2, s_1, s_2 = batch.heads(requires_grad=False)
    loss = losses.SepCLRLoss()
    here, there = loss(c_1, c_2, s_1, s_2, batch.is_target), loss(c_2, c_1, s_2, s_1, batch.is_target)
    torch.testing.assert_close(here.total, there.total, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_heads_are_computed_in_float32(half, autocast):
    batch = make_batch(16)
    low, full = batch.heads(half), batch.heads(torch.float32)
    loss = losses.SepCLRLoss()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        got = loss(*low, batch.is_target)
    wanted = loss(*full, batch.is_target)

    for name in [*TERMS, "total"]:
        assert getattr(got, name).dtype == torch.float32, name
        torch.testing.assert_close(getattr(got, name), getattr(wanted, name), rtol=1e-6, atol=1e-6)
    gradients = zip(torch.autograd.grad(got.total, low), torch.autograd.grad(wanted.total, full), strict=True)
    for gradient, wanted_gradient in gradients:
        assert gradient.dtype == half
        rounding = torch.finfo(half).eps
        largest = wanted_gradient.abs().max().item()
        torch.testing.assert_close(gradient.float(), wanted_gradient, rtol=rounding, atol=rounding * largest)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_autocast_changes_nothing_for_full_precision_heads(dtype):
    batch = make_batch(63)
    heads = batch.heads(dtype, requires_grad=False)
    c_1, c_2, s_1, _ = heads
    target = batch.is_target

    def everything():
        return [
            losses.SepCLRLoss()(*heads, target).total,
            losses.alignment(c_1, c_2),
            losses.alignment(c_1, c_2, rows=target),
            losses.uniformity(c_1),
            losses.null_salient(s_1, target),
            losses.joint_entropy(c_1, losses.replace_background(s_1, target)),
        ]

    outside = everything()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = everything()

    for here, there in zip(inside, outside, strict=True):
        assert here.dtype == dtype
        torch.testing.assert_close(here, there, rtol=1e-6, atol=0)


def test_float16_heads_larger_than_float16_can_square_stay_finite():
    batch = make_batch(16)
    c_1, c_2, s_1, s_2 = batch.heads(torch.float16)
    total = losses.SepCLRLoss()(c_1, c_2, s_1 * 300, s_2 * 300, batch.is_target).total
    assert torch.isfinite(total)
    assert total > torch.finfo(torch.float16).max


@pytest.mark.parametrize("size", [2, 5])
def test_gradcheck_in_float64(size):
    batch = make_batch(size)
    loss = losses.SepCLRLoss()
    heads = batch.heads()

    def total(*heads):
        return loss(*heads, batch.is_target).total

    assert total(*heads).dtype == torch.float64
    assert torch.autograd.gradcheck(total, heads)


@pytest.mark.parametrize(
    ("is_target", "missing"), [([True, True, True], "background"), ([False, False, False], "target")]
)
def test_a_batch_without_one_group_is_refused_by_name(is_target, missing):
    heads = make_batch(3).heads()
    with pytest.raises(ValueError, match=missing):
        losses.SepCLRLoss()(*heads, torch.tensor(is_target))


def test_a_batch_without_rows_is_refused():
    heads = [tensor[:0] for tensor in make_batch(3).heads()]
    with pytest.raises(ValueError, match=r"background|target"):
        losses.SepCLRLoss()(*heads, torch.zeros(0, dtype=torch.bool))


def test_terms_over_no_rows_are_exactly_zero_with_zero_gradient():
    batch = make_batch(5)
    _, _, s_1, s_2 = batch.heads()
    nobody, everybody = torch.zeros(5, dtype=torch.bool), torch.ones(5, dtype=torch.bool)

    empty_alignment = value_and_gradients(lambda a, b: losses.alignment(a, b, rows=nobody), s_1, s_2)
    empty_null = value_and_gradients(lambda a: losses.null_salient(a, everybody), s_1)

    for value, gradients in (empty_alignment, empty_null):
        assert value == 0
        assert value.dtype == torch.float64
        assert all(torch.equal(gradient, torch.zeros_like(gradient)) for gradient in gradients)


def test_one_row_has_no_pair_to_keep_apart():
    with pytest.raises(ValueError, match=r"row|pair"):
        losses.uniformity(torch.ones(1, 3))


def test_one_row_is_its_own_density():
    assert losses.joint_entropy(torch.ones(1, 3), torch.ones(1, 2)) == 0


@pytest.mark.parametrize("size", [5, 16, 63])
@pytest.mark.parametrize("pairs_at_once", [1, 40, 300])
def test_blocks_of_rows_change_neither_values_nor_gradients(monkeypatch, size, pairs_at_once):
    batch, loss = make_batch(size), losses.SepCLRLoss(1000, 100, 10)
    total = lambda *heads: loss(*heads, batch.is_target).total  # noqa: E731
    whole = value_and_gradients(total, *batch.heads())
    monkeypatch.setattr(losses.pairwise, "PAIRS_AT_ONCE", pairs_at_once)
    in_blocks = value_and_gradients(total, *batch.heads())
    torch.testing.assert_close(in_blocks[0], whole[0], rtol=1e-12, atol=1e-12)
    for one, other in zip(in_blocks[1], whole[1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
