"""Says why the parity suite was left out, where it was."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.parity


@pytest.mark.parametrize("package", ["torch", "transformers"])
def test_package_to_compare_with(package: str) -> None:
    """The other files of this folder are collected only where both are installed."""
    pytest.importorskip(package, reason=f"{package} is missing: make parity")


def test_version_to_compare_with() -> None:
    """The issue names the release; another may differ in what it computes."""
    transformers = pytest.importorskip("transformers")
    assert transformers.__version__ == "4.57.6"
