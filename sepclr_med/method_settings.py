"""The settings of the method and its objective; the other sections are in :mod:`sepclr_med.settings`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from sepclr_med.settings import Section

LabelKind = Literal["continuous", "discrete"]
METHODS = (
    *("sepclr", "sepclr_paper", "simclr", "supervised", "y_aware", "vae", "cvae", "mm_cvae", "sepvae"),
    *("pca", "cpca", "pcpca", "covariates"),
)
CLOSED_FORM = ("pca", "cpca", "pcpca", "covariates")
TWO_SPACES = ("sepclr", "sepclr_paper", "cvae", "mm_cvae", "sepvae", "cpca", "pcpca")
# What a method differs in from the defaults below, where a recipe says nothing.
PRESETS: dict[str, dict[str, Any]] = {
    "sepclr_paper": {"salient_input": "plain", "independence": "none", "erase_salient": 0},
    **{name: {"salient_input": "plain", "erase_salient": 0} for name in METHODS if not name.startswith("sepclr")},
}


class MethodConfig(Section):
    """The method and its objective. ``docs/methods.md`` says what each is and which of these fields it reads."""

    name: Literal[METHODS] = "sepclr"  # type: ignore[valid-type]
    """``sepclr``: SepCLR on deviations from the normative reference; ``sepclr_paper``: as published (Louiset et al.,
    ICLR 2024); the others are for comparison."""
    common_dim: int = Field(32, ge=1)
    """Size of the common representation."""
    salient_dim: int = Field(32, ge=1)
    """Size of the salient representation (of the only one, in methods of one space)."""
    salient_input: Literal["auto", "plain", "deviation"] = "auto"
    """What the salient encoder sees: the preprocessed image, or how far it lies from the normative reference. ``auto``:
    deviations where a voxel is the same place in every brain (volumes with ``standardise: voxelwise``), else plain."""
    temperature: float = Field(0.5, gt=0)
    """Bandwidth of the Gaussian kernels, the paper's tau."""
    w_salient: float = Field(1.0, ge=0)
    """Weight of the salient term (chest X-ray and fundus setting of the paper)."""
    w_null: float = Field(10.0, ge=0)
    """Weight of the pull of background salient heads to the null vector."""
    w_joint: float = Field(10.0, ge=0)
    """Weight of the joint entropy term (k-JEM)."""
    independence: Literal[
        "none", "hsic", "distance_correlation", "mmd", "mutual_information", "club", "total_correlation"
    ] = "hsic"
    """A further term on target rows that pushes one head away from what the other holds."""
    w_independence: float = Field(10.0, ge=0)
    """Its weight."""
    gives_way: Literal["salient", "common", "both"] = "salient"
    """Which head that term moves. Moving the common one cost it most of what it should hold (docs/ablation.md)."""
    attributes: dict[str, LabelKind] = {}
    """Columns that supervise the first salient factors, one each; the others stay unsupervised."""
    common_attributes: dict[str, LabelKind] = {}
    """Columns known to be shared, such as age, sex and site, by which the common space is arranged (``y_aware``: the
    only space)."""
    w_attributes: float = Field(1.0, ge=0)
    """Weight of both."""
    nuisances: list[str] = []
    """Columns the salient head is pushed away from on target rows (HSIC); one that is not there is warned about."""
    w_nuisance: float = Field(10.0, ge=0)
    """Weight of that."""
    erase: list[str] = []
    """Columns that no straight line may read from the exported salient space of training targets (LEACE, Belrose et
    al. 2023); one that is not there is warned about. What disease shares with them is lost too."""
    erase_salient: int = Field(2, ge=0)
    """Leading axes of the salient space that no straight line may read from the exported common space of training
    targets, erased likewise."""
    salient_variance: Literal["auto"] | Annotated[float, Field(gt=0, le=1)] = "auto"
    """Share of the salient variance of training targets that is exported, on its leading principal axes. What varies
    least among patients is mostly error of the normative reference: sex and site (docs/ablation.md). ``auto``: 0.995 in
    ``sepclr`` on deviations, without ``attributes`` and ``disorder_dim``; else 1, everything."""
    disorder_dim: int = Field(0, ge=0)
    """Salient factors of each diagnosis of ``cohort.target`` alone, beside those that all patients share."""
    beta: float = Field(1.0, ge=0)
    """Weight of the Kullback-Leibler terms of the VAE family."""
    w_matching: float = Field(100.0, ge=0)
    """Weight of what matches distributions in ``mm_cvae``, or pays for dependence in ``cvae`` and ``sepvae``."""
    background_std: float = Field(0.1, gt=0)
    """Standard deviation of the prior of background salient factors in ``sepvae``."""
    contrast: Literal["auto"] | Annotated[float, Field(ge=0)] = "auto"
    """Weight of background covariance in ``cpca`` and ``pcpca``; ``auto``: chosen by a sweep on training rows."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, given: Any) -> Any:
        if not isinstance(given, dict) or not isinstance(given.get("name", ""), str):
            return given
        return {**PRESETS.get(given.get("name", "sepclr"), {}), **given}

    @model_validator(mode="after")
    def _enough_factors(self) -> MethodConfig:
        if len(self.attributes) > self.salient_dim:
            raise ValueError(f"{len(self.attributes)} attributes need as many salient factors, not {self.salient_dim}")
        if self.name in TWO_SPACES and self.erase_salient >= self.common_dim:
            raise ValueError(
                f"erase_salient={self.erase_salient} leaves nothing of a common_dim of {self.common_dim}: set "
                "method.erase_salient=0, or a larger method.common_dim"
            )
        if self.salient_variance not in ("auto", 1) and (self.attributes or self.disorder_dim):
            raise ValueError("salient_variance mixes factors: leave it at 1 with attributes and with disorder_dim")
        return self
