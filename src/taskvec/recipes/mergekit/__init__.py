"""mergekit's YAML as a second front door: the same file, translated to the recipe that it stands for.

config.py      the file, checked key by key: every problem at once, unknown keys with the nearest known one
parameters.py  filters, gradients and scopes as coefficients
methods.py     mergekit's methods, one row each: parameters, inputs, and the expression that each stands for
modules.py     the parts of models with several stacks, by mergekit's names
vocabulary.py  one vocabulary for all models, as the tokenizer block says
translate.py   models, slices, modules, documents -> Weights
templates.py   chat templates by name
"""

from taskvec.recipes.mergekit.translate import Merge, read

__all__ = ["Merge", "read"]
