"""What some tests need of a machine, and the line at the end of a run that says what was skipped for want of it.

A reason to skip has the form "what is missing: what to do about it"; equal remedies are counted together. A remedy that
names packages can be pasted into a shell.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NoReturn

import pytest

from pocket.screens.fonts import DEBIAN_PACKAGES

FONTS = f"apt install {DEBIAN_PACKAGES}"
CHROMIUM = "apt install chromium; .venv/bin/pip install playwright"
TORCH = "make parity"
KERNELS = "apt install g++; .venv/bin/pip install -e '.[dev]'"


def skip_without(what: str, remedy: str) -> NoReturn:
    """Skip this test (or, at the top of a file, all of it): `what` is not here, `remedy` would bring it."""
    pytest.skip(f"{what} is missing: {remedy}", allow_module_level=True)


def skipped_line(reasons: Iterable[str]) -> str | None:
    """One line for all skipped tests, the commonest remedy first; None if nothing was skipped."""
    counted = Counter(reason.removeprefix("Skipped: ").partition(": ")[::2] for reason in reasons)
    if not counted:
        return None
    remedies: Counter[str] = Counter()
    for (what, remedy), number in counted.items():
        remedies[remedy or what] += number
    parts = [f"{number} ({remedy})" for remedy, number in remedies.most_common()]
    return f"{sum(remedies.values())} skipped, and what would run them: {', '.join(parts)}"
