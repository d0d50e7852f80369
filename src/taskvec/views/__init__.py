"""Views: the same numbers under other names, in other layers, in other rows; sources over sources, always explicit.

view.py         what they have in common: a tensor of a view is a tensor of an argument, and is read there
settings.py     what config.json must say of the result
layers.py       take_layers, stack
names.py        rename, tie, untie
rows.py         views that rearrange rows: where each row of the output comes from
parts.py        select, join, as_model
vocabulary.py   resize_vocab, pad_vocab
reordered.py    align_vocab
tokens.py       the vocabulary of a folder's tokenizer, and the union of several
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from taskvec.views import layers, names, parts, reordered, vocabulary
from taskvec.weights import Weights

__all__ = ["FUNCTIONS"]

_ROOMS = (layers, names, parts, vocabulary, reordered)
FUNCTIONS: Mapping[str, Callable[..., Weights]] = MappingProxyType({f.__name__: f for r in _ROOMS for f in r.FUNCTIONS})
