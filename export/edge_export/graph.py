"""A small functional builder of ONNX graphs: values in, values out. The only file that knows the ONNX IR.

Scopes make path names (`/model/layers.0/attn/q_proj/MatMul`), equal constants are kept once, weights are references
into a tensor file that is already written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edge_export.tensor_file import StoredTensor

ONNX_OPSET = 21
IR_VERSION = 10
"""What ONNX Runtime 1.20 and later read."""

MICROSOFT = "com.microsoft"
"""Domain of ONNX Runtime's own operators (docs/ContribOperators.md in its repository)."""

EDGE = "edge"
"""Domain of our own operators (docs/kernels.md)."""

Value = ir.Value
Attribute = int | float | str | Sequence[int]

DTYPES = {
    np.dtype(np.float32): ir.DataType.FLOAT,
    np.dtype(np.float16): ir.DataType.FLOAT16,
    np.dtype(np.int64): ir.DataType.INT64,
    np.dtype(np.int32): ir.DataType.INT32,
    np.dtype(np.int8): ir.DataType.INT8,
    np.dtype(np.uint8): ir.DataType.UINT8,
}


class GraphBuilder:
    """One graph under construction."""

    def __init__(self, name: str, outer: GraphBuilder | None = None) -> None:
        """`outer`: the graph whose node this one is a body of; values of that one can be used in here."""
        self._name = name
        self._outer = outer
        self._graph = ir.Graph([], [], nodes=[], name=name, opset_imports={"": ONNX_OPSET})
        self._scope: tuple[str, ...] = () if outer is None else outer._scope
        self._names: dict[str, int] = {} if outer is None else outer._names
        self._constants: dict[tuple[str, tuple[int, ...], bytes], Value] = {}

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Names made inside the block begin with `name`, below the scopes around it."""
        outer = self._scope
        self._scope = (*outer, name)
        try:
            yield
        finally:
            self._scope = outer

    def input(self, name: str, dtype: Any, shape: Sequence[int | str]) -> Value:
        """A graph input; a dimension is a size, or the name of one that is known at run time."""
        value = ir.Value(name=name, type=ir.TensorType(DTYPES[np.dtype(dtype)]), shape=ir.Shape(shape))
        self._graph.inputs.append(value)
        return value

    def output(self, value: Value, name: str, dtype: Any, shape: Sequence[int | str]) -> None:
        """Make `value` a graph output called `name`."""
        value.name = name
        value.type = ir.TensorType(DTYPES[np.dtype(dtype)])
        value.shape = ir.Shape(shape)
        self._graph.outputs.append(value)

    def op(
        self,
        op_type: str,
        inputs: Sequence[Value | None],
        attributes: Mapping[str, Attribute] | None = None,
        *,
        domain: str = "",
    ) -> Value:
        """Add a node with one output, and return that."""
        return self.multi_op(op_type, inputs, 1, attributes, domain=domain)[0]

    def multi_op(
        self,
        op_type: str,
        inputs: Sequence[Value | None],
        num_outputs: int,
        attributes: Mapping[str, Attribute] | None = None,
        *,
        domain: str = "",
    ) -> tuple[Value, ...]:
        """Add a node with `num_outputs` outputs, and return them."""
        self._import(domain)
        node = ir.node(op_type, inputs, attributes=attributes, domain=domain, num_outputs=num_outputs)
        return self._append(node, op_type)

    def when(
        self, condition: Value, name: str, body: Callable[[GraphBuilder], Sequence[Value]], widths: Sequence[int]
    ) -> tuple[Value, ...]:
        """What `body` computes, float32 [rows, width] each, where `condition` is true; else nothing: [0, width].

        `body` gets a builder of its own and returns the outputs. Its nodes run only where they are wanted.
        """
        then, otherwise = GraphBuilder(name, self), GraphBuilder(f"{name}.else", self)
        then._graph.outputs.extend(body(then))
        empty = (otherwise.constant(np.empty((0, width), np.float32)) for width in widths)
        otherwise._graph.outputs.extend(otherwise.op("Identity", [value]) for value in empty)
        branches = {"then_branch": then._graph, "else_branch": otherwise._graph}
        node = ir.node("If", [condition], attributes=branches, num_outputs=len(widths))
        return self._append(node, f"{name}/If")

    def constant(self, array: NDArray[Any]) -> Value:
        """A small constant stored in the graph itself; equal ones are shared."""
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            inside = "" if self._outer is None else f"/{self._name}"  # a body must not hide a name of its surroundings
            name = f"{inside}/constants/{len(self._constants)}"
            self._constants[key] = self._initializer(ir.Tensor(array, name=name))
        return self._constants[key]

    def integers(self, *values: int) -> Value:
        """A constant int64 vector."""
        return self.constant(np.array(values, dtype=np.int64))

    def weight(self, name: str, stored: StoredTensor) -> Value:
        """A tensor that lies in a file beside the graph.

        It belongs to the outermost graph: ONNX Runtime looks at tensors of bodies more strictly, and refuses a file
        with two names (hard links), as backups and caches make them.
        """
        if self._outer is not None:
            return self._outer.weight(name, stored)
        tensor = ir.ExternalTensor(
            stored.file,
            stored.offset,
            stored.num_bytes,
            DTYPES[stored.dtype],
            shape=ir.Shape(stored.shape),
            name=name,
        )
        return self._initializer(tensor)

    def serialize(self, producer_version: str) -> bytes:
        """The model as an ONNX file; tensors outside the graph stay references."""
        model = ir.Model(
            self._graph, ir_version=IR_VERSION, producer_name="edge_export", producer_version=producer_version
        )
        return bytes(ir.to_proto(model).SerializeToString())

    def _import(self, domain: str) -> None:
        self._graph.opset_imports.setdefault(domain, 1)
        if self._outer is not None:
            self._outer._import(domain)

    def _initializer(self, tensor: ir.TensorProtocol) -> Value:
        value = ir.Value(
            name=tensor.name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape.numpy()), const_value=tensor
        )
        self._graph.register_initializer(value)
        return value

    def _append(self, node: ir.Node, name: str) -> tuple[Value, ...]:
        """Add `node` under a path that no other has, and return its outputs."""
        path = "/" + "/".join((*self._scope, name))
        count = self._names.get(path, 0)
        self._names[path] = count + 1
        node.name = path if count == 0 else f"{path}_{count}"
        for index, value in enumerate(node.outputs):
            value.name = f"{node.name}/output_{index}"
        self._graph.append(node)
        return tuple(node.outputs)
