"""Nothing is unpickled, no text is run as code, YAML is data: read from the syntax tree, which no comment fools."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted([*(ROOT / "sepclr_med").rglob("*.py"), *(ROOT / "pipelines").rglob("*.py")])

UNPICKLING_MODULES = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "jsonpickle", "shelve", "marshal"}
REFUSED = {
    *("torch.load", "torch.save", "torch.jit.load", "torch.hub.load", "torch.package.PackageImporter"),
    *("joblib.load", "joblib.dump", "joblib.Memory", "pandas.read_pickle", "pandas.read_hdf"),
    *("numpy.lib.format.read_array", "sklearn.externals.joblib"),
    *("monai.data.PersistentDataset", "monai.data.CacheNTransDataset", "monai.data.LMDBDataset"),
    *("monai.data.GDSDataset", "monai.handlers.CheckpointLoader", "monai.handlers.CheckpointSaver"),
    *("monai.bundle.load", "monai.bundle.ConfigParser", "monai.bundle.run", "monai.bundle.create_workflow"),
    *("os.system", "os.popen", "eval", "exec", "compile", "__import__", "runpy.run_path"),
}
YAML = {"yaml.safe_load", "yaml.safe_dump", "yaml.SafeLoader", "yaml.YAMLError", "yaml.MarkedYAMLError"}
REFUSED_VALUES = {"allow_pickle": True, "weights_only": False, "shell": True}


def find_dangers(source):
    """Return (line, what) for everything that could run what a file says."""
    tree = ast.parse(source)
    names, found = read_imports(tree)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Attribute, ast.Name)) and isinstance(node.ctx, ast.Load):
            name = dotted(node, names)
            is_method = isinstance(node, ast.Attribute) and node.attr in ("read_pickle", "to_pickle")
            other_yaml = name.startswith("yaml.") and name.count(".") == 1 and name not in YAML
            found += [(node.lineno, name)] if name in REFUSED or is_method or other_yaml else []
        if isinstance(node, ast.Call):
            found += [(node.lineno, said) for said in refused_arguments(node, dotted(node.func, names))]
    return found


def read_imports(tree):
    """Return what each imported name stands for, and the imports that are dangers themselves."""
    names, found = {}, []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                first = alias.name.split(".")[0]
                names[alias.asname or first] = alias.name if alias.asname else first
                found += [(node.lineno, alias.name)] if first in UNPICKLING_MODULES else []
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            found += [(node.lineno, node.module)] if node.module.split(".")[0] in UNPICKLING_MODULES else []
    return names, found


def refused_arguments(call, function):
    """Return the arguments of a call that would unpickle, or start a shell; also where a variable could."""
    found = ["allow_pickle by place"] if function == "numpy.load" and len(call.args) > 2 else []
    for keyword in call.keywords:
        if keyword.arg in REFUSED_VALUES:
            value = keyword.value.value if isinstance(keyword.value, ast.Constant) else None
            harmless = value is not None and value != REFUSED_VALUES[keyword.arg]
            found += [] if harmless else [f"{keyword.arg}={value}"]
    return found


def dotted(node, names):
    """Return the full name of an expression as imports give it; empty for what is no plain name."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        base = dotted(node.value, names)
        return f"{base}.{node.attr}" if base else ""
    return ""


@pytest.mark.parametrize(
    "code",
    [
        "import torch\ntorch.load('a')",
        "import torch as t\nread = t.load",
        "from torch import load as read\nread('a')",
        "import pickle",
        "from cloudpickle import loads",
        "import joblib\njoblib.load('a')",
        "import numpy as n\nn.load('a', allow_pickle=True)",
        "import numpy\nnumpy.load('a', None, True)",
        "import numpy as np\nnp.load('a', allow_pickle=wanted)",
        "import yaml\nyaml.load(text, Loader=yaml.Loader)",
        "from yaml import unsafe_load\nunsafe_load(text)",
        "import pandas as pd\npd.read_pickle('a')",
        "table.to_pickle('a')",
        "eval('1')",
        "from monai.data import PersistentDataset\nPersistentDataset(a, b, c)",
        "import subprocess\nsubprocess.run('a', shell=True)",
    ],
)
def test_the_search_finds_what_it_is_for(code):
    assert find_dangers(code)


@pytest.mark.parametrize(
    "code",
    [
        "# torch.load('a')",
        "'''pickle.load'''",
        "network.eval()",
        "import yaml\nyaml.safe_load(text)",
        "import numpy as np\nnp.load('a', mmap_mode='r')",
        "import re\nre.compile('a')",
    ],
)
def test_the_search_lets_pass_what_is_harmless(code):
    assert not find_dangers(code)


def test_nothing_in_the_package_or_its_pipelines_unpickles_or_runs_text():
    assert len(FILES) > 200
    dangers = {path.relative_to(ROOT).as_posix(): find_dangers(path.read_text(encoding="utf-8")) for path in FILES}
    assert {name: found for name, found in dangers.items() if found} == {}
