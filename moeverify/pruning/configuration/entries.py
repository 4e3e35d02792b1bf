"""Search for the configuration entries that give the wanted shapes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction

from moeverify.models.skeleton import Shapes
from moeverify.pruning.configuration.probe import Attribute, Dim, Entries, Move, Probe

_PATHS = 4


@dataclass(frozen=True)
class Solution:
    """Best entries of a search. ``wrong``: dimensions that do not have the wanted size under them."""

    entries: Entries
    wrong: tuple[Dim, ...]


def differing(shapes: Shapes, wanted: Shapes) -> list[Dim]:
    """Dimensions whose size in ``shapes`` is not the one in ``wanted``."""
    return [
        (name, dim)
        for name, shape in wanted.items()
        for dim, (size, real) in enumerate(zip(shape, shapes[name], strict=True))
        if size != real
    ]


def _scales(base: Shapes, now: Shapes) -> set[Fraction]:
    """Factors by which dimensions have been scaled, 1 included."""
    changed = {pair for name, shape in now.items() for pair in zip(shape, base[name], strict=True)}
    return {Fraction(new, old) for new, old in changed if new != old} | {Fraction(1)}


def _proposals(
    move: Move, values: Entries, sizes: tuple[Shapes, Shapes, Shapes], scales: Iterable[Fraction]
) -> list[tuple[int, Entries]]:
    """Changes of one move, each with the number of wrong dimensions that it would correct according to the slopes.

    ``sizes``: the original's, the present ones and the wanted ones. ``scales``: factors between the first two.
    """
    base, now, wanted = sizes
    votes: Counter[Fraction] = Counter()
    inverse: Counter[Fraction] = Counter()
    for (name, dim), slope in move.slopes.items():
        size, goal, old = now[name][dim], wanted[name][dim], base[name][dim]
        if size == goal:
            continue
        if slope == old:  # the entry is a factor of this size
            votes[Fraction(goal, size)] += 1
        elif slope == -old // 2:  # its inverse is
            votes[Fraction(size, goal)] += 1
        elif slope < 0:
            inverse.update(_inverse_part(goal - size, -2 * slope, scales))
        else:  # the entry is a part of it
            lead = values[move.up[0]]
            step = Fraction(slope, lead)
            votes[(lead + (goal - size) / step) / lead] += 1
    result = []
    for factor, count in (*votes.most_common(3), *inverse.most_common(3)):
        if factor > 0 and (entries := move.scaled(values, factor.numerator, factor.denominator)) is not None:
            result.append((count, entries))
    return result


def _inverse_part(missing: int, part: int, scales: Iterable[Fraction]) -> set[Fraction]:
    """Factors for an entry that divides a size. Example: 64 channels in 4 heads give keys of 16.

    ``part``: the quotient in the original model. ``scales``: factors by which other entries have scaled it.
    """
    return {part * scale / Fraction(part * scale + missing) for scale in scales if part * scale + missing > 0}


class _Sizes:
    """Values that the search compares: sizes of all parameter dimensions, and attributes that must stay."""

    def __init__(self, probe: Probe, attributes: Mapping[Attribute, int]) -> None:
        self.probe, self.attributes = probe, attributes
        self.kept: Shapes = {f"{path}::{name}": (size,) for (path, name), size in attributes.items()}
        self.base: Shapes = {**probe.base, **self.kept}
        self.moves = [replace(move, slopes=self._slopes(move)) for move in probe.moves]

    def _slopes(self, move: Move) -> dict[Dim, int]:
        more = {
            (f"{path}::{name}", 0): move.attributes[path, name] - size
            for (path, name), size in self.attributes.items()
            if (path, name) in move.attributes
        }
        return {**move.slopes, **more}

    def under(self, entries: Entries) -> Shapes | None:
        """Sizes under changed entries."""
        built = self.probe.try_entries(entries)
        if built is None:
            return None
        now = {f"{p}::{n}": (built.attributes.get((p, n), size),) for (p, n), size in self.attributes.items()}
        return {**built.shapes, **now}

    def expected(self, entries: Entries) -> Shapes | None:
        """Sizes under changed entries as the slopes of single entries give them; ``None`` if they do not."""
        sizes = {name: list(shape) for name, shape in self.base.items()}
        by_entry = {move.up[0]: move for move in self.moves if len(move.up) == 1 and not move.down}
        for path, value in entries.items():
            before = self.probe.values[path]
            if value == before:
                continue
            if path not in by_entry:
                return None
            for (name, dim), slope in by_entry[path].slopes.items():
                size, old = sizes[name][dim], self.base[name][dim]
                if slope == old:  # the entry is a factor of this size
                    new, rest = divmod(size * value, before)
                elif slope == -old // 2:  # its inverse is
                    new, rest = divmod(size * before, value)
                else:  # the entry is a part of it
                    new, rest = divmod(size * before + slope * (value - before), before)
                if rest or new < 1:
                    return None
                sizes[name][dim] = new
        return {name: tuple(shape) for name, shape in sizes.items()}


def find_entries(probe: Probe, wanted: Shapes) -> Solution:
    """Entries that give ``wanted``; each change is verified by building a skeleton.

    If fewer heads and smaller heads give the same shapes, the factors that must stay decide.
    """
    solution = _search(_Sizes(probe, {}), wanted)
    if not solution.wrong and (disturbed := probe.factors_disturbed(solution.entries)):
        other = _search(_Sizes(probe, disturbed), wanted)
        # An attribute may hold the number by chance; then there is no other way.
        return solution if other.wrong else other
    return solution


def _search(sizes: _Sizes, wanted: Shapes) -> Solution:
    """Descent with retries: a move that breaks what no other move corrects is banned, and the search restarts.

    First comes a descent that builds nothing: one build then shows whether the slopes led to the wanted sizes.
    """
    goal = {**wanted, **sizes.kept}
    expected, _ = _descend(sizes, goal, set(), sizes.expected)
    if not expected.wrong and (now := sizes.under(expected.entries)) is not None and not differing(now, goal):
        return Solution(_keep_ratios(sizes.probe, expected.entries), ())
    best: Solution | None = None
    banned: set[int] = set()
    for _ in range(_PATHS):
        solution, taken = _descend(sizes, goal, banned, sizes.under)
        if best is None or len(solution.wrong) < len(best.wrong):
            best = solution
        guilty = {n for n in taken if not set(solution.wrong).isdisjoint(sizes.moves[n].slopes)}
        if not solution.wrong or not guilty:
            break
        banned |= guilty
    assert best is not None
    return best if best.wrong else Solution(_keep_ratios(sizes.probe, best.entries), ())


@dataclass(frozen=True)
class _Step:
    """A state of the search: entries, their sizes, the wrong dimensions, and the move that led there."""

    entries: Entries
    now: Shapes
    wrong: list[Dim]
    move: int = -1


def _descend(
    sizes: _Sizes, wanted: Shapes, banned: set[int], under: Callable[[Entries], Shapes | None]
) -> tuple[Solution, set[int]]:
    """Greedy descent: each move leaves fewer wrong dimensions, so it terminates. Also returns the moves taken.

    Moves that correct dimensions without breaking others go first: fewer heads rather than smaller heads, which would
    change the softmax scale. Moves that change a factor which must stay are excluded. A dimension that one move breaks,
    another may correct, e.g. an expansion factor of the hidden size. If no single move helps, pairs are tried.
    ``under`` gives the sizes under changed entries.
    """
    entries: Entries = dict(sizes.probe.pins)
    now = under(entries)
    assert now is not None
    step = _Step(entries, now, differing(now, wanted))
    taken: set[int] = set()
    while step.wrong:
        tried: list[_Step] = []
        path: list[_Step] | None = None
        for one in _steps(sizes, step, wanted, banned, under):  # each is built, so no more than needed
            tried.append(one)
            if len(one.wrong) < len(step.wrong):
                path = [one]
                break
        if path is None and sizes.kept:
            pairs = ((one, two) for one in tried for two in _steps(sizes, one, wanted, banned | {one.move}, under))
            path = next(([one, two] for one, two in pairs if len(two.wrong) < len(step.wrong)), None)
        if path is None:
            break
        step = path[-1]
        taken.update(one.move for one in path)
    return Solution(step.entries, tuple(step.wrong)), taken


def _steps(
    sizes: _Sizes, step: _Step, wanted: Shapes, banned: set[int], under: Callable[[Entries], Shapes | None]
) -> Iterator[_Step]:
    """States that one more move leads to. First come moves that change wrong dimensions alone, then those that correct
    most.
    """
    probe, bad = sizes.probe, set(step.wrong)
    values = {**probe.values, **step.entries}
    shapes, scales = (sizes.base, step.now, wanted), _scales(sizes.base, step.now)
    options = [
        (move.constants or not bad.issuperset(move.slopes), -votes, number, change)
        for number, move in enumerate(sizes.moves)
        if number not in banned and not probe.changes_fixed_factor(move)
        for votes, change in _proposals(move, values, shapes, scales)
    ]
    for *_, number, change in sorted(options, key=lambda option: option[:3]):
        entries = {**step.entries, **change}
        if (now := under(entries)) is not None:
            yield _Step(entries, now, differing(now, wanted), number)


def _keep_ratios(probe: Probe, entries: Entries) -> Entries:
    """Change silent entries as well, where that keeps an attribute of the modules as it was.

    Example: latent attention has a number of key heads that no shape shows; it must go down with the query heads.
    """
    factors = {Fraction(v, probe.values[p]) for p, v in entries.items() if v != probe.values[p]}
    for move in probe.silent_moves:
        built = probe.try_entries(entries)
        disturbed = set() if built is None else set(move.attributes) & set(built.attributes)
        if not disturbed:
            continue
        for factor in sorted(factors):
            change = move.scaled(probe.values, factor.numerator, factor.denominator)
            trial = None if change is None else probe.try_entries({**entries, **change})
            if change is None or trial is None or trial.shapes != built.shapes:  # type: ignore[union-attr]
                continue
            if disturbed.isdisjoint(trial.attributes):
                entries = {**entries, **change}
                break
    return entries


def without_needless(probe: Probe, entries: Entries, wanted: Shapes) -> Entries:
    """``entries`` without those that keep their old value, and without pins that the wanted shapes do not depend on."""
    needed = {p: v for p, v in entries.items() if p in probe.pins or v != probe.values[p]}
    for path in probe.pins:
        trial = {p: v for p, v in needed.items() if p != path}
        if needed.get(path) == probe.pins[path] and probe.shapes(trial) == wanted:
            needed = trial
    return needed
