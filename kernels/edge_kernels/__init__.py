"""The C++ kernels of the `edge` flavour: finds their library, packs weights for them, defines every op in numpy.

`library` finds and loads the shared library, `packing` turns quantized weights into the layout the kernels read,
`reference` holds the numpy twin of every op. Knows nothing of models, bundles or ONNX Runtime.
"""
