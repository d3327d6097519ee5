"""What of a run's results may be looked at: everything, or, while its test set is sealed, everything else."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from sepclr_med.atomic import require_writable
from sepclr_med.cohort.crossfolds import read_plan
from sepclr_med.cohort.embeddings import read_embeddings
from sepclr_med.cohort.ledger import (
    HYPOTHESES,
    append_event,
    before_first,
    hash_hypotheses,
    is_sealed,
    read_ledger,
    require_sealed_rows,
)
from sepclr_med.cohort.splits import without_test
from sepclr_med.config import Config, load_config
from sepclr_med.errors import RunError, UserError
from sepclr_med.rundir import RunDir, read_json

SEALED = "The test set is sealed and took no part; --open-test REASON opens it, and is written down"
TRAINED_ON = "Without a validation part what is left was trained on: its figures are in-sample"
UNSEEN = "Everyone was embedded by models that never saw them"
FILES = "--embeddings"
OF_RUNS = "exploratory: hypotheses are asked of a run folder alone, not of tables"
NOT_ASKED = "exploratory: hypotheses were frozen, but this was not asked by --hypotheses FILE"
NOT_KNOWN = "exploratory: no ledger has this cross-fit, for which hypotheses are frozen before `fit`"
FIRST = {"opened": "the first opening", "cross-fit": "the first cross-fit"}
# Where nothing is asked, the columns of the manifest decide on these.
BY_COLUMNS = ("covariates", "blocks", "families")


@dataclass(frozen=True)
class View:
    """What may be seen of embeddings.

    Parameters
    ----------
    tables : dict of str to DataFrame
        Embeddings by space, without the rows of a sealed test set unless it is to be opened.
    manifest : DataFrame
        Likewise.
    open : callable
        To be called when all that was asked has been found right or is computed, and before any of it is written or
        shown: writes the opening down, where there is one, and returns what must be said. Takes the hypotheses that
        were asked, and what :func:`list_unfrozen` says of them.
    """

    tables: dict[str, pd.DataFrame]
    manifest: pd.DataFrame
    open: Callable[..., list[str]]


def guard_test(
    tables: Mapping[str, pd.DataFrame], manifest: pd.DataFrame, run: RunDir, verb: str, reason: str | None = None
) -> View:
    """Return what may be seen of a run: a sealed test set only with a reason, which is yet to be written down.

    Parameters
    ----------
    tables : mapping of str to DataFrame
        Embeddings by space.
    manifest : DataFrame
        Of the run.
    run : RunDir
    verb : str
        What is about to be done.
    reason : str or None, default=None
        Why the test set is opened.

    Returns
    -------
    View

    Raises
    ------
    UserError
        With a reason where nothing is sealed, or an empty one.
    RunError
        When the ledger is gone, was changed or cannot be written, or a table does not say who is in the test set.
    """
    entries = sealed_entries(run)
    if entries is None:
        if reason is not None:
            instead = "the test part takes no part in a cross-fit; embed it apart: sepclr-med embed RUN_DIR TEST -o OUT"
            missing = instead if run.cross_fit.is_file() else "sepclr-med seal MANIFEST"
            raise UserError(f"{verb}: --open-test, but no test set is sealed in {run.path} ({missing})")
        asks = verb == "link" and run.cross_fit.is_file()
        return View(dict(tables), manifest, partial(_say_cross_fitted, run) if asks else partial(_say, []))
    if reason is not None:
        ledger, _ = _sealed_by(run)
        model = read_embeddings(run.embeddings)["salient"]["model_id"].iloc[0]
        facts = {"verb": verb, "run": run.path.resolve().name, "model_id": model}
        return View(dict(tables), manifest, _prepare(ledger, facts, reason))
    if unknown := [space for space, table in tables.items() if "split" not in table]:
        said = "embeddings without a column split do not say whose are sealed; embed again"
        raise RunError(f"{run.path}: {', '.join(unknown)}: {said}")
    return _close({space: without_test(table) for space, table in tables.items()}, manifest)


def guard_files(
    sources: Sequence[str],
    tables: Mapping[str, pd.DataFrame],
    manifest: pd.DataFrame,
    verb: str,
    reason: str | None = None,
) -> View:
    """Return what may be seen of tables of no run, as :func:`guard_test` does: the manifest says who is sealed.

    Parameters
    ----------
    sources : sequence of str
        Where the tables were read, as the ledger shall name them.
    tables, manifest, verb, reason
        As for :func:`guard_test`.

    Returns
    -------
    View

    Raises
    ------
    UserError
        With a reason where nothing is sealed, or an empty one; without one where all are sealed.
    ManifestError
        When the test part is not the one that was sealed.
    RunError
        When the ledger was changed or cannot be written.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from sepclr_med.cohort.ledger import seal
    >>> rows = pd.DataFrame({"participant_id": ["01", "02"], "split": ["train", "test"]})
    >>> with TemporaryDirectory() as folder:
    ...     rows.attrs["ledger"] = str(seal(rows, Path(folder) / "study.tsv"))
    ...     view = guard_files(["pca.tsv"], {"salient": rows[["participant_id"]]}, rows, "link")
    >>> view.tables["salient"]["participant_id"].tolist(), view.open() == [SEALED]
    (['01'], True)
    """
    ledger = manifest.attrs.get("ledger")
    if ledger is None or not os.path.isfile(ledger) or require_sealed_rows(ledger, manifest) is None:
        if reason is not None:
            raise UserError(f"{verb}: --open-test, but the manifest is not sealed (sepclr-med seal MANIFEST)")
        return View(dict(tables), manifest, partial(_say, []))
    if reason is not None:
        names = ", ".join(Path(source).name for source in sources)
        models = {str(name) for table in tables.values() if "model_id" in table for name in table["model_id"].dropna()}
        facts = {"verb": verb, "run": f"{FILES} {names}", "model_id": ", ".join(sorted(models)) or None}
        return View(dict(tables), manifest, _prepare(Path(ledger), facts, reason))
    sealed = manifest.loc[manifest["split"] == "test", "participant_id"]
    seen = {
        space: table[~table["participant_id"].isin(sealed)].reset_index(drop=True) for space, table in tables.items()
    }
    if all(table.empty for table in seen.values()) and (n := max(map(len, tables.values()), default=0)):
        raise UserError(f"{verb}: all {n} embeddings are of the sealed test part. {SEALED.partition('; ')[2]}")
    return _close(seen, manifest)


def list_unfrozen(hypotheses: Mapping[str, Any], config: Config) -> list[str]:
    """Return what decides on tests beside the variables, and neither hypotheses nor the software itself have settled.

    The settings of a run may change at any time. Those that are left as the software has them need no freezing, but for
    what the columns of the manifest decide.

    Examples
    --------
    >>> list_unfrozen({"covariates": [], "blocks": []}, load_config(overrides=["evaluation.smallest_icc=0"]))
    ['families', 'smallest_icc']
    """
    usual = load_config()
    return [
        name
        for name, section in HYPOTHESES.items()
        if name not in ("variables", *hypotheses)
        and (name in BY_COLUMNS or getattr(getattr(config, section), name) != getattr(getattr(usual, section), name))
    ]


def sealed_entries(run: RunDir) -> list[dict[str, Any]] | None:
    """Return the ledger of a run's sealed test set; None where none is sealed.

    Raises
    ------
    RunError
        When the ledger is gone or was changed.
    """
    # The embeddings of a cross-fit hold nobody of the test set, though all of them are held out.
    entries = None if run.cross_fit.is_file() else ledger_entries(run)
    return entries if entries and is_sealed(entries) else None


def hides_test(run: RunDir) -> bool:
    """Say whether nothing of a run's test set may be shown: it is sealed, and was never opened for this run.

    Nobody of a cross-fit was ever sealed. What is sealed stays unseen though its ledger cannot be read.
    """
    if run.cross_fit.is_file():
        return False
    try:
        entries = ledger_entries(run) or []
    except UserError:
        return True
    name = run.path.resolve().name
    return is_sealed(entries) and not any(entry["event"] == "opened" and entry.get("run") == name for entry in entries)


def ledger_entries(run: RunDir) -> list[dict[str, Any]] | None:
    """Return the ledger of the manifest that a run was made of, whether or not any of its rows are sealed.

    Raises
    ------
    RunError
        When the ledger was changed, or that of a sealed test set is gone or has hypotheses alone.
    """
    if not run.seal.is_file():
        return None
    ledger, sealed = _sealed_by(run)
    # Nobody of a cross-fit is sealed, so that without its ledger nobody would be seen unasked.
    needed = sealed and not run.cross_fit.is_file()
    entries = read_ledger(ledger) if needed or os.path.isfile(ledger) else None
    if needed and entries and not is_sealed(entries):
        raise RunError(f"{ledger}: does not begin with the seal of this run's test set; put back the ledger that does")
    return entries


def _sealed_by(run: RunDir) -> tuple[Path, bool]:
    """Return the ledger that a run names, and whether it was there when the run was made."""
    seal = read_json(run.seal, {"ledger": str})
    if not seal["ledger"].endswith(".ledger.jsonl"):
        raise RunError(f"{run.seal}: names no ledger ({seal['ledger'][:80]}); mend or delete it")
    return run.path / seal["ledger"], seal.get("test_sha256") is not None


def _close(seen: dict[str, pd.DataFrame], manifest: pd.DataFrame) -> View:
    """Return what is left without the sealed test set."""
    parts = {part for table in seen.values() if "split" in table for part in table["split"].dropna()}
    said = [SEALED, TRAINED_ON] if parts == {"train"} else [SEALED]
    return View(seen, without_test(manifest), partial(_say, said))


def _say(said: list[str], hypotheses: Mapping[str, Any] | None = None, unfrozen: Sequence[str] = ()) -> list[str]:
    """Return what must be said where nothing is opened, whatever is asked."""
    return said


def _prepare(ledger: Path, facts: Mapping[str, Any], reason: str) -> Callable[..., list[str]]:
    """Refuse an opening that could not be written down, and return what writes it."""
    if not reason.strip():
        raise UserError("--open-test: say why the test set is opened")
    require_writable(ledger)
    return partial(_open, ledger, {**facts, "reason": reason.strip()})


def _open(
    ledger: Path,
    facts: Mapping[str, Any],
    hypotheses: Mapping[str, Any] | None = None,
    unfrozen: Sequence[str] = (),
) -> list[str]:
    """Write an opening down, and return what must be said of it."""
    asked = hash_hypotheses(hypotheses) if hypotheses else None
    append_event(ledger, "opened", {**facts, "hypotheses": asked})
    entries = read_ledger(ledger)
    n = [entry["event"] for entry in entries].count("opened")
    times = "for the first time" if n == 1 else f"again, the opening number {n} in its ledger"
    words = f"The sealed test set was opened {times} ({facts['reason']})"
    if facts["verb"] != "link":
        return [words]
    of_files = facts["run"].startswith(FILES)
    return [f"{words}; {OF_RUNS if of_files else _judge(hypotheses or {}, unfrozen, entries, 'opened')}"]


def _say_cross_fitted(
    run: RunDir, hypotheses: Mapping[str, Any] | None = None, unfrozen: Sequence[str] = ()
) -> list[str]:
    """Return what must be said of links in a cross-fit: nothing where no hypotheses were frozen or asked."""
    entries = ledger_entries(run) or []
    if not hypotheses:
        return [f"{UNSEEN}; {NOT_ASKED}"] if any(entry["event"] == "hypotheses" for entry in entries) else []
    begun = read_plan(run).get("begun")
    known = any(entry["event"] == "cross-fit" and entry.get("at") == begun for entry in entries)
    return [f"{UNSEEN}; {_judge(hypotheses, unfrozen, entries, 'cross-fit') if known else NOT_KNOWN}"]


def _judge(
    hypotheses: Mapping[str, Any], unfrozen: Sequence[str], entries: Sequence[Mapping[str, Any]], event: str
) -> str:
    """Say whether these very hypotheses were frozen before anything could be seen, and which part of them.

    Examples
    --------
    >>> asked = {"variables": ["MADRS"], "blocks": []}
    >>> frozen = {"event": "hypotheses", "at": "2024-05-01", "sha256": hash_hypotheses(asked)}
    >>> _judge(asked, ["covariates"], [frozen, {"event": "opened"}], "opened").split("; ")[1]
    'not frozen: covariates'
    >>> _judge(asked, [], [{"event": "opened"}, frozen], "opened")
    'exploratory: these hypotheses were not frozen before the first opening'
    """
    before, earlier = f"before {FIRST[event]}", before_first(entries, event)
    if not hypotheses:
        any_frozen = any(entry.get("event") == "hypotheses" for entry in earlier)
        return NOT_ASKED if any_frozen else f"exploratory: no hypotheses were frozen {before}"
    asked = hash_hypotheses(hypotheses)
    frozen = [entry.get("at", "")[:10] for entry in earlier if entry.get("sha256") == asked]
    if not frozen:
        return f"exploratory: these hypotheses were not frozen {before}"
    if unfrozen:
        kept = ", ".join(name for name in HYPOTHESES if name in hypotheses)
        return f"confirmatory for {kept}, frozen on {frozen[0]}, {before}; not frozen: {', '.join(unfrozen)}"
    return f"confirmatory: these hypotheses were frozen on {frozen[0]}, {before}"
