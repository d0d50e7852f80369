"""What a method's parameters mean to the framework, as data, so that it knows no parameter by its name.

`trim` has a parameter "scope", and its texts "model" and "tensor" say what is ranked together. The framework does not
read these texts. It reads `Setting("scope", {"model": Scope.MODEL, "tensor": Scope.TENSOR})`, which stands in the
method's declaration; another method may call the same thing "over", and its texts "everything" and "each".
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Generic, TypeVar

Meaning = TypeVar("Meaning")


class Scope(Enum):
    """What is measured together for a method."""

    MODEL = "all tensors together"
    LAYER = "the tensors of a layer together"
    TENSOR = "each tensor"
    ROW = "each row of a tensor, along its last axis"
    COLUMN = "each column of a tensor, along its first axis"


LANES = (Scope.ROW, Scope.COLUMN)  # the scopes in which a tensor is many vectors, its lanes
WITHIN_TENSORS = (Scope.TENSOR, *LANES)  # the scopes in which what is told of a tensor depends on that tensor alone


class Rows(Enum):
    """What a row of a tensor is."""

    LAST_AXIS = "the elements along the last axis"
    BEHIND_FIRST_AXIS = "all elements behind the first axis"


@dataclass(frozen=True, eq=False)
class Setting(Generic[Meaning]):
    """A parameter that is a text, and what each of its possible texts means."""

    parameter: str
    meanings: Mapping[str, Meaning]

    def of(self, params: Mapping[str, Any]) -> Meaning:
        """What the parameter of one call means."""
        return self.meanings[params[self.parameter]]


@dataclass(frozen=True, eq=False)
class Scale:
    """A method multiplies what it keeps of a tensor by sum |tau| / sum |kept|, a number that is measured.

    told: the parameter of `fn` that gets the number, which is 1 if it is not measured. on: whether it is measured.
    """

    told: str
    on: Setting[bool]


def meant(setting: "Meaning | Setting[Any]", params: Mapping[str, Any]) -> Meaning:
    """What a declaration means for one call: itself, or for a Setting what the parameter of the call says."""
    return setting.of(params) if isinstance(setting, Setting) else setting


def written(setting: "Meaning | Setting[Meaning]", meaning: Meaning) -> str:
    """How a recipe asks for this meaning, such as `scope="tensor"`; "" if it cannot."""
    texts = setting.meanings if isinstance(setting, Setting) else {}
    return next((f'{setting.parameter}="{text}"' for text, means in texts.items() if means is meaning), "")  # type: ignore[union-attr]
