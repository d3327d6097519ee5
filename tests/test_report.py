from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from report_run import VARIABLES, make_links, make_run, write, write_object

from sepclr_med.analysis.associations.claims import by_strength
from sepclr_med.analysis.linking import ONE_TRAINING, link_run
from sepclr_med.errors import RunError
from sepclr_med.report.brief import say_bottom_line
from sepclr_med.report.collect import collect_run
from sepclr_med.report.figures import Mark, Row, draw_intervals
from sepclr_med.report.methods import describe_methods, number_citations
from sepclr_med.report.methods_model import describe_model
from sepclr_med.report.not_run import STEPS, find_not_run
from sepclr_med.report.participants import join_images
from sepclr_med.report.references import REFERENCES
from sepclr_med.report.render import report
from sepclr_med.report.scatter import Group, Plane, describe_far, draw_plane
from sepclr_med.report.sections.card import draw_separation
from sepclr_med.report.sections.forests import mark_row
from sepclr_med.report.sections.glossary import WORDS
from sepclr_med.report.sections.links import say_links
from sepclr_med.standing import find_standing

HOSTILE = """<script>alert(1)</script>"><img src=x onerror=alert(1)>{{7*7}}</style></title>$x_1$&amp;'"""
VOID = {"meta", "link", "img", "br", "input"}


class Page(HTMLParser):
    """What a test asks of a page: its elements, the text of each, and whether they nest."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.words.append((self.open[-1], data.strip()))

    def named(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    def text(self, *tags):
        return [words for tag, words in self.words if not tags or tag in tags]


@pytest.fixture(scope="module")
def fresh_run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs") / "fresh")


@pytest.fixture(scope="module")
def whole_run(fresh_run):
    return Path(shutil.copytree(fresh_run, fresh_run.with_name("whole")))


@pytest.fixture(scope="module")
def whole_text(whole_run):
    return report(whole_run).read_text(encoding="utf-8")


@pytest.fixture
def run(fresh_run, tmp_path):
    return Path(shutil.copytree(fresh_run, tmp_path / "run"))


def change(path, edit):
    content = json.loads(path.read_text())
    edit(content)
    write_object(path, content)


# ---------------------------------------------------------------- what is on the page


def test_page_has_every_section_in_order(whole_text):
    page = Page(whole_text)
    ids = [a["id"] for a in page.named("section")]
    assert ids == [
        *("brief", "cohort", "training", "card", "spaces", "links", "whole-space", "subtypes", "maps"),
        *("not-run", "methods", "provenance", "glossary"),
    ]
    links = {a["href"] for a in page.named("a")}
    assert {f"#{name}" for name in ids} <= links
    assert "For research. Not for diagnosis," in page.text("strong")


def test_figures_of_the_run_are_on_the_page(whole_text):
    words = Page(whole_text).text()
    # Table 1, an estimate, its interval, a p-value, a verdict, and the flow.
    for said in ("50.40 (9.10)", "0.60 [0.40, 0.80]", "0.0010", "salient carries age: R2 −0.42.", "74", "72"):
        assert said in words, said


def test_strongest_factor_is_said_though_permutations_tie(whole_text):
    # All factors have the smallest p-value that 999 permutations can give; salient_001 has the largest statistic.
    said = next(words for words in Page(whole_text).text("span") if words.startswith("severity goes with"))
    assert said == "severity goes with salient_001 (r = 0.60 [0.40, 0.80], p FDR 0.0010, n = 48) and 5 more factors."


def test_link_of_free_permutations_only_is_a_warning_and_never_bold():
    links = make_links(np.random.default_rng(0))
    said = [(entry["level"], entry["text"]) for entry in say_links(links)]
    assert [level for level, text in said if "rater" in text] == ["warning"]
    assert any(text.startswith("Not detected") and "sleep (n = 48)" in text for _, text in said)
    marks = {row["variable"]: mark_row(row) for row in links.to_dict("records")}
    assert marks == {"severity": "holds", "episodes": "", "subtype": "", "sleep": "", "rater": "lost"}


def test_order_by_strength_agrees_with_a_slow_one():
    rng = np.random.default_rng(1)
    links = make_links(rng)
    links["p_fdr"] = rng.choice([0.01, 0.5, np.nan], len(links))
    links["statistic"] = rng.random(len(links))
    passes = links["p_fdr"].where(links["p_fdr"] <= 0.05, np.inf)
    slow = sorted(
        links.index,
        key=lambda i: (passes[i], *links.loc[i, ["p_fwe", "p_value"]], -links.loc[i, "statistic"]),
    )
    assert by_strength(links).index.tolist() == slow


def test_interval_is_drawn_where_its_values_are():
    rows = [Row("a", (Mark(0.5, 0.25, 0.75),)), Row("b", (Mark(-3.0, -4.0, 0.0),))]
    drawn = str(draw_intervals(rows, "title", "words", "axis", limits=(-1.0, 1.0)))
    intervals = re.findall(r'd="M([\d.]+) [\d.]+L([\d.]+) [\d.]+" class="interval', drawn)
    (low, high), (cut, zero) = [tuple(map(float, pair)) for pair in intervals]
    ticks = [float(x) for x in re.findall(r'd="M([\d.]+) 4L[\d.]+ [\d.]+" class="grid"', drawn)]
    left, right = ticks[0], ticks[-1]
    assert low == pytest.approx(left + 0.625 * (right - left), abs=0.2)
    assert high == pytest.approx(left + 0.875 * (right - left), abs=0.2)
    # What lies outside is cut at the edge, and said by an arrow instead of a mark.
    assert (cut, zero) == pytest.approx((left, (left + right) / 2), abs=0.2)
    assert drawn.count("shapes c2") == 2
    assert "l-6 4l6 4z" in drawn


def test_every_scatter_plot_draws_every_held_out_participant(whole_text):
    drawing = re.search(r'<svg[^>]*aria-label="common space by diagnosis.*?</svg>', whole_text)[0]
    dots = sum(path.count("h0") for path in re.findall(r'd="([^"]*)"[^>]*class="dots', drawing))
    squares = sum(path.count("z") for path in re.findall(r'd="([^"]*)"[^>]*class="shapes', drawing))
    assert (dots, squares) == (24, 24)


def test_same_run_gives_the_same_page(whole_run, whole_text):
    assert report(whole_run).read_text(encoding="utf-8") == whole_text


def test_output_may_be_elsewhere(run, tmp_path):
    assert report(run, tmp_path / "pages" / "mine.html").is_file()
    assert not (run / "report.html").exists()


def test_simulated_cohort_says_so(run, whole_text):
    assert "simulated" not in Page(whole_text).text("strong")
    write_object(run / "cohort" / "simulation.json", {"seed": 0})
    assert "simulated" in Page(report(run).read_text()).text("strong")


# ---------------------------------------------------------------- accessible


def test_structure_can_be_read_aloud(whole_text):
    page = Page(whole_text)
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in pairwise(levels))
    for landmark in ("header", "nav", "main", "footer"):
        assert len(page.named(landmark)) == 1
    assert page.elements[0][1] == {"lang": "en"}
    assert page.named("a")[0] == {"class": "skip", "href": "#main"}
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for a in page.named("a") if a["href"].startswith("#")} <= set(ids)


def test_tables_and_figures_have_words(whole_text):
    page = Page(whole_text)
    assert len(page.named("caption")) == len(page.named("table")) > 8
    assert {a.get("scope") for a in page.named("th")} == {"col", "row"}
    for drawing in page.named("svg"):
        assert drawing.get("aria-hidden") == "true" or (drawing["role"] == "img" and len(drawing["aria-label"]) > 10)
    assert all(len(image["alt"]) > 20 for image in page.named("img"))
    scrolling = [a for _, a in page.elements if a.get("role") == "region"]
    assert all(a["tabindex"] == "0" and a["aria-label"] for a in scrolling)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_stand_out(scheme):
    style = (Path(report.__code__.co_filename).parent / "templates" / "style.css").read_text()
    light, dark = style.split("@media (prefers-color-scheme: dark)")[:2]
    colours = dict(re.findall(r"--([a-z0-9]+): (#[0-9a-f]{6})", light))
    if scheme == "dark":
        colours |= dict(re.findall(r"--([a-z0-9]+): (#[0-9a-f]{6})", dark.split("* {")[0]))

    def light_of(name):
        parts = [int(colours[name][i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def contrast(name):
        low, high = sorted((light_of(name), light_of("paper")))
        return (high + 0.05) / (low + 0.05)

    # WCAG 2.2: 4.5 for text, 3 for graphical objects.
    for name in ("ink", "soft", "link", "good", "info", "warning", "error"):
        assert contrast(name) >= 4.5, name
    for name in ("c0", "c1", "c2", "c3", "c4", "c5", "c6", "focus"):
        assert contrast(name) >= 3, name


# ---------------------------------------------------------------- nothing gets out, nothing gets in


def poison(run):
    """Put a hostile text wherever a user's file has text."""
    for path in run.rglob("*.tsv"):
        table = pd.read_csv(path, sep="\t", na_values=["n/a"], keep_default_na=False, dtype={"participant_id": str})
        for name in table.select_dtypes(exclude="number"):
            if name not in ("participant_id", "split", "scheme", "metric"):
                table[name] = table[name].where(
                    table[name].isna(), table[name].astype(object).map(lambda v: f"{v}{HOSTILE}")
                )
        write(path, table.rename(columns={"sleep": f"sleep{HOSTILE}", "cluster": f"cluster{HOSTILE}"}))

    def edit(value):
        if isinstance(value, dict):
            return {key: value[key] if key in ("files", "level") else edit(value[key]) for key in value}
        if isinstance(value, list):
            return [edit(entry) for entry in value]
        return f"{value}{HOSTILE}" if isinstance(value, str) else value

    for path in run.rglob("*.json"):
        write_object(path, edit(json.loads(path.read_text())))
    config = (
        (run / "config.yaml").read_text().replace("small", json.dumps(HOSTILE)).replace("[control]", "[control, '<b>']")
    )
    (run / "config.yaml").write_text(config)


@pytest.fixture
def poisoned(run):
    poison(run)
    named = run.with_name("<img src=x onerror=alert(2)>")
    run.rename(named)
    return report(named, named / "page.html")


def test_text_of_users_stays_text(poisoned, whole_text):
    text = poisoned.read_text(encoding="utf-8")
    page, clean = Page(text), Page(whole_text)
    assert {tag for tag, _ in page.elements} <= {tag for tag, _ in clean.elements}
    assert len(page.named("script")) == 1
    assert not any(name.startswith("on") for _, a in page.elements for name in a)
    assert all(image["src"].startswith("data:image/png;base64,") for image in page.named("img"))
    assert {a["href"] for a in page.named("a")} <= {a["href"] for a in clean.named("a")}
    # It is there, as text: in a table, a verdict, a heading and the label of a figure.
    assert text.count("&lt;script&gt;alert(1)&lt;/script&gt;") > 100
    assert "49" not in re.findall(r"(\S+)&lt;/style", text)
    assert "<img src=x onerror=alert(2)>" in page.text("h1")


def test_ids_are_not_shown_and_addresses_in_cells_are_no_links(run, whole_text):
    for path in run.rglob("*.tsv"):
        table = pd.read_csv(path, sep="\t", dtype=str, na_values=["n/a"], keep_default_na=False)
        for name in table.columns.intersection(["site", "subtype", "variable", "factor", "note", "message", "fix"]):
            table[name] = "javascript:alert(1)//" + table[name]
        if "participant_id" in table:
            table["participant_id"] += HOSTILE
        write(path, table.rename(columns={"sleep": "javascript:alert(2)", "severity": "javascript:alert(1)//severity"}))
    text = report(run).read_text(encoding="utf-8")
    page, clean = Page(text), Page(whole_text)
    assert {tag for tag, _ in page.elements} <= {tag for tag, _ in clean.elements}
    assert {a["href"] for a in page.named("a")} <= {a["href"] for a in clean.named("a")}
    links = ("href", "src", "action", "formaction", "xlink:href", "data", "style")
    assert not [a[name] for _, a in page.elements for name in links if "javascript" in (a.get(name) or "")]
    assert "javascript:alert(1)//" in text
    # Nothing of a participant's id is on the page, hostile or not.
    assert "onerror" not in text


def test_page_loads_nothing(whole_text):
    page = Page(whole_text)
    policy = next(a["content"] for a in page.named("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    assert not [a for tag, a in page.elements if tag in ("iframe", "object", "base", "form", "source")]
    assert [a["href"] for a in page.named("link")] == ["data:,"]
    assert "url(" not in whole_text.split("</style>")[0]
    assert "@import" not in whole_text


def test_page_names_no_participant_and_no_path(run):
    text = report(run).read_text()
    assert "/home/ann" not in text
    assert "a participant has a small head" in text
    assert "sub-017" not in text
    assert not re.search(r">0\d\d<", text)
    # The command is still told.
    assert "sepclr-med fit manifest.tsv --set=a=c" in text


# ---------------------------------------------------------------- runs of any state


def files_of(run):
    return sorted(path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file())


def test_any_single_file_makes_a_page(fresh_run, tmp_path):
    for number, name in enumerate(files_of(fresh_run)):
        lonely = tmp_path / str(number)
        (lonely / name).parent.mkdir(parents=True)
        shutil.copy(fresh_run / name, lonely / name)
        assert "What was not run" in report(lonely).read_text(), name


def leave_out(run, names):
    for name in names:
        hidden = run.with_name("hidden")
        (run / name).rename(hidden)
        Page(report(run).read_text(encoding="utf-8"))
        hidden.rename(run / name)


def test_what_others_lean_on_may_be_absent(run):
    leave_out(run, ["config.yaml", "data/manifest.tsv", "embeddings/desc-salient_embedding.tsv"])


@pytest.mark.slow
def test_any_file_may_be_absent(run):
    leave_out(run, files_of(run))


BROKEN = {
    "empty": b"",
    "binary": b"\xff\xfe\x00bad",
    "cut": b"{",
    "list": b"[]",
    "ragged": b"a\tb\n1\t2\t3\n",
    "other": b'{"a": {"b": [1]}}',
}


@pytest.mark.parametrize("turn", range(len(BROKEN)))
def test_all_files_may_be_broken_at_once(run, turn):
    contents = list(BROKEN.values())
    for number, name in enumerate(files_of(run)):
        (run / name).write_bytes(contents[(number + turn) % len(contents)])
    Page(report(run).read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_any_file_may_be_broken(run, content):
    for name in files_of(run):
        good = (run / name).read_bytes()
        (run / name).write_bytes(content)
        Page(report(run).read_text(encoding="utf-8"))
        (run / name).write_bytes(good)


def test_values_of_another_kind_do_not_stop_it(run):
    def scramble(value, depth=0):
        if isinstance(value, dict):
            return {key: scramble(entry, depth + 1) for key, entry in value.items()} if depth < 1 else [3]
        return {"x": value} if isinstance(value, list) else None if isinstance(value, str) else str(value)

    for path in [*run.rglob("*.json")]:
        write_object(path, scramble(json.loads(path.read_text())))
    for path in run.rglob("*.tsv"):
        table = pd.read_csv(path, sep="\t")
        for name in table.columns:
            table[name] = [None, "word"] * (len(table) // 2) + [0] * (len(table) % 2)
        write(path, table)
    Page(report(run).read_text())


def test_what_was_not_run_has_its_command(run):
    shutil.rmtree(run / "maps")
    (run / "analysis" / "links.tsv").unlink()
    text = report(run).read_text()
    commands = Page(text).text("code")
    assert "sepclr-med link RUN_DIR --covariates age,sex,site" in commands
    assert "sepclr-med explain RUN_DIR" in commands
    assert "sepclr-med evaluate RUN_DIR" not in commands
    assert 'id="links"' not in text


def test_each_step_can_be_missing(tmp_path):
    (tmp_path / "progress.png").write_bytes(b"")
    assert [entry["name"] for entry in find_not_run(collect_run(tmp_path))] == [step.name for step in STEPS]


def test_a_single_training_is_said_to_be_one_and_what_would_try_it_is_named(run):
    found = link_run(run, variables=["severity"], covariates=[], n_permutations=99, parts=[])
    assert ONE_TRAINING in found.notes
    page = Page(report(run).read_text())
    assert any(ONE_TRAINING in words for words in page.text("li"))
    commands = page.text("code")
    assert any(words.startswith("sepclr-med fit MANIFEST NEW_RUN_DIR") for words in commands)
    assert any(words.startswith("sepclr-med controls RUN_DIR/config.yaml") for words in commands)
    # Many trainings are never what must come next.
    assert not [fact for fact in find_standing(run).facts if "controls" in fact[1] or "trainings" in fact[1]]
    (run / "crossfit.json").write_text('{"folds": ["0", "1", "2"], "seeds": [0]}')
    (run / "controls").mkdir()
    (run / "controls" / "controls.json").write_text("{}")
    assert ONE_TRAINING not in link_run(run, variables=["severity"], covariates=[], n_permutations=99, parts=[]).notes
    assert not [entry for entry in find_not_run(collect_run(run)) if entry["name"] in [STEPS[-1].name, STEPS[-2].name]]


def test_unreadable_files_are_named(run):
    (run / "analysis" / "links.tsv").write_text("factor\tp\na\t1\n")
    (run / "analysis" / "card.json").write_text("{")
    words = Page(report(run).read_text()).text("li")
    assert "analysis/links.tsv: columns variable are absent; it was left out." in words
    assert "analysis/card.json: cannot be read as JSON." in words


@pytest.mark.parametrize("make", [False, True], ids=["absent", "empty"])
def test_no_run_is_refused(tmp_path, make):
    folder = tmp_path / "none"
    if make:
        folder.mkdir()
    with pytest.raises(RunError, match=r"none: n(o such folder|ot a run folder)"):
        report(folder)


def test_old_separation_table_is_read(run):
    path = run / "analysis" / "separation.tsv"
    table = pd.read_csv(path, sep="\t")
    write(path, table[table["scheme"] == "held-out"].drop(columns=["scheme", "p_value", "measure"]))
    page = Page(report(run).read_text())
    assert "What each space carries. Linear probes." in page.text("span")


# ---------------------------------------------------------------- methods


def test_methods_cite_only_what_was_run(run):
    def cited():
        section = describe_methods(collect_run(run))
        references = next(block for block in section["blocks"] if block["kind"] == "references")["items"]
        written = {words: key for key, (words, _) in REFERENCES.items()}
        return {written[entry["words"]] for entry in references}

    everything = cited()
    assert {"sepclr", "freedman", "winkler2015", "psr", "rsa", "bic", "maxt", "dcor", "families"} <= everything
    assert not {"huber", "varimax", "tfce", "ig"} & everything
    (run / "analysis" / "links.tsv").unlink()
    shutil.rmtree(run / "maps")
    assert everything - cited() >= {"freedman", "winkler2015", "psr", "maxt", "families", "hksj"}


def test_methods_say_the_settings(whole_text):
    words = " ".join(Page(whole_text).text("p"))
    for said in ("adjusted for age and sex", "(999 permutations)", "3 epochs", "seed 7", "24 for training"):
        assert said in words, said


def test_citations_cannot_be_forged():
    words, cited = number_citations(["a [[fdr]] <b>"])
    assert cited == ["fdr"]
    assert "&lt;b&gt;" in words[0]
    folder = {
        "config": {"cohort": {"background": ["[[fdr]]"], "target": ["x"]}},
        "manifest": pd.DataFrame({"participant_id": ["1"]}),
    }
    data = {"tables": {}, "objects": {}, "files": [], "steps": [], "embeddings": {}, "sidecars": {}} | folder
    written = next(block for block in describe_methods(data)["blocks"] if block["kind"] == "methods")["paragraphs"]
    assert "fdr being the background" in written[0]["text"]


def test_every_reference_is_complete():
    for key, (words, link) in REFERENCES.items():
        assert re.search(r"\b(19|20)\d\d\.$", words), key
        assert link == "" or link.startswith("https://"), key


# ---------------------------------------------------------------- tables for R


def test_participants_are_joined_by_id_alone(run):
    manifest = pd.read_csv(run / "data/manifest.tsv", sep="\t", dtype={"participant_id": str}, na_values=["n/a"])
    write(run / "data/manifest.tsv", manifest.sample(frac=1, random_state=0))
    report(run)
    table = pd.read_csv(run / "analysis/participants.tsv", sep="\t", dtype={"participant_id": str}, na_values=["n/a"])
    assert len(table) == len(manifest)
    assert "image_path" not in table
    factors = pd.read_csv(run / "embeddings/desc-salient_embedding.tsv", sep="\t", dtype={"participant_id": str})
    groups = pd.read_csv(run / "analysis/subtypes.tsv", sep="\t", dtype={"participant_id": str})
    for row in table.to_dict("records"):
        same = manifest[manifest["participant_id"] == row["participant_id"]].iloc[0]
        assert row["age"] == same["age"]
        place = factors["participant_id"] == row["participant_id"]
        assert row["salient_003"] == pytest.approx(factors.loc[place, "salient_003"].iloc[0], rel=1e-7)
        found = groups.loc[groups["participant_id"] == row["participant_id"], "group"].tolist()
        assert found == ([row["salient_group"]] if isinstance(row["salient_group"], str) else [])
    assert {f"{space}_000" for space in ("common", "salient", "canonical", "voxel_pca")} <= set(table)


def test_sessions_keep_their_own_values():
    table = pd.DataFrame({"participant_id": ["01", "01"], "session_id": ["b", "a"], "salient_000": [1.0, 2.0]})
    manifest = pd.DataFrame({"participant_id": ["01", "01"], "session_id": ["a", "b"], "age": [30.0, 31.0]})
    joined = join_images({"embeddings": {"salient": table}, "manifest": manifest, "assignments": None})
    assert joined["age"].tolist() == [31.0, 30.0]


def test_readme_reads_the_table_in_r(run):
    report(run)
    text = (run / "analysis" / "README.md").read_text()
    code = text.split("```r\n")[1].split("```")[0]
    assert "summary(lm(salient_000 ~ age + sex + site, data = held_out))" in code
    if shutil.which("Rscript"):
        done = subprocess.run(["Rscript", "-e", code], cwd=run / "analysis", capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_report_loads_no_tensors():
    heavy = "{'torch', 'monai', 'matplotlib', 'sklearn'}"
    code = f"import sepclr_med.report.render, sys; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


# ---------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium on this machine")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


def open_page(browser, path, width=1280, scheme="light"):
    """Open a page without network; return it, and what it said and asked for."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
    page, said, asked = context.new_page(), [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.resolve().as_uri())
    return page, said, [url for url in asked[1:] if not url.startswith("data:")]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_page_opens_offline_and_never_scrolls_sideways(browser, whole_run, whole_text, width, scheme):
    page, said, asked = open_page(browser, whole_run / "report.html", width, scheme)
    page.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert (said, asked) == ([], [])
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (int(re.search(r"\d+", paper)[0]) < 60) == (scheme == "dark")
    page.context.close()


def test_tables_are_sorted_from_the_keyboard(browser, whole_run, whole_text):
    page, said, _ = open_page(browser, whole_run / "report.html")
    button = page.locator("#links-table thead button", has_text="estimate")
    heading = page.locator("#links-table thead th", has_text="estimate")
    button.focus()
    assert page.evaluate("document.activeElement.tagName") == "BUTTON"
    place = heading.evaluate("cell => cell.cellIndex")
    read = f"rows => rows.map(row => row.cells[{place}].dataset.sort).map(v => v === undefined ? null : Number(v))"
    for key, order, reverse in (("Enter", "ascending", False), ("Space", "descending", True)):
        page.keyboard.press(key)
        assert heading.get_attribute("aria-sort") == order
        values = page.locator("#links-table tbody tr").evaluate_all(read)
        known = [value for value in values if value is not None]
        assert known == sorted(known, reverse=reverse)
        assert len(known) == len(VARIABLES) * 6 + 1
        assert page.locator("#said").inner_text() == f"sorted by estimate [95% CI], {order}"
    # Missing values stay last whichever way: the whole space has no detectable effect.
    for _ in range(2):
        page.locator("#links-table thead button", has_text="MDE").click()
        last = page.locator("#links-table tbody tr").last.locator("th, td").all_inner_texts()
        assert "salient (whole)" in last
    assert said == []
    page.context.close()


def test_skip_link_comes_first_and_leads_to_the_results(browser, whole_run, whole_text):
    page, _, _ = open_page(browser, whole_run / "report.html")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.context.close()


def test_hostile_tables_do_nothing_in_a_browser(browser, poisoned):
    page, said, asked = open_page(browser, poisoned, 390)
    assert (said, asked) == ([], [])
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.locator("#links-table thead button").first.click()
    assert page.locator("#said").inner_text().startswith("sorted by")
    assert said == []
    page.context.close()


def test_the_paragraph_on_the_representation_says_what_the_encoders_saw_and_what_was_taken_out():
    method = {"name": "sepclr", "common_dim": 32, "salient_dim": 32, "erase": ["age"], "erase_salient": 2}
    facts = {"covariates": ["age", "site"], "n_background": 200, "n_components": 24, "pooled": ["site"]}
    facts["borrowed"] = {"age": 0.31, "sex": 0.0}
    data = {
        "config": {"method": method},
        "files": ["history.tsv"],
        "objects": {"reference": {"facts": facts}},
        "steps": [],
    }
    said = describe_model(data, str)
    for words in (
        "200 training background images",
        "voxelwise regression on age and site",
        "24 leading components",
        "likelihood of held-out background",
        "The effect of site was estimated in all training participants",
        "combined by random-effects weights for age (31% from targets) [[dersimonian]]",
        "of age from the salient space and of the 2 leading axes of the salient space from the common one was erased",
    ):
        assert words in said
    facts |= {"pooled": [], "borrowed": {}, "n_components_asked": 24}
    assert "were kept" not in said
    data["steps"] = [{"step": "fit", "salient_variance": 0.995}, {"step": "link"}]
    assert "axes with 99.5% of training targets' variance were kept" in describe_model(data, str)
    data["config"]["method"] = method | {"name": "simclr", "erase": []}
    said = describe_model(data, str)
    assert "SimCLR" in said
    for words in ("in all training participants", "random-effects", "likelihood of held-out", "erased"):
        assert words not in said


# ---------------------------------------------------------------- what a newcomer must be told


def test_methods_say_what_was_done_without_sites_and_without_components(run):
    manifest = pd.read_csv(run / "data/manifest.tsv", sep="\t", dtype=str)
    assert "values within sites" in report(run).read_text()
    write(run / "data/manifest.tsv", manifest.drop(columns="site"))
    text = report(run).read_text()
    assert "values freely, without blocks" in text
    assert "values within sites" not in text
    facts = {"covariates": ["age"], "n_background": 15, "n_components": 0}
    data = {"config": {"method": {}}, "files": ["history.tsv"], "objects": {"reference": {"facts": facts}}, "steps": []}
    assert "no component of what it leaves" in describe_model(data, str)


def set_links(run, level, mde, n):
    """Give every variable the same verdict and detectable effect."""
    links = pd.read_csv(run / "analysis/links.tsv", sep="\t", na_values="n/a", keep_default_na=False)
    write(run / "analysis/links.tsv", links.assign(mde=mde))
    verdicts = [{"level": level, "variable": name, "text": f"{name}: no link was detected."} for name in VARIABLES]

    def edit(content):
        content["verdicts"] = verdicts
        content["settings"] |= {"n": n, "target": ["patient"], "blocks": []}
        content["not_tested"] = {"MADRS": "values of 5 participants, 8 needed"}
        content["notes"] = ["Not tested: MADRS (values of 5 participants, 8 needed).", "Another."]

    change(run / "analysis/link.json", edit)


@pytest.mark.parametrize(
    ("level", "mde", "said"),
    [
        ("info", 0.85, "Nothing was found: of 5 clinical variables tested in 10 target participants, none went"),
        ("info", 0.85, "So few could hardly have shown a link that is there: a correlation of 0.85 or more"),
        ("info", 0.4, "could have shown a strong link only"),
        ("info", 0.2, "could have shown a moderate link"),
        ("good", 0.4, "Found: of 5 clinical variables tested in 10 target participants, severity"),
        ("warning", 0.4, "Nothing was found that may be claimed without a caution"),
    ],
)
def test_the_page_begins_with_what_was_found_and_whether_it_could_have_been(run, level, mde, said):
    set_links(run, level, mde, 10)
    assert said in say_bottom_line(collect_run(run))
    assert said in " ".join(Page(report(run).read_text()).text("p"))


def test_untested_variables_stand_in_the_open_and_nulls_are_one_list_in_brief(run):
    set_links(run, "info", 0.85, 10)
    words = Page(report(run).read_text()).text("span")
    assert words.count("Not tested: MADRS (values of 5 participants, 8 needed).") == 2
    assert words.count("Not detected: severity, episodes, subtype, sleep and rater.") == 1
    assert words.count("severity: no link was detected.") == 1
    items = Page(report(run).read_text()).text("li")
    assert "Another." in items
    said = " ".join(Page(report(run).read_text()).text("p"))
    assert "p is from free permutations, as there are no blocks" in said
    (run / "analysis/link.json").unlink()
    assert "p is from permutations within blocks;" in " ".join(Page(report(run).read_text()).text("p"))
    assert not any(item.startswith("Not tested") for item in items)


def test_who_squeezes_all_others_is_an_arrow_at_the_rim_and_counted():
    points = np.random.default_rng(0).normal(size=(60, 2))
    shown, group = np.ones(60, dtype=bool), Group("all", np.ones(60, dtype=bool), "c1")
    plane = Plane("salient", points, ("one", "two"), "")
    assert describe_far([plane], shown) == ""
    points[7, 0] = 90.0
    assert "1 of 60 participants, beyond five robust deviations from the median of one" in describe_far([plane], shown)
    drawn = str(draw_plane(plane, shown, [group], "title", "words"))
    assert drawn.count("h0") == 59
    assert drawn.count("rotate(0)") == 1
    places = [float(x) for x in re.findall(r"M([0-9.]+) [0-9.]+h0", drawn)]
    assert max(places) - min(places) > 200


def test_training_curves_say_when_validation_was_measured(run):
    history = {"epoch": [1, 2], "train_total": [3.0, 2.0], "val_total": [np.nan, 2.5]}
    write(run / "history.tsv", pd.DataFrame(history))
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("{epochs: 3,", "{epochs: 2, validate_every: 5,"))
    text = " ".join(Page(report(run).read_text()).text("figcaption"))
    assert "a mark without a line: it is measured every 5 epochs and after the last" in text
    assert "does not measure overfitting" in text


def test_many_variables_of_the_card_are_several_drawings_and_r2_is_explained(run):
    table = pd.read_csv(run / "analysis/separation.tsv", sep="\t")
    rows = table[(table["metric"] == "r2") & (table["scheme"] == "held-out") & (table["variable"] == "age")]
    many = pd.concat([rows.assign(variable=f"v{k}", value=-0.7) for k in range(12)])
    assert [str(drawing).count('class="chance"') for drawing in draw_separation(many)] == [6, 6]
    write(run / "analysis/separation.tsv", many)
    text = " ".join(Page(report(run).read_text()).text("figcaption"))
    assert "guessing the training participants' mean" in text
    assert "60 estimates below −0.5 stand as arrows" in text


def test_tables_that_scroll_say_so(whole_text):
    text = " ".join(Page(whole_text).text("p"))
    assert "31 rows: scroll inside the table for the rest." in text
    assert "More columns to the right" in text


def test_words_of_the_glossary_are_those_of_the_docs():
    page = Path(__file__).parent.parent / "docs" / "glossary.md"
    lines = re.findall(r"^\| \*\*(.+?)\*\* \| (.+) \|$", page.read_text(), re.MULTILINE)
    documented = {name: words.replace("`", "") for words_of, words in lines for name in words_of.split(", ")}
    assert {name: documented[name] for name in WORDS} == WORDS


def test_each_map_names_the_clinical_variable_that_its_factor_is_nearest_to(whole_text):
    assert "severity (r = 0.60 [0.40, 0.80], p FDR 0.0010)" in Page(whole_text).text("dd")


def test_long_notes_are_numbers_explained_below_the_table(run):
    links = pd.read_csv(run / "analysis/links.tsv", sep="\t", na_values="n/a", keep_default_na=False)
    note = "set aside for prediction as too rare: two classes of one participant each, and so on"
    write(run / "analysis/links.tsv", links.assign(note=np.where(links["variable"] == "sleep", note, "")))
    page = Page(report(run).read_text())
    assert note not in page.text("td")
    assert any(note in words for words in page.text("p"))
