"""Differences between plans of a joint search: paired where the file holds columns."""

import numpy as np
import pytest
import synthetic_control as synthetic

from schedlab.report.control_pairs import control_gap, entropy_gap, how, log_ppl_gap
from schedlab.report.control_plans import Measured
from schedlab.results.bootstrap import bootstrap_mean, bootstrap_statistic


def measured(file, row, columns):
    return Measured(file.row(row.digest), row.model_copy(update={"columns": columns}))


@pytest.fixture
def pair():
    file = synthetic.control()
    rng = np.random.default_rng(0)
    n, common = 200, rng.random(200)
    # Plans that go together: what one has too, the other mostly has.
    columns = [
        {
            "control": tuple((common < level).astype(float)),
            "entropy": tuple(3.0 + common + shift),
            "nll": tuple(100.0 * (1 + common) * (1 + shift)),
            "scored_tokens": (50.0,) * n,
        }
        for level, shift in ((0.8, 0.1), (0.7, 0.0))
    ]
    return file, tuple(measured(file, row, c) for row, c in zip(file.fresh, columns, strict=False))


def test_paired_differences_are_those_of_the_columns(pair):
    _, (one, other) = pair
    own, its = (np.array(plan.fresh.columns["control"]) for plan in (one, other))
    assert control_gap([(one, other)]) == bootstrap_mean(own - its).estimate()
    # The pairs of a mean are paired with each other as well: a plan against itself adds nothing.
    half = control_gap([(one, other), (one, one)])
    assert half.value == pytest.approx((own - its).mean() / 2)
    entropy = entropy_gap((one, other))
    assert entropy.value == pytest.approx(0.1)
    # Nearly constant: unpaired, the spread of the texts would be in it.
    assert entropy.high - entropy.low < 1e-6


def test_the_gap_in_perplexity_is_one_of_ratios_of_sums(pair):
    _, (one, other) = pair
    columns = [
        np.array(p.fresh.columns[k]) for p in (one, other) for k in ("nll", "scored_tokens")
    ]
    expected = bootstrap_statistic(lambda a, b, c, d: a / b - c / d, *columns).estimate()
    found = log_ppl_gap([(one, other)])
    assert found.value == pytest.approx(expected.value)
    assert found.low == pytest.approx(expected.low) and found.high == pytest.approx(expected.high)


def test_without_columns_differences_are_wider_and_the_reader_is_told():
    file = synthetic.control()
    one, other = (measured(file, row, {}) for row in file.fresh[:2])
    found = control_gap([(one, other)])
    assert found.value == pytest.approx(one.fresh.control.value - other.fresh.control.value)
    assert "as if unpaired" in how(file)


def test_columns_of_other_lengths_are_not_paired(pair):
    _, (one, other) = pair
    short = other.fresh.model_copy(update={"columns": {"control": (1.0, 0.0)}})
    found = control_gap([(one, Measured(other.row, short))])
    assert found.value == pytest.approx(one.fresh.control.value - other.fresh.control.value)
