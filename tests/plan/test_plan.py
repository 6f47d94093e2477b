"""Plans and plan files: round trips, digests, refusals."""

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from schedlab.errors import InputError
from schedlab.plan import (
    Decoding,
    DenoiserRef,
    FileRef,
    MeasuredValue,
    ModelSchedule,
    Plan,
    PlanFile,
    PolicySpec,
    plan_schema,
)

SHA = "0" * 64


def make_plan(text="L2 H6 L2", **changes):
    return Plan(length=16, model_schedule=ModelSchedule.parse(text), **changes)


def make_file(plan=None):
    plan = plan or make_plan()
    ref = DenoiserRef(
        location="bundled:x", sha256=SHA, num_blocks=2, num_parameters=3, flops_per_forward=4.0
    )
    return PlanFile(
        plan=plan,
        digest=plan.digest,
        denoisers={"L": ref, "H": ref},
        tokenizer=FileRef(location="bundled", sha256=SHA),
        precision="float32",
        measured={"gen_ppl": MeasuredValue(value=3.0, low=2.0, high=4.0, n=16, seeds=[1])},
        provenance={"study": "demo", "trial": 3},
    )


def test_plan_round_trips_through_json():
    plan = make_plan(policy=PolicySpec(name="random_order"), decoding=Decoding(top_p=0.9))
    assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan


def test_digest_changes_with_every_field_and_not_with_key_order():
    plan = make_plan()
    others = [
        make_plan("L2 H5 L3"),
        plan.with_schedule(ModelSchedule.constant("H", 10)),
        Plan(length=17, model_schedule=plan.model_schedule),
        make_plan(policy=PolicySpec(name="random_order")),
        make_plan(decoding=Decoding(temperature=0.9)),
    ]
    assert len({plan.digest, *(other.digest for other in others)}) == 6
    shuffled = dict(reversed(plan.to_json().items()))
    assert Plan.from_json(shuffled).digest == plan.digest


def test_plans_of_one_family_differ_only_in_their_schedule():
    plan = make_plan()
    assert plan.family_digest == plan.with_schedule(ModelSchedule.constant("H", 10)).family_digest
    assert plan.family_digest != make_plan("H11").family_digest
    assert plan.family_digest != make_plan(decoding=Decoding(top_p=0.5)).family_digest


def test_plan_file_round_trips_on_disk(tmp_path):
    file = make_file()
    file.write(tmp_path / "plan.json")
    assert PlanFile.read(tmp_path / "plan.json") == file


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (lambda d: d["plan"].update(length=0), "plan.length"),
        (lambda d: d["plan"].update(length=True), "plan.length"),
        (lambda d: d["plan"].update(length=16.5), "plan.length"),
        (lambda d: d["plan"].update(lenght=16), "did you mean 'length'"),
        (lambda d: d["plan"].update(model_schedule="L2 H0"), "plan.model_schedule"),
        (lambda d: d["plan"].update(model_schedule="L2 H6 L3"), "digest"),
        (lambda d: d["plan"]["decoding"].update(top_p=0.0), "plan.decoding.top_p"),
        (lambda d: d["denoisers"].pop("L"), "role 'L'"),
        (lambda d: d["denoisers"]["L"].update(sha256="xyz"), "denoisers.L.sha256"),
        (lambda d: d.update(version=2), "version 2 is newer"),
        (lambda d: d.update(format="other"), "not a schedlab.plan file"),
        (lambda d: d.pop("tokenizer"), "'tokenizer' is missing"),
    ],
)
def test_bad_plan_files_name_the_field(change, names):
    data = json.loads(make_file().model_dump_json())
    change(data)
    with pytest.raises(InputError) as caught:
        PlanFile.from_json(data, where="plan.json")
    assert names in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_not_finite_are_refused(number):
    text = make_file().model_dump_json().replace('"value":3.0', f'"value":{number}')
    with pytest.raises(InputError):
        PlanFile.parse(text)


def test_duplicate_keys_are_refused():
    text = make_file().model_dump_json().replace('"version":1', '"version":1,"version":1', 1)
    with pytest.raises(InputError, match="twice"):
        PlanFile.parse(text)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@example(path=40, value={"\n": None})
@given(path=st.integers(0, 40), value=json_values)
def test_any_mutation_either_validates_or_is_one_clear_error(path, value):
    data = json.loads(make_file().model_dump_json())
    places = []

    def collect(node):
        if isinstance(node, dict):
            for key in node:
                places.append((node, key))
                collect(node[key])

    collect(data)
    node, key = places[path % len(places)]
    node[key] = value
    try:
        file = PlanFile.from_json(data)
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert PlanFile.parse(file.model_dump_json()) == file


def test_the_published_schema_names_the_format():
    schema = plan_schema()
    assert schema["properties"]["format"]["const"] == "schedlab.plan"
    assert schema["additionalProperties"] is False
