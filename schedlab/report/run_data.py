"""What a report reads: the files of one run folder, each of them optional but not all.

Only JSON and TOML are read; no model, no store and no torch is needed, so a report can be rebuilt
on any machine from a copied folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from schedlab.errors import InputError
from schedlab.files import read_text, sha256_text
from schedlab.report.style import Roles
from schedlab.report.words import one_line
from schedlab.results.control_file import ControlFile
from schedlab.results.environment_file import EnvironmentFile
from schedlab.results.importance_file import ImportanceFile
from schedlab.results.policy_file import PolicyFile
from schedlab.results.search_file import FreshRow, SearchFile, SearchRow

IMPORTANCE = "importance.json"
SEARCH = "search.json"
POLICIES = "policies.json"
CONTROL = "control.json"
ENVIRONMENT = "environment.json"
JOB = "job.toml"


@dataclass(frozen=True)
class RunData:
    """The files of a run folder.

    Args:
        name: what to call the run (the folder's name).
        importance: None when nothing was analyzed.
        search: None when nothing was searched.
        environment: None in folders from elsewhere; provenance is then thin.
        job: text of the job file, or None.
        digests: file name -> SHA-256 of the text it was read from.
        policies: None when no policies were searched.
        control: None when guidance and allocation were not searched.
    """

    name: str
    importance: ImportanceFile | None = None
    search: SearchFile | None = None
    environment: EnvironmentFile | None = None
    job: str | None = None
    digests: dict[str, str] = field(default_factory=dict)
    policies: PolicyFile | None = None
    control: ControlFile | None = None

    @property
    def main_light(self) -> str:
        """The light denoiser to speak about first: the search's, else the first analyzed one."""
        lights = self.importance.setting.lights if self.importance is not None else []
        if self.search is not None and (self.search.setting.light in lights or not lights):
            return self.search.setting.light
        return lights[0] if lights else ""

    @property
    def roles(self) -> Roles:
        """Every denoiser of the run with its colour and description; heavy first."""
        names: list[str] = []
        if self.search is not None:
            names += [self.search.setting.heavy, self.search.setting.light]
        if self.importance is not None:
            setting = self.importance.setting
            names += [setting.heavy, *setting.lights]
            names += [setting.heavy_b] if setting.heavy_b else []
        if self.search is not None:
            names += list(self.search.setting.roles)
        if self.policies is not None:
            names += list(self.policies.roles)
        if self.control is not None:
            # The reference, all heavy, comes first.
            names += [r for row in self.control.rows for r in row.plan.model_schedule.roles]
        return Roles.of(names, self._descriptions(names))

    def _descriptions(self, names: Iterable[str]) -> dict[str, str]:
        if self.environment is None:
            return {}
        known = self.environment.denoisers
        return {
            name: f"{known[name].num_blocks} blocks, {_short_location(known[name].location)}"
            for name in names
            if name in known
        }


def load_run(run_dir: str | os.PathLike[str]) -> RunData:
    """Read a run folder.

    Raises:
        InputError: no such folder, neither an analysis nor a search in it, or a broken file.
    """
    folder = Path(run_dir)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such run folder")
    known = (IMPORTANCE, SEARCH, POLICIES, CONTROL, ENVIRONMENT, JOB)
    present = {name for name in known if (folder / name).exists()}
    if not present & {IMPORTANCE, SEARCH, POLICIES, CONTROL}:
        raise InputError(
            f"{folder}: neither {IMPORTANCE} nor {SEARCH} nor {POLICIES} nor {CONTROL} in it; run"
            " 'schedlab analyze' or 'schedlab search' first"
        )
    texts = {name: read_text(folder / name) for name in sorted(present)}
    return RunData(
        name=folder.resolve().name,
        importance=ImportanceFile.read(folder / IMPORTANCE) if IMPORTANCE in present else None,
        search=SearchFile.read(folder / SEARCH) if SEARCH in present else None,
        policies=PolicyFile.read(folder / POLICIES) if POLICIES in present else None,
        control=ControlFile.read(folder / CONTROL) if CONTROL in present else None,
        environment=EnvironmentFile.read(folder / ENVIRONMENT) if ENVIRONMENT in present else None,
        job=texts.get(JOB),
        digests={name: sha256_text(text) for name, text in texts.items()},
    )


def _short_location(location: str) -> str:
    """`light-4` for `bundled:light-4` and for `/models/light-4`."""
    return one_line(Path(location.removeprefix("bundled:")).name or location, max_length=24)


def label(row: SearchRow | FreshRow, search: SearchFile) -> str:
    """What to call a plan: its hand-made name if it has one, else its schedule."""
    name = row.name if isinstance(row, SearchRow) else search.row(row.digest).name
    return name.replace("_", " ") if name else str(row.schedule)


def named(row: SearchRow | FreshRow, search: SearchFile) -> str:
    """Name and schedule: `sandwich: L6 H38 L6`."""
    name, text = label(row, search), str(row.schedule)
    return text if name == text else f"{name}: {text}"


def all_heavy(file: SearchFile) -> SearchRow | None:
    """The row that runs heavy at every step."""
    return next((row for row in file.rows if row.schedule.roles == (file.setting.heavy,)), None)


def saved_as_counted(row: SearchRow, heavy: SearchRow) -> float:
    """Share of all-heavy's FLOPs, head included, that the search's own samples did not need.

    Differs from the expected saving by chance: which steps were idle depends on the seeds.
    """
    return 1.0 - row.cost.flops_total / heavy.cost.flops_total
