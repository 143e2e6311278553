"""CPU kernels compiled by Numba at run time: matrix products of few rows, and one decode step of a whole model.

torch's matrix product of one row reaches half of the memory bandwidth, and a small model spends most of a decode step
between operations. Here one compiled function runs all layers, in a thread pool owned by this package.
"""
