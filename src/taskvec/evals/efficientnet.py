"""EfficientNet-Lite, a small convolutional network with BatchNorm, as a torch module that is made from a table.

Tan and Le, 2019, arXiv 1905.11946; "Lite" leaves out squeeze-and-excitation, has ReLU6 for swish, and never scales the
first and the last layer (the authors' tpu repository, models/official/efficientnet/lite). The names of the tensors are
those of the package efficientnet-lite-pytorch, so that its weights fit. Shapes, for a batch of n pictures of s x s:

1. The stem, a 3 x 3 convolution with stride 2, makes (n, stem, s/2, s/2) of (n, 3, s, s).
2. Blocks follow. A block widens its input by `expand` with a 1 x 1 convolution, filters every channel on its own with
   a k x k convolution that may have a stride of 2, and narrows the result to `out` channels. BatchNorm follows each of
   the three, and ReLU6 the first two. Where input and output have one shape, the input is added.
3. The head, a 1 x 1 convolution, makes (n, head, s/32, s/32), and the mean over places is the embedding, (n, head).
4. The classifier `_fc`, if there is one, is not part of an embedding.

Convolutions are padded as TensorFlow does ("SAME") for even sizes: k - stride zeros, of which the right and lower side
get one more if the number is odd. Deviation: no stochastic depth and no dropout, so that training draws nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import nn

from taskvec.errors import RecipeError
from taskvec.places.fields import problems_of

NAME = "efficientnet_lite"  # the `architecture` in config.json


@dataclass(frozen=True, slots=True)
class Table:
    """What describes a network of this kind, as it stands in config.json. The defaults are those of Lite0."""

    architecture: str = NAME
    stem: int = 32  # channels after the first convolution
    head: int = 1280  # channels after the last one: the width of an embedding
    classes: int = 0  # of the classifier; 0 for none
    stages: Sequence[Sequence[int]] = field(
        default=(
            (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112),
            (4, 5, 2, 6, 192), (1, 3, 1, 6, 320),
        )
    )  # fmt: skip  # [blocks, kernel, stride of the first, expand, out]


class Embedded(NamedTuple):
    """What the network makes of n pictures, under the names that transformers' networks use."""

    last_hidden_state: torch.Tensor  # (n, head, height, width)
    pooler_output: torch.Tensor  # (n, head)


def made(table: Mapping[str, Any]) -> "EfficientNetLite":
    """The network that a table describes, with random weights. Raises RecipeError for a table that describes none."""
    problems = problems_of(table, Table, "config.json")
    stages = table.get("stages", ())
    if not problems and any(
        not isinstance(s, list | tuple) or len(s) != 5 or not all(isinstance(n, int) and n > 0 for n in s)
        for s in stages
    ):
        problems.append("config.json: stages are lists [blocks, kernel, stride, expand, out] of whole numbers above 0")
    if problems:
        raise RecipeError("the network cannot be made:", problems)
    return EfficientNetLite(Table(**table))


def convolution(inside: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Module:
    """A convolution without bias that pads as TensorFlow does."""
    return Same(inside, out, kernel, stride, groups=groups, bias=False)


class Same(nn.Conv2d):
    """A convolution whose input is padded with k - stride zeros, the smaller half of them on the left and above."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, in, h, w) to (n, out, h/stride, w/stride)."""
        zeros = max(self.kernel_size[0] - self.stride[0], 0)
        sides = (zeros // 2, zeros - zeros // 2)
        out: torch.Tensor = self._conv_forward(nn.functional.pad(x, (*sides, *sides)), self.weight, self.bias)
        return out


def norm(channels: int) -> nn.BatchNorm2d:
    """BatchNorm with the momentum and epsilon of EfficientNet."""
    return nn.BatchNorm2d(channels, momentum=0.01, eps=1e-3)


class Block(nn.Module):
    """Widen, filter each channel, narrow: step 2 above."""

    def __init__(self, inside: int, out: int, kernel: int, stride: int, expand: int):
        super().__init__()
        wide = inside * expand
        self.widens, self.adds = expand != 1, stride == 1 and inside == out
        if self.widens:
            self._expand_conv, self._bn0 = convolution(inside, wide, 1), norm(wide)
        self._depthwise_conv, self._bn1 = convolution(wide, wide, kernel, stride, groups=wide), norm(wide)
        self._project_conv, self._bn2 = convolution(wide, out, 1), norm(out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, in, h, w) to (n, out, h/stride, w/stride)."""
        y = nn.functional.relu6(self._bn0(self._expand_conv(x))) if self.widens else x
        y = nn.functional.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        out: torch.Tensor = x + y if self.adds else y
        return out


class EfficientNetLite(nn.Module):
    """The network that a table describes."""

    def __init__(self, table: Table):
        super().__init__()
        self._conv_stem, self._bn0 = convolution(3, table.stem, 3, 2), norm(table.stem)
        blocks, inside = [], table.stem
        for count, kernel, stride, expand, out in table.stages:
            for number in range(count):
                blocks.append(Block(inside, out, kernel, stride if number == 0 else 1, expand))
                inside = out
        self._blocks = nn.ModuleList(blocks)
        self._conv_head, self._bn1 = convolution(inside, table.head, 1), norm(table.head)
        if table.classes:
            self._fc = nn.Linear(table.head, table.classes)

    def forward(self, pixel_values: torch.Tensor) -> Embedded:
        """Pictures, (n, 3, s, s), s a multiple of all strides together."""
        x = nn.functional.relu6(self._bn0(self._conv_stem(pixel_values)))
        for block in self._blocks:
            x = block(x)
        x = nn.functional.relu6(self._bn1(self._conv_head(x)))
        return Embedded(x, x.mean((2, 3)))
