"""A sealed test set: left out until a reason is given, every opening written down, and no line of that changed."""

import html
import json
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from sepclr_med import embed, explain, fit, load_config, read_manifest, simulate, write_manifest
from sepclr_med.analysis.evaluation import evaluate_files, evaluate_run
from sepclr_med.analysis.linking import link_files, link_run
from sepclr_med.cohort.embeddings import write_embeddings
from sepclr_med.cohort.ledger import append_event, ledger_path, read_hypotheses, read_ledger, require_unsealed, seal
from sepclr_med.config import dump_config, parse_config, read_yaml
from sepclr_med.crossfitting import plan_cross_fit
from sepclr_med.errors import ConfigError, ManifestError, RunError, UserError
from sepclr_med.opening import guard_test, sealed_entries
from sepclr_med.report.collect import collect_run
from sepclr_med.report.render import report
from sepclr_med.rundir import RunDir, write_table
from sepclr_med.runs import note_seal

SMALL = ["volumes.spacing=12", "method.name=cpca", "method.common_dim=4", "method.salient_dim=4"]
FROZEN = "variables: [severity]\ncovariates: [age, sex]\n"


def call(*words):
    return subprocess.run([sys.executable, "-m", "sepclr_med", *map(str, words)], capture_output=True, text=True)


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sealed")
    table = simulate(folder / "cohort", n_train=24, n_val=24, n_test=24, spacing=12.0, seed=1)
    path = write_manifest(table, folder / "study.tsv")
    (folder / "hypotheses.yaml").write_text(FROZEN)
    seal(read_manifest(path), path, folder / "hypotheses.yaml")
    embed(
        fit(read_manifest(path), load_config(overrides=[*SMALL, "evaluation.voxel_pca_components=4"]), folder / "run")
    )
    return folder


@pytest.fixture
def study(origin, tmp_path):
    shutil.copytree(origin, tmp_path / "study")
    return tmp_path / "study"


def test_without_a_reason_the_test_set_takes_no_part(study):
    table = evaluate_run(study / "run", ["age"], n_bootstrap=0, n_permutations=0)
    assert any("sealed and took no part" in note for note in table.attrs["card"]["notes"])
    assert table.loc[table["space"] == "salient", "n"].max() == 24
    assert any("scored on the val split" in note for note in table.attrs["card"]["notes"])
    found = link_run(study / "run", variables=["severity"], n_permutations=99, parts=[])
    assert "val split" in found.settings["over"]
    assert found.notes[0].startswith("The test set is sealed")
    assert [entry["event"] for entry in read_ledger(ledger_path(study / "study.tsv"))] == ["sealed", "hypotheses"]
    assert "never opened" in report(study / "run").read_text()


def test_with_a_reason_it_is_opened_and_every_opening_is_written_down(study):
    found = link_run(study / "run", study / "hypotheses.yaml", "the analysis of the paper", n_permutations=99, parts=[])
    assert "test split" in found.settings["over"]
    assert found.settings["variables"] == ["severity"]
    assert found.settings["covariates"] == ["age", "sex"]
    assert "confirmatory" in found.notes[0]
    later = link_run(study / "run", open_test="a reviewer's question", variables=["score"], n_permutations=99, parts=[])
    assert "opening number 2 in its ledger" in later.notes[0]
    assert "exploratory" in later.notes[0]
    entries = read_ledger(ledger_path(study / "study.tsv"))
    assert [entry["event"] for entry in entries] == ["sealed", "hypotheses", "opened", "opened"]
    assert [entry["reason"] for entry in entries[2:]] == ["the analysis of the paper", "a reviewer's question"]
    assert entries[2]["hypotheses"] == entries[1]["sha256"] != entries[3]["hypotheses"]
    page = report(study / "run").read_text()
    assert "opened 2 times" in page
    assert "a reviewer&#39;s question" in page


def test_explain_and_report_show_nothing_of_it_either(study):
    link_run(study / "run", n_permutations=99, parts=[], factors=["canonical"])
    explain(study / "run", variables=["severity"], n_permutations=99, sensitivity=())
    assert json.loads((study / "run" / "maps" / "maps.json").read_text())["settings"]["split"] == "val"
    report(study / "run")
    shown = pd.read_csv(study / "run" / "analysis" / "participants.tsv", sep="\t")
    assert set(shown["split"]) == {"train", "val"}
    # Canonical factors are there for the day it is opened.
    explain(study / "run", ["canonical_000"], n_permutations=99, sensitivity=(), open_test="to map it")
    assert json.loads((study / "run" / "maps" / "maps.json").read_text())["settings"]["split"] == "test"
    report(study / "run")
    assert "test" in set(pd.read_csv(study / "run" / "analysis" / "participants.tsv", sep="\t")["split"])
    assert read_ledger(ledger_path(study / "study.tsv"))[-1]["verb"] == "explain"


def test_a_table_that_does_not_say_who_is_sealed_is_refused(tmp_path):
    rows = pd.DataFrame(
        {"participant_id": ["01", "02"], "diagnosis": ["control", "patient"], "split": ["train", "test"]}
    )
    path = write_manifest(
        rows.assign(image_path=[str(tmp_path / "01.nii"), str(tmp_path / "02.nii")]), tmp_path / "m.tsv"
    )
    seal(read_manifest(path), path)
    run, manifest = RunDir(tmp_path / "run"), read_manifest(path)
    note_seal(run, manifest)
    assert len(guard_test({"salient": rows}, manifest, run, "link").tables["salient"]) == 1
    with pytest.raises(RunError, match="salient: embeddings without a column split"):
        guard_test({"salient": rows.drop(columns="split")}, manifest, run, "link")


def test_a_seal_after_training_holds_and_a_cross_fit_of_sealed_rows_is_planned(study):
    table = read_manifest(study / "study.tsv")
    path = write_manifest(table, study / "later.tsv")
    embed(fit(read_manifest(path), load_config(overrides=SMALL), study / "second"))
    assert evaluate_run(study / "second", ["age"], n_bootstrap=0, n_permutations=0)["n"].max() == 24
    assert "test split" in link_run(study / "second", variables=["age"], n_permutations=99, parts=[]).settings["over"]
    seal(read_manifest(path), path)
    assert "val split" in link_run(study / "second", variables=["age"], n_permutations=99, parts=[]).settings["over"]
    assert len(plan_cross_fit(read_manifest(path), load_config(overrides=SMALL), study / "cross", 3, 1)) == 3


@pytest.mark.parametrize(
    "choices",
    [
        {"variables": ["severty"]},
        {"covariates": ["agee"]},
        {"blocks": ["sites"]},
        {"factors": ["canonical", "nosuch"]},
        {"target": ["nosuch"]},
        {"families": {"a": ["nosuch"]}},
        {"measures": {"severity": "foo"}},
        {"parts": ["predict"]},
    ],
    ids=str,
)
def test_a_mistake_costs_no_opening(study, choices):
    asked = {"variables": ["severity"], "n_permutations": 99, "parts": [], "open_test": "why"} | choices
    with pytest.raises(ManifestError):
        link_run(study / "run", **asked)
    with pytest.raises(ManifestError):
        link_files([str(study / "run" / "embeddings")], study / "study.tsv", study / "links.tsv", **asked)
    assert "opened" not in [entry["event"] for entry in read_ledger(ledger_path(study / "study.tsv"))]


def test_a_mistake_in_another_verb_or_of_the_place_to_write_costs_no_opening_either(study):
    files, few = ([str(study / "run" / "embeddings")], study / "study.tsv"), {"n_bootstrap": 0, "n_permutations": 0}
    for factors, kept in (["salient_999"], {}), (["salient_000"], {"covariates": ["agee"]}):
        with pytest.raises(ManifestError):
            explain(study / "run", factors, n_permutations=99, sensitivity=(), open_test="why", **kept)
    with pytest.raises(ManifestError):
        evaluate_run(study / "run", ["severty"], open_test="why")
    for choices in ({"variables": ["severty"]}, {"variables": ["age"], "target": ["nosuch"]}):
        with pytest.raises(ManifestError):
            evaluate_files(*files, study / "card", open_test="why", **choices, **few)
    for link, place in ((link_files, study / "run"), (evaluate_files, study / "study.tsv")):
        with pytest.raises(RunError, match="cannot be written"):
            link(*files, place, variables=["severity"], n_permutations=99, open_test="why")
    ledger = ledger_path(study / "study.tsv")
    assert "opened" not in [entry["event"] for entry in read_ledger(ledger)]
    (study / "text.yaml").write_text("variables: severity\n")
    with pytest.raises(ConfigError, match="a list"):
        seal(read_manifest(study / "study.tsv"), study / "study.tsv", study / "text.yaml")


def test_an_opening_is_written_down_before_anything_of_it_is_written_or_not_at_all(study, monkeypatch):
    def entries_when_written(path, table):
        seen.append([entry["event"] for entry in read_ledger(ledger_path(study / "study.tsv"))][-1])

    seen = []
    for module in ("evaluation", "linking"):
        monkeypatch.setattr(f"sepclr_med.analysis.{module}.write_table", entries_when_written)
    evaluate_run(study / "run", ["age"], n_bootstrap=0, n_permutations=0, open_test="to see")
    link_run(study / "run", variables=["severity"], n_permutations=99, parts=[], open_test="to see")
    assert seen
    assert set(seen) == {"opened"}
    monkeypatch.undo()

    def refuse(path):
        raise RunError(f"{path}: cannot be written")

    monkeypatch.setattr("sepclr_med.opening.require_writable", refuse)
    monkeypatch.setattr("sepclr_med.analysis.linking.link", lambda *_, **__: pytest.fail("computed all the same"))
    with pytest.raises(RunError, match=r"ledger\.jsonl: cannot be written"):
        link_run(study / "run", variables=["severity"], open_test="why")


def test_other_hypotheses_or_none_are_exploratory(study):
    (study / "other.yaml").write_text("variables: [score]\n")
    found = link_run(study / "run", study / "other.yaml", "why not", n_permutations=99, parts=[])
    assert "exploratory" in found.notes[0]
    # Frozen after the first opening is frozen too late.
    seal(read_manifest(study / "study.tsv"), study / "study.tsv", study / "other.yaml")
    again = link_run(study / "run", study / "other.yaml", "once more", n_permutations=99, parts=[])
    assert "exploratory" in again.notes[0]
    for choices in ({"variables": ["age"]}, {"covariates": []}, {"over": "train"}, {"robust": True}):
        with pytest.raises(ConfigError, match="would change what was frozen"):
            link_run(study / "run", study / "other.yaml", **choices)
    (study / "other.yaml").write_text("variable: [score]\n")
    with pytest.raises(ConfigError, match=r"did you mean \"?variables"):
        link_run(study / "run", study / "other.yaml")


def test_a_ledger_that_was_changed_or_is_gone_opens_nothing(study):
    ledger = ledger_path(study / "study.tsv")
    append_event(ledger, "opened", {"verb": "link", "run": "run", "reason": "secret"})
    append_event(ledger, "opened", {"verb": "link", "run": "run", "reason": "official"})
    lines = ledger.read_text().splitlines()
    ledger.write_text("\n".join([*lines[:2], lines[3]]) + "\n")
    for reason in (None, "again"):
        with pytest.raises(RunError, match="line 3: was changed"):
            evaluate_run(study / "run", ["age"], open_test=reason)
    ledger.write_text("\n".join(lines).replace("secret", "harmless") + "\n")
    with pytest.raises(RunError, match="line 4: was changed"):
        append_event(ledger, "opened", {})
    ledger.unlink()
    with pytest.raises(RunError, match="is gone"):
        evaluate_run(study / "run", ["age"])


def test_test_rows_that_were_changed_are_refused_before_training(study):
    table = read_manifest(study / "study.tsv")
    table.loc[table.index[table["split"] == "test"][0], "severity"] = 9.0
    write_manifest(table, study / "study.tsv")
    with pytest.raises(ManifestError, match="not the one that was sealed"):
        fit(read_manifest(study / "study.tsv"), load_config(overrides=SMALL), study / "new")
    assert not (study / "new").exists()


def test_nothing_to_seal_nothing_sealed_and_no_reason(study, tmp_path):
    rows = pd.DataFrame({"participant_id": ["01"], "split": ["train"]})
    with pytest.raises(ManifestError, match="no row is test"):
        seal(rows, tmp_path / "none.tsv")
    with pytest.raises(RunError, match="sealed already"):
        seal(read_manifest(study / "study.tsv"), study / "study.tsv")
    with pytest.raises(UserError, match="say why"):
        evaluate_run(study / "run", ["age"], open_test=" ")
    (study / "run" / "data" / "seal.json").unlink()
    with pytest.raises(UserError, match="no test set is sealed"):
        evaluate_run(study / "run", ["age"], open_test="why")


def test_from_the_command_line(study):
    table = read_manifest(study / "study.tsv").drop(columns="split")
    path = write_manifest(table, study / "plain.tsv")
    made = call("split", path, "-o", study / "new.tsv", "--seal", "--hypotheses", study / "hypotheses.yaml")
    assert made.returncode == 0, made.stderr
    assert [json.loads(line)["event"] for line in (study / "new.ledger.jsonl").read_text().splitlines()] == [
        "sealed",
        "hypotheses",
    ]
    again = call("split", study / "new.tsv", "--overwrite")
    assert again.returncode == 1
    assert "is sealed" in again.stderr
    assert call("seal", study / "new.tsv").returncode == 1
    opened = call("evaluate", study / "run", "--variables", "age", "--bootstrap", 0, "--permutations", 0,
                  "--open-test", "to see")  # fmt: skip
    assert opened.returncode == 0, opened.stderr
    assert read_ledger(ledger_path(study / "study.tsv"))[-1]["reason"] == "to see"
    files = ("--embeddings", study / "run" / "embeddings", "--manifest", study / "study.tsv")
    linked = call("link", *files, "-o", study / "links.tsv", "--variables", "severity", "--permutations", 99,
                  "--parts", "none", "--open-test", "by files")  # fmt: skip
    assert linked.returncode == 0, linked.stderr
    assert read_ledger(ledger_path(study / "study.tsv"))[-1]["reason"] == "by files"
    frozen = call("link", *files, "-o", study / "links.tsv", "--hypotheses", study / "hypotheses.yaml")
    assert frozen.returncode == 1
    assert "an option of run folders" in frozen.stderr


def test_files_show_the_test_rows_of_a_sealed_manifest_with_a_reason_alone(study):
    files, ledger = ([str(study / "run" / "embeddings")], study / "study.tsv"), ledger_path(study / "study.tsv")
    few = {"n_bootstrap": 0, "n_permutations": 0}
    table = evaluate_files(*files, study / "card", ["age"], **few)
    assert table.attrs["card"]["notes"][0].startswith("The test set is sealed")
    assert any("scored on the val split" in note for note in table.attrs["card"]["notes"])
    asked = {"variables": ["severity"], "n_permutations": 99, "parts": []}
    closed = link_files(*files, study / "links.tsv", **asked)
    assert closed.notes[0].startswith("The test set is sealed")
    assert "val split" in closed.settings["over"]
    with pytest.raises(ManifestError):
        link_files(*files, study / "links.tsv", open_test="a typo costs nothing", covariates=["agee"], **asked)
    assert "opened" not in [entry["event"] for entry in read_ledger(ledger)]

    opened = link_files(*files, study / "links.tsv", open_test="to check", **asked)
    assert "test split" in opened.settings["over"]
    assert "exploratory" in opened.notes[0]
    entry = read_ledger(ledger)[-1]
    assert (entry["verb"], entry["run"], entry["reason"]) == ("link", "--embeddings embeddings", "to check")
    assert entry["model_id"]
    report(study / "run")
    assert "test" not in set(pd.read_csv(study / "run" / "analysis" / "participants.tsv", sep="\t")["split"])

    ledger.unlink()
    assert "test split" in link_files(*files, study / "links.tsv", **asked).settings["over"]
    with pytest.raises(UserError, match="the manifest is not sealed"):
        evaluate_files(*files, study / "card", ["age"], open_test="why", **few)


@pytest.mark.parametrize(
    ("frozen", "said"),
    [
        ("", "confirmatory for variables, frozen on"),
        ("covariates: [age]\nblocks: []\nfamilies: {}\n", "confirmatory: these hypotheses were frozen on"),
    ],
)
def test_confirmatory_names_what_was_frozen_since_settings_can_change_the_rest(study, frozen, said):
    asked = study / "asked.yaml"
    asked.write_text(f"variables: [severity]\n{frozen}")
    seal(read_manifest(study / "study.tsv"), study / "study.tsv", asked)
    config = study / "run" / "config.yaml"
    changed = parse_config(read_yaml(config), str(config))
    evaluation = changed.evaluation.model_copy(update={"covariates": ["sex"]})
    config.write_text(dump_config(changed.model_copy(update={"evaluation": evaluation})))
    found = link_run(study / "run", asked, "the paper", n_permutations=99, parts=[])
    assert found.settings["covariates"] == (["age"] if frozen else ["sex"])
    assert said in found.notes[0]
    assert ("not frozen: covariates, blocks, families" in found.notes[0]) is not bool(frozen)


WHOLE = "variables: [severity]\ncovariates: [age]\nblocks: []\nfamilies: {}\n"


@pytest.mark.parametrize(
    ("changed", "frozen", "free"),
    [
        ({"smallest_icc": 0.0, "n_permutations": 99, "seed": 3}, "", "smallest_icc"),
        ({"factors": ["canonical"], "canonical": "varimax"}, "", "factors, canonical"),
        ({"measures": {"severity": "continuous"}, "factors": ["salient"]}, "factors: [salient]\n", "measures"),
        ({"smallest_icc": 0.0, "canonical": "varimax"}, "smallest_icc: 0.5\ncanonical: pca\n", ""),
    ],
)
def test_settings_that_decide_what_is_tested_or_how_are_frozen_or_said_not_to_be(study, changed, frozen, free):
    asked = study / "asked.yaml"
    asked.write_text(WHOLE + frozen)
    seal(read_manifest(study / "study.tsv"), study / "study.tsv", asked)
    config = study / "run" / "config.yaml"
    settings = parse_config(read_yaml(config), str(config))
    evaluation = settings.evaluation.model_copy(update=changed)
    config.write_text(dump_config(settings.model_copy(update={"evaluation": evaluation})))
    found = link_run(study / "run", asked, "the paper", n_permutations=99, parts=[])
    if free:
        assert "(the paper); confirmatory for variables, covariates, blocks, families" in found.notes[0]
        assert found.notes[0].endswith(f"before the first opening; not frozen: {free}.")
    else:
        assert "confirmatory: these hypotheses were frozen on" in found.notes[0]
        assert found.settings["canonical"] == "pca"
    page = html.unescape(report(study / "run").read_text())
    assert ("smallest_icc: 0.5" in page) is ("smallest_icc" in frozen)


def test_the_target_is_frozen_by_name_and_hypotheses_are_read_like_settings(study):
    asked, config, whole = study / "asked.yaml", study / "run" / "config.yaml", WHOLE.replace("severity", "tiv")
    settings = parse_config(read_yaml(config), str(config))
    cohort = settings.cohort.model_copy(update={"target": ["control"], "background": ["patient"]})
    config.write_text(dump_config(settings.model_copy(update={"cohort": cohort})))
    named = study / "named.yaml"
    for file, text in ((asked, whole), (named, f"{whole}target: [control]\n")):
        file.write_text(text)
        seal(read_manifest(study / "study.tsv"), study / "study.tsv", file)
    for file, said in ((asked, "not frozen: target."), (named, "confirmatory: these hypotheses were frozen")):
        found = link_run(study / "run", file, n_permutations=99, parts=[], open_test="why")
        assert said in found.notes[0]
        assert found.settings["target"] == ["control"]
    for wrong, message in (
        ("smallest_icc: 3", "smallest_icc"),
        ("smallest_icc: true", "a number from 0 to 1"),
        ("canonical: [pca]", "pca or varimax"),
        ("canonical: promax", "canonical"),
        ("factors: [canonicl]", "factors"),
        ("measures: {severity: numbers}", "measures"),
        ("target: patient", "a list"),
    ):
        asked.write_text(f"{WHOLE}{wrong}\n")
        with pytest.raises(ConfigError, match=message):
            read_hypotheses(asked)


def begin(study, name, manifest="study.tsv"):
    """Plan a cross-fit, and give everyone embeddings as if its models had been trained."""
    run = RunDir(study / name)
    plan_cross_fit(read_manifest(study / manifest), load_config(overrides=SMALL), run.path, 3, 1)
    rows = read_manifest(run.manifest)[["participant_id", "split", "fold"]]
    random = np.random.default_rng(0).normal(size=(len(rows), 3))
    table = pd.concat([rows, pd.DataFrame(random, columns=[f"salient_{i:03}" for i in range(3)])], axis=1)
    write_embeddings({"salient": table.assign(model_id="a")}, run.embeddings, {})
    return run.path


def ask(run, *hypotheses, **choices):
    return link_run(run, *hypotheses, n_permutations=99, parts=[], **choices).notes[0]


def test_a_cross_fit_is_written_down_once_and_hypotheses_frozen_before_are_confirmatory(study):
    run = begin(study, "cross")
    assert begin(study, "cross") == run
    ledger = ledger_path(study / "study.tsv")
    entries = read_ledger(ledger)
    assert [entry["event"] for entry in entries] == ["sealed", "hypotheses", "cross-fit"]
    assert (entries[2]["run"], entries[2]["n_images"]) == ("cross", 48)
    said = ask(run, study / "hypotheses.yaml")
    assert said.startswith(
        "Everyone was embedded by models that never saw them; confirmatory for variables, covariates"
    )
    assert "before the first cross-fit; not frozen: blocks, families" in said
    assert "exploratory: hypotheses were frozen, but this was not asked" in ask(run, variables=["severity"])
    (study / "other.yaml").write_text("variables: [score]\n")
    assert "exploratory: these hypotheses were not frozen before the first" in ask(run, study / "other.yaml")
    with pytest.raises(UserError, match="takes no part in a cross-fit; embed it apart"):
        ask(run, variables=["severity"], open_test="why")
    assert read_ledger(ledger) == entries


def test_the_report_of_a_cross_fit_shows_the_ledger_and_hides_nobody(study):
    run = begin(study, "cross")
    ask(run, study / "hypotheses.yaml")
    page = html.unescape(report(run).read_text())
    assert "Frozen before the first cross-fit" in page
    assert "by link --hypotheses: variables: severity; covariates: age, sex." in page
    assert ">variables: severity; covariates: age, sex<" in page
    assert "never opened: no figure here is of it" in page
    assert "Links in this report: Everyone was embedded by models that never saw them; confirmatory for" in page
    ask(run, variables=["score"])
    assert (
        "Links in this report: Everyone was embedded by models that never saw them; exploratory"
        in report(run).read_text()
    )
    shown = pd.read_csv(run / "analysis" / "participants.tsv", sep="\t", dtype=str)
    sealed = read_manifest(study / "study.tsv").query("split == 'test'")["participant_id"]
    assert len(shown) == 48
    assert not set(shown["participant_id"]) & set(sealed)
    # Nothing of a cross-fit is sealed: a copy without the ledger, or with one that was changed, still shows everyone.
    ledger = ledger_path(study / "study.tsv")
    ledger.write_text(ledger.read_text().replace("severity", "score"))
    assert "was changed" in report(run).read_text()
    with pytest.raises(RunError, match="was changed"):
        ask(run, study / "hypotheses.yaml")
    ledger.unlink()
    assert "no ledger has this cross-fit" in ask(run, study / "hypotheses.yaml")
    assert len(collect_run(run)["manifest"]) == 48


def test_hypotheses_frozen_after_a_cross_fit_are_exploratory_in_every_later_one(study):
    early, unknown = begin(study, "early"), study / "later.yaml"
    unknown.write_text("variables: [score]\n")
    seal(read_manifest(study / "study.tsv"), study / "study.tsv", unknown)
    late = begin(study, "late")
    for run in (early, late):
        assert "exploratory: these hypotheses were not frozen before the first cross-fit" in ask(run, unknown)
    page = report(late).read_text()
    assert "2 cross-fits were begun" in page
    assert "by link --hypotheses: variables: severity; covariates: age, sex." in html.unescape(page)


def test_hypotheses_are_frozen_without_a_test_part_for_a_cross_fit(study):
    table = read_manifest(study / "study.tsv").drop(columns="split")
    plain, asked = write_manifest(table, study / "plain.tsv"), study / "hypotheses.yaml"
    before = begin(study, "before", "plain.tsv")
    assert "no ledger has this cross-fit" in ask(before, asked)
    done = call("seal", plain, "--hypotheses", asked)
    assert done.stdout.startswith("hypotheses frozen; no row is test")
    assert "no ledger has this cross-fit" in ask(before, asked)
    assert "does not have this cross-fit" in report(before).read_text()
    run = begin(study, "after", "plain.tsv")
    assert "confirmatory for variables" in ask(run, asked)
    page = report(run).read_text()
    assert "Frozen hypotheses" in page
    assert "Sealed test set" not in page
    assert [entry["event"] for entry in read_ledger(ledger_path(plain))] == ["hypotheses", "cross-fit"]


def test_hypotheses_without_a_seal_hide_no_row_and_keep_to_their_rows(study):
    rows = read_manifest(study / "study.tsv")
    alone = write_manifest(rows.drop(columns="split"), study / "alone.tsv")
    ledger = seal(read_manifest(alone), alone, study / "hypotheses.yaml")
    with pytest.raises(RunError, match="hypotheses were frozen for it"):
        require_unsealed(alone)
    with pytest.raises(RunError, match="hypotheses are frozen already"):
        seal(read_manifest(alone), alone)
    write_manifest(rows, alone)
    with pytest.raises(RunError, match="before there was a test part"):
        seal(read_manifest(alone), alone)
    asked = {"variables": ["severity"], "n_permutations": 99, "parts": []}
    files = ([str(study / "run" / "embeddings")], alone)
    assert "test split" in link_files(*files, study / "links.tsv", **asked).settings["over"]
    with pytest.raises(UserError, match="the manifest is not sealed"):
        link_files(*files, study / "links.tsv", open_test="why", **asked)
    run = RunDir(study / "run")
    note_seal(run, read_manifest(alone))
    assert sealed_entries(run) is None
    assert "no test set is sealed" in report(run.path).read_text()
    assert len(read_ledger(ledger)) == 1


def test_another_ledger_of_hypotheses_alone_in_the_place_of_the_seal_opens_nothing(study):
    ledger_path(study / "study.tsv").unlink()
    seal(read_manifest(study / "study.tsv").drop(columns="split"), study / "study.tsv", study / "hypotheses.yaml")
    with pytest.raises(RunError, match="does not begin with the seal of this run's test set"):
        link_run(study / "run", n_permutations=99, parts=[])
    assert not (collect_run(study / "run")["manifest"]["split"] == "test").any()


def test_a_cross_fit_whose_ledger_cannot_be_written_is_refused_before_training(study, monkeypatch):
    monkeypatch.setattr("sepclr_med.cohort.ledger.write_text", raise_os_error)
    with pytest.raises(RunError, match=r"study\.ledger\.jsonl: cannot be written"):
        begin(study, "cross")
    assert not RunDir(study / "cross").cross_fit.exists()
    monkeypatch.undo()
    assert begin(study, "cross").is_dir()


def raise_os_error(*_):
    raise PermissionError(13, "Permission denied")


def test_sealed_rows_that_a_cross_fit_embedded_keep_its_canonical_factors_and_say_what_was_not_looked_at(study):
    rows = read_manifest(study / "study.tsv").query("split == 'test'")[["participant_id"]].reset_index(drop=True)
    rows = rows.assign(split=None, model_id="a")
    values = np.random.default_rng(1).normal(size=(len(rows), 5))
    salient = pd.concat([rows, pd.DataFrame(values[:, :3], columns=[f"salient_00{i}" for i in range(3)])], axis=1)
    rotated = pd.concat([rows, pd.DataFrame(values[:, 3:], columns=["canonical_000", "canonical_001"])], axis=1)
    folder = study / "test"
    write_embeddings({"salient": salient}, folder, {"Models": ["fold-0_seed-0", "fold-1_seed-0"]})
    written = write_embeddings({"canonical": rotated}, folder, {})[0]
    both = f"salient={folder / 'desc-salient_embedding.tsv'}", f"canonical={written}"
    asked = {"variables": ["severity"], "n_permutations": 99, "parts": [], "factors": ["canonical", "salient"]}
    for sources in ([str(folder)], both):
        found = link_files(sources, study / "study.tsv", study / "l.tsv", open_test="the end", **asked)
        assert found.canonical is None
        order = found.people.rows["participant_id"]
        given = rotated.set_index("participant_id").loc[order].filter(like="canonical")
        np.testing.assert_allclose(found.people.spaces["canonical"], given.to_numpy(), rtol=1e-6)
        assert set(found.links["factor"]) >= {"canonical_000", "canonical_001", "salient_000", "salient_002"}
        assert "Canonical factors: as they were given, not fitted anew." in found.notes
        assert found.notes[0].endswith("exploratory: hypotheses are asked of a run folder alone, not of tables.")
        assert found.notes[-1].startswith("These are means over 2 models of a cross-fit")
    # Rotated by other models, they are not of these embeddings.
    write_embeddings({"canonical": rotated.assign(model_id="b")}, folder, {})
    again = link_files([str(folder)], study / "study.tsv", study / "l.tsv", open_test="again", **asked)
    assert again.canonical is not None
    assert not any(note.startswith("Canonical factors: as they were given") for note in again.notes)


def test_what_is_said_of_hypotheses_that_were_not_asked_is_true(study):
    asked = {"variables": ["severity"], "n_permutations": 99, "parts": []}
    found = link_run(study / "run", open_test="why", **asked)
    assert found.notes[0].endswith("exploratory: hypotheses were frozen, but this was not asked by --hypotheses FILE.")
    ledger = ledger_path(study / "study.tsv")
    ledger.unlink()
    seal(read_manifest(study / "study.tsv"), study / "study.tsv")
    found = link_run(study / "run", open_test="why", **asked)
    assert found.notes[0].endswith("exploratory: no hypotheses were frozen before the first opening.")


def test_on_the_terminal_each_verb_says_that_the_test_set_was_left_out(study):
    few = ("--bootstrap", 0, "--permutations", 0)
    card = call("evaluate", study / "run", "--variables", "age", *few)
    links = call("link", study / "run", "--variables", "severity", "--permutations", 99, "--parts", "none")
    maps = call("explain", study / "run", "--variables", "severity", "--permutations", 99, "--sensitivity", "none")
    for done in (card, links, maps):
        assert done.returncode == 0, done.stderr
        said = " ".join((done.stdout + done.stderr).split())
        assert "The test set is sealed and took no part; --open-test REASON opens it" in said


def test_without_a_validation_part_it_is_said_that_what_is_left_was_trained_on(study):
    said = "Without a validation part what is left was trained on: its figures are in-sample."
    few = {"n_bootstrap": 0, "n_permutations": 0}
    assert said not in evaluate_run(study / "run", ["age"], **few).attrs["notes"]
    manifest = read_manifest(study / "study.tsv")
    for table in (study / "run" / "data" / "manifest.tsv", *(study / "run" / "embeddings").glob("*_embedding.tsv")):
        rows = pd.read_csv(table, sep="\t", dtype=str, keep_default_na=False)
        write_table(table, rows[rows["split"] != "val"])
    assert evaluate_run(study / "run", ["age"], **few).attrs["notes"][1] == said
    assert said in link_run(study / "run", variables=["severity"], n_permutations=99, parts=[]).notes
    path = write_manifest(manifest[manifest["split"] != "val"], study / "two.tsv")
    seal(read_manifest(path), path)
    assert (
        said in evaluate_files([str(study / "run" / "embeddings")], path, study / "card", ["age"], **few).attrs["notes"]
    )


def test_files_that_hold_sealed_rows_alone_are_refused_by_the_name_of_the_seal(study):
    table = pd.read_csv(study / "run" / "embeddings" / "desc-salient_embedding.tsv", sep="\t", dtype={0: str})
    files = [str(write_table(study / "end.tsv", table[table["split"] == "test"]))], study / "study.tsv"
    for verb in (evaluate_files, link_files):
        with pytest.raises(UserError, match="all 24 embeddings are of the sealed test part"):
            verb(*files, study / "out.tsv", target=["patient"])


def test_nothing_of_a_sealed_test_set_is_passed_on_before_it_was_opened(study):
    sealed = set(read_manifest(study / "study.tsv").query("split == 'test'")["participant_id"])

    def passed_on(name, *words):
        done = call("export", study / "run", "-o", study / name, *words)
        assert done.returncode == 0, done.stderr
        tables = [pd.read_csv(file, sep="\t", dtype=str) for file in (study / name).rglob("*.tsv")]
        there = [table for table in tables if "participant_id" in table]
        return there, done.stderr, json.loads((study / name / "export.json").read_text())

    link_run(study / "run", variables=["severity"], n_permutations=99, parts=[])
    report(study / "run")
    tables, err, record = passed_on("closed")
    assert len(tables) >= 4
    assert not any(set(table["participant_id"]) & sealed for table in tables)
    said = "The 24 participants of the sealed test set, which this run never opened, are in no table here."
    assert said in err
    assert record["Sealed"] == said
    tables, err, _ = passed_on("renamed", "--deidentify", "--key", study / "key.json")
    assert {len(table) for table in tables} == {48}
    assert said in err

    ledger = ledger_path(study / "study.tsv")
    there = ledger.read_text()
    ledger.unlink()
    assert said in passed_on("gone")[1]
    ledger.write_text(there)
    link_run(study / "run", variables=["severity"], n_permutations=99, parts=[], open_test="the paper")
    tables, err, record = passed_on("open")
    assert any(sealed <= set(table["participant_id"]) for table in tables)
    assert "sealed" not in err
    assert "Sealed" not in record
