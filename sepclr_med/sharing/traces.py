"""What a text must not tell when it is passed on: a disk's paths, a machine, a user, an examination, a participant."""

from __future__ import annotations

import getpass
import platform
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sepclr_med.report.wording import UNIX_PATH, WINDOWS_PATH, without_paths
from sepclr_med.sharing.columns import UID
from sepclr_med.sharing.words import TABLES, kind_of, read_words

# Factors end in numbers that look like ids, and are none.
FACTOR = r"(?:salient|common|canonical|voxel_pca|voxelpca|group|cluster)_\d+"
PLAIN_NUMBER = re.compile(r"0|[1-9]\d{0,3}")
# Names that say nothing of a person or a machine.
COMMON_NAMES = {
    *("root", "user", "users", "home", "admin", "ubuntu", "debian", "runner", "jovyan", "docker", "localhost"),
    *("local", "data", "test", "patient", "control", "participant", "analysis", "study", "brain"),
}
SHORTEST_NAME = 4
# Addresses of pages are no paths.
WEB = re.compile(r"\bhttps?://\S+")


@dataclass(frozen=True)
class Traces:
    """What to look for, and what stands for it.

    Parameters
    ----------
    ids : mapping of str to str
        Original ids that can be told from other words, and the new ones.
    names : frozenset of str
        Of the user and the machine.
    """

    ids: Mapping[str, str]
    names: frozenset[str]

    def cleaner(self, text: str) -> Callable[[str], str]:
        """Return what cleans pieces of this text: paths are cut to their last part, ids replaced by new ones."""
        # One pattern of all ids would be slow; most are not there.
        there = [original for original in self.ids if original in text]
        pattern = _any_of(there)

        def clean(piece: str) -> str:
            piece = without_paths(piece)
            return pattern.sub(lambda found: self.ids.get(found[0], found[0]), piece) if there else piece

        return clean

    def find(self, path: Path, withheld: Collection[str] = ()) -> list[str]:
        """Say what a file still tells, without telling it; empty for one that can be passed on.

        Parameters
        ----------
        path : Path
        withheld : collection of str, default=()
            Values of columns that were removed.
        """
        words = read_words(path)
        if words is None:
            return ["of a kind that cannot be looked through"]
        text = WEB.sub(" ", words)
        there = [original for original in self.ids if original in text]
        found = _any_of(there).finditer(text) if there else ()
        checks = {
            "a path of the disk": UNIX_PATH.search(text) or WINDOWS_PATH.search(text),
            "an identifier of DICOM": UID.search(text),
            "an original id": any(match[0] in self.ids for match in found),
            # A table's words are the researcher's, and a site may be named as a user is.
            "the name of a user or machine": kind_of(path) not in TABLES and _holds_any(self.names, text),
            "a value of a column that was removed": _holds_any(withheld, text),
        }
        return [what for what, seen in checks.items() if seen]


def look_for(key: Mapping[str, Mapping[str, str]]) -> Traces:
    """Return what to look for: this user and machine, and the original ids of a key.

    Parameters
    ----------
    key : mapping of str to (mapping of str to str)
        Original to new ids, by column; empty where ids may stay.
    """
    ids: dict[str, str] = {}
    for column, new_ids in key.items():
        for original, new in new_ids.items():
            if column == "participant_id":
                bare = original.removeprefix("sub-")
                ids |= {name: new for name in (bare, f"sub-{bare}", original) if can_be_told(name)}
            elif can_be_told(original) and re.search(r"\d", original) and re.search(r"[^\d.]", original):
                ids.setdefault(original, new)
    return Traces(ids, frozenset(_own_names()))


def can_be_told(name: str) -> bool:
    """Say whether an id can be told from a number or a letter in a text.

    Examples
    --------
    >>> [can_be_told(name) for name in ("sub-1", "001", "12", "A", "10023")]
    [True, True, False, False, True]
    """
    return len(name) > 2 and not PLAIN_NUMBER.fullmatch(name)


def _holds_any(words: Iterable[str], text: str) -> bool:
    return any(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text) for word in words if word in text)


def _any_of(names: Iterable[str]) -> re.Pattern[str]:
    # The longest first: sub-012 before 012.
    written = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    # Neither decimals nor thousands: 0.001 and 1,000 hold no id.
    return re.compile(rf"{FACTOR}|(?<![A-Za-z0-9.])(?<!\d,)(?:{written})(?![A-Za-z0-9])")


def _own_names() -> set[str]:
    names = {platform.node(), platform.node().split(".")[0]}
    # In a container a process may have neither a name nor a home.
    for find in (getpass.getuser, lambda: Path.home().name):
        with suppress(OSError, KeyError, ImportError, RuntimeError):
            names.add(find())
    return {name for name in names if len(name) >= SHORTEST_NAME and name.lower() not in COMMON_NAMES}
