"""The first verb: init asks what a newcomer knows and writes a recipe."""

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from sepclr_med.cli.application import app
from sepclr_med.cli.completion import complete_columns, complete_images
from sepclr_med.cli.options import Background, Target, Verbose, listed, pairs
from sepclr_med.errors import ConfigError, Problem, did_you_mean

ALL, NONE = "all", "none"
WORDS = {
    "--data": "a manifest, or a BIDS folder",
    "--images": "vbm or t1w",
    "--background": "diagnoses of the controls, comma-separated",
    "--target": "diagnoses of the patients, comma-separated",
    "--covariates": "columns to adjust for, comma-separated, or none",
    "--variables": "clinical variables, comma-separated, or all",
    "--gpu or --cpu": "what trains",
}


@app.command(rich_help_panel="Cohort")
def init(
    recipe: Annotated[Path, typer.Argument(help="Recipe to write.")] = Path("recipe.yaml"),
    data: Annotated[Path | None, typer.Option(help="Manifest, or BIDS folder.")] = None,
    images: Annotated[
        str | None,
        typer.Option(
            help="vbm (grey-matter maps in template space) or t1w (raw images).", autocompletion=complete_images
        ),
    ] = None,
    derivative: Annotated[
        str | None, typer.Option(help="Of a BIDS folder: folder under derivatives/, or none for the raw images.")
    ] = None,
    entities: Annotated[str | None, typer.Option(help="Of a BIDS folder: key=value, comma-separated, or none.")] = None,
    background: Background = None,
    target: Target = None,
    covariates: Annotated[
        str | None,
        typer.Option(help="Columns to adjust for, comma-separated, or none.", autocompletion=complete_columns),
    ] = None,
    variables: Annotated[
        str | None, typer.Option(help="Clinical variables, comma-separated, or all.", autocompletion=complete_columns)
    ] = None,
    gpu: Annotated[bool | None, typer.Option("--gpu/--cpu", help="What trains; looked up when asked.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Take the answer offered to every other question.")] = False,
    verbose: Verbose = False,
) -> None:
    """Write a first recipe: asks what it must know, or takes it from options; never replaces a file.

    Example: sepclr-med init recipe.yaml --data manifest.tsv --images vbm --background HC --target MDD --yes
    """
    from sepclr_med import recipes
    from sepclr_med.cohort.control_names import find_controls

    recipes.refuse_to_replace(recipe)
    ask = _Questions(interactive=sys.stdin.isatty() and not yes)
    given = {"--data": data, "--images": images, "--background": background, "--target": target}
    given |= {"--covariates": covariates, "--variables": variables, "--gpu or --cpu": gpu}
    if not (yes or ask.interactive):
        _require_all(given)
    data = Path(ask("--data", "Where is the manifest, or the BIDS folder?", data, "manifest.tsv", _find_no_data))
    for name, what in recipes.IMAGES.items() if ask.interactive and images is None else ():
        print(f"  {name}: {what}")
    kinds = list(recipes.IMAGES)
    sources = recipes.count_sources(data) if data.is_dir() else {}
    if ask.interactive and sources:
        print(f"  found: {', '.join(_name_source(name, n) for name, n in sources.items())}")
    likely = recipes.suggest_images(data, sources)
    images = ask("--images", "Which of these are the images?", images, likely, among(kinds))
    chosen = _ask_of_bids(ask, sources, images, derivative, entities) if sources else {}
    table = recipes.read_cohort_of(data, images, **chosen)
    counts = table["diagnosis"].value_counts()
    levels = [str(name) for name in counts.index]
    if ask.interactive:
        print(f"  diagnoses found: {', '.join(f'{name} ({n} images)' for name, n in counts.items())}")
    known = find_controls(levels)
    back = listed(ask("--background", "Who are the controls?", background, ",".join(known), among(levels)))
    rest = [name for name in levels if name not in back]
    front = listed(ask("--target", "Who are the patients?", target, ",".join(rest), among(rest)))
    found, columns = recipes.list_covariates(table), [str(name) for name in table]
    chosen["covariates"] = _ask_columns(ask, "--covariates", "Adjust for which columns?", covariates, found, columns)
    scores = recipes.list_variables(table)
    if ask.interactive and scores:
        print(f"  columns found: {', '.join(scores)}")
    wanted = _ask_columns(ask, "--variables", "Clinical variables to look at?", variables, [ALL], [ALL, *columns])
    chosen |= {"variables": None if wanted == [ALL] else wanted, "gpu": _ask_gpu(ask, gpu)}
    recipes.write_recipe(recipes.Answers(data, images, back, front, **chosen), recipe, table)
    print(f"recipe -> {recipe}: read it, every line says what else one could choose")
    print(f"next: sepclr-med run {shlex.quote(str(recipe))} {shlex.quote(Path('runs', recipe.stem).as_posix())}")


class _Questions:
    """Asks in a terminal; elsewhere takes what is offered. An answer that is wrong is asked for again, or refused."""

    def __init__(self, interactive: bool):
        self.interactive = interactive

    def __call__(self, option: str, question: str, given: Any, offered: str, find_wrong: Callable[[str], str]) -> str:
        while True:
            asked = given is None and self.interactive
            answer = str(given if given is not None else offered)
            if asked:
                answer = str(typer.prompt(question, default=offered or None))
            wrong = find_wrong(answer)
            if not wrong:
                return answer
            if not asked:
                raise ConfigError("init: an answer cannot be used", [Problem(f"{option}: {wrong}", got=answer)])
            print(f"  {wrong}")


def among(known: list[str]) -> Callable[[str], str]:
    """Return what says why a comma-separated answer is not among the known ones."""

    def find_wrong(answer: str) -> str:
        unknown = [part for part in listed(answer) if part not in known]
        if unknown:
            hint = did_you_mean(unknown[0], known)
            return f"{unknown[0]} is none of: {', '.join(known)}" + (f"; {hint}" if hint else "")
        return "" if listed(answer) else f"name one or more of: {', '.join(known)}"

    return find_wrong


def _find_no_data(answer: str) -> str:
    if Path(answer).exists():
        return ""
    beside = [entry.name for entry in Path(answer).parent.iterdir()] if Path(answer).parent.is_dir() else []
    return f"there is no {answer}" + (f"; {hint}" if (hint := did_you_mean(Path(answer).name, beside)) else "")


def _require_all(given: dict[str, Any]) -> None:
    missing = [
        Problem(f"{option} is missing", allowed=WORDS[option]) for option, value in given.items() if value is None
    ]
    if missing:
        fix = "give them, add --yes to take the answers init would offer, or run it in a terminal, where it asks"
        raise ConfigError(f"init: this is no terminal, so nothing can be asked; {fix}", missing)


def _ask_of_bids(
    ask: _Questions, sources: dict[str | None, int], images: str, derivative: str | None, entities: str | None
) -> dict[str, Any]:
    maps = {name: n for name, n in sources.items() if name is not None}
    fullest = max(maps, key=lambda name: maps[name], default=NONE)
    offered = fullest if images == "vbm" else NONE
    folder = ask("--derivative", "Which folder under derivatives/?", derivative, offered, among([*maps, NONE]))
    taken = None if folder == NONE else folder
    # Of other images in derivatives than maps nothing was counted.
    if (images == "vbm" or taken is None) and sources[taken] < maps.get(fullest, 0):
        said = f"{_name_source(taken, sources[taken])}, but {_name_source(fullest, maps[fullest])}"
        print(f"warning: {said}: --images vbm --derivative {fullest}", file=sys.stderr)
    offered = "label=GM" if images == "vbm" else NONE
    question = "What must the images' names carry (key=value, comma-separated)?"
    carry = ask("--entities", question, entities, offered, _find_no_pairs)
    return {
        "derivative": taken,
        "entities": {} if carry == NONE else pairs(listed(carry), "--entities"),
    }


def _name_source(derivative: str | None, n: int) -> str:
    where = "raw T1w images" if derivative is None else f"maps in derivatives/{derivative}"
    return f"{where} of {n} participants"


def _find_no_pairs(answer: str) -> str:
    wrong = [part for part in listed(answer) if not all(part.partition("="))]
    return "" if answer == NONE or not wrong else f"{wrong[0]} is not written as key=value"


def _ask_columns(
    ask: _Questions, option: str, question: str, given: str | None, offered: list[str], known: list[str]
) -> list[str]:
    answer = ask(option, question, given, ",".join(offered) or NONE, among([*known, NONE]))
    return [] if answer == NONE else listed(answer)


def _ask_gpu(ask: _Questions, given: bool | None) -> bool:
    from sepclr_med import recipes

    if given is not None:
        return given
    found = recipes.find_gpu()
    if not ask.interactive:
        return bool(found)
    print(f"  GPU found here: {found or 'none'}")
    return typer.confirm("Train on a GPU?", default=bool(found))
