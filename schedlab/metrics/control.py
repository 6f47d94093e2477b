"""Control: do texts have the attributes that were asked for, in the eyes of judges?

Judges are classifiers that did not guide: independently trained, of another architecture and
seed. A guide's own opinion of what it guided is no measure, since guidance moves texts to where
the guide errs; it is reported beside the judges' to show that gap.

Legend: U different texts, S sequences, L positions, C labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from schedlab.classifiers import Classifier
from schedlab.plan.guidance import EACH, Guidance, strides_in_turn

CONTROL_VERSION = 2
CONTROL = "control"
"""Score of a judge: `control_NAME` is 1 where all attributes hold, `control_p_NAME` the
probability that it gives them; of guides `guide_NAME` is 1 where the guide's attributes hold."""
_CHUNK = 64

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


def control_scores(
    guidance: Guidance,
    guides: Mapping[str, Classifier],
    judges: Mapping[str, Classifier],
    tokens_UL: IntArray,
    text_S: IntArray,
    number_S: IntArray,
) -> dict[str, FloatArray]:
    """Columns of control by judge and by guide, float64 (S,) each.

    A judge looks at the attributes whose labels it knows. Where it knows one, the attribute holds
    if its label is the likeliest; where n different labels are asked for, if it is among the n
    likeliest. An attribute of negative weight holds if its label is not.

    Args:
        guidance: what was asked for.
        guides, judges: classifiers by name.
        tokens_UL: different texts, without what was given.
        text_S: which of them each sequence is.
        number_S: numbers of the sequences, for labels in turn.
    """
    wanted = wanted_labels(
        guidance, [guides[one.classifier].labels for one in guidance.attributes], number_S
    )
    scores: dict[str, FloatArray] = {}
    for name, judge in judges.items():
        known = known_attributes(guidance, guides, judge)
        if known:
            holds_S, p_S = _judged(
                judge, tokens_UL, text_S, [wanted[place] for place in known],
                [guidance.attributes[place].weight < 0 for place in known],
            )  # fmt: skip
            scores |= {f"{CONTROL}_{name}": holds_S, f"{CONTROL}_p_{name}": p_S}
    for name in dict.fromkeys(one.classifier for one in guidance.attributes):
        own = [
            (labels, one.weight < 0)
            for one, labels in zip(guidance.attributes, wanted, strict=True)
            if one.classifier == name
        ]
        asked, shunned = zip(*own, strict=True)
        scores[f"guide_{name}"] = _judged(guides[name], tokens_UL, text_S, asked, shunned)[0]
    return scores


def known_attributes(
    guidance: Guidance, guides: Mapping[str, Classifier], judge: Classifier
) -> list[int]:
    """Numbers of the attributes that a judge can judge: it knows every label that may be asked
    for, whichever these sequences are asked for, so every block has the same columns."""
    return [
        place
        for place, one in enumerate(guidance.attributes)
        if set(guides[one.classifier].labels if one.label == EACH else (one.label,))
        <= set(judge.labels)
    ]


def wanted_labels(
    guidance: Guidance, labels: Sequence[Sequence[str]], number_S: IntArray
) -> list[list[str]]:
    """The label of every attribute that every sequence shall have, A lists of S.

    Args:
        guidance: what is asked for.
        labels: of the guide of every attribute.
        number_S: numbers of the sequences.
    """
    strides = strides_in_turn(guidance.attributes, [len(own) for own in labels])
    return [
        [attribute.label] * len(number_S)
        if stride is None
        else [own[number // stride % len(own)] for number in number_S.tolist()]
        for attribute, own, stride in zip(guidance.attributes, labels, strides, strict=True)
    ]


def _judged(
    judge: Classifier,
    tokens_UL: IntArray,
    text_S: IntArray,
    asked: Sequence[Sequence[str]],
    shunned: Sequence[bool],
) -> tuple[FloatArray, FloatArray]:
    """1 where all labels that are wanted are among the likeliest and none that is shunned, and the
    mean probability of that, (S,) each."""
    shunned_A = np.array(shunned)
    log_p_SC = label_log_probs(judge, tokens_UL)[text_S]
    place = {label: number for number, label in enumerate(judge.labels)}
    target_SA = np.array([[place[label] for label in labels] for labels in asked]).T
    rank_SC = np.argsort(np.argsort(-log_p_SC, axis=1, kind="stable"), axis=1)
    # Two guides may ask for the same label: that is one to be found, not two.
    wanted_SA = np.sort(target_SA[:, ~shunned_A], axis=1)
    different_S = 1 + (np.diff(wanted_SA, axis=1) > 0).sum(axis=1)
    found_SA = np.take_along_axis(rank_SC, target_SA, axis=1) < different_S[:, None]
    holds_SA = found_SA != shunned_A
    p_SA = np.abs(shunned_A - np.exp(np.take_along_axis(log_p_SC, target_SA, axis=1)))
    return holds_SA.all(1).astype(np.float64), p_SA.mean(1)


@torch.inference_mode()
def label_log_probs(judge: Classifier, tokens_UL: IntArray) -> FloatArray:
    """log p(label | text) of texts, float64 (U, C)."""
    device = judge.embedding_weight.device
    rows = torch.from_numpy(np.asarray(tokens_UL, dtype=np.int64)).to(device).split(_CHUNK)
    found = [judge.log_probs_of_tokens(part).double().cpu() for part in rows]
    return torch.cat(found).numpy()
