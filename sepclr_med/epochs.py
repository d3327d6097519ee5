"""One epoch of training, one look at the validation part: the loop in plain sight.

Everything random in a step is drawn from generators seeded by the seed, the epoch and the step, and the learning rate
is a function of the step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from sepclr_med.cohort.labels import Labels
from sepclr_med.config import Config
from sepclr_med.engine import average_buffers, on_first_process
from sepclr_med.errors import PreemptedError, RunError
from sepclr_med.preemption import StopRequest
from sepclr_med.rundir import RunDir
from sepclr_med.settings import TrainingConfig
from sepclr_med.step import Parts, backward_batch, divide_batch, score_batch
from sepclr_med.training_state import TrainingState, save_state
from sepclr_med.volumes.batches import draw_batches
from sepclr_med.volumes.cache import CachedVolumes
from sepclr_med.volumes.reader import VolumeReader
from sepclr_med.volumes.views import apply_views, draw_parameters

NORMS = ["salient_norm_background", "salient_norm_target"]
# Takes the place of an epoch in the seeds of validation views, which are the same each time.
VALIDATION = 1 << 31


@dataclass(frozen=True)
class Cohort:
    """The images of a run: what was cached, whose they are, what is known of them, which rows train and validate."""

    cached: CachedVolumes
    table: pd.DataFrame
    is_target: np.ndarray
    labels: Labels
    train: np.ndarray
    val: np.ndarray


@dataclass(frozen=True)
class Tools:
    """What the steps of a run share."""

    fabric: Fabric
    network: nn.Module
    loss: nn.Module
    read: VolumeReader
    config: Config
    n_views: int

    @property
    def logged(self) -> list[str]:
        """Names of what :meth:`measure` gives."""
        return [*self.loss.terms._fields, *(NORMS if self.loss.salient_columns else [])]

    def divide(self, batches: list[np.ndarray]) -> Parts:
        """Batches are of one size, and are all divided alike."""
        return divide_batch(len(batches[0]), self.fabric.world_size, self.config.training.micro_batch)

    def stream(self, rows: np.ndarray, batches: list[np.ndarray], parts: Parts, passes: int) -> Iterator[Tensor]:
        """Return the volumes of this process's parts in the order :func:`backward_batch` renders them."""
        own = parts[self.fabric.global_rank % len(parts)]
        return self.read.stream([rows[batch[part]] for batch in batches for _ in range(passes) for part in own])

    def render(self, volumes: Iterator[Tensor], n: int, *seed: int) -> Callable[[slice], Tensor]:
        """Return the function that gives the views of a part of a batch of n."""
        generator = torch.Generator(self.fabric.device).manual_seed(_seed(*seed))
        parameters = draw_parameters(self.n_views * n, self.read.shape, self.config.views, generator)

        def all_views(part: slice) -> Tensor:
            images = next(volumes)
            return apply_views(torch.cat([images] * self.n_views), parameters.take(part, self.n_views))

        return all_views

    def objective(self, is_target: np.ndarray, labels: np.ndarray) -> Callable[[Tensor], Any]:
        """Return the loss of a batch as a function of its rows."""
        mask = torch.from_numpy(is_target)
        known = torch.from_numpy(labels).to(self.fabric.device, non_blocking=True)
        return lambda rows: self.loss(list(rows.chunk(self.n_views, dim=1)), mask, known)

    def measure(self, terms: Any, rows: Tensor, is_target: np.ndarray) -> list[Tensor]:
        """Return the terms, and the mean length of salient heads of background and of target rows."""
        columns = self.loss.salient_columns
        if not columns:
            return list(terms)
        lengths = rows.chunk(self.n_views, dim=1)[0][:, columns].norm(dim=1)
        weights = torch.from_numpy(np.stack([~is_target, is_target]).astype(np.float32))
        weights /= weights.sum(dim=1, keepdim=True)
        return [*terms, *(weights.to(lengths.device, lengths.dtype, non_blocking=True) @ lengths)]


def run_epoch(
    tools: Tools,
    optimiser: torch.optim.Optimizer,
    state: TrainingState,
    cohort: Cohort,
    stop: StopRequest,
    run: RunDir,
) -> dict[str, Any]:
    """Take the steps of an epoch that are still to be done, and return its row of the history."""
    fabric, network, training = tools.fabric, tools.network, tools.config.training
    began, epoch = time.perf_counter() - state.seconds, state.epoch
    is_target, labels = cohort.is_target[cohort.train], cohort.labels.numbers[cohort.train]
    logged, critic = [*tools.logged, "gradient_norm"], list(tools.loss.parameters())
    batches = draw_batches(is_target, training.batch_size, training.seed, epoch)
    parts = tools.divide(batches)
    passes = 2 if len(parts[0]) > 1 else 1
    totals = torch.tensor(state.totals or [0.0] * len(logged)).to(fabric.device)
    volumes = tools.stream(cohort.train, batches[state.step :], parts, passes)
    network.train()
    for step in range(state.step, len(batches)):
        batch = batches[step]
        rate = learning_rate(epoch * len(batches) + step, training.epochs * len(batches), training)
        render = tools.render(volumes, len(batch), training.seed, epoch, step)
        objective = tools.objective(is_target[batch], labels[batch])
        seed = _seed(training.seed, epoch, step)
        terms, rows = backward_batch(fabric, network, objective, render, len(batch), parts, seed, tools.n_views, critic)
        gradient_norm = fabric.clip_gradients(
            network, optimiser, max_norm=training.gradient_clip, error_if_nonfinite=False
        )
        for group in optimiser.param_groups:
            group["lr"] = rate
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        found = tools.measure(terms, rows, is_target[batch])
        totals += torch.stack([value.float() for value in (*found, gradient_norm)])
        if step + 1 < len(batches) and stop():
            state.step, state.totals, state.seconds = step + 1, totals.tolist(), time.perf_counter() - began
            average_buffers(fabric, state.network)
            on_first_process(fabric, lambda: save_if_finite(tools, state, run))
            stop_here(fabric, state, run)
    means = dict(zip(logged, (totals / len(batches)).tolist(), strict=True))
    on_first_process(fabric, lambda: _require_finite(means, epoch, run))
    seconds = time.perf_counter() - began
    row = {"epoch": epoch + 1, "learning_rate": rate, "seconds": seconds}
    row |= {"images_per_second": sum(map(len, batches)) / seconds}
    return row | {f"train_{name}": value for name, value in means.items()}


def validate(tools: Tools, cohort: Cohort) -> dict[str, float]:
    """Return the loss terms on the validation rows, with the same batches and views each time."""
    tools.network.eval()
    training, is_target = tools.config.training, cohort.is_target[cohort.val]
    labels = cohort.labels.numbers[cohort.val]
    batches = draw_batches(is_target, training.batch_size, training.seed, 0)
    totals = torch.zeros(len(tools.logged), device=tools.fabric.device)
    # A batch too small for all processes is looked at whole by each.
    n_processes = tools.fabric.world_size if len(batches[0]) >= 2 * tools.fabric.world_size else 1
    parts = divide_batch(len(batches[0]), n_processes, training.micro_batch)
    volumes = tools.stream(cohort.val, batches, parts, passes=1)
    for index, batch in enumerate(batches):
        render = tools.render(volumes, len(batch), training.seed, VALIDATION, index)
        objective = tools.objective(is_target[batch], labels[batch])
        terms, rows = score_batch(tools.fabric, tools.network, objective, render, len(batch), parts, tools.n_views)
        totals += torch.stack(tools.measure(terms, rows, is_target[batch]))
    means = (totals / len(batches)).tolist()
    return dict(zip([f"val_{name}" for name in tools.logged], means, strict=True))


def save_if_finite(tools: Tools, state: TrainingState, run: RunDir) -> None:
    """Save the state, at the end of an epoch or within it.

    Raises
    ------
    RunError
        When a term of this epoch or a weight is not finite; the previous checkpoint stays.
    """
    sums = zip([*tools.logged, "gradient_norm"], state.totals or [], strict=False)
    terms = dict(sums) if state.step else state.history[-1]
    weights = {**state.network.state_dict(), **state.loss.state_dict(prefix="loss.")}
    _require_finite(terms, state.epoch if state.step else state.epoch - 1, run, weights)
    save_state(run, state, tools.config)


def stop_here(fabric: Fabric, state: TrainingState, run: RunDir) -> None:
    """End the program after everything is saved.

    Raises
    ------
    PreemptedError
        In the first process; the others end quietly.
    """
    if not fabric.is_global_zero:
        raise SystemExit(0)
    done = f"{state.epoch} epochs" + (f" and {state.step} steps" if state.step else "")
    raise PreemptedError(f"{run.path}: told to stop; {done} are saved, the same command goes on from there")


def learning_rate(step: int, n_steps: int, training: TrainingConfig) -> float:
    """Return the rate of one step: linear warm-up to the peak, then half a cosine to zero.

    Examples
    --------
    >>> learning_rate(11, 110, TrainingConfig(warmup=0.1, learning_rate=0.5))
    0.5
    """
    n_warmup = int(training.warmup * n_steps)
    if step < n_warmup:
        return training.learning_rate * (step + 1) / (n_warmup + 1)
    done = (step - n_warmup) / max(1, n_steps - n_warmup)
    return training.learning_rate * (1 + math.cos(math.pi * done)) / 2


def _require_finite(
    terms: Mapping[str, float], epoch: int, run: RunDir, weights: Mapping[str, Tensor] | None = None
) -> None:
    weights = weights or {}
    wrong = [name for name, value in terms.items() if not math.isfinite(value)]
    spoilt = [name for name, weight in weights.items() if not weight.isfinite().all()]
    if spoilt:
        wrong.append(f"{len(spoilt)} of {len(weights)} tensors of weights (first {spoilt[0]})")
    if wrong:
        kept = f"the checkpoint of epoch {epoch} is kept in {run.checkpoint().parent}" if epoch else "nothing was saved"
        raise RunError(
            f"epoch {epoch + 1}: {', '.join(wrong)} not finite, training stopped; {kept}. `sepclr-med check` finds "
            "images with extreme values. In a new run folder (or here with --overwrite) lower training.learning_rate, "
            "or use training.precision=32-true."
        )


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
