"""Peak memory at the sizes of public models, in a process of its own."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("resource")  # POSIX only

# Heads as large as GPT-2's on networks of no depth: what is measured is logits and what follows.
PROGRAM = """
import resource, sys
import torch
from schedlab.denoisers.base import DenoiserSpec
from schedlab.importance import NoiseLevels, Panel, forward_sums
from schedlab.processes import MaskedProcess
from schedlab.results import SeedBlock
from schedlab.sampling import SequenceIds

VOCAB, LENGTH, WIDTH = 50_258, 512, 8
torch.set_num_threads(1)


class Wide:
    fingerprint = "wide"
    spec = DenoiserSpec(VOCAB, VOCAB - 1, 1, WIDTH, LENGTH)

    def __init__(self, seed):
        generator = torch.Generator().manual_seed(seed)
        self.embedding = torch.randn(VOCAB, WIDTH, generator=generator)
        self.head = torch.randn(WIDTH, VOCAB, generator=generator)

    def features(self, z_BL, t_B=None):
        return self.embedding[z_BL]

    def logits(self, features_ND):
        return features_ND @ self.head


panel = Panel(
    {role: Wide(seed) for seed, role in enumerate(("H", "L", "M", "Hb"))},
    MaskedProcess(VOCAB, VOCAB - 1), heavy="H", lights=("L", "M"), heavy_b="Hb",
    head_budget_bytes=int(sys.argv[1]) << 20,
)
x_SL = torch.randint(0, VOCAB - 1, (1, LENGTH), generator=torch.Generator().manual_seed(0))
ids = SequenceIds.of([SeedBlock(0, 0, 1)])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
sums = forward_sums(panel, x_SL, ids, NoiseLevels(1, 1))
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
unit = 1 if sys.platform == "darwin" else 1024
print((after - before) * unit, int(sums.masked_SK.sum()))
"""


def peak_growth(budget_mib: int, root: str) -> int:
    """Bytes by which the peak grows over what weights and libraries take."""
    environment = os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(budget_mib)],
        capture_output=True, text=True, env=environment, check=True, timeout=120,
    )  # fmt: skip
    growth, masked = map(int, done.stdout.split())
    assert masked == 512  # t = 1: the whole sequence
    return growth


def test_logits_of_a_50k_vocabulary_stay_near_the_budget(repository):
    """All at once, the arrays of these 512 positions would take 1 GB in float32.

    Beside the budget there is what the allocator and the libraries' buffers take, about 60 MB.
    """
    assert peak_growth(128, str(repository)) < (128 + 128) << 20
