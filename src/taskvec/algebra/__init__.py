"""Checkpoints under + and *: an expression is {source: coefficient}, and knows no file.

weights.py        Weights: the algebra, {source: coefficient}; knows no file
coefficients.py   what may stand before a source: numbers, knobs, filters, tables, gradients; exact
program.py        what is summed for one tensor, and the summing
derived.py        a call over expressions that is itself a source
arrays.py         tensors in memory as Weights
layerwise.py      layerwise: a knob for each layer or tensor of a vector
naming.py         names for the sources of an expression
bases.py          a vector beside the model that it was made from, or beside the same one in another dtype
fitting.py        an adapter beside the model that it is added to
integers.py       what cannot be summed must be the same in every model of a sum
hints.py          what keeps two sources apart, and the recipe that brings them together
idle_patterns.py  patterns that fit nothing, or are never reached
"""
