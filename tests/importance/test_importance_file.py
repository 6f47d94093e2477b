import json

import numpy as np
import pytest

from schedlab.errors import InputError
from schedlab.results.importance_file import ImportanceFile, read_arrays, write_arrays

CURVE = {
    "id": "loss_gap/H/L/forward",
    "metric": "loss_gap",
    "roles": ["H", "L"],
    "states": "forward",
    "prefix": False,
    "unit": "nats per masked token",
    "t": [1.0, 0.5],
    "value": [0.1, 0.2],
    "low": [0.0, 0.1],
    "high": [0.2, 0.3],
    "n": 64,
}
SCORES = {
    "heavy": "H",
    "light": "L",
    "states": "heavy_sampler",
    "prefix": False,
    "num_steps": 2,
    "path_kl": [0.1, 0.2],
    "path_kl_low": [0.1, 0.2],
    "path_kl_high": [0.1, 0.2],
}
SETTING = {
    "num_sequences": 64,
    "length": 64,
    "prefix_length": 0,
    "seed": 0,
    "precision": "float32",
    "corpus_fingerprint": "f" * 64,
    "heavy": "H",
    "heavy_b": None,
    "lights": ["L"],
    "levels": 2,
    "bootstrap_resamples": 2000,
    "states": ["forward"],
}


def document(**changes):
    base = {
        "format": "schedlab.importance",
        "version": 1,
        "setting": SETTING,
        "curves": [CURVE],
        "step_scores": [SCORES],
        "nelbo": {"H": {"value": 3.0, "low": 2.9, "high": 3.1, "n": 64}},
        "significance": [],
        "propagation": [],
    }
    return base | changes


def test_a_file_is_read_written_and_looked_into(tmp_path):
    path = tmp_path / "importance.json"
    path.write_text(json.dumps(document()))
    file = ImportanceFile.read(path)
    assert file.curve("loss_gap", "H", "L").value == [0.1, 0.2]
    assert file.scores("L", states="heavy_sampler").loss_gap is None
    file.write(tmp_path / "copy.json")
    assert ImportanceFile.read(tmp_path / "copy.json") == file


def test_what_is_not_there_is_named_with_what_is():
    file = ImportanceFile.from_json(document())
    with pytest.raises(InputError, match=r"no 'js/H/L/forward'; it has \['loss_gap/H/L/forward'"):
        file.curve("js", "H", "L")
    with pytest.raises(InputError, match="no 'L/forward'"):
        file.scores("L")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, "must hold"),
        ({"version": 2}, "newer"),
        ({"curves": [CURVE | {"low": [0.0]}]}, "low needs 2 values, got 1"),
        ({"curves": [CURVE | {"t": [1.0, 1.5]}]}, "curves.0.t.1"),
        ({"curves": [CURVE | {"metric": "ppl"}]}, "curves.0.metric"),
        ({"step_scores": [SCORES | {"num_steps": 3}]}, "path_kl needs 3 values"),
        ({"step_scores": [SCORES | {"states": "forward"}]}, "loss_gap belongs to"),
        ({"nelbos": {}}, "did you mean 'nelbo'"),
        ({"setting": SETTING | {"seed": -1}}, "setting.seed"),
        ({"nelbo": {"h": {"value": 1.0, "low": 1.0, "high": 1.0, "n": 2}}}, "nelbo.h"),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(changes, message):
    with pytest.raises(InputError, match=message) as caught:
        ImportanceFile.from_json(document(**changes), where="importance.json")
    assert "\n" not in str(caught.value)


def test_a_truncated_file_names_itself(tmp_path):
    path = tmp_path / "importance.json"
    path.write_text(json.dumps(document())[:-20])
    with pytest.raises(InputError, match=r"importance\.json: not valid JSON"):
        ImportanceFile.read(path)


def test_arrays_are_never_unpickled_and_torn_files_are_named(tmp_path):
    path = tmp_path / "importance.npz"
    write_arrays(path, {"forward/masked": np.arange(6.0)})
    assert read_arrays(path)["forward/masked"].tolist() == [0, 1, 2, 3, 4, 5]
    whole = path.read_bytes()
    for damaged in (b"", whole[:-30], b"\x80\x04K\x01.", whole[:40] + b"x" * 20 + whole[60:]):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"importance\.npz: not readable"):
            read_arrays(path)
    np.savez(path, objects=np.array([{}], dtype=object))
    with pytest.raises(InputError, match="not readable"):
        read_arrays(path)
    with pytest.raises(InputError, match="not readable"):
        read_arrays(tmp_path / "missing.npz")
