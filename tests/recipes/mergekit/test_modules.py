"""The modules of models with several stacks of layers, by the names that mergekit gives them."""

import pytest

from taskvec.recipes.mergekit.modules import MODULES, names_of

TENSORS = [
    "model.vision_tower.layers.0.w", "visual.blocks.0.w", "visual.merger.w", "multi_modal_projector.linear.w",
    "vision_model.encoder.w", "encoder.block.0.w", "model.encoder.embed.w", "decoder.block.0.w", "proj_out.weight",
    "shared.weight", "model.language_model.layers.0.w",
]  # fmt: skip


@pytest.mark.parametrize(
    ("module", "wanted"),
    [
        ("vision_tower", TENSORS[:2]), ("multi_modal_projector", TENSORS[2:4]), ("vision_model", TENSORS[4:5]),
        ("encoder", TENSORS[5:7]), ("decoder", TENSORS[7:9]), ("shared", TENSORS[9:10]), ("text_decoder", TENSORS[10:]),
    ],
)  # fmt: skip
def test_the_first_module_that_fits_has_a_tensor_and_text_the_rest(module, wanted):
    assert names_of(module, TENSORS) == wanted


def test_every_tensor_is_of_one_module():
    assert sorted(n for module in MODULES for n in names_of(module, TENSORS)) == sorted(TENSORS)


def test_a_module_of_another_name_has_what_begins_with_it():
    assert names_of("model.enc", TENSORS) == ["model.encoder.embed.w"] and names_of("audio", TENSORS) == []
