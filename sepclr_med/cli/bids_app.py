"""The BIDS App: its command line, as containers and schedulers expect it, put onto the other verbs."""

import json
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sepclr_med.cli import model, whole
from sepclr_med.cli.application import app
from sepclr_med.cli.options import Assignments, Background, Target, Verbose, group_settings, listed
from sepclr_med.errors import ConfigError, ManifestError, Problem
from sepclr_med.printing import print_problems

if TYPE_CHECKING:
    import pandas as pd

    from sepclr_med.config import Config


class Level(str, Enum):
    """What is analysed at a time."""

    participant = "participant"
    group = "group"


def _hyphenate(word: str) -> str:
    """BIDS Apps write options with underscores."""
    return word.replace("_", "-")


@app.command("bids-app", rich_help_panel="Results", context_settings={"token_normalize_func": _hyphenate})
def run_bids_app(
    bids_dir: Annotated[Path, typer.Argument(help="BIDS folder; it is only read.", show_default=False)],
    output_dir: Annotated[Path, typer.Argument(help="Folder for everything that is made.", show_default=False)],
    level: Annotated[Level, typer.Argument(help="Level of the analysis.", show_default=False)],
    more_labels: Annotated[
        list[str] | None, typer.Argument(hidden=True, help="Further labels: --participant-label 01 02.")
    ] = None,
    participant_label: Annotated[
        list[str] | None,
        typer.Option(metavar="LABEL ...", help="Only these, with or without sub-."),
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option("--recipe", help="Recipe; its section cohort.bids says which images.")
    ] = None,
    trained: Annotated[
        Path | None, typer.Option("--run", help="Level participant: a trained run that embeds them.")
    ] = None,
    background: Background = None,
    target: Target = None,
    assign: Assignments = None,
    verbose: Verbose = False,
) -> None:
    """Run as a BIDS App: each participant's images found, checked and embedded, or the whole job on a group.

    Level participant writes a manifest and a check, and with --run the embeddings, to OUTPUT_DIR/sub-LABEL for each
    label, or to OUTPUT_DIR/participants without labels. Level group does what `run` does, in OUTPUT_DIR/run.

    Example: sepclr-med bids-app /data/study /out group --recipe recipe.yaml --background control --target patient
    """
    labels = _read_labels(participant_label, more_labels)
    if level is Level.participant:
        config = _read_settings(bids_dir, recipe, [*(assign or []), *group_settings(background, target)])
        images = _find(config, bids_dir, labels, recipe)
        # A folder for each, so that jobs that share the participants among them do not write over one another.
        parts = dict(list(images.groupby("participant_id"))) if labels else {"participants": images}
        manifests = [_write(rows, output_dir / name) for name, rows in parts.items()]
        _check_images(manifests, config)
        for manifest in manifests if trained is not None else ():
            model.embed(trained, manifest, manifest.parent / "embeddings")
        return
    if recipe is None or trained is not None:
        fix = "add --recipe FILE, such as pipelines/vbm/recipe.yaml, and leave --run to level participant"
        raise ConfigError("bids-app: level group trains by a recipe", [Problem("no recipe, or --run", fix=fix)])
    config = _read_settings(bids_dir, recipe, assign or [])
    manifest = _write(_find(config, bids_dir, labels, recipe), output_dir)
    whole.run(recipe, output_dir / "run", manifest, background, target, assign=assign)


def _read_settings(bids_dir: Path, recipe: Path | None, settings: list[str]) -> "Config":
    """Return a recipe's configuration with this BIDS folder as its cohort."""
    from sepclr_med import load_config

    place = ["cohort.manifest=null", "cohort.simulate=null", f"cohort.bids.root={json.dumps(str(bids_dir.resolve()))}"]
    return load_config(recipe, [*settings, *place])


def _read_labels(given: list[str] | None, more: list[str] | None) -> list[str]:
    """Return labels without ``sub-``; BIDS Apps write several after one option."""
    if more and not given:
        raise typer.BadParameter(f"unexpected: {' '.join(more)}; labels come after --participant-label")
    parts = [part for text in [*(given or []), *(more or [])] for part in listed(text)]
    return sorted({part.removeprefix("sub-") for part in parts})


def _find(config: "Config", bids_dir: Path, labels: list[str], recipe: Path | None) -> "pd.DataFrame":
    """Return the images of these participants; a label without images is an error."""
    from sepclr_med import find_images
    from sepclr_med.cohort.bids import bids_options
    from sepclr_med.settings import BidsConfig

    images = config.cohort.bids or BidsConfig(root=str(bids_dir))
    table, problems = find_images(bids_dir, **bids_options(images, Path() if recipe is None else recipe.parent))
    absent = [label for label in labels if f"sub-{label}" not in set(table["participant_id"])]
    if absent:
        known = ", ".join(table["participant_id"].head(5))
        wrong = [Problem("no image", got=label, allowed=f"{known}, ...", fix="see the folder") for label in absent]
        raise ManifestError(f"{bids_dir}: participants that are not there", wrong)
    print_problems(problems)
    return table[table["participant_id"].isin([f"sub-{label}" for label in labels])] if labels else table


def _write(images: "pd.DataFrame", folder: Path) -> Path:
    from sepclr_med import write_manifest

    folder.mkdir(parents=True, exist_ok=True)
    return write_manifest(images, folder / "manifest.tsv")


def _check_images(manifests: list[Path], config: "Config") -> None:
    """Open every image, write what is wrong beside each manifest, and stop at what must be mended.

    Only what is said of single images counts: what the groups allow is asked at level group.
    """
    from sepclr_med import check_cohort, read_manifest
    from sepclr_med.cohort.preflight import problems_table
    from sepclr_med.rundir import write_table

    errors: list[Problem] = []
    for manifest in manifests:
        found = check_cohort(read_manifest(manifest), config.cohort.background, config.cohort.target)
        table = problems_table(found)
        write_table(manifest.with_name("problems.tsv"), table[table["participant_id"] != ""])
        wrong = [problem for problem in found.problems if problem.severity == "error" and problem.participant_id]
        errors += wrong
        if not wrong:
            print(f"{found.n_usable} of {found.n_images} images can be used -> {manifest}")
    if errors:
        where = manifests[0] if len(manifests) == 1 else manifests[0].parent.parent
        raise ManifestError(f"{where}: {len(errors)} problem(s) must be mended first", errors)
