"""Pictures are put into classes by CLIP: the nearest row of a frozen zero-shot head wins (extra `clip`: open_clip)."""

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
    """Is the class whose description is nearest to the picture its own? One number an example, 0 or 1.

    model: a file or folder of open_clip weights, architecture: its name there (ViT-B-32). data, or validation and test:
    folders with a folder of pictures for each class. prompts: {class: descriptions}; a class's row of the head is the
    mean of their text embeddings, each at length 1, made by the model of the file and frozen (Ilharco et al., 2023).
    """

    architecture: str = ""
    prompts: Mapping[str, Sequence[str]] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict, init=False, repr=False)  # by the digest of the picture
    kind: ClassVar[str] = "images"

    def open(self, name: str, root: Path, live_of: LiveOf) -> None:
        """Also the head's settings."""
        self.settle(name, root)
        if not self.architecture or not self.prompts or not self.model:
            raise RecipeError(f"{name}: pictures are judged with model, architecture (ViT-B-32) and prompts")
        self.live = live_of(root / self.model, f"open_clip {self.architecture}", self.dtype, self.device, ClipLive)

    def examples(self, split: str, root: Path) -> list[Example]:
        """Pictures by their files' digests."""
        from blake3 import blake3

        folder = self.place(split, root)
        if not folder.is_dir():
            raise FormatError(f"{folder} is no folder with a folder of pictures for each class")
        found: dict[str, Example] = {}
        for file in sorted(f for f in folder.glob("*/*") if f.suffix.lower() in SUFFIXES):
            identity = blake3(file.read_bytes()).hexdigest(16)
            found[identity] = Example(identity, file.parent.name)
            self.files[identity] = file
        chosen = [e for identity, e in found.items() if self.dealt(identity, split)]
        if not chosen:
            raise FormatError(f"{folder} has no pictures for {split}")
        return self.limited(chosen, [e.label for e in found.values()])

    def scores(self, weights: Weights, split: str, start: float, stop: float) -> Mapping[str, Any]:
        """{"": 0 or 1 a picture}."""
        examples = self.part(split, start, stop)
        names = [*map(str, self.prompts)]
        if unknown := sorted({e.label for e in examples} - {*names}):
            raise FormatError(f"{self.name}: folders that are no class ({', '.join(names)}): {', '.join(unknown[:20])}")
        predicted = self.predictions(weights, split, start, stop)
        return {"": [float(names[k] == e.label) for k, e in zip(predicted, examples, strict=True)]}

    def predictions(self, weights: Weights, split: str, start: float, stop: float) -> list[int]:
        """The place of the nearest class, one a picture."""
        asked = split, start, stop
        found: list[int] = self.once(weights, asked, lambda: self._predicted(weights, self.part(*asked)))
        return found

    def _predicted(self, weights: Weights, examples: Sequence[Example]) -> list[int]:
        import torch

        head = self._head
        module, found = self.live.take(weights), []
        for k in range(0, len(examples), self.batch):
            chosen = examples[k : k + self.batch]
            with torch.inference_mode():
                pictures = torch.stack([self._picture(e.text) for e in chosen]).to(self.device)
                found += best(self.name, module.encode_image(pictures, normalize=True).float() @ head.T)
        return found

    def ready(self) -> None:
        """The head."""
        _ = self._head

    @cached_property
    def _head(self) -> "torch.Tensor":
        """(classes, width)."""
        import torch

        tokenise, module = self.live.tokenizer, self.live.module  # made outside: parameters are to be written to
        with torch.inference_mode():
            ids = [tokenise([*texts]).to(self.device) for texts in self.prompts.values()]
            rows = [module.encode_text(i, normalize=True).float().mean(0) for i in ids]
            return torch.nn.functional.normalize(torch.stack(rows), dim=-1)

    def _picture(self, identity: str) -> "torch.Tensor":
        """Read and prepared once: a search sees the same pictures again and again."""
        from PIL import Image

        kept: dict[str, torch.Tensor] = self.__dict__.setdefault("_pictures", {})
        if identity not in kept:
            with Image.open(self.files[identity]) as picture:
                kept[identity] = self.live.prepare(picture.convert("RGB"))  # type: ignore[attr-defined]
        return kept[identity]


class ClipLive(Live):
    """A module of open_clip. Its weights are read by us: nothing is unpickled."""

    @cached_property
    def module(self) -> Any:
        """Not in training, with the folder's weights."""
        return self._made[0]

    @property
    def prepare(self) -> Any:
        """From a picture to a tensor."""
        return self._made[1]

    @cached_property
    def tokenizer(self) -> Any:
        """Texts to token ids."""
        return _open_clip().get_tokenizer(self.kind.split(" ", 1)[1])

    @cached_property
    def _made(self) -> tuple[Any, Any]:
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
