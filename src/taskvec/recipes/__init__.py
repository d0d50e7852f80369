"""The text of an expression: it is parsed, or translated from YAML, into Weights.

recipe.py    text <-> Weights, in a strict subset of Python
userfile.py  methods and functions from a Python file of the user
mergekit/    from mergekit's YAML to Weights
"""
