"""Estimates, measurements and the store of evaluations (no torch)."""

from schedlab.results.estimate import Estimate
from schedlab.results.seed_block import BLOCK_SIZE, SeedBlock, seed_blocks

__all__ = ["BLOCK_SIZE", "Estimate", "SeedBlock", "seed_blocks"]
