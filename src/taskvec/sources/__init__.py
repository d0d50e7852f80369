"""What anything readable looks like: tensors with names, shapes and dtypes, and where these stand in a model.

source.py     Spec, Source, fingerprint: what anything readable looks like
abilities.py  what some sources can do beyond that, and how to ask for it
in_memory.py  arrays as a source
cost.py       Cost: the memory that work takes, counted before it begins
positions.py  where a tensor stands among the layers
text.py       shell-style patterns for names of tensors, and string literals of recipes
quantised.py  weights that mean something only with the scales beside them: known, and refused
"""
