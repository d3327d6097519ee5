"""The documentation: every page is found, every link leads somewhere, what it says of the program is so."""

import ast
import re
import shlex
from pathlib import Path

import pytest
import yaml
from check_site import check_site
from code_names import exists
from program_pages import commands, describe_commands, describe_config, fill_in, options
from repository_pages import COPIES, mend_links, repository_pages

import sepclr_med
from sepclr_med.config import Config
from sepclr_med.errors import UserError

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
TEXTS = {path: fill_in(path.read_text(encoding="utf-8")) for path in [*PAGES, *repository_pages()]}
FENCES = re.compile(r"^(```+)[^\n]*\n.*?^\1$", flags=re.MULTILINE | re.DOTALL)
NAMES = [path.relative_to(ROOT).as_posix() for path in TEXTS]
# Of wrong commands on purpose; tests/test_mistakes.py runs each.
RIGHT = {name: path for name, path in zip(NAMES, TEXTS, strict=True) if path.stem != "mistakes"}


def anchors(text):
    """Return the anchors of a page, as GitHub and the site make them of its headings."""
    found = set()
    for heading in re.findall(r"^#{1,6} (.+)$", FENCES.sub("", text), flags=re.MULTILINE):
        words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        slug = re.sub(r"[^\w\- ]", "", words.replace("`", "")).replace(" ", "-")
        found.add(slug if slug not in found else f"{slug}-1")
    return found


def contents(text):
    """Return the entries of a page's tables of contents."""
    blocks = re.findall(r"^```\{toctree\}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    return [re.sub(r".*<(.+)>", r"\1", line) for line in lines if line and not line.startswith(":")]


def uses(text):
    """Return the commands of the program in a page's code: verb, and the words after it."""
    joined = text.replace("\\\n", " ")
    blocks = [line for block in FENCES.finditer(joined) for line in block[0].splitlines()]
    indented = re.findall(r"^ {4}\S.*$", FENCES.sub("", joined), flags=re.MULTILINE)
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", FENCES.sub("", joined))]
    for line in [*blocks, *indented, *spans]:
        for said in re.findall(r"sepclr-med ([a-z][a-z-]*(?: [^#;|>]*)?)", line):
            verb, *words = said.split()
            yield verb, words


@pytest.mark.parametrize("path", TEXTS, ids=NAMES)
def test_pages_made_of_the_program_say_what_it_is_now(path):
    assert path.read_text(encoding="utf-8") == TEXTS[path], "python docs/_ext/program_pages.py"


@pytest.mark.parametrize("path", TEXTS, ids=NAMES)
def test_links_and_their_anchors_lead_somewhere(path):
    for target, anchor in re.findall(r"\]\((?![a-z]+:)([^)\s#]*)(?:#([^)\s]*))?\)", FENCES.sub("", TEXTS[path])):
        page = (path.parent / target).resolve() if target else path
        assert page.exists(), target
        if anchor:
            assert anchor in anchors(TEXTS[page]), f"{target}#{anchor}"


def test_every_page_is_reached_from_the_first():
    reached, waiting = set(), ["index"]
    while waiting:
        name = waiting.pop()
        path = DOCS / f"{name}.md"
        if name.startswith("generated/repository/"):
            path = ROOT / f"{name.removeprefix('generated/repository/')}.md"
        elif name.startswith("auto_tutorials/"):
            continue
        if path in reached:
            continue
        assert path in TEXTS, name
        reached.add(path)
        waiting += contents(TEXTS[path])
    below = {page for page in repository_pages() if page.parent.name != "pipelines" and "pipelines" in page.parts}
    assert {path.name for path in PAGES} <= {path.name for path in reached}
    assert set(repository_pages()) - below <= reached


@pytest.mark.parametrize("path", RIGHT.values(), ids=RIGHT)
def test_verbs_options_and_settings_exist(path):
    known = commands()
    for verb, words in uses(TEXTS[path]):
        assert verb in known, verb
        for word in words:
            if re.match(r"--?[a-z]", word):
                assert word.split("=")[0] in options(known[verb]), f"{verb} {word}"


@pytest.mark.parametrize("path", [path for path in PAGES if path.stem not in ("ablation", "benchmarks")], ids=str)
def test_options_that_stand_alone_exist(path):
    known = set().union(*(options(command) for command in commands().values()))
    for span in re.findall(r"`(--[a-z][^`]*)`", FENCES.sub("", TEXTS[path])):
        assert span.split()[0].split("=")[0] in known, span


def test_commands_are_found_in_the_pages():
    assert sum(len(list(uses(text))) for text in TEXTS.values()) > 100
    assert list(uses("    sepclr-med fit a.tsv \\\n  --sett x")) == [("fit", ["a.tsv", "--sett", "x"])]


@pytest.mark.parametrize("path", RIGHT.values(), ids=RIGHT)
def test_settings_that_are_named_exist(path):
    sections = "|".join(Config.model_fields)
    for field in re.findall(rf"(?<![\w./-])((?:{sections})(?:\.[a-z_]+)+)(?=[`=: ])", TEXTS[path]):
        if field.endswith(".py"):
            continue
        section = Config
        for name in field.split("."):
            if isinstance(section, dict):
                break
            assert name in section.model_fields, f"{path.name}: {field}"
            kinds = [
                section.model_fields[name].annotation,
                *getattr(section.model_fields[name].annotation, "__args__", ()),
            ]
            section = next((kind for kind in kinds if hasattr(kind, "model_fields")), {})


@pytest.mark.parametrize("path", TEXTS, ids=NAMES)
def test_pictures_have_a_text(path):
    for text, source in re.findall(r"!\[([^]]*)\]\(([^)]+)\)", TEXTS[path]):
        assert len(text) > 10, source


def test_symbols_of_the_method_are_names_in_the_files_beside_them():
    rows = re.findall(r"^\| (.+?) \| (.+?) \| (.+?) \|$", TEXTS[DOCS / "method.md"], flags=re.MULTILINE)
    named = 0
    for symbol, here, where in rows:
        files = [ROOT / "sepclr_med" / name for name in re.findall(r"`([a-z_/]+\.py)`", where)]
        defined = set().union(*(names_in(file) for file in files)) if files else set()
        for name in re.findall(r"`([A-Za-z_.]+)`", f"{here} {re.sub(r'`[a-z_/]+[.]py`', '', where)}"):
            assert name.split(".")[-1] in defined, f"{symbol}: {name} is not in {where}"
            named += 1
    assert named > 20


def names_in(file):
    """Return what a file defines: functions, classes, arguments, attributes and fields."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        for kind, field in (
            (ast.FunctionDef, "name"),
            (ast.ClassDef, "name"),
            (ast.arg, "arg"),
            (ast.Attribute, "attr"),
        ):
            found |= {getattr(node, field)} if isinstance(node, kind) else set()
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found


def test_the_python_page_lists_what_is_public():
    listed = re.findall(r"^   ([A-Za-z_.]+)$", TEXTS[DOCS / "api.md"], flags=re.MULTILINE)
    assert {*listed, "__version__"} >= set(sepclr_med.__all__)
    for name in set(listed) - set(sepclr_med.__all__):
        *module, last = name.split(".")
        assert last in names_in(ROOT / "sepclr_med" / f"{'/'.join(module)}.py"), name


def test_generated_pages_hold_every_verb_option_and_setting():
    text = describe_commands()
    for verb, command in commands().items():
        part = text.split(f"## {verb}\n")[1].split("\n## ")[0]
        for word in options(command):
            assert f"`{word}`" in part, f"{verb} {word}"
    settings = describe_config()
    for section in Config.model_fields.values():
        for name, field in section.annotation.model_fields.items():
            assert f"| `{name}` |" in settings
            assert field.description is not None or hasattr(field.annotation, "model_fields")


@pytest.mark.parametrize("path", TEXTS, ids=NAMES)
def test_examples_are_python_and_yaml(path):
    for language, code in re.findall(r"^```(python|yaml)\n(.*?)^```$", TEXTS[path], flags=re.MULTILINE | re.DOTALL):
        ast.parse(code) if language == "python" else yaml.safe_load(code)


def test_commands_are_words_of_a_shell():
    with pytest.raises(ValueError, match="No closing quotation"):
        shlex.split("sepclr-med 'fit")
    for text in TEXTS.values():
        for block in re.findall(r"^```bash\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL):
            shlex.split(block, comments=True)


def test_links_are_mended_for_the_site():
    place, page = ROOT / "pipelines" / "README.md", COPIES / "pipelines" / "README.md"
    mended = mend_links("[a](../docs/runs.md#resuming) [b](vbm/README.md) [c](https://example.org)", place, page)
    assert mended == "[a](../../../runs.md#resuming) [b](vbm/README.md) [c](https://example.org)"


def test_a_broken_site_is_noticed(tmp_path):
    (tmp_path / "a.html").write_text(
        '<p id="x"><a href="#x"></a><a href="#y"></a><a href="b.html"></a><img src="a.html">'
    )
    (tmp_path / "c.html").write_text('<script src="https://example.org/a.js"></script><a href="https://example.org">')
    (tmp_path / "d.css").write_text("@import 'https://example.org/d.css';")
    assert [line.split(": ", 1)[1] for line in check_site(tmp_path)] == [
        "no such anchor: #y",
        "no such file: b.html",
        "a picture without a text: a.html",
        "fetches https://example.org/a.js",
        "fetches @import 'https://example.org/d.css",
    ]


def test_a_name_that_is_not_there_is_noticed():
    assert exists("sepclr_med.errors.Problem")
    assert not exists("sepclr_med.errors.Problems")
    assert issubclass(UserError, ValueError)
