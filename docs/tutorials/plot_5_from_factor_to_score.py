"""
From a factor to the brain to a score
=====================================

A salient space was found; now what does it mean? Which clinical variables go with its factors once age, sex, site and
head size are accounted for, and where in the brain does a factor live?
"""

# %%
# The run of the first tutorial: 40 patients held out, from three sites, seed 0. All tests are about them, as the
# encoder has not seen them. ``link_run`` is what ``sepclr-med link RUN`` calls, and writes tables into the run folder.
#
# Salient axes are arbitrary, so ``salient_003`` of one run is not that of the next. We test *canonical* factors: the
# principal axes of the salient space, fitted on training patients.

import json
import textwrap

import nibabel as nib
from nilearn.plotting import plot_stat_map
from small_study import first_run, show

import sepclr_med as sm
from sepclr_med.analysis.linking import link_run

run = first_run()
found = link_run(
    run,
    variables=["score", "age"],
    covariates=["age", "sex", "site", "tiv"],
    factors=["canonical"],
    n_permutations=2000,
    parts=["prediction"],
)

# %%
# Which factor goes with the score?
# ---------------------------------

links = found.links
columns = ["factor", "variable", "n", "estimate", "effect", "ci_low", "ci_high", "p_value", "p_fwe", "p_fdr", "p_free"]
strongest = links[(links["variable"] == "score") & links["factor"].str.startswith("canonical_0")]
strongest = strongest.sort_values("p_value", kind="stable").head(3)
strongest[columns].round(4)

# %%
# - ``estimate`` is a partial correlation, adjusted for the covariates; its interval is not corrected for having picked
#   the strongest of 32 factors, and flatters.
# - ``p_value`` comes from permutations that stay within a site. Patients of one site resemble each other in ways that
#   have nothing to do with the disease; exchanging everybody with everybody (``p_free``) is a warning, never a result.
# - ``p_fwe`` corrects over the factors, ``p_fdr`` over the variables as well. Bold claims need the last.

best = strongest.iloc[0]
assert best["p_fdr"] <= 0.05
assert best["ci_low"] > 0 or best["ci_high"] < 0

# %%
# What may be said
# ----------------
#
# The sentences that the command prints. They claim only what holds within site and after correction, count the space as
# a whole as well, and call a link with age what it is, a leak.

for verdict in found.verdicts:
    print(textwrap.fill(f"{verdict['level']:8s}{verdict['text']}", 95, subsequent_indent=" " * 8), "\n")

# %%
# Not detected is not absent: with so many patients a test finds, four times in five, an effect of the following size,
# and misses most smaller ones.

smallest = links.loc[links["variable"] == "age", "mde"].dropna().iloc[0]
print(f"smallest detectable effect, one uncorrected test, n = {best['n']:.0f}: {smallest:.2f}")

# %%
# Where does the factor live?
# ---------------------------
#
# ``explain`` asks two things of the factor, again in held-out patients and adjusted for the same covariates: which
# voxels go with it, with p-values corrected over the brain by permutation, and what the encoder reads. The score is
# mapped beside it: if both live in one place, the link is not only a number.

factor = best["factor"]
maps = sm.explain(
    run, factors=[factor], variables=["score"], n_permutations=200, tfce=False, sensitivity=["occlusion"], n_jobs=1
)
maps[["factor", "n", "max_t", "x", "y", "z", "p_fwe", "p_within_site", "n_significant_voxels", "truth", "dice"]].round(
    3
)

# %%
# As the people are simulated, it is known where patients lose grey matter: ``dice`` is the overlap of as many of the
# strongest voxels with the planted region named in ``truth``, 1 at best. The chance level of that overlap is in
# ``maps.json``:

entry = next(
    entry for entry in json.loads((run / "maps" / "maps.json").read_text())["factors"] if entry["factor"] == factor
)
overlap = max((one for one in entry["overlap"] if one["map"] == "t"), key=lambda one: one["dice_equal_volume"])
print(f"{overlap['truth']}: overlap {overlap['dice_equal_volume']:.2f}, by chance {overlap['dice_chance']:.2f}")
assert overlap["dice_equal_volume"] > 2 * overlap["dice_chance"]

# %%
# The picture that ``explain`` draws. Above, t of every voxel (red: more grey matter the larger the factor, blue: less)
# with the significant voxels outlined in black and the planted ones in green; below, what the encoder reads.

show(run / "maps" / f"{factor}.png", f"Maps of {factor}: t of every voxel, and what the encoder reads")

# %%
# The maps are ordinary NIfTI files in MNI space, for any viewer. The score's own map, without any network:

display = plot_stat_map(
    nib.load(run / "maps" / "score_t.nii.gz"),
    display_mode="z",
    cut_coords=[-16, 4, 36],
    threshold=2,
    cmap="RdBu_r",
    black_bg=False,
    title="score: t where |t| > 2, held-out patients",
)

# %%
# And what a reader must know beside the maps:

for note in maps.attrs["notes"]:
    print(textwrap.fill(f"- {note}", 95, subsequent_indent="  "))

# %%
# From here: ``sepclr-med report`` puts card, links and maps on one page. A hypothesis that is to be tested once, on
# people that nobody has looked at, is frozen beforehand: :doc:`/seal`. Columns and methods: :doc:`/link`,
# :doc:`/explain`.
