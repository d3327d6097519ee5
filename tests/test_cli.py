import json
import shutil
import subprocess
import sys

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from sepclr_med import simulate
from sepclr_med.cli import app
from sepclr_med.config import load_config

TINY = [
    "volumes.spacing=12",
    "network.backbone=small",
    "network.width=2",
    "training.epochs=2",
    "training.batch_size=8",
    "training.threads=1",
    "method.common_dim=3",
    "method.salient_dim=3",
    "evaluation.n_bootstrap=20",
    "evaluation.voxel_pca_components=4",
    "evaluation.n_permutations=99",
    "evaluation.explain=1",
    "evaluation.explain_permutations=99",
]
VERBS = sorted(command.name or command.callback.__name__ for command in app.registered_commands)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    simulate(folder, n_train=30, n_val=4, n_test=8, spacing=12.0, seed=3)
    return folder


def settings(*more):
    return [word for setting in [*TINY, *more] for word in ("--set", setting)]


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example_and_a_verbose_switch(verb, run_verb):
    code, out, _ = run_verb(verb, "--help")
    assert code == 0
    assert f"Example: sepclr-med {verb}" in " ".join(out.split())
    assert "--verbose" in out


def test_help_loads_no_heavy_library():
    script = (
        "import sys; sys.argv = ['sepclr-med', '--help']\n"
        "from sepclr_med.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'monai', 'pandas', 'sklearn', 'nilearn', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")


def test_the_table_world_loads_no_torch():
    script = (
        "import sys, sepclr_med.analysis.evaluation, sepclr_med.cohort.preflight, sepclr_med.cohort.bids, "
        "sepclr_med.cohort.simulate\n"
        "print(sorted({'torch', 'monai', 'lightning_fabric'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_wrong_usage_is_exit_code_2(run_verb):
    assert run_verb("no-such-verb")[0] == 2
    assert run_verb("fit")[0] == 2


@pytest.mark.parametrize(
    ("words", "advice"),
    [
        (["--epochs", "5"], "--set training.epochs=5"),
        (["--micro-batch=8"], "--set training.micro_batch=8"),
        (["--target", "depr", "MDD"], "separated by commas: --target depr,MDD"),
        (["--background", "control", "HC", "--target", "depr"], "separated by commas: --background control,HC"),
    ],
)
def test_words_that_are_no_option_are_told_how_they_are_written(words, advice, run_verb):
    code, _, err = run_verb("fit", "manifest.tsv", "run", *words)
    assert code == 2
    assert advice in " ".join(err.replace("\u2502", " ").split())


def test_a_setting_is_not_advised_to_a_verb_that_reads_none(run_verb):
    code, _, err = run_verb("simulate", "folder", "--epochs", "5")
    assert code == 2
    assert "--set training" not in err


def test_a_users_mistake_is_one_message_without_a_traceback(run_verb, tmp_path):
    code, _, err = run_verb("check", tmp_path / "absent.tsv")
    assert code == 1
    assert err.startswith("error: ")
    assert "absent.tsv" in err
    assert "Traceback" not in err


def test_verbose_shows_where_an_error_comes_from(tmp_path):
    command = [sys.executable, "-m", "sepclr_med", "check", str(tmp_path / "absent.tsv"), "-v"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_a_config_typo_is_refused_before_anything_is_made(run_verb, cohort, tmp_path):
    code, _, err = run_verb("fit", cohort / "manifest.tsv", tmp_path / "run", "--set", "training.epoch=2")
    assert code == 1
    assert 'did you mean "epochs"?' in err
    assert not (tmp_path / "run").exists()


def test_an_unknown_diagnosis_lists_those_there_are(run_verb, cohort, tmp_path):
    code, _, err = run_verb("fit", cohort / "manifest.tsv", tmp_path / "run", "--target", "depr")
    assert code == 1
    assert "depr" in err
    assert "patient" in err
    assert not (tmp_path / "run").exists()


def test_the_five_verbs_of_a_study_and_resuming_them(run_verb, cohort, tmp_path):
    bids, manifest, run = cohort, tmp_path / "manifest.tsv", tmp_path / "run"
    entities = ["--suffix", "probseg", "--derivative", "simulated", "--desc", "mod", "--label", "GM"]
    code, out, err = run_verb("manifest", bids, "-o", manifest, *entities)
    assert code == 0, err
    assert "42 images of 42 participants" in out
    code, out, err = run_verb("check", manifest, "--json", "-o", tmp_path / "problems.tsv")
    assert code == 0, err
    assert json.loads(out)["n_images"] == 42
    assert (tmp_path / "problems.tsv").is_file()
    code, out, err = run_verb("split", manifest, "--test-size", "0.3", "--val-size", "0.2", "--overwrite")
    assert code == 0, err
    code, out, err = run_verb("fit", manifest, run, *settings())
    assert code == 0, err
    code, out, err = run_verb("embed", run)
    assert code == 0, err
    code, out, err = run_verb("evaluate", run, "--variables", "diagnosis,age,severity", "--json")
    assert code == 0, err
    table = pd.DataFrame(json.loads(out))
    columns = [
        "variable",
        "measure",
        "space",
        "scheme",
        "metric",
        "value",
        "ci_low",
        "ci_high",
        "chance",
        "p_value",
        "n",
    ]
    assert list(table.columns) == columns
    assert set(table["space"]) == {"common", "salient", "both", "covariates", "voxel_pca"}
    written = pd.read_csv(run / "analysis" / "separation.tsv", sep="\t", na_values="n/a")
    assert list(written.columns) == list(table.columns)
    assert (run / "analysis" / "separation.png").stat().st_size > 10_000
    steps = [step["step"] for step in json.loads((run / "provenance.json").read_text())["steps"]]
    assert steps == ["fit", "embed", "evaluate"]


def test_the_real_brains_of_two_studies_become_one_manifest_and_check_names_the_site(run_verb, shared_data, tmp_path):
    output = tmp_path / "two.tsv"
    first = ["--diagnosis-column", "group", "--rename", "gender=sex", "--site", "novosibirsk"]
    code, _, err = run_verb("manifest", shared_data / "ds002748", "-o", output, *first)
    assert code == 0, err
    second = ["--diagnosis", "control", "--site", "texas", "--append"]
    code, _, err = run_verb("manifest", shared_data / "ds000011", "-o", output, *second)
    assert code == 1
    assert "--prefix" in err
    code, out, err = run_verb("manifest", shared_data / "ds000011", "-o", output, *second, "--prefix", "tx")
    assert code == 0, err
    assert "11 images of 11 participants (7 control, 4 depr)" in out
    assert json.loads(output.with_suffix(".json").read_text())["sex"]["Levels"]
    code, out, err = run_verb("check", output, "--target", "depr", "--json")
    assert code == 0, err
    verdicts = " ".join(json.loads(out)["verdicts"])
    assert 'site with one group only: "texas"' in verdicts
    assert "inseparable" in verdicts


def test_codes_that_mean_missing_are_warned_about_and_blanked_on_request(run_verb, tmp_path):
    rows = [f"{i:03d},{i}.nii,{'control' if i % 2 else 'patient'},{i + 20},{'-9' if i == 3 else i}" for i in range(20)]
    manifest = tmp_path / "m.csv"
    manifest.write_text("participant_id,image_path,diagnosis,age,score\n" + "\n".join(rows) + "\n")
    code, _, err = run_verb("split", manifest, "-o", tmp_path / "kept.tsv")
    assert code == 0
    assert "--missing-codes=-9" in err
    code, _, err = run_verb("split", manifest, "-o", tmp_path / "blanked.tsv", "--missing-codes=-9")
    assert code == 0
    kept, blanked = (pd.read_csv(tmp_path / f"{n}.tsv", sep="\t", na_values="n/a") for n in ("kept", "blanked"))
    assert kept["score"].min() == -9
    assert blanked["score"].isna().sum() == 1
    assert blanked["score"].min() == 0


def test_new_images_need_a_folder_of_their_own(run_verb, cohort, tmp_path):
    code, _, err = run_verb("embed", tmp_path, cohort / "manifest.tsv")
    assert code == 1
    assert "-o" in err


def test_link_and_evaluate_take_a_run_or_three_files_and_nothing_between(run_verb, tmp_path):
    for verb in ("link", "evaluate"):
        code, _, err = run_verb(verb, "--embeddings", "factors.tsv")
        assert code == 1
        assert f"sepclr-med {verb} RUN_DIR, or sepclr-med {verb} --embeddings FILE --manifest FILE --output FILE" in err


@pytest.mark.parametrize("option", ["--family", "--battery"])
def test_a_group_without_members_is_shown_how_it_is_written(option, run_verb, tmp_path):
    code, _, err = run_verb("link", tmp_path, option, "mood")
    assert code == 1
    assert f"{option} mood:MADRS,BDI" in err


def test_linking_tables_of_other_origin_from_the_command_line(run_verb, tmp_path):
    rng = np.random.default_rng(0)
    people = pd.DataFrame({"participant_id": [f"{i:03d}" for i in range(40)], "score": rng.normal(size=40)})
    people["rare"] = people["score"].where(people.index < 5)
    people.assign(site=["a", "b"] * 20).to_csv(tmp_path / "people.csv", index=False)
    factors = people[["participant_id"]].assign(z1=people["score"] + rng.normal(size=40), z2=rng.normal(size=40))
    factors.to_csv(tmp_path / "z.csv", index=False)
    words = ["--embeddings", tmp_path / "z.csv", "--manifest", tmp_path / "people.csv", "-o", tmp_path / "links.tsv"]
    code, out, err = run_verb("link", *words, "--permutations", "199", "--parts", "none", "--json")
    assert code == 0, err
    table = pd.DataFrame(json.loads(out)).set_index(["factor", "variable"])
    assert table.loc[("z1", "score"), "p_value"] == pytest.approx(0.005)
    written = pd.read_csv(tmp_path / "links.tsv", sep="\t", na_values="n/a", keep_default_na=False)
    assert len(written) == len(table)
    facts = json.loads((tmp_path / "links_link.json").read_text())
    assert facts["not_tested"] == {"rare": "values of 5 participants, 8 needed"}
    code, out, err = run_verb("evaluate", *words[:4], "-o", tmp_path / "card", "--permutations", "99")
    assert code == 0, err
    assert "Verdicts (+ as hoped, ! beware)" in out
    assert json.loads((tmp_path / "card" / "card.json").read_text())["not_tested"] == facts["not_tested"]
    assert err.strip().splitlines()[-1] == "Not tested: rare (values of 5 participants, 8 needed)"


def test_run_does_everything_and_again_is_at_once_the_same(run_verb, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("cohort: {simulate: {n_train: 40, n_val: 4, n_test: 32, spacing: 12.0, seed: 3}}\n")
    code, out, err = run_verb("run", recipe, tmp_path / "runs" / "a", *settings())
    assert code == 0, err
    assert "severity" in out
    folder = tmp_path / "runs" / "a"
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*.safetensors")}
    first = (folder / "analysis" / "separation.tsv").read_bytes()
    done = [folder / "analysis" / "links.tsv", folder / "maps" / "maps.json", folder / "report.html"]
    assert all(path.is_file() for path in done)
    made = [path.stat().st_mtime_ns for path in done[:2]]
    code, out, err = run_verb("run", recipe, folder, *settings())
    assert code == 0, err
    assert made == [path.stat().st_mtime_ns for path in done[:2]]
    assert before == {p: p.stat().st_mtime_ns for p in folder.rglob("*.safetensors")}
    assert (folder / "analysis" / "separation.tsv").read_bytes() == first


def test_columns_that_a_recipe_names_in_vain_are_refused_all_at_once_before_anything_is_made(
    run_verb, cohort, tmp_path
):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "evaluation:\n  covariates: [Age, gender, scaner]\n  variables: [severty, participant_id]\n"
        "  families: {mood: [scor]}\n  blocks: [Site]\nvolumes: {normative: {covariates: [AGE]}}\n"
    )
    table = cohort / "manifest.tsv"
    more = settings("method.attributes={svrity: continuous}")
    for words in (
        ["run", recipe, tmp_path / "runs" / "a", "--manifest", table],
        ["fit", table, tmp_path / "runs" / "a"],
    ):
        code, _, err = run_verb(*words, *(["-c", recipe] if words[0] == "fit" else []), *more)
        assert code == 1
        assert "9 name(s) that are no column" in err
        for said in (
            'evaluation.covariates: no such column; got "Age"; fix: did you mean "age"?',
            'evaluation.covariates: no such column; got "gender"; fix: did you mean "sex"?',
            'evaluation.covariates: no such column; got "scaner"; allowed: diagnosis, age, sex, site',
            'evaluation.variables: no such column; got "severty"; fix: did you mean "severity"?',
            'evaluation.variables: not a variable; got "participant_id"',
            'evaluation.families.mood: no such column; got "scor"; fix: did you mean "score"?',
            'evaluation.blocks: no such column; got "Site"; fix: did you mean "site"?',
            'method.attributes: no such column; got "svrity"; fix: did you mean "severity"?',
            'volumes.normative.covariates: no such column; got "AGE"; fix: did you mean "age"?',
        ):
            assert said in err
        assert not (tmp_path / "runs" / "a" / "data").exists()


def test_run_takes_the_evaluation_of_the_recipe_anew_and_trains_nothing_again(run_verb, cohort, tmp_path, caplog):
    recipe, folder = tmp_path / "recipe.yaml", tmp_path / "runs" / "a"
    words = ["--manifest", cohort / "manifest.tsv", *settings("method.name=pca", "evaluation.explain=0")]
    recipe.write_text("evaluation: {variables: [score]}\n")
    code, _, err = run_verb("fit", cohort / "manifest.tsv", folder, "-c", recipe, *words[2:])
    assert code == 0, err
    # As it was recorded before names were looked at.
    text = (folder / "config.yaml").read_text()
    (folder / "config.yaml").write_text(text.replace("  - score\n", "  - scoore\n"))
    weights = {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}
    recipe.write_text(
        "evaluation: {variables: [severity, both], covariates: [age], batteries: {both: [severity, score]}}\n"
    )
    code, _, err = run_verb("run", recipe, folder, *words)
    assert code == 0, err
    assert "evaluation.variables: ['scoore'] -> ['severity', 'both']" in caplog.text
    assert weights == {path: path.stat().st_mtime_ns for path in weights}
    evaluation = load_config(folder / "config.yaml").evaluation
    assert (evaluation.variables, evaluation.covariates) == (["severity", "both"], ["age"])
    table = pd.read_csv(folder / "analysis" / "separation.tsv", sep="\t")
    # The battery is of link.
    assert set(table["variable"]) == {"severity"}


def test_a_recipe_that_names_what_is_not_there_is_named_with_the_key_and_the_place(run_verb, cohort, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("cohort: {manifest: tables/absent.tsv, bids_root: nowhere}\n")
    code, _, err = run_verb("run", recipe, tmp_path / "runs" / "a")
    assert code == 1
    assert (
        f'{recipe}: cohort.manifest: there is no {tmp_path / "tables" / "absent.tsv"}; got "tables/absent.tsv"' in err
    )
    assert f"{recipe}: cohort.bids_root: there is no {tmp_path / 'nowhere'}" in err
    recipe.write_text("cohort: {bids: {root: recip.yaml}}\n")
    code, _, err = run_verb("run", recipe, tmp_path / "runs" / "a")
    assert "cohort.bids.root: there is no" in err
    assert 'did you mean "recipe.yaml"?' in err


def test_a_misspelt_component_of_a_simulation_is_named(run_verb, tmp_path):
    code, _, err = run_verb("simulate", tmp_path / "out", "--set", "atropy=0.2")
    assert code == 1
    assert 'did you mean "atrophy"?' in err
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("cohort: {simulate: {n_tran: 16}}\n")
    code, _, err = run_verb("run", recipe, tmp_path / "run")
    assert code == 1
    assert 'did you mean "n_train"?' in err
    assert not (tmp_path / "out").exists()


def test_run_stops_at_a_cohort_that_must_be_mended_first(run_verb, cohort, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(cohort, broken)
    manifest = pd.read_csv(broken / "manifest.tsv", sep="\t", dtype=str, keep_default_na=False)
    first = broken / manifest["image_path"][0]
    first.write_bytes(first.read_bytes()[:300])
    second = broken / manifest["image_path"][1]
    image = nib.load(second)
    nib.save(nib.Nifti1Image(np.full(image.shape, np.nan, np.float32), image.affine), second)
    (broken / manifest["image_path"][2]).unlink()
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("volumes: {preset: vbm}\n")
    code, _, err = run_verb("run", recipe, tmp_path / "runs" / "a", "--manifest", broken / "manifest.tsv", *settings())
    assert code == 1
    for participant in manifest["participant_id"][:3]:
        assert participant in err
    assert not (tmp_path / "runs" / "a" / "checkpoints").exists()


def test_doctor_names_versions_and_devices(run_verb):
    code, out, _ = run_verb("doctor", "--json")
    found = pd.DataFrame(json.loads(out)).set_index("what")
    assert code == 0
    assert found.loc["monai", "verdict"] == "ok"
    assert "CUDA GPU" in " ".join(found.index)
