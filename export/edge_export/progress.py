"""Progress bars on the terminal: one per stage, with bytes and time left."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


class ProgressBars:
    """Shows the stages of `edge_export.pipeline` on standard error while its `with` block runs."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description:<12}"), BarColumn(), DownloadColumn(), TimeRemainingColumn(True))
        self._bars = Progress(*columns, console=Console(stderr=True))
        self._current: TaskID | None = None

    def __enter__(self) -> ProgressBars:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def warn(self, sentence: str) -> None:
        """Show a sentence that the user has to read, above the bars."""
        self._bars.console.print(f"warning: {sentence}", style="yellow", markup=False, highlight=False, soft_wrap=True)

    def start(self, stage: str, total_bytes: int) -> None:
        """Begin the bar of the next stage."""
        self._current = self._bars.add_task(stage, total=total_bytes)

    def advance(self, num_bytes: int) -> None:
        """Move the bar of the current stage."""
        if self._current is not None:
            self._bars.advance(self._current, num_bytes)
