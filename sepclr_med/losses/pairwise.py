"""The SepCLR objective: one pure function per term, and a module that only weighs and sums them.

Louiset, Duchesnay, Grigis, Gori. Separating common from salient patterns with contrastive representation learning.
ICLR 2024, arXiv 2402.11928. With Gaussian kernel ``k(u, v) = exp(-||u - v||^2 / (2 temperature))``. Everything is
computed in float32 (float64 stays float64), outside autocast, and in logarithms, so that far-apart rows never give
``log 0``.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

# 4 MiB of float32, which stay in a processor's cache; a batch of 1024 is one block.
PAIRS_AT_ONCE = 1 << 20


class LossTerms(NamedTuple):
    """The weighted ``total`` and the unweighted terms it is made of, all scalar tensors."""

    total: Tensor
    common_alignment: Tensor
    common_uniformity: Tensor
    salient_alignment: Tensor
    salient_uniformity: Tensor
    null_salient: Tensor
    joint_entropy: Tensor


def in_full_precision(term: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Run a term in float32 or float64 whatever the inputs and the surrounding autocast."""

    @functools.wraps(term)
    def wrapped(embeddings: Tensor, *args: Tensor | float | None, **options: Tensor | float | None) -> Tensor:
        def widen(value: Tensor | float | None) -> Tensor | float | None:
            low = isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16)
            return value.float() if low else value  # type: ignore[union-attr]

        with torch.autocast(embeddings.device.type, enabled=False):
            return term(widen(embeddings), *map(widen, args), **{name: widen(v) for name, v in options.items()})

    return wrapped


class _LogKernelSums(torch.autograd.Function):
    r"""``log sum_j k(u_i, u_j)`` for every row i, in extra memory that grows like B, not like its square.

    Pairs are visited in blocks of rows, again in the backward pass: with weights
    :math:`w_{ij} = g_i k_{ij} / \sum_j k_{ij}` and incoming gradient g,

    .. math:: \nabla_k = -\frac{1}{\tau} \sum_j (w_{kj} + w_{jk}) (u_k - u_j)
    """

    @staticmethod
    def forward(ctx: Any, u: Tensor, temperature: float, with_itself: bool) -> Tensor:
        sums = [e.logsumexp(dim=1) for _, e in _exponents(u, temperature, with_itself)]
        ctx.temperature, ctx.with_itself = temperature, with_itself
        ctx.save_for_backward(u, result := torch.cat(sums))
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        u, sums = ctx.saved_tensors
        # Differences of rows are all that counts: without their mean less is lost to rounding.
        u = u - u.mean(dim=0)
        total = torch.zeros_like(u)
        for rows, exponents in _exponents(u, ctx.temperature, ctx.with_itself):
            weights = (exponents - sums[rows, None]).exp_().mul_(gradient[rows, None])
            total[rows] += weights.sum(dim=1, keepdim=True) * u[rows] - weights @ u
            total += weights.sum(dim=0)[:, None] * u - weights.T @ u[rows]
        return total / -ctx.temperature, None, None


def _exponents(u: Tensor, temperature: float, with_itself: bool) -> Iterator[tuple[slice, Tensor]]:
    """Yield blocks of rows and the logarithms of their kernels, (rows, B)."""
    n = u.shape[0]
    n_rows = max(1, PAIRS_AT_ONCE // n)
    for start in range(0, n, n_rows):
        rows = slice(start, start + n_rows)
        # The matrix-product shortcut loses all digits of small distances, and those carry the gradient.
        exponents = torch.cdist(u[rows], u, compute_mode="donot_use_mm_for_euclid_dist")
        exponents.square_().div_(-2 * temperature)
        if not with_itself:
            exponents.diagonal(offset=start).fill_(-torch.inf)
        yield rows, exponents


@in_full_precision
def alignment(u_1: Tensor, u_2: Tensor, temperature: float = 0.5, rows: Tensor | None = None) -> Tensor:
    r"""Mean squared distance between the two views' embeddings of the same image.

    .. math:: \frac{1}{n} \sum_i \frac{\lVert u_{1i} - u_{2i} \rVert^2}{2 \tau}

    Parameters
    ----------
    u_1, u_2 : Tensor of shape (B, d)
        Embeddings of ``view_1`` and ``view_2``.
    temperature : float, default=0.5
        The paper's tau.
    rows : bool Tensor of shape (B,) or None, default=None
        Rows that count; none means all. An empty selection gives an exact zero with zero gradient.

    Returns
    -------
    Tensor
        Scalar, at least zero.

    Examples
    --------
    >>> alignment(torch.zeros(2, 3), torch.ones(2, 3))
    tensor(3.)
    """
    distances = (u_1 - u_2).square().sum(dim=1) / (2 * temperature)
    if rows is None:
        return distances.mean()
    # A masked mean instead of indexing keeps shapes static and the device free of synchronisation.
    return torch.where(rows, distances, 0.0).sum() / rows.sum().clamp(min=1)


@in_full_precision
def uniformity(u: Tensor, temperature: float = 0.5) -> Tensor:
    r"""Logarithm of the mean kernel over pairs: low when embeddings spread out.

    .. math:: \log \frac{2}{B (B - 1)} \sum_{i < j} k(u_i, u_j)

    Parameters
    ----------
    u : Tensor of shape (B, d)
        Embeddings of one view.
    temperature : float, default=0.5
        The paper's tau; 0.5 is Wang and Isola's uniformity at t = 1.

    Returns
    -------
    Tensor
        Scalar, at most zero.

    Raises
    ------
    ValueError
        With fewer than two rows, which have no pair.

    Examples
    --------
    >>> uniformity(torch.zeros(4, 2))
    tensor(0.)
    """
    n = u.shape[0]
    if n < 2:
        raise ValueError(f"uniformity needs at least 2 rows, got {n}: use a larger batch")
    # The kernel is symmetric: the mean over i < j is the mean over i != j.
    return torch.logsumexp(_LogKernelSums.apply(u, temperature, False), dim=0) - math.log(n * (n - 1))


@in_full_precision
def null_salient(s: Tensor, is_target: Tensor, temperature: float = 0.5) -> Tensor:
    r"""Pull of background salient heads to the null vector.

    .. math:: \frac{1}{n_b} \sum_{i \in \text{background}} \frac{\lVert s_i \rVert^2}{2 \tau}

    Parameters
    ----------
    s : Tensor of shape (B, d)
        Salient heads of one view, not normalised.
    is_target : bool Tensor of shape (B,)
        False marks background rows. Without any the term is an exact zero.
    temperature : float, default=0.5
        The paper's tau.

    Returns
    -------
    Tensor
        Scalar, at least zero.

    Examples
    --------
    >>> null_salient(torch.ones(2, 4), torch.tensor([True, False]))
    tensor(4.)
    """
    norms = s.square().sum(dim=1) / (2 * temperature)
    return torch.where(is_target, 0.0, norms).sum() / (~is_target).sum().clamp(min=1)


@in_full_precision
def joint_entropy(c: Tensor, s: Tensor, temperature: float = 0.5) -> Tensor:
    r"""k-JEM: the negative kernel density estimate of the joint entropy of both spaces.

    .. math:: \frac{1}{B} \sum_i \log \frac{1}{B} \sum_j k(c_i, c_j) \, k(s_i, s_j)

    The pair of a row with itself is included, so the value lies between ``-log B`` and 0. Minimising it raises the
    joint entropy while the other terms raise the entropy of each space, which together lower their dependence.

    Parameters
    ----------
    c : Tensor of shape (B, d_c)
        Common heads of one view.
    s : Tensor of shape (B, d_s)
        Salient heads of the same view, background rows replaced by the null vector.
    temperature : float, default=0.5
        The paper's tau.

    Returns
    -------
    Tensor
        Scalar.

    Examples
    --------
    >>> joint_entropy(torch.zeros(3, 2), torch.zeros(3, 2))
    tensor(0.)
    """
    # A product of Gaussian kernels is the kernel of the concatenated vectors.
    return mean_log_kernel(torch.cat([c, s], dim=1), temperature)


@in_full_precision
def mean_log_kernel(u: Tensor, temperature: float = 0.5) -> Tensor:
    """Return the mean over rows of the log mean kernel to all rows, itself included: minus the entropy's estimate.

    Examples
    --------
    >>> mean_log_kernel(torch.zeros(3, 2))
    tensor(0.)
    """
    return (_LogKernelSums.apply(u, temperature, True) - math.log(u.shape[0])).mean()


def replace_background(s: Tensor, is_target: Tensor) -> Tensor:
    """Return salient heads with every background row replaced by the null vector (no gradient flows there).

    Examples
    --------
    >>> replace_background(torch.ones(2, 2), torch.tensor([True, False]))
    tensor([[1., 1.],
            [0., 0.]])
    """
    return torch.where(is_target[:, None], s, 0.0)


class SepCLRLoss(nn.Module):
    """``common + w_salient * salient + w_null * null_salient + w_joint * joint_entropy``.

    ``common`` is the alignment over both groups plus the uniformity of both views; ``salient`` is the alignment over
    target rows plus the uniformity of both views with background rows at the null vector.

    Parameters
    ----------
    w_salient, w_null, w_joint : float, default=1, 10, 10
        Weights; the defaults are the paper's chest X-ray setting.
    temperature : float, default=0.5
        The paper's tau, in every kernel.

    Examples
    --------
    >>> heads = [torch.nn.functional.normalize(torch.randn(8, 4), dim=1) for _ in range(4)]
    >>> SepCLRLoss()(*heads, is_target=torch.arange(8) < 4).total.shape
    torch.Size([])
    """

    def __init__(
        self, w_salient: float = 1.0, w_null: float = 10.0, w_joint: float = 10.0, temperature: float = 0.5
    ) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"temperature must be above zero, got {temperature}")
        self.w_salient, self.w_null, self.w_joint, self.temperature = w_salient, w_null, w_joint, temperature

    def forward(
        self, common_1: Tensor, common_2: Tensor, salient_1: Tensor, salient_2: Tensor, is_target: Tensor
    ) -> LossTerms:
        """Return all terms for one batch.

        Parameters
        ----------
        common_1, common_2 : Tensor of shape (B, d_c)
            L2-normalised common heads of both views.
        salient_1, salient_2 : Tensor of shape (B, d_s)
            Salient heads of both views, not normalised.
        is_target : bool Tensor of shape (B,)
            True for patients. On the CPU it costs no wait for the device.

        Returns
        -------
        LossTerms

        Raises
        ------
        ValueError
            When the batch has no background or no target row: the salient uniformity would be unbounded or empty.
        """
        require_both_groups(is_target)
        return self.over_parts([common_1, common_2], [([salient_1, salient_2], is_target)])

    def over_parts(
        self,
        common: Sequence[Tensor],
        parts: Sequence[tuple[Sequence[Tensor], Tensor]],
        supervised: Sequence[tuple[Sequence[Tensor], Tensor]] = (),
    ) -> LossTerms:
        """Return the terms when the salient space has several parts, each with members of its own.

        Salient and null terms are summed over parts; the joint entropy is that of the common and all salient heads.

        Parameters
        ----------
        common : two Tensors of shape (B, d_c)
        parts : sequence of (two Tensors of shape (B, d), bool Tensor of shape (B,))
            Heads of both views, and the rows they say something about.
        supervised : sequence as ``parts``, default=()
            Heads that count in the joint entropy only.
        """
        tau, device = self.temperature, common[0].device
        zero = common[0].new_zeros(())
        salient_alignment = salient_uniformity = null = zero
        teachers: list[list[Tensor]] = [[], []]
        for heads, members in [*parts, *supervised]:
            members = members.to(device, non_blocking=True)
            replaced = [replace_background(head, members) for head in heads]
            for teacher, part in zip(teachers, replaced, strict=True):
                teacher.append(part)
            if len(teachers[0]) <= len(parts):
                salient_alignment = salient_alignment + alignment(*heads, tau, rows=members)
                salient_uniformity = salient_uniformity + sum(uniformity(part, tau) for part in replaced)
                null = null + sum(null_salient(head, members, tau) for head in heads) / 2
        common_alignment = alignment(*common, tau)
        common_uniformity = sum(uniformity(c, tau) for c in common)
        whole = [teacher[0] if len(teacher) == 1 else torch.cat(teacher, dim=1) for teacher in teachers]
        joint = sum(joint_entropy(c, s, tau) for c, s in zip(common, whole, strict=True)) / 2
        total = (
            common_alignment
            + common_uniformity
            + self.w_salient * (salient_alignment + salient_uniformity)
            + self.w_null * null
            + self.w_joint * joint
        )
        return LossTerms(total, common_alignment, common_uniformity, salient_alignment, salient_uniformity, null, joint)


def require_both_groups(is_target: Tensor) -> None:
    """Refuse a batch in which one group has no row."""
    n_target, n = int(is_target.sum()), is_target.numel()
    missing = "target" if n_target == 0 else "background" if n_target == n else ""
    if missing:
        raise ValueError(
            f"the batch of {n} has no {missing} row and the salient uniformity is undefined: "
            "draw group-balanced batches (sepclr_med.volumes.batches)"
        )
