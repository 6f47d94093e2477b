"""Run a plan file: load what it names, refuse anything that is not what was measured, sample.

The reference player of exported plans. A denoiser or tokeniser whose fingerprint differs from the
plan file's is an error, never a warning: the measured figures would be another model's.

Legend: B sequences, L positions, P prefix positions.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from schedlab.classifiers import Classifier
from schedlab.classifiers import load as load_classifier
from schedlab.denoisers.base import Denoiser
from schedlab.denoisers.loading import without_blocks
from schedlab.denoisers.network import Network
from schedlab.errors import InputError
from schedlab.evaluation.evaluate import check_process
from schedlab.evaluation.lab import check_classifiers, load_denoiser, process_of
from schedlab.plan import Plan, PlanFile
from schedlab.processes import Process
from schedlab.results import SeedBlock
from schedlab.sampling import SequenceIds, sample_plans
from schedlab.sampling.guidance import check_guides
from schedlab.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Player:
    """A loaded plan, ready to sample.

    Args:
        plan: what to run.
        denoisers: by role, as many as the plan names.
        process: the noising process over their vocabulary.
        tokenizer: between tokens and text.
        file: the plan file, which says how the plan was measured.
        device: where the denoisers are.
        guides: classifiers by name, as many as the plan names.
    """

    plan: Plan
    denoisers: Mapping[str, Denoiser]
    process: Process
    tokenizer: Tokenizer
    file: PlanFile
    device: str = "cpu"
    guides: Mapping[str, Classifier] = field(default_factory=dict)

    def steered(self, labels: Mapping[str, str]) -> Player:
        """The same plan towards other labels, by classifier.

        Raises:
            InputError: a classifier that the plan does not have, or a label that it does not know.
        """
        guidance = self.plan.guidance
        known = [] if guidance is None else [one.classifier for one in guidance.attributes]
        for name in labels:
            if name not in known:
                raise InputError(
                    f"classifier {name[:40]!r} guides nothing in this plan; it has"
                    f" {', '.join(known) or 'no guidance'}"
                )
        if guidance is None or not labels:
            return self
        attributes = [
            one.model_copy(update={"label": labels.get(one.classifier, one.label)})
            for one in guidance.attributes
        ]
        fields = {name: getattr(self.plan, name) for name in Plan.model_fields}
        fields["guidance"] = guidance.model_copy(update={"attributes": attributes})
        plan = Plan(**fields)
        check_guides(plan.guidance, self.guides)
        return replace(self, plan=plan)

    def tokens(self, n: int, *, prompt: str = "", seed: int = 0) -> torch.Tensor:
        """Final tokens of `n` sequences, int64 (n, L) on the CPU, prompt included.

        Sequence j of a seed is the same whatever `n` and the batch size are.

        Raises:
            InputError: `n` below 1, a seed out of range, or a prompt that fills the sequence.
        """
        if n < 1:
            raise InputError(f"number of samples must be >= 1, got {n}")
        prefix = self._prefix(prompt)
        ids = SequenceIds.of([SeedBlock(seed, 0, n)], device=self.device)
        prefix_BP = None if prefix is None else prefix.expand(n, -1)
        tokens_BL = torch.zeros((n, self.plan.length), dtype=torch.int64)
        for found in sample_plans(
            [self.plan], self.denoisers, self.process, ids, prefix_BP,
            end_id=self.tokenizer.eot_id, guides=self.guides,
        ):  # fmt: skip
            tokens_BL[found.sequence] = torch.from_numpy(found.tokens_UL[0])
        return tokens_BL

    def texts(self, n: int, *, prompt: str = "", seed: int = 0) -> list[str]:
        """`tokens` as text, prompt included; a document's end is a blank line."""
        return [
            self.tokenizer.decode(row) for row in self.tokens(n, prompt=prompt, seed=seed).tolist()
        ]

    def _prefix(self, prompt: str) -> torch.Tensor | None:
        """The prompt's tokens, int64 (1, P); None without a prompt."""
        if not prompt:
            return None
        try:
            prompt.encode("utf-8")
        except UnicodeEncodeError:  # what the shell passed was not UTF-8
            raise InputError("the prompt is not UTF-8 text; type it in that encoding") from None
        ids = self.tokenizer.encode(prompt)
        if len(ids) >= self.plan.length:
            raise InputError(
                f"the prompt has {len(ids)} tokens and the plan's sequences {self.plan.length}, so"
                " nothing is left to generate; shorten the prompt"
            )
        return torch.tensor([ids], device=self.device)


def load_plan(plan_file: PlanFile | str | os.PathLike[str], *, device: str = "auto") -> Player:
    """Load the denoisers and the tokeniser of a plan file and check them against it.

    Args:
        plan_file: the plan file or its path. Locations in it that are relative paths are looked up
            beside the file first, then from the working directory.
        device: `auto` (CUDA where there is one), `cpu` or `cuda`.

    Raises:
        InputError: something is missing or damaged, or is not what the plan was measured with.
    """
    if isinstance(plan_file, PlanFile):
        file, folder = plan_file, Path()
    else:
        file, folder = PlanFile.read(plan_file), Path(plan_file).parent
    place = _device(device)
    denoisers: dict[str, Denoiser] = {}
    networks: dict[str, Network] = {}
    for role, ref in file.denoisers.items():
        denoisers[role] = load_denoiser(
            role,
            _find(ref.location, folder),
            device=place,
            precision=file.precision,
            networks=networks,
        )
        _check(f"denoiser {role}", ref.location, ref.sha256, denoisers[role].fingerprint)
    spec = next(iter(denoisers.values())).spec
    process = process_of(spec)
    where = _find(file.tokenizer.location, folder)
    tokenizer = Tokenizer.for_model(where, spec.vocab_size, spec.mask_id)
    _check("the tokeniser", file.tokenizer.location, file.tokenizer.sha256, tokenizer.fingerprint)
    for role, model in denoisers.items():
        _check_vocabulary(role, model, tokenizer, file.plan.length)
    guides = {}
    for name, guide in file.classifiers.items():
        guides[name] = load_classifier(
            _find(guide.location, folder), device=place, precision=file.precision
        )
        _check(f"classifier {name}", guide.location, guide.sha256, guides[name].fingerprint)
    check_classifiers(guides, {}, spec)
    check_guides(file.plan.guidance, guides)
    check_process(file.plan, process, denoisers)
    return Player(file.plan, denoisers, process, tokenizer, file, place, guides)


def run_plan(
    plan_file: PlanFile | str | os.PathLike[str],
    n: int,
    *,
    prompt: str = "",
    seed: int = 0,
    device: str = "auto",
    labels: Mapping[str, str] | None = None,
) -> list[str]:
    """Generate `n` texts with a plan file; `load_plan`, `Player.steered` and `Player.tokens` say
    what is refused."""
    player = load_plan(plan_file, device=device).steered(labels or {})
    return player.texts(n, prompt=prompt, seed=seed)


def _find(location: str, folder: Path) -> str:
    """A location as it stands, or beside the plan file if it is a relative path there."""
    beside = folder / location
    is_path = not location.startswith("bundled") and not Path(location).is_absolute()
    return str(beside) if is_path and Path(without_blocks(str(beside))).exists() else location


def _check(what: str, location: str, expected: str, found: str) -> None:
    if expected != found:
        raise InputError(
            f"{what} at {location!r} is not the one this plan was measured with: fingerprint"
            f" {found[:12]}..., the plan file says {expected[:12]}...; restore it or export again"
        )


def _check_vocabulary(role: str, model: Denoiser, tokenizer: Tokenizer, length: int) -> None:
    spec = model.spec
    masked = spec.process == "masked"
    for name in ("vocab_size", "mask_id") if masked else ("vocab_size",):
        if getattr(spec, name) != getattr(tokenizer, name):
            raise InputError(
                f"{name} must be the same for denoiser {role} and the tokeniser, got"
                f" {getattr(spec, name)} and {getattr(tokenizer, name)}"
            )
    if masked and spec.prediction != "posterior":
        raise InputError(
            f"the masked process needs denoisers that predict the posterior, got"
            f" {spec.prediction!r} for denoiser {role}"
        )
    if length > spec.max_length:
        raise InputError(
            f"the plan's length {length} is more than the {spec.max_length} tokens that denoiser"
            f" {role} was made for"
        )


def _device(name: str) -> str:
    if name not in ("auto", "cpu", "cuda"):
        raise InputError(f"device must be 'auto', 'cpu' or 'cuda', got {name[:40]!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("device 'cuda' is not available here; use 'auto' or 'cpu'")
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name
