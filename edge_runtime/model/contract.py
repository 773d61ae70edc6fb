"""Whether a graph is one of this release (docs/bundle.md), checked when it is loaded, not at the first request."""

from __future__ import annotations

from edge_runtime.errors import BundleError
from edge_runtime.families.contract import Contract, Shape
from edge_runtime.model.graph import Graph


def check_contract(graph: Graph, contract: Contract) -> None:
    """Raise `BundleError` unless `graph` has just the inputs and outputs of `contract`."""
    for kind, found, wanted in (
        ("inputs", graph.inputs, contract.inputs),
        ("outputs", graph.outputs, contract.outputs),
    ):
        odd = sorted(set(found) ^ set(wanted))
        if odd:
            raise BundleError(
                f"{graph.name} does not have the {kind} of this release (differs in {odd}); export the bundle again"
            )
        for name, (dtype, shape) in wanted.items():
            if (found[name].dtype, found[name].shape) != (dtype, shape):
                raise BundleError(
                    f"{graph.name}: {name} is {_described(found[name].dtype, found[name].shape)}, by the manifest it "
                    f"is {_described(dtype, shape)}; export the bundle again"
                )


def _described(dtype: str, shape: Shape) -> str:
    return f"{dtype} [{', '.join('?' if size is None else str(size) for size in shape)}]"
