"""A finished search over policies with planted truths, of every quality.

The tuned policy is better than `threshold` by `BETTER` at every cost, worse than `klass`, and not
told apart from `dream_threshold`.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "search"))

from planted_policies import PolicyWorld, policies_job, usual_loss

from schedlab.plan import Plan
from schedlab.policies import default_parameters
from schedlab.results.policy_file import PolicyFile
from schedlab.search.policies import PolicyContext, search_policies

BETTER = 0.07
NAMES = ["threshold", "klass", "dream_threshold"]
QUALITIES = ("accuracy", "gen_ppl", "duel")
_LESS = {"stdd": BETTER, "dream_threshold": BETTER, "klass": 2 * BETTER}


def loss(plan: Plan, seed: int = 0) -> float:
    return usual_loss(plan) - _LESS.get(plan.policy.name, 0.0)


@functools.cache
def policies(quality: str = "accuracy", cost: str = "seconds") -> PolicyFile:
    """`policies.json` of the planted world."""
    job = policies_job(
        quality=quality,
        cost=cost,
        lights=True,
        names=NAMES,
        tuned=["stdd"],
        repeats=2,
        trials=3,
        schedules=[["H"], ["L", "H"]],
        plan={"policy": {"name": "low_confidence", "parameters": {}}},
        search={"fresh_sequences": 64},
    )
    context = PolicyContext(
        prefix_length=5,
        defaults={"stdd": default_parameters("stdd")},
        task="planted" if quality == "accuracy" else "",
        scorer="bundled:scorer" if quality == "gen_ppl" else "none",
        precision="float32",
    )
    return search_policies(job, PolicyWorld(loss, quality, noise=0.02), context)
