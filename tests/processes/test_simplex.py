"""The simplex process: moments, survival of the clean token, schedules, TESS's own numbers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from schedlab.errors import InputError
from schedlab.plan import ModelSchedule, Plan
from schedlab.processes import NOISE_SCHEDULES, SimplexProcess, alpha, level, time_grid
from schedlab.processes.uniform import UniformProcess

LARGE = 50_265  # RoBERTa's vocabulary
# P(the clean token has the largest value at level u), as the paper's K = 5 and cosine schedule
# have it at that vocabulary.
SURVIVAL = {0.75: 0.0005, 0.6: 0.004, 0.5: 0.015, 0.4: 0.077, 0.3: 0.385, 0.25: 0.718, 0.1: 1.0}
FOLDERS = ("simplex_tess", "simplex_tess_selfcond")


def tess(golden: Path, folder: str) -> dict[str, torch.Tensor]:
    with np.load(golden / folder / "simplex.npz", allow_pickle=False) as data:
        return {name: torch.from_numpy(data[name]) for name in data.files}


def cosine(t: float) -> torch.Tensor:
    return alpha("cosine")(torch.tensor(t, dtype=torch.float64))


@pytest.mark.parametrize("value", [5.0, 2.0])
@pytest.mark.parametrize("share", [0.0, 0.25, 0.9])
def test_moments_of_every_coordinate_are_the_closed_form(value, share):
    process, draws = SimplexProcess(7, value), 40_000
    noise = torch.randn(draws, 7, generator=torch.Generator().manual_seed(0)).double()
    X = process.noised(torch.full((draws,), 3), share, noise)
    mean_V = torch.full((7,), -value * share**0.5, dtype=torch.float64)
    mean_V[3] *= -1
    variance = value**2 * (1 - share)
    # 5 standard errors of 7 means and 7 variances: false-alarm rate 1e-5.
    assert ((X.mean(0) - mean_V).abs() < 5 * (variance / draws) ** 0.5).all()
    assert ((X.var(0) - variance).abs() < 5 * variance * (2 / draws) ** 0.5).all()
    # Coordinates are independent: 21 correlations, 5 standard errors.
    off_diagonal = torch.corrcoef(X.T) - torch.eye(7, dtype=torch.float64)
    assert off_diagonal.abs().max() < 5 / draws**0.5


def test_without_noise_the_point_of_the_token_is_left():
    X = SimplexProcess(4).noised(torch.tensor([[2, 0]]), 1.0, torch.ones(1, 2, 4))
    assert X.tolist() == [[[-5, -5, 5, -5], [5, -5, -5, -5]]]


def test_every_token_may_have_its_own_level():
    process = SimplexProcess(6)
    generator = torch.Generator().manual_seed(1)
    w = torch.randint(6, (3, 4), generator=generator)
    share = torch.rand(3, 4, generator=generator, dtype=torch.float64)
    noise = torch.randn(3, 4, 6, generator=generator)
    found = process.noised(w, share, noise.clone())
    for b in range(3):
        for i in range(4):
            a = share[b, i].item()
            point = torch.full((6,), -5.0)
            point[w[b, i]] = 5.0
            expected = a**0.5 * point + (1 - a) ** 0.5 * 5 * noise[b, i]
            torch.testing.assert_close(found[b, i], expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(process.noised(w[:1, :1], share[:1, :1], noise[:1, :1]), found[:1, :1])


def test_the_result_is_written_over_the_noise():
    # At V = 50,265 a second array of this size would be most of the memory.
    noise = torch.ones(2, 3, 4)
    assert SimplexProcess(4).noised(torch.zeros(2, 3, dtype=torch.int64), 0.5, noise) is noise


@pytest.mark.parametrize(("u", "expected"), SURVIVAL.items())
def test_the_clean_token_survives_as_often_as_is_published(u, expected):
    share, draws = cosine(u).item(), 200_000
    generator = np.random.default_rng(round(1000 * u))
    clean = 5 * (share**0.5 + (1 - share) ** 0.5 * generator.standard_normal(draws))
    # The largest of n normals is the normal quantile of a uniform to the power 1 / n.
    top = special.ndtri(generator.random(draws) ** (1 / (LARGE - 1)))
    survives = (clean > 5 * (-(share**0.5) + (1 - share) ** 0.5 * top)).mean()
    rounding = {0.75: 5e-5}.get(u, 5e-4)  # half a unit of the published digits
    # 5 standard errors: false-alarm rate 4e-6 for all levels.
    assert abs(survives - expected) < rounding + 5 * (expected * (1 - expected) / draws) ** 0.5


def test_the_clean_token_survives_as_often_in_a_whole_vocabulary():
    process, draws, size = SimplexProcess(LARGE), 500, 50
    generator = torch.Generator().manual_seed(2)
    levels = (0.4, 0.3, 0.25, 0.1)
    survived = dict.fromkeys(levels, 0)
    for _ in range(draws // size):
        noise = torch.randn(size, LARGE, generator=generator)
        w = torch.randint(LARGE, (size,), generator=generator)
        for u in levels:
            X = process.noised(w, cosine(u), noise.clone())
            survived[u] += int((X.argmax(-1) == w).sum())
    for u in levels:
        p = SURVIVAL[u]
        # 5 standard errors of a binomial share: false-alarm rate 2e-6.
        assert abs(survived[u] / draws - p) <= 5e-4 + 5 * (p * (1 - p) / draws) ** 0.5, u


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_cosine_schedule_is_that_of_tess(golden, folder):
    case = tess(golden, folder)
    for steps in (100, 5):
        found = alpha("cosine")(torch.arange(steps, dtype=torch.float64) / steps)
        expected = case[f"alphas_cumprod_{steps}"].double()
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("folder", FOLDERS)
def test_projection_step_and_noising_are_those_of_tess(golden, folder):
    case, process = tess(golden, folder), SimplexProcess(96)
    w = case["logits_conditional"].argmax(-1)
    projected = process.noised(w, 1.0, torch.zeros_like(case["noise"]))
    torch.testing.assert_close(projected, case["projected_simplex_argmax"], atol=1e-5, rtol=0)
    # The recorded noise is already times K.
    previous = process.noised(w, cosine((int(case["timestep"]) - 1) / 100), case["noise"] / 5)
    torch.testing.assert_close(previous, case["prev_sample"], atol=1e-5, rtol=0)
    share_B1 = alpha("cosine")(case["add_noise_timesteps"].double() / 100)[:, None]
    noised = process.noised(case["input_ids"], share_B1, case["noise"] / 5)
    torch.testing.assert_close(noised, case["add_noise_out"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", NOISE_SCHEDULES)
def test_schedules_fall_and_their_inverses_lead_back(name):
    t = torch.linspace(0, 1, 10_001, dtype=torch.float64)
    share = alpha(name)(t)
    assert share[0] == 1 and (share.diff() < 0).all() and share.min() >= 0
    torch.testing.assert_close(level(name)(share), t, atol=1e-9, rtol=0)


@pytest.mark.parametrize("name", NOISE_SCHEDULES)
def test_inverses_stay_inside_for_shares_at_the_ends(name):
    ends = torch.tensor([0.0, 1e-300, 1 - 1e-16, 1.0], dtype=torch.float64)
    t = level(name)(ends)
    assert ((t >= 0) & (t <= 1)).all()


@pytest.mark.parametrize("size", [*range(1, 20), 64])
def test_no_share_exceeds_one_however_many_are_computed_at_once(size):
    # Cosines of vectors and of single numbers may differ in the last bit; sqrt(1 - alpha) is NaN
    # above 1.
    for name in NOISE_SCHEDULES:
        assert alpha(name)(torch.zeros(size, dtype=torch.float64)).max() <= 1


@settings(max_examples=50, deadline=None)
@given(steps=st.integers(1, 3000))
def test_the_grid_of_tess_begins_a_step_late_and_ends_twice_at_zero(steps):
    grid = time_grid("tess", steps)
    expected = torch.arange(steps - 1, -2, -1).clamp(min=0).double() / steps
    assert grid.shape == (steps + 1,) and (grid >= 0).all()
    torch.testing.assert_close(grid, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("steps", [0, -4])
def test_the_grid_of_tess_needs_a_step(steps):
    with pytest.raises(InputError, match=f"number of steps must be >= 1, got {steps}"):
        time_grid("tess", steps)


def test_the_grid_of_tess_is_for_simplex_plans_alone():
    schedule = ModelSchedule.parse("H3")
    for process in ("masked", "uniform"):
        with pytest.raises(ValueError, match="tess"):
            Plan(length=2, model_schedule=schedule, process=process, time_grid="tess")
    Plan(length=2, model_schedule=schedule, process="simplex", time_grid="tess")


def test_vocabularies_of_one_token_and_values_without_size_are_refused():
    for make in (SimplexProcess, UniformProcess):
        with pytest.raises(InputError, match="at least 2 tokens"):
            make(1)
    for value in (0.0, -1.0, float("nan")):
        with pytest.raises(InputError, match="must be positive"):
            SimplexProcess(4, value)
    for lookup in (alpha, level):
        with pytest.raises(InputError, match="'square' is unknown"):
            lookup("square")
    with pytest.raises(InputError, match="'square' is unknown"):
        time_grid("square", 3)
