"""Views are sources that show the numbers of another source under other names, in other layers or in other rows.

view.py           what views have in common: a tensor of a view is a tensor of an argument, and is read there
settings.py       what config.json must say of the result
bylayer.py        what config.json says of single layers, for layers in new places
architectures.py  how architectures say that their layers differ
layers.py         other layers
names.py          other names
rows.py           views that rearrange rows: where each row of the output comes from
parts.py          some of the tensors of a model, or the tensors of several
vocabulary.py     more or fewer rows of a vocabulary
reordered.py      rows in the order of another tokenizer
tokens.py         the vocabulary of a folder's tokenizer, and the union of several
permuted.py       hidden units in another order, and the file that says in which
symmetries.py     which hidden units may be permuted, as data
families.py       the symmetries of llama, bert and gpt2, by the names of their tensors
"""

from taskvec.lazy import Lazy

__all__ = ["FUNCTIONS", "MODULES"]

MODULES = {  # module -> the views it has
    "taskvec.views.layers": ("take_layers", "stack"),
    "taskvec.views.names": ("rename", "untie", "tie"),
    "taskvec.views.parts": ("select", "drop", "join", "as_model"),
    "taskvec.views.vocabulary": ("resize_vocab", "pad_vocab"),
    "taskvec.views.reordered": ("align_vocab",),
}
FUNCTIONS = Lazy(MODULES)
