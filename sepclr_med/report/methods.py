"""The methods paragraph: written from what was run, citing only what it used."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from sepclr_med.report import blocks
from sepclr_med.report.collect import dig, texts
from sepclr_med.report.methods_model import describe_model
from sepclr_med.report.references import REFERENCES
from sepclr_med.report.sections.card import LEAVE_SITE_OUT, main_scheme
from sepclr_med.report.wording import as_number, format_count, plural, say_list, without_paths

CITATION = re.compile(r"\s*\[\[([a-z0-9, ]+)\]\]")
FORBIDDEN = re.compile(r"\[\[|\]\]")
TESTS = {
    "continuous": "continuous variables by partial correlation",
    "ordinal": "ordinal variables by probability-scale residuals of a proportional-odds model [[psr, liu]]",
    "binary": "binary variables by residuals of a logistic model",
    "categorical": "categorical variables by residuals of a multinomial logistic model",
}


def describe_methods(data: Mapping[str, Any]) -> blocks.Block:
    """Return the section with the methods paragraph and its references.

    Parameters
    ----------
    data : mapping
        From :func:`sepclr_med.report.collect.collect_run`.

    Returns
    -------
    dict
    """
    paragraphs = [words for words in (write(data) for write in (_cohort, _model, _card, _links)) if words]
    paragraphs += [words for words in (write(data) for write in (_whole, _subtypes, _maps, _software)) if words]
    # Each begins with its heading, which is ours and ends with the first stop.
    heads, bodies = zip(*(words.split(". ", 1) for words in paragraphs), strict=True) if paragraphs else ((), ())
    numbered, cited = number_citations(list(bodies))
    written = [{"head": f"{head}.", "text": text} for head, text in zip(heads, numbered, strict=True)]
    references = [
        {"number": n, "words": REFERENCES[key][0], "link": REFERENCES[key][1]} for n, key in enumerate(cited, 1)
    ]
    parts = [
        blocks.paragraph("Written from the settings and files of this run, to be adapted for a paper."),
        {"kind": "methods", "paragraphs": written},
        blocks.heading("References"),
        {"kind": "references", "items": references},
    ]
    return blocks.section("methods", "Methods", parts)


def number_citations(paragraphs: list[str]) -> tuple[list[Markup], list[str]]:
    """Replace ``[[key]]`` by numbers in the order of first use; everything else is escaped.

    Parameters
    ----------
    paragraphs : list of str

    Returns
    -------
    list of Markup
    list of str
        Keys in the order of their numbers.

    Examples
    --------
    >>> words, keys = number_citations(["By A&B [[fdr]] and [[fdr, mantel]]."])
    >>> keys
    ['fdr', 'mantel']
    >>> "A&amp;B" in words[0]
    True
    """
    cited: list[str] = []

    def number(key: str) -> Markup:
        if key not in cited:
            cited.append(key)
        place = cited.index(key) + 1
        return Markup('<a href="#ref-{0}" aria-label="reference {0}">{0}</a>').format(place)

    written = []
    for words in paragraphs:
        parts = CITATION.split(words)
        pieces = [Markup.escape(parts[0])]
        for keys, text in zip(parts[1::2], parts[2::2], strict=True):
            numbers = Markup(", ").join(number(key) for key in keys.split(", "))
            pieces += [Markup("\u00a0<span class='cite'>[{}]</span>").format(numbers), Markup.escape(text)]
        written.append(Markup("").join(pieces))
    return written, cited


def _safe(value: Any) -> str:
    """Return words from the user's files such that they cannot be taken for a citation."""
    return FORBIDDEN.sub("", without_paths(value))


def _names(values: Any) -> str:
    return say_list([_safe(value) for value in values]) if isinstance(values, (list, tuple)) else _safe(values or "")


def _cohort(data: Mapping[str, Any]) -> str:
    manifest, config = data["manifest"], data["config"]
    if manifest is None or "participant_id" not in manifest:
        return ""
    people = manifest["participant_id"].nunique()
    words = f"Participants. {plural(people, 'participant')} with {plural(len(manifest), 'image')} were analysed"
    roles = {role: texts(dig(config, "cohort"), role) for role in ("background", "target")}
    if all(roles.values()):
        words += f", {_names(roles['background'])} being the background and {_names(roles['target'])} the target group"
    words += "; tables follow BIDS [[bids]]."
    if "split" in manifest:
        counts = manifest.groupby("split")["participant_id"].nunique()
        said = [f"{counts[part]} for {name}" for part, name in
                (("train", "training"), ("val", "validation"), ("test", "testing")) if part in counts]  # fmt: skip
        words += f" They were divided by participant into {say_list(said)}."
    return words


def _model(data: Mapping[str, Any]) -> str:
    return describe_model(data, _safe)


def _card(data: Mapping[str, Any]) -> str:
    table, card = data["tables"].get("separation"), data["objects"].get("card", {})
    if table is None:
        return ""
    rows = main_scheme(table)
    scheme = rows["scheme"].iloc[0] if len(rows) else ""
    how = "cross-validated over participants" if scheme == "cross-validated" else "scored on held-out participants"
    words = (
        "Separation. Each variable was read from each space by linear probes, logistic or ridge regression with the "
        f"penalty chosen within training participants [[sklearn]], {how}"
    )
    words += ", and also on each site by probes of the others" if (table["scheme"] == LEAVE_SITE_OUT).any() else ""
    draws = as_number(dig(data["config"], "evaluation", "n_bootstrap"))
    words += ". Intervals are percentile bootstrap intervals over participants [[bootstrap]]"
    words += f" ({format_count(draws)} samples)." if draws else "."
    if table["p_value"].notna().any():
        how = "within sites" if _has_sites(data["manifest"]) else "freely, without blocks"
        words += f" p-values come from permuting the scored participants' values {how} [[phipson]]."
    measures = " ".join(
        str(entry.get("measure", "")).lower()
        for entry in dig(card, "dependence", default=[])
        if isinstance(entry, dict)
    )
    if "distance" in measures or "dcor" in measures:
        words += " Dependence between the spaces was measured by distance correlation [[dcor]]"
        words += " and the Hilbert-Schmidt independence criterion [[hsic]]." if "hsic" in measures else "."
    return words


def _has_sites(manifest: Any) -> bool:
    return manifest is not None and "site" in manifest and manifest["site"].nunique() > 1


def _links(data: Mapping[str, Any]) -> str:
    links, sites = data["tables"].get("links"), data["tables"].get("sites")
    if links is None or not len(links):
        return ""
    settings = dig(data["objects"].get("link", {}), "settings", default={})
    covariates, within = dig(settings, "covariates"), dig(settings, "blocks")
    words = "Associations. Factors were tested against clinical variables"
    words += f" among {_safe(settings['over'])}" if dig(settings, "over") else ""
    words += f", adjusted for {_names(covariates)}" if covariates else ", without covariates"
    draws = as_number(dig(settings, "n_permutations"))
    words += ", by permutation of residuals under the reduced model [[freedman, winkler2014]]"
    words += f" ({format_count(draws)} permutations)" if draws else ""
    words += f" within blocks of {_names(within)} [[winkler2015]]" if within else " without exchangeability blocks"
    words += f", with relatives ({_names(settings['kin'])}) kept together" if dig(settings, "kin") else ""
    words += "; observed data count as one permutation [[phipson]]. "
    kinds = [said for measure, said in TESTS.items() if (links["measure"] == measure).any()]
    words += f"Residuals: {say_list(kinds)}. " if kinds else ""
    if links["method"].str.contains("robust|huber", case=False).any():
        words += "Continuous variables were also fitted robustly [[huber]]. "
    if links["p_fwe"].notna().any():
        words += "The family-wise error over factors is controlled by the distribution of the maximum [[westfall]]"
        words += (
            ", the false discovery rate over variables by Benjamini and Hochberg [[fdr]] with the selection of "
            "variables accounted for [[families]]. " if links["p_fdr"].notna().any() else ". "
        )  # fmt: skip
    if sites is not None and (sites["site"] == "pooled").any():
        words += "Estimates of each site were pooled by random effects with Hartung-Knapp intervals [[hksj]]. "
    return words + "Models were fitted with statsmodels [[statsmodels]]."


def _whole(data: Mapping[str, Any]) -> str:
    prediction, similarity = data["tables"].get("prediction"), data["tables"].get("similarity")
    words = []
    if prediction is not None and len(prediction):
        words.append(
            "Each variable was predicted from whole spaces by ridge or logistic regression, covariates removed and "
            "penalties chosen inside the folds, beside covariates alone [[sklearn]]."
        )
    if similarity is not None and len(similarity):
        methods = say_list(sorted({_safe(m).partition(",")[0] for m in similarity["method"] if m})) or "rank"
        words.append(
            f"Dissimilarities of participants in a space and in a variable were compared [[rsa, aglinskas]] by "
            f"{methods} correlation, tested by permuting participants [[mantel]]."
        )
    return f"Whole spaces. {' '.join(words)}" if words else ""


def _subtypes(data: Mapping[str, Any]) -> str:
    found, criteria = data["objects"].get("subtypes", {}), data["tables"].get("criteria")
    canonical = "canonical" in data["embeddings"]
    words = ""
    if canonical:
        varimax = "varimax" in str(data["sidecars"].get("canonical", {}).get("Method", "")).lower()
        words += "Canonical factors are principal components of the salient factors of target participants in training"
        words += ", rotated by varimax [[varimax]]. " if varimax else ". "
    if found or criteria is not None:
        words += (
            "Groups were sought with k-means and Gaussian mixtures in training target participants; their number "
            "was judged by BIC [[bic]], by the silhouette [[silhouette]] against one Gaussian of the same covariance, "
            "and by the adjusted Rand index [[ari]] between bootstrap samples and between halves"
        )
        gap = ", and by a valley between groups deeper than a continuum of the same shape has"
        words += f"{gap if found.get('gaps') else ''}."
    return f"Canonical factors and subtypes. {words.strip()}" if words else ""


def _maps(data: Mapping[str, Any]) -> str:
    names = " ".join(data["files"])
    if "maps/" not in names:
        return ""
    facts = data["objects"].get("maps", {})
    covariates = texts(dig(facts, "settings"), "covariates")
    words = "Anatomy. Preprocessed images were regressed voxel by voxel on each factor"
    words += f", with {_names(covariates)} as confounds" if covariates else ""
    words += ", and tested by free permutation with the maximum statistic [[maxt]] in nilearn [[nilearn]]"
    words += " and threshold-free cluster enhancement [[tfce]]." if "_tfce" in names else "."
    sensitivity = [
        w
        for key, w in (("_ig.", "integrated gradients [[ig]]"), ("_occlusion.", "occlusion [[occlusion]]"))
        if key in names
    ]
    if sensitivity:
        words += f" Sensitivity of the encoder was mapped by {say_list(sensitivity)}"
        words += ", beside the map of an encoder with random weights [[sanity]]." if "_random." in names else "."
    return words


def _software(data: Mapping[str, Any]) -> str:
    versions: dict[str, str] = {}
    for step in data["steps"]:
        if isinstance(step.get("versions"), Mapping):
            versions |= {str(k): str(v) for k, v in step["versions"].items()}
    shown = [
        f"{name} {_safe(versions[name])}"
        for name in ("sepclr-med", "python", "torch", "monai", "nilearn", "scikit-learn", "statsmodels")
        if versions.get(name, "n/a") != "n/a"
    ]
    return f"Software. {say_list(shown)}." if shown else ""
