"""Live torch modules: their weights are set, knobs are learned with them, and statistics are collected from them.

load_into.py  sets a module to an expression, in place
learn.py      learns the knobs of a recipe by gradient, from a loss of a module
stats.py      writes Fisher information and Gram matrices of a model on data as files
collect.py    squared gradients and products of inputs of a module, batch by batch
targets.py    the tensors of a module that can be set, by their names
"""
