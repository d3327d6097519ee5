"""The words of the page, a line each, as docs/glossary.md has them."""

from __future__ import annotations

from sepclr_med.report import blocks

WORDS = {
    "background": "the controls: the diagnoses named by --background. A role, not a place in the image",
    "target": "the patients: the diagnoses named by --target",
    "common": "the space of what varies in everyone; common_dim factors",
    "salient": (
        "the space meant for what varies among patients and not among controls (what it holds is on the card); "
        "salient_dim factors"
    ),
    "factor": "one coordinate of an embedding: salient_003",
    "canonical factor": "principal axis of the salient space among training patients; does not depend on the rotation "
    "of the space",
    "probe": "a linear model that reads a variable from a space, fitted on training participants",
    "leak": "age, sex, site or head size read from the salient space",
    "held-out": "participants that training never saw",
    "blocks": "groups, by default sites, within which permutations stay",
    "mde": "minimal detectable effect: what a single test at this n finds four times in five",
    "alignment": "loss term: two views of one image lie close together",
    "uniformity": "loss term: embeddings are spread out",
    "null salient": "loss term: the salient head of controls is pulled to the null vector",
    "joint entropy": "loss term (k-JEM): keeps common and salient from saying the same",
    "head": "the projector after an encoder; losses act on it",
    "norm": "length of a vector; of the salient head's output the loss pulls it to zero among controls",
    "weight": "by how much a loss term is multiplied: w_salient, w_null, w_joint",
}


def describe_glossary() -> blocks.Block:
    """Return the section that explains the words of the page.

    Returns
    -------
    dict

    Examples
    --------
    >>> describe_glossary()["title"]
    'Glossary'
    """
    return blocks.section("glossary", "Glossary", [blocks.facts(WORDS.items())])
