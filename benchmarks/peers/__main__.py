"""`python -m benchmarks.peers --work DIR`: prepare all contenders, run them in turn, print a table and a JSON line."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from benchmarks.peers.cases import CASES
from benchmarks.peers.contenders import CONTENDERS, find
from benchmarks.peers.measure import Outcome, Workplace, prepare, run_round
from benchmarks.peers.report import as_json, markdown
from benchmarks.peers.setting import machine, random_checkpoint, say


def main() -> None:
    """Run the benchmark; progress goes to stderr, the result to stdout."""
    arguments = _parse_arguments()
    place = Workplace(arguments.work.resolve())
    outcomes = [Outcome(contender) for contender in find(arguments.contenders)]
    checkpoint = arguments.checkpoint or random_checkpoint(place, arguments.size)
    for outcome in outcomes:
        say(f"preparing {outcome.contender.name}")
        prepare(outcome, checkpoint.resolve(), place)
    ready = [outcome for outcome in outcomes if not outcome.troubles]
    if arguments.prepare_only:
        sys.exit(0 if len(ready) == len(outcomes) else 1)
    facts = machine() | {"threads": arguments.threads, "repeats": arguments.repeats, "size": arguments.size}
    for number in range(arguments.repeats):
        for outcome in ready:
            say(f"round {number + 1} of {arguments.repeats}: {outcome.contender.name}")
            run_round(outcome, CASES, arguments.seed + number, arguments.threads, place)
            so_far = json.dumps(as_json(outcomes, facts))
            (place.root / "results.json").write_text(so_far)  # a benchmark that is stopped has not been for nothing
    sys.stdout.write(markdown(outcomes) + "\n\n" + json.dumps(as_json(outcomes, facts)) + "\n")


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    names = [contender.name for contender in CONTENDERS]
    parser.add_argument("--work", type=Path, required=True, help="folder for environments, models, logs: about 25 GB")
    parser.add_argument("--checkpoint", type=Path, help="use this Qwen3-VL checkpoint, not a random one")
    parser.add_argument("--size", default="2b", help="size of the random checkpoint: 2b, 4b, 8b or tiny")
    parser.add_argument("--contenders", nargs="+", default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of every contender")
    parser.add_argument("--repeats", type=int, default=3, help="rounds; every round starts every contender anew")
    parser.add_argument("--seed", type=int, default=1, help="of prompts and images; every round has its own")
    parser.add_argument("--prepare-only", action="store_true", help="install and convert, measure nothing")
    return parser.parse_args()


if __name__ == "__main__":
    main()
