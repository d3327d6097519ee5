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

    Level participant writes a manifest and a check, and with --run the embeddings, to OUTPUT_DIR/sub-LABEL, or to
    OUTPUT_DIR/participants when there are several. Level group does what `run` does, in OUTPUT_DIR/run.

    Example: sepclr-med bids-app /data/study /out group --recipe recipe.yaml --background control --target patient
    """
    labels = _read_labels(participant_label, more_labels)
    if level is Level.participant:
        folder = output_dir / (f"sub-{labels[0]}" if len(labels) == 1 else "participants")
        config = _read_settings(bids_dir, recipe, [*(assign or []), *group_settings(background, target)])
        _check_images(_find(config, bids_dir, labels, folder, recipe), config)
        if trained is not None:
            model.embed(trained, folder / "manifest.tsv", folder / "embeddings")
        return
    if recipe is None or trained is not None:
        fix = "add --recipe FILE, such as pipelines/vbm/recipe.yaml, and leave --run to level participant"
        raise ConfigError("bids-app: level group trains by a recipe", [Problem("no recipe, or --run", fix=fix)])
    config = _read_settings(bids_dir, recipe, assign or [])
    manifest = _find(config, bids_dir, labels, output_dir, recipe)
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


def _find(config: "Config", bids_dir: Path, labels: list[str], folder: Path, recipe: Path | None) -> Path:
    """Write the manifest of the images of these participants; a label without images is an error."""
    from sepclr_med import find_images, write_manifest
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
    if labels:
        table = table[table["participant_id"].isin([f"sub-{label}" for label in labels])]
    folder.mkdir(parents=True, exist_ok=True)
    return write_manifest(table, folder / "manifest.tsv")


def _check_images(manifest: Path, config: "Config") -> None:
    """Open every image, write what is wrong beside the manifest, and stop at what must be mended.

    Only what is said of single images counts: what the groups allow is asked at level group.
    """
    from sepclr_med import check_cohort, read_manifest
    from sepclr_med.cohort.preflight import problems_table
    from sepclr_med.rundir import write_table

    found = check_cohort(read_manifest(manifest), config.cohort.background, config.cohort.target)
    table = problems_table(found)
    write_table(manifest.with_name("problems.tsv"), table[table["participant_id"] != ""])
    errors = [problem for problem in found.problems if problem.severity == "error" and problem.participant_id]
    if errors:
        raise ManifestError(f"{manifest}: {len(errors)} problem(s) must be mended first", errors)
    print(f"{found.n_usable} of {found.n_images} images can be used -> {manifest}")
