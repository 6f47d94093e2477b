"""Estimates, measurements and the store of evaluations (no torch)."""

from schedlab.results.bootstrap import (
    Intervals,
    bootstrap_mean,
    bootstrap_ratio,
    bootstrap_statistic,
)
from schedlab.results.comparison import (
    agreement,
    independent_difference,
    paired_difference,
    paired_log_ppl_difference,
)
from schedlab.results.estimate import Estimate
from schedlab.results.measurement import Measurement, merge
from schedlab.results.plan_cost import PlanCost
from schedlab.results.record import BlockRecord, Identity, RoleCost, RoleUsage
from schedlab.results.seed_block import BLOCK_SIZE, SeedBlock, seed_blocks
from schedlab.results.store import Store

__all__ = [
    "BLOCK_SIZE",
    "BlockRecord",
    "Estimate",
    "Identity",
    "Intervals",
    "Measurement",
    "PlanCost",
    "RoleCost",
    "RoleUsage",
    "SeedBlock",
    "Store",
    "agreement",
    "bootstrap_mean",
    "bootstrap_ratio",
    "bootstrap_statistic",
    "independent_difference",
    "merge",
    "paired_difference",
    "paired_log_ppl_difference",
    "seed_blocks",
]
