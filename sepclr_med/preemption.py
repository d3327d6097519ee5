"""A cluster that wants its machine back: SIGTERM or SIGUSR1 ends the program where nothing is lost."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

import torch
from lightning_fabric import Fabric
from torch import distributed

from sepclr_med.errors import PreemptedError

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))


class ToldToStop(BaseException):
    """What a signal raises inside :func:`hearing`: as an ``Exception`` it would be taken for a broken image."""


class StopRequest:
    """Whether any of the processes was told to stop.

    Parameters
    ----------
    fabric : Fabric
        Launched. All processes make this at the same time.
    """

    def __init__(self, fabric: Fabric) -> None:
        self.received, self.at_once = False, True
        # Processes get signals at different times and must stop at the same step. A group on the CPU agrees without
        # waiting for the device.
        self.group = distributed.new_group(backend="gloo") if fabric.world_size > 1 else None

    def __call__(self) -> bool:
        """Return whether to stop now, the same in all processes."""
        if self.group is None:
            return self.received
        wanted = torch.tensor(int(self.received))
        distributed.all_reduce(wanted, op=distributed.ReduceOp.MAX, group=self.group)
        return bool(wanted)

    def receive(self, number: int, frame: FrameType | None) -> None:
        """Note a signal, or stop at once where there is no state to save."""
        self.received = True
        if self.at_once:
            raise ToldToStop("told to stop before training; the same command goes on with what is cached")

    @contextmanager
    def asked_between_steps(self) -> Iterator[None]:
        """Let work inside the block go on until it asks; before and after it signals stop the program at once."""
        self.at_once = False
        try:
            yield
        finally:
            self.at_once = True


@contextmanager
def listening(fabric: Fabric) -> Iterator[StopRequest]:
    """Give a :class:`StopRequest` that hears signals inside the block."""
    request = StopRequest(fabric)
    with hearing(request.receive, SIGNALS):
        yield request


@contextmanager
def hearing(receive: Callable[[int, FrameType | None], None], numbers: Iterable[int]) -> Iterator[None]:
    """Have a function called when these signals come inside the block; it may raise :class:`ToldToStop`.

    Outside a program's main thread nothing can listen, and the signals keep their meaning.

    Raises
    ------
    PreemptedError
        For :class:`ToldToStop`, when all inside the block is put away.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, receive) for number in numbers}
    try:
        yield
    except ToldToStop as told:
        raise PreemptedError(str(told)) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
