"""
A recipe of your own
====================

Everything that a run depends on is in one YAML file, a recipe. This page writes one, changes values for a single run,
makes mistakes on purpose, replaces the preprocessing by a chain of MONAI transforms, and asks what training would take
before anyone starts it.
"""

# %%
# What a recipe holds
# -------------------
#
# A recipe lists only what differs from the defaults, and why. Sections are ``cohort``, ``volumes``, ``views``,
# ``method``, ``network``, ``training`` and ``evaluation``; paths are relative to the recipe.

import tempfile
import textwrap
from pathlib import Path

import matplotlib.pyplot as plt

import sepclr_med as sm
from sepclr_med.config import dump_config
from sepclr_med.errors import ConfigError
from sepclr_med.volumes.cache import cache_volumes

temporary = tempfile.TemporaryDirectory()
folder = Path(temporary.name)

recipe = folder / "recipe.yaml"
recipe.write_text(
    """\
# Grey-matter maps of our three scanners, controls and patients.
cohort:
  manifest: cohort/manifest.tsv
volumes:
  preset: vbm
  spacing: 6.0       # mm; for a first look, 2.0 later
network:
  backbone: small    # trains on a CPU
training:
  epochs: 40
  batch_size: 32
"""
)
config = sm.load_config(recipe)
print(f"epochs: {config.training.epochs}, from the recipe")
print(f"learning rate: {config.training.learning_rate}, a default")

# %%
# Every other value is a default, and a run folder keeps all of them, resolved, in ``config.yaml``. How many there are,
# and one section in full:

resolved = dump_config(config)
print(f"{len(resolved.splitlines())} lines, of them {len(recipe.read_text().splitlines())} from the recipe\n")
print(resolved[resolved.index("method:") : resolved.index("network:")])
assert config.method == sm.load_config().method

# %%
# A value for one run
# -------------------
#
# Defaults lie below the recipe, and ``--set section.key=value`` above it. From Python these are the overrides. The same
# for the shell:
#
# .. code-block:: bash
#
#    sepclr-med fit manifest.tsv runs/short -c recipe.yaml --set training.epochs=5 --set method.name=sepclr_paper

short = sm.load_config(recipe, ["training.epochs=5", "method.name=sepclr_paper"])
print(config.training.epochs, "->", short.training.epochs)
print(config.method.salient_input, "->", short.method.salient_input)

# %%
# The second line shows that a method brings settings of its own: the published SepCLR sees plain images with both
# encoders, the default one sees deviations from what controls of the same age, sex, site and head size look like.
#
# A mistake and its message
# -------------------------
#
# A key that does not exist would be the worst kind of mistake, if it were passed over: the run would do something else
# than its recipe says. It is refused, and all mistakes are named at once, each with the nearest known word.


def say(error):
    """Print an error as the command line does, without the folder of this page, and wrapped."""
    for line in str(error).replace(str(folder), ".").splitlines():
        print(textwrap.fill(line, 95, subsequent_indent="      ", break_long_words=False))


wrong = folder / "wrong.yaml"
wrong.write_text("trainig: {epochs: 40}\ntraining: {batch_size: 2}\nnetwork: {backbone: resnet19}\n")
try:
    sm.load_config(wrong)
except ConfigError as error:
    say(error)
    refused = error.problems

assert len(refused) == 3

# %%
# Transforms of your own
# ----------------------
#
# The presets ``vbm`` and ``t1w`` cover grey-matter maps and T1-weighted images. Anything else is a list of MONAI's
# dictionary transforms with their arguments. Here: maps that are smoothed (Gaussian, standard deviation of a
# voxel, which is 6 mm here), and cut to the box in which there is grey matter.

cohort = sm.simulate(folder / "cohort", n_train=24, n_test=0, spacing=6, seed=3)

own = folder / "own.yaml"
own.write_text(
    recipe.read_text().replace(
        "  preset: vbm\n  spacing: 6.0       # mm; for a first look, 2.0 later\n",
        """\
  transforms:
    - {name: Orientationd, axcodes: RAS}
    - {name: GaussianSmoothd, sigma: 1.0}                  # voxels
    - {name: ThresholdIntensityd, threshold: 0.05, cval: 0}  # below: not grey matter
    - {name: CropForegroundd, source_key: image}
  spatial_size: [24, 32, 24]                               # padded or cropped to this
""",
    )
)
print(own.read_text())

# %%
# The cache is where both end up: one array for the cohort, made once. What the networks will see of the first person:


def first_volume(file):
    """Preprocess one image as a recipe says."""
    cached = cache_volumes(cohort.head(1), sm.load_config(file).volumes, folder / "cache")
    return cached.load([0])[0, 0].astype(float)


plain, smooth = first_volume(recipe), first_volume(own)
assert plain.shape != smooth.shape

figure, panels = plt.subplots(1, 2, figsize=(7, 3.6), layout="constrained")
for axes, volume, title in zip(panels, (plain, smooth), ("preset vbm", "own transforms"), strict=True):
    middle = volume.shape[2] // 2
    height, width = (6 * n for n in volume.shape[1::-1])
    shown = axes.imshow(
        volume[:, :, middle].T, origin="lower", cmap="gray", vmin=0, vmax=1, extent=(0, width, 0, height)
    )
    axes.set(title=f"{title}\n{' x '.join(map(str, volume.shape))} voxels", xlabel="left to right (mm)")
panels[0].set_ylabel("back to front (mm)")
bar = figure.colorbar(shown, ax=panels, shrink=0.8)
bar.set_label("grey matter (share of the voxel)")

# %%
# A recipe is data, whoever sent it. Transforms that run code, draw random numbers, write files or reach into other
# libraries are refused; random changes belong to the section ``views``.

for name in ("Lambdad", "RandFlipd"):
    asked = f"volumes.transforms=[{{name: {name}}}]"
    try:
        cache_volumes(cohort.head(1), sm.load_config(overrides=[asked]).volumes, folder / "cache")
    except ConfigError as error:
        say(error)

# %%
# Two things to know before the preset is left behind: cropping moves every brain a little, so that a voxel is no longer
# the same place in everybody, and maps of ``explain`` need a preset in template space. For maps that already lie in one
# space, a list without cropping is the better choice.
#
# What will it take?
# ------------------
#
# ``plan`` tries a few steps with the very network, views and size of volumes, on this machine, for about as many
# seconds as it is given, and writes nothing to the run folder. Here for voxels of 12 mm and one thread, so that it is
# soon done. For the shell, with a script for SLURM:
#
# .. code-block:: bash
#
#    sepclr-med plan manifest.tsv runs/first -c recipe.yaml --sbatch fit.sbatch

quick = sm.load_config(recipe, ["volumes.spacing=12", "training.threads=1"])
found = sm.plan(cohort, quick, folder / "runs" / "first", seconds=10)
assert not (folder / "runs").exists()
found.table()

# %%
# The figures are of the machine that built this page; on a GPU the same call measures its memory as well.
# :doc:`/volumes` has all of preprocessing, :doc:`/methods` what each method reads of its section, :doc:`/large` what to
# do when ``plan`` says days.
