"""`environment.json`: what a run was made with, as a file that reports and exports read.

Written once per run folder by the pipeline; together with the other files of the folder it is
enough to rebuild the report and to export a plan on a machine that has none of the models.
"""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import Field

from schedlab.files import FileRecord, Record
from schedlab.plan.plan import DenoiserRef, FileRef, Role

ENVIRONMENT_FORMAT: Literal["schedlab.environment"] = "schedlab.environment"
ENVIRONMENT_VERSION: Literal[1] = 1
JSON_NAME = "environment.json"

# What can change a number of a run; torch's own version names its CUDA build.
PACKAGES = (
    "torch",
    "numpy",
    "scipy",
    "tokenizers",
    "safetensors",
    "optuna",
    "moocore",
    "sacrebleu",
)


class CorpusRef(Record):
    """The text a run read: where from, and which text exactly."""

    source: str
    fingerprint: str


class EnvironmentFile(FileRecord):
    """The whole of `environment.json`.

    Args:
        packages: distribution name to version, of those that can change a number.
        device: `cpu`, or the accelerator's name.
        threads: CPU threads of one process.
        denoisers: role to location, fingerprint and cost; the fingerprint is what a deployed plan
            checks before it samples.
        classifiers, judges: classifiers that guide, and that judge, by name.
        scorer: language model behind Gen-PPL, None where no text was scored.
        notes: anything else worth keeping beside the numbers.
    """

    format: Literal["schedlab.environment"] = ENVIRONMENT_FORMAT
    version: Literal[1] = ENVIRONMENT_VERSION
    schedlab: str
    python: str
    platform: str
    packages: dict[str, str]
    device: str
    threads: Annotated[int, Field(ge=0)] = 0
    precision: Literal["float32", "bfloat16", "float64"]
    denoisers: dict[Role, DenoiserRef]
    tokenizer: FileRef
    scorer: FileRef | None = None
    classifiers: dict[str, FileRef] = {}
    judges: dict[str, FileRef] = {}
    corpus: CorpusRef | None = None
    notes: dict[str, str] = {}


def package_versions(names: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Versions of the installed ones among `names`, without importing them."""
    versions = {}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def machine() -> str:
    """Operating system and processor architecture, without names of machine or kernel build."""
    return f"{platform.system()} {platform.machine()}"
