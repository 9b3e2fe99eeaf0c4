"""Calls that run what a file holds, or reach what nobody named: refused in all sources, with few exceptions."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("vlmvid", "flows", "benchmarks", "scripts")
# Full dotted names, or the start of some with a dot at the end.
FORBIDDEN = {
    "eval": "runs text",
    "exec": "runs text",
    "compile": "makes code of text",
    "__import__": "imports what a text names",
    "os.system": "needs a shell",
    "os.popen": "needs a shell",
    "subprocess.getoutput": "needs a shell",
    "subprocess.getstatusoutput": "needs a shell",
    "pickle.load": "runs what a file holds",
    "pickle.loads": "runs what bytes hold",
    "pickle.Unpickler": "runs what a file holds",
    "marshal.": "trusts bytes",
    "shelve.": "is a pickle",
    "joblib.": "is a pickle",
    "dill.": "is a pickle",
    "cloudpickle.": "is a pickle",
    "pandas.read_pickle": "is a pickle",
    "yaml.load": "builds any object; use safe_load",
    "yaml.load_all": "builds any object; use safe_load_all",
    "yaml.full_load": "builds many objects; use safe_load",
    "yaml.unsafe_load": "builds any object; use safe_load",
    "torch.hub.": "downloads code",
    "torch.jit.load": "loads code",
    "mlflow.pyfunc.load_model": "runs the model's code; use vlmvid.load",
    "mlflow.pytorch.load_model": "is a pickle",
    "shutil.unpack_archive": "writes where the archive says",
    "tempfile.mktemp": "names a file that another may make first",
    "xml.": "expands entities",
    "lxml.": "expands entities",
    "urllib.request.urlopen": "opens any scheme and follows redirections; use vlmvid.config.addresses.open_http",
    "urllib.request.urlretrieve": "opens any scheme",
    "requests.": "follows redirections; use vlmvid.config.addresses.open_http",
    "httpx.": "use vlmvid.config.addresses.open_http",
    "aiohttp.": "use vlmvid.config.addresses.open_http",
}
# What must be said in each call, by the full name or by the last part where that begins with a dot.
REQUIRED = {
    "torch.load": ("weights_only", True),
    "numpy.load": ("allow_pickle", False),
    ".from_pretrained": ("local_files_only", True),
    ".snapshot_download": ("local_files_only", True),
    ".hf_hub_download": ("local_files_only", True),
}
NEVER_TRUE = ("shell", "trust_remote_code", "allow_pickle")
EXTRACTING = ("extract", "extractall")
# Where and what, and why there.
EXCEPTIONS = {
    ("vlmvid/video/isolation/protocol.py", "pickle.loads"): "the pipe's other end is the parent process",
    ("vlmvid/evaluation/benchmarks/retrieval/msvd.py", "pickle.Unpickler"): "its find_class refuses every name",
    ("scripts/processes.py", "urllib.request.urlopen"): "asks servers that it started itself",
}


def imported_names(tree: ast.Module) -> dict[str, str]:
    """What each imported name stands for, in full."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                root = alias.name.partition(".")[0]
                names[alias.asname or root] = alias.name if alias.asname else root
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return names


def full_name(node: ast.expr, names: dict[str, str]) -> str:
    """The dotted name of an expression, its first part as it was imported.

    Of what is not imported, e.g. a variable that is called requests, the parts from the second on with a dot before
    them; empty for what is no name.
    """
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    last = ".".join(reversed(parts))
    if isinstance(node, ast.Name) and (node.id in names or not parts):
        return ".".join(filter(None, [names.get(node.id, node.id), last]))
    return f".{last}" if parts else ""


def keyword(call: ast.Call, name: str) -> object:
    """The constant that a call gives for a keyword; None where it gives none, or no constant."""
    return next((k.value.value for k in call.keywords if k.arg == name and isinstance(k.value, ast.Constant)), None)


def findings(source: str) -> Iterator[tuple[int, str, str]]:
    """Line, name and reason of everything in `source` that is refused."""
    tree = ast.parse(source)
    names = imported_names(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute):
            name = full_name(node, names)
            for refused, why in FORBIDDEN.items():
                if name == refused or (refused.endswith(".") and name.startswith(refused)):
                    yield node.lineno, name, why
        if not isinstance(node, ast.Call):
            continue
        name = full_name(node.func, names)
        for required, (argument, value) in REQUIRED.items():
            is_it = name.endswith(required) if required.startswith(".") else name == required
            if is_it and keyword(node, argument) is not value:
                yield node.lineno, name, f"must say {argument}={value}"
        for argument in NEVER_TRUE:
            if any(k.arg == argument for k in node.keywords) and keyword(node, argument) is not False:
                yield node.lineno, name, f"must not say {argument}=True"
        if name.rpartition(".")[2] in EXTRACTING:
            yield node.lineno, name, "writes where the archive says"


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_call_runs_what_a_file_holds(folder: str) -> None:
    paths = sorted((ROOT / folder).rglob("*.py"))
    found = [
        f"{place}:{line}: {name} {why}"
        for path in paths
        for line, name, why in findings(path.read_text(encoding="utf-8"))
        if ((place := path.relative_to(ROOT).as_posix()), name) not in EXCEPTIONS
    ]
    assert paths and not found, "\n".join(found)


def test_every_exception_is_needed() -> None:
    for (place, name), _ in EXCEPTIONS.items():
        assert name in {found for _, found, _ in findings((ROOT / place).read_text(encoding="utf-8"))}, (place, name)


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.load('a.pt')",
        "import torch\ntorch.load('a.pt', weights_only=False)",
        "from torch import load as get\nget('a.pt')",
        "import numpy as np\nnp.load('a.npy')",
        "import numpy as np\nnp.load('a.npy', allow_pickle=True)",
        "import pickle\npickle.loads(b'')",
        "from pickle import loads\nloads(b'')",
        "import pickle\nclass A(pickle.Unpickler): pass",
        "import joblib\njoblib.load('a')",
        "import yaml\nyaml.load('a', yaml.SafeLoader)",
        "import subprocess\nsubprocess.run('ls', shell=True)",
        "import subprocess\nhow = True\nsubprocess.run('ls', shell=how)",
        "import os\nos.system('ls')",
        "eval('1')",
        "run = exec\nrun('1')",
        "import tarfile\ntarfile.open('a').extractall('b')",
        "import zipfile\nwith zipfile.ZipFile('a') as archive:\n    archive.extract('b')",
        "import xml.etree.ElementTree as tree\ntree.parse('a')",
        "from xml.dom import minidom\nminidom.parse('a')",
        "from urllib.request import urlopen\nurlopen('file:///etc/passwd')",
        "import urllib.request\nurllib.request.urlopen('a')",
        "import requests\nrequests.get('a')",
        "from transformers import AutoModel\nAutoModel.from_pretrained('a')",
        "import transformers as t\nt.AutoModel.from_pretrained('a', local_files_only=True, trust_remote_code=1)",
        "import mlflow.pyfunc\nmlflow.pyfunc.load_model('a')",
    ],
)
def test_the_look_finds(source: str) -> None:
    assert list(findings(source))


@pytest.mark.parametrize(
    "source",
    [
        "import re\nre.compile('a')",
        "import torch\ntorch.compile(model)",
        "model.eval()",
        "requests = []\nrequests.append(1)",
        "import numpy as np\nnp.load('a', mmap_mode='r', allow_pickle=False)",
        "import subprocess\nsubprocess.run(['ls'], shell=False)",
        "import ast\nast.literal_eval('1')",
    ],
)
def test_the_look_lets_pass(source: str) -> None:
    assert not list(findings(source))
