"""Loss terms: pure functions of embeddings, and modules that weigh and sum them."""

from sepclr_med.losses.pairwise import (
    LossTerms,
    SepCLRLoss,
    alignment,
    joint_entropy,
    null_salient,
    replace_background,
    uniformity,
)

__all__ = [
    "LossTerms",
    "SepCLRLoss",
    "alignment",
    "joint_entropy",
    "null_salient",
    "replace_background",
    "uniformity",
]
