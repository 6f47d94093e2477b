"""End of text as a stop rule: what is filled, what is left, and what it saves."""

from __future__ import annotations

import pytest
import torch

from schedlab.denoisers.base import DenoiserSpec
from schedlab.errors import InputError
from schedlab.plan import Decoding, ModelSchedule, Plan, PolicySpec
from schedlab.policies import COMMIT_POLICIES
from schedlab.processes import MaskedProcess
from schedlab.results.seed_block import SeedBlock
from schedlab.sampling import SequenceIds, decode, sample_plans
from schedlab.sampling.end_of_text import masks_behind_end

V, MASK, END, LENGTH = 6, 5, 4, 10
PROCESS = MaskedProcess(V, MASK)


class Script:
    """Predicts one text, each token with its own confidence, whatever it sees."""

    fingerprint = "script"
    spec = DenoiserSpec(vocab_size=V, mask_id=MASK, num_blocks=0, hidden_size=1, max_length=LENGTH)

    def __init__(self, text: list[int], confidence: list[float]) -> None:
        p = (1 - torch.tensor(confidence).double()[:, None]).expand(-1, V) / (V - 1)
        self.log_p = (
            p.clone()
            .scatter(1, torch.tensor(text)[:, None], torch.tensor([confidence]).T.double())
            .log()
        )

    def features(self, z_BL, t_B=None):
        return torch.arange(LENGTH).double().expand(len(z_BL), LENGTH)[..., None]

    def features_with_shadows(self, z_BL, place_BK, t_B=None):
        return torch.cat((self.features(z_BL), place_BK.clamp(min=0).double()[..., None]), dim=1)

    def logits(self, features_ND):
        return self.log_p[features_ND[:, 0].long()]


def plan_of(name: str, num_steps: int = 10, temperature: float = 0.0, **parameters) -> Plan:
    return Plan(
        length=LENGTH,
        model_schedule=ModelSchedule.parse(f"H{num_steps}"),
        policy=PolicySpec(name=name, parameters={"stop_at_end": True, **parameters}),
        decoding=Decoding(temperature=temperature),
    )


def ids_of(size: int) -> SequenceIds:
    return SequenceIds.of([SeedBlock(seed=0, first=0, size=size)])


def test_masks_behind_the_end_are_those_of_whole_texts() -> None:
    M, E = MASK, END
    z = torch.tensor(
        [
            [E, 1, E, M, 2, M],  # an end in the prompt counts for nothing, one in the text does
            [1, 1, M, E, M, M],  # a mask before it
            [1, 1, 2, 3, E, M],  # not final yet
            [1, 1, 2, E, 3, 3],  # nothing left
            [1, 1, 2, M, M, M],  # no end
        ]
    )
    found = masks_behind_end(z, M, E, first=1, last_R=torch.tensor([6, 6, 4, 6, 6]))
    expected = torch.zeros_like(z, dtype=torch.bool)
    expected[0, [3, 5]] = True
    assert torch.equal(found, expected)


def test_a_sequence_is_finished_at_its_end() -> None:
    """By hand: tokens from left to right, one a call, the end is the fourth."""
    text = [0, 1, 2, END, 3, 3, 3, 3, 3, 0]
    confidence = [0.9 - 0.05 * place for place in range(LENGTH)]
    confidence[7] = 0.99  # committed first of all: it stays
    denoisers = {"H": Script(text, confidence)}
    found = decode(
        plan_of("low_confidence", block_length=0), denoisers, PROCESS, ids_of(2), end_id=END
    )
    assert found.z_BL.tolist() == [[0, 1, 2, END, END, END, END, 3, END, END]] * 2
    assert found.usage["H"].forwards_B.tolist() == [5, 5]
    assert found.usage["H"].head_positions_B.tolist() == [10 + 9 + 8 + 7 + 6] * 2
    # Blocks of 2: nothing behind the second one is begun.
    found = decode(
        plan_of("low_confidence", block_length=2), denoisers, PROCESS, ids_of(2), end_id=END
    )
    assert found.z_BL.tolist() == [[0, 1, 2] + [END] * 7] * 2
    assert found.usage["H"].forwards_B.tolist() == [4, 4]
    # An end in the prompt is none.
    prompt = torch.tensor([[END, 1]] * 2)
    found = decode(
        plan_of("low_confidence", 8, block_length=2),
        denoisers,
        PROCESS,
        ids_of(2),
        prompt,
        end_id=END,
    )
    assert found.z_BL.tolist() == [[END, 1, 2] + [END] * 7] * 2
    assert found.usage["H"].forwards_B.tolist() == [2, 2]


@pytest.mark.parametrize(
    "name", sorted(name for name, policy in COMMIT_POLICIES.items() if not policy.locks)
)
@pytest.mark.parametrize("block_length", [0, 5])
def test_every_policy_can_stop(name: str, block_length: int) -> None:
    """Rows stop at their own times, through `sample_plans` as alone, in no more forwards."""
    denoisers = {"H": Script([0, 1, END, 2, 3] * 2, [0.5, 0.6, 0.7, 0.4, 0.5] * 2)}
    plan = plan_of(name, temperature=1.0, block_length=block_length)
    found = decode(plan, denoisers, PROCESS, ids_of(40), end_id=END)
    through = plan_of(name, temperature=1.0, block_length=block_length, stop_at_end=False)
    whole = decode(through, denoisers, PROCESS, ids_of(40))
    assert (found.z_BL != MASK).all()
    spent, most = (state.usage["H"].forwards_B for state in (found, whole))
    assert (spent <= most).all()
    if block_length or not COMMIT_POLICIES[name].revises:
        assert (spent < most).any()
    rows = {
        one.sequence: one
        for one in sample_plans([plan], denoisers, PROCESS, ids_of(40), end_id=END)
    }
    for sequence, one in rows.items():
        assert one.tokens_UL[0].tolist() == found.z_BL[sequence].tolist()
        assert int(one.forwards["H"][0]) == int(spent[sequence])


def test_without_the_token_it_is_refused() -> None:
    plan = plan_of("threshold")
    with pytest.raises(InputError, match="needs the end-of-text token; give end_id"):
        decode(plan, {"H": Script([0] * 10, [0.5] * 10)}, PROCESS, ids_of(1))
    assert not plan.policy.calls_known
    assert not plan_of("low_confidence").policy.calls_known
