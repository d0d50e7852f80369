"""Measures of expressions that need no running model, and the alignment of two models.

compare.py  norms, cosines and sign conflicts of task vectors
match.py    the order of one model's units in which it is most like another model
"""
