"""Control by judges and guides, against hand calculation with classifiers that are tables."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor

from schedlab.metrics import control
from schedlab.metrics.control import control_scores, label_log_probs, wanted_labels
from schedlab.plan.guidance import Attribute, Guidance
from schedlab.sampling.guidance import targets_of
from schedlab.sampling.noise import SequenceIds


class Table:
    """p(label | text) by the first token of a text."""

    def __init__(self, labels: str, *rows: tuple[float, ...]) -> None:
        self.labels = tuple(labels.split())
        self.p = torch.tensor(rows, dtype=torch.float32)
        self.embedding_weight = torch.zeros(len(rows), 2)
        self.calls: list[int] = []

    def log_probs_of_tokens(self, tokens_BL: Tensor) -> Tensor:
        assert tokens_BL.dtype == torch.int64
        self.calls.append(len(tokens_BL))
        return self.p[tokens_BL[:, 0]].log()


TOPIC = Table("art sport news", (0.7, 0.2, 0.1), (0.1, 0.5, 0.4), (0.2, 0.3, 0.5))
MOOD = Table("good bad", (0.9, 0.1), (0.2, 0.8), (0.6, 0.4))
TEXTS = np.array([[0, 5], [1, 5], [2, 5]])


def guidance(*attributes: tuple[str, str]) -> Guidance:
    return Guidance(
        attributes=[Attribute(classifier=name, label=label) for name, label in attributes]
    )


def scores(
    wanted: Guidance,
    judges: dict[str, Table],
    text_S: list[int],
    *,
    first: int = 0,
    guides: dict[str, Table] | None = None,
) -> dict[str, list[float]]:
    number_S = np.arange(first, first + len(text_S))
    found = control_scores(
        wanted, guides or {"topic": TOPIC, "mood": MOOD}, judges, TEXTS, np.array(text_S), number_S
    )  # type: ignore[arg-type]
    assert all(c.shape == (len(text_S),) and c.dtype == np.float64 for c in found.values())
    return {name: pytest.approx(column.tolist(), abs=1e-6) for name, column in found.items()}


def test_one_label_of_all_sequences() -> None:
    judge = Table("news art sport", (0.3, 0.6, 0.1), (0.1, 0.2, 0.7), (0.2, 0.5, 0.3))
    found = scores(guidance(("topic", "art")), {"press": judge}, [0, 1, 2, 0])
    assert found == {
        "control_press": [1, 0, 1, 1],
        "control_p_press": [0.6, 0.2, 0.5, 0.6],
        "guide_topic": [1, 0, 0, 1],
    }


@pytest.mark.parametrize("first", [0, 3, 4, 8])
def test_every_label_in_turn_by_the_sequences_number(first: int) -> None:
    """Labels are counted as the guide has them, whatever the judge's order is."""
    judge = Table("news art sport", (0.3, 0.6, 0.1), (0.1, 0.2, 0.7), (0.6, 0.1, 0.3))
    p = {"art": (0.6, 0.2, 0.1), "sport": (0.1, 0.7, 0.3), "news": (0.3, 0.1, 0.6)}
    best = ("art", "sport", "news")
    text_S = [2, 0, 1, 1, 0, 2, 2]
    wanted = [("art", "sport", "news")[(first + s) % 3] for s in range(7)]
    found = scores(guidance(("topic", "each")), {"press": judge}, text_S, first=first)
    assert found["control_press"] == [
        float(best[u] == w) for u, w in zip(text_S, wanted, strict=True)
    ]
    assert found["control_p_press"] == [p[w][u] for u, w in zip(text_S, wanted, strict=True)]
    own = ("art", "sport", "news")  # the likeliest by the guide itself
    assert found["guide_topic"] == [
        float(own[u] == w) for u, w in zip(text_S, wanted, strict=True)
    ]


def test_a_judge_that_knows_several_attributes_has_to_find_all_among_the_likeliest() -> None:
    both = Table(
        "art sport news good bad",
        (0.4, 0.1, 0.05, 0.35, 0.1),  # art, good
        (0.05, 0.3, 0.2, 0.05, 0.4),  # bad, sport
        (0.3, 0.05, 0.25, 0.3, 0.1),  # art, good
    )
    found = scores(guidance(("topic", "art"), ("mood", "good")), {"all": both}, [0, 1, 2])
    assert found["control_all"] == [1, 0, 1]
    assert found["control_p_all"] == [0.375, 0.05, 0.3]
    assert (found["guide_topic"], found["guide_mood"]) == ([1, 0, 0], [1, 0, 1])
    found = scores(guidance(("topic", "sport"), ("mood", "each")), {"all": both}, [1, 1, 0])
    # good, bad, good in turn beside sport.
    assert found["control_all"] == [0, 1, 0]
    assert found["control_p_all"] == [(0.3 + 0.05) / 2, (0.3 + 0.4) / 2, (0.1 + 0.35) / 2]


def test_a_judge_looks_at_the_attributes_that_it_knows() -> None:
    mood = Table("bad good", (0.3, 0.7), (0.9, 0.1), (0.4, 0.6))
    wanted = guidance(("topic", "art"), ("mood", "good"))
    found = scores(wanted, {"mood-judge": mood, "press": TOPIC}, [0, 1, 2])
    assert found["control_mood-judge"] == [1, 0, 1]
    assert found["control_p_mood-judge"] == [0.7, 0.1, 0.6]
    assert found["control_press"] == [1, 0, 0]


def test_a_judge_that_knows_none_of_the_labels_says_nothing() -> None:
    other = Table("long short", (0.5, 0.5), (0.4, 0.6), (0.1, 0.9))
    found = scores(guidance(("topic", "art")), {"length": other, "press": TOPIC}, [0, 1])
    assert set(found) == {"control_press", "control_p_press", "guide_topic"}
    assert other.calls == []
    assert set(scores(guidance(("topic", "art")), {}, [0])) == {"guide_topic"}


def test_whether_a_judge_knows_an_attribute_does_not_hang_on_the_sequences() -> None:
    """Blocks of an evaluation must have the same columns, or they cannot be merged."""
    some = Table("art sport", (0.5, 0.5), (0.4, 0.6), (0.1, 0.9))  # not `news`
    columns = set()
    for first in range(4):
        for size in (1, 2, 3):
            wanted = guidance(("topic", "each"))
            columns.add(frozenset(scores(wanted, {"some": some}, [0] * size, first=first)))
    assert len(columns) == 1


def test_attributes_of_one_guide_are_judged_together_by_it() -> None:
    found = scores(guidance(("topic", "art"), ("topic", "sport")), {}, [0, 1, 2])
    # Among the two likeliest: art, sport; sport, news; news, sport.
    assert found == {"guide_topic": [1, 0, 0]}


def test_equal_texts_are_looked_at_once_and_many_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    judge = Table("art sport news", (0.7, 0.2, 0.1), (0.1, 0.5, 0.4), (0.2, 0.3, 0.5))
    scores(guidance(("topic", "art")), {"press": judge}, [0, 1, 2] * 50)
    assert judge.calls == [3]
    monkeypatch.setattr(control, "_CHUNK", 2)
    parts = label_log_probs(judge, TEXTS)  # type: ignore[arg-type]
    assert judge.calls[1:] == [2, 1] and parts.dtype == np.float64
    np.testing.assert_allclose(np.exp(parts), judge.p.numpy(), rtol=1e-6)


def test_among_equals_the_earlier_label_is_the_likeliest() -> None:
    even = Table("art sport news", *[(1 / 3, 1 / 3, 1 / 3)] * 3)
    for label, holds in (("art", 1.0), ("sport", 0.0), ("news", 0.0)):
        assert scores(guidance(("topic", label)), {"j": even}, [0])["control_j"] == [holds]


def test_wanted_labels() -> None:
    numbers = np.array([5, 6, 7, 12])
    named, each = guidance(("topic", "art")), guidance(("topic", "each"))
    assert wanted_labels(named, [TOPIC.labels], numbers) == [["art"] * 4]
    assert wanted_labels(each, [TOPIC.labels], numbers) == [["news", "art", "sport", "art"]]


def test_labels_in_turn_of_two_attributes_come_in_every_combination() -> None:
    both = guidance(("topic", "each"), ("mood", "good"), ("mood", "each"), ("topic", "each"))
    labels = [TOPIC.labels, MOOD.labels, MOOD.labels, TOPIC.labels]
    topic, good, mood, last = wanted_labels(both, labels, np.arange(18))
    assert topic[:4] == ["art", "sport", "news", "art"] and set(good) == {"good"}
    assert Counter(zip(topic, mood, last, strict=True)).most_common()[0][1] == 1
    # The guides are asked for the very same.
    ids = SequenceIds(torch.zeros(18, dtype=torch.int64), torch.arange(18))
    targets = targets_of(both.attributes, {"topic": TOPIC, "mood": MOOD}, ids)  # type: ignore[dict-item]
    assert [labels[3][k] for k in targets[3].tolist()] == last
    assert [labels[2][k] for k in targets[2].tolist()] == mood


def test_a_label_of_negative_weight_shall_not_be_the_likeliest() -> None:
    away = Guidance(attributes=[
        Attribute(classifier="topic", label="sport", weight=-1.0),
    ])  # fmt: skip
    judge = Table("art sport news", (0.7, 0.2, 0.1), (0.1, 0.5, 0.4), (0.2, 0.3, 0.5))
    found = scores(away, {"j": judge}, [0, 1, 2])
    assert found["control_j"] == [1, 0, 1]
    assert found["control_p_j"] == [0.8, 0.5, 0.7]
    both = Guidance(attributes=[*away.attributes, Attribute(classifier="topic", label="news")])
    assert scores(both, {"j": judge}, [0, 1, 2])["control_j"] == [0, 0, 1]


def test_a_label_that_two_guides_ask_for_is_one_to_be_found() -> None:
    twice = guidance(("topic", "sport"), ("other", "sport"))
    judge = Table("art sport news", (0.7, 0.2, 0.1), (0.1, 0.5, 0.4), (0.2, 0.3, 0.5))
    found = scores(twice, {"j": judge}, [0, 1, 2], guides={"topic": TOPIC, "other": TOPIC})
    assert found["control_j"] == [0, 1, 0]  # the second likeliest of text 0 does not count
