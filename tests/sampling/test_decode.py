"""Policies that decide by predictions: the reference implementations' own decodes, and laws that
hold for all of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from schedlab.denoisers import loading
from schedlab.plan import Decoding, ModelSchedule, Plan, PolicySpec
from schedlab.processes import MaskedProcess
from schedlab.results.seed_block import SeedBlock
from schedlab.sampling import SequenceIds
from schedlab.sampling.decode import decode

GREEDY = Decoding(temperature=0.0)


def cases(folder: Path, name: str) -> list[dict]:
    return json.loads((folder / f"{name}_cases.json").read_text())


def arrays(folder: Path, name: str) -> dict[str, np.ndarray]:
    with np.load(folder / f"{name}.npz", allow_pickle=False) as data:
        return {key: data[key] for key in data.files}


def run(model, prompt_BP, length: int, steps: int, policy: PolicySpec, **options):
    """Greedy tokens behind prompts, the states before every call, and forwards."""
    plan = Plan(
        length=length,
        model_schedule=ModelSchedule.parse(f"H{steps}"),
        policy=policy,
        decoding=GREEDY,
    )
    process = MaskedProcess(model.spec.vocab_size, model.spec.mask_id)
    states: list[torch.Tensor] = []
    found = decode(
        plan,
        {"H": model},
        process,
        SequenceIds.of([SeedBlock(seed=0, first=0, size=len(prompt_BP))]),
        torch.from_numpy(prompt_BP),
        trace=states.append,
        **options,
    )
    return found, states


@pytest.mark.parametrize("number", range(21))
def test_llada_decodes_as_its_authors_code(golden: Path, number: int) -> None:
    folder = golden / "decode_llada"
    case = cases(folder, "llada_generate")[number]
    data = arrays(folder, "llada_generate")
    prompt = data["prompts"][: case["batch"]]
    policy = PolicySpec(
        name="low_confidence",
        parameters={"block_length": case["block_length"], "guidance": case["cfg_scale"]},
    )
    found, states = run(
        loading.load(golden / "llada"),
        prompt,
        prompt.shape[1] + case["gen_length"],
        case["steps"],
        policy,
    )
    assert np.array_equal(found.z_BL.numpy(), data[f"out{number}"])
    trace = data[f"trace{number}"]
    assert len(states) == case["model_calls"] == len(trace)
    assert np.array_equal(
        torch.stack(states).numpy(), trace.reshape(len(states), *prompt.shape[:1], -1)
    )
    times = 2 if case["cfg_scale"] else 1
    assert found.usage["H"].forwards_B.tolist() == [times * len(states)] * len(prompt)


CACHES = {
    "generate": "none",
    "generate_with_prefix_cache": "prefix",
    "generate_with_dual_cache": "dual",
}


@pytest.mark.parametrize("number", range(48))
def test_fast_dllm_decodes_as_its_authors_code(golden: Path, number: int) -> None:
    folder = golden / "decode_llada"
    case = cases(folder, "fastdllm_generate")[number]
    cache = CACHES[case["function"]]
    data = arrays(folder, "fastdllm_generate")
    prompts = data["prompts"] if "prompts" in data else arrays(folder, "llada_generate")["prompts"]
    prompt = prompts[case["prompt_row"]][None]
    parameters = {"block_length": case["block_length"], "cache": cache}
    if case["threshold"] is None:
        policy = PolicySpec(name="low_confidence", parameters=parameters)
    else:
        parameters["threshold"] = case["threshold"]
        policy = PolicySpec(name="threshold", parameters=parameters)
    model = loading.load(golden / "llada")
    found, states = run(
        model,
        prompt,
        prompt.shape[1] + case["gen_length"],
        case["steps"],
        policy,
    )
    assert np.array_equal(found.z_BL.numpy(), data[f"out{number}"])
    forwards = found.usage["H"].forwards_B.item()
    if cache == "none":
        assert np.array_equal(torch.cat(states).numpy(), data[f"trace{number}"])
        assert forwards == case["nfe"]
        return
    # With a cache the released code calls once more where the first call finished a block.
    size, mask = case["block_length"], model.spec.mask_id
    blocks = [
        torch.cat(states)[:, begin : begin + size] == mask
        for begin in range(prompt.shape[1], found.z_BL.shape[1], size)
    ]
    calls = [int((block.any(dim=1) & ~block.all(dim=1)).sum()) + 1 for block in blocks]
    assert sum(calls) == forwards == case["nfe"] - calls.count(1)
    computed = found.usage["H"].positions_B
    assert computed is not None
    whole = found.z_BL.shape[1]
    behind = [size if cache == "dual" else whole - prompt.shape[1] - n * size for n in range(99)]
    expected = sum(whole + (n - 1) * part for n, part in zip(calls, behind, strict=False))
    assert computed.item() == expected


DREAM_NAMES = {"entropy": "entropy", "maskgit_plus": "top1", "topk_margin": "margin"}


@pytest.mark.parametrize("number", range(21))
def test_dream_decodes_as_its_authors_code(golden: Path, number: int) -> None:
    folder = golden / "decode_dream"
    case = cases(folder, "dream_generate")[number]
    data = arrays(folder, "dream_generate")
    prompt = data["prompts"][: case["batch"]]
    policy = PolicySpec(name=DREAM_NAMES[case["alg"]], parameters={"eps": case["eps"]})
    length = prompt.shape[1] + case["max_new_tokens"]
    found, states = run(loading.load(golden / "dream"), prompt, length, case["steps"], policy)
    assert np.array_equal(found.z_BL.numpy(), data[f"out{number}"])
    expected = data[f"states{number}"]
    stacked = torch.stack([*states, found.z_BL]).numpy()
    assert np.array_equal(stacked, expected[: len(stacked)])
    assert (expected[len(stacked) :] == expected[len(stacked) - 1]).all()
