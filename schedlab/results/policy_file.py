"""The result file of a search over policies, `policies.json`.

Losses are what is minimised: the error rate on a task, log Gen-PPL, or the negative
log-likelihood of held-out text in nats per token. Costs are shares of the reference plan's, on the
same sequences. All carry 95 % intervals over sequences.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from schedlab.errors import InputError
from schedlab.files import FileRecord, Record
from schedlab.plan import Plan
from schedlab.plan.plan import PolicyName, Role, Sha256
from schedlab.results.estimate import Estimate

Quality = Literal["accuracy", "gen_ppl", "duel"]
CostName = Literal["forwards", "block_forwards", "flops_total", "seconds"]
Pick = Literal["best", "knee", "budget", "reference"]

LOSS_NAMES: dict[Quality, str] = {
    "accuracy": "error rate",
    "gen_ppl": "log Gen-PPL (nats per token)",
    "duel": "-log p of held-out text (nats per token)",
}


class PolicySetting(Record):
    """What all plans of one search share."""

    quality: Quality
    cost: CostName
    task: Annotated[str, Field(description="the task that is asked; empty without one")] = ""
    length: int
    prefix_length: int
    num_steps: Annotated[int, Field(description="of the reference; no plan has more")]
    num_sequences: int
    block_size: int
    seed: int
    fresh_sequences: int
    fresh_seed: int
    scorer: str
    precision: str
    trials: Annotated[int, Field(description="proposals per tuned policy and repeat")]
    repeats: int
    temperature: Annotated[float, Field(description="of the reference")] = 1.0
    top_p: float = 1.0
    reference: Annotated[Sha256, Field(description="digest of the plan that costs 1")]
    reference_point: Annotated[
        tuple[float, float], Field(description="loss and cost, for hypervolumes")
    ]
    entropy_band: Annotated[
        tuple[float, float] | None, Field(description="around the reference, for Gen-PPL")
    ] = None


class Curve(Record):
    """What the plans of one curve share: a policy's knob is swept, or it was tuned."""

    policy: PolicyName
    tuned: bool = False
    repeat: Annotated[int | None, Field(description="which search found it, of a tuned one")] = (
        None
    )
    schedule: Annotated[str, Field(description="roles of equal parts of the schedule")] = ""
    temperature: float | None = None
    top_p: float | None = None
    block_length: int | None = None

    @property
    def family(self) -> str:
        """The policy, and whether it was tuned."""
        return f"{self.policy}, tuned" if self.tuned else self.policy


class PolicyRow(Record):
    """One plan on the sequences of the search."""

    plan: Plan
    digest: Sha256
    curve: Curve
    knob: Annotated[float | None, Field(description="value of the swept knob")] = None
    estimates: dict[str, Estimate]
    loss: float
    cost: float
    in_entropy_band: bool = True


class FreshPolicyRow(Record):
    """A plan measured again, on sequences that no choice depended on."""

    digest: Sha256
    estimates: dict[str, Estimate]
    loss: Estimate
    cost: Estimate
    in_entropy_band: bool = True
    samples: tuple[str, ...] = ()


class FamilyResult(Record):
    """A policy's front on fresh sequences: which of its plans the search would have chosen.

    Args:
        family: the policy, and whether it was tuned.
        digests: plans on its front on the search's sequences, from cheap to dear.
        hypervolume: on the fresh ones, in the order in which they were chosen (see
            `schedlab.search.policy_bench.front_area`); larger is better.
    """

    family: str
    digests: tuple[Sha256, ...]
    hypervolume: Estimate


class Matched(Record):
    """A tuned policy against another one, swept or tuned, at equal cost, on fresh sequences.

    At the cost of every plan of its front the other's loss is interpolated between the two plans
    of its own front around that cost: what drawing one of the two for every sequence gives; at
    costs beyond its dearest plan it is that plan's.

    Args:
        family, against: which is compared with which.
        repeat: which search of the tuned one; None is the front of all.
        digests: plans of the front that cost at least as much as the other's cheapest.
        cheaper: how many cost less, so that nothing compares with them.
        differences: per plan, loss minus the other's at its cost.
        mean_difference: over these plans.
        hypervolume_difference: of the fronts.
    """

    family: str
    against: str
    repeat: int | None = None
    digests: tuple[Sha256, ...]
    cheaper: int = 0
    differences: tuple[Estimate, ...]
    mean_difference: Estimate | None
    hypervolume_difference: Estimate


class PolicyFile(FileRecord):
    """The whole of `policies.json`."""

    format: Literal["schedlab.policies"] = "schedlab.policies"
    version: Literal[1] = 1
    setting: PolicySetting
    roles: tuple[Role, ...]
    rows: tuple[PolicyRow, ...]
    fresh: tuple[FreshPolicyRow, ...]
    families: tuple[FamilyResult, ...]
    matched: tuple[Matched, ...] = ()
    picks: Annotated[dict[str, Sha256], Field(description="'best', 'knee', 'budget=0.25'")]

    def row(self, digest: str) -> PolicyRow:
        """The row of a plan.

        Raises:
            InputError: no row has this digest.
        """
        for row in self.rows:
            if row.digest == digest:
                return row
        raise InputError(f"no plan of this search has the digest {digest[:12]!r}; search again")

    def fresh_row(self, digest: str) -> FreshPolicyRow | None:
        """The measurement on fresh sequences, or None where the plan was not measured again."""
        return next((row for row in self.fresh if row.digest == digest), None)
