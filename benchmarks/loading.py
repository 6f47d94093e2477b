"""How long does a large checkpoint take to load, and how much memory beside the model?

A random checkpoint in LLaDA's layout (bfloat16, shards with an index) is written, its bytes are
read once to warm the cache, and then reading all bytes and loading the model are timed in turn,
each in a process of its own.

    python benchmarks/loading.py
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import common
import safetensors.torch
import torch
from common import OwnProcess

from schedlab.denoisers import loading
from schedlab.denoisers.families import FAMILIES
from schedlab.denoisers.gated import GatedConfig, GatedTransformer

LLADA = FAMILIES["llada"]


def write(folder: Path, config: GatedConfig, shard_bytes: int) -> tuple[int, int]:
    """Random weights in shards; bytes in all, and of the largest shard."""
    with torch.device("meta"):
        network = GatedTransformer(config)
    generator = torch.Generator().manual_seed(0)
    shards: list[dict[str, torch.Tensor]] = [{}]
    sizes = [0]
    for name, value in network.state_dict().items():
        size = 2 * value.numel()
        if sizes[-1] and sizes[-1] + size > shard_bytes:
            shards.append({})
            sizes.append(0)
        drawn = torch.empty(value.shape, dtype=torch.bfloat16).normal_(
            0, 0.02, generator=generator
        )
        shards[-1][LLADA.published_name(name)] = drawn
        sizes[-1] += size
    names = [f"model-{n + 1:05}-of-{len(shards):05}.safetensors" for n in range(len(shards))]
    for name, shard in zip(names, shards, strict=True):
        safetensors.torch.save_file(shard, folder / name)
    weight_map = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
    index = {"metadata": {"total_size": sum(sizes)}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(LLADA.published_config(network)))
    return sum(sizes), max(sizes)


def read(folder: str) -> float:
    """Seconds of reading all bytes into memory, file after file."""
    begin = time.perf_counter()
    for file in sorted(Path(folder).glob("*.safetensors")):
        file.read_bytes()
    return time.perf_counter() - begin


def load(folder: str) -> float:
    """Seconds of loading the model."""
    begin = time.perf_counter()
    network = loading.load(folder, precision="bfloat16")
    seconds = time.perf_counter() - begin
    assert network.spec.num_blocks
    return seconds


def main() -> None:
    """Write, read, load, and write one JSON object."""
    made = common.parser(__doc__, "loading")
    options = common.parsed(made, repeats=3)
    quick = options.quick
    config = GatedConfig(
        vocab_size=126_464 if not quick else 4_096,
        mask_id=4_000,
        num_blocks=12 if not quick else 2,
        hidden_size=2_048 if not quick else 256,
        num_heads=16,
        num_kv_heads=16,
        mlp_size=5_632 if not quick else 512,
        max_length=4_096,
        rope_base=500_000.0,
        norm_eps=1e-5,
    )
    setting = common.described()
    with tempfile.TemporaryDirectory() as folder:
        total, largest = write(Path(folder), config, (600 if not quick else 2) << 20)
        read(folder)
        found: dict[str, list[float]] = {"read": [], "load": []}
        memory: dict[str, int] = {}
        for _ in range(options.repeats):
            for way, call in (("read", read), ("load", load)):
                with OwnProcess() as process:
                    found[way].append(process.call(call, folder))
                    if way == "load":
                        memory = process.memory()
    head = 4 * config.vocab_size * config.hidden_size  # kept in float32 beside the short one
    beside = common.beyond_start(memory) - total - head
    row: dict[str, Any] = {
        "parameters": total // 2,
        "bytes": total,
        "largest_shard_bytes": largest,
        "seconds": found,
        "ratio_load_read": common.ratios(found["load"], found["read"]),
        "memory": memory,
        "float32_head_bytes": head,
        "beside_the_model_over_largest_shard": beside / largest,
    }
    print(
        f"{row['parameters'] / 1e9:.2f} billion parameters: read in"
        f" {common.shown(common.spread(found['read']))} s, loaded in"
        f" {common.shown(common.spread(found['load']))} s (ratio"
        f" {common.shown(row['ratio_load_read'])}); beside the model"
        f" {row['beside_the_model_over_largest_shard']:.2f} of the largest shard"
    )
    common.write(options, {"setting": setting, "row": row})


if __name__ == "__main__":
    main()
