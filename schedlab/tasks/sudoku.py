"""Sudoku of 6 x 6 cells in boxes of 2 x 3: short, exact to score, and order matters.

A prompt is the puzzle row by row, 36 signs with a point for every empty cell, and `=`; the answer
is the 36 digits of the grid. Every puzzle has one solution, and no clue could be left out but
those that are added to make it easier. Cells depend on each other in no fixed order: who commits
a guess early spoils the rest, who waits for what is certain does not.

Puzzle number j of a split follows from (split, j) alone.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

from schedlab.tasks.task import Item, Task

SIZE, BOX_ROWS, BOX_COLUMNS = 6, 2, 3
CELLS = SIZE * SIZE
MOST_EXTRA_CLUES = 4
ALPHABET = ".123456="

_ALL = (1 << SIZE) - 1
_BITS = tuple(1 << digit for digit in range(SIZE))


def _peers_of(cell: int) -> tuple[int, ...]:
    row, column = divmod(cell, SIZE)
    top, left = row - row % BOX_ROWS, column - column % BOX_COLUMNS
    found = {row * SIZE + k for k in range(SIZE)} | {k * SIZE + column for k in range(SIZE)}
    found |= {(top + i) * SIZE + left + j for i in range(BOX_ROWS) for j in range(BOX_COLUMNS)}
    return tuple(sorted(found - {cell}))


_PEERS = tuple(map(_peers_of, range(CELLS)))


class _Board:
    """Candidates of every cell as bits, and which cells are set."""

    def __init__(self, candidates: list[int], is_set: list[bool]) -> None:
        self.candidates, self.is_set = candidates, is_set

    @classmethod
    def of(cls, clues: dict[int, int]) -> _Board | None:
        """The board of clues (cell to bit) and what follows from them; None if they clash."""
        board = cls([_ALL] * CELLS, [False] * CELLS)
        return board if all(board.put(cell, bit) for cell, bit in clues.items()) else None

    def put(self, cell: int, bit: int) -> bool:
        """Set a cell, and every cell that has one candidate left; False on a contradiction."""
        waiting = [(cell, bit)]
        while waiting:
            cell, bit = waiting.pop()
            if not self.candidates[cell] & bit:
                return False
            if self.is_set[cell]:
                continue
            self.candidates[cell], self.is_set[cell] = bit, True
            for peer in _PEERS[cell]:
                if self.candidates[peer] & bit:
                    left = self.candidates[peer] & ~bit
                    if not left:
                        return False
                    self.candidates[peer] = left
                    if left & (left - 1) == 0 and not self.is_set[peer]:
                        waiting.append((peer, left))
        return True

    def solutions(self, rng: random.Random | None = None) -> Iterator[list[int]]:
        """All completions, the cell with the fewest candidates first, in random order if asked."""
        open_cells = [cell for cell in range(CELLS) if not self.is_set[cell]]
        if not open_cells:
            yield self.candidates
            return
        cell = min(open_cells, key=lambda c: self.candidates[c].bit_count())
        bits = [bit for bit in _BITS if self.candidates[cell] & bit]
        if rng is not None:
            rng.shuffle(bits)
        for bit in bits:
            branch = _Board(self.candidates.copy(), self.is_set.copy())
            if branch.put(cell, bit):
                yield from branch.solutions(rng)


def count_solutions(puzzle: str, limit: int = 2) -> int:
    """Number of completions of a puzzle of 36 signs, counted up to `limit`."""
    clues = {c: _BITS[int(sign) - 1] for c, sign in enumerate(puzzle) if sign != "."}
    board = _Board.of(clues)
    return 0 if board is None else sum(1 for _ in itertools.islice(board.solutions(), limit))


def item(split: str, number: int) -> Item:
    """Puzzle `number` of a split."""
    rng = random.Random(f"schedlab sudoku {split} {number}")  # a string: the same everywhere
    empty = _Board.of({})
    assert empty is not None, "nothing clashes"
    grid = next(empty.solutions(rng))
    clues = dict(enumerate(grid))
    for cell in rng.sample(range(CELLS), CELLS):
        bit = clues.pop(cell)
        board = _Board.of(clues)
        assert board is not None, "a part of a grid"
        if len(list(itertools.islice(board.solutions(), 2))) > 1:
            clues[cell] = bit
    hidden = [cell for cell in range(CELLS) if cell not in clues]
    for cell in rng.sample(hidden, rng.randint(0, MOST_EXTRA_CLUES)):
        clues[cell] = grid[cell]
    puzzle = "".join(str(clues[c].bit_length()) if c in clues else "." for c in range(CELLS))
    return Item(puzzle + "=", "".join(str(bit.bit_length()) for bit in grid))


def task(num: int, split: str = "test") -> Task:
    """The first `num` puzzles of a split."""
    return Task("sudoku", tuple(item(split, number) for number in range(num)))
