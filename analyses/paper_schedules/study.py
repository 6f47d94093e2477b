"""The paper's questions on one corpus: `python study.py CORPUS MODELS OUT [--smoke]`.

CORPUS is "embedded" or the text file that `train.py` was given, MODELS the folder that it trained
into (for "embedded" the bundled models are used beside it). What is missing there is left out.
OUT gets run folders, which may be cut off and gone on with, and `results.json`.

Legend: N plans, S sequences.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from schedlab.files import write_atomic
from schedlab.job import Job, parse_job
from schedlab.pipeline import run_analyze, run_search
from schedlab.pipeline.progress import LogLines
from schedlab.pipeline.run_folder import RunFolder
from schedlab.pipeline.stages import Run
from schedlab.plan import ModelSchedule
from schedlab.report import build_report
from schedlab.report.findings import findings
from schedlab.report.findings.importance import heavy_better, middle_matters
from schedlab.report.run_data import load_run
from schedlab.results import Estimate, Measurement, paired_log_ppl_difference
from schedlab.results.bootstrap import bootstrap_mean, bootstrap_statistic
from schedlab.results.importance_file import ImportanceFile
from schedlab.results.search_file import SearchFile, SearchRow
from schedlab.search.bench import Bench
from schedlab.search.proposals import propose
from schedlab.search.racing import paired_limits

LIGHTS = {4: "L", 6: "Lsix", 8: "Leight", 10: "Lten"}
BUNDLED = {"heavy", "heavy-b", "light-4", "light-8", "scorer"}
SHARES, FEW_SHARES = [0.1, 0.25, 0.5, 0.75], [0.25, 0.75]
QUARTER = ("light_first", "light_second", "light_third", "light_last", "sandwich")
LEVEL = 0.05 / 2


def main(corpus: str, models: str, out: str, *, smoke: bool = False) -> None:
    """Run everything that is missing, then write `results.json`."""
    study = Study(corpus, Path(models), Path(out), smoke)
    results = {
        "corpus": study.corpus,
        "setting": study.setting,
        "lights": {str(blocks): study.handmade(blocks) for blocks in study.lights},
        "prefix": study.prefix(),
        "prefix_rank_correlation": study.prefix_ranking(),
        **study.exhaustive(),
    }
    write_atomic(Path(out) / "results.json", json.dumps(results, indent=1, allow_nan=False))


class Study:
    """Jobs of one corpus and what they gave."""

    def __init__(self, corpus: str, models: Path, out: Path, smoke: bool) -> None:
        self.corpus = corpus if corpus == "embedded" else str(Path(corpus).absolute())
        self.models, self.out, self.smoke = models.absolute(), out, smoke
        self.quarter: dict[str, dict[str, Measurement]] = {}  # by name of the run
        self.lights = [blocks for blocks in LIGHTS if self._location(f"light-{blocks}")]
        self.setting = {
            "length": 16 if smoke else 64,
            "num_steps": 16 if smoke else 40,
            "num_segments": 4 if smoke else 10,
            "handmade_sequences": 32 if smoke else 128,
            "exhaustive_sequences": 32,
            "fresh_sequences": 32 if smoke else 128,
            "windows": 32 if smoke else 256,
            "prefix_length": 4 if smoke else 16,
            "seed": 11,
            "scorer": "the corpus's own autoregressive model of 6 blocks",
        }

    # Jobs

    def _location(self, name: str) -> str | None:
        folder = self.models / name
        if (folder / "model.safetensors").exists():
            return str(folder)
        return f"bundled:{name}" if self.corpus == "embedded" and name in BUNDLED else None

    def job(self, light: int, *, others: bool = False, **search: Any) -> Job:
        """A job on heavy and one light, the other lights there for the analysis only."""
        named = {"H": "heavy", "Hb": "heavy-b", "L": f"light-{light}"}
        if others:
            named |= {LIGHTS[n]: f"light-{n}" for n in self.lights if n != light}
        denoisers = {role: self._location(name) for role, name in named.items()}
        embedded, setting = self.corpus == "embedded", self.setting
        prefix = search.get("prefix_length", 0)
        return parse_job(
            {
                "job": {"name": f"light-{light}", "seed": setting["seed"]},
                "lab": {
                    "denoisers": {role: where for role, where in denoisers.items() if where},
                    "scorer": self._location("scorer"),
                    "tokenizer": "bundled" if embedded else str(self.models / "tokenizer.json"),
                },
                "corpus": {"source": self.corpus},
                "plan": {name: setting[name] for name in ("length", "num_steps")},
                "analyze": {
                    "num_windows": setting["windows"],
                    "propagation_sequences": 16 if self.smoke else 48,
                    "prefix_length": prefix or setting["prefix_length"],
                },
                "search": {
                    "num_segments": setting["num_segments"],
                    "handmade_shares": SHARES,
                    "exhaustive": False,
                    "additive": False,
                    "num_sequences": setting["handmade_sequences"],
                    "fresh_sequences": setting["fresh_sequences"],
                    **search,
                },
            }
        )

    def measured(self, name: str, job: Job) -> tuple[Bench, dict[str, ModelSchedule]]:
        """The hand-made schedules of a job on all its sequences."""
        folder = RunFolder(self.out / name)
        with folder.lock():
            folder.begin(job, ("search",))
            run = Run(job, folder, LogLines())
            evaluator = run.evaluator()
            try:
                bench = Bench(job, evaluator)
                proposals = propose(job)
                bench.measure(proposals)
            finally:
                evaluator.close()
        return bench, {label: schedule for schedule, label in proposals.names.items()}

    # Questions

    def handmade(self, blocks: int) -> dict[str, Any]:
        """Hand-made schedules of one light, and whether the sandwich wins.

        At all shares for the lightest, at two of them for the others.
        """
        shares = SHARES if blocks == self.lights[0] else FEW_SHARES
        return self._handmade(f"handmade-{blocks}", self.job(blocks, handmade_shares=shares))

    def prefix(self) -> dict[str, Any]:
        """The same for the lightest at a quarter, given the first tokens of held-out texts."""
        length = self.setting["prefix_length"]
        job = self.job(self.lights[0], prefix_length=length, handmade_shares=[0.25])
        return self._handmade("prefix", job)

    def prefix_ranking(self) -> dict[str, Any]:
        """Spearman's rho between the five mixed schedules of a quarter with and without prefix.

        Percentiles over resamples of the sequences, those of the two settings apart: texts and
        prefixes are others. Noise in both rankings pulls it towards 0.
        """
        rng = np.random.default_rng(0)
        found = [self.quarter[name] for name in (f"handmade-{self.lights[0]}", "prefix")]
        qualities = []
        for quarter in found:
            nll_SN = np.stack(
                [one.nll_S / one.scored_tokens_S for one in quarter.values()], axis=1
            )
            weight_RS = rng.multinomial(len(nll_SN), np.full(len(nll_SN), 1 / len(nll_SN)), 2000)
            qualities.append(np.vstack([nll_SN.mean(axis=0), weight_RS @ nll_SN / len(nll_SN)]))
        rho_R = np.array([spearmanr(a, b).statistic for a, b in zip(*qualities, strict=True)])
        low, high = np.quantile(rho_R[1:], [0.025, 0.975])
        return {"value": float(rho_R[0]), "low": float(low), "high": float(high), "schedules": 5}

    def _handmade(self, name: str, job: Job) -> dict[str, Any]:
        bench, named = self.measured(name, job)
        heavy = bench.measured[bench.heavy]
        rows = {}
        for label, schedule in named.items():
            found = bench.measured[schedule]
            rows[label] = {
                "schedule": str(schedule),
                "light_share": 1 - schedule.count(bench.job.plan.heavy) / schedule.num_steps,
                "saved": bench.saved(schedule),
                "saved_blocks_nominal": bench.saved(schedule, "nominal_block_forwards"),
                "saved_total_nominal": bench.saved(schedule, "nominal_flops_total"),
                "change": paired_log_ppl_difference(found, heavy).model_dump(),
                "gen_ppl": found.estimates["gen_ppl"].model_dump(),
                "entropy": found.estimates["entropy"].model_dump(),
            }
        self.quarter[name] = {label: bench.measured[named[label]] for label in QUARTER}
        return {"rows": rows, "quarter": compared(self.quarter[name])}

    def exhaustive(self) -> dict[str, Any]:
        """All assignments of segments for the lightest: influence, ranking, additive regret."""
        job = self.job(
            self.lights[0],
            others=True,
            exhaustive=True,
            num_light="all",
            additive=True,
            num_sequences=self.setting["exhaustive_sequences"],
        )
        path = self.out / "all"
        seconds = {}
        for name, stage in (("analysis", run_analyze), ("search", run_search)):
            begin = time.monotonic()
            stage(job, path)
            seconds[name] = time.monotonic() - begin
        build_report(path)
        run, file = load_run(path), SearchFile.read(path / "search.json")
        importance = ImportanceFile.read(path / "importance.json")
        told = [
            *findings(run),
            *(heavy_better(importance, LIGHTS[blocks]) for blocks in self.lights[1:]),
            *(middle_matters(importance, LIGHTS[blocks]) for blocks in self.lights[1:]),
        ]
        return {
            "findings": [vars(one) for one in told if one is not None],
            "nelbo": {role: found.model_dump() for role, found in importance.nelbo.items()},
            "gap": {
                item.light: item.mean_gap.model_dump()
                for item in importance.significance
                if item.metric == "loss_gap" and not item.prefix
            },
            "influence": [item.model_dump(mode="json") for item in file.segment_influence],
            "ranking": [item.model_dump(mode="json") for item in file.rank_correlation],
            "seconds": seconds,  # near nothing where the run was there already
            **self._regret(job, file),
        }

    def _regret(self, job: Job, file: SearchFile) -> dict[str, Any]:
        """At every number of light segments: the mean schedule, the exhaustive winner and the two
        additive choices, the last three again on fresh seeds."""
        segments = self.setting["num_segments"]
        by_count: dict[int, list[SearchRow]] = {}
        for row in file.rows:
            if row.light_segments is not None and "exhaustive" in row.families:
                by_count.setdefault(len(row.light_segments), []).append(row)
        chosen: dict[int, dict[str, ModelSchedule]] = {}
        for count in range(1, segments):
            rows = by_count[count]
            chosen[count] = {
                "winner": min(rows, key=lambda r: r.paired_log_ppl.value).schedule,
                "loss_gap": min(rows, key=lambda r: r.additive.loss_gap or 0.0).schedule,
                "path_kl": min(rows, key=lambda r: r.additive.path_kl or 0.0).schedule,
            }
        folder = RunFolder(self.out / "all")
        with folder.lock():
            evaluator = Run(job, folder, LogLines()).evaluator()
            try:
                bench = Bench(job, evaluator)
                wanted = {s for found in chosen.values() for s in found.values()}
                bench.measure_fresh([bench.heavy, *sorted(wanted, key=str)])
                bench.measure([bench.heavy, *(row.schedule for row in file.rows)])
            finally:
                evaluator.close()
        fresh, heavy = bench.fresh, bench.fresh[bench.heavy]
        table = {}
        for count, found in chosen.items():
            mean = mean_change([bench.measured[r.schedule] for r in by_count[count]], bench)
            table[str(count)] = {
                "schedules": len(by_count[count]),
                "saved": bench.saved(found["winner"]),
                "mean_change": mean.model_dump(),
                **{
                    name: {
                        "schedule": str(schedule),
                        "change": paired_log_ppl_difference(fresh[schedule], heavy).model_dump(),
                        "regret": paired_log_ppl_difference(
                            fresh[schedule], fresh[found["winner"]]
                        ).model_dump(),
                    }
                    for name, schedule in found.items()
                },
            }
        overall = {
            name: mean_regret(
                [(fresh[found[name]], fresh[found["winner"]]) for found in chosen.values()]
            ).model_dump()
            for name in ("loss_gap", "path_kl")
        }
        return {"by_count": table, "mean_regret": overall}


def mean_change(plans: Sequence[Measurement], bench: Bench) -> Estimate:
    """Mean over plans of log Gen-PPL minus all-heavy's, on the search's sequences."""
    heavy = bench.measured[bench.heavy]
    nll_SN = np.stack([plan.nll_S for plan in plans], axis=1)
    tokens_SN = np.stack([plan.scored_tokens_S for plan in plans], axis=1)
    return bootstrap_statistic(
        lambda nll, tokens, a, b: (nll / tokens).mean(-1, keepdims=True) - a / b,
        nll_SN,
        tokens_SN,
        heavy.nll_S[:, None],
        heavy.scored_tokens_S[:, None],
    ).estimate(0)


def mean_regret(pairs: Sequence[tuple[Measurement, Measurement]]) -> Estimate:
    """Mean over budgets of log Gen-PPL of the choice minus that of the winner, one sample."""
    per_sequence_S = np.mean(
        [a.nll_S / a.scored_tokens_S - b.nll_S / b.scored_tokens_S for a, b in pairs], axis=0
    )
    return bootstrap_mean(per_sequence_S).estimate()


def compared(found: Mapping[str, Measurement]) -> dict[str, Any]:
    """Log Gen-PPL of every pair, row minus column, with limits that hold for all pairs of one
    question together (Bonferroni over the other schedules, two-sided 95 %)."""
    names = list(found)
    nll_SN = np.stack([found[name].nll_S for name in names], axis=1)
    tokens_SN = np.stack([found[name].scored_tokens_S for name in names], axis=1)
    difference_NN, low_NN = paired_limits(nll_SN, tokens_SN, LEVEL / (len(names) - 1))
    return {
        names[i]: {
            names[j]: {
                "value": float(difference_NN[i, j]),
                # Equal texts give no spread: the difference is 0 and known.
                "low": float(low_NN[i, j]) if np.isfinite(low_NN[i, j]) else 0.0,
                "high": -float(low_NN[j, i]) if np.isfinite(low_NN[j, i]) else 0.0,
                "n": len(nll_SN),
            }
            for j in range(len(names))
            if j != i
        }
        for i in range(len(names))
    }


if __name__ == "__main__":
    given = [argument for argument in sys.argv[1:] if argument != "--smoke"]
    if len(given) != 3:
        sys.exit(__doc__)
    main(*given, smoke="--smoke" in sys.argv)
