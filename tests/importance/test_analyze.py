from dataclasses import dataclass

import numpy as np
import pytest
import torch

from schedlab.denoisers.transformer import Transformer, TransformerConfig
from schedlab.errors import InputError
from schedlab.importance import analyze
from schedlab.plan import ModelSchedule
from schedlab.plan.importance_config import ImportanceConfig
from schedlab.processes import MaskedProcess
from schedlab.results.importance_file import ImportanceFile, read_arrays
from tests.importance import brute_force
from tests.importance.toy_panel import exact_forward, panel_of, tables

WORLD = brute_force.toy(num_real=3, length=4)


@dataclass(frozen=True)
class ToyLab:
    denoisers: dict
    process: MaskedProcess
    precision: str = "float64"
    device: str = "cpu"


@dataclass(frozen=True)
class ToyWindows:
    tokens_SL: np.ndarray


LAB = ToyLab(tables(WORLD), MaskedProcess(WORLD.vocab_size, WORLD.mask_id))


def windows(num: int) -> ToyWindows:
    return ToyWindows(WORLD.draw(num, torch.Generator().manual_seed(9)).numpy())


def config_of(**settings) -> ImportanceConfig:
    small = {
        "num_steps": 6,
        "levels": 6,
        "sampled_sequences": 40,
        "propagation_sequences": 20,
        "propagation_segments": 3,
        "bootstrap_resamples": 200,
    }
    return ImportanceConfig(**small | settings)


@pytest.fixture(scope="module")
def result():
    return analyze(LAB, windows(60), config_of(prefix_length=2), corpus_fingerprint="abc")


def test_everything_is_there_without_and_with_a_prefix(result):
    file = result.file
    per_pair = {"loss_gap", "abs_loss_gap", "kl_heavy_light", "kl_light_heavy", "js"}
    for prefix in (False, True):
        own = [curve for curve in file.curves if curve.prefix == prefix]
        forward = {(c.metric, *c.roles) for c in own if c.states == "forward"}
        expected = {("cross_entropy", role) for role in ("H", "L", "M", "Hb")}
        expected |= {(metric, "H", role) for metric in per_pair for role in ("L", "M", "Hb")}
        expected |= {("relative_kl", "H", role) for role in ("L", "M")}
        assert forward == expected
        visited = {(c.metric, *c.roles) for c in own if c.states == "heavy_sampler"}
        assert visited == {names for names in expected if names[0] in ("js", "relative_kl")} | {
            (metric, "H", role)
            for metric in ("kl_heavy_light", "kl_light_heavy")
            for role in ("L", "M", "Hb")
        }
        scores = [s for s in file.step_scores if s.prefix == prefix]
        assert [(s.light, s.states) for s in scores] == [
            ("L", "forward"), ("M", "forward"), ("L", "heavy_sampler"), ("M", "heavy_sampler")
        ]  # fmt: skip
        assert [p.segment for p in file.propagation if p.prefix == prefix] == [0, 1, 2]
        assert len([s for s in file.significance if s.prefix == prefix]) == 4
    assert file.nelbo.keys() == file.nelbo_given_prefix.keys() == {"H", "L", "M", "Hb"}
    assert len({curve.id for curve in file.curves}) == len(file.curves)
    assert file.setting.num_steps == file.setting.levels == 6
    assert file.setting.corpus_fingerprint == "abc"
    assert file.setting.denoisers["L"] == tables(WORLD)["L"].fingerprint


def test_every_value_lies_in_its_interval(result):
    for curve in result.file.curves:
        assert (np.array(curve.low) <= np.array(curve.value) + 1e-12).all(), curve.id
        assert (np.array(curve.value) <= np.array(curve.high) + 1e-12).all(), curve.id
        assert curve.n == (60 if curve.states == "forward" else 40)
        assert curve.t == pytest.approx(1 - np.arange(6) / 6)


def test_step_scores_sum_to_the_difference_of_nelbos(result):
    """All steps light: the additive cost is light's NELBO minus heavy's, by construction."""
    for prefix, nelbo in ((False, result.file.nelbo), (True, result.file.nelbo_given_prefix)):
        scores = result.file.scores("L", prefix=prefix)
        assert sum(scores.loss_gap) == pytest.approx(nelbo["L"].value - nelbo["H"].value)
        gap = next(
            test
            for test in result.file.significance
            if (test.light, test.metric, test.prefix) == ("L", "loss_gap", prefix)
        )
        assert gap.mean_gap.value == pytest.approx(sum(scores.loss_gap))
        assert gap.significant == gap.mean_gap.excludes(0)


def test_curves_are_the_scores_without_their_weights(result):
    """loss_gap_k is r_k E[masked] / L times the curve; that factor is 1 / T on average."""
    curve = result.file.curve("loss_gap", "H", "L")
    masked_K = result.arrays["forward/masked"].mean(0)
    reveal_K = result.arrays["forward/reveal_prob"][0]
    scores = result.file.scores("L").loss_gap
    assert scores == pytest.approx(reveal_K * masked_K / 4 * np.array(curve.value))


def test_many_windows_approach_the_exact_nelbo():
    found = analyze(
        LAB, windows(4_000), config_of(states=["forward"], propagation_sequences=0)
    ).file
    exact = exact_forward(WORLD, panel_of(WORLD), 6)
    for role, estimate in found.nelbo.items():
        truth = exact.per_step(f"cross_entropy/{role}").sum()
        assert estimate.value == pytest.approx(truth, rel=0.03)
        assert estimate.high - estimate.low < 0.1 * truth
    gaps = {(test.light, test.metric): test for test in found.significance}
    assert all(test.significant for test in gaps.values())
    assert gaps["L", "loss_gap"].mean_gap.value > gaps["M", "loss_gap"].mean_gap.value > 0
    # Closer to heavy than the second heavy one is: as significant, with the other sign.
    assert gaps["M", "relative_kl"].mean_gap.high < 0 < gaps["L", "relative_kl"].mean_gap.low
    assert not found.propagation
    assert found.setting.sampled_sequences == 0


def test_a_light_that_is_heavy_is_not_significant():
    lab = ToyLab({"H": LAB.denoisers["H"], "L": LAB.denoisers["H"]}, LAB.process)
    found = analyze(lab, windows(50), config_of(lights=["L"], heavy_b=None)).file
    assert [test.metric for test in found.significance] == ["loss_gap"]
    assert not found.significance[0].significant
    assert found.significance[0].mean_gap.high == 0
    assert all(swap.changed_tokens.value == 0 for swap in found.propagation)


def test_the_same_seed_gives_the_same_file_and_another_seed_another(result):
    again = analyze(LAB, windows(60), config_of(prefix_length=2), corpus_fingerprint="abc")
    assert again.file == result.file
    other = analyze(LAB, windows(60), config_of(prefix_length=2, seed=1))
    assert other.file.nelbo["H"].value != result.file.nelbo["H"].value


def test_files_survive_a_round_trip(result, tmp_path):
    result.write(tmp_path)
    assert ImportanceFile.read(tmp_path / "importance.json") == result.file
    arrays = read_arrays(tmp_path / "importance.npz")
    assert arrays.keys() == result.arrays.keys()
    np.testing.assert_array_equal(
        arrays["prefix/heavy_sampler/kl_heavy_light/H/L"],
        result.arrays["prefix/heavy_sampler/kl_heavy_light/H/L"],
    )
    first = (tmp_path / "importance.npz").read_bytes()
    result.write(tmp_path)
    assert (tmp_path / "importance.npz").read_bytes() == first


def test_progress_reaches_the_end_of_every_stage():
    told: dict[str, list[tuple[int, int]]] = {}
    config = config_of(max_batch_tokens=40)
    analyze(LAB, windows(15), config, lambda stage, *of: told.setdefault(stage, []).append(of))
    assert list(told) == ["held-out text", "heavy's trajectories", "swapped segments"]
    for steps in told.values():
        done = [now for now, _ in steps]
        assert done == sorted(done)
        assert steps[-1][0] == steps[-1][1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lights": ["H"]}, "roles must differ"),
        ({"levels": 9}, "multiple"),
        ({"propagation_sequences": 1}, "at least 2"),
        ({"propagation_segments": 7}, "must not exceed the 6 steps"),
        ({"propagation_lights": ["Hb"]}, "must be among lights"),
    ],
)
def test_settings_that_contradict_themselves_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        config_of(**settings)


def test_default_levels_are_the_steps_or_their_refinement():
    assert ImportanceConfig().num_levels == 50
    assert ImportanceConfig(num_steps=20).num_levels == 60
    assert ImportanceConfig(num_steps=1000).num_levels == 1000
    assert ImportanceConfig(num_steps=1000, levels=50).num_levels == 50


@pytest.mark.parametrize(
    ("tokens", "settings", "message"),
    [
        (windows(1).tokens_SL, {}, "at least 2"),
        (np.full((4, 4), WORLD.mask_id), {}, "without the mask"),
        (np.full((4, 4), 99), {}, "check the tokeniser"),
        (np.zeros((4, 5), dtype=np.int64), {}, "longer than the 4"),
        (windows(60).tokens_SL, {"prefix_length": 4}, "prefix_length must be below"),
        (windows(5).tokens_SL, {"prefix_length": 1}, "need as many windows"),
        (windows(5).tokens_SL, {"heavy_b": "X"}, "role 'X' has no denoiser"),
    ],
)
def test_text_that_does_not_fit_is_refused_in_one_line(tokens, settings, message):
    with pytest.raises(InputError, match=message) as caught:
        analyze(LAB, ToyWindows(tokens), config_of(**settings))
    assert "\n" not in str(caught.value)


def test_scores_read_a_schedule_as_its_excess_bound(result):
    """How a schedule is scored: sum over its light steps."""
    schedule = ModelSchedule.parse("L2 H3 L1")
    scores = result.file.scores("L", states="heavy_sampler").path_kl
    cost = sum(score for score, role in zip(scores, schedule.steps, strict=True) if role == "L")
    assert 0 < cost < sum(scores)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_networks_of_every_precision_are_compared(dtype):
    """The same weights in H and L: exactly no gap; other weights in Hb: some."""
    networks = {}
    for role, seed in (("H", 0), ("L", 0), ("Hb", 1)):
        config = TransformerConfig(
            vocab_size=12, mask_id=11, num_blocks=2, hidden_size=16, num_heads=2, max_length=8
        )
        network = Transformer(config)
        network.init_weights(torch.Generator().manual_seed(seed))
        network.head.weight.data.mul_(100)  # else untrained predictions are all but uniform
        networks[role] = network.to(dtype).eval()
    lab = ToyLab(networks, MaskedProcess(12, 11), precision=str(dtype).removeprefix("torch."))
    text = ToyWindows(np.random.default_rng(0).integers(0, 11, size=(6, 8)))
    found = analyze(lab, text, config_of(lights=["L"], prefix_length=3, sampled_sequences=5,
                                         propagation_sequences=4)).file  # fmt: skip
    assert found.scores("L").path_kl == found.scores("L").loss_gap == [0.0] * 6
    assert min(found.curve("kl_heavy_light", "H", "Hb").value) > 0
    assert found.setting.precision == str(dtype).removeprefix("torch.")
