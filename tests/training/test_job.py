"""Job files: what is wrong is said in one line."""

import pytest

from schedlab.errors import InputError
from schedlab.job import load_job
from schedlab.training import read_train_job
from schedlab.training.job import RefineJob

GOOD = """
kind = "denoiser"
seed = 1
[model]
num_blocks = 2
[optimization]
num_steps = 10
learning_rate = 1e-3
"""


def test_defaults(tmp_path) -> None:
    (tmp_path / "job.toml").write_text(GOOD)
    job = read_train_job(tmp_path / "job.toml")
    assert (job.corpus, job.tokenizer) == ("embedded", "bundled")
    assert (job.model.hidden_size, job.optimization.learning_rate) == (128, 1e-3)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("num_steps", "num_step", "did you mean 'num_steps'"),
        ("num_steps = 10", "", "'optimization.num_steps' is missing"),
        ("num_steps = 10", "num_steps = 0", "must be positive"),
        ("num_steps = 10", "num_steps = '10'", "optimization.num_steps"),
        ('"denoiser"', '"denoisers"', "kind"),
        ("1e-3", "nan", "finite number"),
        ("1e-3", "-1.0", "learning_rate"),
        ("seed = 1", "seed = -1", "seed"),
        ("seed = 1", "seed = ", "not valid TOML"),
        ("num_steps = 10", "num_steps = 10\nema_decay = 1.0", "ema_decay"),
        ("num_steps = 10", "num_steps = 10\nsmallest_t = 0.0", "smallest_t"),
        ("num_steps = 10", "num_steps = 10\nfirst_largest_t = 0.0", "first_largest_t"),
        ("num_steps = 10", "num_steps = 10\nnoise_warmup_steps = -1", "noise_warmup_steps"),
    ],
)
def test_bad_jobs_are_one_line(tmp_path, old: str, new: str, expected: str) -> None:
    (tmp_path / "job.toml").write_text(GOOD.replace(old, new))
    with pytest.raises(InputError, match=expected) as caught:
        read_train_job(tmp_path / "job.toml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["heavy", "heavy-b", "light-4", "light-8", "scorer"])
def test_jobs_of_the_bundled_models(repository, name: str) -> None:
    job = read_train_job(repository / "analyses" / "bundled_models" / f"{name}.toml")
    heavy = read_train_job(repository / "analyses" / "bundled_models" / "heavy.toml")
    # Denoisers are comparable: equal tokens, width, length and text.
    assert job.optimization == heavy.optimization
    assert job.model.model_copy(update={"num_blocks": 12}) == heavy.model
    assert (job.corpus, job.tokenizer) == (heavy.corpus, heavy.tokenizer)


def test_jobs_of_the_uniform_state_pair(repository) -> None:
    folder = repository / "analyses" / "bundled_models"
    heavy, light = (
        read_train_job(folder / f"{name}.toml") for name in ("uniform", "uniform-light")
    )
    assert heavy.optimization == light.optimization
    assert heavy.model.model_copy(update={"num_blocks": 4}) == light.model


PROCESSES = ("masked", "uniform")


def test_every_arm_of_the_few_step_studies_is_trained_alike(repository) -> None:
    folder = repository / "analyses" / "few_steps"
    for process in PROCESSES:
        plain, drawn = (
            read_train_job(folder / f"refine-{process}{name}.toml") for name in ("", "-sampled")
        )
        assert isinstance(plain, RefineJob) and isinstance(drawn, RefineJob)
        assert plain.seeds == drawn.seeds and len(plain.seeds) == 3
        assert plain.optimization == drawn.optimization
        drift = drawn.refine.drift.model_copy(update={"lift": "soft"})
        refine = drawn.refine.model_copy(update={"arms": plain.refine.arms, "drift": drift})
        assert refine == plain.refine
    alone = ("refine-masked-wide", "ablation", "refine-masked-base", "refine-uniform-base")
    for name in (*alone, "large-masked", "large-uniform"):
        job = read_train_job(folder / f"{name}.toml")
        assert isinstance(job, RefineJob) and {"drift", "continue"} <= set(job.refine.arms)
    masked, uniform = (read_train_job(folder / f"large-{name}.toml") for name in PROCESSES)
    assert masked.optimization == uniform.optimization
    assert load_job(folder / "uniform-pair.toml").plan.process == "uniform"
