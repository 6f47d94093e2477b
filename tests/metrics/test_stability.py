"""Fluctuation, update-forgetting, key tokens and drops of confidence, by hand and by loops."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sacrebleu.metrics.bleu import BLEU

from schedlab.classifiers import ClassifierConfig, TextClassifier
from schedlab.denoisers.simplex_transformer import SimplexTransformer, SimplexTransformerConfig
from schedlab.errors import InputError
from schedlab.metrics.stability import Examples, StabilityTrace
from schedlab.metrics.stability_summary import StabilitySummary
from schedlab.metrics.step_distances import (
    bleu_distance,
    changed_keys,
    confidence_drop,
    hamming_distance,
    key_positions,
)
from schedlab.plan import ModelSchedule, Plan, PolicySpec
from schedlab.plan.guidance import Attribute, Guidance
from schedlab.processes import SimplexProcess
from schedlab.results.seed_block import SeedBlock
from schedlab.sampling import DenseStep, SequenceIds, sample_dense
from schedlab.sampling.guidance import Pull

V, L, T, GIVEN = 32, 12, 8, 3
FEW = 200  # resamples, where intervals are not what is tested


def tokens(rows: list[str]) -> torch.Tensor:
    """One letter a token."""
    return torch.tensor([[ord(letter) - ord("a") for letter in row] for row in rows])


def step_of(
    k: int,
    saw: list[str],
    wrote: list[str],
    guided: list[str] | None = None,
    norms: list[list[float]] | None = None,
    before: list[float] | None = None,
    last: list[float] | None = None,
) -> DenseStep:
    """A step; guided where it has norms, with p(label) before the first and last iteration."""
    size = tokens(wrote).shape
    pull = None
    if norms is not None:
        assert before is not None and last is not None
        log_p = [torch.tensor([p], dtype=torch.float64).log() for p in (before, last)]
        nan_B = torch.full((size[0],), math.nan)
        pull = Pull(torch.tensor(norms, dtype=torch.float64), *log_p, nan_B)
    levels_BL = torch.full(size, 1.0 - k / 3, dtype=torch.float64)
    guided_BL = tokens(wrote if guided is None else guided)
    return DenseStep(
        k, 1.0 - k / 3, tokens(saw), tokens(wrote), guided_BL, guided_BL + 1, levels_BL,
        torch.ones(size, dtype=torch.bool), torch.zeros(size), pull,
    )  # fmt: skip


def run_by_hand() -> list[DenseStep]:
    """Two sequences of 8, the first 2 given, 3 steps of which two are guided."""
    first = [[9.0, 9, 5, 4, 3, 2, 1, 0], [9, 9, 0, 1, 2, 3, 4, 5]]
    return [
        step_of(
            0, ["xxzzzzzz", "xxzzzzzz"], ["xxaaaaaa", "xxaaaaaa"], ["xxbbbaaa", "xxaaaaab"],
            first, before=[0.1, 0.2], last=[0.5, 0.6],
        ),
        step_of(
            1, ["xxbbbaaz", "xxaaaazz"], ["xxaaaaab", "xxaaaaab"], ["xxaaaaab", "xxcaaaab"],
            first, before=[0.3, 0.5], last=[0.7, 0.9],
        ),
        step_of(2, ["xxaaaaab", "xxcaaaab"], ["xxaaaaab", "xxaaaaab"]),
    ]  # fmt: skip


def watched(steps: list[DenseStep], **options: object) -> StabilityTrace:
    trace = StabilityTrace(**{"given": 2} | options)  # type: ignore[arg-type]
    for step in steps:
        trace(step)
    return trace


# Pure functions


def test_the_distance_is_the_share_of_positions_that_differ() -> None:
    found = hamming_distance([[1, 2, 3, 4], [1, 2, 3, 4]], [[1, 2, 4, 3], [1, 2, 3, 4]])
    np.testing.assert_array_equal(found, [0.5, 0.0])


BATCH = arrays(np.int64, (2, 6), elements=st.integers(0, 4))


@given(BATCH, BATCH, BATCH)
@settings(max_examples=40, deadline=None)
def test_the_share_of_differences_is_a_metric(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> None:
    between = hamming_distance(a, b)
    np.testing.assert_array_equal(between, hamming_distance(b, a))
    assert (hamming_distance(a, a) == 0).all() and ((between == 0) == (a == b).all(1)).all()
    assert (between <= hamming_distance(a, c) + hamming_distance(c, b) + 1e-12).all()


@given(BATCH, BATCH)
@settings(max_examples=40, deadline=None)
def test_the_bleu_distance_is_0_for_equal_texts_and_1_without_a_common_token(
    a: np.ndarray, b: np.ndarray
) -> None:
    found = bleu_distance(a, b)
    assert ((found >= 0) & (found <= 1)).all()
    np.testing.assert_array_equal(found == 0, (a == b).all(1))
    np.testing.assert_array_equal(bleu_distance(a, b + 5), 1.0)


def test_the_bleu_distance_is_that_of_the_ids_as_words() -> None:
    new, old = [[11, 2, 3, 4, 5, 6]], [[11, 2, 3, 4, 6, 5]]
    # n-gram matches 6/6, 3/5, 2/4, 1/3, no brevity penalty.
    expected = 1 - (1 * 0.6 * 0.5 / 3) ** 0.25
    np.testing.assert_allclose(bleu_distance(new, old), expected, rtol=1e-12)
    score = BLEU(effective_order=True, tokenize="none").sentence_score(
        "11 2 3 4 5 6", ["11 2 3 4 6 5"]
    )
    np.testing.assert_allclose(bleu_distance(new, old), 1 - score.score / 100)


def test_key_tokens_are_those_of_the_largest_norms_from_left() -> None:
    found = key_positions([[0, 3, 1, 3, 2, 9, 0]])
    np.testing.assert_array_equal(found, [[5, 1, 3, 4, 2]])
    np.testing.assert_array_equal(key_positions([[1.0, 2.0]]), [[1, 0]])


def test_changed_keys_are_counted_among_the_key_tokens_alone() -> None:
    found = changed_keys([[0, 2], [1, 3]], [[1, 1, 1, 1]] * 2, [[1, 0, 2, 0], [5, 1, 5, 1]])
    np.testing.assert_array_equal(found, [1, 0])


def test_the_drop_is_a_difference_of_probabilities_averaged_over_attributes() -> None:
    now, later = np.log([[0.9, 0.5], [0.7, 0.5]]), np.log([[0.4, 0.5], [0.6, 0.7]])
    np.testing.assert_allclose(confidence_drop(now, later), [0.3, -0.1])


def test_tokens_of_other_shapes_are_refused() -> None:
    for a, b in (([[1, 2]], [[1]]), ([1, 2], [1, 2]), (np.empty((1, 0)), np.empty((1, 0)))):
        with pytest.raises(InputError, match="alike"):
            hamming_distance(a, b)


# The collector, by hand


def test_every_measure_of_a_small_run_is_what_one_counts() -> None:
    found = watched(run_by_hand()).measures()
    np.testing.assert_allclose(found["outputs"], [[1 / 6, 0], [1 / 6, 0]])
    # bbbaaz and aaaazz against aaaaab; then both saw aaaaab and caaaab.
    np.testing.assert_allclose(found["input"], [[4 / 6, 0], [2 / 6, 1 / 6]])
    # bbbaaa and aaaaab against aaaaab; then aaaaab and caaaab.
    np.testing.assert_allclose(found["forgetting"], [[4 / 6, 0], [0, 1 / 6]])
    # Key tokens are all but the last of the first row, all but the first of the second.
    np.testing.assert_allclose(found["key_change"], [[3 / 5, 0], [0, 0]])
    np.testing.assert_allclose(found["drop"], [[0.2, np.nan], [0.1, np.nan]])


def test_the_summary_averages_over_pairs_and_sequences() -> None:
    found = watched(run_by_hand()).summary(resamples=FEW)
    assert (found.num_sequences, found.num_steps) == (2, 3)
    assert found.outputs.value == pytest.approx(1 / 12)
    assert found.input.value == pytest.approx(7 / 24)
    assert found.forgetting is not None and found.key_change is not None
    assert found.forgetting.value == pytest.approx(5 / 24)
    assert found.key_change.value == pytest.approx(3 / 20)
    assert found.outputs.n == found.forgetting.n == 2
    assert found.outputs_bleu is None


def test_a_drop_of_too_few_sequences_is_counted_without_an_interval() -> None:
    found = watched(run_by_hand()).summary(resamples=FEW)
    assert (found.changed.pairs, found.changed.sequences, found.changed.drop) == (1, 1, None)
    assert (found.others.pairs, found.others.sequences, found.others.drop) == (1, 1, None)
    assert found.difference is None


def test_drops_are_split_by_whether_most_key_tokens_changed() -> None:
    """Four sequences: those whose key tokens changed lose .2 and .4, the others .1 and 0."""
    many, few, norms = "bbbaa", "bbaaa", [[5.0, 4, 3, 2, 1]] * 4
    steps = [
        step_of(0, ["zzzzz"] * 4, ["aaaaa"] * 4, [many, many, few, few],
                norms, before=[0.5] * 4, last=[0.9] * 4),
        step_of(1, ["zzzzz"] * 4, ["aaaaa"] * 4, None,
                norms, before=[0.7, 0.5, 0.8, 0.9], last=[0.9] * 4),
    ]  # fmt: skip
    found = watched(steps, given=0).summary(resamples=FEW)
    assert (found.changed.pairs, found.changed.sequences) == (2, 2)
    assert found.changed.drop is not None and found.others.drop is not None
    assert found.changed.drop.value == pytest.approx(0.3)
    assert found.others.drop.value == pytest.approx(0.05)
    assert found.difference is not None and found.difference.value == pytest.approx(0.25)


def test_runs_without_guidance_have_fluctuation_alone() -> None:
    steps = [replace(step, pull=None) for step in run_by_hand()]
    trace = watched(steps)
    found = trace.summary(resamples=FEW)
    assert found.forgetting is None and found.key_change is None
    assert found.changed.pairs == found.others.pairs == 0
    assert set(trace.curves(resamples=FEW)) == {"outputs", "input"}
    assert (trace.kept_examples().key_ETK == -1).all()


def test_curves_have_the_steps_that_are_measured() -> None:
    curves = watched(run_by_hand()).curves(resamples=FEW)
    assert curves["outputs"].step_P.tolist() == curves["forgetting"].step_P.tolist() == [0, 1]
    assert curves["drop"].step_P.tolist() == [0]
    np.testing.assert_allclose(curves["input"].intervals.value, [1 / 2, 1 / 12])


def test_bleu_measures_the_same_pairs_on_request() -> None:
    trace = watched(run_by_hand(), bleu=True)
    found = trace.measures()
    kept = [step.output_BL[:, 2:] for step in run_by_hand()]
    expected = bleu_distance(kept[1], kept[0])
    np.testing.assert_allclose(found["outputs_bleu"][:, 0], expected)
    np.testing.assert_allclose(found["forgetting_bleu"][:, 0] == 0, [False, True])
    assert trace.summary(resamples=FEW).outputs_bleu is not None


def test_levels_and_examples_are_kept_as_they_were() -> None:
    steps = run_by_hand()
    trace = watched(steps, examples=1)
    levels = trace.mean_levels()
    assert np.isnan(levels[:, :2]).all()
    np.testing.assert_allclose(levels[:, 2:], [[1.0] * 6, [2 / 3] * 6, [1 / 3] * 6])
    shown = trace.kept_examples()
    np.testing.assert_array_equal(shown.output_ETL[0], [step.output_BL[0] for step in steps])
    np.testing.assert_array_equal(shown.guided_ETL[0], [step.guided_BL[0] for step in steps])
    np.testing.assert_array_equal(shown.drawn_ETL[0], [step.drawn_BL[0] for step in steps])
    np.testing.assert_array_equal(shown.key_ETK, [[[2, 3, 4, 5, 6]] * 2 + [[-1] * 5]])
    assert shown.levels_ETL.shape == (1, 3, 8)


def test_what_fills_up_the_last_batch_is_left_out() -> None:
    steps = run_by_hand()
    twice = watched(steps + steps, sequences=3, examples=9)
    found = twice.measures()["input"]
    np.testing.assert_allclose(found, watched(steps).measures()["input"][[0, 1, 0]])
    assert len(twice.kept_examples().output_ETL) == 3
    beyond = watched(steps + steps, sequences=2)
    assert beyond.summary(resamples=FEW) == watched(steps).summary(resamples=FEW)


def test_a_trace_that_saw_no_whole_run_says_so() -> None:
    steps = run_by_hand()
    with pytest.raises(InputError, match="no sequence was watched"):
        StabilityTrace().measures()
    with pytest.raises(InputError, match="in order, got 2 instead of 1"):
        watched([steps[0], steps[2]])
    with pytest.raises(InputError, match="whole runs"):
        watched(steps[:2] + steps).measures()
    with pytest.raises(InputError, match="given must leave"):
        watched(steps, given=8)
    with pytest.raises(InputError, match="at least 2 steps"):
        watched(steps[:1]).summary()
    without = [replace(steps[0], pull=None), *steps[1:]]
    with pytest.raises(InputError, match="guided at different steps"):
        watched(steps + without).measures()


# The collector on a run


@pytest.fixture(scope="module")
def run() -> Callable[..., list[DenseStep]]:
    """Sample with random networks, and the steps that were seen beside the trace."""
    generator = torch.Generator().manual_seed(5)
    config = SimplexTransformerConfig(
        vocab_size=V, num_blocks=1, hidden_size=16, num_heads=2, max_length=L
    )
    denoiser = SimplexTransformer(config)
    denoiser.init_weights(generator)
    # What it sees clearly it keeps, more or less.
    denoiser.head.weight.data.copy_(denoiser.embedding.weight).mul_(0.3)
    guide = TextClassifier(
        ClassifierConfig(
            vocab_size=V, labels=["bad", "good"], num_blocks=1, hidden_size=8, num_heads=2,
            max_length=L,
        )
    )  # fmt: skip
    guide.init_weights(generator)
    guide.head.weight.data.mul_(400.0)
    for network in (denoiser, guide):
        network.requires_grad_(False).eval()

    def sampled(trace: StabilityTrace, first: int, size: int, scale: float) -> list[DenseStep]:
        plan = Plan(
            length=L,
            model_schedule=ModelSchedule.constant("H", T),
            process="simplex",
            noise_schedule="cosine",
            policy=PolicySpec(name="tta_adaptive"),
            guidance=Guidance(attributes=[Attribute(classifier="guide")], scale=scale),
        )
        seen: list[DenseStep] = []

        def both(step: DenseStep) -> None:
            trace(step)
            seen.append(step)

        prefix_BP = torch.arange(GIVEN).expand(size, GIVEN)
        ids = SequenceIds.of([SeedBlock(seed=1, first=first, size=size)])
        sample_dense(
            plan, {"H": denoiser}, SimplexProcess(V), ids, prefix_BP,
            guides={"guide": guide}, trace=both,
        )  # fmt: skip
        return seen

    return sampled


@pytest.fixture(scope="module")
def traced(run: Callable[..., list[DenseStep]]) -> tuple[StabilityTrace, list[list[DenseStep]]]:
    trace = StabilityTrace(given=GIVEN, examples=3)
    return trace, [run(trace, 0, 2, 100.0), run(trace, 2, 3, 100.0)]


Traced = tuple[StabilityTrace, list[list[DenseStep]]]


def test_a_traced_run_is_measured_as_loops_over_positions_would(traced: Traced) -> None:
    trace, batches = traced
    expected: dict[str, list[list[float]]] = {
        name: [] for name in ("outputs", "input", "forgetting", "key_change", "drop")
    }
    many: list[list[bool]] = []
    free = range(GIVEN, L)
    for steps in batches:
        for row in range(len(steps[0].output_BL)):
            found: dict[str, list[float]] = {name: [] for name in expected}
            many.append([])
            for one, other in pairwise(steps):
                after = other.output_BL[row].tolist()
                for name, before_L in (
                    ("outputs", one.output_BL), ("input", other.input_BL),
                    ("forgetting", one.guided_BL),
                ):  # fmt: skip
                    before = before_L[row].tolist()
                    found[name].append(sum(before[i] != after[i] for i in free) / len(free))
                assert one.pull is not None  # all steps but the last are guided
                norm = one.pull.norm_BL[row].tolist()
                key = sorted(free, key=lambda i: (-norm[i], i))[:5]
                changed = sum(one.guided_BL[row].tolist()[i] != after[i] for i in key)
                found["key_change"].append(changed / 5)
                many[-1].append(changed >= 3)
                drop = math.nan
                if other.pull is not None:
                    drop = math.exp(one.pull.log_p_AB[0, row]) - math.exp(
                        other.pull.before_AB[0, row]
                    )
                found["drop"].append(drop)
            for name, values in found.items():
                expected[name].append(values)
    measured = trace.measures()
    assert set(measured) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(measured[name], values, rtol=1e-12, err_msg=name)
    np.testing.assert_array_equal(trace.many_changed(), many)


def test_a_traced_run_is_not_trivial(traced: Traced) -> None:
    """Else the loops above would compare zeros."""
    trace, _ = traced
    found = trace.measures()
    for name in ("outputs", "input", "forgetting", "key_change"):
        assert 0.05 < found[name].mean() < 0.98, name
    assert 0 < trace.many_changed().mean() < 1
    assert np.abs(found["drop"][:, :-1]).max() > 0.01 and np.isnan(found["drop"][:, -1]).all()


def test_the_summary_of_a_traced_run_adds_up(traced: Traced) -> None:
    trace, _ = traced
    found = trace.summary(resamples=FEW)
    assert found == StabilitySummary.model_validate(found.model_dump())
    drop_SP, many_SP = trace.measures()["drop"], trace.many_changed()
    assert found.changed.pairs + found.others.pairs == 5 * (T - 2)
    for drop, chosen in ((found.changed, many_SP), (found.others, ~many_SP)):
        assert drop.drop is not None
        assert drop.drop.value == pytest.approx(np.nanmean(drop_SP[chosen]))
        assert drop.drop.low <= drop.drop.value <= drop.drop.high
    assert found.input.value == pytest.approx(trace.measures()["input"].mean())


def test_examples_and_levels_of_a_traced_run_are_those_of_its_steps(traced: Traced) -> None:
    trace, (one, other) = traced
    shown: Examples = trace.kept_examples()
    assert shown.output_ETL.shape == (3, T, L) and shown.key_ETK.shape == (3, T, 5)
    np.testing.assert_array_equal(shown.drawn_ETL[:2, 4], one[4].drawn_BL)
    np.testing.assert_array_equal(shown.drawn_ETL[2, 4], other[4].drawn_BL[0])
    assert (shown.output_ETL[..., :GIVEN] == np.arange(GIVEN)).all()
    assert (shown.key_ETK[:, :-1] >= GIVEN).all() and (shown.key_ETK[:, -1] == -1).all()
    mean_TL = trace.mean_levels()
    for k in range(T):
        levels = torch.cat((one[k].levels_BL, other[k].levels_BL)).mean(0)
        np.testing.assert_allclose(mean_TL[k, GIVEN:], levels[GIVEN:])
    assert np.isnan(mean_TL[:, :GIVEN]).all()


def test_guidance_that_moves_nothing_forgets_as_much_as_outputs_fluctuate(
    run: Callable[..., list[DenseStep]],
) -> None:
    trace = StabilityTrace(given=GIVEN)
    run(trace, 0, 2, 0.0)
    found = trace.measures()
    np.testing.assert_array_equal(found["forgetting"], found["outputs"])
