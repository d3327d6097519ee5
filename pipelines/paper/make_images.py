"""Make the images and the manifest of the SepCLR paper's two synthetic experiments.

python pipelines/paper/make_images.py cifar_mnist OUTPUT_DIR
python pipelines/paper/make_images.py dsprites OUTPUT_DIR --n-train 1000

Both are made from MNIST, the first from CIFAR-10 too. Training images come from the training parts of these, validation
and test images from their test parts, and no photo or digit is used twice.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from sepclr_med import write_manifest
from sepclr_med.cohort.columns import describe_columns
from sepclr_med.errors import UserError
from sepclr_med.rundir import write_json

PROJECT = Path(__file__).resolve().parents[2]
IMAGES2D = PROJECT.parent / "shared" / "data" / "images2d"
SOURCES = {
    "mnist": (("mnist.npz",), "https://keras.io/api/datasets/mnist/"),
    "cifar": (("cifar10.npz", "cifar10_subset_10k_2k.npz"), "https://www.cs.toronto.edu/~kriz/cifar.html"),
}
ARRAYS = ("x_train", "y_train", "x_test", "y_test")
NAMES = {
    "mnist": [f"d{digit}" for digit in range(10)],
    "cifar": ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"],
}
PART = {"train": "train", "val": "test", "test": "test"}
WHITE = 255

SIZE, SUBPIXELS, RENDERED_AT_ONCE = 64, 4, 64
SHAPES = ("square", "ellipse", "heart")
LEVELS = {"scale": 6, "rotation": 40, "x": 32, "y": 32}
# The largest shape reaches 15 of 64 pixels from its centre, which moves over the middle half of the image.
REACH, MARGIN = 15.0, 16.0

DESCRIPTIONS = {
    "object": {"Description": "Class of the CIFAR-10 photo; in every image, so a common variable."},
    "digit": {"Description": "MNIST digit over the photo, d0 to d9; in target images only, so a salient variable."},
    "digit_top_left": {"Description": "MNIST digit at the top left of the grid, d0 to d9; a common variable."},
    "shape": {"Description": "Shape over the grid of digits; this and the next are in target images only: salient."},
    "scale": {"Description": "Size of the shape as a share of the largest."},
    "rotation": {"Description": "Anticlockwise turn of the shape.", "Units": "rad"},
    "rotation_sin": {"Description": "Sine of rotation."},
    "rotation_cos": {"Description": "Cosine of rotation."},
    "x": {"Description": "Horizontal position of the shape, 0 leftmost to 1 rightmost."},
    "y": {"Description": "Vertical position of the shape, 0 topmost to 1 lowest."},
}


class ImagesError(UserError):
    """Files that are not there, or sizes that cannot be had."""


class Deck:
    """Labelled images in random order, each dealt once.

    Parameters
    ----------
    images : ndarray (N, ...)
    labels : ndarray (N,)
    rng : numpy.random.Generator
        Shuffles.
    what : str
        For messages.
    """

    def __init__(self, images, labels, rng, what):
        self.images, self.labels, self.what = images, labels, what
        self.waiting = rng.permutation(len(images))

    def deal(self, n):
        """Return ``n`` images and their labels that were not dealt before."""
        if n > len(self.waiting):
            raise ImagesError(
                f"{n} more of the {len(self.images)} {self.what} images are asked for, and {len(self.waiting)} are "
                "left; fix: smaller --n-train, --n-val or --n-test"
            )
        dealt, self.waiting = self.waiting[:n], self.waiting[n:]
        return self.images[dealt], self.labels[dealt]


def make_cifar_mnist(decks, n):
    """Return n background images, then n target ones: half the photo, and half the photo plus half a digit.

    Parameters
    ----------
    decks : dict of Deck
        ``cifar`` (32 x 32 x 3) and ``mnist`` (28 x 28), uint8.
    n : int
        Images per group.

    Returns
    -------
    pixels : ndarray (2 n, 32, 32, 3), uint8
        Halves are rounded up.
    truth : DataFrame
        ``object`` and ``digit``.
    """
    photos, objects = decks["cifar"].deal(2 * n)
    digits, names = decks["mnist"].deal(n)
    overlay = np.zeros((2 * n, 32, 32, 1), dtype=np.uint16)
    overlay[n:] = pad_digits(digits)[..., None]
    pixels = (photos + overlay + 1) // 2
    truth = pd.DataFrame({"object": objects})
    truth["digit"] = pd.Series(names, index=range(n, 2 * n))
    return pixels.astype(np.uint8), truth


def make_dsprites(decks, n, rng, full_turn=False):
    """Return n background images, then n target ones: digits at half brightness, and a white shape added to them.

    Parameters
    ----------
    decks : dict of Deck
        ``mnist`` (28 x 28, uint8), four for each image.
    n : int
        Images per group.
    rng : numpy.random.Generator
        Draws the factors, each level of each as likely.
    full_turn : bool, default=False
        See :func:`draw_factors`.

    Returns
    -------
    pixels : ndarray (2 n, 64, 64), uint8
    truth : DataFrame
        ``digit_top_left`` and the factors.
    """
    digits, names = decks["mnist"].deal(4 * 2 * n)
    tiles = pad_digits(digits).reshape(2 * n, 2, 2, 32, 32)
    pixels = tiles.swapaxes(2, 3).reshape(2 * n, SIZE, SIZE) / 2
    factors = draw_factors(n, rng, full_turn)
    pixels[n:] += WHITE * render(factors)
    truth = factors.set_axis(range(n, 2 * n)).reindex(range(2 * n))
    truth.insert(0, "digit_top_left", names[::4])
    return np.rint(pixels.clip(max=WHITE)).astype(np.uint8), truth


def pad_digits(digits):
    """Return digits (n, 28, 28) in the middle of 32 x 32 black pixels."""
    return np.pad(digits, ((0, 0), (2, 2), (2, 2)))


def draw_factors(n, rng, full_turn=False):
    """Draw shape, scale, rotation and position of n sprites, independently.

    Parameters
    ----------
    n : int
    rng : numpy.random.Generator
    full_turn : bool, default=False
        Rotations over the whole turn instead of 45 degrees either way, within which no shape looks the same twice.

    Returns
    -------
    DataFrame
        ``shape, scale, rotation, rotation_sin, rotation_cos, x, y``.

    Examples
    --------
    >>> draw_factors(2, np.random.default_rng(0)).shape
    (2, 7)
    """
    shape = rng.choice(SHAPES, n)
    level = {name: rng.integers(count, size=n) for name, count in LEVELS.items()}
    turn = 2 * np.pi if full_turn else np.pi / 2
    rotation = turn * level["rotation"] / LEVELS["rotation"] - (0 if full_turn else turn / 2)
    return pd.DataFrame(
        {
            "shape": shape,
            "scale": 0.5 + 0.5 * level["scale"] / (LEVELS["scale"] - 1),
            "rotation": rotation,
            "rotation_sin": np.sin(rotation),
            "rotation_cos": np.cos(rotation),
            "x": level["x"] / (LEVELS["x"] - 1),
            "y": level["y"] / (LEVELS["y"] - 1),
        }
    )


def render(factors):
    """Return the sprites as the share of each pixel that they cover, (n, 64, 64) float32.

    Parameters
    ----------
    factors : DataFrame
        From :func:`draw_factors`.
    """
    covered = np.empty((len(factors), SIZE, SIZE), dtype=np.float32)
    for start in range(0, len(factors), RENDERED_AT_ONCE):
        some = factors[start : start + RENDERED_AT_ONCE]
        inside = is_inside(some["shape"].to_numpy(), *_sprite_coordinates(some))
        blocks = inside.reshape(len(some), SIZE, SUBPIXELS, SIZE, SUBPIXELS)
        covered[start : start + len(some)] = blocks.mean(axis=(2, 4), dtype=np.float32)
    return covered


def is_inside(shape, u, v):
    """Return whether points lie in the shapes, which reach 1 from their centre; u is right, v is up.

    Parameters
    ----------
    shape : ndarray of str (n,)
    u, v : ndarray (n, ...)

    Returns
    -------
    ndarray of bool (n, ...)
    """
    inside = np.empty(u.shape, dtype=bool)
    of = {name: shape == name for name in SHAPES}
    square, ellipse, heart = (of[name] for name in SHAPES)
    inside[square] = np.maximum(abs(u[square]), abs(v[square])) <= np.sqrt(0.5)
    inside[ellipse] = u[ellipse] ** 2 + 4 * v[ellipse] ** 2 <= 1
    a, b = 1.43 * u[heart], 1.43 * v[heart]
    inside[heart] = (a**2 + b**2 - 1) ** 3 <= a**2 * b**3
    return inside


def _sprite_coordinates(factors):
    """Return the coordinates (n, sub-pixels, sub-pixels) of all sub-pixels in the frame of each sprite."""
    numbers = ("scale", "rotation_sin", "rotation_cos", "x", "y")
    column = {name: factors[name].to_numpy(np.float32)[:, None, None] for name in numbers}
    position = (np.arange(SIZE * SUBPIXELS, dtype=np.float32) + 0.5) / SUBPIXELS
    right = position[None, None, :] - (MARGIN + (SIZE - 2 * MARGIN) * column["x"])
    up = MARGIN + (SIZE - 2 * MARGIN) * column["y"] - position[None, :, None]
    radius = REACH * column["scale"]
    cos, sin = column["rotation_cos"] / radius, column["rotation_sin"] / radius
    return right * cos + up * sin, up * cos - right * sin


def load_sources(names, folder):
    """Read the arrays that the images are made of.

    Parameters
    ----------
    names : sequence of str
        Of :data:`SOURCES`.
    folder : path
        Where the files lie.

    Returns
    -------
    dict of dict of ndarray

    Raises
    ------
    ImagesError
        With every file that is absent and where it comes from.
    """
    folder = Path(folder)
    found = {name: [folder / file for file in SOURCES[name][0] if (folder / file).is_file()] for name in names}
    absent = [
        f"  {' or '.join(SOURCES[name][0])}: arrays {', '.join(ARRAYS)}, from {SOURCES[name][1]}"
        for name, files in found.items()
        if not files
    ]
    if absent:
        raise ImagesError("\n".join([f"not found in {folder} (--images2d names another folder):", *absent]))
    return {name: _read_arrays(files[0]) for name, files in found.items()}


def _read_arrays(file):
    try:
        with np.load(file) as arrays:
            return {key: arrays[key] for key in ARRAYS}
    except (OSError, ValueError, KeyError) as error:
        raise ImagesError(f"{file}: not a file of the arrays {', '.join(ARRAYS)} ({error})") from None


def make_decks(sources, part, rng):
    """Return a :class:`Deck` of each source's ``train`` or ``test`` part."""
    return {
        name: Deck(arrays[f"x_{part}"], np.array(NAMES[name])[arrays[f"y_{part}"]], rng, f"{part} {name}")
        for name, arrays in sources.items()
    }


def write_images(folder, split, pixels, truth):
    """Write the images of a split, background first, and return their rows of the manifest."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    n = len(pixels) // 2
    ids = [f"{split}-{group}-{i:05d}" for group in ("background", "target") for i in range(n)]
    paths = [folder / "images" / f"{name}.png" for name in ids]
    for path, image in zip(paths, pixels, strict=True):
        Image.fromarray(image).save(path)
    rows = {"participant_id": ids, "image_path": list(map(str, paths)), "diagnosis": ["control"] * n + ["patient"] * n}
    return pd.DataFrame({**rows, "split": split}).join(truth)


def make(experiment, folder, sizes, images2d=IMAGES2D, seed=0, full_turn=False):
    """Write images, ``manifest.tsv`` and ``manifest.json``.

    Parameters
    ----------
    experiment : {"cifar_mnist", "dsprites"}
    folder : path
        To write to.
    sizes : dict
        Images of each group in ``train``, ``val`` and ``test``.
    images2d : path
        Folder of the sources.
    seed : int, default=0
    full_turn : bool, default=False
        See :func:`draw_factors`.

    Returns
    -------
    Path
        The manifest.

    Raises
    ------
    ImagesError
        Sources that are absent, or too small for the sizes; a folder that has a manifest already.
    """
    folder = Path(folder)
    if (folder / "manifest.tsv").exists():
        raise ImagesError(f"{folder / 'manifest.tsv'} is there already; fix: another folder, or delete this one")
    rng = np.random.default_rng(seed)
    names = ("cifar", "mnist") if experiment == "cifar_mnist" else ("mnist",)
    sources = load_sources(names, images2d)
    decks = {part: make_decks(sources, part, rng) for part in ("train", "test")}
    rows = []
    for split, n in sizes.items():
        of_part = decks[PART[split]]
        made = (
            make_cifar_mnist(of_part, n) if experiment == "cifar_mnist" else make_dsprites(of_part, n, rng, full_turn)
        )
        rows.append(write_images(folder, split, *made))
    table = pd.concat(rows, ignore_index=True)
    table.attrs["dictionary"] = {
        "diagnosis": {"Levels": {"control": "background image", "patient": "target image"}},
        **{column: entry for column, entry in DESCRIPTIONS.items() if column in table},
    }
    manifest = write_manifest(table, folder / "manifest.tsv")
    write_json(manifest.with_suffix(".json"), describe_columns(table))
    return manifest


def _count(text):
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text} is not a whole number, 0 or more")
    return int(text)


def main(arguments=None):
    """Run the command line; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=["cifar_mnist", "dsprites"])
    parser.add_argument("output", type=Path, help="folder to write to")
    parser.add_argument("--images2d", type=Path, default=IMAGES2D, help="folder of mnist.npz and CIFAR-10's file")
    parser.add_argument("--n-train", type=_count, default=5000, help="training images of each group")
    parser.add_argument("--n-val", type=_count, default=250, help="validation images of each group")
    parser.add_argument("--n-test", type=_count, default=500, help="test images of each group")
    parser.add_argument("--seed", type=_count, default=0)
    parser.add_argument("--full-turn", action="store_true", help="dsprites: rotate over 360 degrees, not 45 either way")
    given = parser.parse_args(arguments)
    sizes = {"train": given.n_train, "val": given.n_val, "test": given.n_test}
    try:
        print(make(given.experiment, given.output, sizes, given.images2d, given.seed, given.full_turn))
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
