"""The definition of every op in numpy, one file per op, with the arguments of the kernel.

They compute in float64 what the kernels compute in their own precision; the tests say how close each must come.
"""
