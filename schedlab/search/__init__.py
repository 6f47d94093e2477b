"""Search over model schedules: spaces, additive and exhaustive search, Optuna, fronts and picks.

Never imports torch: plans are run by an `evaluate(plans, seed_blocks)` that is passed in, so
search is tested with a fake one. (Optuna's Gaussian-process sampler loads torch by itself when it
is used.)
"""
