"""Published layouts: the reference implementations' own tensors, files there and back, damage."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from schedlab.denoisers import loading
from schedlab.denoisers.convert import convert
from schedlab.denoisers.families import FAMILIES
from schedlab.denoisers.network import Network
from schedlab.errors import InputError
from schedlab.metrics.nelbo import discrete_levels, masked_nats, uniform_rate_nats
from schedlab.policies.remdm import RemaskView, RemdmCap
from schedlab.processes import MaskedProcess
from schedlab.training.objectives import losses_at

NEW = ("mdlm", "mdlm_timecond", "duo", "llada", "dream")
FAMILY = {"mdlm_timecond": "mdlm", "dream": "Dream", "simplex_tess": "roberta"}


def arrays(folder: Path, name: str = "forward") -> dict[str, torch.Tensor]:
    with np.load(folder / f"{name}.npz", allow_pickle=False) as data:
        return {key: torch.from_numpy(data[key]) for key in data.files}


@pytest.mark.parametrize("name", NEW)
@torch.inference_mode()
def test_logits_are_those_of_the_reference(golden: Path, name: str) -> None:
    network, case = loading.load(golden / name), arrays(golden / name)
    t_B = case["t"].float() if "t" in case else None
    features = network.features(case["input_ids"], t_B)
    expected = case["logits_shifted" if name == "dream" else "logits"]
    torch.testing.assert_close(network.logits(features), expected, atol=1e-4, rtol=0)
    if "input_ids_short" in case:
        short = network.logits(network.features(case["input_ids_short"], t_B))
        torch.testing.assert_close(short, case["logits_short"], atol=1e-4, rtol=0)
    # Finished position by position the network is the same.
    row, position = torch.meshgrid(
        *(torch.arange(n) for n in case["input_ids"].shape), indexing="ij"
    )
    trunk = network.trunk(case["input_ids"], t_B)
    picked = network.logits_at(trunk, row.flatten(), position.flatten())
    torch.testing.assert_close(picked.view_as(expected), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["llada", "dream"])
@torch.inference_mode()
def test_rows_filled_up_in_front_are_those_of_the_reference(golden: Path, name: str) -> None:
    network = loading.load(golden / name)
    case = arrays(golden / name, "forward_padded" if name == "llada" else "forward")
    expected = case["logits" if name == "llada" else "logits_padded"]
    if name == "dream":
        expected = torch.cat((expected[:, :1], expected[:, :-1]), dim=1)
    kept = case["attention_mask"].bool()
    assert 0 < (~kept).sum() < kept.numel()
    logits = network.logits(network.features(case["input_ids"], padding_BL=~kept))
    read = kept.clone()
    if name == "dream":
        read[:, 1:] &= kept[:, :-1]  # what is read one position before
    torch.testing.assert_close(logits[read], expected[read], atol=1e-4, rtol=0)
    row = int((~kept).any(dim=1).nonzero()[0, 0])
    alone = network.logits(network.features(case["input_ids"][row, kept[row]][None]))
    torch.testing.assert_close(logits[row, kept[row]][1:], alone[0, 1:], atol=1e-4, rtol=0)


@torch.inference_mode()
def test_pre_training_loss_is_lladas(golden: Path) -> None:
    network, case = loading.load(golden / "llada"), arrays(golden / "llada")
    masked = case["input_ids"] == network.spec.mask_id
    read = masked.flatten().nonzero()[:, 0]
    t_B = case["t"].float()
    # LLaDA's loss predicts the mask token too, whose row of the head is zero in this checkpoint.
    logits = network.logits(network.features(case["input_ids"])[masked])
    ce = torch.nn.functional.cross_entropy(logits, case["x0"][masked], reduction="none")
    per_token = ce / case["p_mask"][masked]
    torch.testing.assert_close(per_token, case["token_loss_at_masks"], atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(
        per_token.sum() / masked.numel(), case["loss"], atol=1e-5, rtol=1e-5
    )
    # Ours leaves the mask out: what that is worth is the mask's probability.
    ours = losses_at(network, case["input_ids"], t_B, read, case["x0"].flatten()[read])
    p_mask = torch.softmax(logits, -1)[:, network.spec.mask_id]
    torch.testing.assert_close(ours, ce + torch.log1p(-p_mask), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", NEW)
@torch.inference_mode()
def test_heads_of_short_weights_run_in_float32(golden: Path, name: str) -> None:
    network = loading.load(golden / name, precision="bfloat16")
    z = arrays(golden / name)["input_ids"]
    features = network.features(z, torch.full((len(z),), 0.5))
    assert features.dtype == torch.bfloat16
    exact = features.double() @ network.head_weight.double().T
    exact += 0.0 if network.head_bias is None else network.head_bias.double()
    torch.testing.assert_close(network.logits(features).double(), exact, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("name", ["mdlm", "mdlm_timecond"])
@torch.inference_mode()
def test_log_probabilities_and_bound_are_mdlms(golden: Path, name: str) -> None:
    network, case = loading.load(golden / name), arrays(golden / name)
    spec = network.spec
    process = MaskedProcess(spec.vocab_size, spec.mask_id)
    z, t = case["input_ids"], case["t"].float()
    masked = z == spec.mask_id
    log_p = process.log_p_x(network.logits(network.features(z, t)[masked]))
    expected = case["subs_log_probs"][masked].clamp(min=-1e5)
    torch.testing.assert_close(log_p.clamp(min=-1e5).float(), expected, atol=1e-5, rtol=1e-5)

    case = arrays(golden / name, "nelbo")
    t = case["t"].flatten().double()
    nats = masked_nats(network, case["x0"], case["xt"], t, 1.0 / t)
    torch.testing.assert_close(nats, case["nll_per_token"].double(), atol=1e-5, rtol=1e-5)
    kept = case["attention_mask"].double()
    mean = (nats * kept).sum() / kept.sum()
    torch.testing.assert_close(mean, case["token_nll"].double(), atol=1e-5, rtol=1e-5)
    rounded, weight = discrete_levels(t.float(), 1000)  # 0.02 T is 20 in float32 alone
    expected = case["t_rounded_T1000"].flatten()
    torch.testing.assert_close(rounded, expected, atol=1e-6, rtol=0)
    nats = masked_nats(network, case["x0"], case["xt"], rounded, weight)
    expected = case["nll_per_token_T1000"].double()
    torch.testing.assert_close(nats, expected, atol=1e-5, rtol=1e-5)


def test_a_masked_step_is_that_of_the_reference(golden: Path) -> None:
    """The absorbing posteriors recorded beside DUO's, with the probabilities that ReMDM's loop
    uses where nothing goes back."""
    case = arrays(golden / "duo", "posterior")
    mask_id = case["absorbing_x0_probs"].shape[-1] - 1
    tried = 0
    for n in range(len(case["alpha_t"])):
        z = case["absorbing_xt"][n].long()
        masked = z == mask_id
        t, s = (1.0 - float(case[name][n]) for name in ("alpha_t", "alpha_s"))
        view = RemaskView(t, s, masked, torch.ones(z.shape).double(), torch.ones_like(masked))
        reveal = RemdmCap(eta=0.0).chances(view).reveal
        expected = case["absorbing_posterior_float64"][n]
        found = reveal * case["absorbing_x0_probs"][n].double()
        found[..., mask_id] += 1.0 - reveal
        torch.testing.assert_close(found[masked], expected[masked], atol=1e-5, rtol=1e-5)
        tried += int(masked.sum())
    assert tried > 0


@torch.inference_mode()
def test_log_probabilities_and_bound_are_duos(golden: Path) -> None:
    network, case = loading.load(golden / "duo"), arrays(golden / "duo")
    logits = network.logits(network.features(case["input_ids"], case["t"].float()))
    log_p = torch.log_softmax(logits.double(), -1)
    torch.testing.assert_close(log_p, case["log_probs"].double(), atol=1e-5, rtol=1e-5)
    length = case["x0"].shape[1]
    alpha, slope = (
        case[name].double().flatten().repeat_interleave(length) for name in ("alpha_t", "dalpha_t")
    )
    nats = uniform_rate_nats(
        case["log_probs"].double().flatten(0, 1),
        case["input_ids"].flatten(),
        case["x0"].flatten(),
        alpha,
        slope,
    )
    expected = case["nll_per_token_float64"].flatten()
    torch.testing.assert_close(nats, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["simplex_tess", "simplex_tess_selfcond"])
@torch.inference_mode()
def test_a_simplex_network_is_tess(golden: Path, name: str) -> None:
    network, case = loading.load(golden / name), arrays(golden / name, "simplex")
    t_B = case["timestep_scaled"].float().reshape(-1).expand(len(case["simplex"]))
    previous = case.get("previous_pred")
    previous_given = previous is not None
    free = network.features(case["simplex"], t_B, previous_BLV=previous)
    given = network.features(
        case["simplex"],
        t_B,
        given_BL=case["input_ids"],
        generated_BL=case["span_mask"].bool(),
        previous_BLV=previous,
    )
    for features, expected in ((free, "logits_unconditional"), (given, "logits_conditional")):
        torch.testing.assert_close(network.logits(features), case[expected], atol=1e-4, rtol=0)
    generated = case["span_mask"].bool()
    loss = torch.nn.functional.cross_entropy(
        network.logits(given)[generated], case["input_ids"][generated]
    )
    torch.testing.assert_close(loss, case["loss_conditional"], atol=1e-5, rtol=1e-5)
    # The network's part of a whole chain: the state of every step by the reference's own update.
    state, previous = case["chain_start"], torch.zeros_like(case["chain_start"])
    abar, T = case["alphas_cumprod_5"], len(case["chain_timesteps"])
    for index, step in enumerate(case["chain_timesteps"].tolist()):
        time = torch.full((len(state),), step / T)
        logits = network.logits(
            network.features(
                state,
                time,
                given_BL=case["input_ids"],
                generated_BL=generated,
                previous_BLV=previous if previous_given else None,
            )
        )
        torch.testing.assert_close(logits, case["chain_logits"][index], atol=1e-4, rtol=0)
        token = torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1])
        kept = abar[step - 1] if step > 0 else torch.tensor(1.0)
        state = kept.sqrt() * 5 * (2 * token - 1) + (1 - kept).sqrt() * case["chain_noise"][index]
        previous = logits


@pytest.fixture
def tess2(tmp_path: Path):
    """A small checkpoint in TESS 2's layout, and the Mistral of `transformers` that it is."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 40,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "sliding_window": 24,
    }
    mistral = transformers.MistralModel(
        transformers.MistralConfig(**sizes, attn_implementation="eager")
    ).eval()
    extra = {"lm_head.weight": torch.randn(40, 32), "timestep_embed.weight": torch.randn(32, 1)}
    state = {f"model.{name}": value for name, value in mistral.state_dict().items()} | extra
    safetensors.torch.save_file(state, tmp_path / "model.safetensors")
    config = sizes | {
        "architectures": ["MistralForDiffusionLM"],
        "model_type": "mistral",
        "hidden_act": "silu",
        "is_causal": False,
        "disable_timestep_embed": False,
        "rope_theta": 10_000.0,
        "rms_norm_eps": 1e-6,
        "self_condition": "logits_mean",
        "self_condition_mix_before_weights": True,
        "tie_word_embeddings": False,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path, mistral, state


@torch.inference_mode()
def test_tess2_is_a_mistral_that_sees_both_sides(tess2) -> None:
    folder, mistral, state = tess2
    network = loading.load(folder)
    assert network.spec.max_length == 24 and network.spec.time_input == "token"
    B, L, V = 2, 12, 40
    simplex, previous = 5 * torch.randn(B, L, V), torch.randn(B, L, V)
    tokens, t_B = torch.randint(V, (B, L)), torch.tensor([0.3, 0.8])
    generated = torch.arange(L).expand(B, L) >= 4
    weights = (simplex.softmax(-1) + previous.softmax(-1)) / 2
    x = weights @ state["model.embed_tokens.weight"]
    x = x + t_B[:, None, None] * state["timestep_embed.weight"][:, 0]
    x = torch.where(generated[..., None], x, state["model.embed_tokens.weight"][tokens])
    see_all = torch.zeros(B, 1, L, L)
    hidden = mistral(inputs_embeds=x, attention_mask=see_all, use_cache=False).last_hidden_state
    expected = hidden @ state["lm_head.weight"].T
    expected = torch.cat((torch.zeros(B, 1, V), expected[:, :-1]), dim=1)
    features = network.features(
        simplex, t_B, given_BL=tokens, generated_BL=generated, previous_BLV=previous
    )
    torch.testing.assert_close(network.logits(features), expected, atol=1e-4, rtol=0)
    changed = simplex.clone()
    changed[:, -1] += 3 * torch.randn(B, V)
    other = network.features(
        changed, t_B, given_BL=tokens, generated_BL=generated, previous_BLV=previous
    )
    assert not torch.allclose(other[:, 1:6], features[:, 1:6], atol=1e-4)  # not causal


@torch.inference_mode()
def test_tess2_there_and_back(tess2, tmp_path: Path) -> None:
    folder, _, state = tess2
    network = loading.load(folder)
    loading.save(tmp_path / "again", network, FAMILIES["mistral"])
    saved = safetensors.torch.load_file(tmp_path / "again" / "model.safetensors")
    assert saved.keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in saved.items())
    assert loading.load(tmp_path / "again").fingerprint == network.fingerprint
    light = loading.load(f"{folder}#blocks=1")
    assert light.spec.num_blocks == 1


def test_a_mistral_that_is_no_diffusion_model_is_refused(tess2) -> None:
    folder, _, _ = tess2
    config = json.loads((folder / "config.json").read_text())
    for change in (
        {"architectures": ["MistralForCausalLM"]},
        {"is_causal": True},
        {"head_dim": 16},
        {"self_condition": "logits_addition"},
    ):
        (folder / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(InputError, match="is a variant of tess2 that is not implemented"):
            loading.load(folder)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_any_floating_point_kind_are_read(golden: Path, copy: Path, dtype) -> None:
    exact = safetensors.torch.load_file(golden / "llada" / "model.safetensors")

    def convert_all(state) -> None:
        for name, value in state.items():
            state[name] = value.to(dtype)

    rewrite(copy, convert_all)
    network = loading.load(copy)
    assert {weight.dtype for weight in network.parameters()} == {torch.float32}
    name = "model.transformer.blocks.1.up_proj.weight"
    expected = exact[name].to(dtype).float()
    assert torch.equal(network.blocks[1].up.weight, expected)


@pytest.mark.parametrize("name", [*NEW, "simplex_tess"])
@torch.inference_mode()
def test_a_saved_checkpoint_has_the_published_tensors_and_loads_bit_for_bit(
    golden: Path, name: str, tmp_path: Path
) -> None:
    network = loading.load(golden / name)
    loading.save(tmp_path, network, FAMILIES[FAMILY.get(name, name)])
    saved = safetensors.torch.load_file(tmp_path / "model.safetensors")
    published = safetensors.torch.load_file(golden / name / "model.safetensors")
    assert {n: v.shape for n, v in saved.items()} == {n: v.shape for n, v in published.items()}
    for tensor, value in saved.items():
        torch.testing.assert_close(value, published[tensor], atol=0, rtol=1e-6)
    again = loading.load(tmp_path)
    assert again.config == network.config and again.fingerprint == network.fingerprint
    stored = json.loads((golden / name / "config.json").read_text())
    written = json.loads((tmp_path / "config.json").read_text())
    assert {k: stored[k] for k in written if k in stored} == {
        k: v for k, v in written.items() if k in stored
    }


@pytest.fixture
def copy(golden: Path, tmp_path: Path) -> Path:
    """A checkpoint in LLaDA's layout that may be damaged."""
    for file in ("config.json", "model.safetensors"):
        (tmp_path / file).write_bytes((golden / "llada" / file).read_bytes())
    return tmp_path


def rewrite(folder: Path, change) -> None:
    state = safetensors.torch.load_file(folder / "model.safetensors")
    change(state)
    safetensors.torch.save_file(state, folder / "model.safetensors")


def shards(folder: Path, number: int = 3) -> None:
    """The one file as several, with an index."""
    state = safetensors.torch.load_file(folder / "model.safetensors")
    weight_map: dict[str, str] = {}
    for n in range(number):
        name = f"model-{n + 1:05}-of-{number:05}.safetensors"
        part = {key: state[key] for key in sorted(state)[n::number]}
        safetensors.torch.save_file(part, folder / name)
        weight_map |= dict.fromkeys(part, name)
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()


def test_shards_and_a_single_file_are_the_same_model(golden: Path, copy: Path) -> None:
    whole = loading.load(copy).fingerprint
    assert loading.load(copy / "model.safetensors").fingerprint == whole
    shards(copy)
    assert loading.load(copy).fingerprint == whole


def test_tensors_that_do_not_fit_are_listed_in_one_line(copy: Path) -> None:
    def damage(state) -> None:
        for block in (0, 1):
            state[f"extra.{block}"] = state.pop(f"model.transformer.blocks.{block}.q_proj.weight")
        name = "model.transformer.ln_f.weight"
        state[name] = state[name][:-1].clone()

    rewrite(copy, damage)
    with pytest.raises(InputError) as caught:
        loading.load(copy)
    message = str(caught.value)
    assert "\n" not in message and "taken for a checkpoint of llada" in message
    assert "lacks model.transformer.blocks.0.q_proj.weight [64, 64]" in message
    assert "unknown extra.0 [64, 64], extra.1 [64, 64]" in message
    assert "model.transformer.ln_f.weight [63] instead of [64]" in message


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(copy: Path, value: float) -> None:
    def damage(state) -> None:
        state["model.transformer.blocks.1.up_proj.weight"][3, 4] = value

    rewrite(copy, damage)
    with pytest.raises(InputError, match=r"blocks.1.up_proj.weight' must hold finite"):
        loading.load(copy)


def test_large_finite_values_are_accepted(copy: Path) -> None:
    rewrite(copy, lambda state: state["model.transformer.wte.weight"].fill_(3e38))
    loading.load(copy)


@pytest.mark.parametrize("size", [0, 7, 5_000, -1])
def test_a_cut_off_file_is_refused(copy: Path, size: int) -> None:
    data = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(data[:size])
    with pytest.raises(InputError, match="not a whole safetensors file"):
        loading.load(copy)


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"a": "../model.safetensors"}, "not the name of a safetensors file"),
        ({"a": "/etc/passwd"}, "not the name of a safetensors file"),
        ({"a": "other.bin"}, "not the name of a safetensors file"),
        ({"a": "other.safetensors"}, "other.safetensors is missing"),
        ({"a": 3}, "must hold a weight_map"),
        ([], "must hold a weight_map"),
    ],
)
def test_an_index_that_points_elsewhere_is_refused(copy: Path, weight_map, message) -> None:
    index = copy / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(InputError, match=message):
        loading.load(copy)


def test_a_tensor_in_two_shards_is_refused(copy: Path) -> None:
    shards(copy, 2)
    first, second = sorted(copy.glob("*.safetensors"))
    safetensors.torch.save_file(
        safetensors.torch.load_file(first) | safetensors.torch.load_file(second), second
    )
    with pytest.raises(InputError, match="is in another file of the model too"):
        loading.load(copy)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("block_type", "sequential", "block_type = 'sequential' is a variant of llada"),
        ("alibi", True, "alibi = 'True' is a variant"),
        ("d_model", "64", "d_model must be a positive whole number, got '64'"),
        ("d_model", None, "d_model must be a positive whole number, got nothing"),
        ("mask_token_id", -1, "mask_token_id must be a token id"),
        ("model_type", "llama", "model_type 'llama' is not known; known: mdlm"),
        ("n_layers", 10**12, "more than the 21 tensors of the model"),
        ("d_model", 2 * 10**10, "config.json: "),
        ("n_heads", 5, "multiple of twice num_heads"),
        ("n_kv_heads", 3, "multiple of num_kv_heads"),
        ("mask_token_id", 128, "mask_id must be below vocab_size"),
        ("n_layers", 3, "lacks model.transformer.blocks.2"),
    ],
)
def test_a_configuration_of_another_model_is_refused(copy: Path, name, value, message) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {name: value}))
    with pytest.raises(InputError, match=message):
        loading.load(copy)


def test_a_pickle_is_never_read(copy: Path, golden: Path) -> None:
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (copy / "exploded",))

    torch.save({"a": Bomb()}, copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"pytorch_model.bin is a pickle, which is never loaded"):
        loading.load(copy)
    # Nor where it has another name.
    (copy / "pytorch_model.bin").rename(copy / "model.safetensors")
    with pytest.raises(InputError, match="not a whole safetensors file"):
        loading.load(copy)
    assert not (copy / "exploded").exists()


@pytest.mark.parametrize("weights", ["ema", "raw"])
@torch.inference_mode()
def test_a_training_checkpoint_is_converted(golden: Path, tmp_path: Path, weights) -> None:
    folder = golden / "mdlm_lightning"
    network = convert(folder / "tiny.ckpt", tmp_path, weights=weights)
    order = json.loads((folder / "parameter_order.json").read_text())
    assert [name for name, _ in network.named_parameters()] == order
    case = arrays(folder)
    again = loading.load(tmp_path)
    found = again.logits(again.features(case["input_ids"]))
    torch.testing.assert_close(found, case[f"logits_{weights}_weights"], atol=1e-4, rtol=0)


def test_a_pickle_with_code_is_not_run_when_it_is_converted(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "exploded",))

    torch.save({"state_dict": {"a": Bomb()}}, tmp_path / "bad.ckpt")
    for content in (None, b"", b"not a pickle"):
        if content is not None:
            (tmp_path / "bad.ckpt").write_bytes(content)
        with pytest.raises(InputError, match="tensors and plain values alone"):
            convert(tmp_path / "bad.ckpt", tmp_path / "out")
    assert not (tmp_path / "exploded").exists() and not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["llada", "dream", "mdlm_timecond"])
@torch.inference_mode()
def test_blocks_of_a_network_share_its_weights(golden: Path, name: str) -> None:
    networks: dict[str, Network] = {}
    whole = loading.load(golden / name, networks=networks)
    same = loading.load(f"{golden / name}#blocks=0-1", networks=networks)
    light = loading.load(f"{golden / name}#blocks=1", networks=networks)
    case = arrays(golden / name)
    t_B = case["t"].float() if "t" in case else None
    assert torch.equal(
        same.features(case["input_ids"], t_B), whole.features(case["input_ids"], t_B)
    )
    own = {weight.data_ptr() for weight in whole.parameters()}
    assert {weight.data_ptr() for weight in light.parameters()} < own
    assert light.spec.num_blocks == 1 and light.fingerprint != whole.fingerprint
    for blocks in ("2", "", "a", "1-", "-1", "0-99999999999"):
        with pytest.raises(InputError, match="blocks"):
            loading.load(f"{golden / name}#blocks={blocks}", networks=networks)
