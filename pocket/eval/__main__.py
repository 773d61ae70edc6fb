"""Evaluates checkpoints and bundles on held-out screens, side by side: the first one is what others are compared with.

python -m pocket.eval --model pocket/weights BUNDLE_INT4 --set painted chromium --report reports/pocket.md
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pocket.eval.case import Answer, Case
from pocket.eval.report import Answered, evaluate, markdown, write
from pocket.eval.sets import SETS

if TYPE_CHECKING:
    from edge_runtime.devices.profile import KVDtype


def open_model(path: Path, max_tokens: int, think: bool = False, kv_dtype: KVDtype | None = None) -> Answer:
    """A bundle folder runs in our runtime, a checkpoint folder in transformers; both reason first if told to."""
    if (path / "manifest.json").exists():
        from pocket.eval.bundle_model import BundleModel  # noqa: PLC0415 - each engine only where it is asked for

        return BundleModel(path, max_tokens, think, kv_dtype)
    if (path / "config.json").exists():
        from pocket.eval.transformers_model import TransformersModel  # noqa: PLC0415 - torch may not be installed

        return TransformersModel(path, max_tokens, think)
    raise SystemExit(f"{path} has neither manifest.json (a bundle) nor config.json (a checkpoint)")


def main() -> None:
    """Runs every model on every set and prints or writes the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, nargs="+", required=True, help="checkpoint or bundle folders")
    parser.add_argument("--set", nargs="+", choices=SETS, default=list(SETS), help="which held-out screens")
    parser.add_argument("--limit", type=int, help="screens per set; all of them if not given")
    parser.add_argument("--report", type=Path, help="writes FILE.md and FILE.json; prints the tables if not given")
    parser.add_argument("--max-tokens", type=int, default=640, help="where an answer is cut off")
    parser.add_argument("--think", action="store_true", help="let models reason first; the answer alone is judged")
    parser.add_argument(
        "--kv-dtype", nargs="+", choices=("int8", "fp16", "fp32"), default=[None],
        help="keys and values of bundles; every bundle is asked with each",
    )  # fmt: skip
    options = parser.parse_args()
    if options.limit is not None and options.limit < 1:
        parser.error(f"--limit is {options.limit}; it must be at least 1")
    asked = contenders(options.model, options.kv_dtype)
    if len(asked) < len(options.model) * len(options.kv_dtype):
        parser.error("--model or --kv-dtype names the same twice")
    sets = {name: _cases(name, options.limit) for name in options.set}
    answered: Answered = {name: {} for name in sets}
    for name, (path, kv_dtype) in asked.items():
        model = open_model(path, options.max_tokens, options.think, kv_dtype)
        for set_name, cases in sets.items():
            answered[set_name][name] = evaluate(model, cases, _Progress(name, set_name, len(cases)))
    if options.report:
        write(answered, options.report, "Evaluation on held-out screens")
    else:
        print(markdown(answered), end="")


def contenders(paths: list[Path], kv_dtypes: list[KVDtype | None]) -> dict[str, tuple[Path, KVDtype | None]]:
    """Column heads, and what is asked; folders by their names where these differ."""
    is_clear = len({path.name for path in paths}) == len(paths)
    return {
        (path.name if is_clear else str(path)) + (f", {dtype} KV" if dtype else ""): (path, dtype)
        for path in paths
        for dtype in kv_dtypes
    }


def _cases(name: str, limit: int | None) -> list[Case]:
    make, full = SETS[name]
    return list(make(full if limit is None else min(limit, full)))


class _Progress:
    """One line on standard error, rewritten in place."""

    def __init__(self, model: str, set_name: str, total: int) -> None:
        self._text, self._total = f"{model}, {set_name}", total

    def __call__(self, done: int) -> None:
        end = "\n" if done == self._total else ""
        print(f"\r{self._text}: {done}/{self._total}", end=end, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
