"""From texts to Weights: recipes are parsed, and mergekit's YAML is translated.

recipe.py    text <-> Weights, in a strict subset of Python
userfile.py  methods and functions from a Python file of the user
mergekit/    from mergekit's YAML to Weights
"""
