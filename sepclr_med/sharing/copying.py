"""Copies of a run's files that may be passed on: paths cut, formulas made text and, if wished, new ids."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from sepclr_med.errors import RunError
from sepclr_med.rundir import write_json, write_table, write_text
from sepclr_med.sharing.columns import cap_ages, find_dicom, find_identifying
from sepclr_med.sharing.formulas import neutralise_table
from sepclr_med.sharing.keys import KINDS, Key
from sepclr_med.sharing.traces import Traces
from sepclr_med.sharing.words import TABLES, TEXTS, change_cells, holds_text, kind_of, read_cells

ID = "participant_id"
SHARE_OF_IDS = 0.5
SHORTEST_VALUE = 5


@dataclass
class Copier:
    """Copies files one by one, and remembers what it changed.

    Parameters
    ----------
    traces : Traces
        What texts must not tell.
    key : dict or None
        New ids by column; None where ids stay.
    drop : collection of str, default=()
        Further columns of tables of participants that are left out.
    sealed : collection of str, default=()
        Participants who are left out of every table.
    """

    traces: Traces
    key: Key | None
    drop: Collection[str] = ()
    sealed: Collection[str] = ()
    removed: dict[str, str] = field(default_factory=dict)
    capped: set[str] = field(default_factory=set)
    withheld: set[str] = field(default_factory=set)

    def copy(self, source: Path, target: Path) -> None:
        """Write what may be passed on of a file."""
        kind = kind_of(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        if kind in TABLES:
            write_table(target, neutralise_table(self.table(read_cells(source))))
        elif kind == ".json":
            text = source.read_text(encoding="utf-8")
            write_json(target, self._object(json.loads(text), self.traces.cleaner(text)))
        elif kind in TEXTS:
            text = source.read_text(encoding="utf-8")
            write_text(target, self.traces.cleaner(text)(text))
        else:
            shutil.copyfile(source, target)

    def table(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return what may be passed on of a table; with new ids its rows come in their order, not in the old one."""
        of_participants = ID in table
        if of_participants:
            table = table[~table[ID].isin(self.sealed)].reset_index(drop=True)
            table = self._without_identifying(table)
        ids = [column for column in KINDS if column in table] if self.key is not None and of_participants else []
        texts = [name for name in table.columns if name not in ids and holds_text(table[name])]
        words = [*map(str, table.columns), *(cell for name in texts for cell in table[name].dropna().unique())]
        clean = self.traces.cleaner("\n".join(words))
        changed = {name: table[name].map(self.key[name]) for name in ids}
        changed |= {name: change_cells(self._other_names(table[name]), clean) for name in texts}
        cleaned = table.assign(**changed).rename(columns=clean)
        return cleaned.sort_values(ids, ignore_index=True) if ids else cleaned

    def _other_names(self, cells: pd.Series) -> pd.Series:
        """Return a column of text, with new ids where it is one of participants under another name."""
        ids = (self.key or {}).get(ID, {})
        # An id such as 12 is one here only if the others are.
        return cells.replace(ids) if cells.dropna().isin(ids).mean() >= SHARE_OF_IDS else cells

    def _without_identifying(self, table: pd.DataFrame) -> pd.DataFrame:
        if self.key is None:
            found = find_dicom(table)
            if ids := sorted(set(found) & set(KINDS)):
                raise RunError(f"{', '.join(ids)}: identifiers of DICOM, which are not passed on; give --deidentify")
        else:
            found = {name: reason for name, reason in find_identifying(table).items() if name not in KINDS}
            table, capped = cap_ages(table)
            self.capped |= {column for column in capped if column not in found}
        self.withheld |= {value for name in found for value in table[name].dropna() if _can_be_found(value)}
        found |= {column: "asked for" for column in self.drop if column in table}
        self.removed |= found
        return table.drop(columns=list(found))

    def _object(self, content: Any, clean: Callable[[str], str]) -> Any:
        if isinstance(content, dict):
            return {clean(key): self._entry(key, value, clean) for key, value in content.items()}
        if isinstance(content, list):
            return [self._object(entry, clean) for entry in content]
        return clean(content) if isinstance(content, str) else content

    def _entry(self, key: str, value: Any, clean: Callable[[str], str]) -> Any:
        new_ids = (self.key or {}).get(key, {})
        if isinstance(value, list) and new_ids:
            return [self._entry(key, entry, clean) for entry in value]
        known = isinstance(value, str) and value in new_ids
        return new_ids[value] if known else self._object(value, clean)


def _can_be_found(value: str) -> bool:
    """Say whether a value that was removed can be told from other words, should it stand elsewhere."""
    return len(value) >= SHORTEST_VALUE and not value.isalpha() and not re.fullmatch(r"\d{0,4}(?:\.\d*)?", value)
