"""Machine code for the CPU, made by Numba while the program runs: matrix products of few rows, and one decoding step.

torch's own products of one row leave half of the memory's speed unused, and a model of small operations spends its
time between them. Here the weights of all layers are read in one function, by a team of threads of its own.
"""
