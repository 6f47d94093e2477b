"""How many denoising steps plans need when shared beginnings are run once.

Plans that differ only in their model schedule, run on the same noise, have equal states until
their schedules part: 210 schedules of 10 segments (4 of them light) take 790 segment runs instead
of 2,100, all 1,024 take 2,046 instead of 10,240. The event sampler needs at most that
(`schedlab.sampling.events`): it also merges states that turn out equal.

Legend: N plans, T steps.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from schedlab.plan import Plan, families_of


def steps_to_run(plans: Sequence[Plan]) -> dict[str, int]:
    """Denoising steps per role that the prefix trees of `plans` hold, shared ones once."""
    unique = list(dict.fromkeys(plans))
    steps: dict[str, int] = {}
    for places in families_of(unique):
        family = [unique[place] for place in places]
        roles = sorted({role for plan in family for role in plan.model_schedule.roles})
        index = {role: number for number, role in enumerate(roles)}
        role_TN = np.array([[index[role] for role in p.model_schedule.steps] for p in family]).T
        node_N = np.zeros(len(family), dtype=np.int64)
        for role_N in role_TN:
            nodes, node_N = np.unique(node_N * len(roles) + role_N, return_inverse=True)
            for number, count in enumerate(np.bincount(nodes % len(roles))):
                if count:
                    steps[roles[number]] = steps.get(roles[number], 0) + int(count)
    return steps
