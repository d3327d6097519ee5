"""What the configuration of an exported bundle names: MONAI builds these and runs them on new images.

Nothing here reads anything but safetensors, JSON and YAML. The configuration itself is run by MONAI, which evaluates
expressions in it: run bundles of your own, or of people you trust with your machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from monai.inferers import Inferer
from torch import Tensor, nn

from sepclr_med.checkpoint import load_checkpoint, load_weights, saved_standardisation
from sepclr_med.cohort.embeddings import ID_COLUMNS, tabulate_factors, write_embeddings
from sepclr_med.cohort.manifest import read_manifest
from sepclr_med.config import Config, parse_config, read_yaml
from sepclr_med.erasing import erase, load_erasures
from sepclr_med.errors import VolumeError
from sepclr_med.methods import build_network
from sepclr_med.networks import channels_last
from sepclr_med.trained import describe_model
from sepclr_med.volumes.loading import UnusableImageError
from sepclr_med.volumes.normative import NormativeReference
from sepclr_med.volumes.preprocessing import build_preprocessing, preprocess
from sepclr_med.volumes.sources import Source, list_sources
from sepclr_med.volumes.standardisation import Standardisation

REQUIRED = ("participant_id", "image_path")


@dataclass(frozen=True)
class BundleDir:
    """Names of everything in a bundle, as MONAI lays one out."""

    root: str | Path

    @property
    def path(self) -> Path:
        """The folder itself."""
        return Path(self.root)

    @property
    def metadata(self) -> Path:
        """What the network takes and gives, and which versions it was made with."""
        return self.path / "configs" / "metadata.json"

    @property
    def inference(self) -> Path:
        """What MONAI runs."""
        return self.path / "configs" / "inference.json"

    @property
    def recipe(self) -> Path:
        """The resolved configuration of the training, without places."""
        return self.path / "configs" / "recipe.yaml"

    @property
    def replicate(self) -> Path:
        """Hashes, seed, versions and hardware of the training."""
        return self.path / "configs" / "replicate.json"

    def weights(self, name: str) -> Path:
        """One of the safetensors files: ``model``, ``reference`` or ``erasure``."""
        return self.path / "models" / f"{name}.safetensors"

    def config(self) -> Config:
        """Return the configuration."""
        return parse_config(read_yaml(self.recipe), str(self.recipe))

    def reference(self) -> NormativeReference | None:
        """Return the normative reference; None where the model needs none."""
        path = self.weights("reference")
        return NormativeReference.from_state(*load_checkpoint(path)) if path.is_file() else None


class BundledNetwork(nn.Module):
    """From preprocessed volumes to the exported spaces: standardisation, deviations and encoders in one.

    Parameters
    ----------
    network : nn.Module
        The trained encoders.
    standardisation : Standardisation or None
    reference : NormativeReference or None
        Only the one fitted on all training controls.
    """

    def __init__(
        self, network: nn.Module, standardisation: Standardisation | None, reference: NormativeReference | None
    ) -> None:
        super().__init__()
        self.network = channels_last(network)
        self._standardisation, self._reference = standardisation, reference

    def forward(self, volumes: Tensor, design: Tensor | None = None) -> dict[str, Tensor]:
        """Return the representation of each space.

        Parameters
        ----------
        volumes : Tensor of shape (B, C, X, Y, Z)
            As the bundle's preprocessing gives them.
        design : Tensor of shape (B, p) or None
            Covariates as the reference codes them; needed where there is a reference.
        """
        self._follow(volumes.device)
        shown = self._standardisation(volumes) if self._standardisation else volumes
        if self._reference is not None:
            fold = torch.full((len(volumes),), self._reference.last)
            shown = torch.cat([shown, self._reference(volumes, design, fold)], dim=1)
        return dict(self.network(shown).spaces)

    def _follow(self, device: torch.device) -> None:
        # They are no modules, so that moving the network leaves them where they were.
        if self._standardisation and self._standardisation.mean.device != device:
            self._standardisation = self._standardisation.to(device)
        if self._reference is not None and self._reference.weights.device != device:
            self._reference = self._reference.to(device)


def load_network(bundle_root: str) -> BundledNetwork:
    """Return the network of a bundle with its weights, in evaluation mode."""
    bundle = BundleDir(bundle_root)
    tensors, facts = load_checkpoint(bundle.weights("model"))
    network = build_network(bundle.config(), facts["in_channels"], facts["spatial_size"])
    load_weights(network, tensors, bundle.weights("model"))
    return BundledNetwork(network, saved_standardisation(tensors), bundle.reference()).eval()


class Images:
    """The images of a manifest, as data for MONAI's ``Dataset``.

    Parameters
    ----------
    bundle_root : str
    manifest : str
        Table with ``participant_id``, ``image_path`` and the covariates that the reference needs.
    dataset_dir : str or None, default=None
        Folder that image paths are relative to; none means the manifest's.

    Raises
    ------
    ManifestError
        With every problem of the table; when covariates are missing, or of a site whose controls the reference does
        not know.
    """

    def __init__(self, bundle_root: str, manifest: str, dataset_dir: str | None = None) -> None:
        bundle = BundleDir(bundle_root)
        self.table = read_manifest(manifest, dataset_dir, required=REQUIRED)
        reference = bundle.reference()
        design = reference.design.encode(self.table) if reference else np.zeros((len(self.table), 0), np.float32)
        sources = list_sources(self.table, with_mask=True)
        self.items = [{"source": source, "design": row} for source, row in zip(sources, design, strict=True)]


class Preprocess:
    """The preprocessing of the training, as a transform of MONAI: from a path to a volume."""

    def __init__(self, bundle_root: str) -> None:
        config = BundleDir(bundle_root).config()
        volumes = config.volumes
        self.pipeline = build_preprocessing(
            volumes.preset, volumes.spacing, volumes.spatial_size, volumes.chain, config.network.spatial_dims
        )

    def __call__(self, item: Mapping[str, Any]) -> dict[str, Any]:
        """Return ``image`` (C, X, Y, Z) float32 and ``design`` (p,)."""
        source: Source = item["source"]
        try:
            volume = preprocess(self.pipeline, source.image, source.mask)
        except UnusableImageError as error:
            raise VolumeError("an image cannot be used", [source.blame(error.problem)]) from None
        return {"image": torch.from_numpy(volume).float(), "design": torch.from_numpy(item["design"])}


class Embedder:
    """Embeds every image of a data loader and writes the spaces as a BIDS derivative.

    Parameters
    ----------
    bundle_root, output_dir : str
    images : Images
        Whose data the loader gives, in order.
    dataloader : iterable of mapping
        ``image`` and ``design``.
    network : nn.Module
    inferer : Inferer
    device : torch.device
    """

    def __init__(
        self,
        bundle_root: str,
        output_dir: str,
        images: Images,
        dataloader: Iterable[Mapping[str, Tensor]],
        network: nn.Module,
        inferer: Inferer,
        device: torch.device,
    ) -> None:
        self.bundle, self.output_dir = BundleDir(bundle_root), Path(output_dir)
        self.images, self.dataloader = images, dataloader
        self.network, self.inferer, self.device = network, inferer, device

    @torch.inference_mode()
    def run(self) -> dict[str, pd.DataFrame]:
        """Return and write the tables, in the manifest's order."""
        found: dict[str, list[np.ndarray]] = {}
        for batch in self.dataloader:
            spaces = self.inferer(batch["image"].to(self.device), self.network, batch["design"].to(self.device))
            for space, values in spaces.items():
                found.setdefault(space, []).append(values.float().cpu().numpy())
        factors = {space: np.concatenate(parts) for space, parts in found.items()}
        factors = erase(factors, load_erasures(self.bundle.weights("erasure")))
        _, facts = load_checkpoint(self.bundle.weights("model"))
        kept = [name for name in ID_COLUMNS if name != "run" or name in self.images.table]
        # Whoever is embedded here is no part of the training's cohort, as far as a bundle knows.
        ids = self.images.table.drop(columns="split", errors="ignore").reindex(columns=kept)
        tables = tabulate_factors(ids.assign(model_id=facts["model_id"]), factors)
        write_embeddings(
            tables, self.output_dir, describe_model(self.bundle.config(), facts["checkpoint"], facts["epoch"])
        )
        return tables
