"""What the plan files of all kinds of searches have in common (no torch, no models)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import schedlab
from schedlab.errors import InputError
from schedlab.files import sha256_file
from schedlab.plan import FileRef, MeasuredValue, Plan, PlanFile
from schedlab.plan.plan import Scalar
from schedlab.results import Estimate
from schedlab.results.control_file import ControlSetting
from schedlab.results.environment_file import EnvironmentFile
from schedlab.results.policy_file import PolicySetting
from schedlab.results.search_file import SearchSetting


def plan_file(
    plan: Plan,
    results: Path,
    setting: SearchSetting | PolicySetting | ControlSetting,
    environment: EnvironmentFile,
    *,
    digest: str,
    pick: str,
    plans_evaluated: int,
    measured: Mapping[str, MeasuredValue],
    about: Mapping[str, Scalar | list[Scalar]],
) -> PlanFile:
    """A plan with the models it was measured with, its figures, and where they come from.

    Args:
        plan: as its search's file has it.
        results: that file.
        setting: in it.
        environment: of the run.
        digest: of the plan that was measured.
        pick: by which name it was picked.
        plans_evaluated: among how many.
        measured: on fresh sequences.
        about: what is noted beside what all searches note.

    Raises:
        InputError: files that do not fit together, or models that the run did not have.
    """
    if environment.precision != setting.precision:
        raise InputError(
            f"environment.json says precision {environment.precision}, {results.name} was measured"
            f" in {setting.precision[:20]!r}; keep runs of different precisions apart"
        )
    if plan.digest != digest:
        raise InputError(
            f"{results.name}: the plan {plan.model_schedule} has the digest {plan.digest[:12]},"
            f" but {digest[:12]} was measured; the file was edited or made by another version:"
            " search again"
        )
    roles = plan.model_schedule.roles
    missing = [role for role in roles if role not in environment.denoisers]
    if missing:
        raise InputError(
            f"environment.json names no denoiser for role {missing[0]!r} of {plan.model_schedule};"
            f" it has {sorted(environment.denoisers)}"
        )
    return PlanFile(
        plan=plan,
        digest=digest,
        denoisers={role: environment.denoisers[role] for role in roles},
        tokenizer=environment.tokenizer,
        precision=environment.precision,
        classifiers=guides_of(plan, environment),
        measured=dict(measured),
        provenance={
            "schedlab": schedlab.__version__,
            "measured_with_schedlab": environment.schedlab,
            "pick": pick,
            "plans_evaluated": plans_evaluated,
            "search_seed": setting.seed,
            "search_sequences": setting.num_sequences,
            "fresh_seed": setting.fresh_seed,
            "fresh_sequences": setting.fresh_sequences,
            "prefix_length": setting.prefix_length,
            "scorer": setting.scorer,
            "device": environment.device,
            "platform": environment.platform,
            "packages": [f"{name} {version}" for name, version in environment.packages.items()],
            "search_file_sha256": sha256_file(results),
            **about,
        },
    )


def measured_value(
    estimate: Estimate,
    setting: SearchSetting | PolicySetting | ControlSetting,
    note: str = "",
) -> MeasuredValue:
    """An estimate on fresh sequences, as plan files have it."""
    return MeasuredValue(
        value=estimate.value,
        low=estimate.low,
        high=estimate.high,
        n=max(1, estimate.n),
        seeds=[setting.fresh_seed],
        note=note,
    )


def guides_of(plan: Plan, environment: EnvironmentFile) -> dict[str, FileRef]:
    """The classifiers that a plan's guidance names.

    Raises:
        InputError: the run had no such classifier.
    """
    attributes = plan.guidance.attributes if plan.guidance is not None else ()
    names = dict.fromkeys(attribute.classifier for attribute in attributes)
    for name in names:
        if name not in environment.classifiers:
            raise InputError(
                f"environment.json names no classifier {name!r}, which the plan's guidance uses"
            )
    return {name: environment.classifiers[name] for name in names}
