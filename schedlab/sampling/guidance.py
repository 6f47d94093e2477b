"""Classifier guidance: gradient steps on logits, and what the gradient says of every token.

The derivative goes through `softmax(logits) @ E` of every guide in closed form, so that autograd
sees the classifier alone, behind embeddings: beside the logits two arrays of their size are
alive, whatever the number of guides and iterations.

Legend: B sequences, L positions, N positions with a prediction, V vocabulary, D width of a guide,
A attributes.

References: Han et al., SSD-LM (2210.17432); TTA (2510.26200) and its released code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from schedlab.classifiers import Classifier
from schedlab.errors import InputError, SchedlabError
from schedlab.plan.guidance import Attribute, Guidance, strides_in_turn
from schedlab.sampling.noise import SequenceIds

_ROUNDING = 1e-9


@dataclass(frozen=True)
class Pull:
    """What guidance found at a step, before its last iteration moved the logits.

    Args:
        norm_BL: L2 norm of d loss / d embedding at every position, float64: the guides' own, and
            summed in squares over attributes by weight.
        before_AB: log p(label) of every attribute before the first iteration.
        log_p_AB: the same before the last one.
        conflict_B: cosine between the gradients of the first two attributes with respect to the
            logits; NaN with one attribute.
    """

    norm_BL: Tensor
    before_AB: Tensor
    log_p_AB: Tensor
    conflict_B: Tensor


def targets_of(
    attributes: Sequence[Attribute], guides: Mapping[str, Classifier], ids: SequenceIds
) -> list[Tensor]:
    """Number of the label that every sequence shall have, int64 (B,), by attribute.

    Raises:
        InputError: a guide does not know its label.
    """
    labels = [guides[attribute.classifier].labels for attribute in attributes]
    found = []
    strides = strides_in_turn(attributes, [len(own) for own in labels])
    for attribute, own, stride in zip(attributes, labels, strides, strict=True):
        if stride is not None:
            found.append(ids.index_B // stride % len(own))
            continue
        if attribute.label not in own:
            raise InputError(
                f"guidance: classifier {attribute.classifier!r} has no label {attribute.label!r};"
                f" it has {', '.join(own)}"
            )
        found.append(torch.full_like(ids.index_B, own.index(attribute.label)))
    return found


def check_guides(guidance: Guidance | None, guides: Mapping[str, Classifier]) -> None:
    """Refuse a plan that names a guide or a label which is not there."""
    if guidance is None:
        return
    for attribute in guidance.attributes:
        if attribute.classifier not in guides:
            raise InputError(
                f"guidance: classifier {attribute.classifier!r} is not among"
                f" {sorted(guides) or 'none'}; name its location in lab.classifiers"
            )
    nobody = torch.zeros(0, dtype=torch.int64)
    targets_of(guidance.attributes, guides, SequenceIds(nobody, nobody))


@dataclass(frozen=True)
class Steering:
    """Guidance of one plan.

    Args:
        guidance: what is wanted.
        guides: classifiers by name, see `check_guides`.
    """

    guidance: Guidance
    guides: Mapping[str, Classifier]

    def is_on(self, step: int, levels: Sequence[float]) -> bool:
        """Whether a step is guided.

        Args:
            step: k.
            levels: the noise levels at which the denoiser is called, T of them.
        """
        g = self.guidance
        # Levels such as 1 - 0.7 are not quite 0.3.
        if g.iterations == 0 or not g.end - _ROUNDING <= levels[step] <= g.start + _ROUNDING:
            return False
        first = next(k for k, t in enumerate(levels) if t <= g.start + _ROUNDING)
        last = step == len(levels) - 1 and not g.last_step
        return (step - first) % g.interval == 0 and not last

    def scale(self, t: float) -> float:
        """lambda at a noise level."""
        shares = {"constant": 1.0, "linear": t, "cosine": (1.0 - math.cos(math.pi * t)) / 2}
        return self.guidance.scale * shares[self.guidance.decay]

    def pull(
        self,
        logits_NV: Tensor,
        at: tuple[Tensor, Tensor],
        tokens_BL: Tensor,
        ids: SequenceIds,
        t: float,
    ) -> Pull:
        """Move logits towards the attributes, in place.

        Args:
            logits_NV: float32, at positions with a prediction.
            at: their rows and positions.
            tokens_BL: tokens; read where there is no prediction.
            ids: the sequences, for labels in turn.
            t: the common noise level.

        Raises:
            SchedlabError: a gradient that is not finite.
        """
        scale = self.scale(t)
        attributes = self.guidance.attributes
        targets = targets_of(attributes, self.guides, ids)
        pull = None
        for _ in range(self.guidance.iterations):
            p_NV = logits_NV.softmax(-1)
            found = [
                self._gradient(attribute, target_B, p_NV, at, tokens_BL, t)
                for attribute, target_B in zip(attributes, targets, strict=True)
            ]
            log_p_AB = torch.stack([one.log_p_B for one in found])
            pull = Pull(
                norm_BL=torch.stack([one.norm_BL.square() for one in found]).sum(0).sqrt(),
                before_AB=log_p_AB if pull is None else pull.before_AB,
                log_p_AB=log_p_AB,
                conflict_B=_conflict(found, p_NV, at, len(tokens_BL)),
            )
            if not torch.isfinite(pull.norm_BL).all():
                raise SchedlabError(
                    "guidance gave gradients that are not finite; check the classifiers' weights"
                    " and the precision"
                )
            if scale:
                for one in found:
                    logits_NV.sub_(_through_softmax(p_NV, one.pulled_NV()), alpha=scale)
        assert pull is not None, "asked at guided steps only"
        return pull

    def _gradient(
        self,
        attribute: Attribute,
        target_B: Tensor,
        p_NV: Tensor,
        at: tuple[Tensor, Tensor],
        tokens_BL: Tensor,
        t: float,
    ) -> _Gradient:
        guide = self.guides[attribute.classifier]
        with torch.inference_mode(False), torch.enable_grad():
            e_BLD = soft_embeddings(guide, p_NV, at, tokens_BL).requires_grad_()
            t_B = torch.full((len(tokens_BL),), t, device=e_BLD.device)
            log_p_BC = guide.log_probs(e_BLD, t_B)
            own_B = log_p_BC.gather(1, target_B.clone()[:, None])[:, 0]
            loss = -own_B.sum()
            if self.guidance.contrast:
                loss = loss + log_p_BC.sum() - own_B.sum()
            (g_BLD,) = torch.autograd.grad(loss, e_BLD)
        g_BLD = g_BLD * attribute.weight
        return _Gradient(
            g_BLD[at],
            guide.embedding_weight.detach(),
            g_BLD.double().norm(dim=-1),
            own_B.detach().double(),
        )


@dataclass(frozen=True)
class _Gradient:
    """Of one attribute: with respect to the embeddings where there is a prediction, (N, D)."""

    g_ND: Tensor
    embedding_VD: Tensor
    norm_BL: Tensor
    log_p_B: Tensor

    def pulled_NV(self) -> Tensor:
        """With respect to the probabilities, float32 (N, V)."""
        g_FD = _filled_up(self.g_ND, self.norm_BL.numel())
        return (g_FD @ self.embedding_VD.T)[: len(self.g_ND)].float()


def soft_embeddings(
    guide: Classifier, p_NV: Tensor, at: tuple[Tensor, Tensor], tokens_BL: Tensor
) -> Tensor:
    """softmax(logits) @ E where there is a prediction, E of the token elsewhere, (B, L, D)."""
    weight_VD = guide.embedding_weight.detach()
    e_BLD = weight_VD[tokens_BL]
    p_FV = _filled_up(p_NV.to(weight_VD.dtype), tokens_BL.numel())
    e_BLD[at] = (p_FV @ weight_VD)[: len(p_NV)]
    return e_BLD.detach()


def _filled_up(rows_NX: Tensor, size: int) -> Tensor:
    """Rows with zeros behind them: products of one shape, so that how many positions have a
    prediction changes no bit of any of them."""
    missing = size - len(rows_NX)
    return torch.nn.functional.pad(rows_NX, (0, 0, 0, missing)) if missing else rows_NX


def _through_softmax(p_NV: Tensor, pulled_NV: Tensor) -> Tensor:
    """d loss / d logits of d loss / d probabilities, in place: p (g - sum p g)."""
    mean_N1 = torch.linalg.vecdot(p_NV, pulled_NV)[:, None]
    return pulled_NV.sub_(mean_N1).mul_(p_NV)


def _conflict(
    found: Sequence[_Gradient], p_NV: Tensor, at: tuple[Tensor, Tensor], num_sequences: int
) -> Tensor:
    """Cosine between the first two gradients with respect to the logits, float64 (B,)."""
    nothing_B = torch.full((num_sequences,), torch.nan, dtype=torch.float64, device=p_NV.device)
    if len(found) < 2:
        return nothing_B
    one, other = (_through_softmax(p_NV, each.pulled_NV()).double() for each in found[:2])

    def summed(values_NV: Tensor) -> Tensor:
        zero_B = torch.zeros_like(nothing_B)
        return zero_B.index_add_(0, at[0], values_NV.sum(-1))

    return summed(one * other) / (summed(one * one) * summed(other * other)).sqrt()


@torch.no_grad()
def ablation_drop(
    guide: Classifier,
    e_BLD: Tensor,
    target_B: Tensor,
    t: float,
    positions: Callable[[int], bool] = lambda position: True,
) -> Tensor:
    """log p(label) minus log p(label) with a token unknown, float64 (B, L).

    An unknown token is one of which nothing is predicted: the mean of all embeddings. L forwards
    of the guide.

    Args:
        guide: the classifier.
        e_BLD: embeddings of texts.
        target_B: labels.
        t: noise level, for guides that read it.
        positions: which are looked at; others get 0.
    """
    unknown_D = guide.embedding_weight.mean(0)
    t_B = torch.full((len(e_BLD),), t, device=e_BLD.device)

    def log_p(e: Tensor) -> Tensor:
        return guide.log_probs(e, t_B).gather(1, target_B[:, None])[:, 0].double()

    whole_B, drop_BL = log_p(e_BLD), torch.zeros(e_BLD.shape[:2], dtype=torch.float64)
    drop_BL = drop_BL.to(e_BLD.device)
    for position in filter(positions, range(e_BLD.shape[1])):
        without = e_BLD.clone()
        without[:, position] = unknown_D
        drop_BL[:, position] = whole_B - log_p(without)
    return drop_BL
