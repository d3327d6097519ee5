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
from sepclr_med.sharing.words import TABLES, find_cell, kind_of, read_cells, read_words

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
    places : frozenset of str, default=frozenset()
        Names of sites and scanners: in tables they are no names of a user or machine.
    in_order : bool, default=False
        Whether rows of tables come as they did, so that a row may be named.
    """

    ids: Mapping[str, str]
    names: frozenset[str]
    places: frozenset[str] = frozenset()
    in_order: bool = False

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
        text, is_table = WEB.sub(" ", words), kind_of(path) in TABLES
        told = {what: seen for what, seen in self._checks(text, withheld, is_table).items() if seen(text)}
        if not (is_table and told):
            return list(told)
        table = read_cells(path).replace(WEB, " ", regex=True).rename(columns=lambda name: WEB.sub(" ", name))
        places = {what: find_cell(table, seen, told.values(), self.in_order) for what, seen in told.items()}
        return [f"{what} ({place})" if place else what for what, place in places.items()]

    def _checks(self, whole: str, withheld: Collection[str], is_table: bool) -> dict[str, Callable[[str], bool]]:
        there = [original for original in self.ids if original in whole]
        pattern = _any_of(there)
        # A site may be named as a user is.
        names = {name for name in self.names if not (is_table and _holds_any([name], "\n".join(self.places)))}
        return {
            "a path of the disk": lambda text: any(kind.search(text) for kind in (UNIX_PATH, WINDOWS_PATH)),
            "an identifier of DICOM": lambda text: UID.search(text) is not None,
            "an original id": lambda text: bool(there) and any(m[0] in self.ids for m in pattern.finditer(text)),
            "the name of a user or machine": lambda text: _holds_any(names, text),
            "a value of a column that was removed": lambda text: _holds_any(withheld, text),
        }


def look_for(key: Mapping[str, Mapping[str, str]] | None, places: Iterable[str] = ()) -> Traces:
    """Return what to look for: this user and machine, and the original ids of a key.

    Parameters
    ----------
    key : mapping of str to (mapping of str to str), or None
        Original to new ids, by column; none where ids may stay.
    places : iterable of str, default=()
        Names of sites and scanners.
    """
    ids: dict[str, str] = {}
    for column, new_ids in (key or {}).items():
        for original, new in new_ids.items():
            if column == "participant_id":
                bare = original.removeprefix("sub-")
                ids |= {name: new for name in (bare, f"sub-{bare}", original) if can_be_told(name)}
            elif can_be_told(original) and re.search(r"\d", original) and re.search(r"[^\d.]", original):
                ids.setdefault(original, new)
    return Traces(ids, frozenset(_own_names()), frozenset(places), in_order=key is None)


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
