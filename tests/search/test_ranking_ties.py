"""Plans that all gave the same texts have no rank correlation; the search must survive them."""

import numpy as np

from schedlab.search.ranking import kendall, rank_correlation


def test_a_quality_of_ties_correlates_with_nothing():
    score_N = np.arange(5.0)
    assert kendall(score_N, np.ones((3, 5))).tolist() == [0.0, 0.0, 0.0]
    ranking = rank_correlation(score_N, np.ones((4, 5)), np.ones((4, 5)), resamples=100)
    assert ranking.kendall.value == ranking.spearman.value == 0.0
