"""The demo: the whole tool on the bundled models, sized to this machine."""

from __future__ import annotations

from schedlab.job import Job, parse_job

MINUTES = 8.0

BUNDLED_LAB = {
    "denoisers": {
        "H": "bundled:heavy",
        "Hb": "bundled:heavy-b",
        "L": "bundled:light-4",
        "M": "bundled:light-8",
    },
    "scorer": "bundled:scorer",
    "tokenizer": "bundled",
}


def demo_job(*, quick: bool = False, seed: int = 0, folder: str = "runs/demo") -> Job:
    """The demo's job; before it is sized, unless it is the quick one.

    Args:
        quick: short sequences, few steps and segments: shows that everything works, not what the
            models can do.
        seed: of everything random.
        folder: run folder.
    """
    tables = {
        "plan": {"length": 64, "num_steps": 50},
        "search": {"num_segments": 10, "num_light": 4},
    }
    if quick:
        tables = {
            "plan": {"length": 32, "num_steps": 20},
            "analyze": {
                "num_windows": 64,
                "sampled_sequences": 16,
                "propagation_sequences": 8,
            },
            "search": {"num_segments": 5, "num_light": 2, "num_sequences": 32},
        }
    return parse_job(
        {
            "job": {"name": "demo-quick" if quick else "demo", "seed": seed},
            "lab": BUNDLED_LAB,
            "corpus": {"source": "embedded"},
            **tables,
            "output": {"folder": folder, "pick": "knee", "samples": 8},
        },
        where="demo",
    )
