"""What else is in the batch changes no bit: networks are called in one shape."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from schedlab.denoisers.base import DenoiserSpec
from schedlab.denoisers.transformer import Transformer, TransformerConfig
from schedlab.errors import SchedlabError, SchedlabWarning
from schedlab.plan import ModelSchedule, Plan
from schedlab.processes import MaskedProcess
from schedlab.results import SeedBlock
from schedlab.sampling import SequenceIds, sample
from schedlab.sampling.forwards import features_of, logits_of, trunk_of

LENGTH, VOCAB = 32, 257


def model(dtype: torch.dtype, num_blocks: int = 3) -> Transformer:
    """Wide enough that matrix products choose among kernels."""
    config = TransformerConfig(
        vocab_size=VOCAB, mask_id=VOCAB - 1, num_blocks=num_blocks, hidden_size=128, num_heads=4,
        max_length=LENGTH,
    )  # fmt: skip
    network = Transformer(config)
    network.init_weights(torch.Generator().manual_seed(0))
    with torch.no_grad():
        network.head.weight.mul_(100)  # confident enough that the features decide
    return network.to(dtype).requires_grad_(False)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@torch.inference_mode()
def test_no_result_depends_on_its_company(dtype: torch.dtype) -> None:
    network = model(dtype)
    z = torch.randint(VOCAB, (70, LENGTH), generator=torch.manual_seed(1))
    features, trunk = features_of(network, z, None), trunk_of(network, z, None)
    row, position = torch.arange(70), torch.randint(LENGTH, (70,), generator=torch.manual_seed(2))
    logits = logits_of(network, trunk, row, position)
    assert features.shape == (70, LENGTH, 128) and logits.shape == (70, VOCAB)
    for chosen in (slice(0, 1), slice(40, 43), slice(3, 70, 7), torch.arange(69, -1, -1)):
        assert torch.equal(features_of(network, z[chosen], None), features[chosen])
        assert torch.equal(trunk_of(network, z[chosen], None), trunk[chosen])
        own = logits_of(network, trunk, row[chosen], position[chosen])
        assert torch.equal(own, logits[chosen])
    assert torch.allclose(network.features(z).float(), features.float(), atol=0.3)


@pytest.mark.parametrize("num_blocks", [1, 3])
@torch.inference_mode()
def test_finishing_positions_one_by_one_is_the_whole_network(num_blocks: int) -> None:
    network = model(torch.float64, num_blocks)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if "shift" in name:  # neighbours count, beyond the ends too
                weight.normal_(generator=torch.manual_seed(3))
    z = torch.randint(VOCAB, (3, LENGTH), generator=torch.manual_seed(1))
    row, position = (index.flatten() for index in torch.meshgrid(
        torch.arange(3), torch.arange(LENGTH), indexing="ij"
    ))  # fmt: skip
    found = network.logits_at(network.trunk(z), row, position)
    expected = network(z).flatten(0, 1)
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)
    one = network.logits_at(network.trunk(z[:, :1]), torch.arange(3), torch.zeros(3, dtype=int))
    torch.testing.assert_close(one, network(z[:, :1])[:, 0], atol=1e-12, rtol=1e-12)


def test_networks_are_called_with_one_shape() -> None:
    shapes = set()

    class Watching:
        spec = replace(model(torch.float32).spec, time_input="sequence")

        def features(self, z_BL: torch.Tensor, t_B: torch.Tensor | None = None) -> torch.Tensor:
            assert t_B is not None and len(t_B) == len(z_BL)
            shapes.add(tuple(z_BL.shape))
            return z_BL[..., None] * t_B[:, None, None]

    z = torch.arange(45 * LENGTH).reshape(45, LENGTH)
    t = torch.arange(45.0)
    found = features_of(Watching(), z, t)  # type: ignore[arg-type]
    assert torch.equal(found[..., 0], z * t[:, None])
    assert len(shapes) == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_no_token_depends_on_the_batch_size(dtype: torch.dtype) -> None:
    denoisers = {"H": model(dtype)}
    process = MaskedProcess(vocab_size=VOCAB, mask_id=VOCAB - 1)
    plan = Plan(length=LENGTH, model_schedule=ModelSchedule.parse("H12"))

    def tokens(first: int, size: int) -> torch.Tensor:
        ids = SequenceIds.of([SeedBlock(seed=0, first=first, size=size)])
        return sample(plan, denoisers, process, ids).z_BL

    whole = tokens(0, 50)
    parts = [tokens(0, 1), tokens(1, 2), tokens(3, 47)]
    assert torch.equal(torch.cat(parts), whole)


class Small:
    """A network on a machine that can hold so many rows of a call."""

    def __init__(self, rows: int, message: str = "") -> None:
        self.rows, self.message, self.calls = rows, message, []

    @property
    def spec(self) -> DenoiserSpec:
        return replace(model(torch.float32).spec, time_input="none")

    def features(self, z_BL: torch.Tensor, t_B: torch.Tensor | None = None) -> torch.Tensor:
        self.calls.append(len(z_BL))
        if len(z_BL) > self.rows:
            if self.message:
                raise RuntimeError(self.message)
            raise torch.OutOfMemoryError("CUDA out of memory")
        return z_BL[..., None].float()


@pytest.mark.parametrize(
    "message", ["", "[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes"]
)
def test_calls_that_run_out_of_memory_are_halved_until_they_fit(message: str) -> None:
    network = Small(rows=10, message=message)
    z = torch.arange(45 * LENGTH).reshape(45, LENGTH)
    with pytest.warns(SchedlabWarning, match=r"out of memory with (32|16) rows .* with (16|8)"):
        found = features_of(network, z, None)  # type: ignore[arg-type]
    assert torch.equal(found, z[..., None].float())
    assert network.calls[:2] == [32, 16] and set(network.calls[2:]) == {8}
    network.calls.clear()
    features_of(network, z, None)  # type: ignore[arg-type]
    assert set(network.calls) == {8}  # what fits is remembered


def test_what_does_not_fit_at_all_is_one_line() -> None:
    with (
        pytest.warns(SchedlabWarning),
        pytest.raises(SchedlabError, match="out of memory with one row of shape"),
    ):
        features_of(Small(rows=0), torch.zeros((4, LENGTH), dtype=torch.long), None)  # type: ignore[arg-type]


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="shape mismatch"):
        features_of(Small(rows=0, message="shape mismatch"), torch.zeros((4, LENGTH)), None)  # type: ignore[arg-type]
