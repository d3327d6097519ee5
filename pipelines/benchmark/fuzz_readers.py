"""Every reader of a user's files: valid files as the software writes them, what spoils them, and what reads them.

A case is a dictionary of file names to bytes (or to a :class:`Link`); a reader gets the folder it was written to and
either returns or raises a ``UserError``. Beyond reading, it uses what it read as the software does next.
"""

import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory

import fuzz_mutations as spoil
import numpy as np
import pandas as pd
from fuzz_cases import Link, Reader, read_case
from fuzz_placing import placing_seeds, read_placing_case, read_site_case, site_seeds
from fuzz_tensors import (
    IMAGE_MUTATIONS,
    checkpoint_seeds,
    image_seeds,
    nifti_bytes,
    read_checkpoint_case,
    read_image_case,
    read_reference_case,
    read_volume_case,
    reference_seeds,
    small_model,
)


def manifest_seeds():
    from sepclr_med.cohort.columns import describe_columns
    from sepclr_med.cohort.manifest import read_manifest, write_manifest
    from sepclr_med.rundir import write_json

    rng, seeds = np.random.default_rng(0), []
    for name, n in (("manifest.csv", 12), ("manifest.tsv", 40)):
        with TemporaryDirectory() as folder:
            path = Path(folder) / name
            table = pd.DataFrame({"participant_id": [f"{i:03d}" for i in range(n)]})
            table["image_path"] = [f"{folder}/sub-{i}.nii.gz" for i in range(n)]
            table["diagnosis"] = np.where(np.arange(n) % 2, "control", "patient")
            table["age"], table["sex"] = rng.uniform(18, 90, n).round(1), rng.choice(["F", "M", "O", None], n)
            table["site"], table["tiv"] = rng.choice(["a", "b"], n), rng.uniform(1200, 1700, n)
            table["split"], table["score"] = rng.choice(["train", "val", "test"], n), rng.normal(size=n)
            table["note"] = rng.choice(["", 'said "no"', "a, b", "two\tcells", "é"], n)
            write_manifest(table, path)
            write_json(
                path.with_suffix(".json"), describe_columns(read_manifest(path)) | {"note": {"Levels": {"é": "e"}}}
            )
            seeds.append(read_case(folder))
    european = seeds[0]["manifest.csv"].replace(b",", b";")
    return [*seeds, {"manifest.csv": european}, {"manifest.tsv": seeds[1]["manifest.tsv"].decode().encode("utf-16")}]


def read_manifest_case(folder):
    from sepclr_med.cohort.columns import describe_columns
    from sepclr_med.cohort.manifest import manifest_hash, read_manifest, write_manifest

    path = next(folder / name for name in ("manifest.csv", "manifest.tsv") if (folder / name).exists())
    manifest = read_manifest(path, missing_codes=[-9])
    json.dumps(describe_columns(manifest), ensure_ascii=False).encode()
    with TemporaryDirectory() as copy:
        again = read_manifest(write_manifest(manifest, Path(copy) / "copy.tsv"))
    if manifest_hash(again) != manifest_hash(manifest):
        raise AssertionError("what was written does not read back the same")


# Configuration


def config_seeds():
    recipes = sorted(Path(__file__).parents[1].glob("*/recipe.yaml"))
    sets = b"training.epochs=5\ncohort.background=[HC, control]\nvolumes.spacing=2.5\nmethod.name=sepvae"
    sets += b"\nvolumes.transforms=[{name: Orientationd, axcodes: RAS}]"
    return [{"recipe.yaml": path.read_bytes(), "set.txt": sets} for path in recipes]


def read_config_case(folder):
    from sepclr_med.config import dump_config, load_config, parse_config, read_yaml

    words = (folder / "set.txt").read_bytes().decode("utf-8", errors="surrogateescape").split("\n")
    config = load_config(folder / "recipe.yaml", words[:20])
    path = folder / "config.yaml"
    path.write_text(dump_config(config), encoding="utf-8")
    if dump_config(parse_config(read_yaml(path))) != dump_config(config):
        raise AssertionError("what was written does not read back the same")


# BIDS folders


def bids_seeds():
    image, case = nifti_bytes(), {}
    for i, session in [(i, session) for i in range(1, 4) for session in ("", "ses-1", "ses-2")]:
        inner = f"sub-{i:02d}/{session}/anat".replace("//", "/")
        name = "_".join(part for part in (f"sub-{i:02d}", session, "run-1" if i == 2 else "", "T1w.nii.gz") if part)
        case[f"{inner}/{name}"] = image
    people = "participant_id\tgroup\tgender\tage\tsite\n" + "".join(
        f"sub-{i:02d}\t{'HC' if i % 2 else 'MDD'}\tfemale\t{30 + i}\ta\n" for i in range(1, 4)
    )
    tables = {"participants.tsv": people.encode(), "participants.json": b'{"group": {"Levels": {"HC": "healthy"}}}'}
    tables["phenotype/bdi.tsv"] = b"participant_id\tbdi\n" + b"".join(b"sub-%02d\t%d\n" % (i, i) for i in range(1, 4))
    tables["phenotype/bdi.json"] = b'{"bdi": {"Description": "score", "Units": "points"}}'
    tables["dataset_description.json"] = b'{"Name": "x", "BIDSVersion": "1.8.0"}'
    plain = {name: content for name, content in case.items() if "ses-" not in name} | tables
    visits = {name: content for name, content in case.items() if "ses-" in name} | tables
    sessions = {
        f"sub-{i:02d}/sub-{i:02d}_sessions.tsv": b"session_id\tscore\nses-1\t1\nses-2\t2\n" for i in range(1, 4)
    }
    annexed = {}
    for name, content in plain.items():
        if name.endswith((".nii.gz", ".tsv")):
            key = f".git/annex/objects/{len(annexed):03d}/x"
            annexed[key] = content
            content = Link("../" * name.count("/") + key)
        annexed[name] = content
    return [plain, visits | sessions, annexed]


NAMES = [
    *("sub-²", "sub-", "sub-01_", "sub--1", "SUB-01", "sub-01\n", "sub-\x1b[31m", "sub-💩", "sub-a\udcff"),
    *("sub-" + "x" * 200, "sub-01,sub-02", "derivatives"),
    *("ses-", "ses-²", "run-²", "run-01", "run-1", "acq-\udce9", "desc-a=b", "anat", "figures", "sub-01 "),
    *("participants.tsv", "sub-01_T1w.nii.gz", "sub-05_T1w.nii", "sub-01_run-²_T1w.nii.gz", "[red]", "%s"),
    *("sub-01_participant_id-3_T1w.nii.gz", "sub-01_image-path_T1w.nii.gz", "sub-01_index-2_T1w.nii", "image_path-1"),
]  # fmt: skip
TARGETS = [
    ".",
    "..",
    "../..",
    "/",
    "/etc/passwd",
    "/dev/zero",
    "/dev/null",
    "/proc/self/mem",
    "itself",
    "sub-01",
    "../sub-02",
]


def spoil_tree(rng, case):
    """Rename, move, link, drop, add: paths of a BIDS folder."""
    for _ in range(rng.integers(1, 4)):
        names = list(case)
        name = names[rng.integers(0, len(names))]
        parts = name.split("/")
        kind = rng.integers(0, 7)
        new = NAMES[rng.integers(0, len(NAMES))]
        at = int(rng.integers(0, len(parts)))
        if kind < 2:
            case["/".join([*parts[:at], new, *parts[at + 1 :]])] = case.pop(name)
        elif kind == 2:
            case["/".join([*parts[:at], new, *parts[at:]])] = case[name]
        elif kind == 3:
            del case[name]
            case = case or {"README": b""}
        elif kind == 4:
            key, _, rest = parts[-1].partition("_")
            case["/".join([*parts[:-1], f"{key}_{new}_{rest}"])] = case[name]
        else:
            place = "/".join(parts[: at + 1])
            case = {other: content for other, content in case.items() if not (other + "/").startswith(place + "/")}
            case[place] = Link(TARGETS[rng.integers(0, len(TARGETS))])
    # A name cannot be a file and a folder.
    folders = {"/".join(name.split("/")[:depth]) for name in case for depth in range(1, name.count("/") + 1)}
    return {name: content for name, content in case.items() if name not in folders}


def read_bids_case(folder):
    from sepclr_med.cohort.bids import find_images
    from sepclr_med.cohort.columns import describe_columns
    from sepclr_med.cohort.manifest import manifest_hash, read_manifest, write_manifest

    for options in ({}, {"phenotype": True, "sessions": True, "entities": {"run": "1,none"}}):
        manifest, problems = find_images(folder, **options)
        "\n".join(map(str, problems)).encode()
        json.dumps(describe_columns(manifest), ensure_ascii=False).encode()
        root = os.path.realpath(folder) + "/"
        if not all(path.startswith(root) for path in manifest["image_path"]):
            raise AssertionError("an image outside the dataset")
        with TemporaryDirectory() as copy:
            again = read_manifest(write_manifest(manifest, Path(copy) / "copy.tsv"))
        if manifest_hash(again) != manifest_hash(manifest):
            raise AssertionError("what was written does not read back the same")


# Checkpoints and what lies beside them


def embedding_seeds():
    from sepclr_med.cohort.embeddings import write_embeddings

    rng = np.random.default_rng(0)
    ids = pd.DataFrame({"participant_id": [f"{i:03d}" for i in range(10)], "session_id": None})
    ids["split"], ids["fold"], ids["model_id"] = ["train", "test"] * 5, None, "abcdef123456"
    with TemporaryDirectory() as folder:
        tables = {
            space: pd.concat(
                [ids, pd.DataFrame(rng.normal(size=(10, 3)), columns=[f"{space}_{k:03d}" for k in range(3)])], axis=1
            )
            for space in ("common", "salient")
        }
        write_embeddings(tables, Path(folder), {"Seed": 0, "Checkpoint": "last"})
        return [read_case(folder)]


def read_embedding_case(folder):
    from sepclr_med.cohort.embeddings import factor_columns, read_any_embeddings, read_embeddings, read_replicates

    tables = read_embeddings(folder)
    given = read_any_embeddings([f"{space}={folder / f'desc-{space}_embedding.tsv'}" for space in tables])
    for table in [*tables.values(), *given.values()]:
        table[factor_columns(table)].to_numpy(float)
        if not table["participant_id"].map(type).eq(str).all():
            raise AssertionError("an id is not a text")
    read_replicates(folder)


def hypotheses_seeds():
    lists = b"variables: [MADRS, BDI]\ncovariates: [age, sex, site]\nfactors: [salient]\nblocks: [site]\n"
    words = b"canonical: varimax\nsmallest_icc: 0.5\ntarget: [MDD]\n"
    mappings = b"families: {mood: [MADRS]}\nbatteries: {mood: [BDI]}\nmeasures: {MADRS: ordinal}\n"
    return [{"asked.yaml": lists + words + mappings}]


def read_hypotheses_case(folder):
    from sepclr_med.cohort.ledger import hash_hypotheses, read_hypotheses

    hash_hypotheses(read_hypotheses(folder / "asked.yaml"))


def ledger_seeds():
    from sepclr_med.cohort.ledger import append_event, seal
    from sepclr_med.rundir import write_json

    rows = pd.DataFrame({"participant_id": ["01", "02"], "split": ["train", "test"]})
    with TemporaryDirectory() as folder:
        (Path(folder) / "asked.yaml").write_bytes(hypotheses_seeds()[0]["asked.yaml"])
        ledger = seal(rows, Path(folder) / "study.tsv", Path(folder) / "asked.yaml")
        append_event(ledger, "opened", {"verb": "link", "reason": "paper", "hypotheses": None})
        said = {"ledger": "../study.ledger.jsonl", "test_sha256": "a" * 64}
        write_json(Path(folder) / "run" / "data" / "seal.json", said)
        case = read_case(folder)
    return [{name: case[name] for name in ("study.ledger.jsonl", "run/data/seal.json")}]


def read_ledger_case(folder):
    from sepclr_med.cohort.ledger import append_event
    from sepclr_med.opening import sealed_entries
    from sepclr_med.report.sections.ledger import say_ledger
    from sepclr_med.rundir import RunDir

    entries = sealed_entries(RunDir(folder / "run"))
    append_event(folder / "study.ledger.jsonl", "opened", {"verb": "evaluate", "reason": "again"})
    if entries is not None:
        say_ledger(entries)


def run_seeds():
    from datetime import datetime, timezone

    from sepclr_med.config import dump_config
    from sepclr_med.provenance import record_step
    from sepclr_med.rundir import write_json

    with TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "config.yaml").write_text(dump_config(small_model()))
        record_step(root / "provenance.json", "fit", datetime.now(timezone.utc), {"seed": 0})
        write_json(root / "crossfit.json", {"folds": ["0", "1"], "seeds": [0]})
        write_json(root / "analysis" / "done.json", {"link": "abc"})
        case = read_case(folder)
    return [{name: content for name, content in case.items() if "lock" not in name}]


def read_run_case(folder):
    from datetime import datetime, timezone

    from sepclr_med.cohort.crossfolds import read_plan
    from sepclr_med.pipeline import _Done
    from sepclr_med.provenance import record_step
    from sepclr_med.report.collect import collect_run
    from sepclr_med.rundir import RunDir
    from sepclr_med.runs import read_config

    run = RunDir(folder)
    config = read_config(run)
    read_plan(run)
    _Done(run, config).needs("link")
    collect_run(folder)
    record_step(run.provenance, "embed", datetime.now(timezone.utc), {"seed": 0})


# Caches


def facts_seeds():
    from sepclr_med.cohort.facts_file import read_images

    with TemporaryDirectory() as folder:
        for i in range(3):
            (Path(folder) / f"{i}.nii").write_bytes(nifti_bytes())
        read_images([f"{folder}/{i}.nii" for i in range(3)], 1, Path(folder) / "images.jsonl")
        lines = (Path(folder) / "images.jsonl").read_bytes()
    return [{"images.jsonl": lines.replace(folder.encode(), b".")}]


def read_facts_case(folder):
    from sepclr_med.cohort.facts_file import FactsFile
    from sepclr_med.cohort.faults import find_faults
    from sepclr_med.cohort.outliers import MIN_IMAGES, find_outliers
    from sepclr_med.errors import Problem

    remembered = list(FactsFile(folder / "images.jsonl")._facts.values())
    for facts in remembered:
        find_faults(facts)
    usable = [facts for facts in remembered if facts.usable] * MIN_IMAGES
    ids = [f"{i:03d}" for i in range(len(usable))]
    rows = pd.DataFrame({"participant_id": ids, "image_path": [facts.path for facts in usable]})
    find_outliers(rows, usable, lambda label, **said: Problem(row=label, **said))


def store_seeds():
    from sepclr_med.volumes.store import VolumeCache

    rng = np.random.default_rng(0)
    with TemporaryDirectory() as folder:
        store = VolumeCache(folder, {"preset": "vbm"}, (1, 4, 4, 4))
        store.append([(f"{i:064x}", rng.random((1, 4, 4, 4)).astype(np.float16)) for i in range(3)])
        case = read_case(folder)
    case = {name: content for name, content in case.items() if "lock" not in name}
    return [case | {"files.tsv": b"a" * 64 + b"\t1-2-3-4\t" + b"b" * 64 + b"\n"}]


def read_store_case(folder):
    from sepclr_med.volumes.fingerprints import ContentHashes
    from sepclr_med.volumes.store import VolumeCache

    ContentHashes(folder / "files.tsv").find(folder / "volumes.f16")
    new = np.random.default_rng(9).random((1, 4, 4, 4)).astype(np.float16)
    for shape in ((1, 4, 4, 4), None):
        store = VolumeCache(folder, {"preset": "vbm"}, shape)
        for key in [key for key in store.rows if not store.is_whole(key)]:
            store.forget(key)
        store.fix_shape((1, 4, 4, 4))
        key = "f" * 63 + str(int(shape is None))
        store.append([(key, new)] if store.shape == (1, 4, 4, 4) else [])
        if store.shape == (1, 4, 4, 4) and not np.array_equal(store.array()[store.rows[key]], new):
            raise AssertionError("what was written does not read back the same")


READERS = {
    "manifest": Reader(manifest_seeds, read_manifest_case, {"sv": spoil.mutate_table, "json": spoil.mutate_json}),
    "config": Reader(
        config_seeds, read_config_case, {"yaml": spoil.mutate_yaml, "txt": spoil.mutate_bytes}, ("config.yaml",)
    ),
    "bids": Reader(
        bids_seeds, read_bids_case, {"sv": spoil.mutate_table, "json": spoil.mutate_json}, spoil_case=spoil_tree
    ),
    "checkpoint": Reader(checkpoint_seeds, read_checkpoint_case, {"safetensors": spoil.mutate_safetensors}),
    "reference": Reader(reference_seeds, read_reference_case, {"safetensors": spoil.mutate_safetensors}),
    "sites": Reader(site_seeds, read_site_case, {"effects.safetensors": spoil.mutate_safetensors}),
    "check": Reader(lambda: image_seeds()[0], read_image_case, IMAGE_MUTATIONS),
    "volumes": Reader(lambda: [*image_seeds()[0], *image_seeds()[1]], read_volume_case, IMAGE_MUTATIONS, ("cache",)),
    "embeddings": Reader(embedding_seeds, read_embedding_case, {"tsv": spoil.mutate_table, "json": spoil.mutate_json}),
    "hypotheses": Reader(hypotheses_seeds, read_hypotheses_case, {"yaml": spoil.mutate_yaml}),
    "ledger": Reader(
        ledger_seeds,
        read_ledger_case,
        {"jsonl": spoil.mutate_json_lines, "json": spoil.mutate_json},
        (".", "study.ledger.jsonl"),
    ),
    "run": Reader(
        run_seeds, read_run_case, {"yaml": spoil.mutate_yaml, "json": spoil.mutate_json}, (".", "provenance.json")
    ),
    "placing": Reader(
        placing_seeds, read_placing_case, {"json": spoil.mutate_json, "tsv": spoil.mutate_table}, ("out",)
    ),
    "facts": Reader(facts_seeds, read_facts_case, {"jsonl": spoil.mutate_json_lines}),
    "store": Reader(
        store_seeds,
        read_store_case,
        {"tsv": spoil.mutate_bytes, "json": spoil.mutate_json, "f16": spoil.mutate_bytes},
        ("",),
    ),
}
