"""What goes wrong on the user's side, said once and in one form.

Every problem names where it is, what was found, what is allowed and how to mend it. The command line prints the
message of a :class:`UserError` without a traceback and exits with code 1; anything else is a defect of the program.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass
from difflib import get_close_matches

SHOWN_PROBLEMS = 30
# A cell or a column's name may hold a whole file.
SHOWN_CHARACTERS = 500
# Words of torch, oneDNN, the C++ library, gloo and NCCL.
NO_MEMORY = (
    *("can't allocate memory", "Cannot allocate memory", "not enough memory", "out of memory", "std::bad_alloc"),
    "could not execute a primitive",
)
LOST_PROCESS = ("Connection closed by peer", "Connection reset by peer", "remote process exited", "Broken pipe")


@dataclass(frozen=True)
class Problem:
    """One thing the user can mend.

    Parameters
    ----------
    message : str
        What is wrong, in plain words.
    file, column, participant_id : str, default=""
        Where: the file, the column and the participant concerned.
    row : int or None, default=None
        Row of the table as a spreadsheet shows it: the header is row 1, the first image row 2.
    got, allowed, fix : str, default=""
        What was found, what is accepted, what to do.
    code : str, default=""
        Short machine-readable name such as ``missing_file``.
    severity : {"error", "warning", "info"}, default="error"
        Errors must be mended before training; warnings must be understood.

    Examples
    --------
    >>> print(Problem("value is not a number", file="a.tsv", row=3, column="age", got="old", allowed="years or n/a"))
    a.tsv, row 3, column "age": value is not a number; got "old"; allowed: years or n/a
    """

    message: str
    file: str = ""
    row: int | None = None
    column: str = ""
    participant_id: str = ""
    got: str = ""
    allowed: str = ""
    fix: str = ""
    code: str = ""
    severity: str = "error"

    def __str__(self) -> str:
        where = [
            self.file,
            f"row {self.row}" if self.row is not None else "",
            shorten(self.participant_id),
            f'column "{shorten(self.column)}"' if self.column else "",
        ]
        what = [
            shorten(self.message),
            f'got "{shorten(self.got)}"' if self.got else "",
            f"allowed: {self.allowed}" if self.allowed else "",
            f"fix: {self.fix}" if self.fix else "",
        ]
        place = ", ".join(part for part in where if part)
        said = "; ".join(part for part in what if part)
        return make_printable(f"{place}: {said}" if place else said)


class UserError(ValueError):
    """A problem in the user's data, table, configuration or disk, not in the program."""

    exit_code = 1

    def __str__(self) -> str:
        return make_printable(super().__str__())


class ProblemsError(UserError):
    """Several problems found in one pass, reported together.

    Parameters
    ----------
    summary : str
        One line that says what was read and how many problems there are.
    problems : iterable of Problem
        All of them; the message shows the first 30 and counts the rest.
    """

    def __init__(self, summary: str, problems: Iterable[Problem]):
        self.problems: Sequence[Problem] = tuple(problems)
        lines = [summary, *(f"  {problem}" for problem in self.problems[:SHOWN_PROBLEMS])]
        if len(self.problems) > SHOWN_PROBLEMS:
            lines.append(f"  ... and {len(self.problems) - SHOWN_PROBLEMS} more")
        super().__init__("\n".join(lines))


class ManifestError(ProblemsError):
    """A manifest, or a BIDS folder that should become one, cannot be used as it is."""


class ConfigError(ProblemsError):
    """A recipe or a ``--set`` value is not a valid configuration."""


class VolumeError(ProblemsError):
    """Images that cannot be read or preprocessed."""


class RunError(UserError):
    """A run folder or checkpoint that cannot be used for what was asked."""


class PreemptedError(RunError):
    """Training was told to stop, and its state is saved: the same command goes on. Exit code 75, for requeueing."""

    exit_code = 75


class TooFewError(UserError):
    """Too few participants for what was asked: nothing to mend but the question."""


def shorten(text: str) -> str:
    """Return a text, or its first 500 characters and how many there are.

    Examples
    --------
    >>> shorten("age")
    'age'
    >>> shorten("a" * 90_000)[-32:]
    'aaaaaaaaa... (90,000 characters)'
    """
    if len(text) <= SHOWN_CHARACTERS:
        return text
    return f"{text[:SHOWN_CHARACTERS]}... ({len(text):,} characters)"


def make_printable(text: str) -> str:
    r"""Return a text with every character that a terminal would obey, or could not show, written as its code.

    Names and cells come from files of anybody: they must not colour, clear or reorder what is printed, and file names
    need not be Unicode.

    Examples
    --------
    >>> make_printable("sub-01\x1b[2J")
    'sub-01\\x1b[2J'
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a hint naming the nearest known word, or an empty string.

    Examples
    --------
    >>> did_you_mean("epoch", ["epochs", "batch_size"])
    'did you mean "epochs"?'
    """
    close = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f'did you mean "{close[0]}"?' if close else ""


def describe_lost_resource(error: BaseException) -> str | None:
    """Say what to do when memory ran out or a process was lost; None for any other error.

    Libraries raise many types for these, some of them plain ``RuntimeError``, so that only their words tell.

    Examples
    --------
    >>> describe_lost_resource(MemoryError())[:15]
    'memory ran out:'
    >>> describe_lost_resource(RuntimeError("sizes do not match")) is None
    True
    """
    said = " ".join(str(error).split())
    if isinstance(error, BrokenExecutor):
        return (
            "a worker process was killed, most likely because memory ran out. What it had finished is kept. Run the "
            "same command again with fewer workers (--jobs, or --set volumes.n_jobs=1), or with more memory"
        )
    if any(word in said for word in LOST_PROCESS):
        return (
            "another process of this training was killed or lost its connection, most likely because memory ran out. "
            "The last finished epoch is kept, and the same command goes on from there; for less memory: fewer "
            "training.devices on this machine, or --set training.micro_batch=N"
        )
    if (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or any(w in said for w in NO_MEMORY)
    ):
        return (
            f"memory ran out: {said[:200] or 'none is left'}. What was finished is kept, and the same command goes on "
            "from there. For less memory: --set training.micro_batch=N (the same training), a larger volumes.spacing, "
            "or embed --batch-size N; `sepclr-med plan` measures what a training takes"
        )
    return None
