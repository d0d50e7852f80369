"""The modules of models with several stacks of layers, under mergekit's names for them."""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from taskvec.sources.text import fits_any

# Module -> patterns for the names of its tensors. A tensor belongs to the first module with a pattern that fits.
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
    """The tensors of a module. If it is not in the table, these are the tensors whose names begin with its name."""
    if module not in MODULES:
        return [name for name in tensors if name.startswith(module)]
    return [name for name in tensors if _module_of(name) == module]


def _module_of(tensor: str) -> str:
    return next(module for module, patterns in MODULES.items() if fits_any(tensor, patterns))
