"""What a joint search over guidance and allocation may choose, and the plans that it means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
)

from schedlab.job import ControlConfig, Job
from schedlab.plan import ModelSchedule, Plan, PolicySpec
from schedlab.plan.guidance import Guidance
from schedlab.plan.plan import PolicyName, Scalar
from schedlab.plan.policy_space import Range, space_of

READS_SIGNAL = frozenset(
    ("tta_adaptive", "tta_top_k", "tta_share", "tta_softmax", "tta_threshold")
)
_NUMBERS = ("iterations", "steps", "start", "end")
UNGUIDED = {"scale": 0.0, "iterations": 0}


@dataclass(frozen=True)
class ControlSpace:
    """Makes plans of a job's settings and of proposed values."""

    job: Job

    @property
    def table(self) -> ControlConfig:
        """The job's `[control]`."""
        assert self.job.control is not None, "a joint search"
        return self.job.control

    @property
    def steps(self) -> list[int]:
        """Numbers of steps that are looked at."""
        return self.table.steps or [self.job.plan.num_steps]

    def reference(self) -> Plan:
        """`[plan]` unguided, heavy at every step; its attributes are only judged."""
        shared = self.job.plan
        plan = shared.plan(ModelSchedule.constant(shared.heavy, shared.num_steps))
        return _changed(plan, guidance=self._guidance(UNGUIDED))

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """All parameters always, so that no proposal is partial; those with one value are left
        out."""
        table = self.table
        found: dict[str, BaseDistribution] = {
            "scale": FloatDistribution(*table.scales, log=True),
        }
        if any(name == "tta_adaptive" for name in table.names):
            found["smooth"] = FloatDistribution(*table.smooth)
        for name, range_ in self._extra.items():
            found[name] = FloatDistribution(range_.low, range_.high, log=range_.scale == "log")
        choices: dict[str, list[Any]] = {
            "policy": list(table.names),
            "signal": list(table.signals),
            "pooled": list(table.pooled),
            "iterations": list(table.iterations),
            "steps": self.steps,
            "decay": list(table.decays),
            "start": list(table.starts),
            "end": list(table.ends),
            "schedule": [" ".join(roles) for roles in self._schedules],
        }
        found |= {
            name: CategoricalDistribution(values)
            for name, values in choices.items()
            if len(values) > 1
        }
        return found

    @property
    def _schedules(self) -> list[list[str]]:
        return self.table.schedules or [[self.job.plan.heavy]]

    @property
    def _extra(self) -> dict[str, Range]:
        """Parameters of policies other than alpha_smooth, named after both."""
        return {
            f"{name.removeprefix('tta_')}_{key}": range_
            for name in self.table.names
            if name != "tta_adaptive"
            for key, range_ in space_of(name).others.items()
        }

    def values(self, given: Mapping[str, Any]) -> dict[str, Scalar]:
        """Proposed values with the only ones of what was not proposed."""
        table = self.table
        fixed: dict[str, Scalar] = {
            "policy": table.names[0],
            "signal": table.signals[0],
            "pooled": table.pooled[0],
            "iterations": table.iterations[0],
            "steps": self.steps[0],
            "decay": table.decays[0],
            "start": table.starts[0],
            "end": table.ends[0],
            "schedule": " ".join(self._schedules[0]),
            "smooth": table.smooth[0],
        }
        return {**fixed, **given}

    def plan(self, given: Mapping[str, Any]) -> Plan:
        """The plan of a proposal; what its policy does not read is left out of it, so that
        proposals which mean the same are the same plan."""
        values, shared = self.values(given), self.job.plan
        schedule = ModelSchedule.from_assignment(
            str(values["schedule"]).split(), int(values["steps"])
        )
        name: Any = values["policy"]
        return _changed(
            shared.plan(schedule),
            policy=PolicySpec(name=name, parameters=self._parameters(name, values)),
            guidance=self._guidance(values),
        )

    def _parameters(self, name: PolicyName, values: Mapping[str, Scalar]) -> dict[str, Scalar]:
        # Of `[plan]` the modifiers of any rule: `_check_control` refuses others.
        found: dict[str, Scalar] = dict(self.job.plan.policy.parameters)
        if name in READS_SIGNAL:
            found |= {"signal": values["signal"], "pooled": values["pooled"]}
        if name == "tta_adaptive":
            found["smooth"] = _short(values["smooth"])
        else:
            for key, range_ in space_of(name).others.items():
                label = f"{name.removeprefix('tta_')}_{key}"
                middle = range_.spread(1)[0]
                found[key] = _short(values.get(label, middle))
        return found

    def _guidance(self, values: Mapping[str, Any]) -> Guidance:
        return Guidance(
            attributes=self.table.attributes,
            scale=_short(values["scale"]),
            iterations=int(values["iterations"]),
            decay=values.get("decay", "constant"),
            start=float(values.get("start", 1.0)),
            end=float(values.get("end", 0.0)),
            interval=self.table.interval,
            contrast=self.table.contrast,
            last_step=self.table.last_step,
        )

    def sweep(self) -> list[dict[str, Any]]:
        """Values that a search begins with: lambda swept for every policy, and for its
        noise-matched constants if they may be chosen; other numbers in the middle of what may be
        chosen, words and schedules the first that is named."""
        table, known = self.table, self.distributions
        low, high = table.scales
        found = []
        rules = [
            (name, pooled)
            for name in table.names
            for pooled in (table.pooled if name in READS_SIGNAL else table.pooled[:1])
        ]
        for name, pooled in rules:
            for scale in Range(low, high, "log").spread(table.points):
                values: dict[str, Any] = {}
                for key, distribution in known.items():
                    if isinstance(distribution, CategoricalDistribution):
                        place = len(distribution.choices) // 2 if key in _NUMBERS else 0
                        values[key] = distribution.choices[place]
                    else:
                        assert isinstance(distribution, FloatDistribution)
                        span = Range(
                            distribution.low,
                            distribution.high,
                            "log" if distribution.log else "linear",
                        )
                        values[key] = span.spread(1)[0]
                values["scale"] = scale
                if "policy" in known:
                    values["policy"] = name
                if "pooled" in known:
                    values["pooled"] = pooled
                if values not in found:
                    found.append(values)
        return found


def _short(value: Any) -> float:
    return float(f"{float(value):.6g}")


def _changed(plan: Plan, **changes: Any) -> Plan:
    """A plan with other fields; not `model_copy`, which would keep the digest."""
    fields = {name: getattr(plan, name) for name in Plan.model_fields}
    return Plan(**fields | changes)
