"""Stability of a run: how much tokens fluctuate from step to step, and whether what guidance
changed lives on.

All is measured between a step k and the next one, over generated positions only:

- Fluctuation, reading `outputs`: share of positions where the likeliest tokens of steps k and
  k + 1, both before guidance, differ.
- Fluctuation, reading `input`: the same between what step k + 1 saw, that is the tokens of step k
  after noise, and its likeliest tokens before guidance: R = dist(x_{k+1}, x^in_{k+1}) [2]. In a
  simplex the largest values are what a step saw; in a masked process all masks differ.
- Update-forgetting, of guided steps k: share of positions where the likeliest token after the
  guidance of step k differs from that of step k + 1 before guidance, F = dist(x^guided_k, x_{k+1})
  [2]. It counts positions that guidance left alone too: compare it with `outputs`.
- Key tokens of a guided step: the five generated positions with the largest gradient norm of the
  guides, from the last iteration, of those that have a prediction (of revealed ones of the masked
  process only where there are fewer); of them those that changed as in F.
- Drop of confidence, of guided steps k that a guided step follows: p(label) before the last
  iteration of step k minus p(label) before the first one of step k + 1. What the last iteration
  itself gained is not known to either, so the drop is that of an iteration less; with a single
  iteration it is the difference between two predictions before guidance [O]. It is averaged over
  attributes, and given for pairs of steps with at least three changed key tokens and for others.
  The two differ in when they happen, too: most key tokens change early.

Every distance also exists as 1 - BLEU / 100 of the token ids as words.

Legend: B sequences of a batch, S of all batches, L positions, G generated positions, T steps, P
pairs of consecutive steps (T - 1), K key tokens, A attributes, E examples.

Reference: TTA (2510.26200); the formulas are second-hand.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from schedlab.errors import InputError
from schedlab.metrics.samples import FloatArray, IntArray
from schedlab.metrics.stability_summary import MANY_CHANGED, Resampling, StabilitySummary
from schedlab.metrics.step_distances import (
    KEY_TOKENS,
    bleu_distance,
    changed_keys,
    confidence_drop,
    hamming_distance,
    key_positions,
)
from schedlab.results.bootstrap import DEFAULT_RESAMPLES, Intervals, bootstrap_mean

if TYPE_CHECKING:
    from torch import Tensor

    from schedlab.sampling.dense import DenseStep

DISTANCES = ("outputs", "input", "forgetting")
BLEU_SUFFIX = "_bleu"
KEY_CHANGE = "key_change"
DROP = "drop"


@dataclass(frozen=True)
class Curve:
    """A measure by step.

    Args:
        step_P: number k of the first step of every pair that has the measure, int64.
        intervals: means over sequences, (P,).
    """

    step_P: IntArray
    intervals: Intervals


@dataclass(frozen=True)
class Examples:
    """The first few sequences at every step, given positions included.

    Args:
        output_ETL, guided_ETL, drawn_ETL: tokens as in `DenseStep`, int64.
        key_ETK: places of the key tokens among all positions, -1 at steps without guidance.
        levels_ETL: t_i, float64.
    """

    output_ETL: IntArray
    guided_ETL: IntArray
    drawn_ETL: IntArray
    key_ETK: IntArray
    levels_ETL: FloatArray


@dataclass
class StabilityTrace:
    """Watches runs of one plan, as the `trace` of `sample_dense`, batch after batch.

    Args:
        given: positions at the beginning that are given; they never count.
        bleu: measure distances by BLEU too, about 0.5 ms a sequence and step at 64 positions.
        sequences: how many there are in all; what comes after them fills up the last batch.
        examples: how many of the first sequences are kept step by step.
    """

    given: int = 0
    bleu: bool = False
    sequences: int | None = None
    examples: int = 4
    _batches: list[_Batch] = field(default_factory=list, init=False, repr=False)

    def __call__(self, step: DenseStep) -> None:
        """Take a step; step 0 begins a batch.

        Raises:
            InputError: steps out of order, or no position that is generated.
        """
        if not 0 <= self.given < step.output_BL.shape[1]:
            raise InputError(
                f"given must leave a position to generate, got {self.given} of"
                f" {step.output_BL.shape[1]}"
            )
        expected = self._batches[-1].num_steps if self._batches else 0
        if step.step not in (0, expected):
            raise InputError(f"steps must come in order, got {step.step} instead of {expected}")
        if step.step == 0:
            rows = len(step.output_BL)
            seen = sum(batch.rows for batch in self._batches)
            if self.sequences is not None:
                rows = min(rows, self.sequences - seen)
            shown = min(rows, max(0, self.examples - seen))
            self._batches.append(_Batch(self.given, self.bleu, rows, shown))
        self._batches[-1].add(step)

    @property
    def num_steps(self) -> int:
        """T."""
        return self._finished()[0].num_steps

    def measures(self) -> dict[str, FloatArray]:
        """What was measured, float64 (S, P) each, NaN at pairs of steps that lack it.

        `outputs`, `input` and `forgetting` are distances, with the suffix `_bleu` those by BLEU;
        `key_change` is the share of key tokens that changed, `drop` that of confidence.

        Raises:
            InputError: nothing was watched, or batches that are not whole runs of one plan.
        """
        tables = [batch.table() for batch in self._finished()]
        found = {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
        for name, values_SP in found.items():
            lacks_SP = np.isnan(values_SP)
            if (lacks_SP != lacks_SP[:1]).any():
                raise InputError(f"{name}: batches were guided at different steps; watch one plan")
        return found

    def many_changed(self) -> NDArray[np.bool_]:
        """Whether at least `MANY_CHANGED` key tokens changed, (S, P); false without guidance."""
        return np.concatenate([batch.many_changed() for batch in self._finished()])

    def mean_levels(self) -> FloatArray:
        """Mean t_i over the sequences that have a prediction there, or over all where none has,
        float64 (T, L), NaN at given positions."""
        parts = [np.stack(batch.levels) for batch in self._finished()]
        found_T4L = np.sum(parts, axis=0)
        open_TL, number_TL, all_TL, every_TL = np.moveaxis(found_T4L, 1, 0)
        some_TL = number_TL > 0
        mean_TL = np.where(some_TL, open_TL, all_TL) / np.where(some_TL, number_TL, every_TL)
        mean_TL[:, : self.given] = np.nan
        return np.asarray(mean_TL)

    def kept_examples(self) -> Examples:
        """The first few sequences."""
        parts = [batch.shown() for batch in self._finished()]
        return Examples(**{name: np.concatenate([part[name] for part in parts])
                           for name in parts[0]})  # fmt: skip

    def curves(self, *, resamples: int = DEFAULT_RESAMPLES, seed: int = 0) -> dict[str, Curve]:
        """Every measure by step, without those that no pair of steps has.

        Raises:
            InputError: see `measures`; fewer than two sequences.
        """
        curves = {}
        for name, values_SP in self.measures().items():
            step_P = np.flatnonzero(~np.isnan(values_SP[0]))
            if len(step_P):
                found = bootstrap_mean(values_SP[:, step_P], resamples=resamples, seed=seed)
                curves[name] = Curve(step_P, found)
        return curves

    def summary(self, *, resamples: int = DEFAULT_RESAMPLES, seed: int = 0) -> StabilitySummary:
        """All figures.

        Args:
            resamples, seed: as in `bootstrap_mean`.

        Raises:
            InputError: see `measures`; fewer than two steps or two sequences.
        """
        measures = self.measures()
        num_sequences, num_pairs = measures["outputs"].shape
        if num_pairs == 0:
            raise InputError("stability needs at least 2 steps, got 1")
        of = Resampling(resamples, seed)
        many_SP, drop_SP = self.many_changed(), measures[DROP]
        optional = {
            name: of.mean_if_any(measures.get(name))
            for name in ("forgetting", KEY_CHANGE, *(f"{name}{BLEU_SUFFIX}" for name in DISTANCES))
        }
        return StabilitySummary(
            num_sequences=num_sequences,
            num_steps=num_pairs + 1,
            outputs=of.mean(measures["outputs"]),
            input=of.mean(measures["input"]),
            changed=of.drop(drop_SP, many_SP),
            others=of.drop(drop_SP, ~many_SP),
            difference=of.difference(drop_SP, many_SP),
            **optional,
        )

    def _finished(self) -> list[_Batch]:
        batches = [batch for batch in self._batches if batch.rows > 0]
        if not batches:
            raise InputError("no sequence was watched; pass the trace to a run")
        shapes = {(batch.num_steps, batch.length) for batch in batches}
        if len(shapes) > 1:
            raise InputError(
                "batches must be whole runs of one plan, got (steps, positions)"
                f" {', '.join(map(str, sorted(shapes)))}"
            )
        return batches


@dataclass
class _Batch:
    """What is kept of a batch; of whole steps the last one alone."""

    given: int
    bleu: bool
    rows: int
    examples: int
    num_steps: int = 0
    length: int = 0
    last: _Seen | None = None
    pairs: list[dict[str, FloatArray]] = field(default_factory=list)
    counts: list[IntArray] = field(default_factory=list)
    levels: list[FloatArray] = field(default_factory=list)
    kept: list[dict[str, NDArray]] = field(default_factory=list)

    def add(self, step: DenseStep) -> None:
        """The next step."""
        rows = slice(0, self.rows)
        self.num_steps += 1
        self.length = step.output_BL.shape[1]
        if self.rows == 0:
            return
        seen = _Seen.of(step, rows, self.given)
        if self.last is not None:
            self.pairs.append(self._pair(self.last, seen))
        self.last = seen
        open_BL = _array(step.open_BL[rows])
        levels_BL = _array(step.levels_BL[rows]).astype(np.float64)
        everywhere_BL = np.ones_like(levels_BL)
        sums = (levels_BL * open_BL, open_BL, levels_BL, everywhere_BL)
        self.levels.append(np.stack([values_BL.sum(axis=0) for values_BL in sums]))
        self.kept.append(self._example(step, seen))

    def _pair(self, one: _Seen, other: _Seen) -> dict[str, FloatArray]:
        """Measures of a pair of steps, (B,) each."""
        nothing_B = np.full(self.rows, np.nan)
        compared = {
            "outputs": (other.output_BG, one.output_BG),
            "input": (other.output_BG, other.input_BG),
            "forgetting": (other.output_BG, one.guided_BG),
        }
        found = {name: hamming_distance(*pair) for name, pair in compared.items()}
        if self.bleu:
            found |= {f"{name}{BLEU_SUFFIX}": bleu_distance(*pair)
                      for name, pair in compared.items()}  # fmt: skip
        found[KEY_CHANGE] = found[DROP] = nothing_B
        if one.pull is None:
            found |= {name: nothing_B for name in found if name.startswith("forgetting")}
            self.counts.append(np.zeros(self.rows, dtype=np.int64))
            return found
        count_B = changed_keys(one.pull.key_BK, one.guided_BG, other.output_BG)
        self.counts.append(count_B)
        found[KEY_CHANGE] = count_B / one.pull.key_BK.shape[1]
        if other.pull is not None:
            found[DROP] = confidence_drop(one.pull.log_p_AB, other.pull.before_AB)
        return found

    def _example(self, step: DenseStep, seen: _Seen) -> dict[str, NDArray]:
        """Of the first rows, (E, L) and (E, K) each."""
        rows = slice(0, self.examples)
        key_BK = np.full((self.rows, min(KEY_TOKENS, self.length - self.given)), -1)
        if seen.pull is not None:
            key_BK = seen.pull.key_BK + self.given
        tokens = {"output_ETL": step.output_BL, "guided_ETL": step.guided_BL,
                  "drawn_ETL": step.drawn_BL}  # fmt: skip
        kept = {name: _array(found_BL[rows]).astype(np.int64) for name, found_BL in tokens.items()}
        levels_EL = _array(step.levels_BL[rows]).astype(np.float64)
        return kept | {"key_ETK": key_BK[rows].copy(), "levels_ETL": levels_EL}

    def table(self) -> dict[str, FloatArray]:
        """Measures by name, (B, P) each."""
        if not self.pairs:
            return {name: np.empty((self.rows, 0)) for name in self._names()}
        return {name: np.stack([pair[name] for pair in self.pairs], axis=1)
                for name in self.pairs[0]}  # fmt: skip

    def _names(self) -> Iterator[str]:
        yield from DISTANCES
        yield from (f"{name}{BLEU_SUFFIX}" for name in DISTANCES if self.bleu)
        yield from (KEY_CHANGE, DROP)

    def many_changed(self) -> NDArray[np.bool_]:
        """(B, P)."""
        count_PB = np.array(self.counts, dtype=np.int64).reshape(self.num_steps - 1, self.rows)
        return count_PB.T >= MANY_CHANGED

    def shown(self) -> dict[str, NDArray]:
        """Examples by name, (E, T, ...) each."""
        return {name: np.stack([kept[name] for kept in self.kept], axis=1)
                for name in self.kept[0]}  # fmt: skip


@dataclass(frozen=True)
class _Pulled:
    """What is kept of a guided step."""

    key_BK: IntArray
    before_AB: FloatArray
    log_p_AB: FloatArray


@dataclass(frozen=True)
class _Seen:
    """What the next step is compared with: generated positions alone."""

    input_BG: IntArray
    output_BG: IntArray
    guided_BG: IntArray
    pull: _Pulled | None

    @classmethod
    def of(cls, step: DenseStep, rows: slice, given: int) -> _Seen:
        """Of the first rows of a step."""

        def generated(found_BL: Tensor) -> NDArray:
            return _array(found_BL[rows, given:])

        pull = None
        if step.pull is not None:
            norm_BG = np.where(generated(step.open_BL), generated(step.pull.norm_BL), -1.0)
            pull = _Pulled(
                key_positions(norm_BG),
                _array(step.pull.before_AB[:, rows]),
                _array(step.pull.log_p_AB[:, rows]),
            )
        return cls(
            generated(step.input_BL), generated(step.output_BL), generated(step.guided_BL), pull
        )


def _array(found: Tensor) -> NDArray:
    return np.asarray(found.cpu().numpy())
