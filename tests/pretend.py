"""Another machine than this one, for the whole test run: what `--isa` and `--memory-gib` do.

Facts are changed where they enter, not where they are used: what /proc/cpuinfo says, how much memory the system has,
what the kernel library says of itself. Python processes that tests start come to the same facts: they find a copy of
this file as `sitecustomize` on PYTHONPATH, so that a test that starts them need know nothing of it. That copy runs in
every one of them, which is why it imports nothing heavy, and changes modules only once they are imported.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

Patches = dict[str, Callable[[ModuleType], None]]

NO_KERNELS = "none"
"""In place of an instruction set: as if edge-runtime had been installed without a C++ compiler."""


def pretend(isa: str | None, memory_bytes: int | None) -> None:
    """Change the facts for this process.

    isa: a processor that nothing is known of (so profile `cpu-generic`), whose best instruction set for our kernels is
    this one; or `NO_KERNELS`. memory_bytes: no more memory than this, free or in all.
    """
    patches: Patches = {}
    if isa is not None:
        patches["edge_runtime.devices.probe"] = _hide_processor
        patches["edge_kernels.library"] = _hide_kernels if isa == NO_KERNELS else lambda module: _limit(module, isa)
    if memory_bytes is not None:
        patches["psutil"] = lambda module: _shrink(module, memory_bytes)
    for name in [name for name in patches if name in sys.modules]:
        patches.pop(name)(sys.modules[name])
    sys.meta_path.insert(0, _Patching(patches))


def for_children(isa: str | None, memory_bytes: int | None) -> TemporaryDirectory[str]:
    """A folder for PYTHONPATH that makes every Python process pretend the same; removed with the returned object."""
    folder = TemporaryDirectory(prefix="pretend-")
    program = f"{Path(__file__).read_text()}\n\npretend({isa!r}, {memory_bytes!r})\n"
    (Path(folder.name) / "sitecustomize.py").write_text(program)
    return folder


class _Patching(MetaPathFinder):
    """Finds nothing itself: runs a patch at the end of the import of its module."""

    def __init__(self, patches: Patches) -> None:
        self._patches = patches

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        patch = self._patches.get(fullname)
        if patch is None:
            return None
        others = [finder for finder in sys.meta_path if finder is not self]
        spec = next((found for finder in others if (found := finder.find_spec(fullname, path, target))), None)
        if spec is not None and spec.loader is not None:
            _run_after(spec.loader, patch)
        return spec


def _run_after(loader: Loader, patch: Callable[[ModuleType], None]) -> None:
    execute = loader.exec_module

    def exec_module(module: ModuleType) -> None:
        execute(module)
        patch(module)

    loader.exec_module = exec_module  # type: ignore[method-assign]


def _hide_processor(probe: Any) -> None:
    read = probe._read_text
    hidden = {Path("/proc/cpuinfo"), Path("/proc/device-tree/model")}
    probe._read_text = lambda path: "" if path in hidden else read(path)


def _hide_kernels(library: Any) -> None:
    find = library.library_path
    nowhere = Path(library.__file__).with_name("not-built")
    library.library_path = lambda build_dir=None: find(build_dir or nowhere)


def _limit(library: Any, best: str) -> None:
    """Nothing above `best` is supported, and "auto" is `best`."""
    kernels = library.KernelLibrary
    everything, use_in = kernels.instruction_sets, kernels.use_in

    def instruction_sets(self: Any) -> list[Any]:
        isas = everything(self)
        names = [isa.name for isa in isas]
        if best not in names or not isas[names.index(best)].supported:
            raise RuntimeError(f"--isa is {best!r}, wanted one that this processor has of {', '.join(names)}")
        first = names.index(best)
        return [isa if place >= first else replace(isa, supported=False) for place, isa in enumerate(isas)]

    def use_limited(self: Any, options: Any, isa: str = "auto") -> None:
        use_in(self, options, self.chosen().name if isa == "auto" else isa)

    kernels.instruction_sets, kernels.use_in = instruction_sets, use_limited


def _shrink(psutil: Any, most: int) -> None:
    ask = psutil.virtual_memory

    def virtual_memory() -> Any:
        memory = ask()
        return memory._replace(total=min(memory.total, most), available=min(memory.available, most))

    psutil.virtual_memory = virtual_memory
