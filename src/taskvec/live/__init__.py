"""Models in memory: coefficients set in a torch module, knobs learned through it, statistics collected from it.

load_into.py  load_into: the same numbers in a live torch module
learn.py      learn: knobs by gradient, on a loss of a live module
stats.py      stats: Fisher information and Gram matrices as files
collect.py    squared gradients and products of inputs of a live module, batch by batch
targets.py    which of a module's tensors can be set, and under which names
"""
