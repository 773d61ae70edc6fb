"""From nothing to weights in one command: `python -m pocket.train --out DIR`. Stop it at any second and start it again.

Phases 1 and 2 run beside each other as processes of their own; phase 3 joins them; then the weights are exported and
evaluated on painted screens they have never seen (`pocket.eval` does more).
"""

import argparse
import subprocess
import sys
from pathlib import Path

from pocket.eval.report import evaluate, write
from pocket.eval.sets import painted
from pocket.eval.transformers_model import TransformersModel
from pocket.train.beginning import Assembled, Beginning, TakenUp
from pocket.train.export import export
from pocket.train.joint import train_joint
from pocket.train.loop import add_settings, settings_of
from pocket.train.plot import plot
from pocket.train.run import Run
from pocket.train.tokenizer import WEIGHTS

_FIRST_SHARE = 0.35  # of the budget, for phases 1 and 2


def _phase(module: str, folder: Path, budget_s: float, options: argparse.Namespace) -> subprocess.Popen[bytes]:
    """Starts one of the first phases in a process of its own."""
    command = [sys.executable, "-m", f"pocket.train.{module}", str(folder), "--budget-s", str(budget_s)]
    command += ["--workers", str(max(1, options.workers // 2))]
    for name in ("device", "threads", "scale", "free", "pages", "fonts"):
        if getattr(options, name) is not None:
            command += [f"--{name}", str(getattr(options, name))]
    return subprocess.Popen(command)


def main() -> None:
    """Runs what is left to do of all phases within the budget, then exports."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of checkpoints and logs")
    parser.add_argument("--budget-s", type=float, default=1380, help="wall-clock seconds for all phases")
    parser.add_argument("--report-screens", type=int, default=60, help="held-out screens for OUT/report.md; 0: none")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="folder to export to")
    parser.add_argument(
        "--start", type=Path, help="go on from these exported weights: phase 3 alone, for all the budget"
    )
    add_settings(parser)
    options = parser.parse_args()
    vision, language, joint = (options.out / name for name in ("vision", "language", "joint"))
    first = 0.0 if options.start else options.budget_s * _FIRST_SHARE
    if first and not (joint / "last.pt").exists():
        running = [_phase("vision", vision, first, options), _phase("language", language, first, options)]
        failed = [process.args for process in running if process.wait() != 0]
        if failed:
            raise SystemExit(f"a training phase failed: {failed}; its messages are above")
    run = Run(joint, options.budget_s - first, save_every_s=60)
    begin: Beginning = TakenUp(options.start) if options.start else Assembled(vision / "last.pt", language / "last.pt")
    train_joint(run, settings_of(options), begin)
    print(f"{export(run.checkpoint, options.weights) / 1e6:.1f} MB of weights in {options.weights}")
    plot(options.out)
    if options.report_screens:
        model = TransformersModel(options.weights, max_tokens=640)
        results = evaluate(model, painted(options.report_screens))
        write({"painted": {"pocket": results}}, options.out / "report.md", "Held-out screens, right after training")


if __name__ == "__main__":
    main()
