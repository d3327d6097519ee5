"""Contrastive analysis of clinical neuroimaging cohorts.

What varies among patients that does not vary among controls, and what does it mean clinically? Manifest -> volumes ->
model -> embeddings -> analysis. Names below are loaded on first use, so that tables never pay for torch.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "SepCLREstimator": "estimator",
    "assign_splits": "cohort.splits",
    "check_cohort": "cohort.preflight",
    "compare": "comparison",
    "embed": "embedding",
    "evaluate": "analysis.separation",
    "explain": "anatomy.explanation",
    "export": "sharing.exporting",
    "find_images": "cohort.bids",
    "fit": "training",
    "link": "analysis.linkage",
    "load_config": "config",
    "plan": "planning",
    "read_manifest": "cohort.manifest",
    "run_recipe": "pipeline",
    "simulate": "cohort.simulate",
    "use": "parts",
    "write_manifest": "cohort.manifest",
}

__all__ = sorted([*_HOMES, "__version__"])


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sepclr_med' has no attribute '{name}'")
    return getattr(import_module(f"sepclr_med.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
