"""Arithmetic on checkpoints: an expression is a dict {source: coefficient}.

weights.py        Weights: an expression, which can be added, scaled and read; knows no file and no format
coefficients.py   what may stand in front of a source: numbers, knobs, filters, tables, gradients; exact
verbatim.py       a copy of one file, the only expression that may hold quantised weights
program.py        what is summed for one tensor, and the summing
derived.py        a call of a method or a view, which is itself a source
arrays.py         from_arrays: arrays in memory as Weights
layerwise.py      layerwise: a knob for each layer or tensor of a vector
naming.py         names for the sources of an expression
bases.py          whether a task vector is used with the model that it was made from
fitting.py        adapters, fitted to the model that they are added to
integers.py       tensors that cannot be summed must be the same in every model of a sum
hints.py          why two sources cannot be added, and what to write so that they can be
idle_patterns.py  patterns that fit nothing, or are never reached
"""
