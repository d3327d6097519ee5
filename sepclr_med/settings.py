"""The sections of the configuration, field by field.

Every field says what it is, in which unit, and the default is the setting of the medical recipes unless a comment
names another source. Models are frozen and refuse unknown keys.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Section(BaseModel):
    """Common behaviour of all sections: frozen, unknown keys refused, field docstrings kept for the schema."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class OwnCode(Section):
    """A Python object in the place of settings; written by :func:`sepclr_med.use`."""

    python: str | None = None
    """``package.module:name`` to import it by; none where it has no such name."""
    sha256: str
    """Hash of what it holds (:func:`sepclr_med.own_code.fingerprint`)."""


class BidsConfig(Section):
    """A BIDS folder that becomes the manifest (the options of ``sepclr-med manifest``)."""

    root: str
    """The BIDS folder, absolute or relative to the recipe."""
    cohort: str | None = None
    """Importer of a known cohort, such as ``abide1`` (``sepclr-med manifest --cohort list``), or the path of a YAML,
    absolute or relative to the recipe."""
    participants: str | None = None
    """Table of participants, absolute or relative to ``root``; none means ``participants.tsv``, or the cohort's."""
    suffix: str | None = None
    """BIDS suffix of the images, such as ``T1w`` or ``probseg``; none means what the cohort says, else ``T1w``."""
    derivative: str | None = None
    """Name of a folder under ``derivatives/``; none means the raw images."""
    entities: dict[str, str] = {}
    """Entities an image must carry, such as ``{label: GM, desc: mod}``."""
    diagnosis_column: str | None = None
    """Column of participants.tsv with the diagnosis; none means ``diagnosis`` or the usual names for it."""
    diagnosis: str | None = None
    """Diagnosis of everyone, for a dataset of one group."""
    rename: dict[str, str] = {}
    """Columns to rename, table's name to manifest's name."""
    phenotype: bool = False
    """Also join ``phenotype/*.tsv``."""
    sessions: bool = False
    """Also join ``*_sessions.tsv``."""


class SplitConfig(Section):
    """How participants are divided when the manifest has no ``split`` column."""

    test_size: float = Field(0.2, ge=0, lt=1)
    """Share of participants held out for the final figures."""
    val_size: float = Field(0.1, ge=0, lt=1)
    """Share of participants for validation during training."""
    stratify: list[str] = ["diagnosis", "site"]
    """Columns whose joint distribution the parts should share: these as far as they are there, of another list each."""
    leave_site_out: str | None = None
    """Name of one site that is the test set as a whole."""
    seed: int = Field(0, ge=0)
    """Seed of the division."""


class CohortConfig(Section):
    """Which images, and who belongs to which group."""

    manifest: str | None = None
    """Manifest file, absolute or relative to the recipe."""
    bids_root: str | None = None
    """Folder that image paths are relative to; none means the manifest's folder."""
    bids: BidsConfig | None = None
    """A BIDS folder to read instead of a manifest."""
    simulate: dict[str, Any] | None = None
    """Arguments of :func:`sepclr_med.simulate` to make the cohort instead of reading one."""
    background: list[str] = ["control"]
    """Values of ``diagnosis`` that are controls."""
    target: list[str] = ["patient"]
    """Values of ``diagnosis`` that are patients."""
    split: SplitConfig = SplitConfig()

    @model_validator(mode="after")
    def _one_source(self) -> CohortConfig:
        given = [name for name in ("manifest", "bids", "simulate") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"give one source of the cohort, not {' and '.join(given)}")
        both = sorted(set(self.background) & set(self.target))
        if both:
            raise ValueError(f"diagnosis {', '.join(both)} is in both background and target")
        return self


class NormativeConfig(Section):
    """The normative reference: what an image of a control of this age, sex, site and head size looks like."""

    covariates: list[str] = ["age", "sex", "site", "tiv"]
    """Columns whose effect on controls is taken out of deviations: these as far as the manifest has them, of another
    list each. A new participant needs the same columns, and a site of its own controls."""
    pooled: list[str] = ["site"]
    """Covariates among these whose effect is taken to be the same in patients as in controls, as harmonisation does:
    patients, with effects of the others of their own, help to estimate it. Where patients of one site are more ill,
    that is taken for the site."""
    borrow: bool = True
    """Let patients help to estimate the effects of the other covariates, as far as these look the same in them; off:
    controls alone."""
    n_components: Literal["auto"] | Annotated[int, Field(ge=0)] = "auto"
    """Leading components of controls' residuals that are taken out as well; ``auto``: the number under which held-out
    controls are most likely."""
    model: Literal["pca", "ppca"] = "pca"
    """``pca`` takes components out whole, ``ppca`` shrinks each by its share of noise."""
    folds: int = Field(5, ge=1)
    """Training rows are rendered by references fitted without them, in so many folds. 1 is for comparison only:
    controls then look more normal than they are, and the salient encoder learns that."""

    @model_validator(mode="after")
    def _pooled_are_covariates(self) -> NormativeConfig:
        known = {*self.covariates, *NormativeConfig.model_fields["pooled"].default}
        if unknown := [name for name in self.pooled if name not in known]:
            raise ValueError(f"pooled: {', '.join(unknown)} not among covariates: {', '.join(self.covariates)}")
        return self


class VolumesConfig(Section):
    """Deterministic preprocessing and its cache."""

    preset: Literal["t1w", "vbm"] = "vbm"
    """``t1w``: raw or skull-stripped T1w; ``vbm``: modulated grey-matter maps in template space."""
    transforms: list[dict[str, Any]] | None = None
    """MONAI dictionary transforms that replace the preset, each ``{name: ..., argument: value}``."""
    code: OwnCode | None = None
    """A chain of transforms that replaces both, given from Python."""
    spacing: float = Field(3.0, gt=0)
    """Voxel size in mm."""
    spatial_size: list[int] | None = None
    """Voxels per axis; none means the template's brain box at ``spacing``, rounded up to a multiple of 8."""
    standardise: Literal["none", "voxelwise"] = "voxelwise"
    """``voxelwise``: subtract mean and divide by standard deviation of the training background, per voxel."""
    normative: NormativeConfig = NormativeConfig()
    cache_dir: str | None = None
    """Folder of preprocessed volumes, relative to where the command runs; none means ``cache`` beside the run folder,
    shared by runs there."""
    on_error: Literal["stop", "skip"] = "stop"
    """What an unreadable image does: stop with all of them named, or skip them, named and counted."""
    n_jobs: Literal[-1] | Annotated[int, Field(ge=1)] = -1
    """Images preprocessed at a time; -1 means one per core."""
    resident_share: float = Field(0.5, ge=0, le=1)
    """Share of a GPU's free memory that preprocessed volumes may take. A cohort that takes more is read ahead from the
    cache file instead, as always on CPUs."""

    @property
    def chain(self) -> list[dict[str, Any]] | OwnCode | None:
        """What replaces the preset."""
        return self.code or self.transforms


class ViewsConfig(Section):
    """Random views. Each part is applied to a volume with its probability; ranges are symmetric about no change."""

    affine: float = Field(1.0, ge=0, le=1)
    """Probability of a random rotation, scaling and shift."""
    rotation: float = Field(8.0, ge=0, le=180)
    """Largest rotation about each axis, in degrees."""
    scaling: float = Field(0.08, ge=0, lt=1)
    """Largest relative change of size per axis."""
    translation: float = Field(0.05, ge=0, lt=1)
    """Largest shift per axis, as a share of the volume's extent."""
    flip: float = Field(0.0, ge=0, le=1)
    """Probability of a left-right flip; off by default because brains are asymmetric."""
    elastic: float = Field(1.0, ge=0, le=1)
    """Probability of a smooth random deformation."""
    elastic_std: float = Field(0.5, ge=0)
    """Largest standard deviation of the displacement of its control points per axis, in voxels."""
    elastic_length: float = Field(4.0, ge=1)
    """Distance of the deformation's control points, in voxels."""
    crop: float = Field(0.0, ge=0, le=1)
    """Probability of a crop resized to the full grid."""
    crop_scale: float = Field(0.8, gt=0, le=1)
    """Smallest edge of that crop, as a share of the volume's edge."""
    intensity: float = Field(0.0, ge=0, le=1)
    """Probability of a random scale and shift of intensities; off by default because global atrophy is one."""
    intensity_scale: float = Field(0.1, ge=0, lt=1)
    """Largest relative change of intensities."""
    intensity_shift: float = Field(0.1, ge=0)
    """Largest shift, in standard deviations of the volume."""
    gamma: float = Field(0.0, ge=0, le=1)
    """Probability of a gamma change."""
    gamma_range: float = Field(0.3, ge=0)
    """Largest absolute logarithm of gamma."""
    bias_field: float = Field(0.0, ge=0, le=1)
    """Probability of a smooth multiplicative field."""
    bias_strength: float = Field(0.3, ge=0)
    """Largest absolute logarithm of that field."""
    noise: float = Field(0.5, ge=0, le=1)
    """Probability of added Gaussian noise."""
    noise_std: float = Field(0.3, ge=0)
    """Largest standard deviation of the noise, in standard deviations of the volume."""
    blur: float = Field(0.0, ge=0, le=1)
    """Probability of Gaussian blur."""
    blur_sigma: float = Field(1.0, gt=0)
    """Largest sigma of the blur, in voxels; the smallest is a quarter of it."""
    cutout: float = Field(0.5, ge=0, le=1)
    """Probability of one box set to zero."""
    cutout_size: float = Field(0.25, gt=0, le=1)
    """Edge of that box, as a share of the volume's edge."""
    transforms: list[dict[str, Any]] | None = None
    """MONAI dictionary transforms, random or not, that replace all of the above, each ``{name: ..., argument: value}``.
    They act on one volume after the other, which takes longer."""
    code: OwnCode | None = None
    """A chain of transforms that replaces all of the above, given from Python."""

    @property
    def chain(self) -> list[dict[str, Any]] | OwnCode | None:
        """What replaces the views above."""
        return self.code or self.transforms


class NetworkConfig(Section):
    """Encoders and heads."""

    backbone: Literal["small", "resnet10", "resnet18", "resnet50", "densenet121"] = "resnet18"
    """One encoder per space; ``small`` trains on a CPU."""
    encoder: dict[str, Any] | None = None
    """Any network of MONAI in the place of ``backbone``: ``{_target_: DenseNet121, argument: value}``. The values
    ``"@spatial_dims"``, ``"@in_channels"``, ``"@n_features"`` and ``"@spatial_size"`` stand for what the run needs."""
    code: OwnCode | None = None
    """A function that builds an encoder in the place of ``backbone``, given from Python."""
    spatial_dims: Literal[2, 3] = 3
    """3 for volumes, 2 for images."""
    width: int = Field(8, ge=1)
    """Channels of the first stage of ``small``."""
    head_hidden: int = Field(128, ge=1)
    """Hidden units of the heads."""
    norm: Literal["batch", "group"] = "batch"
    """Normalisation: ``batch`` as in the paper; ``group`` treats each image alone, so that neither ``micro_batch`` nor
    the number of processes changes the mathematics."""

    @property
    def called(self) -> str:
        """What the encoder is called in tables and messages."""
        if self.code is not None:
            return self.code.python or "an encoder of one's own"
        return str(self.encoder.get("_target_")) if self.encoder is not None else self.backbone


class TrainingConfig(Section):
    """The optimisation."""

    epochs: int = Field(100, ge=1)
    """Passes over the larger group."""
    batch_size: int = Field(64, ge=4)
    """Participants' images per step, half of them background."""
    learning_rate: float = Field(1e-3, gt=0)
    """Peak of the schedule: linear warm-up, then cosine to zero."""
    weight_decay: float = Field(0.05, ge=0)
    """Of AdamW."""
    warmup: float = Field(0.1, ge=0, lt=1)
    """Share of all steps in which the learning rate rises."""
    gradient_clip: float = Field(1.0, gt=0)
    """Largest norm of the gradient."""
    micro_batch: int | None = Field(None, ge=2)
    """Images per process that are in memory at a time; none means all of a step. The loss is still that of the whole
    ``batch_size`` (gradient caching), for one more forward pass."""
    precision: Literal["auto", "32-true", "bf16-mixed"] = "auto"
    """``auto``: bf16-mixed on GPUs that have it, 32-true elsewhere. On a CPU bf16-mixed is tried on a small network
    first and refused when its gradients are wrong on this machine."""
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Kind of device; ``auto`` takes a GPU where there is one."""
    devices: int | None = Field(None, ge=1)
    """Processes per node, each on a GPU of its own (or sharing the CPU); none means what torchrun or SLURM started,
    else one."""
    num_nodes: int | None = Field(None, ge=1)
    """Machines; none means what torchrun or SLURM started, else one."""
    threads: int | None = Field(None, ge=1)
    """CPU threads of each process; none shares the cores this job may use among the processes of a node."""
    compile: Literal["none", "default", "reduce-overhead"] = "none"
    """``default``: torch.compile fuses the encoders' kernels, which costs a minute or more at the start;
    ``reduce-overhead`` adds CUDA graphs."""
    checkpoint_activations: bool = False
    """Keep only what enters each block and compute the rest again in the backward pass: less memory, more time."""
    seed: int = Field(0, ge=0)
    """Seed of weights, batches and views."""
    validate_every: int = Field(5, ge=1)
    """Epochs between looks at the validation part."""


class EvaluationConfig(Section):
    """What the spaces hold, and what it has to do with the clinical variables."""

    variables: list[str] | None = None
    """Columns to probe and to link; none means the diagnosis and every column with enough values."""
    n_bootstrap: int = Field(1000, ge=0)
    """Resamples of participants behind each interval."""
    n_permutations: int = Field(10_000, ge=99)
    """Permutations behind each p-value of ``link``."""
    covariates: list[str] = ["age", "sex", "site", "tiv"]
    """Columns ``link`` and ``explain`` adjust for: these as far as the manifest has them, of another list each."""
    blocks: list[str] = ["site"]
    """Columns within whose values permutations stay: site if the manifest has it, of another list each."""
    factors: list[Literal["salient", "canonical"]] = ["salient", "canonical"]
    """Factors ``link`` tests: the axes as trained, and canonical ones."""
    canonical: Literal["pca", "varimax"] = "pca"
    """How canonical factors are rotated."""
    families: dict[str, list[str]] = {}
    """Variables corrected together; those not named are in ``clinical`` or ``shared``."""
    batteries: dict[str, list[str]] = {}
    """Columns to be reduced to one first component each."""
    measures: dict[str, Literal["continuous", "ordinal", "binary", "categorical"]] = {}
    """What a column measures, where its sidecar or its values mislead."""
    smallest_icc: float = Field(0.75, ge=0, le=1)
    """Of a cross-fit: least agreement of its models (intraclass correlation) on a factor that ``link`` tests; 0 tests
    every factor."""
    explain: int = Field(2, ge=0)
    """Factors to be mapped on the brain, those most linked with a clinical variable first; 0 leaves maps out."""
    explain_permutations: int = Field(500, ge=99)
    """Permutations behind each map."""
    voxel_pca_components: int = Field(32, ge=1)
    """Components of the voxel baseline, fitted on training rows."""
    checkpoint: Literal["last", "best"] = "last"
    """Which weights embed: ``best`` has the lowest validation loss."""
    seed: int = Field(0, ge=0)
    """Seed of folds, resamples and permutations."""
