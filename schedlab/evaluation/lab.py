"""The lab: denoisers, process, tokeniser and scorer on a device, checked together once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch

from schedlab.classifiers import Classifier
from schedlab.classifiers import load as load_classifier
from schedlab.denoisers import loading
from schedlab.denoisers.base import Denoiser, DenoiserSpec
from schedlab.denoisers.network import Network
from schedlab.errors import InputError
from schedlab.metrics.samples import Scorer
from schedlab.metrics.scorers import load_scorer
from schedlab.plan.lab_config import LabConfig
from schedlab.processes import MaskedProcess, Process, SimplexProcess, UniformProcess
from schedlab.sampling.compiled import Compiled
from schedlab.text.tokenizer import Tokenizer

SHARED_FIELDS = (
    "process", "vocab_size", "mask_id", "max_length", "noise_schedule", "prediction",
    "simplex_value",
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
        guides: classifiers that guide, by name.
        judges: classifiers that judge what was asked for, by name; they are others than guides.

    Raises:
        InputError: parts that do not fit together; the message names the field.
    """

    denoisers: Mapping[str, Denoiser]
    process: Process
    tokenizer: Codec
    scorer: Scorer | None
    precision: str = "float32"
    device: str = "cpu"
    compiled: bool = False
    guides: Mapping[str, Classifier] = field(default_factory=dict)
    judges: Mapping[str, Classifier] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.denoisers:
            raise InputError("a lab needs at least one denoiser, got none")
        (first_role, first), *others = self.denoisers.items()
        for role, denoiser in others:
            for name in SHARED_FIELDS:
                _check_equal(
                    name,
                    (f"denoiser {first_role}", getattr(first.spec, name)),
                    (f"denoiser {role}", getattr(denoiser.spec, name)),
                )
        masked = isinstance(self.process, MaskedProcess)
        for name in ("vocab_size", "mask_id") if masked else ("vocab_size",):
            ours = (f"denoiser {first_role}", getattr(first.spec, name))
            _check_equal(name, ours, ("the process", getattr(self.process, name)))
            _check_equal(name, ours, ("the tokeniser", getattr(self.tokenizer, name)))
        if masked and first.spec.prediction != "posterior":
            raise InputError(
                "the masked process needs denoisers that predict the posterior,"
                f" got {first.spec.prediction!r}"
            )
        check_classifiers(self.guides, self.judges, first.spec)

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
        classifiers: dict[str, str | dict[str, str]] = {
            kind: {name: model.fingerprint for name, model in found.items()}
            for kind, found in (("guides", self.guides), ("judges", self.judges))
            if found
        }
        return classifiers | {
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
        process=process_of(spec),
        tokenizer=tokenizer,
        scorer=None
        if config.scorer == NO_SCORER
        else load_scorer(config.scorer, tokenizer=tokenizer, device=device),
        precision=precision,
        device=device,
        compiled=config.compile,
        guides={
            name: load_classifier(location, device=device, precision=precision)
            for name, location in config.classifiers.items()
        },
        judges={
            name: load_classifier(location, device=device)
            for name, location in config.judges.items()
        },
    )


def check_classifiers(
    guides: Mapping[str, Classifier], judges: Mapping[str, Classifier], spec: DenoiserSpec
) -> None:
    """Refuse classifiers of another vocabulary, and a judge that guides.

    Raises:
        InputError: see above.
    """
    for kind, found in (("classifiers", guides), ("judges", judges)):
        for name, model in found.items():
            if len(model.embedding_weight) != spec.vocab_size:
                raise InputError(
                    f"lab.{kind}: {name} has {len(model.embedding_weight)} tokens, the denoisers"
                    f" {spec.vocab_size}; classifiers share the denoisers' tokenizer"
                )
    own = {model.fingerprint: name for name, model in guides.items()}
    for name, model in judges.items():
        if model.fingerprint in own:
            raise InputError(
                f"lab.judges: {name} is the same as the guide {own[model.fingerprint]!r}, which"
                " would judge its own work; train another with another seed"
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
            f"denoiser {role}: {location} is autoregressive; name a diffusion denoiser"
        )
    return model


def process_of(spec: DenoiserSpec) -> Process:
    """The process that denoisers of these conventions are sampled with.

    Raises:
        InputError: a masked denoiser without a mask.
    """
    if spec.process == "simplex":
        return SimplexProcess(spec.vocab_size, spec.simplex_value)
    if spec.process == "uniform":
        return UniformProcess(spec.vocab_size)
    return masked_process(spec)


def masked_process(spec: DenoiserSpec) -> MaskedProcess:
    """The masked process that denoisers of these conventions are sampled with.

    Raises:
        InputError: they are of another process.
    """
    if spec.process != "masked" or spec.mask_id is None:
        raise InputError(
            f"this works with denoisers of the masked process, these are of the {spec.process}"
            " process"
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
