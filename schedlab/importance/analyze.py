"""The whole analysis: curves, additive bounds and error propagation, without and with a prefix.

Everything is measured at temperature 1 and top-p 1, whatever a plan samples with: with truncation
path KL would be infinite.

Legend: S sequences, L positions, P prefix positions.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from schedlab.denoisers.base import Denoiser
from schedlab.errors import InputError
from schedlab.importance.estimates import Estimator
from schedlab.importance.forward_states import forward_sums
from schedlab.importance.heavy_states import heavy_sampler_sums
from schedlab.importance.levels import NoiseLevels
from schedlab.importance.panel import Panel
from schedlab.importance.propagation import swap_sums
from schedlab.importance.readings import reading_of
from schedlab.importance.sums import SequenceSums
from schedlab.plan.importance_config import ImportanceConfig
from schedlab.processes import MaskedProcess, Process
from schedlab.results import Estimate, SeedBlock
from schedlab.results.importance_file import (
    ARRAYS_NAME,
    JSON_NAME,
    Curve,
    ImportanceFile,
    ImportanceSetting,
    Propagation,
    Significance,
    States,
    StepScores,
    write_arrays,
)
from schedlab.sampling import SequenceIds

Progress = Callable[[str, int, int], None]
"""Called with (what is being measured, done, in all)."""


class Laboratory(Protocol):
    """What an analysis needs of a lab."""

    @property
    def denoisers(self) -> Mapping[str, Denoiser]:
        """By role."""
        ...

    @property
    def process(self) -> Process:
        """The common process."""
        ...

    @property
    def precision(self) -> str:
        """Of the networks."""
        ...

    @property
    def device(self) -> torch.device | str:
        """Where the networks are."""
        ...


class HeldOutText(Protocol):
    """Equally long pieces of held-out text."""

    @property
    def tokens_SL(self) -> np.ndarray:
        """Token ids, int64 (S, L)."""
        ...


@dataclass(frozen=True)
class ImportanceResult:
    """What an analysis found: the file, and the per-sequence arrays that it was estimated from."""

    file: ImportanceFile
    arrays: dict[str, np.ndarray]

    def write(self, folder: str | os.PathLike[str]) -> None:
        """Write `importance.npz` and then `importance.json` into a run folder, atomically."""
        write_arrays(Path(folder) / ARRAYS_NAME, self.arrays)
        self.file.write(Path(folder) / JSON_NAME)


def analyze(
    lab: Laboratory,
    windows: HeldOutText,
    config: ImportanceConfig,
    progress: Progress | None = None,
    *,
    corpus_fingerprint: str = "",
) -> ImportanceResult:
    """Measure which steps need the heavy denoiser.

    Args:
        lab: the denoisers, by role, and their process.
        windows: held-out text, S >= 2 windows; those with a prefix take it from here too.
        config: what to measure.
        progress: called as the work goes on.
        corpus_fingerprint: of the text that the windows come from, for the record.

    Raises:
        InputError: a role without denoiser, or text, prefix and denoisers that do not fit.
    """
    panel = Panel(
        denoisers=lab.denoisers,
        process=reading_of(lab.process).process,
        heavy=config.heavy,
        lights=tuple(config.lights),
        heavy_b=config.heavy_b,
        head_budget_bytes=config.head_budget_bytes,
    )
    x_SL = torch.as_tensor(windows.tokens_SL, dtype=torch.int64, device=lab.device)
    _check_text(x_SL, panel, config)
    passes = [
        _Pass(panel, config, x_SL, length, progress)
        for length in ((0, config.prefix_length) if config.prefix_length else (0,))
    ]
    findings = [one.run() for one in passes]
    return ImportanceResult(
        file=ImportanceFile(
            setting=_setting(panel, config, x_SL, lab.precision, corpus_fingerprint),
            curves=[curve for found in findings for curve in found.curves],
            step_scores=[scores for found in findings for scores in found.step_scores],
            nelbo=findings[0].nelbo,
            nelbo_given_prefix=findings[1].nelbo if len(findings) > 1 else {},
            significance=[test for found in findings for test in found.significance],
            propagation=[swap for found in findings for swap in found.propagation],
        ),
        arrays={name: array for found in findings for name, array in found.arrays.items()},
    )


@dataclass(frozen=True)
class _Findings:
    curves: list[Curve]
    step_scores: list[StepScores]
    nelbo: dict[str, Estimate]
    significance: list[Significance]
    propagation: list[Propagation]
    arrays: dict[str, np.ndarray]


@dataclass(frozen=True)
class _Pass:
    """The analysis with one prefix length."""

    panel: Panel
    config: ImportanceConfig
    x_SL: Tensor
    prefix_length: int
    progress: Progress | None

    def run(self) -> _Findings:
        found = _Findings([], [], {}, [], [], {})
        if "forward" in self.config.states:
            sums = self._forward_sums()
            self._add(found, sums, "forward")
            for role in self.panel.roles:
                found.nelbo[role] = self._estimator.nelbo(sums, role)
            for light in self.panel.lights:
                found.significance.extend(self._estimator.significance(sums, light))
        if "heavy_sampler" in self.config.states:
            self._add(found, self._heavy_sampler_sums(), "heavy_sampler")
        if self.config.propagation_sequences:
            self._add_propagation(found)
        return found

    @property
    def _estimator(self) -> Estimator:
        return Estimator(
            heavy=self.panel.heavy,
            prefix=self.prefix_length > 0,
            resamples=self.config.bootstrap_resamples,
            seed=self.config.seed,
        )

    def _forward_sums(self) -> SequenceSums:
        return forward_sums(
            self.panel,
            self.x_SL,
            self._ids(len(self.x_SL)),
            NoiseLevels(self.config.num_steps, self.config.num_levels),
            prefix_length=self.prefix_length,
            max_batch_tokens=self.config.max_batch_tokens,
            progress=self._stage("held-out text"),
        )

    def _heavy_sampler_sums(self) -> SequenceSums:
        num = self.config.sampled_sequences
        return heavy_sampler_sums(
            self.panel,
            self._ids(num),
            num_steps=self.config.num_steps,
            length=self.x_SL.shape[1],
            prefix_SP=self._prefix(num),
            max_batch_tokens=self.config.max_batch_tokens,
            progress=self._stage("heavy's trajectories"),
        )

    def _add(self, found: _Findings, sums: SequenceSums, states: States) -> None:
        """Curves, step scores and arrays of one kind of states."""
        found.curves.extend(self._estimator.curves(sums, states))
        for light in self.panel.lights:
            found.step_scores.append(self._estimator.step_scores(sums, light, states))
        found.arrays.update(sums.arrays(self._array_name(states)))

    def _add_propagation(self, found: _Findings) -> None:
        num = self.config.propagation_sequences
        swaps = swap_sums(
            self.panel,
            self._ids(num),
            lights=self.config.swapped_lights,
            num_steps=self.config.num_steps,
            num_segments=self.config.propagation_segments,
            length=self.x_SL.shape[1],
            prefix_SP=self._prefix(num),
            max_batch_tokens=self.config.max_batch_tokens,
            progress=self._stage("swapped segments"),
        )
        for light, sums in swaps.items():
            found.propagation.extend(self._estimator.propagation(sums, light))
            name = self._array_name(f"propagation/{light}")
            found.arrays[f"{name}/changed"] = sums.changed_SJ
            found.arrays[f"{name}/own"] = sums.own_SJ
            found.arrays[f"{name}/kl_next"] = sums.kl_next_SJ
            found.arrays[f"{name}/masked"] = sums.masked_SJ

    def _ids(self, num: int) -> SequenceIds:
        return SequenceIds.of([SeedBlock(self.config.seed, 0, num)], device=self.x_SL.device)

    def _prefix(self, num: int) -> Tensor | None:
        return self.x_SL[:num, : self.prefix_length] if self.prefix_length else None

    def _array_name(self, name: str) -> str:
        return f"prefix/{name}" if self.prefix_length else name

    def _stage(self, name: str) -> Callable[[int, int], None] | None:
        progress = self.progress
        if progress is None:
            return None
        stage = f"{name}, {self.prefix_length} tokens given" if self.prefix_length else name
        return lambda done, total: progress(stage, done, total)


def _check_text(x_SL: Tensor, panel: Panel, config: ImportanceConfig) -> None:
    if x_SL.ndim != 2 or len(x_SL) < 2:
        raise InputError(
            f"held-out text must be at least 2 equally long windows, got shape {tuple(x_SL.shape)}"
        )
    length = x_SL.shape[1]
    for role in panel.roles:
        longest = panel.denoisers[role].spec.max_length
        if length > longest:
            raise InputError(
                f"windows of {length} tokens are longer than the {longest} that denoiser {role!r}"
                " was made for; shorten them"
            )
    if config.prefix_length >= length:
        raise InputError(
            f"prefix_length must be below the windows' {length} tokens, got {config.prefix_length}"
        )
    needed = max(
        config.sampled_sequences if "heavy_sampler" in config.states else 0,
        config.propagation_sequences,
    )
    if config.prefix_length and needed > len(x_SL):
        raise InputError(
            f"{needed} trajectories with a prefix need as many windows, got {len(x_SL)}; lower"
            " sampled_sequences and propagation_sequences or give more windows"
        )
    vocab_size, mask_id = panel.process.vocab_size, getattr(panel.process, "mask_id", None)
    masks_BL = torch.zeros_like(x_SL, dtype=torch.bool) if mask_id is None else x_SL == mask_id
    if ((x_SL < 0) | (x_SL >= vocab_size) | masks_BL).any():
        without = "" if mask_id is None else f" without the mask {mask_id}"
        raise InputError(
            f"held-out text must hold tokens of [0, {vocab_size}){without}; check the tokeniser"
        )


def _setting(
    panel: Panel,
    config: ImportanceConfig,
    x_SL: Tensor,
    precision: str,
    corpus_fingerprint: str,
) -> ImportanceSetting:
    sampled = "heavy_sampler" in config.states
    return ImportanceSetting(
        num_sequences=len(x_SL),
        length=x_SL.shape[1],
        prefix_length=config.prefix_length,
        seed=config.seed,
        precision=precision,
        corpus_fingerprint=corpus_fingerprint,
        heavy=panel.heavy,
        heavy_b=panel.heavy_b,
        lights=list(panel.lights),
        levels=config.num_levels,
        bootstrap_resamples=config.bootstrap_resamples,
        states=list(config.states),
        num_steps=config.num_steps,
        sampled_sequences=config.sampled_sequences if sampled else 0,
        propagation_sequences=config.propagation_sequences,
        process="masked" if isinstance(panel.process, MaskedProcess) else "uniform",
        denoisers={role: panel.denoisers[role].fingerprint for role in panel.roles},
    )
