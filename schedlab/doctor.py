"""Is this machine fit to run schedlab? A handful of quick checks, each with what to do."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch.utils.flop_counter import FlopCounterMode

from schedlab import __version__
from schedlab.classifiers import load as load_classifier
from schedlab.classifiers.describe import is_classifier
from schedlab.denoisers import checkpoint
from schedlab.denoisers.cost import forward_flops
from schedlab.denoisers.transformer import Transformer, TransformerConfig
from schedlab.errors import InputError
from schedlab.text.corpora import cache_folder

PACKAGES = (
    "torch",
    "numpy",
    "pandas",
    "scipy",
    "matplotlib",
    "optuna",
    "joblib",
    "typer",
    "pydantic",
    "rich",
    "jinja2",
    "moocore",
    "safetensors",
    "tokenizers",
    "sacrebleu",
    "typst",
)
BUNDLED_MODELS = (
    "heavy", "heavy-b", "light-4", "light-8", "scorer",
    "simplex", "simplex-light", "guide", "judge", "uniform", "uniform-light",
)  # fmt: skip
MIN_FREE_GB = 2.0

State = Literal["ok", "note", "failed"]


@dataclass(frozen=True)
class Check:
    """One finding: "failed" is something that will not work, "note" something worth knowing."""

    name: str
    state: State
    detail: str


def diagnose(folder: str | Path = ".") -> tuple[Check, ...]:
    """Run all checks.

    Args:
        folder: where runs would be written; its disk is looked at.
    """
    checks: tuple[Callable[[], Check], ...] = (
        _versions,
        _device,
        _bfloat16_speed,
        _flop_counter,
        _bundled_models,
        lambda: _disk(Path(folder)),
        _cache,
    )
    return tuple(check() for check in checks)


def _versions() -> Check:
    missing, found = [], [f"schedlab {__version__}", f"Python {platform.python_version()}"]
    for name in PACKAGES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        return Check("versions", "failed", f"not installed: {', '.join(missing)}")
    return Check("versions", "ok", ", ".join(found))


def _device() -> Check:
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    device, threads = ", ".join(names) or "CPU", torch.get_num_threads()
    detail = f"{device}; {threads} torch threads on {cores} cores"
    return Check("device", "ok", detail)


def _bfloat16_speed(size: int = 1024) -> Check:
    seconds = {dtype: _product_seconds(size, dtype) for dtype in (torch.float32, torch.bfloat16)}
    ratio = seconds[torch.float32] / seconds[torch.bfloat16]
    rate = 2 * size**3 / seconds[torch.float32] / 1e9
    advice = "bfloat16 pays off here" if ratio > 1.5 else "float32 is the better choice here"
    detail = (
        f"matrix product of size {size}: {rate:.0f} GFLOP/s in float32,"
        f" {ratio:.1f} times that in bfloat16; {advice}"
    )
    return Check("bfloat16", "ok" if ratio > 1.5 else "note", detail)


def _product_seconds(size: int, dtype: torch.dtype) -> float:
    """Best of a few products, after one to warm up."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    matrix = torch.randn(size, size, device=device).to(dtype)
    best = float("inf")
    for attempt in range(6):
        begin = time.perf_counter()
        # Reading one number waits for a GPU as well.
        (matrix @ matrix)[0, 0].item()
        if attempt:
            best = min(best, time.perf_counter() - begin)
    return best


def _flop_counter() -> Check:
    """Cost in closed form against torch's counter, on the meta device.

    (On CPU the counter takes fused attention for 0, see pytorch issue 195460.)
    """
    config = TransformerConfig(
        vocab_size=97, mask_id=96, num_blocks=2, hidden_size=32, num_heads=2, max_length=48
    )
    with torch.device("meta"):
        model = Transformer(config)
        tokens_BL = torch.zeros(1, config.max_length, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(tokens_BL)
    counted, expected = counter.get_total_flops(), forward_flops(model.spec, config.max_length)
    detail = f"torch counts {counted:,} FLOPs for a test model, closed form {expected:,}"
    return Check("FLOP counter", "ok" if counted == expected else "failed", detail)


def _bundled_models() -> Check:
    try:
        for name in BUNDLED_MODELS:
            location = f"bundled:{name}"
            (load_classifier if is_classifier(location) else checkpoint.load)(location)
    except InputError as error:
        return Check("bundled models", "failed", f"{error}; install schedlab again")
    return Check("bundled models", "ok", ", ".join(BUNDLED_MODELS))


def _disk(folder: Path) -> Check:
    free_gb = shutil.disk_usage(folder).free / 1e9
    detail = f"{free_gb:.1f} GB free in {folder.resolve()}"
    if free_gb < MIN_FREE_GB:
        return Check("disk", "note", f"{detail}; a large search may need more")
    return Check("disk", "ok", detail)


def _cache() -> Check:
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        detail = f"{folder} cannot be written ({error.strerror}); set SCHEDLAB_CACHE to save time"
        return Check("cache", "note", detail)
    used_mb = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6
    return Check("cache", "ok", f"{folder}, {used_mb:.1f} MB; may be deleted at any time")
