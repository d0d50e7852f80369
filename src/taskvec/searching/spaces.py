"""Which values a knob may have, and which values a search tries next.

The samplers are a grid, random draws, sums that are built term by term (subsets.py) and those of Optuna (the `search`
extra). A proposal depends only on the seed, the number of the trial and the trials that are finished. So a search that
was killed goes on as if it had not been.
"""

import io
import math
import pickle
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from importlib.util import find_spec
from itertools import islice, pairwise, product
from typing import Any

from taskvec.errors import FormatError, MissingExtra, RecipeError
from taskvec.searching import subsets
from taskvec.searching.trial import Knobs, Trial

LARGEST = 1_000_000  # points of a grid
STUDIES = ("tpe", "cmaes", "nsga2")  # Optuna's
SEVERAL = ("nsga2",)  # for more than one objective
SEQUENTIAL = ("greedy", "forward")  # a trial depends on all before it, and they may end before the largest number
SAMPLERS = ("grid", "random", *SEQUENTIAL, *STUDIES)
POPULATION = 20  # candidates of a generation of NSGA-II
STATE = {  # what the pickled state of CMA-ES is made of
    "cmaes._cma.CMA", "numpy.ndarray", "numpy.dtype", "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar", "numpy.core.multiarray._reconstruct", "numpy.core.multiarray.scalar",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Space:
    """The values of a knob: `values` in their order, or everything from low to high if there are none."""

    low: float
    high: float
    values: tuple[float, ...] = ()

    @classmethod
    def of(cls, given: Any, name: str) -> "Space":
        """(low, high), (low, high, step), a list of values, one value, or a text: "0:1:0.05", "0.1,0.3", "-1:2".

        Raises RecipeError.
        """
        if isinstance(given, Space):
            return given
        if isinstance(given, str):
            return _of_text(given, name)
        if isinstance(given, int | float):
            return cls.of([given], name)
        numbers = [_finite(v, name) for v in given]
        if isinstance(given, tuple) and len(numbers) in (2, 3):
            return _range(numbers, name)
        if not numbers:
            raise RecipeError(f"{name} has no values to try")
        return cls(min(numbers), max(numbers), tuple(dict.fromkeys(numbers)))

    def nearest(self, value: float) -> float:
        """The value of the space nearest to this one, which may differ from it by rounding."""
        return min(self.values, key=lambda v: abs(v - value)) if self.values else float(value)

    def __str__(self) -> str:
        if self.values:
            return ", ".join(f"{v:g}" for v in self.values)
        return f"{self.low:g} to {self.high:g}"


def _finite(value: Any, name: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise RecipeError(f"{name}: {value!r} is not a number") from None
    if not math.isfinite(number):
        raise RecipeError(f"{name}: {value!r} is no value to try")
    return number


def _of_text(text: str, name: str) -> Space:
    if ":" in text:
        return _range([_finite(part, name) for part in text.split(":")], name)
    return Space.of([_finite(part, name) for part in text.split(",") if part.strip()], name)


def _range(numbers: Sequence[float], name: str) -> Space:
    low, high, *rest = numbers
    if len(numbers) > 3 or low > high:
        raise RecipeError(f"{name}: a range is low:high or low:high:step, with low not above high")
    if not rest:
        return Space(low, high, (low,) if low == high else ())
    if rest[0] <= 0:
        raise RecipeError(f"{name}: the step {rest[0]:g} is not positive")
    first, last, step = (Fraction(str(v)) for v in (low, high, rest[0]))
    count = int((last - first) / step) + 1  # exact, so that 0:1:0.05 has 21 values and ends in 1
    if count > LARGEST:
        raise RecipeError(f"{name}: {count} values are more than {LARGEST}")
    return Space(low, high, tuple(float(first + k * step) for k in range(count)))


def total(spaces: Mapping[str, Space], sampler: str, trials: int | None) -> int:
    """How many trials there are to be. Raises RecipeError for a sampler that cannot work with these knobs."""
    if sampler not in SAMPLERS:
        raise RecipeError(f"no sampler is called {sampler}; there are {', '.join(SAMPLERS)}")
    if not spaces:
        raise RecipeError("the recipe has no knobs: there is nothing to search (a name without a value is a knob)")
    if trials is not None and trials < 1:
        raise RecipeError(f"trials must be at least 1, not {trials}")
    if sampler in SEQUENTIAL:
        most = subsets.most(sampler, {name: space.values for name, space in spaces.items()})
        return min(most, trials or most)
    if sampler != "grid":
        if trials is None:
            raise RecipeError(f"{sampler}: say how many trials there are to be (trials)")
        return trials
    if free := [name for name, space in spaces.items() if not space.values]:
        ranges = ", ".join(f"{name} is {spaces[name]}" for name in free)
        raise RecipeError(f"a grid needs a step: {ranges}; write low:high:step, or take random")
    points = math.prod(len(space.values) for space in spaces.values())
    if trials is None and points > LARGEST:
        raise RecipeError(f"the grid has {points} points, more than {LARGEST}: take random or tpe, or fewer values")
    return min(points, trials or points)


def propose(
    spaces: Mapping[str, Space], sampler: str, seed: int, number: int, tried: Sequence[Trial], goals: int = 1
) -> tuple[Knobs, dict[str, Any]] | None:
    """(the knobs of a trial, a memo for the journal that the sampler needs later); None if nothing is left to try.

    tried: the finished trials, in any order. goals: how many objectives there are.
    """
    if sampler == "grid":
        point = next(islice(product(*(space.values for space in spaces.values())), number, None))
        return dict(zip(spaces, point, strict=True)), {}
    if sampler == "random":
        return _random(spaces, seed, number), {}
    if sampler in SEQUENTIAL:
        past = sorted(tried, key=lambda t: t.number)
        ranks = [(not t.broken, -t.breach if t.broken else t.goodness) for t in past]
        knobs = subsets.next_sum(sampler, {name: space.values for name, space in spaces.items()}, ranks)
        return None if knobs is None else (knobs, {})
    return _optuna(spaces, sampler, seed, number, tried, goals)


@cache
def scattered(count: int) -> tuple[int, ...]:
    """The places 0 to count - 1 in the order of their reversed bits, so that the first ones are far apart. A race then
    soon has a good candidate to compare others with."""
    bits = max(1, (count - 1).bit_length())
    return tuple(sorted(range(count), key=lambda k: int(f"{k:0{bits}b}"[::-1], 2)))


def _random(spaces: Mapping[str, Space], seed: int, number: int) -> Knobs:
    import numpy as np

    draw = np.random.default_rng([seed, number])
    knobs = {}
    for name, space in spaces.items():
        u = float(draw.random())
        values = space.values
        knobs[name] = values[int(u * len(values))] if values else space.low + u * (space.high - space.low)
    return knobs


def _optuna(
    spaces: Mapping[str, Space], sampler: str, seed: int, number: int, tried: Sequence[Trial], goals: int
) -> tuple[Knobs, dict[str, Any]]:
    """Make a study of the finished trials and ask it once. The number of the trial is part of the seed, so the answer
    does not depend on how often a sampler was asked before."""
    try:
        import optuna
        from optuna.trial import TrialState, create_trial
    except ImportError:
        raise MissingExtra(f"the sampler {sampler}", "search") from None
    if sampler == "cmaes" and (fixed := [name for name, space in spaces.items() if space.values]):
        raise RecipeError(f"cmaes needs ranges without a step: {', '.join(fixed)}")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    shapes = {name: _distribution(space) for name, space in spaces.items()}
    several = goals if sampler != "cmaes" else 1
    study = optuna.create_study(directions=["maximize"] * several, sampler=_sampler(optuna, sampler, seed + number))
    finished = sorted(tried, key=lambda t: t.number)
    for past in finished:
        _require_harmless(past.memo)
    try:
        for past in finished:
            study.add_trial(
                create_trial(
                    state=TrialState.COMPLETE, params=dict(past.knobs), distributions=shapes,
                    values=past.goods[:several], system_attrs=dict(past.memo), constraints={"bounds": past.breach},
                )
            )  # fmt: skip
        study.ask(shapes)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise FormatError(
            f"{sampler} cannot go on from the trials of the journal: {type(error).__name__}: {error}"
        ) from error
    asked = study.trials[-1]
    return {name: spaces[name].nearest(value) for name, value in asked.params.items()}, dict(asked.system_attrs)


class _Plain(pickle.Unpickler):
    """An unpickler that can make arrays and the state of CMA-ES, and calls nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """Raises FormatError for anything that is no part of the state of a sampler."""
        if f"{module}.{name}" not in STATE:
            raise FormatError(
                f"a journal's memo of a sampler would run {module}.{name}: it was not written by a search"
            )
        return super().find_class(module, name)


def _require_harmless(memo: Mapping[str, Any]) -> None:
    """Raise FormatError for a memo that would run code: Optuna unpickles the state of CMA-ES that the journal holds."""
    pieces = {key: text for key, text in memo.items() if "optimizer" in key}
    if not pieces:
        return
    try:
        state = "".join(pieces[key] for key in sorted(pieces, key=lambda key: int(key.rpartition(":")[2])))
        _Plain(io.BytesIO(bytes.fromhex(state))).load()
    except FormatError:
        raise
    except Exception as error:  # a damaged pickle may raise anything
        raise FormatError(f"a journal's memo of a sampler cannot be read: {type(error).__name__}: {error}") from None


def _sampler(optuna: Any, name: str, seed: int) -> Any:
    if name == "tpe":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.TPESampler(seed=seed, multivariate=True)
    if name == "nsga2":
        return optuna.samplers.NSGAIISampler(seed=seed, population_size=POPULATION)
    if find_spec("cmaes") is None:  # Optuna's sampler imports it late
        raise MissingExtra("the sampler cmaes", "search")
    return optuna.samplers.CmaEsSampler(seed=seed)


def _distribution(space: Space) -> Any:
    """A space as Optuna's distribution: evenly spaced values become a range with a step, others become categories."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    if not space.values:
        return FloatDistribution(space.low, space.high)
    steps = {Fraction(str(b)) - Fraction(str(a)) for a, b in pairwise(space.values)}
    if len(steps) == 1 and (step := steps.pop()) > 0:
        return FloatDistribution(space.low, space.high, step=float(step))
    return CategoricalDistribution(space.values)
