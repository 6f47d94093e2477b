"""Model folders come back as they were, and nothing damaged, foreign or executable is loaded."""

import json
import pickle

import pytest
import safetensors.torch
import torch

from schedlab.denoisers import checkpoint
from schedlab.denoisers.transformer import Transformer, TransformerConfig
from schedlab.errors import InputError

CONFIG = TransformerConfig(
    vocab_size=11, mask_id=10, num_blocks=2, hidden_size=16, num_heads=2, max_length=12
)


@pytest.fixture
def model() -> Transformer:
    made = Transformer(CONFIG)
    made.init_weights(torch.Generator().manual_seed(0))
    return made


@pytest.fixture
def folder(model, tmp_path):
    checkpoint.save(tmp_path / "model", model, {"seed": 0})
    return tmp_path / "model"


def test_round_trip_is_exact_in_the_stored_precision(model, tmp_path) -> None:
    checkpoint.save(tmp_path, model, {"steps": 3}, precision="float32")
    loaded = checkpoint.load(tmp_path)
    assert loaded.fingerprint == model.fingerprint
    assert loaded.config == CONFIG
    assert not loaded.training
    assert not any(weight.requires_grad for weight in loaded.parameters())
    assert checkpoint.read_card(tmp_path) == {"steps": 3}
    z = torch.randint(11, (2, 12))
    assert torch.equal(loaded(z), model(z))


@pytest.mark.parametrize("precision", ["bfloat16", "float32", "float64"])
def test_precision_in_memory(folder, model, precision: str) -> None:
    loaded = checkpoint.load(folder, precision=precision)
    dtype = checkpoint.PRECISIONS[precision]
    assert {weight.dtype for weight in loaded.parameters()} == {dtype}
    stored = model.head.weight.detach().to(torch.bfloat16)
    assert torch.equal(loaded.head.weight, stored.to(dtype))
    # The head stays in float32 at least.
    z = torch.zeros(1, 4, dtype=torch.int64)
    assert loaded.features(z).dtype == dtype
    assert loaded(z).dtype == torch.promote_types(dtype, torch.float32)


def test_other_weights_may_be_saved_in_place_of_the_models(model, tmp_path) -> None:
    other = {name: value + 1 for name, value in model.state_dict().items()}
    checkpoint.save(tmp_path, model, {}, weights=other, precision="float32")
    assert torch.equal(checkpoint.load(tmp_path).head.weight, model.head.weight + 1)


def _edit(folder, **changes) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def _edit_weights(folder, change) -> None:
    file = folder / "model.safetensors"
    state = safetensors.torch.load_file(file)
    change(state)
    safetensors.torch.save_file(state, file)


def _put(name: str, value: torch.Tensor):
    return lambda state: state.__setitem__(name, value)


DAMAGES = {
    "truncated": lambda f: (f / "model.safetensors").write_bytes(
        (f / "model.safetensors").read_bytes()[:-7]
    ),
    "empty": lambda f: (f / "model.safetensors").write_bytes(b""),
    "pickle inside": lambda f: (f / "model.safetensors").write_bytes(pickle.dumps({"a": 1})),
    "missing tensor": lambda f: _edit_weights(f, lambda s: s.pop("norm.weight")),
    "unknown tensor": lambda f: _edit_weights(f, _put("extra", torch.zeros(2))),
    "wrong shape": lambda f: _edit_weights(f, _put("head.weight", torch.zeros(12, 16))),
    "nan": lambda f: _edit_weights(f, _put("norm.weight", torch.full((16,), torch.nan))),
    "infinite": lambda f: _edit_weights(f, _put("norm.weight", torch.full((16,), torch.inf))),
    "integers": lambda f: _edit_weights(f, _put("norm.weight", torch.ones(16, dtype=torch.int8))),
    "other depth": lambda f: _edit(f, num_blocks=3),
    "absurd depth": lambda f: _edit(f, num_blocks=10**9),
    "absurd width": lambda f: _edit(f, hidden_size=4 * 10**9),
    "unknown key": lambda f: _edit(f, depth=3),
    "wrong type": lambda f: _edit(f, num_blocks="2"),
    "no json": lambda f: (f / "config.json").write_text("{"),
    "no config": lambda f: (f / "config.json").unlink(),
    "no weights": lambda f: (f / "model.safetensors").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_folders_are_one_line(folder, damage: str) -> None:
    DAMAGES[damage](folder)
    with pytest.raises(InputError) as caught:
        checkpoint.load(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


class _Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was executed",))


def test_pickles_are_named_and_never_loaded(folder) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(_Bomb()))
    with pytest.raises(InputError, match=r"pytorch_model\.bin is a pickle, which is never loaded"):
        checkpoint.load(folder)
    (folder / "pytorch_model.bin").rename(folder / "model.safetensors")
    with pytest.raises(InputError, match="never loaded"):
        checkpoint.load(folder)


def test_locations(tmp_path) -> None:
    with pytest.raises(InputError, match="no bundled model 'none-such'"):
        checkpoint.load("bundled:none-such")
    with pytest.raises(InputError, match="must be a folder"):
        checkpoint.load(tmp_path / "missing")
    with pytest.raises(InputError, match="no bundled model"):  # a name, never a path
        checkpoint.load("bundled:../models/heavy")


def test_unknown_precision(folder) -> None:
    with pytest.raises(InputError, match="precision must be one of"):
        checkpoint.load(folder, precision="int8")
