"""What does a policy's own arithmetic cost beside the forwards that it asks for?

Statistics (softmax, entropy, divergence, ...), draws, decisions and book-keeping of a decode, over
the time inside the network (trunk and head at the masked positions of the block). One block at
the end of a given text, every call in one row; random weights, so that predictions are flat and
policies commit little at a time, which is dearest.

    python benchmarks/policies.py
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import common
import torch
from common import OwnProcess
from torch import Tensor
from workloads import random_network

from schedlab.denoisers.base import DenoiserSpec
from schedlab.denoisers.transformer import Transformer
from schedlab.plan import Decoding, ModelSchedule, Plan, PolicySpec
from schedlab.policies import COMMIT_POLICIES
from schedlab.processes import MaskedProcess
from schedlab.results import SeedBlock
from schedlab.sampling import SequenceIds, decode

BLOCK = 32


class Timed:
    """A denoiser that counts the seconds spent inside."""

    def __init__(self, model: Transformer) -> None:
        self.model, self.seconds = model, 0.0
        self.fingerprint = "random"

    @property
    def spec(self) -> DenoiserSpec:
        """Of the network."""
        return self.model.spec

    @property
    def reads_before(self) -> bool:
        """Of the network."""
        return self.model.reads_before

    @property
    def kept_width(self) -> int:
        """Of the network."""
        return self.model.kept_width

    def features(self, *given: Any) -> Tensor:
        """Of the network, timed."""
        return self._timed(self.model.features, *given)

    def logits(self, *given: Any) -> Tensor:
        """Of the network, timed."""
        return self._timed(self.model.logits, *given)

    def trunk(self, *given: Any) -> Tensor:
        """Of the network, timed."""
        return self._timed(self.model.trunk, *given)

    def logits_at(self, *given: Any) -> Tensor:
        """Of the network, timed."""
        return self._timed(self.model.logits_at, *given)

    def features_with_shadows(self, *given: Any) -> Tensor:
        """Of the network, timed."""
        return self._timed(self.model.features_with_shadows, *given)

    def refresh(self, *given: Any) -> Tensor:
        """Of the network, timed."""
        return self._timed(self.model.refresh, *given)

    def kept_logits(self, *given: Any) -> Tensor:
        """Of the network, timed."""
        return self._timed(self.model.kept_logits, *given)

    def _timed(self, part: Callable[..., Tensor], *given: Any) -> Tensor:
        begin = time.perf_counter()
        found = part(*given)
        self.seconds += time.perf_counter() - begin
        return found


VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in COMMIT_POLICIES},
    "stdd, cosine": ("stdd", {"deviance": "cosine"}),
    "low_confidence, dual cache": ("low_confidence", {"cache": "dual"}),
}


def run(variant: str, temperature: float, sizes: dict[str, Any]) -> dict[str, float]:
    """Seconds inside the network and outside, and calls."""
    model = Timed(random_network(**sizes))
    name, parameters = VARIANTS[variant]
    length = sizes["length"]
    plan = Plan(
        length=length,
        model_schedule=ModelSchedule.parse(f"H{BLOCK}"),
        policy=PolicySpec(name=name, parameters={"block_length": BLOCK, **parameters}),
        decoding=Decoding(temperature=temperature),
    )
    process = MaskedProcess(model.spec.vocab_size, model.spec.mask_id)
    ids = SequenceIds.of([SeedBlock(0, 0, 1)])
    prefix = torch.arange(length - BLOCK)[None] % 1_000
    model.trunk(torch.cat((prefix, prefix[:, :BLOCK]), dim=1))  # warm
    model.seconds = 0.0
    begin = time.perf_counter()
    state = decode(plan, {"H": model}, process, ids, prefix)
    total = time.perf_counter() - begin
    calls = int(state.usage["H"].forwards_B[0])
    return {"network": model.seconds, "policy": total - model.seconds, "calls": calls}


def main() -> None:
    """Measure every policy and write one JSON object."""
    made = common.parser(__doc__, "policies")
    made.add_argument("--only", nargs="*", help="policies by name")
    options = common.parsed(made, repeats=1)
    sizes = {
        "vocab_size": 50_258 if not options.quick else 512,
        "length": 1_024 if not options.quick else 64,
        "hidden_size": 768 if not options.quick else 64,
        "num_blocks": 12 if not options.quick else 2,
        "precision": "float32",
    }
    setting = common.described()
    rows = []
    for temperature in (0.0, 1.0):
        for name in options.only or VARIANTS:
            with OwnProcess() as process:
                found = [
                    process.call(run, name, temperature, sizes) for _ in range(options.repeats)
                ]
            shares = [one["policy"] / one["network"] for one in found]
            row = {
                "policy": name,
                "temperature": temperature,
                "runs": found,
                "share": common.spread(shares),
            }
            rows.append(row)
            print(
                f"{name}, temperature {temperature:g}: {found[0]['calls']} calls; beside the"
                f" network {common.shown(row['share'])} of its time",
                flush=True,
            )
    common.write(options, {"setting": setting, "sizes": sizes, "block": BLOCK, "rows": rows})


if __name__ == "__main__":
    main()
