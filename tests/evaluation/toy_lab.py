"""A lab small enough to sum over: exact float64 denoisers, a letter tokeniser, a bigram scorer.

Run as a script it evaluates plans slowly, so that a test can kill it in the middle:
`python toy_lab.py FOLDER SECONDS_PER_RECORD`.
"""

from __future__ import annotations

import hashlib
import itertools
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import torch

from schedlab.denoisers.oracle import OracleDenoiser, ToyWorld
from schedlab.denoisers.transformer import Transformer, TransformerConfig
from schedlab.evaluation.evaluate import evaluate
from schedlab.evaluation.lab import Lab
from schedlab.metrics.causal_scorer import CausalScorer
from schedlab.plan import ModelSchedule, Plan
from schedlab.processes import MaskedProcess
from schedlab.results import SeedBlock, Store, seed_blocks

LENGTH = 5
NUM_STEPS = 10


class LetterTokenizer:
    """Ids 0, 1, ... are letters, then the separator, then the mask."""

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self.eot_id = vocab_size - 2
        self.mask_id = vocab_size - 1
        self.fingerprint = f"letters-{vocab_size}"

    def encode(self, text: str) -> list[int]:
        return [ord(letter) - ord("a") for letter in text]

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        return "".join("\n\n" if i == self.eot_id else chr(ord("a") + i) for i in ids)


def bigram_scorer(tokenizer: LetterTokenizer, *, window: int = 64, seed: int = 0) -> CausalScorer:
    """A float64 bigram model with a random table."""
    num = tokenizer.vocab_size - 1
    generator = torch.Generator().manual_seed(seed)
    table_VV = torch.randn(num, num, dtype=torch.float64, generator=generator)
    return CausalScorer(
        name="bigram",
        fingerprint=hashlib.sha256(table_VV.numpy().tobytes()).hexdigest(),
        next_logits=lambda ids_BW: table_VV[ids_BW],
        encode=tokenizer.encode_batch,
        separator_id=tokenizer.eot_id,
        window=window,
        vocab_size=num,
    )


def oracle_lab(roles: str = "HL") -> Lab:
    """An exact heavy denoiser and worse ones for the other roles; 3 tokens, 5 positions."""
    world = ToyWorld.random(num_real=3, length=LENGTH, seed=1)
    heavy = OracleDenoiser(world, num_blocks=12)
    denoisers = {"H": heavy}
    for number, role in enumerate(roles.replace("H", ""), start=1):
        denoisers[role] = heavy.perturbed(1.5, seed=number, num_blocks=4)
    tokenizer = LetterTokenizer(world.vocab_size)
    return Lab(
        denoisers=denoisers,
        process=MaskedProcess(world.vocab_size, world.mask_id),
        tokenizer=tokenizer,
        scorer=bigram_scorer(tokenizer),
        precision="float64",
    )


def transformer_lab(device: str = "cpu") -> Lab:
    """Two tiny random transformers in float64."""
    tokenizer = LetterTokenizer(11)
    denoisers = {}
    for role, num_blocks, seed in (("H", 2, 1), ("L", 1, 2)):
        config = TransformerConfig(
            vocab_size=11, mask_id=10, num_blocks=num_blocks, hidden_size=16, num_heads=2,
            max_length=12,
        )  # fmt: skip
        model = Transformer(config).double()
        model.init_weights(torch.Generator().manual_seed(seed))
        model.head.weight.data.mul_(100)  # else untrained predictions are all but uniform
        denoisers[role] = model.eval().requires_grad_(False).to(device)
    return Lab(
        denoisers=denoisers,
        process=MaskedProcess(11, 10),
        tokenizer=tokenizer,
        scorer=bigram_scorer(tokenizer),
        precision="float64",
        device=device,
    )


def plan_of(schedule: str | ModelSchedule, length: int = LENGTH, **fields: object) -> Plan:
    """A plan with everything else at its default."""
    if isinstance(schedule, str):
        schedule = ModelSchedule.parse(schedule)
    return Plan(length=length, model_schedule=schedule, **fields)


def assignments(num_segments: int, num_light: int | None = None) -> list[Plan]:
    """All two-role plans over equal segments of one step, or those with `num_light` light ones."""
    return [
        plan_of(ModelSchedule.from_assignment(roles, num_segments))
        for roles in itertools.product("HL", repeat=num_segments)
        if num_light is None or roles.count("L") == num_light
    ]


def kill_test_work() -> tuple[list[Plan], tuple[SeedBlock, ...]]:
    """What the script below evaluates: 20 plans on two blocks."""
    return assignments(6, 3), seed_blocks(seed=3, num_sequences=8, block_size=4)


if __name__ == "__main__":
    folder, pause = Path(sys.argv[1]), float(sys.argv[2])
    work_plans, work_blocks = kill_test_work()

    def wait(done: int, total: int) -> None:
        """Never finishes by itself: who is to kill it may be late on a busy machine."""
        time.sleep(pause if done < total // 2 else 3_600)

    evaluate(
        work_plans,
        work_blocks,
        lab=oracle_lab(),
        store=Store(folder),
        progress=wait,
    )
