"""The scikit-learn interface: images and diagnoses in, salient and common factors out.

Everything is done by :func:`sepclr_med.fit` and :func:`sepclr_med.embed`, in a run folder; this class only translates.
"""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from sepclr_med.atomic import atomic_path
from sepclr_med.cohort.embeddings import factor_columns
from sepclr_med.cohort.label_groups import find_targets
from sepclr_med.cohort.manifest import manifest_hash, read_manifest
from sepclr_med.cohort.niimgs import list_adjusted, name_covariates, require_values, tabulate_given
from sepclr_med.config import Config, dump_config, load_config
from sepclr_med.embedding import embed
from sepclr_med.errors import ConfigError, ManifestError, Problem
from sepclr_med.rundir import RunDir
from sepclr_med.training import fit

BACKGROUND, TARGET = "control", "patient"
SPACES = {"salient": ("salient",), "common": ("common",), "both": ("common", "salient")}


class SepCLREstimator(TransformerMixin, BaseEstimator):
    """SepCLR as a scikit-learn transformer: what varies among patients and not among controls, one row per image.

    Parameters
    ----------
    background, target : label or sequence of labels, default=None
        Labels of ``y`` that are controls, and patients. One of the two is enough: the others are the other group.
    space : {"salient", "common", "both"}, default="salient"
        What :meth:`transform` returns; ``both``: common factors, then salient ones.
    preset : {"vbm", "t1w"}, default="vbm"
        Preprocessing: modulated grey-matter maps in MNI space, or T1-weighted images.
    spacing : float, default=3.0
        Voxel size in mm.
    method : str, default="sepclr"
        A name of ``method.name``.
    backbone : str, default="resnet18"
        Encoder; ``small`` trains on a CPU.
    common_dim, salient_dim : int, default=32
        Factors of each space.
    epochs : int, default=100
    batch_size : int, default=64
    random_state : int, RandomState or None, default=0
        Seed of weights, batches and views.
    device : {"auto", "cpu", "cuda", "mps"}, default="auto"
    work_dir : path or None, default=None
        Folder for preprocessed volumes and runs: the same images are preprocessed once, and the same fit is not done
        again. None: a temporary folder that is gone with the estimator; preprocessed volumes live as long as the
        process, shared by clones.
    settings : mapping of str to value or None, default=None
        Any other setting, by its name in a recipe: ``{"training.learning_rate": 3e-4}``. They come last.

    Attributes
    ----------
    classes_ : ndarray
        Labels of ``y``.
    n_background_, n_target_ : int
        Training images of each group.
    covariates_ : list of str
        Columns that are adjusted for, and that :meth:`transform` needs.
    n_features_out_ : int
        Columns of the result.
    run_ : Path
        The run folder, which everything else of the package reads.

    Notes
    -----
    Without ``covariates``, or with ids alone, there is no normative reference: the salient encoder sees the image
    itself (``method.salient_input: plain``), and the salient space may hold age, sex and site as far as patients differ
    in them. With a table of covariates it sees how far the image lies from what controls of the same covariates look
    like.

    An image is known by what its file holds. Those that were trained on are rendered by a reference that was fitted
    without their fold, so that ``fit(...).transform(...)`` of the same images is not more optimistic than it must be;
    scores still need images that were not trained on.

    A pickle holds parameters and the run's files as bytes (safetensors, YAML): weights are not pickled, and reading
    them runs no code. It holds ids of the training images (hashes, or those that were given) and, with covariates,
    names of sites and other classes. It holds no image, path of an image, label or table of covariates; of folders only
    a ``work_dir`` that was given.

    References
    ----------
    Louiset R, Duchesnay E, Grigis A, Gori P. Separating common from salient patterns with contrastive representation
    learning. ICLR 2024, arXiv 2402.11928.

    Examples
    --------
    >>> import tempfile
    >>> from sepclr_med import SepCLREstimator, simulate
    >>> cohort = simulate(tempfile.mkdtemp(), n_train=16, n_test=4, spacing=12.0)
    >>> train, test = (cohort[cohort["split"] == part] for part in ("train", "test"))
    >>> estimator = SepCLREstimator(background="control", spacing=12.0, backbone="small", epochs=1, batch_size=8,
    ...                             common_dim=4, salient_dim=3, device="cpu").set_output(transform="pandas")
    >>> factors = estimator.fit(list(train["image_path"]), train["diagnosis"]).transform(list(test["image_path"]))
    >>> factors.shape, list(factors)
    ((4, 3), ['salient_000', 'salient_001', 'salient_002'])
    """

    def __init__(
        self,
        background: Any = None,
        target: Any = None,
        space: str = "salient",
        preset: str = "vbm",
        spacing: float = 3.0,
        method: str = "sepclr",
        backbone: str = "resnet18",
        common_dim: int = 32,
        salient_dim: int = 32,
        epochs: int = 100,
        batch_size: int = 64,
        random_state: Any = 0,
        device: str = "auto",
        work_dir: str | Path | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.background, self.target, self.space = background, target, space
        self.preset, self.spacing, self.method, self.backbone = preset, spacing, method, backbone
        self.common_dim, self.salient_dim = common_dim, salient_dim
        self.epochs, self.batch_size, self.random_state = epochs, batch_size, random_state
        self.device, self.work_dir, self.settings = device, work_dir, settings

    def fit(self, X: Any, y: Any, covariates: pd.DataFrame | None = None) -> SepCLREstimator:  # noqa: N803
        """Train on images and diagnoses.

        Parameters
        ----------
        X : sequence of path or nibabel image, or one 4-D image
        y : sequence of length n
            Diagnosis of each image.
        covariates : DataFrame of n rows or None, default=None
            Age, sex, site, ...: what is adjusted for. ``participant_id`` and ``family_id`` say which images belong
            together. Columns are recognised as in a manifest: ``Age`` is ``age``, ``Gender`` is ``sex``. Passed on by
            ``Pipeline`` and ``cross_val_score`` with metadata routing (``set_fit_request(covariates=True)``,
            ``set_transform_request(covariates=True)``).

        Raises
        ------
        ConfigError
            When a parameter makes no sense, or the labels do not say who is a control.
        ManifestError
            When covariates have columns that are none, such as the diagnosis, or that are empty, or as
            :func:`sepclr_med.fit`.
        VolumeError, RunError
            As :func:`sepclr_med.fit`.
        """
        covariates = name_covariates(covariates)
        config = self._configure(covariates)
        labels = np.asarray(y) if y is not None else None
        is_target = find_targets(labels, self.background, self.target)
        work = self._open()
        manifest = tabulate_given(X, covariates, work, np.where(is_target, TARGET, BACKGROUND))
        # Settings may name others.
        adjusted = list(config.volumes.normative.covariates) if list_adjusted(covariates) else []
        require_values(manifest, adjusted)
        name = _name_run(manifest, config)
        run = work / "runs" / name
        # A search over what comes behind fits the same twice at once in several processes: one trains, the other waits.
        with _waiting(work / "locks" / f"{name}.lock"):
            fit(manifest, config, run)
        self.run_, self.classes_ = run, np.unique(labels)
        self.n_background_, self.n_target_ = int((~is_target).sum()), int(is_target.sum())
        self.covariates_ = adjusted
        self._factors = None
        self._embed(manifest.iloc[:1])
        return self

    def transform(self, X: Any, covariates: pd.DataFrame | None = None) -> np.ndarray:  # noqa: N803
        """Return the factors of images, shape ``(n, n_features_out_)``, in the order given.

        Parameters
        ----------
        X : sequence of path or nibabel image, or one 4-D image
        covariates : DataFrame of n rows or None, default=None
            Needed when :meth:`fit` was given some.

        Raises
        ------
        NotFittedError
            Before :meth:`fit`.
        ManifestError
            When covariates are missing, or of a site that was not trained on.
        VolumeError
            When images cannot be read.
        """
        check_is_fitted(self, "classes_")
        if self.covariates_ and covariates is None:
            wanted = ", ".join(self.covariates_)
            fix = (
                "transform(X, covariates=...), with set_transform_request(covariates=True) where scikit-learn calls it"
            )
            raise ManifestError("transform: no covariates", [Problem(f"fitted with {wanted}", fix=fix)])
        return self._embed(tabulate_given(X, name_covariates(covariates), self._open()))

    def fit_transform(self, X: Any, y: Any, covariates: pd.DataFrame | None = None) -> np.ndarray:  # noqa: N803
        """Train on images, and return their factors; scores need images that were not trained on."""
        return self.fit(X, y, covariates).transform(X, covariates)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Return the names of the columns, such as ``salient_000``; ``input_features`` is not used."""
        check_is_fitted(self, "classes_")
        return np.asarray(self._factors, dtype=object)

    def __sklearn_tags__(self) -> Any:
        """Say that images are taken, not tables, and that labels are needed."""
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        tags.target_tags.required = True
        return tags

    def __getstate__(self) -> dict[str, Any]:
        """Return parameters and, of a fitted estimator, its run's files as bytes."""
        state = dict(super().__getstate__())
        for name in ("_temporary", "run_"):
            state.pop(name, None)
        if hasattr(self, "classes_"):
            state["_files"] = pack_run(self.run_)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take up parameters, and write the run's files into a temporary folder."""
        files = state.get("_files")
        super().__setstate__({name: value for name, value in state.items() if name != "_files"})
        if files is not None:
            self.run_ = unpack_run(files, _temporary_folder(self))

    def _embed(self, manifest: pd.DataFrame) -> np.ndarray:
        with tempfile.TemporaryDirectory(prefix="sepclr_med-") as folder:
            tables = embed(self.run_, manifest, folder, cache_dir=self._cache())
        tables = [tables[name] for name in SPACES[self.space] if name in tables]
        found = pd.concat([table[factor_columns(table)] for table in tables], axis=1)
        self._factors, self.n_features_out_ = list(found), found.shape[1]
        return found.to_numpy(dtype=np.float64)

    def _configure(self, covariates: pd.DataFrame | None) -> Config:
        if self.space not in SPACES:
            wrong = Problem("space is unknown", got=str(self.space), allowed=", ".join(SPACES))
            raise ConfigError("SepCLREstimator: cannot be used", [wrong])
        given = {
            "cohort.background": [BACKGROUND],
            "cohort.target": [TARGET],
            "volumes.preset": self.preset,
            "volumes.spacing": self.spacing,
            "volumes.cache_dir": str(self._cache()),
            "method.name": self.method,
            "method.common_dim": self.common_dim,
            "method.salient_dim": self.salient_dim,
            "network.backbone": self.backbone,
            "training.epochs": self.epochs,
            "training.batch_size": self.batch_size,
            "training.accelerator": self.device,
            "training.seed": self._seed(),
        }
        if adjusted := list_adjusted(covariates):
            given["volumes.normative.covariates"] = adjusted
        else:
            given["method.salient_input"] = "plain"
        return load_config(
            overrides=[f"{key}={_as_yaml(key, v)}" for key, v in {**given, **(self.settings or {})}.items()]
        )

    def _seed(self) -> int:
        if isinstance(self.random_state, int | np.integer):
            return int(self.random_state)
        return int(check_random_state(self.random_state).randint(2**31))

    def _open(self) -> Path:
        if self.work_dir is not None:
            return Path(self.work_dir).expanduser().absolute()
        if not hasattr(self, "_temporary"):
            self._temporary = _temporary_folder(self)
        return self._temporary

    def _cache(self) -> Path:
        return self._open() / "cache" if self.work_dir is not None else _shared_cache()


def pack_run(run_dir: str | Path) -> dict[str, bytes]:
    """Return the files of a run that embedding needs, by name: no image, path or table of participants.

    Ids are in them and, of a normative reference, names of sites and other classes of covariates.
    """
    run = RunDir(run_dir)
    kept = [run.checkpoint(), run.voxel_pca, run.reference, run.erasure()]
    files = {path.relative_to(run.path).as_posix(): path.read_bytes() for path in kept if path.is_file()}
    config = load_config(run.config)
    placeless = config.model_copy(update={"volumes": config.volumes.model_copy(update={"cache_dir": None})})
    files[run.config.relative_to(run.path).as_posix()] = dump_config(placeless).encode()
    ids = read_manifest(run.manifest)["participant_id"].drop_duplicates()
    rows = "".join(f"{name}\t{name}\tn/a\ttrain\n" for name in ids)
    files[run.manifest.relative_to(run.path).as_posix()] = (
        f"participant_id\timage_path\tdiagnosis\tsplit\n{rows}".encode()
    )
    return files


def unpack_run(files: Mapping[str, bytes], folder: Path) -> Path:
    """Write the files of :func:`pack_run` into a folder, and return it."""
    for name, content in files.items():
        with atomic_path(folder / name) as temporary:
            temporary.write_bytes(content)
    return folder


@functools.cache
def _shared_cache() -> Path:
    return _temporary_folder(SepCLREstimator, "sepclr_med-cache-")


def _temporary_folder(owner: Any, prefix: str = "sepclr_med-") -> Path:
    # That it goes with its owner is meant, which a TemporaryDirectory left to the garbage collector warns of.
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    weakref.finalize(owner, shutil.rmtree, folder, ignore_errors=True)
    return folder


def _as_yaml(key: str, value: Any) -> str:
    try:
        return json.dumps(value.item() if isinstance(value, np.generic) else value)
    except (TypeError, ValueError) as error:
        wrong = Problem(
            str(error), got=repr(value)[:80], allowed="numbers, texts, lists, mappings", fix=f"change {key}"
        )
        raise ConfigError(f"SepCLREstimator: {key}", [wrong]) from None


@contextmanager
def _waiting(lock: Path) -> Iterator[None]:
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        yield


def _name_run(manifest: pd.DataFrame, config: Config) -> str:
    # Of an image's path a manifest's hash knows the name alone; ids that were given say nothing of what the file holds.
    said = [manifest_hash(manifest), *manifest.attrs["contents"], dump_config(config)]
    return hashlib.sha256("\n".join(said).encode()).hexdigest()[:16]
