"""Two samplers that build a sum term by term: which models belong in a soup, and which task vectors in a sum.

Each knob is either 0, which leaves its term out, or one of its other values. The next candidate follows from how good
the earlier ones were, so a search that was stopped goes on where it was.
"""

from collections.abc import Iterator, Mapping, Sequence

from taskvec.errors import RecipeError

Values = Mapping[str, Sequence[float]]
Rank = tuple[bool, float]  # (True, objective) if a trial keeps the constraints, else (False, -breach): larger is better


def most(sampler: str, values: Values) -> int:
    """The largest number of trials. Raises RecipeError for a knob that cannot be 0, or cannot be anything else."""
    if bad := [name for name, given in values.items() if 0 not in given or not _others(given)]:
        raise RecipeError(
            f"{sampler}: each knob needs the value 0 and another one (as in {bad[0]}=0,1), which these do not have:",
            bad,
        )
    n = len(values)
    if sampler == "greedy":
        if several := [name for name, given in values.items() if len(_others(given)) > 1]:
            raise RecipeError("greedy takes a term or leaves it out: give just one value beside 0 for", several)
        return 2 * n - 1
    steps = [sum(len(_others(given)) for given in values.values())]  # of the first round; each later one has fewer
    smallest = min(len(_others(given)) for given in values.values())
    while len(steps) < n:
        steps.append(steps[-1] - smallest)
    return 1 + sum(steps)


def next_sum(sampler: str, values: Values, ranks: Sequence[Rank]) -> dict[str, float] | None:
    """The knobs of the next trial; None if there is none. ranks: the ranks of all trials before it, in order."""
    steps = (greedy if sampler == "greedy" else forward)(values, ranks)
    for number, knobs in enumerate(steps):
        if number == len(ranks):
            return knobs
    return None


def greedy(values: Values, ranks: Sequence[Rank]) -> Iterator[dict[str, float]]:
    """Try every term alone. Then begin with the best one and add the others one by one, from good to bad. A term is
    kept if it makes the sum strictly better.

    Greedy soup (Wortsman et al., 2022, Recipe 1), with > as in their code, where the paper has >=.
    """
    full = {name: _others(given)[0] for name, given in values.items()}
    alone = [{**dict.fromkeys(values, 0.0), name: full[name]} for name in values]
    yield from alone
    first, *order = sorted(range(len(alone)), key=lambda k: ranks[k], reverse=True)  # stable: the first of equal ones
    names, best, current = list(values), ranks[first], alone[first]
    for trial, k in enumerate(order, len(alone)):
        candidate = current | {names[k]: full[names[k]]}
        yield candidate
        if ranks[trial] > best:
            best, current = ranks[trial], candidate


def forward(values: Values, ranks: Sequence[Rank]) -> Iterator[dict[str, float]]:
    """Begin with no term. In each round try every term that is not in the sum yet, at each of its values, and take the
    best one. The end is a round in which no term makes the sum strictly better.
    """
    current = dict.fromkeys(values, 0.0)
    yield current
    best, trial = ranks[0], 1
    while True:
        round_ = [current | {name: v} for name, given in values.items() if not current[name] for v in _others(given)]
        yield from round_
        if not round_:
            return
        place = max(range(trial, trial + len(round_)), key=lambda k: ranks[k])
        if ranks[place] <= best:
            return
        best, current, trial = ranks[place], round_[place - trial], trial + len(round_)


def _others(given: Sequence[float]) -> list[float]:
    return [v for v in given if v]
