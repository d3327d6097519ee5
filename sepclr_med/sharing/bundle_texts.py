"""What a bundle says of itself: metadata and configuration as MONAI wants them, and pages for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sepclr_med import __version__
from sepclr_med.config import Config

SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
OWN_FIELDS = ("python", "torch", "monai", "numpy")
PAPER = (
    "Louiset R, Duchesnay E, Grigis A, Gori P. Separating common from salient patterns with contrastive representation "
    "learning. ICLR 2024, arXiv 2402.11928."
)
IN_THIS = "sepclr_med.sharing.bundled"

LICENCE = """\
The weights, the reference and the recipe of this bundle belong to whoever trained them. No licence is granted for them
until their owner writes one here, in the place of this text.

sepclr_med, the software that reads them, is licensed under the Apache License, Version 2.0.
"""

README = """\
# SepCLR encoders

A common and a salient encoder for {spatial_dims}-D images, trained with sepclr_med {version} (method `{method}`).
The common space holds what patients and controls share, the salient space is trained for what varies among patients
alone. **For research, not for diagnosis or any decision about a person.**

## Embed new images

Needs `pip install "sepclr-med[bundle]"` (`pip install ".[bundle]"` in a checkout). In this folder:

    python -m monai.bundle run --config_file configs/inference.json --manifest new.tsv --output_dir embeddings

`new.tsv` has one row per image: `participant_id` and `image_path`, relative to the table or to `--dataset_dir FOLDER`.
{covariates}From another folder add `--bundle_root FOLDER_OF_THE_BUNDLE` and name the configuration there. The result
is a BIDS derivative: that of `sepclr-med embed` for participants that were not trained on, within rounding (1e-5). An
image that cannot be read stops it.

A bundle's configuration is run by MONAI, which evaluates Python expressions in it: read it before you run it, and run
no bundle of strangers.

## What is in it

`configs/metadata.json`, `configs/inference.json` for MONAI; `configs/recipe.yaml`, `configs/replicate.json` and
`docs/replicate.md` to train it again; `models/*.safetensors` with weights, standardisation, normative reference and
what is erased from the spaces. No participant, no image, no path. Weights and reference are made of participants'
images all the same: from few participants they may tell something of single ones.

## Reference

{paper}
"""

STEPS = """\
# Train it again

With the same manifest and images, in this folder:

    pip install "sepclr-med=={sepclr_med}"     # with the versions of configs/replicate.json for the same bits
    python -c "import sepclr_med as sm; from sepclr_med.cohort.manifest import manifest_hash; \\
      print(manifest_hash(sm.read_manifest('manifest.tsv')))"
    sepclr-med fit manifest.tsv run -c configs/recipe.yaml
    sepclr-med embed run

The second command must print

    {manifest_sha256}

or the manifest is another one: rows in their order, every column, file names of images, and the split all count. The
images must be the same too: `volumes_sha256` in `run/checkpoints/last.json` must be

    {volumes_sha256}

## What agreement to expect

- The same versions, kind of processor and number of threads (`configs/replicate.json`), on a CPU: the same bits. The
  `model_id` in `run/checkpoints/{checkpoint}.json` is then `{model_id}`.
- Another processor, number of threads or processes, other versions, or a GPU: sums are rounded in another order, and
  training carries that on. Expect what another seed gives, and compare spaces, not factors, whose axes are arbitrary:
  `sepclr-med evaluate run`, whose intervals should hold the published figures.
- These weights on the same images, without training: embeddings within 1e-5.
"""


def describe_metadata(
    config: Config,
    model: Mapping[str, Any],
    spaces: Sequence[str],
    covariates: Sequence[str],
    n_design: int,
    versions: Mapping[str, str],
) -> dict[str, Any]:
    """Return ``metadata.json``.

    Parameters
    ----------
    config : Config
    model : mapping
        The header of the bundle's weights.
    spaces : sequence of str
        What the network returns.
    covariates : sequence of str
        What the reference needs.
    n_design : int
        Columns these become; 0 without a reference.
    versions : mapping of str to str
        Installed packages.
    """
    sizes = {"common": config.method.common_dim, "salient": model["salient_size"]}
    inputs = {"image": _tensor("image", "magnitude", model["in_channels"], model["spatial_size"], {"0": "image"})}
    if n_design:
        inputs["design"] = _tensor("covariates", "design", n_design, [], {"0": "intercept"})
    needs = f" Needs {', '.join(covariates)} of each participant." if covariates else ""
    return {
        "schema": SCHEMA,
        "version": "0.1.0",
        "changelog": {"0.1.0": f"exported by sepclr_med {__version__}"},
        "monai_version": versions["monai"],
        "pytorch_version": versions["torch"].split("+")[0],
        "numpy_version": versions["numpy"],
        "required_packages_version": {name: v for name, v in versions.items() if name not in OWN_FIELDS and v != "n/a"},
        "name": f"sepclr_med {config.method.name}",
        "task": "Embedding of anatomical MRI into what patients and controls share and what varies among patients only",
        "description": f"Encoders trained by contrastive analysis; one row per image and space.{needs}",
        "authors": "The authors of the study",
        "copyright": "Copyright (c) the authors of the study; see LICENSE",
        "intended_use": "Research only: not for diagnosis or any decision about a person.",
        "references": [PAPER],
        "model_id": model["model_id"],
        "network_data_format": {
            "inputs": inputs,
            "outputs": {
                space: _tensor("embedding", "embedding", sizes[space], [], {"0": f"{space}_000"}) for space in spaces
            },
        },
    }


def describe_inference() -> dict[str, Any]:
    """Return ``inference.json``: every value can be changed on MONAI's command line, as in ``--manifest new.tsv``."""
    root = {"bundle_root": "@bundle_root"}
    parts = {"images": "@images", "dataloader": "@dataloader", "network": "@network", "inferer": "@inferer"}
    return {
        "imports": ["$import os", "$import torch"],
        "bundle_root": ".",
        "manifest": "manifest.tsv",
        "dataset_dir": None,
        "output_dir": "embeddings",
        "batch_size": 8,
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "network_def": {"_target_": f"{IN_THIS}.load_network", **root},
        "network": "$@network_def.to(@device)",
        "preprocessing": {"_target_": f"{IN_THIS}.Preprocess", **root},
        "images": {
            "_target_": f"{IN_THIS}.Images",
            **root,
            "manifest": "$str(@manifest)",
            "dataset_dir": "@dataset_dir",
        },
        "dataset": {"_target_": "Dataset", "data": "$@images.items", "transform": "@preprocessing"},
        "dataloader": {
            "_target_": "DataLoader",
            "dataset": "@dataset",
            "batch_size": "@batch_size",
            "shuffle": False,
            "num_workers": 0,
        },
        "inferer": {"_target_": "SimpleInferer"},
        "evaluator": {
            "_target_": f"{IN_THIS}.Embedder",
            **root,
            "output_dir": "$str(@output_dir)",
            **parts,
            "device": "@device",
        },
        "run": ["$@evaluator.run()"],
    }


def write_readme(config: Config, covariates: Sequence[str]) -> str:
    """Return the page that says what the model is and how to use it."""
    needed = f"For the normative reference it also needs {'; '.join(covariates)}.\n" if covariates else ""
    return README.format(
        spatial_dims=config.network.spatial_dims,
        version=__version__,
        method=config.method.name,
        covariates=needed,
        paper=PAPER,
    )


def write_steps(facts: Mapping[str, Any]) -> str:
    """Return the page that says how to train the model again, and what to expect."""
    return STEPS.format(**{name: value for name, value in facts.items() if isinstance(value, (str, int))})


def _tensor(kind: str, form: str, n_channels: int, size: Sequence[int], channels: Mapping[str, str]) -> dict[str, Any]:
    return {
        "type": kind,
        "format": form,
        "modality": "MR",
        "num_channels": n_channels,
        "spatial_shape": list(size),
        "dtype": "float32",
        "value_range": [],
        "is_patch_data": False,
        "channel_def": dict(channels),
    }
