"""What a denoiser is to the rest of schedlab.

A denoiser maps a noisy sequence to features, and features at picked positions to logits. The split
lets the LM head, which is the larger part of a step at large vocabularies, run only where it is
read.

Legend: B sequences, L positions, A of them computed, D features, F kept of a position, N picked
positions, V vocabulary (mask included).
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Literal, Protocol, cast, runtime_checkable

from torch import Tensor

from schedlab.errors import InputError


@dataclass(frozen=True)
class DenoiserSpec:
    """What a denoiser predicts, takes and costs.

    Args:
        vocab_size: V, columns of the logits, mask token included.
        mask_id: id of the mask token; None where the process has none.
        num_blocks: transformer blocks (0 for tables).
        hidden_size: width D.
        max_length: longest sequence it was made for.
        prediction: `posterior` is p(x_i | z_t), `leave_one_out` is p(x_i | z_t without position
        i).
        time_input: whether it reads the noise level, per sequence or per token.
        block_weights: numbers in the matrices that one block multiplies every position by; None
        is 12 D^2, as of a plain transformer.
        process: the noising process that it was trained on.
        noise_schedule: how the noise level it reads, or was trained on, follows from t.
        simplex_value: K of the simplex process that it was trained on.
    """

    vocab_size: int
    mask_id: int | None
    num_blocks: int
    hidden_size: int
    max_length: int
    prediction: Literal["posterior", "leave_one_out"] = "posterior"
    time_input: Literal["none", "sequence", "token"] = "none"
    block_weights: int | None = None
    process: Literal["masked", "uniform", "simplex"] = "masked"
    noise_schedule: str = "linear"
    simplex_value: float = 5.0


@runtime_checkable
class Denoiser(Protocol):
    """A network (or table) from (z_t, t) to logits of x."""

    @property
    def spec(self) -> DenoiserSpec:
        """Sizes and conventions."""
        ...

    @property
    def fingerprint(self) -> str:
        """Hex digest of everything that determines the output."""
        ...

    def features(self, z_BL: Tensor, t_B: Tensor | None = None) -> Tensor:
        """Features of every position, shape (B, L, D), of int64 tokens; t in [0, 1], 1 is
        noise."""
        ...

    def logits(self, features_ND: Tensor) -> Tensor:
        """Logits at picked positions, shape (N, V)."""
        ...


class SimplexDenoiser(Protocol):
    """A network from (X_t, t) to logits of x."""

    @property
    def spec(self) -> DenoiserSpec:
        """Sizes and conventions."""
        ...

    def features(
        self,
        X_BLV: Tensor,
        t_B: Tensor | None = None,
        *,
        given_BL: Tensor | None = None,
        generated_BL: Tensor | None = None,
        previous_BLV: Tensor | None = None,
    ) -> Tensor:
        """Features of every position, (B, L, D).

        Args:
            X_BLV: simplex values, about K times +-1.
            t_B: noise level in [0, 1], or (B, L) one for every token.
            given_BL, generated_BL: tokens, and where they are not given but generated (all where
                left out); given ones get clean embeddings and no time.
            previous_BLV: logits of the step before, for self-conditioning; zeros at the first.
        """
        ...

    def logits(self, features_ND: Tensor) -> Tensor:
        """Logits at picked positions, shape (N, V)."""
        ...


class PartwiseDenoiser(Protocol):
    """A denoiser that can also leave what only the positions in play need until they are known.

    Sampling reads a few positions of a sequence at a time, so the last block's MLP, say, need not
    run at the others.
    """

    def trunk(self, z_BL: Tensor, t_B: Tensor | None = None) -> Tensor:
        """What `logits_at` reads of whole sequences, shape (B, L, F); F is the denoiser's own."""
        ...

    def logits_at(self, trunk_BLF: Tensor, row_N: Tensor, position_N: Tensor) -> Tensor:
        """Logits at (row, position), shape (N, V): those of `features` and `logits` up to
        rounding."""
        ...


class PaddedDenoiser(Protocol):
    """A denoiser whose trunk takes rows of unequal length, filled up in front."""

    def trunk(
        self, z_BL: Tensor, t_B: Tensor | None = None, *, padding_BL: Tensor | None = None
    ) -> Tensor:
        """What `logits_at` reads, (B, L, F); nobody reads positions of `padding_BL`, bool."""
        ...


@runtime_checkable
class ShadowDenoiser(Protocol):
    """A denoiser that also predicts tokens that stand, as if they did not: by shadows, mask tokens
    behind the sequence at positions of it (`schedlab.denoisers.shadows`)."""

    def features_with_shadows(
        self, z_BL: Tensor, place_BK: Tensor, t_B: Tensor | None = None
    ) -> Tensor:
        """Features of sequences, as from `features`, and of shadows, shape (B, L + K, D).

        Args:
            z_BL, t_B: as for `features`.
            place_BK: positions that the shadows are of, int64; -1 where a sequence has fewer.
        """
        ...


@dataclass(frozen=True)
class Whole:
    """Features as trunk."""

    denoiser: Denoiser

    def trunk(self, z_BL: Tensor, t_B: Tensor | None = None) -> Tensor:
        """(B, L, D) features."""
        return self.denoiser.features(z_BL, t_B)

    def logits_at(self, trunk_BLF: Tensor, row_N: Tensor, position_N: Tensor) -> Tensor:
        """(N, V) logits of features at (row, position)."""
        return self.denoiser.logits(trunk_BLF[row_N, position_N])


def partwise(denoiser: Denoiser) -> PartwiseDenoiser:
    """The denoiser itself where it has `trunk` and `logits_at`, else one whose trunk is the
    features."""
    found: object = denoiser
    if hasattr(found, "trunk") and hasattr(found, "logits_at"):
        return cast(PartwiseDenoiser, found)
    return Whole(denoiser)


def shadowing(denoiser: Denoiser) -> ShadowDenoiser:
    """The denoiser itself where it takes shadows.

    Raises:
        InputError: it takes none.
    """
    if not isinstance(denoiser, ShadowDenoiser):
        raise InputError(
            f"denoiser {type(denoiser).__name__} has no features_with_shadows, which the policy"
            " needs; give it one, leave lab.compile out, or choose another policy"
        )
    return denoiser


def takes_padding(denoiser: Denoiser) -> bool:
    """Whether its trunk takes `padding_BL`."""
    trunk = getattr(denoiser, "trunk", None)
    return trunk is not None and "padding_BL" in inspect.signature(trunk).parameters


def padded(denoiser: Denoiser) -> PaddedDenoiser:
    """The denoiser itself where its trunk takes `padding_BL`.

    Raises:
        InputError: it takes none.
    """
    if not takes_padding(denoiser):
        raise InputError(
            f"denoiser {type(denoiser).__name__} takes no rows that are filled up (no padding_BL);"
            " give prompts of one length"
        )
    return cast(PaddedDenoiser, denoiser)


@runtime_checkable
class SoftDenoiser(Protocol):
    """A denoiser that also reads mixtures of embeddings, and shows its hidden layers."""

    @property
    def token_embeddings(self) -> Tensor:
        """(V, D)."""
        ...

    def block_outputs(self, x_BLD: Tensor, t_B: Tensor | None = None) -> list[Tensor]:
        """What every block gives for inputs in place of `token_embeddings`, (B, L, D) each."""
        ...

    def output_features(self, x_BLD: Tensor, t_B: Tensor | None = None) -> Tensor:
        """Features of what the last block gave, (B, L, D), as `logits` reads them."""
        ...


class KeepingDenoiser(Protocol):
    """A denoiser that can compute some positions with what it keeps of the others: their keys and
    values, and what else its own attention and MLPs read of them."""

    @property
    def kept_width(self) -> int:
        """F, numbers kept of a position."""
        ...

    @property
    def reads_before(self) -> bool:
        """Whether logits at a position come of what is kept of the one before (Dream)."""
        ...

    def refresh(self, kept_BLF: Tensor | None, z_BA: Tensor, position_BA: Tensor) -> Tensor:
        """What is kept of the positions computed, (B, A, F): of all, in order and with nothing
        kept yet, it is that of an ordinary forward. Positions int64, none twice but L, which is a
        filler: read by nobody."""
        ...

    def kept_logits(self, kept_BLF: Tensor, row_N: Tensor, position_N: Tensor) -> Tensor:
        """Logits at (row, position) of what is kept, shape (N, V)."""
        ...


def keeping(denoiser: Denoiser, role: str) -> KeepingDenoiser:
    """The denoiser itself where it can keep what it computed.

    Raises:
        InputError: it cannot.
    """
    found: object = denoiser
    if hasattr(found, "refresh") and hasattr(found, "kept_logits"):
        return cast(KeepingDenoiser, found)
    raise InputError(
        f"denoiser {role!r} always computes whole sequences, so nothing can be cached or locked;"
        " choose another policy, cache = 'none', or a transformer without a noise level as input"
    )


def features_at(denoiser: Denoiser, z_BL: Tensor, t_B: Tensor | None) -> Tensor:
    """Features, with the noise level given only to denoisers that read it, (B, L, D)."""
    return denoiser.features(z_BL, None if denoiser.spec.time_input == "none" else t_B)
