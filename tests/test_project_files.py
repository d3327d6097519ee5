"""Files that other programs read: workflows, templates, hooks, citation, container recipes."""

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
GITHUB = sorted([*(ROOT / ".github").rglob("*.yml"), *(ROOT / ".github").rglob("*.yaml")])
YAML = [*GITHUB, ROOT / ".pre-commit-config.yaml", ROOT / "CITATION.cff"]
# "on" is a truth value of YAML.
ON = True


def read(path):
    return yaml.safe_load(path.read_text())


def makefile_targets():
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))


@pytest.mark.parametrize("path", YAML, ids=lambda path: path.name)
def test_every_yaml_file_is_a_mapping(path):
    assert isinstance(read(path), dict)


@pytest.mark.parametrize("path", sorted((ROOT / ".github" / "workflows").glob("*.yml")), ids=lambda path: path.name)
def test_a_workflow_has_jobs_with_steps_and_runs_what_there_is(path):
    flow = read(path)
    assert {"name", ON, "jobs"} <= set(flow)
    assert flow["permissions"] == {"contents": "read"}
    for job in flow["jobs"].values():
        assert "runs-on" in job
        assert "timeout-minutes" in job
        for step in job["steps"]:
            assert ("run" in step) != ("uses" in step), step
            if "uses" in step:
                assert re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step["uses"])
            for target in re.findall(r"make ([a-z-]+)", step.get("run", "")):
                assert target in makefile_targets()
            if step.get("run", "").startswith("."):
                assert (ROOT / step["run"]).is_file()


def test_the_slow_tests_are_run_every_week_by_one_who_may_mount_file_systems():
    flow = read(ROOT / ".github" / "workflows" / "slow.yml")
    (when,) = flow[ON]["schedule"]
    assert re.fullmatch(r"\d+ \d+ \* \* \d", when["cron"])
    runs = [step.get("run", "") for step in flow["jobs"]["slow"]["steps"]]
    # The recipe for a cluster is skipped where there is no snakemake.
    (cluster,) = [place for place, command in enumerate(runs) if '".[cluster]"' in command]
    assert runs.index("make setup PYTHON=python") < cluster < runs.index("sudo make test-slow")


def test_the_lock_is_looked_up_among_known_vulnerabilities_and_stops_nothing():
    job = read(ROOT / ".github" / "workflows" / "ci.yml")["jobs"]["audit"]
    (command,) = [step["run"] for step in job["steps"] if step.get("run", "").startswith("pip-audit")]
    assert (ROOT / command.split("--requirement ")[1].split()[0]).is_file()
    assert job["continue-on-error"] is True
    assert "pip-audit" in (ROOT / "SECURITY.md").read_text()


@pytest.mark.parametrize("path", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml")), ids=lambda p: p.name)
def test_an_issue_form_has_what_github_wants(path):
    form = read(path)
    assert {"name", "description", "body"} <= set(form)
    ids = [field["id"] for field in form["body"] if field["type"] != "markdown"]
    assert len(set(ids)) == len(ids)
    assert any(field.get("validations", {}).get("required") for field in form["body"])


def test_a_report_of_a_defect_asks_for_the_doctor():
    assert "sepclr-med doctor" in (ROOT / ".github" / "ISSUE_TEMPLATE" / "bug.yml").read_text()


def test_hooks_are_programs_of_the_lock():
    locked = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    of = {"lint-imports": "import-linter"}
    for repo in read(ROOT / ".pre-commit-config.yaml")["repos"]:
        assert repo["repo"] == "local"
        for hook in repo["hooks"]:
            program = hook["entry"].split()[0].removeprefix(".venv/bin/")
            assert of.get(program, program) in locked


def test_containers_take_the_same_base_files_and_entry():
    docker, apptainer = (ROOT / "Dockerfile").read_text(), (ROOT / "Apptainer.def").read_text()
    base = re.search(r"^ARG BASE=(\S+)$", docker, flags=re.MULTILINE)[1]
    assert re.search(r"^From: (\S+)$", apptainer, flags=re.MULTILINE)[1] == base
    assert 'ENTRYPOINT ["sepclr-med", "bids-app"]' in docker
    assert 'exec sepclr-med bids-app "$@"' in apptainer
    for text in (docker, apptainer):
        assert "PIP_CONSTRAINT=/opt/sepclr_med/constraints.txt" in text
        assert "pip install '.[explain]'" in text
    assert re.search(r"^USER (?!root|0)", docker, flags=re.MULTILINE)
    copied = {name for line in re.findall(r"^COPY (.+) \S+$", docker, flags=re.MULTILINE) for name in line.split()}
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied == kept
    assert all((ROOT / name).exists() for name in copied)
    # Apptainer takes one source and one destination a line, and passes over whatever follows.
    files = [line.split() for line in apptainer.split("%files\n")[1].split("\n\n")[0].splitlines()]
    assert dict(files) == {name: f"/opt/sepclr_med/{name}" for name in copied}


def test_containers_are_given_all_that_the_wheel_is_made_of(tmp_path):
    docker = (ROOT / "Dockerfile").read_text()
    before = docker[: docker.index("pip install '.[explain]'")]
    for line in re.findall(r"^COPY (.+) \S+$", before, flags=re.MULTILINE):
        for name in line.split():
            source = ROOT / name
            shutil.copytree(source, tmp_path / name) if source.is_dir() else shutil.copy(source, tmp_path / name)
    (tmp_path / "wheels").mkdir()
    command = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", "wheels", "."]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    (wheel,) = (tmp_path / "wheels").glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"sepclr_med/data_manifests/cohorts/abide1.yaml", "sepclr_med/report/templates/report.html"} <= names


def test_every_extra_is_in_the_page_that_says_how_to_install():
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11 and later")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    page = (ROOT / "docs" / "install.md").read_text()
    assert [name for name in extras if f"| `{name}` |" not in page] == []


@pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
def test_make_help_has_a_line_for_every_target_and_says_how_long_the_demo_takes():
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    told = {line.split()[1] for line in done.stdout.splitlines() if line.startswith("  make ")}
    assert told == makefile_targets()
    assert "15 minutes" in done.stdout
