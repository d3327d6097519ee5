"""Several datasets in one manifest: each its site, no two participants with one id."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from sepclr_med.cohort.ledger import require_unsealed
from sepclr_med.cohort.manifest import read_manifest
from sepclr_med.errors import ManifestError, Problem


def require_place(path: str | Path, append: bool = False, overwrite: bool = False) -> None:
    """Refuse to write a manifest over another one unasked, or over one whose test part is sealed.

    Parameters
    ----------
    path : path
        Manifest to write.
    append, overwrite : bool, default=False
        Whether rows are to be added to what is there, or put in its place.

    Raises
    ------
    ManifestError
        When a file is there and neither is asked for, or both are.
    RunError
        When a ledger lies beside it.
    """
    require_unsealed(path)
    if append and overwrite:
        fix = "--append keeps the rows that are there, --overwrite does not: take one"
        raise ManifestError(f"{path}: nothing was written", [Problem("both add and replace", str(path), fix=fix)])
    if Path(path).exists() and not append and not overwrite:
        fix = "--append adds the rows to it, --overwrite replaces it with any division it has; or another name (-o)"
        raise ManifestError(f"{path}: nothing was written", [Problem("is there already", str(path), fix=fix)])


def label_dataset(manifest: pd.DataFrame, site: str | None = None, prefix: str | None = None) -> pd.DataFrame:
    """Give every row of a dataset a site, and its participants ids that no other dataset has.

    Parameters
    ----------
    manifest : DataFrame
        One dataset.
    site : str or None, default=None
        Value of ``site`` in every row; none leaves the column as it is.
    prefix : str or None, default=None
        Letters and digits that go between ``sub-`` and the label, and before names of families; none leaves ids as
        they are.

    Returns
    -------
    DataFrame

    Raises
    ------
    ManifestError
        When the prefix has other characters than BIDS allows in a label.

    Examples
    --------
    >>> label_dataset(pd.DataFrame({"participant_id": ["sub-01", "02"]}), "Rome", "rome")
      participant_id  site
    0    sub-rome01  Rome
    1    sub-rome02  Rome
    """
    labelled = manifest.copy()
    if prefix is not None:
        if not re.fullmatch("[0-9A-Za-z]+", prefix):
            wrong = Problem("not a BIDS label", got=prefix, allowed="letters and digits", fix="--prefix siteB")
            raise ManifestError("--prefix: cannot be used in participant ids", [wrong])
        labelled["participant_id"] = "sub-" + prefix + labelled["participant_id"].str.removeprefix("sub-")
        if "family_id" in labelled:
            labelled["family_id"] = labelled["family_id"].map(lambda name: f"{prefix}{name}", na_action="ignore")
    if site is not None:
        labelled["site"] = site
    return labelled


def append_rows(path: str | Path, manifest: pd.DataFrame, bids_root: str | Path | None = None) -> pd.DataFrame:
    """Return the manifest at ``path`` with these rows below; columns that one of them lacks are missing there.

    Raises
    ------
    ManifestError
        When a participant id is in both: two people must not become one.
    """
    earlier = read_manifest(path, bids_root)
    clash = sorted(set(earlier["participant_id"]) & set(manifest["participant_id"]))
    if clash:
        shown = ", ".join(clash[:5])
        fix = "--prefix NAME gives the new participants ids of their own; the same people need one BIDS folder"
        problem = Problem("participants of both datasets", str(path), column="participant_id", got=shown, fix=fix)
        raise ManifestError(f"{path}: {len(clash)} participant id(s) are there already", [problem])
    return pd.concat([earlier, manifest], ignore_index=True)
