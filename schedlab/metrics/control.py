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
from schedlab.plan.guidance import EACH, Attribute, Guidance

CONTROL_VERSION = 1
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
    if its label is the likeliest; where it knows n, if it is among the n likeliest.

    Args:
        guidance: what was asked for.
        guides, judges: classifiers by name.
        tokens_UL: different texts.
        text_S: which of them each sequence is.
        number_S: numbers of the sequences, for labels in turn.
    """
    wanted = [
        wanted_labels(one, guides[one.classifier].labels, number_S) for one in guidance.attributes
    ]
    # All that may be asked for, not what these sequences are: every block has the same columns.
    asked = [
        set(guides[one.classifier].labels if one.label == EACH else (one.label,))
        for one in guidance.attributes
    ]
    scores: dict[str, FloatArray] = {}
    for name, judge in judges.items():
        known = [
            labels
            for labels, may_be in zip(wanted, asked, strict=True)
            if may_be <= set(judge.labels)
        ]
        if known:
            holds_S, p_S = _judged(judge, tokens_UL, text_S, known)
            scores |= {f"{CONTROL}_{name}": holds_S, f"{CONTROL}_p_{name}": p_S}
    for name in dict.fromkeys(one.classifier for one in guidance.attributes):
        own = [labels for one, labels in zip(guidance.attributes, wanted, strict=True)
               if one.classifier == name]  # fmt: skip
        scores[f"guide_{name}"] = _judged(guides[name], tokens_UL, text_S, own)[0]
    return scores


def wanted_labels(attribute: Attribute, labels: Sequence[str], number_S: IntArray) -> list[str]:
    """The label that every sequence shall have, S of them."""
    if attribute.label != EACH:
        return [attribute.label] * len(number_S)
    return [labels[number % len(labels)] for number in number_S.tolist()]


def _judged(
    judge: Classifier, tokens_UL: IntArray, text_S: IntArray, wanted: Sequence[Sequence[str]]
) -> tuple[FloatArray, FloatArray]:
    """1 where all wanted labels are among the likeliest, and their mean probability, (S,) each."""
    log_p_SC = label_log_probs(judge, tokens_UL)[text_S]
    place = {label: number for number, label in enumerate(judge.labels)}
    target_SA = np.array([[place[label] for label in labels] for labels in wanted]).T
    best_SA = np.argsort(-log_p_SC, axis=1, kind="stable")[:, : len(wanted)]
    holds_SA = (best_SA[:, None, :] == target_SA[:, :, None]).any(-1)
    p_SA = np.exp(np.take_along_axis(log_p_SC, target_SA, axis=1))
    return holds_SA.all(1).astype(np.float64), p_SA.mean(1)


@torch.inference_mode()
def label_log_probs(judge: Classifier, tokens_UL: IntArray) -> FloatArray:
    """log p(label | text) of texts, float64 (U, C)."""
    device = judge.embedding_weight.device
    rows = torch.from_numpy(np.asarray(tokens_UL, dtype=np.int64)).to(device).split(_CHUNK)
    found = [judge.log_probs_of_tokens(part).double().cpu() for part in rows]
    return torch.cat(found).numpy()
