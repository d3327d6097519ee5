"""Cases that readers of files are tried on: files by name, how they are spoiled, and what they are read back from."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple


class Link(NamedTuple):
    """A symbolic link in a case."""

    target: str


@dataclass(frozen=True)
class Reader:
    """One reader.

    Parameters
    ----------
    make_seeds : callable
        Valid cases, of which the first is read to warm up.
    read : callable
        Takes the folder of a case.
    mutations : dict of str to callable
        How files are spoiled, by the end of their name.
    writes : tuple of str
        What the reader may leave in the folder: beginnings of names.
    spoil_case : callable or None
        Spoils the case as a whole instead of one file of it.
    """

    make_seeds: Callable[[], list[dict]]
    read: Callable[[Path], None]
    mutations: dict
    writes: tuple = ()
    spoil_case: Callable | None = None
    seeds: list = field(default_factory=list)

    def make_case(self, rng):
        """Return a valid case with one file spoiled, now and then two."""
        if not self.seeds:
            self.seeds.extend(self.make_seeds())
        case = dict(self.seeds[rng.integers(0, len(self.seeds))])
        if self.spoil_case is not None and rng.random() < 0.7:
            case = self.spoil_case(rng, case)
        names = [name for name in case if isinstance(case[name], bytes) and self._mutation(name)]
        for name in rng.permutation(names)[: 1 + int(rng.random() < 0.1)]:
            others = [seed[name] for seed in self.seeds if isinstance(seed.get(name), bytes)]
            case[name] = self._mutation(name)(rng, case[name], others)
        return case

    def _mutation(self, name):
        return next((change for end, change in self.mutations.items() if name.endswith(end)), None)


def read_case(folder):
    """Return the files of a folder as a case."""
    return {
        path.relative_to(folder).as_posix(): Link(os.readlink(path)) if path.is_symlink() else path.read_bytes()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_symlink() or path.is_file()
    }


# Manifest
