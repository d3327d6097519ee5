"""Which clinical variables go with which factor: verdicts, overview, forests, the whole table, and sites."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from sepclr_med.analysis.associations.claims import by_strength
from sepclr_med.analysis.variables import describe_left_out
from sepclr_med.report import blocks
from sepclr_med.report.brief import without_nulls
from sepclr_med.report.collect import dig, records, texts
from sepclr_med.report.sections.card import interval_column
from sepclr_med.report.sections.forests import (
    LEVEL,
    draw_strongest,
    draw_tests,
    draw_variables,
    factor_rows,
    mark_row,
    unit,
    vanishing,
)
from sepclr_med.report.tables import Column, count_column, has_values, make_table, number_column, p_column, text_column
from sepclr_med.report.wording import (
    as_number,
    format_count,
    format_interval,
    format_p,
    plural,
    say_list,
    without_participants,
)

MOST_NOTES = 20
RULE = (
    "ordinal are whole numbers of three to seven values among those tested, or levels the sidecar numbers; other "
    "numbers are continuous, so that a scale may be either; --measure NAME=continuous overrules it"
)
# What may be claimed comes first, then what must not be.
ORDER = {"good": 0, "warning": 1, "error": 1, "info": 2}


def describe_links(data: Mapping[str, Any]) -> blocks.Block | None:
    """Return the section on associations of factors with variables, or None when ``link`` was not run.

    Parameters
    ----------
    data : mapping
        From :func:`sepclr_med.report.collect.collect_run`.

    Returns
    -------
    dict or None
    """
    links, link = data["tables"].get("links"), data["objects"].get("link", {})
    if links is None or not len(links):
        return None
    settings = dig(link, "settings", default={})
    said = [blocks.verdict(entry.get("text", ""), entry.get("level")) for entry in records(link, "verdicts")]
    said = sorted(said, key=lambda entry: ORDER[entry["level"]]) or say_links(links)
    reasons = dig(link, "not_tested")
    left_out = describe_left_out(reasons) if isinstance(reasons, Mapping) else ""
    untested = [blocks.verdict(f"{left_out}.")] if left_out else []
    single = factor_rows(links)
    parts = [
        blocks.paragraph(_which_p(settings)),
        blocks.facts(_settings(settings, links)),
        blocks.verdicts([*said, *untested]),
        draw_tests(single),
        draw_strongest(single),
        blocks.table(links_table(links)),
        *draw_variables(single, data["tables"].get("sites")),
        blocks.notes(note for note in texts(link, "notes") if note != f"{left_out}."),
    ]
    brief = [*(without_nulls(records(link, "verdicts")) or said), *untested]
    return blocks.section("links", "Links to clinical variables", parts, brief)


def _which_p(settings: Any) -> str:
    """Say what each p-value of the section is."""
    within = _worded(dig(settings, "blocks", default=[] if settings else "blocks"))
    how = (
        f"p is from permutations within {within}; p free is the same test as if everyone were exchangeable, what would "
        "have been claimed without the blocks, and is no basis for a claim"
        if within
        else "p is from free permutations, as there are no blocks within which to permute; p free is the same"
    )
    return (
        f"Each factor against each variable. {how}. p FWE is corrected for the number of factors, p FDR also for the "
        "variables of a family, each set of tests (salient factors, canonical factors, whole space) on its own. Tables "
        "and figures show these. A sentence takes the best of several sets, so its p-value is p FDR times the number "
        "of sets, and at most 1."
    )


def say_links(links: pd.DataFrame) -> list[dict[str, str]]:
    """Put the table in words: what holds, what vanished within blocks, and what was not detected.

    Examples
    --------
    >>> links = pd.DataFrame({"factor": ["s_0"], "variable": ["MADRS"], "n": [51], "estimate": [0.1], "effect": ["r"],
    ...                       "ci_low": [-0.2], "ci_high": [0.4], "statistic": [0.01], "p_value": [0.4],
    ...                       "p_free": [0.4], "p_fwe": [0.8], "p_fdr": [0.8]})
    >>> say_links(links)[0]["text"]
    'Not detected, at p FDR 0.05: MADRS (n = 51).'
    """
    single = by_strength(factor_rows(links))
    said, lost, silent = [], [], []
    for variable, rows in sorted(single.groupby("variable", sort=False), key=lambda pair: pair[1].index.min()):
        found = rows[rows["p_fdr"] <= LEVEL]
        if len(found):
            best = found.iloc[0]
            extent = format_interval(best["estimate"], best["ci_low"], best["ci_high"])
            more = f" and {plural(len(found) - 1, 'more factor')}" if len(found) > 1 else ""
            words = f"{variable} goes with {best['factor']} ({unit(best['effect'])} = {extent}, p FDR "
            said.append(blocks.verdict(f"{words}{format_p(best['p_fdr'])}, n = {format_count(best['n'])}){more}."))
            continue
        if vanishing(rows).any():
            lost.append(str(variable))
        elif rows["p_value"].notna().any():
            silent.append(f"{variable} (n = {format_count(rows['n'].max())})")
    if lost:
        words = (
            f"{say_list(lost)}: factors pass only while permutations ignore the blocks, so that a link cannot be told "
            "from the blocks; none is claimed."
        )
        said.append(blocks.verdict(words, "warning"))
    if silent:
        said.append(blocks.verdict(f"Not detected, at p FDR 0.05: {say_list(silent)}."))
    return said


def links_table(links: pd.DataFrame) -> blocks.Block:
    """Return the sortable table of all tests, strongest first."""
    columns = [
        text_column("variable", "variable"),
        text_column("factor", "factor"),
        text_column("measure", "measure", RULE),
        count_column("n", "n", "participants with the variable and every covariate"),
        count_column("missing", "n_missing"),
        interval_column("estimate [95% CI]", "estimate", "in the unit named beside it; not corrected for selection"),
        Column("unit", lambda row: unit(row["effect"])),
        p_column("p", "p_value", "permutations within blocks, where there are any"),
        p_column("p free", "p_free", "the same with free permutations: a warning, not a result"),
        p_column("p FWE", "p_fwe", "corrected for all factors tested against this variable"),
        p_column("p FDR", "p_fdr", "corrected for the variables of the family as well"),
        number_column("MDE", "mde", 2, "smallest effect that one uncorrected test at this n finds with 80% power"),
        text_column("family", "family"),
        text_column("method", "method"),
        _note_column(links),
    ]
    spare = {"measure": "measure", "missing": "n_missing", "unit": "effect", "p free": "p_free", "p FWE": "p_fwe"}
    spare |= {"p FDR": "p_fdr", "MDE": "mde", "family": "family", "method": "method", "note": "note"}
    kept = [c for c in columns if c.heading not in spare or has_values(links, spare[c.heading])]
    ordered = by_strength(links)
    lost = vanishing(ordered).any()
    caption = "All tests, strongest first. Rows with p FDR of at most 0.05 are set in bold."
    caption += " Rows marked † pass, corrected over factors, in free permutations only." if lost else ""
    return make_table("links-table", caption, kept, ordered, "analysis/links.tsv", mark_row)


def _note_column(links: pd.DataFrame) -> Column:
    """Return notes as numbers that are explained below the table, where long ones would make rows high."""
    found = [note for note in dict.fromkeys(links["note"]) if note]
    if len(found) > MOST_NOTES:
        return text_column("note", "note")
    numbers = {note: str(number) for number, note in enumerate(found, 1)}
    meaning = "; ".join(f"({number}) {note}" for note, number in numbers.items())
    return Column("note", lambda row: numbers.get(row["note"], ""), None, without_participants(meaning))


def _settings(settings: Any, links: pd.DataFrame) -> list[tuple[str, str]]:
    permutations = as_number(dig(settings, "n_permutations"))
    smallest = f"{format_count(permutations)} (no p below {1 / (permutations + 1):.1g})" if permutations else ""
    return [
        ("tested among", str(dig(settings, "over", default=""))),
        ("participants", format_count(dig(settings, "n", default=links["n"].max()))),
        ("factors", _worded(dig(settings, "factors")) or plural(factor_rows(links)["factor"].nunique(), "factor")),
        ("variables", _families(dig(settings, "families")) or format_count(links["variable"].nunique())),
        ("adjusted for", _worded(dig(settings, "covariates")) or "nothing"),
        ("permuted within", _worded(dig(settings, "blocks")) or "everyone (no blocks)"),
        ("kept together", _worded(dig(settings, "kin"))),
        ("permutations", smallest),
        ("seed", str(dig(settings, "seed", default=""))),
    ]


def _families(families: Any) -> str:
    if not isinstance(families, Mapping):
        return ""
    return "; ".join(f"{family}: {_worded(names)}" for family, names in families.items())


def _worded(value: Any) -> str:
    return say_list(value) if isinstance(value, list) else "" if value is None else str(value)
