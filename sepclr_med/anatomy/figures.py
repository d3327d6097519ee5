"""A picture of a factor's maps: axial slices over the template, or over the participants' mean image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np

from sepclr_med.atomic import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CUTS_MM = (-28, -16, -4, 8, 20, 36, 50)
N_CUTS = 7
# Inches: a row of slices with its title, and what stands above and below all rows.
ROW, TITLE, HEAD, FOOT = 1.6, 0.22, 0.3, 0.35
# Colour scales end here: one extreme voxel must not pale the rest.
TOP_SHARE = 99.8


@dataclass(frozen=True)
class Panel:
    """One row of slices.

    Parameters
    ----------
    title : str
    values : float array (X, Y, Z)
    signed : bool
        Two colours about zero, or one from zero up.
    outline : bool array (X, Y, Z) or None
        Drawn as a black line: the significant voxels.
    truth : bool array (X, Y, Z) or None
        Drawn as a green line: what was planted.
    """

    title: str
    values: np.ndarray
    signed: bool
    outline: np.ndarray | None = None
    truth: np.ndarray | None = None


def draw_maps(
    panels: Sequence[Panel],
    affine: np.ndarray,
    path: Path,
    title: str,
    caption: str,
    background: nib.Nifti1Image | None = None,
) -> Path:
    """Draw every panel as a row of axial slices.

    Parameters
    ----------
    panels : sequence of Panel
    affine : float array (4, 4)
    path : Path
        PNG, written atomically.
    title, caption : str
        Above and below.
    background : image or None, default=None
        None means the MNI152 template that comes with nilearn; nothing is downloaded.

    Returns
    -------
    Path
    """
    import matplotlib.backends.backend_agg as agg
    from matplotlib.figure import Figure
    from nilearn.datasets import load_mni152_template

    cuts = CUTS_MM if background is None else _cuts(background)
    background = load_mni152_template(resolution=2) if background is None else background
    height = HEAD + ROW * len(panels) + FOOT
    figure = Figure(figsize=(10, height), facecolor="white")
    agg.FigureCanvasAgg(figure)
    for row, panel in enumerate(panels):
        bottom = 1 - (HEAD + ROW * (row + 1)) / height
        _draw_panel(figure, panel, affine, background, cuts, (0.01, bottom, 0.97, (ROW - TITLE) / height))
        figure.text(0.012, bottom + (ROW - TITLE + 0.03) / height, panel.title, fontsize=9, va="bottom")
    figure.text(0.012, 1 - 0.07 / height, title, fontsize=11, va="top", weight="bold")
    figure.text(0.012, 0.07 / height, caption, fontsize=8, va="bottom")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=130)
    return path


def _draw_panel(
    figure: Figure,
    panel: Panel,
    affine: np.ndarray,
    background: nib.Nifti1Image,
    cuts: Sequence[float],
    place: tuple[float, float, float, float],
) -> None:
    import warnings

    from nilearn.plotting import plot_stat_map

    magnitude = np.abs(panel.values[panel.values != 0])
    top = float(np.percentile(magnitude, TOP_SHARE)) if magnitude.size else 1.0
    with warnings.catch_warnings():
        # Contours of a region that a slice does not meet.
        warnings.simplefilter("ignore")
        display = plot_stat_map(
            nib.Nifti1Image(panel.values.astype(np.float32), affine),
            bg_img=background,
            display_mode="z",
            cut_coords=list(cuts),
            threshold=(0.15 if panel.signed else 0.25) * top,
            vmax=top,
            vmin=-top if panel.signed else 0,
            cmap="RdBu_r" if panel.signed else "inferno",
            black_bg=False,
            annotate=False,
            draw_cross=False,
            figure=figure,
            axes=place,
            colorbar=True,
            cbar_tick_format="%.2g",
        )
        display.annotate(size=7)
        _set_small(display)
        for outline, colour in ((panel.truth, "#009E73"), (panel.outline, "black")):
            if outline is not None and outline.any():
                contour = nib.Nifti1Image(outline.astype(np.float32), affine)
                display.add_contours(contour, levels=[0.5], colors=[colour], linewidths=1.1)


def _set_small(display: Any) -> None:
    bar = getattr(display, "_cbar", None)
    if bar is not None:
        bar.ax.tick_params(labelsize=7)


def _cuts(background: nib.Nifti1Image) -> list[float]:
    """Return slices spread over the middle of an image that is in no template space."""
    depth = background.shape[2]
    heights = np.linspace(0.2, 0.8, N_CUTS) * depth
    return [float(nib.affines.apply_affine(background.affine, [0, 0, height])[2]) for height in heights]
