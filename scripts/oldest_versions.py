"""Prints pip constraints for the oldest versions that pyproject.toml admits: what `make test-oldest` installs."""

from __future__ import annotations

import re
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
_FLOOR = re.compile(r"([\w.-]+)\s*>=\s*([\w.]+)\s*(?:;.*)?")


def main() -> None:
    """One `name==version` a line, of the runtime's and the exporter's dependencies."""
    project = tomllib.loads(PYPROJECT.read_text())["project"]
    for line in (*project["dependencies"], *project["optional-dependencies"]["export"]):
        found = _FLOOR.fullmatch(line)
        if found is None:
            sys.exit(f"{PYPROJECT}: {line!r} has no oldest version, wanted NAME>=VERSION")
        print(f"{found[1]}=={found[2]}")


if __name__ == "__main__":
    main()
