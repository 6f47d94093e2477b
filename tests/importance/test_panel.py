import pytest
import torch

from schedlab.denoisers.oracle import TableDenoiser
from schedlab.errors import InputError, SchedlabError
from schedlab.importance import NoiseLevels, Panel, forward_sums, heavy_sampler_sums
from schedlab.importance.heavy_states import RememberedRows
from schedlab.sampling import SequenceIds
from tests.importance import brute_force
from tests.importance.toy_panel import ids_of, panel_of, tables

WORLD = brute_force.toy(num_real=3, length=4)


@pytest.fixture(autouse=True)
def one_row_a_call(monkeypatch):
    """No row is there only to fill a call up, so that what was asked for can be counted."""
    monkeypatch.setattr("schedlab.sampling.forwards.CPU_POSITIONS", 16)


class Recorder:
    """A denoiser that remembers what it was asked."""

    def __init__(self, denoiser: TableDenoiser) -> None:
        self.denoiser, self.seen, self.positions = denoiser, [], 0
        self.spec, self.fingerprint = denoiser.spec, denoiser.fingerprint

    def features(self, z_BL, t_B=None):
        self.seen.append(z_BL.clone())
        return self.denoiser.features(z_BL, t_B)

    def logits(self, features_ND):
        self.positions += len(features_ND)
        return self.denoiser.logits(features_ND)

    @property
    def states(self) -> torch.Tensor:
        return torch.cat(self.seen)


def recording(panel: Panel) -> tuple[Panel, dict[str, Recorder]]:
    recorders = {role: Recorder(tables(WORLD)[role]) for role in panel.roles}
    for role, recorder in recorders.items():
        panel = panel.with_denoiser(role, recorder)
    return panel, recorders


def held_out(num: int) -> torch.Tensor:
    return WORLD.draw(num, torch.Generator().manual_seed(1))


def test_all_denoisers_see_the_same_noisy_sequences_once():
    panel, recorders = recording(panel_of(WORLD))
    sums = forward_sums(panel, held_out(10), ids_of(10), NoiseLevels(5, 5), max_batch_tokens=12)
    for recorder in recorders.values():
        assert torch.equal(recorder.states, recorders["H"].states)
        assert recorder.positions == sums.masked_SK.sum()
    assert len(recorders["H"].states) == 10 * 5
    assert max(len(z) for z in recorders["H"].seen) == 3


def test_noise_depends_on_the_sequences_address_alone():
    """Neither on the batch size, nor on the other sequences, nor on who is compared."""
    x_SL, levels = held_out(9), NoiseLevels(5, 5)
    whole = forward_sums(panel_of(WORLD), x_SL, ids_of(9), levels)
    small = forward_sums(
        panel_of(WORLD, head_budget_bytes=1 << 9), x_SL, ids_of(9), levels, max_batch_tokens=4
    )
    rows = torch.tensor([7, 2])
    some = forward_sums(panel_of(WORLD), x_SL[rows], ids_of(9).pick(rows), levels)
    for name, array in whole.metrics.items():
        assert small.metrics[name] == pytest.approx(array, abs=1e-13), name
        assert some.metrics[name] == pytest.approx(array[[7, 2]], abs=1e-13), name
    other = SequenceIds(torch.ones(9, dtype=torch.int64), torch.arange(9))
    assert (forward_sums(panel_of(WORLD), x_SL, other, levels).masked_SK != whole.masked_SK).any()


def test_levels_of_one_sequence_are_noised_independently():
    """Nested masks (one uniform for all levels) would make counts fall monotonically."""
    sums = forward_sums(panel_of(WORLD), held_out(200), ids_of(200), NoiseLevels(5, 5))
    assert (sums.masked_SK[:, 1:] > sums.masked_SK[:, :-1]).any()
    assert (sums.masked_SK[:, 0] == WORLD.length).all()


def test_a_prefix_is_never_masked_and_not_counted():
    panel, recorders = recording(panel_of(WORLD))
    x_SL = held_out(20)
    sums = forward_sums(panel, x_SL, ids_of(20), NoiseLevels(4, 4), prefix_length=3)
    states = recorders["H"].states.reshape(20, 4, WORLD.length)
    assert torch.equal(states[..., :3], x_SL[:, None, :3].expand(-1, 4, -1))
    assert sums.num_free == 1
    assert sums.masked_SK.max() == 1
    assert (sums.masked_SK[:, 0] == 1).all()


def test_the_sampler_carries_its_prefix():
    panel, recorders = recording(panel_of(WORLD))
    prefix_SP = held_out(20)[:, :2]
    sums = heavy_sampler_sums(panel, ids_of(20), num_steps=4, length=4, prefix_SP=prefix_SP)
    known = {tuple(row) for row in prefix_SP.tolist()}
    assert {tuple(row[:2]) for row in recorders["L"].states.tolist()} <= known
    assert sums.num_free == 2
    assert (sums.masked_SK[:, 0] == 2).all()


def test_heavy_computes_every_state_of_its_trajectory_once():
    """Measuring a state and sampling from it share one forward; states that stay cost none."""
    panel, recorders = recording(panel_of(WORLD))
    sums = heavy_sampler_sums(panel, ids_of(1), num_steps=40, length=4)
    masked_K = sums.masked_SK[0]
    distinct = 1 + (masked_K[1:] != masked_K[:-1])[masked_K[1:] > 0].sum()
    for recorder in recorders.values():
        assert len(recorder.states) == distinct < 6


def test_remembered_rows_answer_as_the_denoiser_does():
    denoiser = tables(WORLD)["H"]
    remembered = RememberedRows(denoiser)
    z_BL = WORLD.noisy()[[3, 8, 3, 200]]
    expected = denoiser.features(z_BL)
    assert torch.equal(remembered.features(z_BL), expected)
    remembered.keep_only(z_BL[1:2])
    assert torch.equal(remembered.features(z_BL.flip(0)), expected.flip(0))


def test_trajectories_do_not_depend_on_the_batch_size():
    whole = heavy_sampler_sums(panel_of(WORLD), ids_of(7), num_steps=6, length=4)
    single = heavy_sampler_sums(
        panel_of(WORLD), ids_of(7), num_steps=6, length=4, max_batch_tokens=1
    )
    for name, array in whole.metrics.items():
        assert single.metrics[name] == pytest.approx(array, abs=1e-13), name


def test_a_denoiser_swapped_for_itself_costs_exactly_nothing():
    panel = panel_of(WORLD).with_denoiser("L", tables(WORLD)["H"])
    for sums in (
        forward_sums(panel, held_out(10), ids_of(10), NoiseLevels(5, 5)),
        heavy_sampler_sums(panel, ids_of(10), num_steps=5, length=4),
    ):
        for metric in ("loss_gap", "abs_loss_gap", "kl_heavy_light", "kl_light_heavy", "js"):
            assert not sums.metrics.get(f"{metric}/H/L", torch.zeros(1).numpy()).any(), metric


def test_relative_kl_subtracts_the_second_heavy_one_on_the_same_states():
    metrics = forward_sums(panel_of(WORLD), held_out(6), ids_of(6), NoiseLevels(5, 5)).metrics
    expected = metrics["kl_heavy_light/H/L"] - metrics["kl_heavy_light/H/Hb"]
    assert metrics["relative_kl/H/L"] == pytest.approx(expected)
    assert "relative_kl/H/Hb" not in metrics


def test_logits_that_are_not_finite_end_in_one_line():
    table = tables(WORLD)["L"].log_probs_ZLV.clone()
    table[-1] = torch.nan
    panel = panel_of(WORLD).with_denoiser("L", TableDenoiser(table))
    with pytest.raises(SchedlabError, match="cross_entropy/L is not finite"):
        forward_sums(panel, held_out(4), ids_of(4), NoiseLevels(5, 5))
    with pytest.raises(SchedlabError, match="kl_heavy_light/H/L is not finite"):
        heavy_sampler_sums(panel, ids_of(4), num_steps=5, length=4)


def test_a_missing_role_is_named():
    with pytest.raises(InputError, match="role 'Hb' has no denoiser"):
        Panel(
            {role: tables(WORLD)[role] for role in "HLM"},
            panel_of(WORLD).process,
            heavy="H",
            lights=("L",),
            heavy_b="Hb",
        )
