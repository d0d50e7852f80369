"""The modules of a model with several stacks of layers, by the names that mergekit gives them."""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from types import MappingProxyType

# Module -> the names of its tensors. The first module that fits has a tensor; text_decoder has what is left.
MODULES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "multi_modal_projector": ("*multi_modal_projector.*", "*visual.merger.*", "*visual.deepstack_merger_list.*"),
        "vision_tower": ("*vision_tower.*", "*visual.*"),
        "vision_model": ("vision_model.*",),
        "encoder": ("encoder.*", "model.encoder.*"),
        "decoder": ("decoder.*", "model.decoder.*", "lm_head.*", "proj_out.*"),
        "shared": ("shared.*",),
        "text_decoder": ("*",),
    }
)


def names_of(module: str, tensors: Iterable[str]) -> list[str]:
    """The tensors of a module; of a module that is not in the table, those whose names begin with its own."""
    if module not in MODULES:
        return [name for name in tensors if name.startswith(module)]
    return [name for name in tensors if _module_of(name) == module]


def _module_of(tensor: str) -> str:
    return next(m for m, patterns in MODULES.items() if any(fnmatchcase(tensor, pattern) for pattern in patterns))
