"""Pictures are classified by frozen prototypes: a class is the mean of a few labelled pictures, as the base sees them.

1. The base embeds `shots` labelled pictures of each class: e, (width,) for each. m is the mean of all these embeddings.
2. The prototype of a class is the mean of (e - m) / |e - m| over its pictures, scaled to length 1 (Snell et al., 2017,
   arXiv 1703.05175, with cosines; centring as Wang et al., 2019, arXiv 1911.04623).
3. m and the prototypes are frozen. A model's logits for a picture are the cosines of its e - m with the prototypes.

So a network without a text encoder, which could not make a head from words, has a head that is not trained either.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from taskvec.algebra.weights import Weights
from taskvec.errors import FormatError, MismatchError, RecipeError
from taskvec.evals.classes import IntoClasses
from taskvec.evals.module import Live
from taskvec.evals.pixels import decoded
from taskvec.evals.task import LiveOf
from taskvec.evals.texts import Example, read
from taskvec.live.load_into import load_into
from taskvec.recipes.recipe import load

if TYPE_CHECKING:
    import torch


@dataclass
class Prototypes(IntoClasses):
    """For each picture 1 if the class with the nearest prototype is its own, else 0.

    model: a folder that transformers reads as a model of pictures (AutoModel), or one whose config.json describes an
        EfficientNet-Lite (efficientnet.py).
    data, or validation and test: files of pictures with labels (pixels.py).
    train: another such file. The first `shots` pictures of each class in it make the prototypes.
    classes: their names, in the order of the logits.
    size: pictures are scaled to this height and width. A value from 0 to 255 becomes (value / 255 - mean) / std.
    scale: cosines are multiplied by it for a loss.
    """

    train: str = ""
    shots: int = 20
    classes: Sequence[str] = ()
    size: int = 64
    mean: float = 0.5
    std: float = 0.5
    scale: float = 20.0
    kind: ClassVar[str] = "prototypes"
    module: ClassVar[str] = "encoder"

    def open(self, name: str, root: Path, live_of: LiveOf) -> None:
        """See `Task.open`. Also checks the settings of the head."""
        if not self.train or not self.classes:
            raise RecipeError(f"{name}: prototypes are made of labelled pictures: give train (a file) and classes")
        if self.shots < 1 or self.size < 1 or self.scale <= 0 or self.std <= 0:
            raise RecipeError(f"{name}: shots and size are at least 1, and scale and std are above 0")
        names = [*map(str, self.classes)]
        if twice := sorted({c for c in names if names.count(c) > 1}):
            raise RecipeError(f"{name}: every class may be named only once, and {', '.join(twice)} is named again")
        self.settle(name, root)
        if not self.model:
            raise RecipeError(f"{name}: say whose architecture it has (model: FOLDER)")
        self.live = live_of(root / self.model, self.module, self.dtype, self.device, PictureLive)

    @property
    def names(self) -> list[str]:
        """The classes, in the order of the logits."""
        return [*map(str, self.classes)]

    def beside(self) -> Sequence[str]:
        """The pictures that the prototypes are made of."""
        return [f"{e.identity} {e.label}" for of_class in self._shown.values() for e in of_class]

    def _computed(self, weights: Weights, examples: Sequence[Example]) -> "torch.Tensor":
        """See `IntoClasses._computed`."""
        import torch

        self.ready()
        module, batches = self.live.take(weights), range(0, len(examples), self.batch)
        with torch.inference_mode():
            return torch.cat([self.logits_of(module, examples[k : k + self.batch]).cpu() for k in batches])

    @property
    def sharpness(self) -> float:
        """`scale`, since logits are cosines."""
        return self.scale

    def ready(self) -> None:
        """Make the prototypes."""
        _ = self._head

    def embedded(self, module: Callable[..., Any], examples: Sequence[Example]) -> "torch.Tensor":
        """What a model makes of pictures, (pictures, width) in float32. Raises FormatError for one that embeds none."""
        output = module(pixel_values=self.pixels(examples))
        states = getattr(output, "pooler_output", None)
        if states is None:
            states = getattr(output, "last_hidden_state", None)
        if states is None:
            raise FormatError(f"{self.name}: a {type(self.live.module).__name__} gives no states for a picture alone")
        embeddings: torch.Tensor = states.float()
        if embeddings.ndim == 4:  # (n, width, height, width of the picture), such as a ResNet's (n, width, 1, 1)
            return embeddings.mean((2, 3))
        return embeddings.mean(1) if embeddings.ndim == 3 else embeddings

    def pixels(self, examples: Sequence[Example]) -> "torch.Tensor":
        """Pictures as the model takes them, (n, 3, size, size). Grey ones get three equal channels."""
        import torch

        pictures = []
        for example in examples:
            picture = torch.from_numpy(decoded(example.text).copy()).float()
            picture = picture.permute(2, 0, 1) if picture.ndim == 3 else picture.expand(3, *picture.shape)
            if picture.shape[1:] != (self.size, self.size):
                scaled = torch.nn.functional.interpolate(
                    picture[None], (self.size, self.size), mode="bilinear", antialias=True
                )
                picture = scaled[0]
            pictures.append((picture / 255 - self.mean) / self.std)
        given = next(self.live.module.parameters())
        return torch.stack(pictures).to(given.device, given.dtype)

    def logits_of(self, model: Callable[..., Any], examples: Sequence[Example]) -> "torch.Tensor":
        """Cosines with the prototypes, (pictures, classes) in float32."""
        import torch

        middle, rows = self._head
        return torch.nn.functional.normalize(self.embedded(model, examples) - middle, dim=-1) @ rows.T

    @cached_property
    def _head(self) -> "tuple[torch.Tensor, torch.Tensor]":
        """m, (width,), and the prototypes, (classes, width), in float32: steps 1 and 2 above."""
        import torch

        module, shown = self.live.own(self.name), self._shown
        with torch.no_grad():  # not inference_mode: a loss needs gradients through products with the head
            pictures = [e for of_class in shown.values() for e in of_class]
            batches = [pictures[k : k + self.batch] for k in range(0, len(pictures), self.batch)]
            embeddings = torch.cat([self.embedded(module, batch) for batch in batches])
            middle = embeddings.mean(0)
            directions = torch.nn.functional.normalize(embeddings - middle, dim=-1)
            of_classes = torch.split(directions, [len(of_class) for of_class in shown.values()])
            rows = torch.nn.functional.normalize(torch.stack([d.mean(0) for d in of_classes]), dim=-1)
            return middle, rows

    @cached_property
    def _shown(self) -> dict[str, list[Example]]:
        """Class -> the pictures that its prototype is made of. Raises MismatchError for a class without pictures."""
        of_class: dict[str, list[Example]] = defaultdict(list)
        for example in read(self.root / self.train, self.text_column, self.label_column):
            of_class[example.label].append(example)
        if missing := [name for name in self.names if name not in of_class]:
            raise MismatchError(f"{self.name}: {self.root / self.train} has no picture of these classes:", missing)
        return {name: of_class[name][: self.shots] for name in self.names}


class PictureLive(Live):
    """A module that embeds pictures: transformers' own, or an EfficientNet-Lite, whose code is ours."""

    @cached_property
    def module(self) -> Any:
        """The module with the folder's weights, in evaluation mode. Raises FormatError, RecipeError, MismatchError."""
        path = self.folder / "config.json"
        try:
            table = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise FormatError(f"{path} cannot be read: {error} (paths are relative to the file of tasks)") from None
        if not isinstance(table, dict) or "architecture" not in table:
            return super().module
        from taskvec.evals import efficientnet

        if table["architecture"] != efficientnet.NAME:
            raise RecipeError(
                f"{path}: the only architecture known is {efficientnet.NAME}, not {table['architecture']!r:.60}"
            )
        import torch

        module = efficientnet.made(table)
        if self.dtype != "auto":
            module = module.to(getattr(torch, self.dtype))
        load_into(module, load(str(self.folder)))
        return self.placed(module)
