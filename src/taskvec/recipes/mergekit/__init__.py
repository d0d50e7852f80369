"""mergekit's YAML: each document of a file is translated to an expression, and so to a recipe.

config.py      a configuration as values, with every key checked
translate.py   from a configuration to the expression that it stands for
methods.py     mergekit's methods as expressions of ours, a row each
parameters.py  mergekit's parameters as coefficients
modules.py     the modules of models with several stacks of layers
vocabulary.py  the models of a configuration, brought to one vocabulary
templates.py   mergekit's chat templates
"""

from taskvec.recipes.mergekit.translate import Merge, read

__all__ = ["Merge", "read"]
