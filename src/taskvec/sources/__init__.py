"""Sources: everything that has named tensors which can be read, such as a checkpoint or the result of a method.

source.py     Spec, Source, fingerprint: what every source can do
abilities.py  what some sources can do beyond that, and how to ask for it
in_memory.py  arrays in memory as a source
cost.py       Cost: the memory that work takes, counted before it begins
positions.py  where a tensor stands among the layers
text.py       patterns for names of tensors, string literals of recipes, and names that were misspelt
quantised.py  quantised weights, which are recognised and refused
"""
