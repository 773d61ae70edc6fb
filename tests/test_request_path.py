"""docs/architecture.md names the files that a request passes, and no others."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from edge_kernels.library import KernelLibrary

REPOSITORY = Path(__file__).resolve().parents[1]


def test_the_page_names_the_files_that_a_request_passes(tiny_bundle_edge: Path, kernel_library: KernelLibrary) -> None:
    command = [sys.executable, str(REPOSITORY / "scripts" / "request_path.py"), str(tiny_bundle_edge), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    passed = set(json.loads(done.stdout)["files"])
    page = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    listed = page.partition("| stage | files below `edge_runtime/` |")[2].partition("\n\n")[0]
    assert set(re.findall(r"`([a-z_0-9/]+\.py)`", listed)) == passed
