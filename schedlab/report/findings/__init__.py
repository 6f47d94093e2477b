"""What the numbers of a run say, in words: every statement is derived, none is written beforehand.

A question is answered 'yes' or 'no' only where 95 % intervals prove it. Two groups of noise levels
or schedules are told apart only when their intervals do not overlap, which is stricter than a test
at 5 %: the intervals of one run are not independent, and nothing corrects for looking often.
"""

from __future__ import annotations

from schedlab.report.content import Finding
from schedlab.report.findings import control as control_findings
from schedlab.report.findings import importance as importance_findings
from schedlab.report.findings import policies as policy_findings
from schedlab.report.findings import search as search_findings
from schedlab.report.run_data import RunData


def findings(run: RunData) -> tuple[Finding, ...]:
    """All statements that the files of a run allow, the most wanted first."""
    found: list[Finding | None] = []
    if run.policies is not None:
        found += policy_findings.all_of(run.policies)
    if run.control is not None:
        found += control_findings.all_of(run.control)
    if run.search is not None:
        found += [search_findings.pick(run.search, name) for name in ("best", "knee")]
    if run.importance is not None:
        file, light = run.importance, run.main_light
        found += [importance_findings.heavy_better(file, role) for role in file.setting.lights]
        found += [
            importance_findings.middle_matters(file, light),
            importance_findings.peak(file, light),
            importance_findings.given_prefix(file, light),
        ]
    if run.search is not None:
        found += [
            search_findings.all_light(run.search),
            search_findings.sandwich(run.search),
            search_findings.segments(run.search),
            search_findings.additive_ranks(run.search),
            search_findings.additive_reaches(run.search),
            search_findings.winners_curse(run.search),
            search_findings.entropy(run.search),
        ]
    if run.importance is not None:
        found += [
            importance_findings.states_matter(file, light),
            importance_findings.propagation(file, light),
        ]
    return tuple(finding for finding in found if finding is not None)
