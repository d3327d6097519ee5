"""``controls``: what the whole method says where the answer is known, on the user's own images and settings.

Diagnoses exchanged within site, and healthy people half of whom are called patients, must show nothing; atrophy planted
into half of the controls must be found, and from which strength on it is, says what this cohort could have shown.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from sepclr_med.analysis.associations.exchangeability import draw_permutations
from sepclr_med.analysis.controls_figure import draw_controls
from sepclr_med.analysis.disentanglement import background_salient_norm
from sepclr_med.analysis.separation import evaluate
from sepclr_med.analysis.spaces import join_spaces
from sepclr_med.cohort.manifest import assign_roles, manifest_hash
from sepclr_med.cohort.simulate import simulate
from sepclr_med.cohort.simulation.pseudo_patients import check_base_images, read_base
from sepclr_med.cohort.splits import assign_splits
from sepclr_med.config import Config, load_config
from sepclr_med.embedding import embed
from sepclr_med.errors import ConfigError, ManifestError, Problem, RunError, VolumeError, did_you_mean
from sepclr_med.pipeline import read_cohort
from sepclr_med.provenance import record_step
from sepclr_med.rundir import RunDir, read_json, write_json, write_table
from sepclr_med.runs import FREE_KEYS, flatten
from sepclr_med.training import fit

logger = logging.getLogger(__name__)

Kind: TypeAlias = Literal["permuted", "pseudo", "planted"]
KINDS: tuple[Kind, ...] = ("permuted", "pseudo", "planted")
STRENGTHS = (0.1, 0.2, 0.3, 0.4)
# As the two atrophies of `simulate` stand to one another by default.
COMMON_SHARE = 0.875
N_PERMUTATIONS = 199
LEVEL = 0.05
HELD_OUT = 0.33
FEWEST = 24
FEWEST_AT_SITE = 10


def run_controls(
    recipe: str | Path,
    output_dir: str | Path,
    kinds: Sequence[str] = KINDS,
    n_runs: int = 20,
    strengths: Sequence[float] = STRENGTHS,
    overrides: Iterable[str] = (),
    keep: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> pd.DataFrame:
    """Train the recipe's method on cohorts whose truth is known, made of the recipe's own images.

    ``test`` rows take no part: every run divides the others anew, two thirds to train on and one third held out. What
    is finished is not done again; the same call goes on where it stopped.

    Parameters
    ----------
    recipe : path
    output_dir : path
        ``controls.tsv``, ``controls.json`` and ``controls.png`` are written here. A report shows those under
        ``RUN_DIR/controls``.
    kinds : sequence of {"permuted", "pseudo", "planted"}, default=all
        ``permuted``: diagnoses change hands within site, relatives together. ``pseudo``: controls only, half of each
        site called patients. ``planted``: grey matter taken from half of the controls, as
        :func:`sepclr_med.simulate` does it; for maps in template space only.
    n_runs : int, default=20
        Runs of each kind, and of each strength.
    strengths : sequence of float, default=(0.1, 0.2, 0.3, 0.4)
        Fraction of grey matter lost in the core of a planted region at full severity.
    overrides : iterable of str, default=()
        ``section.key=value`` over the recipe.
    keep : bool, default=False
        Keep run folders and planted images.
    say : callable, default=silent
        Told what is done.

    Returns
    -------
    DataFrame
        One row per run, also of earlier calls in this folder: ``kind strength run n``; of held-out participants, from
        the salient space, ``accuracy`` of the made-up diagnosis (balanced, chance 0.5), its permutation ``p_value``,
        ``norm_auc`` (distance from the mean of training controls, patients against controls), and for planted atrophy
        ``severity_r2``.

    Raises
    ------
    ConfigError
        For unknown kinds or strengths.
    ManifestError
        With too few participants.
    VolumeError
        When atrophy cannot be planted into the images; nothing was trained by then.
    """
    started = datetime.now(timezone.utc)
    folder, config = Path(output_dir), load_config(recipe, overrides)
    _check(kinds, strengths, n_runs)
    cohort = read_cohort(config.cohort, recipe, RunDir(folder / "source"))
    roles = assign_roles(cohort, config.cohort.background, config.cohort.target)
    rows = cohort[roles.notna() & cohort["split"].ne("test")].reset_index(drop=True)
    is_control = rows["diagnosis"].isin(config.cohort.background)
    rows["diagnosis"] = np.where(is_control, "control", "patient")
    # These rows are those that are not sealed.
    rows.attrs.pop("ledger", None)
    _require_enough(rows)
    rows = _leave_small_sites_out(rows)
    _require_enough(rows)
    planned = [(kind, 0.0, run) for kind in kinds if kind != "planted" for run in range(n_runs)]
    planned += [("planted", s, run) for s in strengths if "planted" in kinds for run in range(n_runs)]
    if any(not (folder / "runs" / f"{_name(*one)}.tsv").is_file() for one in planned if one[0] == "planted"):
        _require_plantable(rows)
    _require_same_settings(folder, config, rows)
    for kind, strength, run in planned:
        name = _name(kind, strength, run)
        file = folder / "runs" / f"{name}.tsv"
        if not file.is_file():
            made = make_cohort(rows, kind, run, strength, folder / "planted" / name)
            row = _measure(made, config, folder, name, run)
            write_table(file, pd.DataFrame([{"kind": kind, "strength": strength, "run": run, **row}]))
            if not keep:
                shutil.rmtree(folder / "planted" / name, ignore_errors=True)
                shutil.rmtree(folder / "runs" / name, ignore_errors=True)
        found = _read_run(file)
        say(f"{name}: balanced accuracy {found['accuracy'].iloc[0]:.2f} (p {found['p_value'].iloc[0]:.3f})")
    table = _read_all(folder)
    done = list(table["kind"].unique())
    write_table(folder / "controls.tsv", table)
    write_json(folder / "controls.json", {"kinds": done, "summary": summarise(table)})
    draw_controls(table, folder / "controls.png")
    record_step(folder / "provenance.json", "controls", started, {"kinds": list(kinds), "n_runs": n_runs})
    return table


def make_cohort(rows: pd.DataFrame, kind: str, run: int, strength: float, folder: Path) -> pd.DataFrame:
    """Return a cohort whose diagnosis means nothing, or just what was planted; divided anew.

    Parameters
    ----------
    rows : DataFrame
        Images of ``control`` and ``patient``.
    kind : {"permuted", "pseudo", "planted"}
    run : int
        Seed.
    strength : float
        Of planted atrophy.
    folder : Path
        Of planted images.

    Examples
    --------
    >>> ids = [f"{number:02}" for number in range(12)]
    >>> rows = pd.DataFrame({"participant_id": ids, "diagnosis": ["control", "patient"] * 6, "site": ["a"] * 12})
    >>> made = make_cohort(rows, "permuted", 0, 0.0, Path("unused"))
    >>> sorted(made["diagnosis"]) == sorted(rows["diagnosis"]), made["split"].value_counts().to_dict()
    (True, {'train': 8, 'test': 4})
    """
    controls = rows[rows["diagnosis"] == "control"]
    if kind == "planted":
        made = simulate(
            folder, 2, 0, 1, seed=run, base=controls.drop(columns=["split", "fold"], errors="ignore"),
            atrophy=strength, common_atrophy=COMMON_SHARE * strength,
        )  # fmt: skip
        return made
    made = (rows if kind == "permuted" else controls).drop(columns=["split", "fold"], errors="ignore")
    people = made.drop_duplicates("participant_id").reset_index(drop=True)
    rng = np.random.default_rng([run, KINDS.index(kind)])
    site = people["site"].astype(str).to_numpy() if "site" in people else np.full(len(people), "")
    if kind == "permuted":
        families = people.get("family_id", people["participant_id"])
        families = families.where(families.notna(), people["participant_id"]).to_numpy()
        drawn = people["diagnosis"].to_numpy()[draw_permutations(1, site, families, rng)[0]]
    else:
        order = pd.Series(rng.permutation(len(people))).groupby(site).rank(method="first").to_numpy().astype(int)
        # The odd one out of a site falls to either group by chance.
        odd = pd.Series(rng.integers(0, 2, len(people))).groupby(site).transform("first").to_numpy()
        drawn = np.where((order + odd) % 2 == 0, "patient", "control")
    made = made.assign(diagnosis=made["participant_id"].map(dict(zip(people["participant_id"], drawn, strict=True))))
    return assign_splits(made.reset_index(drop=True), HELD_OUT, 0.0, ["diagnosis", "site"], seed=run)


def summarise(table: pd.DataFrame) -> list[dict]:
    """Return, for each kind and strength, mean figures and how often something was found (p of 0.05 or less).

    Examples
    --------
    >>> table = pd.DataFrame({"kind": "pseudo", "strength": 0.0, "accuracy": [0.5, 0.6], "norm_auc": 0.5,
    ...                       "severity_r2": np.nan, "p_value": [0.5, 0.04]})
    >>> found = summarise(table)[0]
    >>> found["n_runs"], found["n_found"], round(found["found_high"], 2)
    (2, 1, 0.99)
    """
    said = []
    for (kind, strength), rows in table.groupby(["kind", "strength"], sort=False):
        n = int((rows["p_value"] <= LEVEL).sum())
        interval = binomtest(n, len(rows)).proportion_ci(0.95)
        figures = {
            name: float(rows[name].mean())
            for name in ("accuracy", "norm_auc", "severity_r2")
            if rows[name].notna().any()
        }
        said.append(
            {"kind": kind, "strength": float(strength), "n_runs": len(rows), **figures,
             "accuracy_sd": float(rows["accuracy"].std()), "n_found": n,
             "found_low": float(interval.low), "found_high": float(interval.high)}
        )  # fmt: skip
    return said


def _measure(made: pd.DataFrame, config: Config, folder: Path, name: str, run: int) -> dict[str, float]:
    run_dir = folder / "runs" / name
    cohort = config.cohort.model_copy(update={"background": ["control"], "target": ["patient"]})
    training = config.training.model_copy(update={"seed": config.training.seed + run})
    cache = folder / "planted" / f"{name}-cache" if name.startswith("planted") else folder / "cache"
    volumes = config.volumes.model_copy(update={"cache_dir": str(config.volumes.cache_dir or cache)})
    fit(
        made,
        config.model_copy(update={"cohort": cohort, "training": training, "volumes": volumes}),
        run_dir,
        overwrite=True,
    )
    salient = {"salient": embed(run_dir)["salient"]}
    shutil.rmtree(folder / "planted" / f"{name}-cache", ignore_errors=True)
    asked = ["diagnosis", *(["severity"] if "severity" in made and name.startswith("planted") else [])]
    table = evaluate(
        salient, made, asked, ["patient"], n_bootstrap=0, n_permutations=N_PERMUTATIONS, background=["control"]
    )
    table = table[(table["space"] == "salient") & (table["scheme"] == "held-out")]
    figures = table.set_index(["variable", "metric"])
    space = join_spaces(salient, made)[0]
    held, ill = (space.rows[name].eq(value).to_numpy() for name, value in (("split", "test"), ("diagnosis", "patient")))
    return {
        "n": int(space.rows.loc[held, "participant_id"].nunique()),
        "accuracy": float(figures.loc[("diagnosis", "balanced_accuracy"), "value"]),
        "p_value": float(figures.loc[("diagnosis", "balanced_accuracy"), "p_value"]),
        "norm_auc": auc_of_length(space.features, ill, held),
        "severity_r2": float(figures["value"].get(("severity", "r2"), np.nan)),
    }


def auc_of_length(features: np.ndarray, is_patient: np.ndarray, held_out: np.ndarray) -> float:
    """Return how well the distance from the mean of training controls tells held-out patients from held-out controls.

    Examples
    --------
    >>> features = np.array([[5.0, 0.0], [6.0, 0.0], [5.5, 0.0], [0.0, 0.0]])
    >>> auc_of_length(features, np.array([False, False, False, True]), np.array([False, False, True, True]))
    1.0
    """
    centre = features[~is_patient & ~held_out].mean(axis=0)
    return background_salient_norm(features[held_out], is_patient[held_out], centre)[1]


def _check(kinds: Sequence[str], strengths: Sequence[float], n_runs: int) -> None:
    wrong = [
        Problem("no such control", got=kind, allowed=", ".join(KINDS), fix=did_you_mean(kind, list(KINDS)))
        for kind in kinds
        if kind not in KINDS
    ]
    wrong += [Problem("a strength", got=f"{s:g}", allowed="more than 0, up to 1") for s in strengths if not 0 < s <= 1]
    if n_runs < 1:
        wrong.append(Problem("runs", got=str(n_runs), allowed="1 or more"))
    if wrong or not kinds:
        raise ConfigError("controls: what should be run?", wrong or [Problem("no control", allowed=", ".join(KINDS))])


def _leave_small_sites_out(rows: pd.DataFrame) -> pd.DataFrame:
    if "site" not in rows:
        return rows
    controls = rows[rows["diagnosis"] == "control"].groupby("site")["participant_id"].nunique()
    small = sorted(set(rows["site"].dropna()) - set(controls.index[controls >= FEWEST_AT_SITE]))
    if small:
        logger.warning(
            "controls: %s left out, with fewer than %d controls each: half of two thirds of them would be too few to "
            "say what is normal there", ", ".join(map(str, small)), FEWEST_AT_SITE,
        )  # fmt: skip
    return rows[~rows["site"].isin(small)].reset_index(drop=True)


def _name(kind: str, strength: float, run: int) -> str:
    return f"{kind}{f'-{strength:g}' if strength else ''}_{run}"


def _read_run(file: Path) -> pd.DataFrame:
    return pd.read_csv(file, sep="\t", na_values=["n/a"], keep_default_na=False)


def _read_all(folder: Path) -> pd.DataFrame:
    """Return all runs of a folder, also those that an earlier call with other kinds or strengths made."""
    table = pd.concat([_read_run(file) for file in (folder / "runs").glob("*.tsv")], ignore_index=True)
    order = table["kind"].map(KINDS.index)
    return table.assign(order=order).sort_values(["order", "strength", "run"], ignore_index=True).drop(columns="order")


def _require_plantable(rows: pd.DataFrame) -> None:
    """Refuse images that atrophy cannot be planted into, before hours of training on the other kinds."""
    base = read_base(rows[rows["diagnosis"] == "control"], None)
    try:
        check_base_images(base["image_path"].tolist())
    except VolumeError as error:
        summary = (
            "controls: planted atrophy needs grey-matter maps in template space; --kinds permuted,pseudo does without"
        )
        raise VolumeError(summary, error.problems) from None


def _require_same_settings(folder: Path, config: Config, rows: pd.DataFrame) -> None:
    """Refuse to mix what was done with other settings or people with what is to be done."""
    settings = flatten(config.model_dump(mode="json"))
    kept = {key: value for key, value in settings.items() if not key.startswith(FREE_KEYS)}
    said = hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()
    now = {"settings_sha256": said, "rows_sha256": manifest_hash(rows)}
    file = folder / "plan.json"
    if file.is_file() and read_json(file) != now:
        raise RunError(f"{folder}: holds controls of other settings or participants; use another folder, or delete it")
    write_json(file, now)


def _require_enough(rows: pd.DataFrame) -> None:
    n = rows.loc[rows["diagnosis"] == "control", "participant_id"].nunique()
    if n < FEWEST:
        few = Problem(f"{n} controls outside the test part", allowed=f"{FEWEST} or more",
                      fix="two thirds of half of them would train as patients")  # fmt: skip
        raise ManifestError("controls: too few controls", [few])
