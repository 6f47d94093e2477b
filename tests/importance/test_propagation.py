import numpy as np
import pytest
import torch

from schedlab.importance import swap_sums
from schedlab.importance.estimates import Estimator
from schedlab.plan import ModelSchedule, Plan
from schedlab.sampling import advance, sample, start
from tests.importance import brute_force
from tests.importance.toy_panel import ids_of, panel_of, tables

WORLD = brute_force.toy(num_real=3, length=4)
NUM_STEPS, NUM_SEGMENTS, NUM = 8, 4, 150


def swaps(panel=None, **settings):
    settings = {
        "lights": ["L", "M"],
        "num_steps": NUM_STEPS,
        "num_segments": NUM_SEGMENTS,
    } | settings
    return swap_sums(panel or panel_of(WORLD), ids_of(NUM), length=WORLD.length, **settings)


def final_tokens(schedule: str, prefix=None) -> torch.Tensor:
    plan = Plan(length=WORLD.length, model_schedule=ModelSchedule.parse(schedule))
    panel = panel_of(WORLD)
    return sample(plan, panel.denoisers, panel.process, ids_of(NUM), prefix).z_BL


@pytest.fixture(scope="module")
def found():
    return swaps()


def test_counts_are_those_of_two_whole_samplers_with_common_noise(found):
    """The branching shortcut against running every schedule from start to end."""
    heavy = final_tokens("H8")
    schedules = ["{}2 H6", "H2 {}2 H4", "H4 {}2 H2", "H6 {}2"]
    for light in ("L", "M"):
        for j, schedule in enumerate(schedules):
            changed = (final_tokens(schedule.format(light)) != heavy).sum(1)
            assert changed.sum() > 0
            np.testing.assert_array_equal(found[light].changed_SJ[:, j], changed)


def test_own_changes_are_those_right_after_the_segment_and_the_rest_propagated(found):
    panel = panel_of(WORLD)
    plan = Plan(length=WORLD.length, model_schedule=ModelSchedule.parse("H8"))
    state = start(plan, panel.process, ids_of(NUM))
    for j in range(NUM_SEGMENTS):
        heavy, swapped = (
            advance(state, plan, panel.process, panel.denoisers[role], role, 2 * j, 2 * j + 2)
            for role in "HL"
        )
        own = (heavy.z_BL != swapped.z_BL).sum(1)
        np.testing.assert_array_equal(found["L"].own_SJ[:, j], own)
        state = heavy
    spread = found["L"].changed_SJ - found["L"].own_SJ
    assert spread.min() >= 0 and spread[:, 0].sum() > 0
    assert not spread[:, -1].any()  # nothing comes after the last segment


def test_kl_of_the_next_prediction_matches_direct_computation(found):
    panel = panel_of(WORLD)
    plan = Plan(length=WORLD.length, model_schedule=ModelSchedule.parse("H8"))
    begun = start(plan, panel.process, ids_of(NUM))
    begun = advance(begun, plan, panel.process, panel.denoisers["H"], "H", 0, 2)
    z_heavy, z_swapped = (
        advance(begun, plan, panel.process, panel.denoisers[role], role, 2, 4).z_BL
        for role in "HL"
    )
    probs_ZLV = brute_force.probs_of(tables(WORLD)["H"])
    powers = WORLD.vocab_size ** np.arange(WORLD.length - 1, -1, -1)
    p, q = (probs_ZLV[z.numpy() @ powers] for z in (z_heavy, z_swapped))
    masked = (z_heavy == WORLD.mask_id).numpy()
    assert (masked == (z_swapped == WORLD.mask_id).numpy()).all()
    p, q = p[..., :-1], q[..., :-1]
    expected = ((p * np.log(p / q)).sum(-1) * masked).sum(-1)
    assert expected.max() > 0.01
    np.testing.assert_allclose(found["L"].kl_next_SJ[:, 1], expected, atol=1e-12)
    np.testing.assert_array_equal(found["L"].masked_SJ[:, 1], masked.sum(-1))


def test_swapping_a_denoiser_for_itself_changes_no_token():
    same = swaps(panel_of(WORLD).with_denoiser("L", tables(WORLD)["H"]), lights=["L"])["L"]
    assert not same.changed_SJ.any()
    assert not same.kl_next_SJ.any()
    assert same.masked_SJ[:, 0].any()


def test_results_do_not_depend_on_the_batch_size(found):
    small = swaps(max_batch_tokens=7 * WORLD.length)
    for light, sums in found.items():
        for name in ("changed_SJ", "own_SJ", "kl_next_SJ", "masked_SJ"):
            np.testing.assert_allclose(
                getattr(small[light], name), getattr(sums, name), atol=1e-12, err_msg=name
            )


def test_a_prefix_is_given_and_not_counted():
    prefix = WORLD.draw(NUM, torch.Generator().manual_seed(2))[:, :2]
    sums = swaps(prefix_SP=prefix, lights=["L"])["L"]
    changed = (final_tokens("L2 H6", prefix) != final_tokens("H8", prefix)).sum(1)
    np.testing.assert_array_equal(sums.changed_SJ[:, 0], changed)
    assert sums.num_free == 2
    assert sums.masked_SJ.max() <= 2


def test_estimates_are_shares_with_intervals_and_none_where_nothing_follows(found):
    estimator = Estimator(heavy="H", prefix=False, resamples=500, seed=0)
    records = estimator.propagation(found["L"], "L")
    assert [(record.t_from, record.t_to) for record in records] == [
        (1.0, 0.75), (0.75, 0.5), (0.5, 0.25), (0.25, 0.0)
    ]  # fmt: skip
    for j, record in enumerate(records):
        share = found["L"].changed_SJ[:, j].mean() / WORLD.length
        assert record.changed_tokens.value == pytest.approx(share)
        assert 0 <= record.changed_tokens.low < share < record.changed_tokens.high <= 1
    assert records[-1].kl_next is None  # no mask is left
    assert records[-1].propagated_tokens is None
    spread = (found["L"].changed_SJ - found["L"].own_SJ).mean(0) / WORLD.length
    assert records[0].propagated_tokens.value == pytest.approx(spread[0])
    assert records[0].kl_next.low > 0
