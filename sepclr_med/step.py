"""The gradient of one batch, however the batch is divided among micro-batches and processes.

The losses see nothing but embeddings, so the images need not be in memory together: embed part after part without a
graph, take the loss of the whole batch and its gradient with respect to the embeddings, then embed part after part
again, now with a graph, and send each its share of that gradient. Several processes embed different parts and exchange
embeddings; each takes the whole batch's loss. One process with one part keeps the graph of its only pass.

Gao, Zhang, Han, Callan. Scaling deep contrastive learning batch size under memory limited setup. RepL4NLP 2021,
arXiv 2101.06983.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, distributed, nn

from sepclr_med.networks import running_statistics_frozen

Parts = list[list[slice]]
# A named tuple of scalars that begins with `total`.
Terms = Any


def divide_batch(n: int, n_processes: int = 1, micro_batch: int | None = None) -> Parts:
    """Divide the rows of a batch among processes and, within each, among micro-batches.

    Parts are interleaved, so that a batch whose halves are the two groups gives every part both.

    Parameters
    ----------
    n : int
        Rows of the batch.
    n_processes : int, default=1
    micro_batch : int or None, default=None
        Most rows of a part; none means one part per process.

    Returns
    -------
    list of lists of slice
        For each process its parts, as many for each.

    Raises
    ------
    ValueError
        When there are more parts than rows.

    Examples
    --------
    >>> [[list(range(7)[part]) for part in own] for own in divide_batch(7, 2, micro_batch=2)]
    [[[0, 4], [2, 6]], [[1, 5], [3]]]
    """
    per_process = -(-n // n_processes)
    n_micro = -(-per_process // min(micro_batch or per_process, per_process))
    n_parts = n_processes * n_micro
    if n_parts > n:
        raise ValueError(f"{n_processes} processes with {n_micro} micro-batches each cannot share {n} rows")
    return [[slice(start, None, n_parts) for start in range(rank, n_parts, n_processes)] for rank in range(n_processes)]


def backward_batch(
    fabric: Fabric,
    network: nn.Module,
    objective: Callable[[Tensor], Terms],
    render: Callable[[slice], Tensor],
    n: int,
    parts: Parts,
    seed: int = 0,
    n_views: int = 2,
    critic: Sequence[nn.Parameter] = (),
) -> tuple[Terms, Tensor]:
    """Add the gradient of the whole batch's loss to the network's parameters.

    Parameters
    ----------
    fabric : Fabric
        Launched; its processes share the batch.
    network : nn.Module
        Set up by ``fabric``, in training mode; what it returns has ``rows``, one per view (as
        :class:`sepclr_med.networks.Embeddings` has).
    objective : callable
        Maps the rows of the whole batch, all views of an image side by side, to the loss terms.
    render : callable
        Maps a part to the views of its images, (n_views m, C, X, Y, Z), first views first. It is called once for each
        part of this process, and where there are several once more in the same order, and must give the same views
        again.
    n : int
        Rows of the whole batch.
    parts : list of lists of slice
        From :func:`divide_batch`.
    seed : int, default=0
        Of dropout and sampling, which are the same in both passes; each part has a stream of its own.
    n_views : int, default=2
    critic : sequence of Parameter, default=()
        Weights of the loss itself, which get their gradient here too; every process has the whole batch's.

    Returns
    -------
    named tuple
        The terms of the whole batch, the same in every process.
    Tensor of shape (n, n_views * K)
        The rows, in the order of the batch.
    """
    own = parts[fabric.global_rank]
    single = len(own) == 1
    with nullcontext() if single else _without_graph(network):
        local = [_embed(network, render(part), seed + part.start, n_views) for part in own]
    heads = _gather_rows(torch.cat(local).detach(), parts, n).requires_grad_()
    terms = objective(heads)
    gradient, *of_critic = torch.autograd.grad(terms.total, [heads, *critic])
    for weight, its_gradient in zip(critic, of_critic, strict=True):
        weight.grad = its_gradient
    # Processes average the gradients of parameters; that of the batch is their sum.
    gradient = gradient * fabric.world_size
    for index, part in enumerate(own):
        with fabric.no_backward_sync(network, enabled=index < len(own) - 1):
            rows = local[0] if single else _embed(network, render(part), seed + part.start, n_views)
            fabric.backward(rows, gradient=gradient[part])
    return type(terms)(*(term.detach() for term in terms)), heads.detach()


@torch.no_grad()
def score_batch(
    fabric: Fabric,
    network: nn.Module,
    objective: Callable[[Tensor], Terms],
    render: Callable[[slice], Tensor],
    n: int,
    parts: Parts,
    n_views: int = 2,
) -> tuple[Terms, Tensor]:
    """Return what :func:`backward_batch` returns, without any gradient, of a network in evaluation mode.

    With the parts of one process every process does the same.
    """
    local = [_embed(network, render(part), 0, n_views) for part in parts[fabric.global_rank % len(parts)]]
    heads = _gather_rows(torch.cat(local), parts, n)
    return objective(heads), heads


def split_heads(heads: Tensor, common_dim: int) -> tuple[Tensor, ...]:
    """Return common heads of view 1 and 2 and salient heads of view 1 and 2.

    Examples
    --------
    >>> [tuple(head.shape) for head in split_heads(torch.zeros(5, 10), common_dim=3)]
    [(5, 3), (5, 3), (5, 2), (5, 2)]
    """
    views = [view.tensor_split([common_dim], dim=1) for view in heads.chunk(2, dim=1)]
    return tuple(view[space] for space in range(2) for view in views)


@contextmanager
def _without_graph(network: nn.Module) -> Iterator[None]:
    with torch.no_grad(), running_statistics_frozen(network):
        yield


def _embed(network: nn.Module, views: Tensor, seed: int, n_views: int) -> Tensor:
    """Return one row per image: what losses see of its views, side by side."""
    torch.manual_seed(seed)
    return torch.cat(network(views).rows.chunk(n_views), dim=1)


def _gather_rows(local: Tensor, parts: Parts, n: int) -> Tensor:
    """Return the rows of all processes in the order of the batch; no gradient passes."""
    if len(parts) > 1:
        # Messages must be of one size; the rows added here are dropped below.
        largest = max(_n_rows(own, n) for own in parts)
        padded = nn.functional.pad(local, (0, 0, 0, largest - len(local)))
        gathered = [torch.empty_like(padded) for _ in parts]
        distributed.all_gather(gathered, padded)
    else:
        gathered = [local]
    batch = torch.empty(n, local.shape[1], dtype=local.dtype, device=local.device)
    for rows, own in zip(gathered, parts, strict=True):
        sizes = [len(range(n)[part]) for part in own]
        for part, part_rows in zip(own, rows[: sum(sizes)].split(sizes), strict=True):
            batch[part] = part_rows
    return batch


def _n_rows(own: list[slice], n: int) -> int:
    return sum(len(range(n)[part]) for part in own)
