"""The suite `make parity` runs: transformers and our runtime side by side on tiny random checkpoints.

Where torch or transformers is missing, only test_prerequisites.py is collected: it is skipped and says why.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.parity.ours import Runtime
    from tests.parity.theirs import Transformers

if any(find_spec(package) is None for package in ("torch", "transformers")):
    collect_ignore_glob = ["test_*_parity.py"]

HEADER = ("case", "variant", "tokens", "ids equal", "positions equal", "greedy equal", "max logit error")

_rows: list[tuple[str, ...]] = []


@pytest.fixture(scope="session")
def checkpoint_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The checkpoint folder of a variant, written once."""
    from tests.parity.variants import write_variant

    @cache
    def checkpoint(variant: str) -> Path:
        folder = tmp_path_factory.mktemp("variant") / variant
        write_variant(variant, folder)
        return folder

    return checkpoint


@pytest.fixture(scope="session")
def theirs_of(checkpoint_of: Callable[[str], Path]) -> Callable[[str], Transformers]:
    """Model and processor of transformers for a variant, loaded once."""
    from tests.parity.theirs import Transformers

    return cache(lambda variant: Transformers(checkpoint_of(variant)))


@pytest.fixture(scope="session")
def ours_of(checkpoint_of: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Runtime]:
    """Our runtime on the fp32 bundle of a variant, exported and loaded once."""
    from tests.parity.ours import Runtime

    return cache(lambda variant: Runtime(checkpoint_of(variant), tmp_path_factory.mktemp("bundle") / variant))


@pytest.fixture
def parity_row() -> Callable[..., None]:
    """Adds a row to the table at the end of the run."""
    return lambda *cells: _rows.append(tuple(str(cell) for cell in cells))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The parity table: one line per case."""
    if not _rows:
        return
    widths = [max(len(row[i]) for row in (HEADER, *_rows)) for i in range(len(HEADER))]
    terminalreporter.section("parity with transformers, fp32")
    for row in (HEADER, *_rows):
        terminalreporter.write_line("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))
