"""mergekit's YAML as a second front door: the same file, translated to the recipe that it stands for.

config.py      a configuration as values, every key checked
translate.py   from a configuration to the expression that it stands for
methods.py     its methods, a row each
parameters.py  its parameters as coefficients
modules.py     the modules of models with several stacks
vocabulary.py  its models with one vocabulary
templates.py   its chat templates
"""

from taskvec.recipes.mergekit.translate import Merge, read

__all__ = ["Merge", "read"]
