"""``analysis/participants.tsv``: everything about every image in one table, and how R reads it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from sepclr_med.cohort.embeddings import factor_columns
from sepclr_med.report.sections.subtypes import group_column
from sepclr_med.rundir import write_table, write_text

KEY = ("participant_id", "session_id", "run")
FIRST = ("split", "fold", "model_id")
PATHS = ("image_path", "mask_path")
MISSING = "n/a"
GROUP = "salient_group"

README = """# Tables of this run

Tab-separated, UTF-8, `n/a` where missing; one header row. Ids are text: `001` is not `1`.

| file | one row is |
|---|---|
| `participants.tsv` | an image: ids, split, variables{spaces}{group} |
| `separation.tsv` | a variable, space, scheme and metric |
| `links.tsv` | a factor and a variable |
| `sites.tsv` | a factor, a variable and a site |

Not every file is in every run. In R, without any package:

```r
read_table <- function(file) {{
  read.delim(file, na.strings = "n/a", check.names = FALSE, fileEncoding = "UTF-8")
}}
people <- read.delim("participants.tsv", na.strings = "n/a", check.names = FALSE, fileEncoding = "UTF-8",
                     colClasses = c(participant_id = "character"))
links <- read_table("links.tsv")

held_out <- subset(people, split == "test")  # the encoders never saw these
{example}
```

A model fitted in R to `participants.tsv` counts images, not participants: average the images of one participant first
if there are several. Rows with `split` equal to `train` were used to fit the encoders.
"""


def join_images(data: Mapping[str, Any]) -> pd.DataFrame | None:
    """Return one row per embedded image: ids, split, variables, group, and the factors of every space.

    Parameters
    ----------
    data : mapping
        From :func:`sepclr_med.report.collect.collect_run`.

    Returns
    -------
    DataFrame or None
        None without embeddings. Paths of images are not in it.

    Examples
    --------
    >>> salient = pd.DataFrame({"participant_id": ["01"], "split": ["test"], "salient_000": [0.5]})
    >>> manifest = pd.DataFrame({"participant_id": ["01"], "image_path": ["a.nii"], "age": [40.0]})
    >>> join_images({"embeddings": {"salient": salient}, "manifest": manifest, "assignments": None})
      participant_id split   age  salient_000
    0             01  test  40.0          0.5
    """
    spaces = {space: _keyed(table) for space, table in data["embeddings"].items()}
    if not spaces:
        return None
    first = next(iter(spaces.values()))
    parts = [first[[name for name in (*KEY, *FIRST) if name in first]]]
    manifest = data["manifest"]
    if manifest is not None and "participant_id" in manifest:
        known = _keyed(manifest).reindex(first.index)
        parts.append(known[[c for c in known if c not in (*parts[0].columns, *KEY, *PATHS)]])
    parts.append(_groups(first["participant_id"], data["assignments"]))
    for table in spaces.values():
        seen = {name for part in parts for name in part.columns}
        parts.append(table.reindex(first.index)[[name for name in factor_columns(table) if name not in seen]])
    return pd.concat(parts, axis=1).reset_index(drop=True)


def write_participants(data: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write ``participants.tsv`` and a ``README.md`` with its R snippet.

    Parameters
    ----------
    data : mapping
        From :func:`sepclr_med.report.collect.collect_run`.
    folder : Path
        ``analysis`` of the run.

    Returns
    -------
    list of Path
        What was written; nothing without embeddings.
    """
    table = join_images(data)
    if table is None:
        return []
    spaces = "".join(f", {space.replace('_', ' ')} factors" for space in data["embeddings"])
    group = f", `{GROUP}` (found among target participants)" if GROUP in table else ""
    text = README.format(spaces=spaces, group=group, example=_example(table))
    return [write_table(folder / "participants.tsv", table), write_text(folder / "README.md", text)]


def _keyed(table: pd.DataFrame) -> pd.DataFrame:
    absent = pd.Series(MISSING, index=table.index, dtype=object)
    parts = [table[name].astype(object).fillna(MISSING).map(str) if name in table else absent for name in KEY]
    # A character that no id has between the three.
    keyed = table.set_index(pd.Index(["\x00".join(key) for key in zip(*parts, strict=True)], dtype=object))
    return keyed[~keyed.index.duplicated()]


def _groups(participants: pd.Series, assignments: pd.DataFrame | None) -> pd.DataFrame:
    column = group_column(assignments) if assignments is not None and "participant_id" in assignments else None
    if assignments is None or column is None:
        return pd.DataFrame(index=participants.index)
    named = assignments.drop_duplicates("participant_id").set_index("participant_id")[column]
    return pd.DataFrame({GROUP: participants.map(named)})


def _example(table: pd.DataFrame) -> str:
    factor = next((c for c in table if str(c).startswith(("salient_0", "canonical_0"))), None)
    known = [name for name in ("age", "sex", "site", "tiv") if name in table]
    if factor is None:
        return "summary(held_out)"
    return f"summary(lm({factor} ~ {' + '.join(known) or '1'}, data = held_out))"
