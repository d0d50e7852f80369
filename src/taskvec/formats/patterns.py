"""The patterns of `rank_pattern` and `alpha_pattern`, matched as PEFT matches them but in bounded time.

PEFT calls `re.match(rf"(.*\\.)?({pattern})$", module)`: a pattern stands for the end of a module's name, from a dot on,
and the first pattern that fits counts. The patterns come from a downloaded file, and Python's `re` can be made to
search for ever. So a pattern is matched in one of three ways, all of which give PEFT's result:

1. A pattern of letters, digits, `_`, `-` and dots (perhaps after `^`) is looked up in a table: the usual case. A dot
   fits any character, as in a regular expression.
2. A regular expression with at most one repetition and one alternative is given to `re`, which needs at most
   (dots + 1) x length steps for it.
3. Any other is compiled to a nondeterministic automaton, all of whose states are followed at once (Thompson 1968):
   at most states x length steps.

Steps are counted, and there is a limit to them.
"""

import re
from collections.abc import Mapping
from re import _constants, _parser  # type: ignore[attr-defined]
from typing import Any

MOST_STEPS = 1_000_000_000  # comparisons of characters, a few seconds
A_STATE = 200  # what following a state costs in Python, in such comparisons
MOST_STATES = 5000
_PLAIN = re.compile(r"\^?[\w.-]+", re.ASCII)
_REPEATS = (_constants.MAX_REPEAT, _constants.MIN_REPEAT)
_ONE = (_constants.LITERAL, _constants.NOT_LITERAL, _constants.ANY, _constants.IN)
_STARTS = (_constants.AT_BEGINNING, _constants.AT_BEGINNING_STRING)
_ENDS = (_constants.AT_END, _constants.AT_END_STRING)


class Patterns:
    """A table {pattern: value}. Raises ValueError for what cannot be matched in bounded time."""

    def __init__(self, table: Mapping[str, Any]):
        self._values, self._names = list(table.values()), list(table)
        self._groups: dict[tuple[bool, int, tuple[int, ...]], dict[str, int]] = {}
        self._rest: list[tuple[int, Any]] = []  # position in the table, a compiled expression or a program
        self._steps = 0
        self.unused = set(table)
        self.contested: list[str] = []  # modules that patterns with different values fit
        for k, pattern in enumerate(table):
            if _PLAIN.fullmatch(pattern):
                self._add_plain(k, pattern)
            else:
                self._rest.append((k, _compiled(pattern)))

    def _add_plain(self, k: int, pattern: str) -> None:
        text = pattern.removeprefix("^")
        dots = tuple(at for at, c in enumerate(text) if c == ".")
        self._groups.setdefault((pattern != text, len(text), dots), {}).setdefault(text, k)

    def find(self, module: str, default: Any) -> Any:
        """The value of the first pattern that fits, else `default`. Raises ValueError if that takes too long."""
        fitting = [k for group, table in self._groups.items() if (k := self._plain(module, *group, table)) is not None]
        fitting += [k for k, matcher in self._rest if self._fits(matcher, module)]
        if not fitting:
            return default
        first = min(fitting)
        if any(self._values[k] != self._values[first] for k in fitting):
            self.contested.append(module)
        self.unused.discard(self._names[first])
        return self._values[first]

    def _plain(
        self, module: str, anchored: bool, length: int, dots: tuple[int, ...], table: Mapping[str, int]
    ) -> int | None:
        start = len(module) - length
        self._count(1)
        if start < 0 or (start and (anchored or module[start - 1] != ".")):
            return None
        self._count(length)
        end = list(module[start:])
        for at in dots:
            end[at] = "."
        return table.get("".join(end))

    def _fits(self, matcher: Any, module: str) -> bool:
        if isinstance(matcher, re.Pattern):
            self._count(len(module) * (module.count(".") + 2))
            return matcher.match(module) is not None
        return self._follow(matcher, module)

    def _follow(self, program: "list[tuple[Any, ...]]", text: str) -> bool:
        """Whether the automaton can be in its last state at the end of the text, or reaches it before a `$`."""
        states = self._reached(program, [0], 0, len(text))
        for at, character in enumerate(text):
            if -1 in states:
                return True
            after = [k + 1 for k in states if program[k][0] == "one" and _is_one_of(program[k][1], character)]
            if not after:
                return False
            states = self._reached(program, after, at + 1, len(text))
        return -1 in states

    def _reached(self, program: "list[tuple[Any, ...]]", begin: list[int], at: int, length: int) -> set[int]:
        """The states that can be reached without a character; -1 if the pattern ends there."""
        reached: set[int] = set()
        todo = list(begin)
        while todo:
            k = todo.pop()
            if k in reached:
                continue
            self._count(A_STATE)
            reached.add(k)
            if k == len(program):
                reached.discard(k)
                reached.add(-1)
            elif program[k][0] == "go":
                todo += program[k][1]
            elif program[k][0] == "at" and (at == 0 if program[k][1] in _STARTS else at == length):
                todo.append(k + 1)
        return reached

    def _count(self, steps: int) -> None:
        self._steps += steps
        if self._steps > MOST_STEPS:
            raise ValueError("its patterns take too long to match: write the names of modules instead")


def _compiled(pattern: str) -> Any:
    """What matches a pattern: an expression of `re` where that is quick for any text, else a program."""
    if len(pattern) > MOST_STATES:
        raise ValueError(f"a pattern of {len(pattern)} characters is too long")
    whole = rf"(.*\.)?({pattern})$"
    try:
        tree = _parser.parse(whole)
        if tree.state.flags & ~re.UNICODE:
            raise ValueError("flags are not supported")
        program: list[tuple[Any, ...]] = []
        _emit(tree, program)
        inner = _parser.parse(pattern)
        return re.compile(whole) if _hard_parts(inner) <= 1 else program
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(str(error) or "it is nested too deeply") from None


def _hard_parts(tree: Any) -> int:
    """How many repetitions and alternatives a pattern has; a repetition of more than one character counts twice."""
    total = 0
    for op, value in tree:
        if op in _REPEATS:
            total += 1 if len(value[2]) == 1 and value[2][0][0] in _ONE else 2
        elif op is _constants.BRANCH:
            total += 1 + sum(map(_hard_parts, value[1]))
        elif op is _constants.SUBPATTERN:
            total += _hard_parts(value[3])
    return total


def _emit(tree: Any, program: "list[tuple[Any, ...]]") -> None:
    """Append the states of a parsed expression: ("one", set of characters), ("at", place) or ("go", next states)."""
    for op, value in tree:
        if len(program) > MOST_STATES:
            raise ValueError(f"a pattern with more than {MOST_STATES} states is too large")
        if op in _ONE:
            program.append(("one", ((op, value),) if op is not _constants.IN else tuple(value)))
        elif op is _constants.AT and value in _STARTS + _ENDS:
            program.append(("at", value))
        elif op is _constants.SUBPATTERN and not (value[1] or value[2]):
            _emit(value[3], program)
        elif op is _constants.BRANCH:
            _emit_branches(value[1], program)
        elif op in _REPEATS:
            _emit_repeat(value[0], value[1], value[2], program)
        else:
            raise ValueError(f"{str(op).lower()} is not supported in a pattern")


def _emit_branches(branches: Any, program: "list[tuple[Any, ...]]") -> None:
    fork = len(program)
    program.append(())
    starts, ends = [], []
    for branch in branches:
        starts.append(len(program))
        _emit(branch, program)
        ends.append(len(program))
        program.append(())
    program[fork] = ("go", starts)
    for end in ends:
        program[end] = ("go", [len(program)])


def _emit_repeat(least: int, most: Any, tree: Any, program: "list[tuple[Any, ...]]") -> None:
    for _ in range(least):
        before = len(program)
        _emit(tree, program)
        if len(program) == before:  # repeating nothing is nothing, however often
            return
    if most is _constants.MAXREPEAT:
        fork = len(program)
        program.append(())
        _emit(tree, program)
        program.append(("go", [fork]))
        program[fork] = ("go", [fork + 1, len(program)])
        return
    forks = []
    for _ in range(most - least):
        forks.append(len(program))
        program.append(())
        _emit(tree, program)
    for fork in forks:
        program[fork] = ("go", [fork + 1, len(program)])


def _is_one_of(items: Any, character: str) -> bool:
    """Whether a character is in a set as the parser writes it."""
    negated = bool(items) and items[0][0] is _constants.NEGATE
    return negated != any(_is(op, value, character) for op, value in items[negated:])


def _is(op: Any, value: Any, character: str) -> bool:
    code = ord(character)
    if op is _constants.LITERAL:
        return bool(code == value)
    if op is _constants.NOT_LITERAL:
        return bool(code != value)
    if op is _constants.RANGE:
        return bool(value[0] <= code <= value[1])
    if op is _constants.ANY:
        return character != "\n"
    kind = str(value).removeprefix("CATEGORY_").removeprefix("NOT_")
    kinds = {"DIGIT": character.isdecimal(), "SPACE": character.isspace(), "WORD": character.isalnum() or code == 95}
    return kinds[kind] != ("NOT_" in str(value))
