"""Who is in train, validation and test: participants and families whole, groups and sites balanced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from sepclr_med.cohort.allocation import allocate, number_relatives
from sepclr_med.cohort.balance import is_measured, participants_of, standardised_difference
from sepclr_med.cohort.consistency import check_overlap
from sepclr_med.errors import ConfigError, ManifestError, Problem, did_you_mean

__all__ = ["assign_splits", "check_overlap", "split_balance", "without_test"]

SPLITS = ("train", "val", "test")
QUANTILE_BINS = 3
KNOWN_STRATA = ("diagnosis", "site", "scanner", "sex", "age", "tiv", "qc")
SHOWN_NAMES = 5
LARGEST_SMD = 0.5


def assign_splits(
    manifest: pd.DataFrame,
    test_size: float = 0.2,
    val_size: float = 0.1,
    stratify: Sequence[str] = ("diagnosis", "site"),
    leave_site_out: str | None = None,
    n_folds: int | None = None,
    seed: int = 0,
    *,
    overwrite: bool = False,
) -> pd.DataFrame:
    """Divide participants into train, val and test, and into folds when asked.

    Participants linked by a family, directly or through others, stay together. Counts come as close to the shares as
    whole participants allow, overall, per column of ``stratify`` and per combination of columns; see
    :func:`sepclr_med.cohort.allocation.allocate`.

    Parameters
    ----------
    manifest : DataFrame
        One row per image.
    test_size, val_size : float, default=0.2, 0.1
        Shares of participants, not of images.
    stratify : sequence of str, default=("diagnosis", "site")
        Columns whose distribution the parts should share, most important first. Numbers such as age are cut at their
        terciles; missing values are a level of their own. Known columns that the manifest lacks are passed over.
    leave_site_out : str or None, default=None
        A site that becomes the test set as a whole; ``test_size`` is then not used, and ``val_size`` is a share of the
        others. Relatives of its participants, and their own images from elsewhere, go with them.
    n_folds : int or None, default=None
        Also write ``fold``, "0" to "k-1", over everyone outside the test set; test rows have none, because the test set
        must not take part in cross-validation. With ``test_size=0`` everyone has a fold.
    seed : int, default=0
        The same manifest and seed give the same division.
    overwrite : bool, default=False
        Replace ``split`` and ``fold`` when the manifest has them.

    Returns
    -------
    DataFrame
        A copy with ``split`` (and ``fold``). Its ``attrs["problems"]`` has warnings, such as strata too small to be in
        every part.

    Raises
    ------
    ConfigError
        Shares, folds or columns that make no sense.
    ManifestError
        The manifest is divided already, or the site is not in it.

    Examples
    --------
    >>> rows = pd.DataFrame({"participant_id": list("abcdefgh"), "diagnosis": ["control", "patient"] * 4})
    >>> divided = assign_splits(rows, test_size=0.25, val_size=0.25)
    >>> pd.crosstab(divided["split"], divided["diagnosis"]).loc["test"].tolist()
    [1, 1]
    """
    _check_sizes(test_size, val_size, n_folds)
    _check_undivided(manifest, ["split", "fold"] if n_folds else ["split"], overwrite)
    problems = _check_strata(manifest, stratify)
    people = participants_of(manifest)
    unit = number_relatives(manifest, people.index)
    strata = pd.DataFrame({name: _levels(people[name]) for name in stratify if name in people}, index=people.index)
    rng = np.random.default_rng(seed)

    def draw(whom: np.ndarray, shares: dict[str, float]) -> pd.Series:
        return pd.Series(allocate(unit[whom], strata[whom], shares, rng), index=people.index[whom])

    everyone = np.ones(len(people), dtype=bool)
    shares = {"train": 1 - test_size - val_size, "val": val_size, "test": test_size}
    if leave_site_out is None:
        split = draw(everyone, shares)
    else:
        held_out, pulled_in = _with_relatives_at(manifest, leave_site_out, people.index, unit)
        problems += pulled_in
        split = pd.Series("test", index=people.index)
        shares = {"train": 1 - val_size, "val": val_size}
        split[~held_out] = draw(~held_out, shares)
    problems += _check_filled(people, split, [name for name, share in shares.items() if share > 0])
    problems += _check_rare(strata, n_parts=sum(share > 0 for share in shares.values()))

    divided = manifest.copy()
    divided["split"] = _per_image(manifest, split)
    if n_folds:
        inside = (split != "test").to_numpy()
        _check_enough(unit[inside], n_folds)
        divided["fold"] = _per_image(manifest, draw(inside, {str(number): 1 / n_folds for number in range(n_folds)}))
    problems += _check_balance(divided, stratify) if leave_site_out is None else []
    divided.attrs["problems"] = [*manifest.attrs.get("problems", []), *problems]
    return divided


def split_balance(manifest: pd.DataFrame, stratify: Sequence[str] = ("diagnosis", "site")) -> pd.DataFrame:
    """Show how alike the parts are: counts, means and standardised differences against train.

    Parameters
    ----------
    manifest : DataFrame
        With ``split``.
    stratify : sequence of str, default=("diagnosis", "site")
        Columns shown, beside age, sex and tiv; absent ones are passed over.

    Returns
    -------
    DataFrame
        Columns ``variable level split n mean sd smd``, counted in participants. For numbers ``n`` is how many have a
        value; for levels ``n`` is the count and ``mean`` its share. ``smd`` is
        :func:`sepclr_med.cohort.balance.standardised_difference` of that row against train.

    Examples
    --------
    >>> rows = pd.DataFrame({"participant_id": list("abc"), "sex": list("FMF"), "split": ["train", "train", "test"]})
    >>> table = split_balance(rows)
    >>> table.loc[table.level == "F", ["split", "n", "mean"]].values.tolist()
    [['train', 1, 0.5], ['test', 1, 1.0]]
    """
    people = participants_of(manifest)
    present = [name for name in SPLITS if (people["split"] == name).any()]
    parts = {name: people[people["split"] == name] for name in present}
    train = parts.get("train", people.iloc[:0])
    rows = [
        {"variable": "participants", "level": "", "split": name, "n": len(part), "mean": len(part) / len(people)}
        for name, part in parts.items()
    ]
    for variable in dict.fromkeys([*stratify, "age", "sex", "tiv"]):
        if variable in people:
            values = _indicators(people[variable])
            rows += [
                _balance_row(variable, level, name, column.loc[part.index], column.loc[train.index])
                for level, column in values.items()
                for name, part in parts.items()
            ]
    return pd.DataFrame(rows, columns=["variable", "level", "split", "n", "mean", "sd", "smd"])


def readable_balance(balance: pd.DataFrame) -> pd.DataFrame:
    """Return what :func:`split_balance` found as words: shares in per cent, nothing where there is nothing to say.

    Examples
    --------
    >>> rows = pd.DataFrame({"participant_id": list("abc"), "age": [30.0, 40.0, 35.0], "split": ["train"] * 3})
    >>> readable_balance(split_balance(rows)).values.tolist()
    [['participants', '', 'train', 3, '100 %', ''], ['age', '', 'train', 3, '35 (SD 5)', '']]
    """
    measured = (balance["level"] == "") & (balance["variable"] != "participants")
    figures = zip(balance["mean"], balance["sd"], measured, strict=True)
    said = [f"{mean:.3g} (SD {sd:.3g})" if number else f"{mean:.0%}".replace("%", " %") for mean, sd, number in figures]
    differences = ["" if np.isnan(smd) else f"{smd:.2f}" for smd in balance["smd"]]
    shown = balance[["variable", "level", "split", "n"]]
    return shown.assign(**{"share or mean": said, "difference from train (SMD)": differences})


def _check_balance(manifest: pd.DataFrame, stratify: Sequence[str]) -> list[Problem]:
    """Warn when the test part is made of clearly other people than the training part."""
    balance = split_balance(manifest, ())
    apart = balance[(balance["split"] == "test") & (balance["smd"].abs() > LARGEST_SMD)]
    place = Problem("", allowed=f"below {LARGEST_SMD}", code="unlike_test", severity="warning")
    problems = []
    for variable, rows in apart.groupby("variable", sort=False):
        worst = rows.loc[rows["smd"].abs().idxmax()]
        share = f" ({worst['level']} in {worst['mean']:.0%} of test)" if worst["level"] else ""
        message = f"people of test are clearly others than those of train{share}"
        got = f"standardised difference {worst['smd']:.2f}"
        more = f"--stratify {','.join([*stratify, str(variable)])}"
        fix = "another --seed, or a larger --test-size" if variable in stratify else more
        problems.append(replace(place, message=message, column=str(variable), got=got, fix=fix))
    return problems


def _check_sizes(test_size: float, val_size: float, n_folds: int | None) -> None:
    wrong = []
    for name, size in (("test_size", test_size), ("val_size", val_size)):
        if not 0 <= size < 1:
            wrong.append(
                Problem(f"{name} is not a share of participants", got=f"{size:g}", allowed="from 0 to below 1")
            )
    if not wrong and test_size + val_size >= 1:
        got = f"{test_size:g} + {val_size:g}"
        wrong.append(Problem("nobody is left to train on", got=got, allowed="test_size + val_size below 1"))
    if n_folds is not None and n_folds < 2:
        wrong.append(Problem("too few folds", got=str(n_folds), allowed="2 or more", fix="leave it out for no folds"))
    if wrong:
        raise ConfigError("split: the options cannot be used", wrong)


def _check_undivided(manifest: pd.DataFrame, columns: Sequence[str], overwrite: bool) -> None:
    found = [name for name in columns if name in manifest and manifest[name].notna().any()]
    if found and not overwrite:
        fix = "keep it, or give --overwrite to draw a new one (figures from the old one are then no longer comparable)"
        wrong = [Problem("the manifest is divided already", column=name, fix=fix) for name in found]
        raise ManifestError("split: nothing was changed", wrong)


def _check_strata(manifest: pd.DataFrame, stratify: Sequence[str]) -> list[Problem]:
    absent = [name for name in stratify if name not in manifest]
    unknown = [name for name in absent if name not in KNOWN_STRATA]
    if unknown:
        known = [*manifest.columns, *KNOWN_STRATA]
        wrong = [Problem("no such column to stratify by", got=name, fix=did_you_mean(name, known)) for name in unknown]
        raise ConfigError("split: the options cannot be used", wrong)
    return [
        Problem("not in the manifest, so not balanced", column=name, code="stratum_absent", severity="info")
        for name in absent
    ]


def _per_image(manifest: pd.DataFrame, values: pd.Series) -> pd.Series:
    ids = manifest["participant_id"]
    return ids.map(values).astype(ids.dtype)


def _check_filled(people: pd.DataFrame, split: pd.Series, wanted: Sequence[str]) -> list[Problem]:
    fix = "larger shares, fewer parts, or, with so few participants, divide nobody and cross-fit (fit --folds 5)"
    problems = []
    for name in wanted:
        inside = people[split == name]
        if inside.empty:
            problems.append(Problem(f"{name} is empty", code="empty_split", severity="warning", fix=fix))
        elif "diagnosis" in people:
            lacking = sorted(set(people["diagnosis"].dropna()) - set(inside["diagnosis"].dropna()))
            problems += [
                Problem(f"{name} has nobody with this diagnosis", got=level, code="split_without_diagnosis",
                        column="diagnosis", severity="warning", fix=fix)
                for level in lacking
            ]  # fmt: skip
    return problems


def _check_rare(strata: pd.DataFrame, n_parts: int) -> list[Problem]:
    if strata.empty or strata.shape[1] < 2:
        return []
    counts = strata.value_counts()
    rare = [" x ".join(level) for level, count in zip(counts.index, counts, strict=True) if count < n_parts]
    if not rare:
        return []
    message = (
        f"{len(rare)} of {len(counts)} strata have fewer participants than there are parts ({n_parts}); they are "
        "balanced through each column alone, not jointly"
    )
    return [Problem(message, got=_listed(rare), code="rare_strata", severity="warning", fix="fewer stratify columns")]


def _check_enough(unit: np.ndarray, n_folds: int) -> None:
    groups = len(np.unique(unit))
    if groups < n_folds:
        wrong = Problem("more folds than unrelated participants", got=str(n_folds), allowed=f"at most {groups}")
        raise ConfigError("split: the options cannot be used", [wrong])


def _levels(values: pd.Series) -> pd.Series:
    if is_measured(values) and values.nunique() > QUANTILE_BINS:
        bins = pd.qcut(values, QUANTILE_BINS, duplicates="drop")
        values = bins.map(lambda bin_: f"{bin_.left:.4g} to {bin_.right:.4g}", na_action="ignore")
    return values.astype(object).where(values.notna(), "n/a").astype(str)


def _with_relatives_at(
    manifest: pd.DataFrame, site: str, people: pd.Index, unit: np.ndarray
) -> tuple[np.ndarray, list[Problem]]:
    sites = manifest["site"].dropna().astype(str) if "site" in manifest else pd.Series(dtype=str)
    if site not in set(sites):
        known = sorted(set(sites))
        fix = did_you_mean(site, known) if known else "add a site column"
        wrong = Problem("no such site", column="site", got=site, allowed=_listed(known), fix=fix)
        raise ManifestError("split: the site to leave out is not in the manifest", [wrong])
    at_site = people.isin(manifest.loc[sites.index[sites == site], "participant_id"])
    held_out = np.isin(unit, unit[at_site])
    if held_out.all():
        wrong = Problem("nobody is left to train on: everyone is at this site or related to it", got=site)
        raise ManifestError("split: the site cannot be left out", [wrong])
    elsewhere = manifest["participant_id"].isin(people[held_out]) & (manifest["site"] != site)
    if not elsewhere.any():
        return held_out, []
    message = f"{int(elsewhere.sum())} images of other sites are in test too: of the site's participants or relatives"
    return held_out, [Problem(message, column="site", got=site, code="site_with_relatives", severity="warning")]


def _indicators(values: pd.Series) -> dict[str, pd.Series]:
    if is_measured(values):
        return {"": values}
    return {level: (values == level).astype(float).where(values.notna()) for level in sorted(values.dropna().unique())}


def _balance_row(variable: str, level: str, split: str, values: pd.Series, train: pd.Series) -> dict[str, object]:
    return {
        "variable": variable,
        "level": level,
        "split": split,
        "n": int(values.sum() if level else values.notna().sum()),
        "mean": values.mean(),
        "sd": values.std(),
        "smd": np.nan if split == "train" else standardised_difference(train, values),
    }


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return ", ".join(map(str, names[:SHOWN_NAMES])) + more


def without_test(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows whose ``split`` is not ``test``, numbered anew; all of them where there is no such column.

    Examples
    --------
    >>> without_test(pd.DataFrame({"participant_id": ["01", "02", "03"], "split": ["train", "test", "val"]}))
      participant_id  split
    0             01  train
    1             03    val
    """
    kept = table[table["split"].ne("test")] if "split" in table else table
    return kept.reset_index(drop=True)
