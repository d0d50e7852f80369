"""Pictures are classified by CLIP with a frozen zero-shot head (extra `clip`: open_clip)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from taskvec.algebra.weights import Weights
from taskvec.errors import FormatError, MissingExtra, RecipeError
from taskvec.evals.module import Live, best
from taskvec.evals.task import LiveOf, Task
from taskvec.evals.texts import Example
from taskvec.live.load_into import load_into
from taskvec.recipes.recipe import load

if TYPE_CHECKING:
    import torch

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif")


@dataclass
class Images(Task):
    """For each picture 1 if the class with the nearest row of the head is its own, else 0.

    model: a file or folder with open_clip weights. architecture: its name in open_clip, such as ViT-B-32.
    data, or validation and test: folders with a folder of pictures for each class.
    prompts: {class: descriptions}. The row of a class is the mean of the embeddings of its descriptions, each of length
        1, scaled to length 1. The head is made once by `model` and then frozen (Ilharco et al., 2023).
    """

    architecture: str = ""
    prompts: Mapping[str, Sequence[str]] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict, init=False, repr=False)  # by the digest of the picture
    kind: ClassVar[str] = "images"
    unused: ClassVar[Sequence[str]] = ("text_column", "label_column")

    def open(self, name: str, root: Path, live_of: LiveOf) -> None:
        """See `Task.open`. Also checks the settings of the head."""
        self.settle(name, root)
        if not self.architecture or not self.prompts or not self.model:
            raise RecipeError(f"{name}: pictures are judged with model, architecture (ViT-B-32) and prompts")
        self.live = live_of(root / self.model, f"open_clip {self.architecture}", self.dtype, self.device, ClipLive)

    def examples(self, split: str, root: Path) -> list[Example]:
        """The pictures of a split, each with the digest of its file as its text, and its folder as its label."""
        from blake3 import blake3

        folder = self.place(split, root)
        if not folder.is_dir():
            raise FormatError(f"{folder} is no folder with a folder of pictures for each class")
        pictures: dict[str, Example] = {}
        for file in sorted(f for f in folder.glob("*/*") if f.suffix.lower() in SUFFIXES):
            identity = blake3(file.read_bytes()).hexdigest(16)
            pictures[identity] = Example(identity, file.parent.name)
            self.files[identity] = file
        chosen = [e for identity, e in pictures.items() if self.dealt(identity, split)]
        if not chosen:
            raise FormatError(f"{folder} has no pictures for {split}")
        return self.limited(chosen, [e.label for e in pictures.values()])

    def scores(self, weights: Weights, split: str, start: float, stop: float) -> Mapping[str, Any]:
        """{"": 0 or 1 for each picture}. Raises FormatError for folders that are no class."""
        examples = self.part(split, start, stop)
        names = [*map(str, self.prompts)]
        if unknown := sorted({e.label for e in examples} - {*names}):
            raise FormatError(f"{self.name}: folders that are no class ({', '.join(names)}): {', '.join(unknown[:20])}")
        predicted = self.predictions(weights, split, start, stop)
        return {"": [float(names[k] == e.label) for k, e in zip(predicted, examples, strict=True)]}

    def predictions(self, weights: Weights, split: str, start: float, stop: float) -> list[int]:
        """The number of the class with the nearest row for each picture, (n,)."""
        part = split, start, stop
        classes: list[int] = self.once(weights, part, lambda: self._predicted(weights, self.part(*part)))
        return classes

    def _predicted(self, weights: Weights, examples: Sequence[Example]) -> list[int]:
        """See `predictions`."""
        import torch

        head = self._head
        module, classes = self.live.take(weights), []
        for k in range(0, len(examples), self.batch):
            chosen = examples[k : k + self.batch]
            with torch.inference_mode():
                pictures = torch.stack([self._picture(e.text) for e in chosen]).to(self.device)
                classes += best(self.name, module.encode_image(pictures, normalize=True).float() @ head.T)
        return classes

    def ready(self) -> None:
        """Make the head."""
        _ = self._head

    @cached_property
    def _head(self) -> "torch.Tensor":
        """The head, (classes, width) in float32."""
        import torch

        tokenise, module = self.live.tokenizer, self.live.own(self.name)  # before inference_mode: `take` writes to it
        with torch.inference_mode():
            ids = [tokenise([*texts]).to(self.device) for texts in self.prompts.values()]
            rows = [module.encode_text(i, normalize=True).float().mean(0) for i in ids]
            return torch.nn.functional.normalize(torch.stack(rows), dim=-1)

    def _picture(self, identity: str) -> "torch.Tensor":
        """A picture as a tensor, which is kept, since a search sees the same pictures again and again."""
        from PIL import Image

        kept: dict[str, torch.Tensor] = self.__dict__.setdefault("_pictures", {})
        if identity not in kept:
            with Image.open(self.files[identity]) as picture:
                kept[identity] = self.live.prepare(picture.convert("RGB"))  # type: ignore[attr-defined]
        return kept[identity]


class ClipLive(Live):
    """A module of open_clip. Its weights are read by taskvec, so nothing is unpickled."""

    @cached_property
    def module(self) -> Any:
        """The module with the folder's weights, in evaluation mode."""
        return self._made[0]

    @property
    def prepare(self) -> Any:
        """A function from a picture to a tensor."""
        return self._made[1]

    @cached_property
    def tokenizer(self) -> Any:
        """A function from texts to token ids."""
        return _open_clip().get_tokenizer(self.kind.split(" ", 1)[1])

    @cached_property
    def _made(self) -> tuple[Any, Any]:
        """The module, and the function that prepares pictures. Raises RecipeError for an unknown architecture."""
        name = self.kind.split(" ", 1)[1]
        clip = _open_clip()
        if name not in clip.list_models():
            raise RecipeError(f"open_clip has no architecture {name}")
        known = {"auto": "fp32", "float32": "fp32", "bfloat16": "pure_bf16", "float16": "pure_fp16"}
        if (precision := known.get(self.dtype)) is None:
            raise RecipeError(f"open_clip has no dtype {self.dtype}; there is {', '.join(known)}")
        module, _, prepare = clip.create_model_and_transforms(name, pretrained=None, precision=precision)
        load_into(module, load(self.folder))
        return self.placed(module), prepare


def _open_clip() -> Any:
    try:
        import open_clip
    except ImportError:
        raise MissingExtra("an evaluator of pictures", "clip") from None
    return open_clip
