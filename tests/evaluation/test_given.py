"""Tasks to answer and texts to score: what is counted, and under which key."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_lab import oracle_lab, plan_of, transformer_lab

from schedlab.errors import InputError
from schedlab.evaluation.evaluate import evaluate, identity_of
from schedlab.evaluation.evaluator import Evaluator
from schedlab.evaluation.lab import Lab
from schedlab.evaluation.prompts import Given, HeldOut, Prompts, given_from_json
from schedlab.metrics import metric_names
from schedlab.metrics.duel import duel, scored
from schedlab.plan import Plan, PolicySpec
from schedlab.results import SeedBlock, Store, seed_blocks
from schedlab.tasks import Item, Task

PREFIX, LENGTH = 3, 8
NUM = 24
LAB = transformer_lab()
BARE = dataclasses.replace(LAB, scorer=None)
PLAN = plan_of("H3 L2", LENGTH, policy=PolicySpec(name="low_confidence",
                                                  parameters={"block_length": 0}))  # fmt: skip
OTHER = plan_of("H4", LENGTH)
BLOCKS = seed_blocks(seed=5, num_sequences=NUM, block_size=8)


def prompts_of(task: Task) -> Prompts:
    return Prompts.of([LAB.tokenizer.encode(item.prompt) for item in task.items], task)


def task_of(answers: list[str], **how: Any) -> Task:
    rng = np.random.default_rng(0)
    prompts = ["".join(rng.choice(list("abcdefghi"), PREFIX)) for _ in answers]
    items = zip(prompts, answers, strict=True)
    return Task("letters", tuple(Item(*item) for item in items), **how)


def measured(
    plans: list[Plan], given: Given | None, folder: Path, lab: Lab = BARE, blocks: Any = BLOCKS
) -> Any:
    return evaluate(plans, blocks, lab=lab, store=Store(folder), prompts=given)


def answers_of(tokens_SL: np.ndarray) -> list[str]:
    """What stands behind the prompt, up to the first separator."""
    found = []
    for row in tokens_SL.tolist():
        text = row[PREFIX:]
        if LAB.tokenizer.eot_id in text:
            text = text[: text.index(LAB.tokenizer.eot_id)]
        found.append(LAB.tokenizer.decode(text))
    return found


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[Plan, list[str]]:
    """What the plans answer to the prompts; neither noise nor tokens hang on what is right."""
    task = task_of(["?"] * NUM)
    found = measured([PLAN, OTHER], prompts_of(task), tmp_path_factory.mktemp("written"))
    assert all(one.estimates["accuracy"].value == 0 for one in found)
    return {one.plan: answers_of(one.tokens_SL) for one in found}


def test_accuracy_is_the_share_of_right_answers(
    written: dict[Plan, list[str]], tmp_path: Path
) -> None:
    right = [n % 3 != 0 for n in range(NUM)]
    answers = [
        text if good else text + "?" for text, good in zip(written[PLAN], right, strict=True)
    ]
    found, other = measured([PLAN, OTHER], prompts_of(task_of(answers)), tmp_path)
    assert found.scores["accuracy"].tolist() == [float(good) for good in right]
    assert found.estimates["accuracy"].value == pytest.approx(2 / 3)
    assert found.estimates["accuracy"].n == NUM
    expected = [a == b for a, b in zip(written[OTHER], answers, strict=True)]
    assert other.scores["accuracy"].tolist() == [float(good) for good in expected]
    assert len(set(written[PLAN])) > NUM / 2  # not one answer for all


def test_items_belong_to_sequences_by_number_and_are_counted_around(
    written: dict[Plan, list[str]], tmp_path: Path
) -> None:
    """Blocks in any order, a block in the middle, and more sequences than items."""
    given = prompts_of(task_of(written[PLAN]))
    for blocks in (tuple(reversed(BLOCKS)), BLOCKS[1:2], (SeedBlock(5, 3, 7),)):
        (found,) = measured([PLAN], given, tmp_path, blocks=blocks)
        assert found.estimates["accuracy"].value == 1
    few = prompts_of(Task("few", task_of(written[PLAN]).items[:5]))
    (found,) = measured([PLAN], few, tmp_path, blocks=(SeedBlock(5, 3, 7),))
    texts = answers_of(found.tokens_SL)
    expected = [text == written[PLAN][number % 5] for number, text in enumerate(texts, start=3)]
    assert found.scores["accuracy"].tolist() == [float(good) for good in expected]
    assert expected[:2] == [True, True]


def test_the_key_is_of_the_items_of_the_block_and_how_they_are_judged() -> None:
    base = task_of(["a"] * NUM)

    def keys(task: Task, plan: Plan = PLAN) -> list[str]:
        return [identity_of(plan, block, BARE, prompts_of(task)).key for block in BLOCKS]

    more = Task("more", base.items + (Item("abc", "x"), Item("cba", "y")))
    assert keys(more) == keys(base)
    assert keys(dataclasses.replace(base, name="another name")) == keys(base)
    last = Task("last", (*base.items[:-1], Item(base.items[-1].prompt, "b")))
    assert keys(last)[:2] == keys(base)[:2] and keys(last)[2] != keys(base)[2]
    prompt = Task("prompt", (Item("aaa", "a"), *base.items[1:]))
    assert keys(prompt)[0] != keys(base)[0] and keys(prompt)[1:] == keys(base)[1:]
    different = {
        keys(task)[1]
        for task in (
            base,
            dataclasses.replace(base, scorer="regex", pattern="a"),
            dataclasses.replace(base, scorer="regex", pattern="a+"),
        )
    }
    assert len(different) == 3
    plain = identity_of(PLAN, BLOCKS[0], BARE, Prompts.of(prompts_of(base).tokens_NP)).key
    assert plain != keys(base)[0]


def test_more_items_evaluate_the_new_blocks_only(tmp_path: Path) -> None:
    task = task_of(["a"] * NUM)
    few = Task("few", task.items[:16])
    (found,) = measured([PLAN], prompts_of(few), tmp_path, blocks=BLOCKS[:2])
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "evals").iterdir()}
    (more,) = measured([PLAN], prompts_of(task), tmp_path)
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "evals").iterdir()}
    assert before.items() < after.items() and len(after) == 3
    assert (more.tokens_SL[:16] == found.tokens_SL).all()


# Without a scorer


def test_without_a_scorer_all_but_perplexity_is_measured(tmp_path: Path) -> None:
    blocks = seed_blocks(seed=1, num_sequences=8, block_size=4)
    (bare,) = measured([OTHER], None, tmp_path, blocks=blocks)
    (full,) = measured([OTHER], None, tmp_path, lab=LAB, blocks=blocks)
    assert (bare.tokens_SL == full.tokens_SL).all()
    missing = set(full.estimates) - set(bare.estimates)
    assert missing == {"gen_ppl", "log_gen_ppl"}
    for name in bare.estimates.keys() - {"seconds"}:
        assert bare.estimates[name] == full.estimates[name]
    assert len(list((tmp_path / "evals").iterdir())) == 4  # kept apart
    assert BARE.scorer_name == "none" and BARE.context()["scorer"] == "none"


def test_answers_are_measured_by_what_makes_sense_of_them(tmp_path: Path) -> None:
    given = prompts_of(task_of(["a"] * NUM))
    (found,) = measured([PLAN], given, tmp_path, lab=LAB)
    assert {"accuracy", "entropy", "gen_ppl", "forwards"} <= set(found.estimates)
    assert not {"self_bleu", "distinct_1"} & set(found.estimates)
    assert metric_names(has_scorer=False, of_answers=True) == ("entropy",)
    assert metric_names() == ("gen_ppl", "entropy", "distinct", "self_bleu")


# Exact likelihoods


def texts_of(num: int, length: int, seed: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 9, (num, length))


LIKELIEST = [
    PolicySpec(name=name, parameters={"confidence": "likeliest", **more})  # type: ignore[arg-type]
    for name, more in (
        ("low_confidence", {"block_length": 0}),
        ("threshold", {"threshold": 0.4, "block_length": 4}),
        ("stdd", {"threshold": 0.5}),
    )
]


@pytest.mark.parametrize("policy", LIKELIEST, ids=lambda policy: policy.name)
@pytest.mark.parametrize("prefix", [0, 3])
def test_likelihoods_are_those_of_duel_text_by_text(
    policy: PolicySpec, prefix: int, tmp_path: Path
) -> None:
    plan = plan_of("H3 L2", LENGTH, policy=policy)
    texts_SL = texts_of(20, LENGTH)
    held_out = HeldOut(texts_SL, prefix)
    blocks = seed_blocks(seed=9, num_sequences=16, block_size=8)
    (found,) = measured([plan], held_out, tmp_path, blocks=blocks)
    bound = duel(plan, LAB.denoisers, LAB.process, texts_SL[:16], prefix_length=prefix)
    np.testing.assert_allclose(found.scores["duel_nats"], bound.nats_S, rtol=1e-10)
    assert (found.scores["duel_tokens"] == LENGTH - prefix).all()
    estimate = found.estimates["duel_nll"]
    assert estimate.value == pytest.approx(bound.nats_S.sum() / (16 * (LENGTH - prefix)))
    assert estimate.low < estimate.value < estimate.high and estimate.n == 16
    assert (found.tokens_SL == texts_SL[:16]).all()
    _, asked = scored(plan, LAB.denoisers, LAB.process, texts_SL[:16], prefix_length=prefix)
    for role, one in asked.items():
        assert (found.forwards[role] == one.forwards_B.numpy()).all()
        assert (found.head_positions[role] == one.head_positions_B.numpy()).all()
    assert not {"entropy", "gen_ppl", "distinct_1"} & set(found.estimates)


def test_random_orders_are_bounded_by_the_orders_of_their_seeds(tmp_path: Path) -> None:
    held_out = HeldOut(texts_of(16, LENGTH))
    plan = plan_of("H5", LENGTH, policy=PolicySpec(name="random_order"))
    one, same, other = (
        measured([plan], held_out, tmp_path / name, blocks=seed_blocks(seed, 16, 8))[0]
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert one.scores["duel_nats"].tolist() == same.scores["duel_nats"].tolist()
    assert one.scores["duel_nats"].tolist() != other.scores["duel_nats"].tolist()


def test_over_all_texts_of_an_enumerable_world_probabilities_are_one(tmp_path: Path) -> None:
    lab = dataclasses.replace(oracle_lab(), scorer=None)
    real = lab.process.vocab_size - 1
    texts = np.stack(np.meshgrid(*[np.arange(real)] * 3, indexing="ij"), -1).reshape(-1, 3)
    given = np.zeros((len(texts), 2), dtype=np.int64)
    rows = np.concatenate([given, texts], axis=1)
    plan = plan_of("H2 L2", policy=LIKELIEST[1])
    (found,) = measured([plan], HeldOut(rows, 2), tmp_path, lab=lab,
                        blocks=(SeedBlock(0, 0, len(rows)),))  # fmt: skip
    assert np.exp(-found.scores["duel_nats"]).sum() == pytest.approx(1)


def test_keys_of_texts_are_of_the_texts_of_the_block_and_what_is_given() -> None:
    texts = texts_of(NUM, LENGTH)

    def keys(held_out: HeldOut) -> list[str]:
        return [identity_of(PLAN, block, BARE, held_out).key for block in BLOCKS]

    base = keys(HeldOut(texts))
    assert keys(HeldOut(np.concatenate([texts, texts[:3]]))) == base
    changed = texts.copy()
    changed[-1, -1] = (changed[-1, -1] + 1) % 9
    assert keys(HeldOut(changed))[:2] == base[:2] and keys(HeldOut(changed))[2] != base[2]
    assert not set(keys(HeldOut(texts, 2))) & set(base)
    # A text that is given whole is not a prompt.
    assert identity_of(PLAN, BLOCKS[0], BARE, Prompts.of(texts)).key not in base


@pytest.mark.parametrize(
    ("policy", "decoding", "message"),
    [
        ("low_confidence", {}, "set its parameter confidence = 'likeliest'"),
        ("p2", {}, "it takes tokens back"),
        ("remdm_cap", {}, "policy remdm_cap: .* no exact likelihood"),
        ("ancestral", {"temperature": 0.5}, "policy ancestral: .* its order is random"),
    ],
)
def test_policies_without_a_likelihood_are_refused_before_anything_runs(
    policy: str, decoding: dict, message: str, tmp_path: Path
) -> None:
    plan = plan_of("H5", LENGTH, policy=PolicySpec(name=policy), decoding=decoding)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=message) as caught:
        good = plan_of("H5", LENGTH, policy=LIKELIEST[0])
        measured([good, plan], HeldOut(texts_of(8, LENGTH)), tmp_path)
    assert "\n" not in str(caught.value) and not list(tmp_path.glob("evals/*"))


def test_texts_of_another_length_are_refused(tmp_path: Path) -> None:
    plan = plan_of("H5", LENGTH, policy=LIKELIEST[0])
    with pytest.raises(InputError, match="must have the plan's length 8, got 7"):
        measured([plan], HeldOut(texts_of(24, 7)), tmp_path)


# To other processes


@pytest.mark.parametrize(
    "given",
    [
        None,
        Prompts.of([[1, 2], [3, 4]]),
        Prompts.of([[9, 2], [3, 4]], padding_N=[1, 0]),
        prompts_of(task_of(["a", "ä\n"])),
        prompts_of(task_of(["a1", "b2"], scorer="regex", pattern=r"([a-z])\d")),
        HeldOut(texts_of(3, 4), 2),
        HeldOut(texts_of(1, 4)),
    ],
)
def test_what_is_given_comes_back_from_json_as_it_was(given: Given | None) -> None:
    block = SeedBlock(0, 1, 2)
    back = given_from_json(None if given is None else json.loads(json.dumps(given.to_json())))
    assert type(back) is type(given)
    if given is None or back is None:
        return
    assert back.digest == given.digest and back.digest_of(block) == given.digest_of(block)
    assert (back.of_block(block) == given.of_block(block)).all()
    assert back.prefix_length == given.prefix_length
    if isinstance(given, Prompts):
        assert isinstance(back, Prompts) and back.task == given.task
        assert given.task is None or back.task is not None


def test_a_task_needs_a_prompt_for_every_item() -> None:
    with pytest.raises(InputError, match="got 1 prompts for 2 items"):
        Prompts.of([[1, 2]], task_of(["a", "b"]))


def test_the_cost_of_a_plan_counts_what_is_given() -> None:
    evaluator = Evaluator(BARE, Store("unused"), prompts=HeldOut(texts_of(2, LENGTH), 3))
    free = Evaluator(BARE, Store("unused")).cost_of(OTHER).flops_total
    assert evaluator.cost_of(OTHER).flops_total < free
