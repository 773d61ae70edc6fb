"""What graphs of this release take and give (docs/bundle.md), checked when one is loaded, not at the first request.

One function per graph: from the manifest's architecture to names, types and sizes. Knows nothing of what they compute.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edge_runtime.devices.profile import KVDtype
from edge_runtime.errors import BundleError
from edge_runtime.model.graph import Graph, TensorSpec
from edge_runtime.model.manifest import Architecture, VisionArchitecture, vision_segments

FLOAT, INT64, INT32 = "tensor(float)", "tensor(int64)", "tensor(int32)"
_CACHE_DTYPES: Mapping[KVDtype, str] = {"fp32": FLOAT, "fp16": "tensor(float16)", "int8": "tensor(int8)"}

Shape = tuple[int | None, ...]
"""Sizes; None is one that differs from run to run."""


@dataclass(frozen=True, slots=True)
class Contract:
    """Inputs and outputs of one graph: name to type and shape."""

    inputs: Mapping[str, tuple[str, Shape]]
    outputs: Mapping[str, tuple[str, Shape]]


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
            if not _fits(found[name], dtype, shape):
                raise BundleError(
                    f"{graph.name}: {name} is {_described(found[name].dtype, found[name].shape)}, by the manifest it "
                    f"is {_described(dtype, shape)}; export the bundle again"
                )


def vision_contract(vision: VisionArchitecture) -> Contract:
    """`vision.onnx`."""
    half, hidden = vision.head_dim // 2, vision.hidden_size
    outputs = {name: width for segment in vision_segments(vision) for name, width in segment.items()}
    return Contract(
        inputs={
            "segment": (INT64, ()),
            "pixel_values": (FLOAT, (None, vision.patch_dim)),
            "pos_index": (INT64, (4, None)),
            "pos_weight": (FLOAT, (4, None)),
            "rope_cos": (FLOAT, (None, half)),
            "rope_sin": (FLOAT, (None, half)),
            "stream": (FLOAT, (None, hidden)),
            "qkv": (FLOAT, (None, 3 * hidden)),
            "query_rows": (INT64, (2,)),
        },
        outputs={name: (FLOAT, (None, width)) for name, width in outputs.items()},
    )


def portable_decoder_contract(architecture: Architecture, *, gives_hidden: bool) -> Contract:
    """`decoder.onnx`, flavour `portable`."""
    text = architecture.text
    cache: tuple[str, Shape] = (FLOAT, (1, text.num_kv_heads, None, text.head_dim))
    names = [f"{kind}.{layer}" for layer in range(text.num_layers) for kind in ("key", "value")]
    return Contract(
        inputs={
            **_decoder_inputs(architecture),
            "seqlens_k": (INT32, (1,)),
            "total_sequence_length": (INT32, ()),
            **{f"past_{name}": cache for name in names},
        },
        outputs={**_decoder_outputs(architecture, gives_hidden), **{f"present_{name}": cache for name in names}},
    )


def edge_decoder_contract(architecture: Architecture, kv_dtype: KVDtype, *, gives_hidden: bool) -> Contract:
    """`decoder.<kv_dtype>.onnx`, flavour `edge`."""
    text = architecture.text
    pools: dict[str, tuple[str, Shape]] = {}
    for layer in range(text.num_layers):
        for kind in ("key", "value"):
            pools[f"{kind}_cache.{layer}"] = (_CACHE_DTYPES[kv_dtype], (None, text.num_kv_heads, None, text.head_dim))
            if kv_dtype == "int8":
                pools[f"{kind}_scale.{layer}"] = (FLOAT, (None, text.num_kv_heads, None))
    return Contract(
        inputs={
            **_decoder_inputs(architecture),
            "block_table": (INT32, (None, None)),
            **dict.fromkeys(("token_row", "token_slot", "token_keys"), (INT32, (None,))),
            **pools,
        },
        outputs=_decoder_outputs(architecture, gives_hidden),
    )


def _decoder_inputs(architecture: Architecture) -> dict[str, tuple[str, Shape]]:
    text, taps = architecture.text, len(architecture.vision.deepstack_layers)
    half = text.head_dim // 2
    deepstack: dict[str, tuple[str, Shape]] = {"deepstack": (FLOAT, (taps, None, text.hidden_size))} if taps else {}
    return {
        "inputs_embeds": (FLOAT, (None, text.hidden_size)),
        "rope_cos": (FLOAT, (None, half)),
        "rope_sin": (FLOAT, (None, half)),
        "logits_rows": (INT64, (None,)),
        **deepstack,
    }


def _decoder_outputs(architecture: Architecture, gives_hidden: bool) -> dict[str, tuple[str, Shape]]:
    text = architecture.text
    outputs: dict[str, tuple[str, Shape]] = {"logits": (FLOAT, (None, text.vocab_size))}
    if gives_hidden:
        outputs["hidden"] = (FLOAT, (None, text.hidden_size))
    return outputs


def _fits(found: TensorSpec, dtype: str, shape: Shape) -> bool:
    return found.dtype == dtype and found.shape == shape


def _described(dtype: str, shape: Shape) -> str:
    return f"{dtype} [{', '.join('?' if size is None else str(size) for size in shape)}]"
