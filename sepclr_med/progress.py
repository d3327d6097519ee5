"""Progress on the standard error: a bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def report_progress(task: str, total: int, done: int = 0, quiet: bool = False) -> Iterator[Callable[..., None]]:
    """Give a function to call after each unit of work, with an optional remark.

    Parameters
    ----------
    task : str
        What is being done, such as ``training``.
    total : int
        Units of work.
    done : int, default=0
        Units done before.
    quiet : bool, default=False
        Say nothing, as all processes but the first should.

    Examples
    --------
    >>> with report_progress("reading", total=2) as advance:
    ...     advance()
    ...     advance("last image")
    """
    if quiet:
        yield lambda remark="": None
        return
    if sys.stderr.isatty():
        with _bar(task, total, done) as shown:
            yield shown
        return
    began = spoke = time.monotonic()
    before = done

    def advance(remark: str = "") -> None:
        nonlocal done, spoke
        done += 1
        now = time.monotonic()
        if now - spoke > SECONDS_BETWEEN_LINES or (done == total and now - began > SECONDS_BETWEEN_LINES):
            spoke = now
            left = format_duration((now - began) / (done - before) * (total - done))
            words = [f"{task}: {done}/{total}", *([remark] if remark else []), *([f"{left} left"] * (done < total))]
            print(", ".join(words), file=sys.stderr, flush=True)

    yield advance


@contextmanager
def _bar(task: str, total: int, done: int) -> Iterator[Callable[..., None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
    with Progress(*columns, TextColumn("{task.fields[remark]}"), console=Console(stderr=True)) as bar:
        shown = bar.add_task(task, total=total, completed=done, remark="")
        yield lambda remark="": bar.update(shown, advance=1, remark=remark)


def format_duration(seconds: float) -> str:
    """Return seconds for people.

    Examples
    --------
    >>> [format_duration(s) for s in (0.31, 75, 3599.7, 7300, 200000)]
    ['0.31 s', '1 min 15 s', '1 h 0 min', '2 h 2 min', '2 d 8 h']
    """
    if seconds < 59.5:
        return f"{seconds:.2g} s"
    units = ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s"))
    for size, unit, smaller, name in units:
        # Rounded before it is divided, so that no part reaches the next unit.
        whole, rest = divmod(round(seconds / smaller), size // smaller)
        if whole:
            return f"{whole} {unit} {rest} {name}"
    raise AssertionError("unreachable")
