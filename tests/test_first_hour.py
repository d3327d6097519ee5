"""What somebody meets in the first hour: init, completion, doctor, help, pipes, names of files."""

import json
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path, PureWindowsPath

import mistaken_studies as studies
import pandas as pd
import pytest

from sepclr_med import load_config
from sepclr_med.cli import app
from sepclr_med.cli.completion import complete_diagnoses
from sepclr_med.cohort.manifest import read_manifest, relative_path, write_manifest
from sepclr_med.cohort.misplaced import holds_dicom, suggest_path
from sepclr_med.recipes import Answers, write_recipe
from sepclr_med.standing import find_standing, follow_manifest

ROOT = Path(__file__).parents[1]
ANSWERS = ["--images", "t1w", "--background", "control", "--target", "patient", "--covariates", "age,sex"]
ANSWERS += ["--variables", "MADRS", "--cpu"]
ESCAPE, SECONDS = b"\x1b", 100


@pytest.fixture(scope="module")
def untouched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    studies.make_study(folder)
    return folder


@pytest.fixture
def study(untouched, tmp_path, monkeypatch):
    folder = shutil.copytree(untouched, tmp_path / "study")
    monkeypatch.chdir(folder)
    return folder


def environment(**more):
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    return {**kept, "PYTHONPATH": str(ROOT), "COLUMNS": "80", **more}


# ---------------------------------------------------------------- init


def test_init_writes_a_recipe_from_options_that_reads_back(run_verb, study):
    code, out, err = run_verb("init", "mine.yaml", "--data", "manifest.tsv", *ANSWERS)
    assert code == 0, err
    assert out.splitlines()[-1] == "next: sepclr-med run mine.yaml runs/mine"
    config = load_config("mine.yaml")
    assert config.cohort.manifest == "manifest.tsv"
    assert (config.cohort.background, config.cohort.target) == (["control"], ["patient"])
    assert config.evaluation.variables == ["MADRS"]
    assert config.evaluation.covariates == ["age", "sex"]
    assert (config.volumes.preset, config.network.backbone) == ("t1w", "small")
    bare = [
        line for line in (study / "mine.yaml").read_text().splitlines() if line.startswith("  ") and "#" not in line
    ]
    assert bare == []


def test_a_recipe_in_another_folder_finds_the_bids_folder_and_its_images(run_verb, study):
    (study / "recipes").mkdir()
    code, _, err = run_verb("init", "recipes/a.yaml", "--data", "my_study", "--yes", *ANSWERS)
    assert code == 0, err
    bids = load_config("recipes/a.yaml").cohort.bids
    assert (bids.root, bids.suffix, bids.derivative) == ("../my_study", "T1w", None)


def test_yes_takes_what_is_offered_and_says_what_cannot_be_offered(run_verb, study):
    code, _, err = run_verb("init", "--yes")
    assert code == 0, err
    config = load_config("recipe.yaml")
    assert (config.cohort.background, config.cohort.target) == (["control"], ["patient"])
    assert config.evaluation.covariates == ["age", "sex", "site"]
    assert config.evaluation.variables is None
    studies.set_cells("diagnosis", dict.fromkeys(range(0, 24, 2), "X"))
    code, _, err = run_verb("init", "b.yaml", "--yes")
    assert code == 1
    assert "--background: name one or more of: X, patient" in err
    assert not Path("b.yaml").exists()


def add_maps(study, name, n):
    for i in range(n):
        path = (
            study
            / "my_study"
            / "derivatives"
            / name
            / f"sub-{i + 1:03d}"
            / "anat"
            / f"sub-{i + 1:03d}_label-GM_probseg.nii"
        )
        path.parent.mkdir(parents=True)
        path.touch()


def test_init_takes_the_images_of_most_participants_and_warns_of_fewer(run_verb, study):
    add_maps(study, "a_few", 3)
    add_maps(study, "vbm", 24)
    for folder in sorted((study / "my_study").glob("sub-0*"))[4:]:
        shutil.rmtree(folder)
    code, _, err = run_verb("init", "maps.yaml", "--data", "my_study", "--yes")
    assert (code, err) == (0, "")
    config = load_config("maps.yaml")
    assert (config.volumes.preset, config.cohort.bids.derivative) == ("vbm", "vbm")
    assert config.training.batch_size == 16
    for given, said in (
        (["--images", "t1w"], "raw T1w images of 4"),
        (["--derivative", "a_few"], "derivatives/a_few of 3"),
    ):
        code, _, err = run_verb("init", f"{given[1]}.yaml", "--data", "my_study", "--yes", *given)
        assert code == 0
        assert f"{said} participants, but maps in derivatives/vbm of 24 participants" in err


def test_init_lists_what_a_bids_folder_has_before_it_asks(study):
    add_maps(study, "vbm", 3)
    questions = [("are the images?", ""), ("under derivatives/?", ""), ("names carry", "")]
    questions += [
        ("the controls?", ""),
        ("the patients?", ""),
        ("Adjust for", ""),
        ("to look at?", ""),
        ("on a GPU?", "n"),
    ]
    code, shown, left = answer(["init", "--data", "my_study"], questions)
    assert (code, left) == (0, []), shown
    assert "found: raw T1w images of 24 participants, maps in derivatives/vbm of 3 participants" in shown


def answer(command, replies, **variables):
    """Run a program on a real terminal and give each reply when its question is there; returns all that was shown."""
    child, terminal = pty.fork()
    if child == 0:
        os.environ.update(environment(TERM="xterm-256color", **variables))
        os.execv(sys.executable, [sys.executable, "-m", "sepclr_med", *command])
    shown, left, until = "", list(replies), time.monotonic() + SECONDS
    while time.monotonic() < until:
        if select.select([terminal], [], [], 0.2)[0]:
            try:
                shown += os.read(terminal, 4096).decode()
            except OSError:
                break
        if left and left[0][0] in shown:
            os.write(terminal, left.pop(0)[1].encode() + b"\n")
    _, status = os.waitpid(child, 0)
    os.close(terminal)
    return os.waitstatus_to_exitcode(status), shown, left


def test_init_asks_in_a_terminal_and_asks_again_after_a_wrong_answer(study):
    questions = [
        ("BIDS folder?", "manifst.tsv"),
        ('did you mean "manifest.tsv"', "manifest.tsv"),
        ("are the images?", "t1w"),
        ("the controls?", "contrl"),
        ('did you mean "control"', ""),
        ("the patients?", ""),
        ("Adjust for", "age"),
        ("to look at?", "MADRS"),
        ("on a GPU?", "n"),
    ]
    code, shown, left = answer(["init", "mine.yaml"], questions)
    assert (code, left) == (0, []), shown
    assert "diagnoses found: control (12 images), patient (12 images)" in shown
    assert "next: sepclr-med run mine.yaml runs/mine" in shown
    config = load_config("mine.yaml")
    assert (config.cohort.background, config.evaluation.covariates) == (["control"], ["age"])


# ---------------------------------------------------------------- doctor


def test_doctor_tells_each_stage_of_a_study_and_the_command_that_comes_next(run_verb, study):
    def follows(path):
        code, _, err = run_verb("doctor", path)
        assert code == 0, err
        return err.strip().splitlines()[-1].removeprefix("next: ")

    assert follows("my_study") == "sepclr-med init --data my_study"
    studies.no_split()
    check = follows("manifest.tsv")
    assert check == "sepclr-med check manifest.tsv --background control --target patient"
    code, _, err = run_verb(*check.split()[1:])
    assert code == 0
    groups = "--background control --target patient"
    cross_fit = follows("manifest.tsv")
    assert cross_fit == f"sepclr-med fit manifest.tsv RUN_DIR --set volumes.preset=t1w --folds 5 --seeds 3 {groups}"
    assert err.endswith(f"next: {cross_fit}\n")
    code, _, err = run_verb("split", "manifest.tsv")
    assert code == 0
    assert "note: fewer than 300 patients; undivided and cross-fitted" in err
    assert err.endswith(f"next: {follows('manifest.tsv')}\n")
    fit = follows("manifest.tsv").replace("RUN_DIR", "runs/a")
    Path("quick.yaml").write_text(studies.QUICK)
    assert fit == f"sepclr-med fit manifest.tsv runs/a --set volumes.preset=t1w {groups}"
    assert run_verb(*fit.split()[1:], "-c", "quick.yaml")[0] == 0
    embed = follows("runs/a")
    assert embed == "sepclr-med embed runs/a"
    # As a training that was killed before its end leaves it.
    Path("runs/a/provenance.json").unlink()
    shutil.rmtree("runs/a/checkpoints")
    again = follows("runs/a")
    assert run_verb(*again.split()[1:])[0] == 0
    assert follows("runs/a") == embed
    assert run_verb(*embed.split()[1:])[0] == 0
    assert follows("runs/a") == "sepclr-med evaluate runs/a"
    code, _, err = run_verb("doctor", study)
    assert code == 1
    assert "name a manifest, the folder of a run, or a BIDS folder" in err


def test_doctor_of_a_place_that_is_not_there_says_so(run_verb, tmp_path):
    code, _, err = run_verb("doctor", tmp_path / "nowhere")
    assert code == 1
    assert "no such file or folder; fix: name a manifest, the folder of a run, or a BIDS folder" in err


def test_the_command_after_a_check_says_all_that_is_known(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "m.tsv"
    table = pd.DataFrame({"participant_id": [str(i) for i in range(700)], "image_path": "mwp1.nii"})
    table["diagnosis"] = ["HC", "MDD"] * 350

    def follows(manifest, **more):
        return follow_manifest(path, manifest, (["HC"], ["MDD"]), **more).replace(str(tmp_path), "")

    groups, few = "--background HC --target MDD", table[:100]
    assert follows(table) == "sepclr-med split /m.tsv"
    divided = "sepclr-med fit /m.tsv RUN_DIR --set volumes.preset=vbm"
    assert follows(few.assign(split="train")) == f"{divided} {groups}"
    assert follows(table.assign(fold=["0", "1", "2", "3"] * 175)) == f"{divided} --folds 4 --seeds 3 {groups}"
    assert follows(few, bids_root=Path("bids")) == f"{divided} --folds 5 --seeds 3 {groups} --bids-root bids"
    # Only split writes the codes away; nobody need be held out for that.
    no_codes = "sepclr-med split /m.tsv --missing-codes=-9 --test-size 0 --val-size 0 --folds 5"
    assert follows(few, missing_codes="-9") == no_codes
    (tmp_path / "recipe.yaml").touch()
    assert follows(few) == f"sepclr-med fit /m.tsv RUN_DIR -c /recipe.yaml --folds 5 --seeds 3 {groups}"


def test_doctor_gives_a_command_for_everything_that_is_not_well(run_verb, tmp_path, monkeypatch):
    from sepclr_med import doctor

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    for name in ("LITTLE_MEMORY", "LITTLE_DISK", "LITTLE_SHARED"):
        monkeypatch.setattr(doctor, name, 1e9)
    code, out, _ = run_verb("doctor", "--json")
    assert code == 0
    advice = {row["what"]: row["advice"] for row in json.loads(out) if row["verdict"] == "note"}
    assert "pip install 'sepclr-med[explain]'" in advice["captum"]
    assert "training.micro_batch" in advice["memory"]
    assert "volumes.cache_dir" in advice["free disk"]
    assert "unset OMP_NUM_THREADS" in advice["OMP_NUM_THREADS"]
    if Path("/dev/shm").is_dir():
        assert "--shm-size" in advice["shared memory (/dev/shm)"]
    # A driver is there, as its program tells, and PyTorch cannot use it.
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "installed without CUDA" in doctor._explain_no_gpu(None)
    assert "update it" in doctor._explain_no_gpu("12.8")


# ---------------------------------------------------------------- completion


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_bash_completes_verbs_options_methods_settings_columns_and_diagnoses(study, tmp_path):
    program = tmp_path / "bin" / "sepclr-med"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m sepclr_med "$@"\n')
    program.chmod(0o755)
    wanted = {
        "em": "embed",
        "fit --lea": "--leave-site-out",
        "compare --methods pca,sep": "pca,sepclr pca,sepclr_paper pca,sepvae",
        "fit --set training.ep": "training.epochs=",
        "init --images v": "vbm",
        "check manifest.tsv --target pa": "patient",
        "link --manifest manifest.tsv --variables age,M": "age,MADRS",
    }
    script = 'eval "$(sepclr-med --show-completion)"\ncomplete=_sepclr_med_completion\n'
    for words in wanted:
        script += f"COMP_WORDS=(sepclr-med {words}); COMP_CWORD=$((${{#COMP_WORDS[@]}}-1)); COMPREPLY=()\n"
        script += '$complete sepclr-med; echo "${COMPREPLY[*]}"\n'
    path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=environment(PATH=path))
    assert done.stdout.splitlines() == list(wanted.values()), done.stderr


# ---------------------------------------------------------------- help, pipes and colours


def test_help_of_no_verb_loads_a_heavy_library_and_all_of_it_fits_80_columns():
    script = (
        "import sys\n"
        "from sepclr_med.cli import app, main\n"
        "for verb in [None, *(c.name or c.callback.__name__ for c in app.registered_commands)]:\n"
        "    sys.argv = ['sepclr-med', *([verb] if verb else []), '--help']\n"
        "    try: main()\n"
        "    except SystemExit: pass\n"
        "heavy = {'torch', 'monai', 'pandas', 'numpy', 'sklearn', 'nibabel', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, env=environment())
    assert done.returncode == 0, done.stderr.decode()
    lines = done.stdout.decode().splitlines()
    assert max(map(len, lines)) <= 80
    # Rich cuts a word that does not fit with an ellipsis.
    assert [line for line in lines if "…" in line] == []
    assert ESCAPE not in done.stdout


def test_what_goes_through_a_pipe_has_neither_colours_nor_bars(study):
    for words in (["check", "manifest.tsv"], ["chekc"]):
        command = [sys.executable, "-m", "sepclr_med", *words]
        done = subprocess.run(command, capture_output=True, env=environment())
        assert ESCAPE not in done.stdout + done.stderr
        assert b"\r" not in done.stdout + done.stderr


def test_a_terminal_with_no_color_is_shown_none():
    coloured = re.compile(r"\x1b\[(?:\d+;)*(?:3|4|9|10)\d")
    assert coloured.search(answer(["--help"], [])[1])
    assert not coloured.search(answer(["--help"], [], NO_COLOR="1")[1])


# ---------------------------------------------------------------- names of files

FORBIDDEN = re.compile(r'[<>:"\\|?*]|[. ]$')
RESERVED = {"con", "prn", "aux", "nul", *(f"com{i}" for i in range(10)), *(f"lpt{i}" for i in range(10))}


def test_no_file_of_a_study_or_of_this_project_has_a_name_that_windows_forbids(run_verb, study):
    Path("quick.yaml").write_text(studies.QUICK)
    for words in (["fit", "manifest.tsv", "runs/a", "-c", "quick.yaml"], ["embed", "runs/a"], ["report", "runs/a"]):
        assert run_verb(*words)[0] == 0
    written = [path.relative_to(study) for path in study.rglob("*")]
    kept = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.splitlines()
    for path in [*written, *map(Path, kept)]:
        for part in path.parts:
            assert not FORBIDDEN.search(part), path
            assert PureWindowsPath(part).stem.casefold() not in RESERVED, path
    assert len({str(path).casefold() for path in written}) == len(written)


def test_image_paths_are_written_with_forward_slashes_and_read_with_either(study):
    table = studies.read()
    table["image_path"] = [path.replace("/", "\\") for path in table["image_path"]]
    studies.write(table)
    manifest = read_manifest("manifest.tsv")
    assert all(Path(path).is_file() for path in manifest["image_path"])
    text = write_manifest(manifest, study / "again.tsv").read_bytes()
    assert b"\\" not in text
    assert b"\r" not in text
    assert relative_path("/data/study/a.nii", "/data/tables") == "../study/a.nii"


def test_every_text_file_is_opened_with_its_encoding():
    opens = re.compile(r"\b(?:read_text|write_text)\(\)|\bopen\([^)]*\"[rw]t?\"\)|\.read_text\((?!.*encoding)")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in (ROOT / "sepclr_med").rglob("*.py")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if opens.search(line) and ">>>" not in line and "..." not in line
    ]
    assert found == []


def test_every_verb_of_the_panel_is_in_the_readme_or_the_docs():
    pages = " ".join(path.read_text(encoding="utf-8") for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
    names = [command.name or command.callback.__name__ for command in app.registered_commands]
    assert [name for name in names if f"sepclr-med {name}" not in pages and f"`{name}`" not in pages] == []


def test_words_of_the_table_cannot_leave_a_comment_of_the_recipe(tmp_path):
    table = 'participant_id\timage_path\tdiagnosis\t"score\nnetwork: {backbone: resnet50}"\n'
    (tmp_path / "m.tsv").write_text(f'{table}01\t01.nii\tHC\t1\n02\t02.nii\t"MDD\ntraining: null"\t2\n')
    answers = Answers(tmp_path / "m.tsv", "vbm", ["HC"], ["MDD\ntraining: null"])
    recipe = load_config(write_recipe(answers, tmp_path / "r.yaml"))
    assert recipe.cohort.target == ["MDD\ntraining: null"]
    assert (recipe.network.backbone, recipe.training.epochs) == ("small", 100)


def test_the_next_command_names_both_groups_where_the_table_has_one(tmp_path):
    (tmp_path / "m.tsv").write_text("participant_id\timage_path\tdiagnosis\n01\t01.nii\tHC\n02\t02.nii\tHC\n")
    assert find_standing(tmp_path / "m.tsv").follows.endswith("--background HC --target PATIENTS")


def test_folders_that_may_not_be_listed_and_odd_words_stop_no_hint(tmp_path, monkeypatch):
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "IM0001").write_bytes(bytes(128) + b"DICM")
    listed = Path.iterdir

    def iterdir(folder):
        if folder.name == "lost+found":
            raise PermissionError(13, "Permission denied", str(folder))
        return listed(folder)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    assert holds_dicom(tmp_path)
    assert suggest_path(tmp_path / "lost+found" / "01.nii") == ""
    monkeypatch.setenv("COMP_WORDS", f"sepclr-med\ncheck\n~nobody-of-this-name\n{'x' * 300}\n--target\n")
    assert complete_diagnoses("") == []
