"""A run folder with planted truths, written in schedlab's file formats without running anything.

The planted pair: the heavy denoiser is better than the light ones by a bump that peaks at t = 0.5,
so light steps cost most in the middle; schedules' Gen-PPL follow from that plus noise. `scale` = 0
plants a light that is as good as the heavy.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from schedlab.plan import DenoiserRef, FileRef, ModelSchedule, Plan
from schedlab.results import Estimate
from schedlab.results.environment_file import CorpusRef, EnvironmentFile
from schedlab.results.importance_file import (
    Curve,
    ImportanceFile,
    ImportanceSetting,
    Propagation,
    Significance,
    StepScores,
    curve_id,
)
from schedlab.results.search_file import (
    AdditiveScores,
    FreshRow,
    Hypervolume,
    RankCorrelation,
    RowCost,
    SearchFile,
    SearchRow,
    SearchSetting,
    SegmentInfluence,
)
from schedlab.search.space import assignment_of, handmade

LENGTH = 64
NUM_STEPS = 50
NUM_SEGMENTS = 10
BLOCKS = {"H": 12, "Hb": 12, "M": 8, "L": 4}
BASE_LOG_PPL = math.log(62.0)
CORPUS = hashlib.sha256(b"planted corpus").hexdigest()
T_K = 1 - np.arange(NUM_STEPS) / NUM_STEPS

HOSTILE = (
    "<script>alert(1)</script>",
    "$\\frac{",
    "{{7*7}}",
    '#read("/etc/passwd")',
    "a\x00b\x1b[31mred",
    "\u202eright to left\u202c \u05e9\u05dc\u05d5\u05dd",
    "<img src=x onerror=alert(1)> </svg></style></title> 'x' \"y\" & &amp;",
    "word" * 150,
    "",
    "$x$ *bold* _it_ @ref <label> `raw` \\ // comment /* c */ [x](http://example.org)",
)


@dataclass(frozen=True)
class Built:
    """A built report, and the files that it was built from."""

    html: str
    pdf: bytes
    importance: ImportanceFile
    search: SearchFile


def estimate(value: float, half: float, n: int) -> Estimate:
    return Estimate(value=float(value), low=float(value - half), high=float(value + half), n=n)


def gap(t: np.ndarray | float, role: str, scale: float = 1.0) -> np.ndarray:
    """Planted loss of `role` over heavy, nats per masked token, peak at t = 0.5."""
    size = {"H": 0.0, "Hb": 0.004, "M": 0.06, "L": 0.16}[role]
    return scale * size * (0.25 + np.exp(-(((np.asarray(t) - 0.5) / 0.2) ** 2)))


def importance(*, n: int = 128, seed: int = 7, scale: float = 1.0) -> ImportanceFile:
    """`importance.json` of the planted pair."""
    rng = np.random.default_rng(seed)
    noise = 0.25 / math.sqrt(n)
    wide = 2.2 * noise * (0.6 + 3 / np.sqrt(LENGTH * T_K))
    narrow = 0.45 * noise * (0.5 + 2 / np.sqrt(LENGTH * T_K))
    base = 2.1 + 3.9 * T_K**0.8
    curves: list[Curve] = []

    def add(metric: Any, roles: list[str], states: Any, mean: Any, half: Any) -> None:
        drawn = mean + half * rng.normal(0, 0.35, NUM_STEPS)
        if metric in {"abs_loss_gap", "js", "kl_heavy_light", "kl_light_heavy"}:
            drawn = np.abs(drawn)
        curves.append(
            Curve(
                id=curve_id(metric, roles, states=states, prefix=False),
                metric=metric,
                roles=roles,
                states=states,
                prefix=False,
                t=T_K.tolist(),
                value=drawn.tolist(),
                low=(drawn - half).tolist(),
                high=(drawn + half).tolist(),
                n=n,
            )
        )

    for role in BLOCKS:
        add("cross_entropy", [role], "forward", base + gap(T_K, role, scale), wide)
    for light in ("L", "M", "Hb"):
        size = gap(T_K, light, scale)
        add("loss_gap", ["H", light], "forward", size, narrow)
        add("abs_loss_gap", ["H", light], "forward", size + 0.09 + 0.1 * T_K, narrow)
        for states, factor in (("forward", 1.0), ("heavy_sampler", 1.25)):
            kl = factor * (1.15 * size + 0.11 * np.exp(-(((T_K - 0.45) / 0.35) ** 2)))
            add("kl_heavy_light", ["H", light], states, kl, narrow * 0.7)
            add("kl_light_heavy", ["H", light], states, kl * 1.12, narrow * 0.75)
            add("js", ["H", light], states, kl * 0.23, narrow * 0.2)
            if light != "Hb":
                relative = factor * 1.15 * (size - gap(T_K, "Hb", scale))
                add("relative_kl", ["H", light], states, relative, narrow * 0.9)
    step_scores = []
    for light, states in itertools.product(("L", "M"), ("forward", "heavy_sampler")):
        factor = 1.0 if states == "forward" else 1.25
        loss = (gap(T_K, light, scale) + rng.normal(0, 0.3, NUM_STEPS) * narrow) / NUM_STEPS
        kl = factor * (1.15 * gap(T_K, light, scale) + 0.11) / NUM_STEPS
        half = narrow / NUM_STEPS
        forward = states == "forward"
        step_scores.append(
            StepScores(
                heavy="H",
                light=light,
                states=states,
                prefix=False,
                num_steps=NUM_STEPS,
                loss_gap=loss.tolist() if forward else None,
                loss_gap_low=(loss - half).tolist() if forward else None,
                loss_gap_high=(loss + half).tolist() if forward else None,
                path_kl=kl.tolist(),
                path_kl_low=(kl - half * 0.7).tolist(),
                path_kl_high=(kl + half * 0.7).tolist(),
            )
        )
    significance = []
    for light in ("L", "M"):
        size = float(np.mean(gap(T_K, light, scale))) + 0.001
        for metric in ("loss_gap", "relative_kl"):
            mean_gap = estimate(size, 0.9 * noise, n)
            significance.append(
                Significance(
                    light=light, metric=metric, mean_gap=mean_gap, significant=mean_gap.excludes(0)
                )
            )
    return ImportanceFile(
        setting=ImportanceSetting(
            num_sequences=n,
            length=LENGTH,
            prefix_length=0,
            seed=5,
            precision="float32",
            corpus_fingerprint=CORPUS,
            heavy="H",
            heavy_b="Hb",
            lights=["L", "M"],
            levels=NUM_STEPS,
            bootstrap_resamples=2000,
            states=["forward", "heavy_sampler"],
            num_steps=NUM_STEPS,
            sampled_sequences=n,
            propagation_sequences=64,
            denoisers={role: fingerprint(role) for role in BLOCKS},
        ),
        curves=curves,
        step_scores=step_scores,
        nelbo={
            role: estimate(float(np.mean(base + gap(T_K, role, scale))), 1.6 * noise, n)
            for role in BLOCKS
        },
        significance=significance,
        propagation=[
            Propagation(
                segment=j,
                t_from=1 - j / NUM_SEGMENTS,
                t_to=1 - (j + 1) / NUM_SEGMENTS,
                heavy="H",
                light=light,
                changed_tokens=estimate(size * (0.30 - 0.025 * j) * scale + 0.01, 0.03, 64),
                propagated_tokens=None
                if j == NUM_SEGMENTS - 1
                else estimate(size * (0.25 - 0.025 * j) * scale + 0.005, 0.03, 64),
                kl_next=None
                if j == NUM_SEGMENTS - 1
                else estimate(0.02 + size * 0.3 * scale * math.exp(-((j - 4) ** 2) / 6), 0.02, 64),
            )
            for light, size in (("L", 1.0), ("M", 0.6))
            for j in range(NUM_SEGMENTS)
        ],
    )


class Planted:
    """Planted measurements: the same schedule gives the same numbers whenever asked."""

    def __init__(self, scale: float, seed: int) -> None:
        self.scale, self.seed = scale, seed

    def log_ppl_cost(self, schedule: ModelSchedule) -> float:
        steps = zip(T_K, schedule.steps, strict=True)
        return 2.4 * sum(float(gap(t, role, self.scale)) for t, role in steps) / NUM_STEPS

    def cost(self, schedule: ModelSchedule) -> RowCost:
        events = NUM_STEPS * (1 - (1 - 1 / NUM_STEPS) ** LENGTH)
        forwards = {r: events * schedule.count(r) / NUM_STEPS for r in schedule.roles}
        block_forwards = sum(BLOCKS[role] * count for role, count in forwards.items())
        blocks, head = block_forwards * 2.6e7, 3.4e7
        all_heavy = events * 12 * 2.6e7
        nominal = sum(BLOCKS[role] * schedule.count(role) for role in schedule.roles)
        return RowCost(
            forwards=forwards,
            block_forwards=block_forwards,
            flops_blocks=blocks,
            flops_total=blocks + head,
            saved_blocks=1 - blocks / all_heavy,
            saved_total=1 - (blocks + head) / (all_heavy + head),
            nominal_saved_blocks=1 - nominal / (12 * NUM_STEPS),
            nominal_saved_total=0.73 * (1 - nominal / (12 * NUM_STEPS)),
            seconds=0.011 * block_forwards / 12,
        )

    def quality(self, schedule: ModelSchedule, seed: int, n: int) -> tuple[dict, Estimate]:
        """Estimates, and the paired difference to all-heavy."""
        key = f"{schedule}/{seed}/{self.seed}".encode()
        rng = np.random.default_rng(int(hashlib.sha256(key).hexdigest()[:15], 16))
        half = 0.62 / math.sqrt(n)
        light_share = 1 - schedule.count("H") / NUM_STEPS
        mixed = light_share > 0
        log_ppl = BASE_LOG_PPL + self.log_ppl_cost(schedule) + mixed * rng.normal(0, half / 4)
        ppl = math.exp(log_ppl)
        estimates = {
            "gen_ppl": Estimate(
                value=ppl, low=ppl * math.exp(-half), high=ppl * math.exp(half), n=n
            ),
            "log_gen_ppl": estimate(log_ppl, half, n),
            "entropy": estimate(3.62 - 0.09 * light_share**3 + rng.normal(0, 0.004), 0.02, n),
            "distinct_1": estimate(0.41, 0.01, n),
            "distinct_2": estimate(0.83, 0.01, n),
            "distinct_3": estimate(0.95, 0.01, n),
            "self_bleu": estimate(0.07, 0.01, n),
            "agreement": estimate(max(0.2, 1 - 1.4 * light_share), 0.03 * mixed, n),
        }
        return estimates, estimate(log_ppl - BASE_LOG_PPL, half / 2 * mixed, n)


def search(
    *,
    n: int = 32,
    fresh_n: int = 128,
    scale: float = 1.0,
    seed: int = 3,
    num_light: int = 4,
    text: Callable[[str, int], str] | None = None,
) -> SearchFile:
    """`search.json` of the seven hand-made schedules, the exhaustive and the additive ones."""
    planted = Planted(scale, seed)
    band = (3.55, 3.70)
    families: dict[ModelSchedule, list[Any]] = {}
    names = {schedule: name for name, schedule in handmade(NUM_STEPS).items()}
    for schedule in names:
        families.setdefault(schedule, []).append("handmade")
    for chosen in itertools.combinations(range(NUM_SEGMENTS), num_light):
        roles = ["L" if j in chosen else "H" for j in range(NUM_SEGMENTS)]
        schedule = ModelSchedule.from_assignment(roles, NUM_STEPS)
        families.setdefault(schedule, []).append("exhaustive")
    order = sorted(range(NUM_STEPS), key=lambda k: float(gap(T_K[k], "L")))
    for k in range(NUM_SEGMENTS + 1):
        light = set(order[: k * NUM_STEPS // NUM_SEGMENTS])
        steps = ["L" if j in light else "H" for j in range(NUM_STEPS)]
        families.setdefault(ModelSchedule.from_steps(steps), []).append("additive")
    rows = []
    for schedule, kinds in families.items():
        estimates, paired = planted.quality(schedule, 11, n)
        roles_of = assignment_of(schedule, NUM_SEGMENTS)
        additive = planted.log_ppl_cost(schedule) / 2.4
        rows.append(
            SearchRow(
                schedule=schedule,
                digest=Plan(length=LENGTH, model_schedule=schedule).digest,
                families=tuple(kinds),
                name=names.get(schedule),
                light_segments=None
                if roles_of is None
                else tuple(j for j, role in enumerate(roles_of) if role == "L"),
                light_share=schedule.count("L") / NUM_STEPS,
                estimates=estimates,
                paired_log_ppl=paired,
                cost=planted.cost(schedule),
                additive=AdditiveScores(
                    loss_gap=additive,
                    path_kl=1.4 * additive + 0.14 * schedule.count("L") / NUM_STEPS,
                ),
                in_entropy_band=band[0] <= estimates["entropy"].value <= band[1],
                on_front=False,
            )
        )
    rows = _with_front(rows)
    fresh, picks = _fresh(rows, planted, fresh_n, text or sample_text, band)
    exhaustive = [row for row in rows if "exhaustive" in row.families]
    return SearchFile(
        setting=SearchSetting(
            length=LENGTH,
            num_steps=NUM_STEPS,
            num_segments=NUM_SEGMENTS,
            heavy="H",
            light="L",
            roles=("H", "L"),
            num_sequences=n,
            block_size=16,
            seed=11,
            fresh_seed=1011,
            fresh_sequences=fresh_n,
            scorer="bundled:scorer",
            precision="float32",
            temperature=1.0,
            top_p=1.0,
            entropy_band=band,
            fresh_entropy_band=band,
            reference_point=(5.0, 1.1),
            corpus_fingerprint=CORPUS,
        ),
        rows=tuple(rows),
        fresh=fresh,
        segment_influence=_influence(exhaustive),
        rank_correlation=tuple(
            RankCorrelation(
                score=score,
                states=states,
                spearman=estimate(value, 0.06, n),
                kendall=estimate(value - 0.17, 0.05, n),
                ceiling_spearman=estimate(0.88, 0.04, n),
                ceiling_kendall=estimate(0.7, 0.05, n),
                n_plans=len(exhaustive),
            )
            for score, states, value in (
                ("loss_gap", "forward", 0.74),
                ("path_kl", "heavy_sampler", 0.71),
            )
        ),
        hypervolume=Hypervolume(value=0.412, by_family={"exhaustive": 0.33, "additive": 0.402}),
        picks=picks,
    )


def _ppl(row: SearchRow) -> float:
    return row.estimates["gen_ppl"].value


def _with_front(rows: list[SearchRow]) -> list[SearchRow]:
    inside = [(_ppl(row), row.cost.flops_total) for row in rows if row.in_entropy_band]

    def on_front(row: SearchRow) -> bool:
        here = (_ppl(row), row.cost.flops_total)
        return row.in_entropy_band and not any(
            there[0] <= here[0] and there[1] <= here[1] and there != here for there in inside
        )

    return [row.model_copy(update={"on_front": on_front(row)}) for row in rows]


def _fresh(
    rows: list[SearchRow],
    planted: Planted,
    n: int,
    text: Callable[[str, int], str],
    band: tuple[float, float],
) -> tuple[tuple[FreshRow, ...], dict[str, str]]:
    front = sorted((row for row in rows if row.on_front), key=lambda row: row.light_share)
    exhaustive = [row for row in rows if "exhaustive" in row.families]
    mixed = [row for row in rows if row.in_entropy_band and row.light_share > 0]
    best = min(mixed, key=_ppl)
    knee = next(row for row in front if row.light_share >= 0.5)
    why: dict[str, list[Any]] = {}
    for name, chosen in (
        ("best", [best]),
        ("knee", [knee]),
        ("front", front),
        ("all_heavy", [row for row in rows if row.name == "all_heavy"]),
        ("all_light", [row for row in rows if row.name == "all_light"]),
        ("worst", [max(exhaustive, key=_ppl)]),
    ):
        for row in chosen:
            why.setdefault(row.digest, []).append(name)
    by_digest = {row.digest: row for row in rows}
    fresh = []
    for digest, whys in why.items():
        schedule = by_digest[digest].schedule
        estimates, paired = planted.quality(schedule, 1011, n)
        fresh.append(
            FreshRow(
                digest=digest,
                schedule=schedule,
                why=tuple(whys),
                estimates=estimates,
                paired_log_ppl=paired,
                in_entropy_band=band[0] <= estimates["entropy"].value <= band[1],
                samples=tuple(text(str(schedule), j) for j in range(4)),
            )
        )
    return tuple(fresh), {"best": best.digest, "knee": knee.digest, "budget=0.25": knee.digest}


def _influence(exhaustive: list[SearchRow]) -> tuple[SegmentInfluence, ...]:
    ranked = sorted(exhaustive, key=_ppl)
    ppl = np.array([_ppl(row) for row in exhaustive])
    result = []
    for j in range(NUM_SEGMENTS):
        has = np.array([j in (row.light_segments or ()) for row in exhaustive])
        log_shift = float(np.log(ppl[has]).mean() - np.log(ppl).mean())
        result.append(
            SegmentInfluence(
                segment=j,
                value=log_shift,
                low=log_shift - 0.006,
                high=log_shift + 0.006,
                n=32,
                ppl=estimate(float(ppl[has].mean() - ppl.mean()), 0.4, 32),
                in_top=sum(j in (row.light_segments or ()) for row in ranked[:20]),
                in_bottom=sum(j in (row.light_segments or ()) for row in ranked[-20:]),
                ranked=20,
            )
        )
    return tuple(result)


def sample_text(schedule: str, index: int) -> str:
    """Text in the manner of the embedded corpus."""
    words = (
        "Returns the array of values for each given axis . If ` axis ` is None , the default is to"
        " compute the mean over the flattened array , and the result is a scalar . See also the"
        " function in the notes section below , which raises a ValueError when the input is not"
    ).split()
    start = int(np.random.default_rng([len(schedule), index]).integers(0, len(words)))
    return " ".join(words[start:] + words[:start])


def fingerprint(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def environment() -> EnvironmentFile:
    names = {"H": "heavy", "Hb": "heavy-b", "M": "light-8", "L": "light-4"}
    return EnvironmentFile(
        schedlab="0.1.0",
        python="3.11.7",
        platform="Linux 6.1 x86_64",
        packages={"torch": "2.13.0+cpu", "numpy": "2.3.1", "optuna": "5.0.0"},
        device="cpu",
        threads=2,
        precision="float32",
        denoisers={
            role: DenoiserRef(
                location=f"bundled:{names[role]}",
                sha256=fingerprint(role),
                num_blocks=blocks,
                num_parameters=197_000 * blocks + 524_288,
                flops_per_forward=2.6e7 * blocks + 3.4e7,
            )
            for role, blocks in BLOCKS.items()
        },
        tokenizer=FileRef(location="bundled", sha256=fingerprint("tokenizer")),
        scorer=FileRef(location="bundled:scorer", sha256=fingerprint("scorer")),
        corpus=CorpusRef(source="embedded", fingerprint=CORPUS),
    )


JOB = """# the demo's job
[lab.denoisers]
H = "bundled:heavy"
Hb = "bundled:heavy-b"
M = "bundled:light-8"
L = "bundled:light-4"
"""


def write_run(
    folder: Path,
    *,
    importance_file: ImportanceFile | None = None,
    search_file: SearchFile | None = None,
    job: str = JOB,
) -> Path:
    """Write the given parts, the environment and the job into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    if importance_file is not None:
        importance_file.write(folder / "importance.json")
    if search_file is not None:
        search_file.write(folder / "search.json")
    environment().write(folder / "environment.json")
    (folder / "job.toml").write_text(job, encoding="utf-8")
    return folder
