"""Models shared by all test folders: a tiny random checkpoint, and bundles made from it without torch."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # for the tests that import onnxruntime themselves; decision 45

import pytest
from hypothesis import settings

from edge_export.options import ExportOptions
from edge_export.pipeline import export_bundle
from edge_export.random_checkpoint import config_for, write_random_checkpoint
from edge_kernels.library import KernelError, KernelLibrary

settings.register_profile("no_deadline", deadline=None)  # no test here fails because a machine is slow
settings.load_profile("no_deadline")


REPOSITORY = Path(__file__).parents[1]


class NoProgress:
    """An export's progress, not shown."""

    def start(self, stage: str, total_bytes: int) -> None: ...

    def advance(self, num_bytes: int) -> None: ...


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kernels-build", type=Path, help="CMake build folder of the kernel library to test")


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen3-VL checkpoint in fp32 with random weights, tied head, three DeepStack taps."""
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    write_random_checkpoint(folder, config_for("tiny"), seed=1)
    return folder


@pytest.fixture(scope="session")
def tiny_bundle(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_checkpoint` exported in fp32."""
    out = tmp_path_factory.mktemp("bundle") / "fp32"
    export_bundle(str(tiny_checkpoint), out, ExportOptions(weights="fp32"), NoProgress())
    return out


@pytest.fixture(scope="session")
def tiny_bundle_int4(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_checkpoint` exported in int4, with int8 vision, LM head and embedding."""
    out = tmp_path_factory.mktemp("bundle") / "int4"
    export_bundle(str(tiny_checkpoint), out, ExportOptions(weights="int4"), NoProgress())
    return out


@pytest.fixture(scope="session")
def kernel_library(request: pytest.FixtureRequest) -> KernelLibrary:
    """The kernels: of `--kernels-build`, the installed ones, or built (incrementally) into build/kernels."""
    build = request.config.getoption("--kernels-build", None)
    if build is not None:
        return KernelLibrary(build)
    try:
        return KernelLibrary()
    except KernelError:
        if shutil.which("cmake") is None:
            pytest.skip("the kernels are not installed, and there is no cmake to build them")
    build = REPOSITORY / "build" / "kernels"
    for command in (["cmake", "-S", str(REPOSITORY), "-B", str(build)], ["cmake", "--build", str(build), "-j2"]):
        subprocess.run(command, check=True, capture_output=True)
    return KernelLibrary(build)


@pytest.fixture(scope="session")
def tiny_bundle_edge(
    tiny_checkpoint: Path, kernel_library: KernelLibrary, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """`tiny_checkpoint` exported for our kernels in int4, with int8 vision, LM head and embedding."""
    out = tmp_path_factory.mktemp("bundle") / "edge"
    export_bundle(str(tiny_checkpoint), out, ExportOptions(flavour="edge"), NoProgress(), kernel_library)
    return out
