from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schedlab.errors import InputError
from schedlab.job import dump_job, load_job, parse_job, with_absolute_paths
from schedlab.pipeline.demo import demo_job

LAB = {"denoisers": {"H": "bundled:heavy", "L": "bundled:light-4", "M": "bundled:light-8"}}
SMALL = '[lab]\ndenoisers = { H = "bundled:heavy", L = "models/light" }\n'


def write(folder: Path, text: str) -> Path:
    path = folder / "job.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_lab_is_all_that_a_job_must_name(tmp_path: Path) -> None:
    job = load_job(write(tmp_path, SMALL))
    assert job.plan.num_steps == 50 and job.search.num_light == 4
    assert (job.plan.temperature, job.plan.top_p) == (1.0, 1.0)
    assert job.search_roles == ("H", "L")


def test_paths_are_relative_to_the_job_file(tmp_path: Path) -> None:
    job = load_job(write(tmp_path, SMALL + '[corpus]\nsource = "text.jsonl"\n'))
    assert job.lab.denoisers == {"H": "bundled:heavy", "L": str(tmp_path / "models/light")}
    assert job.corpus.source == str(tmp_path / "text.jsonl")
    assert job.output.folder == str(tmp_path / "run")
    assert job.lab.tokenizer == "bundled" and job.lab.scorer == "bundled:scorer"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[serch]\n", "unknown key 'serch'; did you mean 'search'"),
        ("[search]\nnum_sequence = 64\n", r"'search.num_sequence'; did you mean 'num_sequences'"),
        ("[analyze]\nfoo = 1\n", r"unknown key 'analyze.foo'; known keys: "),
        ("[plan]\nnum_steps = 0\n", "plan.num_steps: .* got 0"),
        ("[plan]\nnum_steps = 50.0\n", "plan.num_steps"),
        ("[plan]\ntop_p = nan\n", "plan.top_p"),
        ("[search]\nnum_light = 11\n", "num_light must not exceed the 10 segments, got 11"),
        ('[search]\nnum_light = "some"\n', "search.num_light"),
        ("[search]\nnum_segments = 51\n", "num_segments must not exceed the 50 steps, got 51"),
        ("[search]\nadditive_steps = [51]\n", "additive_steps must not exceed the 50 steps"),
        (
            "[search]\nnum_sequences = 40\n",
            "search.num_sequences: .* must be a positive multiple of 16, got 40; use 32",
        ),
        ("[search]\nprefix_length = 64\n", "search.prefix_length must be below the length 64"),
        ("[analyze]\nprefix_length = 64\n", "analyze.prefix_length must be below the length 64"),
        ("[analyze]\nlevels = 51\n", "must be a multiple"),
        ('[search]\nroles = ["Q"]\n', "search.roles: role 'Q' has no denoiser"),
        ('[plan]\nlight = "H"\n', "plan.heavy and plan.light must differ"),
        ('[output]\npick = "worst"\n', "output.pick"),
        ('[output]\npick = "budget=1.5"\n', "output.pick"),
        ('[job]\nname = "../up"\n', "job.name"),
        ("[job]\nseed = -1\n", "job.seed"),
        ("[job]\nseed = true\n", "job.seed"),
        ("[job]\nseed = 1\nseed = 2\n", "not valid TOML"),
        ("[job]\nname = 2026-01-01\n", "holds a date or time, 2026-01-01"),
        ("[search]\nnum_sequences = 1000000000000\n", "search.num_sequences: .* 1000000"),
        ('[search]\nroles = ["L", "L"]\n', "search.roles names one twice"),
        ("[search]\nroles = []\n", "search.roles: .* at least 1 item"),
        ('[search]\nroles = ["H"]\ntrials = 3\n', "search.roles must hold a second role"),
        ("[analyze]\nstates = []\n", "analyze.states: .* at least 1 item"),
        ("[analyze]\nlights = []\n", "analyze.lights: .* at least 1 item"),
        ('kind = "denoiser"\n', "a training job .* schedlab train"),
    ],
)
def test_what_makes_no_sense_is_one_line_naming_the_key(
    text: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        text = text + SMALL if text.startswith("kind") else SMALL + text
        load_job(write(tmp_path, text))
    assert "\n" not in str(caught.value) and caught.value.exit_code == 2


def test_a_job_without_denoisers_or_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="key 'lab' is missing"):
        load_job(write(tmp_path, "[job]\nseed = 1\n"))
    with pytest.raises(InputError, match="no such file"):
        load_job(tmp_path / "nowhere.toml")


def test_search_fresh_and_analysis_noise_never_meet() -> None:
    job = parse_job({"lab": LAB, "job": {"seed": 5}})
    seeds = [
        {block.seed for block in job.blocks()},
        {block.seed for block in job.fresh_blocks()},
        {job.importance_config().seed},
    ]
    assert len(set.union(*seeds)) == 3


def test_fresh_sequences_are_as_many_as_the_searchs_unless_said_otherwise() -> None:
    job = parse_job({"lab": LAB, "search": {"num_sequences": 48}})
    assert [block.first for block in job.fresh_blocks()] == [0, 16, 32]
    job = parse_job({"lab": LAB, "search": {"fresh_sequences": 16}})
    assert len(job.fresh_blocks()) == 1


def test_no_given_prefix_is_used_for_choosing_and_for_measuring_again() -> None:
    table = {"num_sequences": 48, "fresh_sequences": 32, "prefix_length": 8}
    analyze = {"num_windows": 100, "prefix_length": 8}
    job = parse_job({"lab": LAB, "search": table, "analyze": analyze})
    used = [
        {block.first + j for block in blocks for j in range(block.size)}
        for blocks in (job.blocks(), job.fresh_blocks())
    ]
    assert [len(indices) for indices in used] == [48, 32]
    assert used[1].isdisjoint(used[0] | set(range(100)))  # what the additive scores come from


def test_additive_scores_must_be_of_the_search_prefix() -> None:
    search = {"prefix_length": 8}
    with pytest.raises(InputError, match="must equal analyze.prefix_length.* got 8 and 4"):
        parse_job({"lab": LAB, "search": search, "analyze": {"prefix_length": 4}})
    parse_job({"lab": LAB, "search": search | {"additive": False}})
    parse_job({"lab": LAB, "analyze": {"prefix_length": 4}})


def test_the_analysis_compares_every_light_the_one_of_the_plans_first() -> None:
    lab = {"denoisers": LAB["denoisers"] | {"Hb": "bundled:heavy-b"}}
    config = parse_job({"lab": lab, "plan": {"light": "M"}}).importance_config()
    assert (config.heavy, config.heavy_b, config.lights) == ("H", "Hb", ["M", "L"])
    assert parse_job({"lab": LAB}).importance_config().heavy_b is None
    chosen = parse_job({"lab": lab, "analyze": {"lights": ["Hb"]}}).importance_config()
    assert (chosen.heavy_b, chosen.lights) == (None, ["Hb"])


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


@settings(max_examples=60, deadline=None)
@given(TEXT, st.integers(0, 2**62), st.floats(1e-6, 1.0), st.none() | st.floats(0.01, 1.0))
def test_a_written_job_reads_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory,
    location: str,
    seed: int,
    top_p: float,
    max_cost: float | None,
) -> None:
    search = {"roles": ["L", "M"], "num_light": "all"}
    if max_cost is not None:
        search["max_cost"] = max_cost
    job = parse_job(
        {
            "lab": {"denoisers": LAB["denoisers"] | {"L": "bundled:" + location}},
            "job": {"seed": seed},
            "plan": {"top_p": top_p},
            "search": search,
            # Loading makes paths absolute and plain: `x/..` and a slash at the end are gone.
            "output": {"folder": os.path.normpath("/" + location.replace("\0", ""))},
        }
    )
    path = tmp_path_factory.mktemp("job") / "job.toml"
    path.write_text(dump_job(job), encoding="utf-8", newline="")
    assert load_job(path) == job


def test_the_demos_job_is_the_stated_one() -> None:
    job = demo_job()
    assert (job.plan.length, job.plan.num_steps, job.search.num_segments) == (64, 50, 10)
    assert job.search.num_light == 4 and job.search.num_sequences >= 32
    config = job.importance_config()
    assert config.num_levels == 50 and config.heavy_b == "Hb" and config.lights == ["L", "M"]
    assert demo_job(quick=True).importance_config().num_levels >= 50


def test_paths_of_a_placed_job_mean_the_same_files_wherever_it_is_copied(tmp_path: Path) -> None:
    data = {
        "lab": {"denoisers": {"H": "models/h", "L": "bundled:light-4"}, "scorer": "models/s"},
        "corpus": {"source": "text.jsonl"},
    }
    placed = with_absolute_paths(parse_job(data), tmp_path)
    assert placed.lab.denoisers == {"H": str(tmp_path / "models/h"), "L": "bundled:light-4"}
    assert placed.corpus.source == str(tmp_path / "text.jsonl")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "job.toml").write_text(dump_job(placed), encoding="utf-8")
    assert load_job(tmp_path / "elsewhere" / "job.toml") == placed


# Searches over policies

ALONE = {"denoisers": {"H": "bundled:sudoku"}, "tokenizer": "bundled:sudoku", "scorer": "none"}


def policies_of(lab: dict = ALONE, **tables: dict) -> dict:
    """A job over policies of a task, with one denoiser."""
    return {"lab": lab, "task": {}, "policies": {}} | tables


def test_policies_need_one_denoiser_and_schedules_two() -> None:
    job = parse_job(policies_of())
    assert job.policies is not None and job.policies.tuned == ["stdd"] and job.task is not None
    with pytest.raises(InputError, match="plan.light: role 'L' has no denoiser"):
        parse_job({"lab": ALONE})


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"policies": {"quality": "gen_ppl"}}, "'accuracy' and a .task. table belong together"),
        ({"task": None}, "belong together, got 'accuracy' and no task"),
        (
            {"lab": LAB, "policies": None},
            "task: is what a search over policies measures; add .policies.",
        ),
        ({"policies": {"names": ["threshold", "threshold"]}}, "policies.names names one twice"),
        ({"policies": {"tuned": ["stdd", "stdd"]}}, "policies.tuned names one twice"),
        ({"policies": {"temperatures": [1.0, 0.5, 1.0]}}, "policies.temperatures names one tw"),
        ({"policies": {"schedules": [["H"], ["H"]]}}, "policies.schedules names one twice"),
        ({"policies": {"names": ["treshold"]}}, "policies.names"),
        ({"policies": {"names": []}}, "policies.names: .* at least 1 item"),
        ({"policies": {"point": 3}}, "unknown key 'policies.point'; did you mean 'points'"),
        ({"policies": {"points": 0}}, "policies.points"),
        ({"policies": {"trials": -1}}, "policies.trials"),
        ({"policies": {"repeats": 0}}, "policies.repeats"),
        ({"policies": {"temperatures": []}}, "policies.temperatures"),
        ({"policies": {"temperatures": [-0.1]}}, "policies.temperatures"),
        ({"policies": {"block_lengths": [-1]}}, "policies.block_lengths"),
        ({"policies": {"cost": "time"}}, "policies.cost"),
        ({"policies": {"schedules": [["H", "Q"]]}}, "policies: role 'Q' has no denoiser"),
        ({"policies": {"schedules": [[]]}}, "policies.schedules"),
        ({"policies": {"roles": ["Q"]}}, "policies: role 'Q' has no denoiser"),
        ({"policies": {"schedule_parts": 2}}, "plan.light: role 'L' has no denoiser"),
        (
            {"policies": {"schedule_parts": 51, "roles": ["H"]}},
            "schedule_parts must not exceed the 50 steps, got 51",
        ),
        ({"policies": {"schedules": [["H"] * 51]}}, "must not exceed the 50 steps, got 51"),
        ({"policies": {"parameters": {"stdd": {"window": [4]}}}}, "policies.parameters"),
        ({"task": None, "policies": {"quality": "gen_ppl"}}, "needs a scorer; set lab.scorer"),
        (
            {"lab": LAB, "policies": {"schedules": [["H"], ["L"]]}},
            "'forwards': denoisers of several model schedules differ",
        ),
        (
            {"lab": LAB, "policies": {"schedule_parts": 2}},
            "'forwards': denoisers of several model schedules differ",
        ),
        ({"policies": {"names": ["wino"]}}, "calls of 'wino' .* are no unit; use flops_total"),
        (
            {"policies": {"tuned": ["surelock"], "cost": "block_forwards"}},
            "calls of 'surelock' .* are no unit; use flops_total",
        ),
        (
            {"policies": {"parameters": {"stdd": {"cache": "dual"}}}},
            "calls of 'stdd' .* are no unit",
        ),
        (
            {"plan": {"policy": {"name": "threshold", "parameters": {"cache": "prefix"}}}},
            "calls of 'threshold' .* are no unit",
        ),
        ({"policies": {"parameters": {"wino": {}}}}, "'wino' is in neither policies.names nor"),
        ({"search": {"prefix_length": 4}}, "a task's prompts are what is given; leave it out"),
        (
            {"task": None, "policies": {"quality": "duel"}, "plan": {"top_p": 0.9}},
            "leave plan.top_p out",
        ),
        ({"search": {"race_from": 16}}, "race_from and search.max_cost are for searches over mod"),
        ({"search": {"max_cost": 0.5}}, "race_from and search.max_cost are for searches over mod"),
        ({"search": {"num_sequences": 40}}, "search.num_sequences: .* positive multiple of 16"),
        ({"task": {"scorer": "fuzzy"}}, "task.scorer"),
        ({"task": {"sorce": "sudoku"}}, "unknown key 'task.sorce'; did you mean 'source'"),
        (
            {"task": None, "policies": {"quality": "duel", "temperatures": [0.5]}},
            "likelihood at temperature 1",
        ),
        (
            {"task": None, "policies": {"quality": "duel"}, "plan": {"temperature": 0.5}},
            "likelihood at temperature 1",
        ),
    ],
)
def test_a_search_over_policies_that_makes_no_sense_is_one_line(
    tables: dict, message: str
) -> None:
    data = {name: table for name, table in policies_of(**tables).items() if table is not None}
    with pytest.raises(InputError, match=message) as caught:
        parse_job(data)
    assert "\n" not in str(caught.value)


def test_a_job_over_policies_reads_back_as_it_was(tmp_path: Path) -> None:
    job = parse_job(
        policies_of(
            LAB | {"tokenizer": "bundled:sudoku", "scorer": "none"},
            task={
                "source": str(tmp_path / "items.jsonl"),
                "template": 'Q: $q "quoted" \\ and\nnext',
                "scorer": "regex",
                "pattern": r"\\boxed\{(\d+)\}",
            },
            policies={
                "names": ["threshold", "low_confidence"],
                "cost": "block_forwards",
                "tuned": ["stdd", "klass"],
                "temperatures": [0.0, 1.0],
                "block_lengths": [0, 8],
                "schedules": [["H"], ["L", "H", "L"]],
                "schedule_parts": 4,
                "roles": ["L", "M"],
                "parameters": {"stdd": {"window": 3, "fast": 0.5, "stop_at_end": True,
                                        "confidence": "drawn"}, "klass": {}},
            },
            output={"folder": str(tmp_path / "run"), "pick": "budget=0.5"},
        )
    )  # fmt: skip
    path = write(tmp_path, dump_job(job))
    assert load_job(path) == job
    parameters = load_job(path).policies.parameters["stdd"]
    assert [type(value) for value in parameters.values()] == [int, float, bool, str]


def test_the_source_of_a_task_is_relative_to_the_job_file(tmp_path: Path) -> None:
    text = '[lab]\ndenoisers = { H = "bundled:sudoku" }\nscorer = "none"\n[policies]\n[task]\n'
    job = load_job(write(tmp_path, text + 'source = "items.jsonl"\n'))
    assert job.task is not None and job.task.source == str(tmp_path / "items.jsonl")
    embedded = load_job(write(tmp_path, text))
    assert embedded.task is not None and embedded.task.source == "sudoku"


@pytest.mark.parametrize(
    "tables",
    [
        {},
        {"task": None, "policies": {"quality": "duel"}},
        {
            "lab": ALONE | {"scorer": "bundled:scorer"},
            "task": None,
            "policies": {"quality": "gen_ppl"},
            "search": {"prefix_length": 4},
        },
    ],
)
def test_no_item_or_text_is_used_for_choosing_and_for_measuring_again(tables: dict) -> None:
    table = {"num_sequences": 48, "fresh_sequences": 32} | tables.get("search", {})
    data = policies_of(**tables | {"search": table})
    job = parse_job({name: values for name, values in data.items() if values is not None})
    used = [
        {block.first + j for block in blocks for j in range(block.size)}
        for blocks in (job.blocks(), job.fresh_blocks())
    ]
    assert [len(numbers) for numbers in used] == [48, 32] and used[0].isdisjoint(used[1])
    assert {block.seed for block in job.blocks()}.isdisjoint(b.seed for b in job.fresh_blocks())
