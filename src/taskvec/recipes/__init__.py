"""The text of an expression: what can be parsed, loaded and translated into Weights.

recipe.py    text <-> Weights; a strict subset of Python
userfile.py  methods and functions out of a user's Python file
mergekit/    mergekit's YAML -> Weights
"""
