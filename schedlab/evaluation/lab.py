"""The lab: denoisers, process, tokeniser and scorer on a device, checked together once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

from schedlab.denoisers import loading
from schedlab.denoisers.base import Denoiser, DenoiserSpec
from schedlab.denoisers.network import Network
from schedlab.errors import InputError
from schedlab.metrics.samples import Scorer
from schedlab.metrics.scorers import load_scorer
from schedlab.plan.lab_config import LabConfig
from schedlab.processes import MaskedProcess
from schedlab.sampling.compiled import Compiled
from schedlab.text.tokenizer import Tokenizer

SHARED_FIELDS = (
    "process", "vocab_size", "mask_id", "max_length", "noise_schedule", "prediction"
)  # fmt: skip

NO_SCORER = "none"


class Codec(Protocol):
    """What a lab needs of a tokeniser."""

    vocab_size: int
    mask_id: int
    eot_id: int
    fingerprint: str

    def encode(self, text: str) -> list[int]:
        """Token ids of a text."""
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """Text of token ids."""
        ...


@dataclass(frozen=True)
class Lab:
    """Everything that plans are run with.

    Args:
        denoisers: by role; all must share process, vocabulary, mask, longest sequence, noise
            schedule and prediction.
        process: the noising process over their vocabulary.
        tokenizer: between its tokens and text.
        scorer: scores the texts; None where Gen-PPL is not measured.
        precision: dtype of the denoisers, for the record.
        device: where the denoisers are, such as `cpu` or `cuda`.
        compiled: whether they run compiled.

    Raises:
        InputError: parts that do not fit together; the message names the field.
    """

    denoisers: Mapping[str, Denoiser]
    process: MaskedProcess
    tokenizer: Codec
    scorer: Scorer | None
    precision: str = "float32"
    device: str = "cpu"
    compiled: bool = False

    def __post_init__(self) -> None:
        if not self.denoisers:
            raise InputError("a lab needs at least one denoiser, got none")
        (first_role, first), *others = self.denoisers.items()
        for role, denoiser in others:
            for field in SHARED_FIELDS:
                _check_equal(
                    field,
                    (f"denoiser {first_role}", getattr(first.spec, field)),
                    (f"denoiser {role}", getattr(denoiser.spec, field)),
                )
        for field in ("vocab_size", "mask_id"):
            ours = (f"denoiser {first_role}", getattr(first.spec, field))
            _check_equal(field, ours, ("the process", getattr(self.process, field)))
            _check_equal(field, ours, ("the tokeniser", getattr(self.tokenizer, field)))
        if first.spec.prediction != "posterior":
            raise InputError(
                "the masked process needs denoisers that predict the posterior,"
                f" got {first.spec.prediction!r}"
            )

    @property
    def scorer_name(self) -> str:
        """The scorer's name, `none` without one."""
        return self.scorer.name if self.scorer else NO_SCORER

    @property
    def max_length(self) -> int:
        """Longest sequence that the denoisers were made for."""
        return next(iter(self.denoisers.values())).spec.max_length

    def context(self) -> dict[str, str | dict[str, str]]:
        """Fingerprints of all parts, for reports and provenance."""
        return {
            "denoisers": {role: model.fingerprint for role, model in self.denoisers.items()},
            "tokenizer": self.tokenizer.fingerprint,
            "scorer": self.scorer.fingerprint if self.scorer else NO_SCORER,
            "scorer_name": self.scorer_name,
            "precision": self.precision,
            "device": self.kernels,
        }

    @property
    def device_kind(self) -> str:
        """`cpu` or `cuda`."""
        return torch.device(self.device).type

    @property
    def kernels(self) -> str:
        """What rounds, such as `cpu` or `cuda compiled`: part of a stored evaluation's key."""
        return f"{self.device_kind} compiled" if self.compiled else self.device_kind


def build_lab(config: LabConfig) -> Lab:
    """Load and check everything that `config` names.

    Raises:
        InputError: something is missing, damaged, or does not fit the rest; one line.
    """
    device = _device(config.device)
    precision = _auto_precision(device) if config.precision == "auto" else config.precision
    denoisers: dict[str, Denoiser] = {}
    networks: dict[str, Network] = {}
    for role, location in config.denoisers.items():
        model = load_denoiser(
            role, location, device=device, precision=precision, networks=networks
        )
        denoisers[role] = Compiled(model) if config.compile else model
    spec = next(iter(denoisers.values())).spec
    tokenizer = Tokenizer.for_model(config.tokenizer, spec.vocab_size, spec.mask_id)
    return Lab(
        denoisers=denoisers,
        process=masked_process(spec),
        tokenizer=tokenizer,
        scorer=None
        if config.scorer == NO_SCORER
        else load_scorer(config.scorer, tokenizer=tokenizer, device=device),
        precision=precision,
        device=device,
        compiled=config.compile,
    )


def load_denoiser(
    role: str, location: str, *, device: str, precision: str, networks: dict[str, Network]
) -> Denoiser:
    """A denoiser of any family; an autoregressive model is refused by its role.

    `networks` holds what was read so far: denoisers of the same location share their weights.
    """
    model = loading.load(location, device=device, precision=precision, networks=networks)
    if getattr(model.config, "causal", False):
        raise InputError(
            f"denoiser {role}: {location} is autoregressive; name a masked diffusion denoiser"
        )
    return model


def masked_process(spec: DenoiserSpec) -> MaskedProcess:
    """The process that denoisers of these conventions are sampled with.

    Raises:
        InputError: they are of another process.
    """
    if spec.process != "masked" or spec.mask_id is None:
        raise InputError(
            f"denoisers of the {spec.process} process can be inspected but not sampled yet; name"
            " masked ones"
        )
    return MaskedProcess(spec.vocab_size, spec.mask_id)


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError('device \'cuda\' is not available here; use device = "auto" or "cpu"')
    return name


def _auto_precision(device: str) -> str:
    """bfloat16 where the hardware multiplies it natively, float32 elsewhere.

    Measured with the bundled 12-block denoiser (64 x 64 tokens, one thread, AVX-512 with bf16):
    15,300 tokens a second in bfloat16 against 4,900 to 6,500 in float32. Draws are in float64
    either way.
    """
    if device != "cpu":
        return "bfloat16"
    known = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    native = known.get("avx512_bf16", False) or known.get("amx_bf16", False)
    return "bfloat16" if native else "float32"


def _check_equal(field: str, one: tuple[str, object], other: tuple[str, object]) -> None:
    if one[1] != other[1]:
        raise InputError(
            f"{field} must be the same for all parts of a lab, got {one[1]} for {one[0]} and"
            f" {other[1]} for {other[0]}; choose models trained together"
        )
