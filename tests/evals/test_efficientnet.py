"""EfficientNet-Lite: its shapes, its padding, its tables, and the same numbers as the package that it follows."""

import re

import pytest
import torch

from taskvec.errors import RecipeError
from taskvec.evals.efficientnet import Same, Table, made

SMALL = {"architecture": "efficientnet_lite", "stem": 8, "head": 24, "stages": [[1, 3, 1, 1, 8], [2, 5, 2, 2, 12]]}


def test_a_picture_becomes_an_embedding():
    module = made(SMALL).eval()
    found = module(pixel_values=torch.randn(3, 3, 16, 16))
    assert found.last_hidden_state.shape == (3, 24, 4, 4)  # two strides of 2
    assert torch.equal(found.pooler_output, found.last_hidden_state.mean((2, 3)))


def test_the_defaults_are_those_of_lite0():
    module = made({"architecture": "efficientnet_lite", "classes": 1000})
    assert sum(p.numel() for p in module.parameters()) == 4_652_008
    assert sum(b.numel() for b in module.buffers()) == 42_065
    assert len(module._blocks) == 16 and Table().head == 1280


def test_a_block_adds_its_input_where_the_shapes_are_equal():
    module = made(SMALL)
    assert [block.adds for block in module._blocks] == [True, False, True]
    assert not hasattr(module._blocks[0], "_expand_conv"), "a block that does not widen has no such convolution"


@pytest.mark.parametrize(
    ("kernel", "stride", "before", "after"), [(3, 1, 1, 1), (3, 2, 0, 1), (5, 2, 1, 2), (1, 1, 0, 0)]
)
def test_padding_is_that_of_tensorflow(kernel, stride, before, after):
    layer = Same(2, 4, kernel, stride, bias=False)
    x = torch.randn(1, 2, 8, 8)
    padded = torch.nn.functional.pad(x, (before, after, before, after))
    assert torch.equal(layer(x), torch.nn.functional.conv2d(padded, layer.weight, stride=stride))
    assert layer(x).shape[-1] == 8 // stride


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"stems": 3}, "no key stems.*did you mean"),
        ({"stem": "wide"}, "stem is a whole number"),
        ({"stages": [[1, 3, 1]]}, "stages are lists"),
        ({"stages": [[1, 3, 1, 0, 8]]}, "stages are lists"),
        ({"stages": ["one"]}, "stages is a list of lists"),
    ],
)
def test_a_table_that_describes_no_network_is_a_stated_error(changes, problem):
    with pytest.raises(RecipeError) as error:
        made(SMALL | changes)
    assert re.search(problem, str(error.value), re.DOTALL)


@pytest.mark.slow
def test_it_computes_what_the_package_computes():
    """Run by hand where efficientnet-lite-pytorch is installed or on PYTHONPATH: equal to the last bit."""
    package = pytest.importorskip("efficientnet_lite_pytorch")
    torch.manual_seed(0)
    theirs = package.EfficientNet.from_name("efficientnet-lite0").eval()
    ours = made({"architecture": "efficientnet_lite", "classes": 1000}).eval()
    ours.load_state_dict(theirs.state_dict())
    for size in (64, 224):
        x = torch.randn(2, 3, size, size)
        with torch.no_grad():
            assert torch.equal(ours(x).last_hidden_state, theirs.extract_features(x))
