"""``link`` on a run folder, or on any two tables: what is read, and what is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pandas as pd

from sepclr_med.analysis.associations.claims import by_strength
from sepclr_med.analysis.canonical import rotate_table
from sepclr_med.analysis.linkage import Linkage, link
from sepclr_med.analysis.norms import load_norms
from sepclr_med.analysis.subtyping import SubtypeStudy, assign_subtypes, study_subtypes
from sepclr_med.atomic import require_writable
from sepclr_med.cohort.covariates import require_columns
from sepclr_med.cohort.embeddings import (
    averaged_models,
    embedding_path,
    of_same_models,
    read_any_embeddings,
    read_embeddings,
    read_replicates,
    write_embeddings,
)
from sepclr_med.cohort.ledger import HYPOTHESES, read_hypotheses
from sepclr_med.cohort.manifest import read_manifest
from sepclr_med.cohort.named_columns import list_columns
from sepclr_med.errors import ConfigError, Problem
from sepclr_med.occupancy import alone
from sepclr_med.opening import View, guard_files, guard_test, list_unfrozen
from sepclr_med.provenance import record_step
from sepclr_med.rundir import RunDir, as_written, read_json, write_json, write_table
from sepclr_med.runs import read_config

TABLES = ("links", "sites", "prediction", "similarity", "stability", "space_stability", "reading_stability")
NOT_COMPARED = (
    "These are means over {} models of a cross-fit, and how far they agree on a factor was not looked at: all factors "
    "were tested. Which are stable stands in analysis/stability.tsv of its run folder, after `link RUN_DIR`."
)
ONE_TRAINING = "One training: whether these factors are found again is not known; `fit --folds 5 --seeds 3` says."


@alone
def link_run(
    run_dir: str | Path, hypotheses: str | Path | None = None, open_test: str | None = None, **choices: Any
) -> Linkage:
    """Link the salient factors of a run and write ``RUN_DIR/analysis``.

    ``links.tsv``, ``sites.tsv``, ``prediction.tsv``, ``similarity.tsv``, ``subtypes*.tsv``, ``subtypes.json`` and
    ``link.json``; canonical factors go to ``embeddings/desc-canonical_embedding.tsv``.

    Parameters
    ----------
    run_dir : path
        Folder with embeddings.
    hypotheses : path or None, default=None
        YAML file with choices, in place of those given.
    open_test : str or None, default=None
        Why a sealed test set is opened; without, it takes no part.
    **choices
        Of :func:`sepclr_med.analysis.linkage.link`; what is not given comes from ``evaluation`` of the run.

    Returns
    -------
    Linkage

    Raises
    ------
    RunError
        When the folder has no embeddings.
    ManifestError, UserError
        As for :func:`sepclr_med.analysis.linkage.link`.
    """
    started = datetime.now(timezone.utc)
    run = RunDir(run_dir)
    config = read_config(run)
    asked = _settle_hypotheses(hypotheses, choices)
    everyone, manifest = read_embeddings(run.embeddings), read_manifest(run.manifest)
    settings = config.evaluation
    batteries = asked.get("batteries") or choices.get("batteries") or settings.batteries
    usual = {name: list_columns(settings, name, manifest) for name in ("covariates", "blocks")}
    usual["variables"] = settings.variables or []
    for name, columns in usual.items():
        wanted = next(given for given in (asked.get(name), choices.get(name), columns) if given is not None)
        require_columns(manifest, [column for column in wanted if column not in batteries])
    view = guard_test(everyone, manifest, run, "link", open_test)
    known = {
        "variables": settings.variables,
        "covariates": usual["covariates"],
        "blocks": [name for name in usual["blocks"] if view.manifest[name].nunique() >= 2],
        "factors": settings.factors,
        "families": settings.families,
        "batteries": settings.batteries,
        "measures": settings.measures,
        "canonical": settings.canonical,
        "n_permutations": settings.n_permutations,
        "n_bootstrap": settings.n_bootstrap,
        "seed": settings.seed,
        "target": config.cohort.target,
        "replicates": read_replicates(run.embeddings),
        "smallest_icc": settings.smallest_icc,
    }
    choices = known | {name: value for name, value in choices.items() if value is not None} | asked
    found, subtypes = _link(view, choices, asked, list_unfrozen(asked, config))
    if not run.cross_fit.is_file():
        found.notes.append(ONE_TRAINING)
    if found.canonical is not None:
        # Of everyone: the rotation, fitted on what may be seen, says nothing of whom it is applied to.
        facts = found.canonical[1]
        write_embeddings({"canonical": rotate_table(everyone["salient"], facts)}, run.embeddings, facts)
    _write(found, subtypes, run.analysis)
    load_norms(run)
    record_step(run.provenance, "link", started, {"settings": found.settings, "notes": found.notes})
    return found


def link_files(
    embeddings: Sequence[str], manifest: str | Path, output: str | Path, open_test: str | None = None, **choices: Any
) -> Linkage:
    """Link any embeddings table to any table of participants.

    Parameters
    ----------
    embeddings : sequence of str
        ``FILE`` or ``SPACE=FILE``, as :func:`sepclr_med.cohort.embeddings.read_any_embeddings` takes them.
    manifest : path
        Table with ``participant_id`` and the variables, its JSON sidecar beside it if there is one.
    output : path
        The table of links; the other tables take its name with ``_sites``, ``_prediction``, ... added.
    open_test : str or None, default=None
        Why the test part of a sealed manifest is opened; without, it takes no part.
    **choices
        Of :func:`sepclr_med.analysis.linkage.link`.

    Returns
    -------
    Linkage
    """
    needed = ["participant_id", "diagnosis"] if choices.get("target") else ["participant_id"]
    tables = read_any_embeddings(embeddings, canonical="canonical" in (choices.get("factors") or ()))
    rows = read_manifest(manifest, required=needed)
    output = Path(output)
    require_writable(output)
    view = guard_files(embeddings, tables, rows, "link", open_test)
    found, subtypes = _link(view, {name: value for name, value in choices.items() if value is not None})
    if models := averaged_models(embeddings):
        found.notes.append(NOT_COMPARED.format(len(models)))
    _write(found, subtypes, lambda name: output if name == "links.tsv" else output.with_name(f"{output.stem}_{name}"))
    return found


def derive_new(run_dir: str | Path, tables: Mapping[str, pd.DataFrame], output_dir: str | Path) -> list[Path]:
    """Give newly embedded images what ``link`` derived for the run's own: canonical factors and subtypes.

    Parameters
    ----------
    run_dir : path
        The run, after ``link``; without it nothing is written.
    tables : mapping of str to DataFrame
        From ``embed``.
    output_dir : path
        Where their embeddings are.

    Returns
    -------
    list of Path
        ``desc-canonical_embedding.tsv`` and ``subtypes.tsv``, as far as the run has them for these very weights.
    """
    run, salient = RunDir(run_dir), tables["salient"]
    written: list[Path] = []
    own = embedding_path(run.embeddings, "canonical")
    if not own.is_file():
        return written
    if not of_same_models(read_embeddings(run.embeddings, ["canonical"])["canonical"], salient):
        return written
    kept = ("Method", "Centre", "Loadings", "Variance", "VarianceExplained", "FittedRows", "Factors", "SourceFactors")
    with as_written(own.with_suffix(".json")):
        facts = {name: read_json(own.with_suffix(".json"), {})[name] for name in kept}
        table = rotate_table(salient, facts)
    written += write_embeddings({"canonical": table}, Path(output_dir), facts)
    subtypes = run.analysis("subtypes.json")
    assigned = assign_subtypes(subtypes, salient) if subtypes.is_file() else None
    if assigned is not None:
        written.append(write_table(Path(output_dir) / "subtypes.tsv", assigned))
    return written


def strongest_factors(run: RunDir, n: int) -> list[str]:
    """Name the factors most linked with a clinical variable, one per variable first, canonical ones where tested.

    Parameters
    ----------
    run : RunDir
        With ``analysis/links.tsv``.
    n : int
        How many.

    Returns
    -------
    list of str
    """
    links = pd.read_csv(run.analysis("links.tsv"), sep="\t", na_values=["n/a"], keep_default_na=False)
    links = links[links["p_value"].notna() & ~links["factor"].str.endswith("(whole)")]
    canonical = links[links["space"] == "canonical"]
    links = canonical if len(canonical) else links
    clinical = links[links["family"] != "shared"]
    links = clinical if len(clinical) else links
    ordered = by_strength(links)
    # The strongest of each variable before the second of any.
    ordered = pd.concat([ordered.drop_duplicates("variable"), ordered])
    return list(dict.fromkeys(ordered["factor"]))[:n]


def _settle_hypotheses(path: str | Path | None, choices: Mapping[str, Any]) -> dict[str, Any]:
    asked = read_hypotheses(path) if path is not None else {}
    changing = (*HYPOTHESES, "over", "robust")
    if asked and (both := sorted(name for name in changing if choices.get(name) is not None)):
        fix = "change the file, or leave the options out: what was frozen is what is tested"
        problem = Problem("an option that would change what was frozen", got=", ".join(both), fix=fix)
        raise ConfigError("link: hypotheses and options contradict each other", [problem])
    return asked


def _link(
    view: View, choices: Mapping[str, Any], asked: Mapping[str, Any] | None = None, unfrozen: Sequence[str] = ()
) -> tuple[Linkage, SubtypeStudy | None]:
    found, subtypes = link(view.tables, view.manifest, **choices), None
    if "subtypes" in found.settings["parts"]:
        subtypes = study_subtypes(found, view.manifest.attrs.get("dictionary", {}), choices.get("measures"))
    found.notes[:0] = [f"{note}." for note in view.open(asked, unfrozen)]
    return found, subtypes


def _write(found: Linkage, subtypes: SubtypeStudy | None, name_file: Callable[[str], Path]) -> None:
    for name in TABLES:
        table: pd.DataFrame = getattr(found, name)
        if table.empty:
            # What an earlier call left would no longer belong to the rest.
            name_file(f"{name}.tsv").unlink(missing_ok=True)
        else:
            write_table(name_file(f"{name}.tsv"), table)
    if subtypes is not None:
        for name, table in subtypes.tables.items():
            write_table(name_file(f"{name}.tsv"), table)
        write_json(name_file("subtypes.json"), subtypes.facts)
    facts = {"settings": found.settings, "verdicts": found.verdicts, "notes": found.notes}
    facts["not_tested"] = found.not_tested
    write_json(name_file("link.json"), facts)
