"""The house keeps its shape: who may import whom, where each third-party engine lives, and how long things may be.

The rules are those of docs/architecture.md. The checker works on source text, so that planted violations can test it.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
ROOTS = {
    "edge_runtime": REPOSITORY / "edge_runtime",
    "edge_export": REPOSITORY / "export" / "edge_export",
    "edge_kernels": REPOSITORY / "kernels" / "edge_kernels",
}

ARROWS = {
    "": {"cli"},
    "cli": {"serving", "bench"},
    "serving": {"engine", "frames"},
    "bench": {"engine"},
    "engine": {"vision", "model", "actions"},
    "actions": {"errors"},
    "frames": {"errors"},
    "vision": {"model"},
    "model": {"families"},
    "families": {"devices"},
    "devices": {"errors"},
    "errors": set(),
}
"""One step down in `edge_runtime`; whatever can be reached along the arrows may be imported. "" is its front door."""

SEEN_OF_OTHER_ROOTS = {
    ("edge_runtime", "edge_kernels"): {"edge_kernels.library"},
    ("edge_export", "edge_kernels"): {"edge_kernels.library", "edge_kernels.packing"},
    ("edge_export", "edge_runtime"): {
        "edge_runtime.families.qwen3_vl.config",
        "edge_runtime.model.manifest",
        "edge_runtime.model.pocket",
        "edge_runtime.devices.memory",
        "edge_runtime.devices.profile",
        "edge_runtime.errors",
    },
}
"""(importing root, imported root) -> the modules it may import; a pair that is not here may import nothing."""

HOMES = {
    ("edge_runtime", "onnxruntime"): "model/graph.py",
    ("edge_runtime", "zmq"): "serving/*",
    ("edge_export", "onnxruntime"): "verify/ort.py",
    ("edge_export", "huggingface_hub"): "checkpoint/source.py",
    ("edge_export", "onnx_ir"): "graph.py",
    ("edge_export", "torch"): "families/*/verify/*",
    ("edge_export", "transformers"): "families/*/verify/*",
    ("edge_export", "optimum"): "families/*/verify/*",
}
"""The one file, or the files of a kind, of a root that may import a package."""

FAMILY_INSIDERS = ("families/", "random_checkpoint.py")
"""What of `edge_export` may look into a family; all others see its `family.py`, and the gate that of its `verify/`."""

TOO_HEAVY = {
    "edge_runtime": {"torch", "transformers", "optimum", "onnx", "onnx_ir", "onnxscript", "safetensors"},
    "edge_export": set(),
    "edge_kernels": {"torch", "transformers", "onnx", "onnxruntime"},
}

SILENCED = {"onnxruntime": "ORT_DISABLE_TELEMETRY", "huggingface_hub": "HF_HUB_DISABLE_TELEMETRY"}
"""Packages that tell their makers of their use -> the variable to set before they are imported (decision 45)."""

MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 60
SIZE_EXCEPTIONS: dict[str, str] = {}
"""`root/file.py` or `root/file.py:function` -> why it may be longer. Empty, and meant to stay so."""

TEST_FOLDERS_OF_THEIR_OWN = {"benchmarks", "data", "export", "hostile", "kernels", "parity", "pocket"}


@dataclass(frozen=True)
class Module:
    """One source file: its root package, its path below it, its text."""

    root: str
    path: str
    source: str

    @property
    def part(self) -> str:
        """The subpackage or top-level module it belongs to; empty for the root's `__init__.py`."""
        top = self.path.split("/")[0].removesuffix(".py")
        return "" if top == "__init__" else top


def modules() -> list[Module]:
    return [
        Module(root, path.relative_to(folder).as_posix(), path.read_text(encoding="utf-8"))
        for root, folder in ROOTS.items()
        for path in sorted(folder.rglob("*.py"))
    ]


def imported_names(tree: ast.AST) -> Iterator[str]:
    """Dotted names of everything imported anywhere in a file; `from a import b` gives `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            prefix = "." * node.level + (node.module or "")
            yield from (f"{prefix}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in ("import_module", "__import__"):
                yield str(node.args[0].value)


def below(part: str) -> set[str]:
    """All parts of the runtime that `part` may import, itself included."""
    reached, todo = set(), [part]
    while todo:
        current = todo.pop()
        if current not in reached:
            reached.add(current)
            todo.extend(ARROWS.get(current, ()))
    return reached


def import_violations(module: Module) -> list[str]:
    found = []
    for name in imported_names(ast.parse(module.source)):
        top, _, rest = name.partition(".")
        if name.startswith("."):
            found.append(f"{name}: imports are written in full")
        elif top in ROOTS and top != module.root:
            found += _other_root_violations(module, name)
        elif top == "edge_runtime" and not _may_import_part(module.part, rest.split(".")[0]):
            found.append(f"{name}: {module.part or 'the root'} lies below it or beside it")
        elif top == "edge_export" and not _may_see_family(module.path, rest):
            found.append(f"{name}: of a family, only its family.py is seen from outside")
        elif top in TOO_HEAVY[module.root]:
            found.append(f"{name}: {module.root} does without {top}")
        home = HOMES.get((module.root, top))
        if home and not fnmatchcase(module.path, home):
            found.append(f"{name}: only {module.root}/{home} imports {top}")
    return found


def _may_import_part(importer: str, imported: str) -> bool:
    known = {"__version__", *ARROWS}
    return imported in known and (imported == "__version__" or imported in below(importer))


def _may_see_family(importer: str, imported: str) -> bool:
    return importer.startswith(FAMILY_INSIDERS) or imported.split(".")[:1] != ["families"] or ".family" in imported


def _other_root_violations(module: Module, name: str) -> list[str]:
    top = name.partition(".")[0]
    seen = SEEN_OF_OTHER_ROOTS.get((module.root, top))
    if seen is None:
        return [f"{name}: {module.root} knows nothing of {top}"]
    # `name` may end in the imported attribute, so its module is it or its parent.
    if not {name, name.rpartition(".")[0]} & seen:
        return [f"{name}: of {top}, {module.root} sees only {', '.join(sorted(seen))}"]
    return []


def telling_violations(source: str) -> list[str]:
    """Imports of a `SILENCED` package with no line before them, at any depth, that gives its variable a default."""
    tree = ast.parse(source)
    quiet_from: dict[str, int] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "os.environ.setdefault" and len(node.args) == 2:
            variable, value = (argument.value if isinstance(argument, ast.Constant) else None for argument in node.args)
            if value == "1":
                quiet_from[str(variable)] = min(node.lineno, quiet_from.get(str(variable), node.lineno))
    found = []
    for node in ast.walk(tree):
        for name in imported_names(node) if isinstance(node, (ast.Import, ast.ImportFrom)) else ():
            variable = SILENCED.get(name.partition(".")[0])
            if variable and not quiet_from.get(variable, node.lineno) < node.lineno:
                found.append(f"line {node.lineno}: imports {name}, and {variable} is not set before it")
    return found


def size_violations(module: Module) -> list[str]:
    where = f"{module.root}/{module.path}"
    lines = module.source.count("\n")
    found = [f"{where} has {lines} lines"] if lines > MAX_FILE_LINES and where not in SIZE_EXCEPTIONS else []
    for node in ast.walk(ast.parse(module.source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > MAX_FUNCTION_LINES and f"{where}:{node.name}" not in SIZE_EXCEPTIONS:
                found.append(f"{where}:{node.name} has {length} lines")
    return found


@pytest.mark.parametrize("module", modules(), ids=lambda module: f"{module.root}/{module.path}")
def test_module_keeps_the_rules(module: Module) -> None:
    assert import_violations(module) == []
    assert size_violations(module) == []


def test_whoever_imports_a_package_that_calls_home_silences_it_first() -> None:
    """All sources but the tests', which one line of tests/conftest.py silences before any of them is imported."""
    folders = [*ROOTS.values(), *(REPOSITORY / name for name in ("benchmarks", "pocket", "scripts"))]
    found = {
        str(path.relative_to(REPOSITORY)): violations
        for folder in folders
        for path in folder.rglob("*.py")
        if (violations := telling_violations(path.read_text(encoding="utf-8")))
    }
    assert found == {}
    conftest = (REPOSITORY / "tests" / "conftest.py").read_text(encoding="utf-8")
    silence = next(i for i, line in enumerate(conftest.splitlines()) if "ORT_DISABLE_TELEMETRY" in line)
    third_party = next(i for i, line in enumerate(conftest.splitlines()) if line.startswith("import pytest"))
    assert silence < third_party


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("import onnxruntime", 1),
        ("from onnxruntime.capi import x", 1),
        ("import onnxruntime\nimport os\nos.environ.setdefault('ORT_DISABLE_TELEMETRY', '1')", 1),
        ("import os\nos.environ.setdefault('ORT_DISABLE_TELEMETRY', '0')\nimport onnxruntime", 1),
        ("import os\nos.environ.setdefault('ORT_DISABLE_TELEMETRY', '1')\nimport onnxruntime as ort", 0),
        ("def f():\n    import huggingface_hub", 1),
        ("import os\nos.environ.setdefault('ORT_DISABLE_TELEMETRY', '1')\nimport huggingface_hub", 1),
        ("import numpy", 0),
    ],
)
def test_planted_import_that_calls_home_is_found(source: str, count: int) -> None:
    assert len(telling_violations(source)) == count


def test_every_part_of_the_runtime_has_its_place_and_its_tests() -> None:
    packages = {path.parent.name for path in ROOTS["edge_runtime"].glob("*/__init__.py")}
    assert packages <= ARROWS.keys(), "draw the arrows of the new package in ARROWS and in docs/architecture.md"
    tested = {path.name for path in (REPOSITORY / "tests").iterdir() if any(path.rglob("test_*.py"))}
    assert packages <= tested, f"no tests for {sorted(packages - tested)}"


def test_every_root_tells_type_checkers_that_it_is_typed() -> None:
    assert all((folder / "py.typed").is_file() for folder in ROOTS.values())


def test_test_folders_mirror_the_roots() -> None:
    packages = {path.parent.name for path in ROOTS["edge_runtime"].glob("*/__init__.py")}
    folders = {path.name for path in (REPOSITORY / "tests").iterdir() if path.is_dir() and any(path.rglob("*.*"))}
    assert folders - {"__pycache__"} <= packages | TEST_FOLDERS_OF_THEIR_OWN


def test_third_party_homes_exist() -> None:
    for (root, package), home in HOMES.items():
        assert any(ROOTS[root].glob(home)), f"{package} has moved out of {root}/{home}"


def test_arrows_have_no_cycle() -> None:
    for part, lower_parts in ARROWS.items():
        assert all(part not in below(lower) for lower in lower_parts)


@pytest.mark.parametrize(
    ("root", "path", "source"),
    [
        ("edge_runtime", "model/a.py", "from edge_runtime.engine.engine import Engine"),
        ("edge_runtime", "model/a.py", "from edge_runtime.vision import image"),
        ("edge_runtime", "families/qwen3_vl/a.py", "from edge_runtime.model.manifest import Manifest"),
        ("edge_runtime", "families/qwen3_vl/a.py", "from edge_runtime.vision.image import Pixels"),
        ("edge_runtime", "families/qwen3_vl/a.py", "import onnxruntime"),
        ("edge_runtime", "devices/a.py", "import edge_runtime.model.manifest"),
        ("edge_runtime", "errors.py", "from edge_runtime.devices.probe import Machine"),
        ("edge_runtime", "engine/a.py", "from edge_runtime import Client"),
        ("edge_runtime", "frames/a.py", "from edge_runtime.model.manifest import Manifest"),
        ("edge_runtime", "engine/a.py", "def f():\n    from edge_runtime import serving"),
        ("edge_runtime", "engine/a.py", "import onnxruntime as ort"),
        ("edge_runtime", "model/decoder.py", "from onnxruntime import InferenceSession"),
        ("edge_runtime", "engine/a.py", "import zmq"),
        ("edge_runtime", "cli/a.py", "import zmq.asyncio"),
        ("edge_runtime", "vision/a.py", "import torch"),
        ("edge_runtime", "vision/a.py", "import importlib\nimportlib.import_module('transformers')"),
        ("edge_runtime", "model/a.py", "from onnx import numpy_helper"),
        ("edge_runtime", "cli/a.py", "from edge_export.cli import app"),
        ("edge_runtime", "cli/a.py", "from edge_runtime.nobody_knows import x"),
        ("edge_runtime", "vision/a.py", "from .image import decode"),
        ("edge_runtime", "model/a.py", "from edge_kernels.packing import pack"),
        ("edge_runtime", "model/a.py", "import edge_kernels"),
        ("edge_runtime", "engine/a.py", "from edge_runtime.bench import peaks"),
        ("edge_runtime", "bench/a.py", "from edge_runtime.serving.client import Client"),
        ("edge_export", "a.py", "from edge_kernels.reference import linear"),
        ("edge_export", "decoder.py", "import onnx_ir as ir"),
        ("edge_export", "decoder.py", "from torch import nn"),
        ("edge_export", "verify/a.py", "import onnxruntime as ort"),
        ("edge_export", "verify/a.py", "from edge_runtime.engine.engine import Engine"),
        ("edge_export", "verify/a.py", "from edge_runtime.model.graph import Graph"),
        ("edge_export", "verify/a.py", "from edge_runtime.families.qwen3_vl.vision import patch_positions"),
        ("edge_export", "a.py", "from edge_export.families.qwen3_vl.layers import Layers"),
        ("edge_kernels", "a.py", "from edge_runtime.errors import EdgeError"),
        ("edge_kernels", "a.py", "import onnxruntime"),
    ],
)
def test_planted_import_is_found(root: str, path: str, source: str) -> None:
    assert len(import_violations(Module(root, path, source))) == 1


@pytest.mark.parametrize(
    ("root", "path", "source"),
    [
        (
            "edge_runtime",
            "cli/a.py",
            "from edge_runtime.devices.probe import Machine\nfrom edge_runtime import __version__",
        ),
        ("edge_runtime", "__init__.py", "from edge_runtime.serving.client import Client"),
        ("edge_runtime", "vision/a.py", "from edge_runtime.model.graph import Graph"),
        ("edge_runtime", "model/graph.py", "import onnxruntime"),
        ("edge_runtime", "serving/client.py", "import zmq.asyncio"),
        ("edge_runtime", "model/a.py", "from edge_kernels.library import KernelLibrary"),
        ("edge_runtime", "model/a.py", "from edge_runtime.families.qwen3_vl.config import Architecture"),
        ("edge_runtime", "cli/a.py", "from edge_runtime.bench.benchmark import run_benchmark"),
        ("edge_runtime", "bench/a.py", "from edge_runtime.engine.load import load_engine"),
        ("edge_export", "a.py", "from edge_kernels.packing import pack"),
        ("edge_export", "graph.py", "import onnx_ir"),
        ("edge_export", "a.py", "from edge_export.families.qwen3_vl import family"),
        ("edge_export", "verify/a.py", "from edge_export.families.qwen3_vl.verify.family import BundleModel"),
        ("edge_export", "families/other/verify/optimum.py", "import torch\nfrom edge_export.verify.ort import ort"),
        (
            "edge_export",
            "bundle.py",
            "from edge_runtime.model.manifest import Manifest\nfrom edge_runtime import errors",
        ),
    ],
)
def test_allowed_import_is_not_found(root: str, path: str, source: str) -> None:
    assert import_violations(Module(root, path, source)) == []


def test_planted_sizes_are_found() -> None:
    long_file = Module("edge_runtime", "a.py", "x = 1\n" * (MAX_FILE_LINES + 1))
    long_function = Module("edge_runtime", "a.py", "def f():\n" + "    x = 1\n" * MAX_FUNCTION_LINES)
    at_the_limit = Module("edge_runtime", "a.py", "def f():\n" + "    x = 1\n" * (MAX_FUNCTION_LINES - 1))
    assert size_violations(long_file) == [f"edge_runtime/a.py has {MAX_FILE_LINES + 1} lines"]
    assert size_violations(long_function) == [f"edge_runtime/a.py:f has {MAX_FUNCTION_LINES + 1} lines"]
    assert size_violations(at_the_limit) == []


def test_importing_the_runtime_does_no_heavy_work() -> None:
    """`import edge_runtime` must stay cheap: no engine, no socket, no array library behind it."""
    heavy = {"numpy", "onnxruntime", "zmq", "cv2", "PIL", "torch"}
    code = f"import sys, edge_runtime; print(sorted({heavy!r} & set(sys.modules)))"
    assert _run_python(code) == "[]"


FRONT_DOOR = """
import ast, pathlib, edge_runtime as e
names = set(e.__all__)
assert names > {"__version__", "errors", *e._HOMES}
for name in names - {"__version__", "errors", *e._HOMES}:
    assert getattr(e, name) is getattr(e.errors, name)
assert names | {"__name__", "__path__", "__file__"} <= set(dir(e))
for name in names:
    getattr(e, name)
assert names <= set(vars(e)), "looked up once"
tree = ast.parse(pathlib.Path(e.__file__).read_text())
told = {a.name: n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) for a in n.names}
print(all(told[name] == f"edge_runtime.{home}" for name, home in e._HOMES.items()))
"""


def test_the_front_door_opens_to_every_name_it_lists() -> None:
    assert _run_python(FRONT_DOOR) == "True"


def test_loading_a_model_needs_no_command_line() -> None:
    code = (
        "import sys; from edge_runtime import PlannedBundle, load; print({'typer', 'rich', 'zmq'} & set(sys.modules))"
    )
    assert _run_python(code) == "set()"


def test_importing_every_runtime_module_needs_no_export_or_verify_extra() -> None:
    names = [
        "edge_runtime." + module.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for module in modules()
        if module.root == "edge_runtime" and module.part
    ]
    heavy = sorted(TOO_HEAVY["edge_runtime"])
    code = f"import sys, importlib; [importlib.import_module(name) for name in {names!r}]; "
    code += f"print(sorted(set({heavy!r}) & set(sys.modules)))"
    assert _run_python(code) == "[]"


def _run_python(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    return result.stdout.strip().splitlines()[-1]
