"""The loop that predicts at every step: TESS's and DUO's own chains, exact laws, company."""

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from schedlab.classifiers import ClassifierConfig, TextClassifier
from schedlab.denoisers import loading
from schedlab.denoisers.base import DenoiserSpec
from schedlab.denoisers.oracle import OracleDenoiser, TableDenoiser, ToyWorld, sequence_index
from schedlab.denoisers.simplex_transformer import SimplexTransformer, SimplexTransformerConfig
from schedlab.denoisers.transformer import Transformer, TransformerConfig
from schedlab.errors import InputError, SchedlabError
from schedlab.plan import Decoding, ModelSchedule, Plan, PolicySpec
from schedlab.plan.guidance import Attribute, Guidance
from schedlab.policies import ALLOCATION_POLICIES, UNIFORM_POLICIES
from schedlab.processes import MaskedProcess, SimplexProcess, UniformProcess, alpha
from schedlab.results import SeedBlock
from schedlab.sampling import (
    Purpose,
    SequenceIds,
    Work,
    sample,
    sample_dense,
    sample_plans,
    uniforms,
)
from schedlab.sampling.dense import GUIDANCE, check_dense
from schedlab.sampling.noise import normals

V, LENGTH = 12, 8
WORLD = ToyWorld.random(num_real=3, length=3, seed=0)
MASKED = MaskedProcess(WORLD.vocab_size, WORLD.mask_id)
ORACLE = OracleDenoiser(WORLD)


def ids_of(num, seed=7, first=0):
    return SequenceIds.of([SeedBlock(seed, first, num)])


def plan_of(text, *, process="masked", length=3, policy="ancestral", parameters=None, **changes):
    if process == "simplex":
        changes = {"noise_schedule": "cosine", "time_grid": "tess"} | changes
    return Plan(
        length=length,
        model_schedule=ModelSchedule.parse(text),
        process=process,
        policy=PolicySpec(name=policy, parameters=parameters or {}),
        **changes,
    )


def simplex_network(seed=0, **changes):
    config = SimplexTransformerConfig(
        vocab_size=V, num_blocks=1, hidden_size=16, num_heads=2, max_length=32, **changes
    )
    network = SimplexTransformer(config)
    network.init_weights(torch.Generator().manual_seed(seed))
    network.head.weight.data.mul_(100)  # else untrained predictions are all but uniform
    network.time.weight.data.normal_(generator=torch.Generator().manual_seed(seed + 1))
    return network.eval().requires_grad_(False)


def masked_network(seed=0):
    config = TransformerConfig(
        vocab_size=V, mask_id=V - 1, num_blocks=1, hidden_size=16, num_heads=2, max_length=32
    )
    network = Transformer(config)
    network.init_weights(torch.Generator().manual_seed(seed))
    network.head.weight.data.mul_(100)
    return network.eval().requires_grad_(False)


def classifier():
    config = ClassifierConfig(
        vocab_size=V, labels=["a", "b", "c"], num_blocks=1, hidden_size=16, num_heads=2
    )
    network = TextClassifier(config)
    network.init_weights(torch.Generator().manual_seed(5))
    network.head.weight.data.mul_(100)
    return network.eval().requires_grad_(False)


GUIDANCE_OF_TESTS = Guidance(attributes=[Attribute(classifier="g")], scale=20.0, iterations=2)
GUIDES = {"g": classifier()}


class Recorder:
    """A denoiser that keeps what it was asked and what it said."""

    def __init__(self, inner, **spec):
        self.inner, self.spec = inner, dataclasses.replace(inner.spec, **spec)
        self.fingerprint = "recorder"
        self.asked, self.said = [], []

    def features(self, z, t_B=None, **given):
        kept = {name: value.clone() for name, value in given.items() if value is not None}
        self.asked.append((z.clone(), None if t_B is None else t_B.clone(), kept))
        return self.inner.features(z, t_B, **given)

    def logits(self, features_ND):
        logits = self.inner.logits(features_ND)
        self.said.append(logits.clone())
        return logits


class UniformOracle:
    """The exact prediction of the uniform process over a world, for every state and level."""

    def __init__(self, world, exact="leave_one_out", prediction="leave_one_out"):
        self.world, self.exact = world, exact
        size = world.num_real
        self.spec = DenoiserSpec(
            vocab_size=size, mask_id=None, num_blocks=1, hidden_size=size,
            max_length=world.length, prediction=prediction, time_input="sequence",
            process="uniform",
        )  # fmt: skip
        self.fingerprint = "oracle"

    def table(self, t):
        """(Z, L, R) probabilities."""
        texts = self.world.texts()
        q = kernel(1.0 - t, self.world.num_real)
        likely_ZXL = q[texts[None], texts[:, None]]
        found = []
        for i in range(self.world.length):
            others = [j for j in range(self.world.length) if self.exact == "posterior" or j != i]
            weight_ZX = likely_ZXL[..., others].prod(-1) * self.world.probs_X
            onehot_XR = torch.nn.functional.one_hot(texts[:, i], self.world.num_real).double()
            found.append(weight_ZX @ onehot_XR / weight_ZX.sum(1, keepdim=True))
        return torch.stack(found, dim=1)

    def features(self, z_BL, t_B):
        assert (t_B == t_B[0]).all()
        return self.table(t_B[0].item())[sequence_index(z_BL, self.world.num_real)].log()

    def logits(self, features_ND):
        return features_ND


def kernel(share, size):
    return share * torch.eye(size, dtype=torch.float64) + (1 - share) / size


def law_of(z_BL, num_tokens):
    index = sequence_index(z_BL, num_tokens)
    return torch.bincount(index, minlength=num_tokens ** z_BL.shape[1]).double()


def total_variation(z_BL, world):
    return 0.5 * (law_of(z_BL, world.num_real) / len(z_BL) - world.probs_X).abs().sum().item()


def agrees(z_BL, law_X, num_tokens):
    """A chi-square test at false-alarm rate 1e-4, rare texts together."""
    counts, expected = law_of(z_BL, num_tokens).numpy(), law_X.numpy() * len(z_BL)
    rare = expected < 5
    counts = np.append(counts[~rare], counts[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    if expected[-1] == 0:
        assert counts[-1] == 0
        counts, expected = counts[:-1], expected[:-1]
    return stats.chisquare(counts, expected / expected.sum() * counts.sum()).pvalue > 1e-4


def clocks_of(policy, steps, length):
    """(t, lowest clock so far, next clock) of every step, by integer arithmetic."""
    lowest = [steps] * length
    for k in range(steps):
        t = steps - k
        raw = {
            "tta_constant": [t] * length,
            "tta_linear": [i * t // (length - 1) for i in range(length)],
            "tta_backward": [(length - 1 - i) * t // (length - 1) for i in range(length)],
            "tta_scaled": [t // 2] * length,
        }[policy]
        to = [0 if k == steps - 1 else max(1, r) - 1 for r in raw]
        to = [min(s, low) for s, low in zip(to, lowest, strict=True)]
        yield t / steps, [low / steps for low in lowest], [s / steps for s in to]
        lowest = to


def product(factors_ZLR):
    """Transition matrix (Z, Z) of positions that move independently, first position slowest."""
    found = factors_ZLR[:, 0]
    for i in range(1, factors_ZLR.shape[1]):
        found = (found[:, :, None] * factors_ZLR[:, i, None, :]).flatten(1)
    return found


def exact_masked_law(world, policy, steps):
    """Law of the masked chain: a matrix over all states for every step."""
    states, p_ZLV = world.noisy(), world.posterior()
    law_Z = torch.zeros(len(states), dtype=torch.float64)
    law_Z[-1] = 1.0
    for _, lowest, to in clocks_of(policy, steps, world.length):
        stays = torch.nn.functional.one_hot(states, world.vocab_size).double()
        moves = stays.clone()
        for i in range(world.length):
            reveal = (lowest[i] - to[i]) / lowest[i] if lowest[i] > 0 else 0.0
            masked = states[:, i] == world.mask_id
            moves[masked, i] = reveal * p_ZLV[masked, i] + (1 - reveal) * stays[masked, i]
        law_Z = law_Z @ product(moves)
    whole = (states != world.mask_id).all(1)
    torch.testing.assert_close(law_Z[whole].sum().item(), 1.0)
    return law_Z[whole]


def exact_uniform_law(world, predict, policy, steps, kappas=None):
    """Law of the uniform chain; `predict` gives (Z, L, R) at a level."""
    states, size = world.texts(), world.num_real
    law_Z = torch.full((len(states),), 1.0 / len(states), dtype=torch.float64)
    for k, (t, clock, to) in enumerate(clocks_of(policy, steps, world.length)):
        p_ZLR, moves = predict(t), []
        kappa = 1.0 if kappas is None else kappas[k]

        def reverse(i, alpha_t, alpha_s, p_ZLR=p_ZLR):
            ratio = alpha_t / alpha_s if alpha_s > 0 else 1.0
            weight = (p_ZLR[:, i] @ kernel(alpha_s, size)) * kernel(ratio, size)[:, states[:, i]].T
            return weight / weight.sum(1, keepdim=True)

        for i in range(world.length):
            alpha_t, alpha_s = 1 - clock[i], 1 - to[i]
            anew = reverse(i, alpha_t, 1.0) @ kernel(alpha_s, size)
            moves.append(kappa * reverse(i, alpha_t, alpha_s) + (1 - kappa) * anew)
        law_Z = law_Z @ product(torch.stack(moves, dim=1))
    return law_Z


# What the reference implementations do.


@pytest.mark.parametrize("folder", ["simplex_tess", "simplex_tess_selfcond"])
def test_a_whole_chain_is_that_of_tess(golden: Path, folder, monkeypatch):
    with np.load(golden / folder / "simplex.npz", allow_pickle=False) as data:
        case = {name: torch.from_numpy(data[name]) for name in data.files}
    # What is recorded is already times K.
    stored = torch.cat((case["chain_start"][None], case["chain_noise"])) / 5
    asked = []

    def recorded(ids, purpose, position_N, visit, num):
        assert purpose == Purpose.SIMPLEX and num == 96
        asked.append(visit)
        return stored[visit][ids.index_B, position_N].clone()

    monkeypatch.setattr("schedlab.sampling.chains.normals", recorded)
    network = Recorder(loading.load(golden / folder))
    plan = plan_of("H5", process="simplex", length=12, decoding=Decoding(temperature=0.0))
    steps = []
    given = 4  # `span_mask`: the first four positions are the prompt
    assert (case["span_mask"] == (torch.arange(12) >= given)).all()
    prefix = case["input_ids"][:, :given]
    state = sample_dense(
        plan, {"H": network}, SimplexProcess(96), ids_of(3), prefix, trace=steps.append
    )
    assert asked == [0, 1, 2, 3, 4]
    for k, (_, t_B, _) in enumerate(network.asked):
        torch.testing.assert_close(t_B, torch.full((3,), case["chain_timesteps"][k].item() / 5))
        expected = case["chain_logits"][k][:, given:].flatten(0, 1)
        torch.testing.assert_close(network.said[k], expected, atol=1e-4, rtol=0)
        drawn = case["chain_logits"][k].argmax(-1)
        assert torch.equal(steps[k].drawn_BL[:, given:], drawn[:, given:])
    assert torch.equal(state.z_BL[:, given:], case["chain_tokens"][:, given:])
    assert torch.equal(state.z_BL[:, :given], prefix)


@pytest.mark.parametrize(
    ("levels", "law", "last_step"),
    [
        ("timesteps4", "exact_ancestral_4steps", "draw"),
        ("timesteps", "exact_ancestral", "draw"),
        ("timesteps", "exact_greedy", "greedy"),
        ("timesteps_nonuniform", "exact_ancestral_nonuniform", "draw"),
        # Without its last step at level 1e-5, which changes a token in 10^5.
        ("timesteps", "exact_none", "none"),
    ],
)
def test_the_law_of_a_network_in_the_uniform_process_is_duos(
    golden: Path, levels: str, law: str, last_step: str
):
    # DUO's own sampler, summed up exactly.
    folder = golden / "duo_sampler"
    with np.load(folder / "distribution.npz", allow_pickle=False) as data:
        grid = data[levels].astype(np.float64).tolist()
        law_X = torch.from_numpy(data[law])
    if last_step == "none":
        grid, last_step = grid[:-1], "draw"
    plan = plan_of(
        f"H{len(grid)}", process="uniform", time_grid=grid, noise_schedule="log_linear",
        last_step=last_step,
    )  # fmt: skip
    network = loading.load(folder)
    z = sample_dense(plan, {"H": network}, UniformProcess(5), ids_of(20_000)).z_BL
    assert agrees(z, law_X, 5)


# The plain sampler and the constant policy.


@pytest.mark.parametrize(
    ("steps", "decoding", "prefix"),
    [
        (1, Decoding(), 0),
        (5, Decoding(), 2),
        (30, Decoding(temperature=0.7, top_p=0.8), 0),
        (9, Decoding(temperature=0.0), 3),
    ],
)
def test_with_constant_clocks_the_masked_loop_draws_the_tokens_of_the_plain_sampler(
    steps, decoding, prefix
):
    denoisers = {"H": masked_network(), "L": masked_network(1)}
    half = steps // 2
    plan = plan_of(f"H{steps - half}" + (f" L{half}" if half else ""), length=LENGTH,
                   decoding=decoding)  # fmt: skip
    process, ids = MaskedProcess(V, V - 1), ids_of(60)
    prefix_BP = torch.arange(60 * prefix).reshape(60, prefix) % (V - 1) if prefix else None
    plain = sample(plan, denoisers, process, ids, prefix_BP).z_BL
    dense = sample_dense(plan, denoisers, process, ids, prefix_BP)
    assert torch.equal(dense.z_BL, plain)
    assert (dense.usage["H"].forwards_B == steps - half).all()


def cases():
    simplex = simplex_network()
    oracle = UniformOracle(ToyWorld.random(num_real=3, length=3, seed=3))
    return {
        "simplex": (simplex, SimplexProcess(V), LENGTH),
        "masked": (masked_network(), MaskedProcess(V, V - 1), LENGTH),
        "uniform": (oracle, UniformProcess(3), 3),
    }


PROCESSES = ("simplex", "masked", "uniform")
RUNS = [
    *((name, policy) for name in PROCESSES for policy in sorted(ALLOCATION_POLICIES)),
    *(("uniform", policy) for policy in UNIFORM_POLICIES),
]


@pytest.mark.parametrize("name", PROCESSES)
def test_policies_that_say_constant_in_other_words_draw_the_same_tokens(name):
    denoiser, process, length = cases()[name]
    runs = [
        sample_dense(plan, {"H": denoiser}, process, ids_of(50)).z_BL
        for plan in (
            plan_of("H7", process=name, length=length, policy=policy, parameters=parameters)
            for policy, parameters in (
                ("ancestral", {}),
                ("tta_constant", {}),
                ("tta_adaptive", {"smooth": 1.0, "signal": "entropy"}),
                ("tta_scaled", {"factor": 1.0}),
                ("tta_linear", {"warm_up": 1.0}),
                ("tta_adaptive", {"signal": "none"}),
                ("tta_softmax", {"low": 1.0, "signal": "margin"}),
            )
        )
    ]
    for z in runs[1:]:
        assert torch.equal(z, runs[0])


@pytest.mark.parametrize("name", PROCESSES)
def test_other_clocks_draw_other_tokens(name):
    denoiser, process, length = cases()[name]
    found = {
        policy: sample_dense(
            plan_of("H7", process=name, length=length, policy=policy), {"H": denoiser}, process,
            ids_of(50),
        ).z_BL
        for policy in ("tta_constant", "tta_linear", "tta_backward", "tta_random")
    }  # fmt: skip
    for one, other in itertools.combinations(found.values(), 2):
        assert not torch.equal(one, other)


@pytest.mark.parametrize(("name", "policy"), RUNS)
def test_prefixes_are_kept_and_everything_else_is_generated(name, policy):
    denoiser, process, length = cases()[name]
    rule = (ALLOCATION_POLICIES | UNIFORM_POLICIES)[policy]
    signal = {"signal": "entropy"} if rule.signal == "gradient" else {}
    plan = plan_of("H4", process=name, length=length, policy=policy, parameters=signal)
    prefix_BP = torch.full((20, length - 1), 1)
    trace = []
    z = sample_dense(
        plan, {"H": denoiser}, process, ids_of(20), prefix_BP, trace=trace.append
    ).z_BL
    assert (z[:, :-1] == 1).all()
    assert ((z >= 0) & (z < process.vocab_size - (name == "masked"))).all()
    for step in trace:
        levels = step.levels_BL
        assert torch.isfinite(levels).all() and ((levels >= 0) & (levels <= 1)).all()
        assert (step.drawn_BL[:, :-1] == 1).all()


# Laws.


def test_the_masked_chain_has_the_exact_law_of_its_clocks():
    for policy, parameters in (
        ("tta_linear", {}),
        ("tta_backward", {}),
        ("tta_scaled", {"factor": 0.5}),
        ("tta_constant", {}),
    ):
        plan = plan_of("H4", policy=policy, parameters=parameters)
        z = sample_dense(plan, {"H": ORACLE}, MASKED, ids_of(30_000)).z_BL
        assert agrees(z, exact_masked_law(WORLD, policy, 4), 3), policy


@pytest.mark.parametrize(("name", "policy"), [run for run in RUNS if run[0] != "simplex"])
def test_where_positions_are_independent_every_policy_gives_the_law_of_the_world(name, policy):
    p_LR = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.2, 0.6], [0.45, 0.1, 0.45]]).double()
    probs = torch.einsum("a,b,c->abc", *p_LR).flatten()
    world = ToyWorld(3, 3, probs)
    rule = (ALLOCATION_POLICIES | UNIFORM_POLICIES)[policy]
    signal = {"signal": "margin"} if rule.signal == "gradient" else {}
    plan = plan_of("H6", process=name, policy=policy, parameters=signal)
    denoiser, process = {
        "masked": (OracleDenoiser(world), MASKED),
        "uniform": (UniformOracle(world), UniformProcess(3)),
    }[name]
    z = sample_dense(plan, {"H": denoiser}, process, ids_of(8_000)).z_BL
    assert agrees(z, probs, 3)


def test_with_many_steps_and_one_token_at_a_time_the_masked_law_is_that_of_the_world():
    # One token is let go at every step, the most certain one; another joins it once in 20 steps.
    distance = {}
    for steps in (4, 64):
        plan = plan_of(
            f"H{steps}",
            policy="tta_top_k",
            parameters={"share": 0.01, "low": 0.0, "signal": "entropy"},
        )
        z = sample_dense(plan, {"H": ORACLE}, MASKED, ids_of(20_000)).z_BL
        distance[steps] = total_variation(z, WORLD)
    # Sampling noise of TV is about 0.012 here.
    assert distance[64] < 0.025 < 0.04 < distance[4], distance


UNIFORM_WORLD = ToyWorld.random(num_real=3, length=3, seed=11)


@pytest.mark.parametrize("policy", ["tta_constant", "tta_linear", "tta_backward"])
@pytest.mark.parametrize("exact", ["leave_one_out", "posterior"])
def test_the_uniform_chain_has_the_exact_law_of_its_clocks(policy, exact):
    # A posterior is taken for what it is not: the law of that is known too.
    denoiser = UniformOracle(UNIFORM_WORLD, exact)
    plan = plan_of("H4", process="uniform", policy=policy)
    z = sample_dense(plan, {"H": denoiser}, UniformProcess(3), ids_of(20_000)).z_BL
    assert agrees(z, exact_uniform_law(UNIFORM_WORLD, denoiser.table, policy, 4), 3)


@pytest.mark.parametrize(
    ("middle", "eta"), [("pc", 0.5), ("constant", 0.1), ("remdm", 0.3), ("rescale", 0.7)]
)
@pytest.mark.parametrize("exact", ["leave_one_out", "posterior"])
def test_the_psi_chain_has_the_exact_law_of_its_kappas(middle, eta, exact):
    denoiser = UniformOracle(UNIFORM_WORLD, exact)
    parameters = {"middle": middle, "middle_eta": eta}
    plan = plan_of("H5", process="uniform", policy="psi", parameters=parameters)
    kappas = check_dense(plan, {}).kappas([k / 5 for k in range(6)])
    assert min(kappas) < 0.2 and kappas[-1] == 1
    z = sample_dense(plan, {"H": denoiser}, UniformProcess(3), ids_of(20_000)).z_BL
    law_X = exact_uniform_law(UNIFORM_WORLD, denoiser.table, "tta_constant", 5, kappas)
    assert agrees(z, law_X, 3)
    plain_X = exact_uniform_law(UNIFORM_WORLD, denoiser.table, "tta_constant", 5)
    assert not agrees(z, plain_X, 3)


def test_only_a_leave_one_out_prediction_gives_the_law_of_the_world_in_the_uniform_process():
    distance = {}
    for exact, prediction in (
        ("leave_one_out", "leave_one_out"),
        ("posterior", "leave_one_out"),
        ("posterior", "posterior"),
    ):
        denoiser = UniformOracle(UNIFORM_WORLD, exact, prediction)
        for steps in (4, 32):
            plan = plan_of(f"H{steps}", process="uniform")
            z = sample_dense(plan, {"H": denoiser}, UniformProcess(3), ids_of(10_000)).z_BL
            distance[exact, prediction, steps] = total_variation(z, UNIFORM_WORLD)
    # The exact distances at 4 and 32 steps are 0.151 and 0.019; sampling adds up to 0.015.
    for exact in ("leave_one_out", "posterior"):
        assert distance[exact, exact, 32] < 0.045 < 0.12 < distance[exact, exact, 4], distance
    # 0.30 however many steps there are.
    assert distance["posterior", "leave_one_out", 32] > 0.25, distance


def test_the_conversion_of_the_uniform_chain_is_exact():
    # Logits are float32, so a token in a million differs.
    runs = [
        sample_dense(
            plan_of("H6", process="uniform"),
            {"H": UniformOracle(UNIFORM_WORLD, exact, exact)},
            UniformProcess(3),
            ids_of(2_000),
        ).z_BL
        for exact in ("leave_one_out", "posterior")
    ]
    assert (runs[0] != runs[1]).double().mean() < 1e-3


# What a step is told and does.


def test_tokens_of_a_simplex_are_noised_to_one_step_below_their_levels():
    network, process, ids = Recorder(simplex_network()), SimplexProcess(V), ids_of(5)
    steps = []
    plan = plan_of("H6", process="simplex", length=LENGTH, policy="tta_linear")
    sample_dense(plan, {"H": network}, process, ids, trace=steps.append)
    row, position = torch.arange(5).repeat_interleave(LENGTH), torch.arange(LENGTH).repeat(5)
    for k in range(5):
        t = 5 - k  # of six; the grid of TESS begins at 5 / 6
        levels = [max(1, i * t // (LENGTH - 1)) for i in range(LENGTH)]
        expected_L = torch.tensor(levels, dtype=torch.float64) / 6
        torch.testing.assert_close(steps[k].levels_BL, expected_L.expand(5, -1))
        share_L = alpha("cosine")(expected_L - 1 / 6)
        noise = normals(ids.pick(row), Purpose.SIMPLEX, position, k + 1, V).view(5, LENGTH, V)
        X = process.noised(steps[k].drawn_BL, share_L, noise)
        asked_X, asked_t, given = network.asked[k + 1]
        torch.testing.assert_close(asked_X, X, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(asked_t, torch.full((5,), (t - 1) / 6))
        # Self-conditioning reads the logits of the step before.
        assert torch.equal(given["previous_BLV"].flatten(0, 1), network.said[k])
        seen = torch.where(given["generated_BL"], X.argmax(-1), given["given_BL"])
        assert torch.equal(steps[k + 1].input_BL, seen)
    assert "previous_BLV" not in network.asked[0][2]
    assert torch.equal(steps[-1].drawn_BL, network.said[-1].view(5, LENGTH, V).argmax(-1))


def test_the_first_state_of_a_simplex_is_noise_alone():
    network, ids = Recorder(simplex_network()), ids_of(4)
    sample_dense(plan_of("H1", process="simplex", length=LENGTH), {"H": network},
                 SimplexProcess(V), ids)  # fmt: skip
    row, position = torch.arange(4).repeat_interleave(LENGTH), torch.arange(LENGTH).repeat(4)
    noise = normals(ids.pick(row), Purpose.SIMPLEX, position, 0, V).view(4, LENGTH, V)
    torch.testing.assert_close(network.asked[0][0], 5 * noise)


def test_the_first_state_of_the_uniform_chain_is_even():
    network = Recorder(UniformOracle(UNIFORM_WORLD))
    sample_dense(plan_of("H1", process="uniform"), {"H": network}, UniformProcess(3),
                 ids_of(20_000))  # fmt: skip
    assert agrees(network.asked[0][0], torch.full((27,), 1 / 27, dtype=torch.float64), 3)


def test_denoisers_that_read_levels_of_tokens_get_those_at_which_tokens_stand():
    network = Recorder(simplex_network(time_input="token"))
    plan = plan_of(
        "H6", process="simplex", length=LENGTH, policy="tta_linear", time_grid="uniform",
        parameters={"token_time": True},
    )  # fmt: skip
    sample_dense(plan, {"H": network}, SimplexProcess(V), ids_of(3))
    assert (network.asked[0][1] == 1).all()
    for k in range(5):
        stands = [max(1, i * (6 - k) // (LENGTH - 1)) - 1 for i in range(LENGTH)]
        expected = torch.tensor(stands, dtype=torch.float64).expand(3, -1) / 6
        torch.testing.assert_close(network.asked[k + 1][1], expected, atol=1e-9, rtol=0)
    with pytest.raises(InputError, match=r"'tta_linear': token_time .*'H' was not"):
        sample_dense(plan, {"H": simplex_network()}, SimplexProcess(V), ids_of(3))


def test_levels_of_tokens_that_are_all_common_are_the_common_level():
    network = simplex_network(time_input="token")
    plans = [
        plan_of("H6", process="simplex", length=LENGTH, policy="tta_constant",
                time_grid="uniform", parameters={"token_time": own})
        for own in (False, True)
    ]  # fmt: skip
    common, own = (
        sample_dense(plan, {"H": network}, SimplexProcess(V), ids_of(30)).z_BL for plan in plans
    )
    assert torch.equal(common, own)


def test_a_clock_that_rises_again_takes_nothing_back():
    denoiser, steps = masked_network(), []
    plan = plan_of("H8", length=LENGTH, policy="tta_random")
    sample_dense(plan, {"H": denoiser}, MaskedProcess(V, V - 1), ids_of(40), trace=steps.append)
    assert any((b.levels_BL > a.levels_BL).any() for a, b in itertools.pairwise(steps))
    for before, after in itertools.pairwise(steps):
        stood = before.drawn_BL != V - 1
        assert torch.equal(after.drawn_BL[stood], before.drawn_BL[stood])
    assert (steps[-1].drawn_BL != V - 1).all()


NOISE_MATCHED = [
    (name, parameters)
    for name in PROCESSES
    for parameters in (
        {"smooth": 0.0}, {"smooth": 0.6}, {"smooth": 0.2, "monotonic": True, "integer": False},
    )
]  # fmt: skip


@pytest.mark.parametrize("pooled", ["t", "alpha"])
@pytest.mark.parametrize(("name", "parameters"), NOISE_MATCHED)
def test_a_pooled_rule_leaves_as_much_noise_as_the_rule_itself(name, parameters, pooled):
    """What is left after every step, averaged over tokens: masks; levels that count."""

    def left(how):
        steps = []
        plan = plan_of(
            "H10", process=name, length=length, policy="tta_adaptive", time_grid="uniform",
            parameters={"signal": "entropy", "pooled": how, **parameters},
        )  # fmt: skip
        sample_dense(plan, {"H": denoiser}, process, ids_of(600), trace=steps.append)
        noised = torch.stack([(step.levels_BL - 0.1).clamp(min=0) for step in steps[:-1]])
        if name == "masked":
            return torch.stack([step.open_BL.double().mean() for step in steps])
        if name == "uniform":
            noised = noised.cummin(0).values  # the lowest counts
        level = noised if pooled == "t" else 1 - alpha(plan.noise_schedule)(noised)
        return level.mean((1, 2))

    denoiser, process, length = cases()[name]
    # Trajectories differ, and so do the signals that are read on them.
    torch.testing.assert_close(left(pooled), left("none"), atol=0.05, rtol=0)


def test_a_token_of_the_uniform_chain_whose_clock_would_rise_stays():
    steps, world = [], UNIFORM_WORLD
    plan = plan_of("H9", process="uniform", policy="tta_random")
    sample_dense(plan, {"H": UniformOracle(world)}, UniformProcess(3), ids_of(300),
                 trace=steps.append)  # fmt: skip
    lowest = torch.ones(300, 3, dtype=torch.float64)
    stayed = 0
    for before, after in itertools.pairwise(steps[:-1]):
        lowest = torch.minimum(lowest, before.levels_BL - 1 / 9)
        rises = after.levels_BL - 1 / 9 >= lowest - 1e-12
        assert torch.equal(after.drawn_BL[rises], before.drawn_BL[rises])
        stayed += int(rises.sum())
    assert stayed > 1000


def test_the_mask_has_no_probability_whatever_its_logit():
    class Masking(Recorder):
        def logits(self, features_ND):
            logits = super().logits(features_ND)
            logits[:, V - 1] += 50
            return logits

    process, runs = MaskedProcess(V, V - 1), []
    plan = plan_of("H4", length=LENGTH, policy="tta_adaptive", guidance=GUIDANCE_OF_TESTS,
                   parameters={"signal": "entropy", "integer": False})  # fmt: skip
    for kind in (Recorder, Masking):
        steps = []
        sample_dense(plan, {"H": kind(masked_network())}, process, ids_of(20), guides=GUIDES,
                     trace=steps.append)  # fmt: skip
        runs.append(steps)
    for plain, masking in zip(*runs, strict=True):
        assert (masking.output_BL < V - 1).all() and (masking.guided_BL < V - 1).all()
        assert torch.equal(plain.levels_BL, masking.levels_BL)
        assert torch.equal(plain.drawn_BL, masking.drawn_BL)


def test_random_levels_are_addressed_by_step():
    steps, ids = [], ids_of(10)
    plan = plan_of("H5", process="simplex", length=LENGTH, policy="tta_random",
                   parameters={"integer": False})  # fmt: skip
    sample_dense(plan, {"H": simplex_network()}, SimplexProcess(V), ids, trace=steps.append)
    for k in range(5):
        expected = uniforms(ids, Purpose.CLOCK, torch.arange(LENGTH), k)
        assert torch.equal(steps[k].levels_BL, expected)


def test_an_inverted_signal_is_read_the_other_way_round():
    steps = {}
    for invert in (False, True):
        plan = plan_of(
            "H2", process="simplex", length=LENGTH, policy="tta_adaptive",
            parameters={"signal": "entropy", "integer": False, "invert": invert, "smooth": 0.0},
        )  # fmt: skip
        found = []
        sample_dense(plan, {"H": simplex_network()}, SimplexProcess(V), ids_of(4),
                     trace=found.append)  # fmt: skip
        steps[invert] = found[0]
    assert torch.equal(steps[True].signal_BL, -steps[False].signal_BL)
    # The scores of a signal and of its opposite add up to 1, so the levels to t.
    total = steps[True].levels_BL + steps[False].levels_BL
    torch.testing.assert_close(total, torch.full_like(total, 0.5), atol=1e-6, rtol=0)


def test_the_trace_and_the_usage_say_what_was_done():
    steps, work, ids = [], Work(), ids_of(6)
    plan = plan_of("H3 L2", process="simplex", length=LENGTH, guidance=GUIDANCE_OF_TESTS)
    prefix = torch.full((6, 3), 2)
    state = sample_dense(
        plan, {"H": simplex_network(), "L": simplex_network(1)}, SimplexProcess(V), ids, prefix,
        guides=GUIDES, work=work, trace=steps.append,
    )  # fmt: skip
    assert [step.step for step in steps] == [0, 1, 2, 3, 4]
    assert [step.t for step in steps] == pytest.approx([0.8, 0.6, 0.4, 0.2, 0.0])
    assert [step.pull is not None for step in steps] == [True] * 4 + [False]
    assert torch.equal(steps[-1].output_BL, steps[-1].guided_BL)
    assert torch.equal(steps[-1].drawn_BL, state.z_BL)
    assert any(not torch.equal(step.output_BL, step.guided_BL) for step in steps)
    for step in steps:
        for tokens in (step.input_BL, step.output_BL, step.guided_BL, step.drawn_BL):
            assert (tokens[:, :3] == 2).all()
    usage = state.usage
    assert (usage["H"].forwards_B == 3).all() and (usage["L"].forwards_B == 2).all()
    assert (usage["H"].head_positions_B == 15).all()
    assert (usage["L"].head_positions_B == 10).all()
    assert (usage[GUIDANCE].head_positions_B == 4 * 2).all()  # steps times iterations
    assert torch.equal(state.free_BL, torch.arange(LENGTH).expand(6, -1) >= 3)


@pytest.mark.parametrize("name", ["simplex", "masked"])
def test_guidance_without_a_scale_draws_the_tokens_of_no_guidance(name):
    denoiser, process, length = cases()[name]
    plain = plan_of("H6", process=name, length=length)
    still = plan_of("H6", process=name, length=length,
                    guidance=GUIDANCE_OF_TESTS.model_copy(update={"scale": 0.0}))  # fmt: skip
    one, other = (
        sample_dense(plan, {"H": denoiser}, process, ids_of(30), guides=GUIDES).z_BL
        for plan in (plain, still)
    )
    assert torch.equal(one, other)


@pytest.mark.parametrize("name", ["simplex", "masked"])
def test_guidance_makes_texts_that_the_guide_gives_their_labels(name):
    denoiser, process, length = cases()[name]
    mean = {}
    for scale in (0.0, 30.0):
        # An untrained denoiser does not carry on what earlier steps began.
        changes = {"scale": scale, "last_step": True}
        guidance = GUIDANCE_OF_TESTS.model_copy(update=changes)
        plan = plan_of("H8", process=name, length=length, guidance=guidance)
        z = sample_dense(plan, {"H": denoiser}, process, ids_of(60), guides=GUIDES).z_BL
        log_p = GUIDES["g"].log_probs_of_tokens(z)
        mean[scale] = log_p.gather(1, torch.arange(60)[:, None] % 3).mean().item()
    assert mean[30.0] > mean[0.0] + 0.2, mean


# Company.


@pytest.mark.parametrize(
    ("name", "guided"),
    [*((name, False) for name in PROCESSES), ("simplex", True), ("masked", True)],
)
def test_tokens_do_not_depend_on_the_company(name, guided):
    denoiser, process, length = cases()[name]
    plan = plan_of(
        "H5", process=name, length=length, policy="tta_adaptive",
        parameters={} if guided else {"signal": "entropy"},
        guidance=GUIDANCE_OF_TESTS if guided else None,
    )  # fmt: skip

    def tokens(ids):
        found = sample_plans([plan], {"H": denoiser}, process, ids, guides=GUIDES)
        return {one.sequence: one.tokens_UL[one.text_N[0]].tolist() for one in found}

    together = tokens(ids_of(70))  # more than a batch
    assert sorted(together) == list(range(70))
    assert tokens(ids_of(1)) == {0: together[0]}
    alone = tokens(ids_of(3, first=65))
    assert [alone[n] for n in range(3)] == [together[65 + n] for n in range(3)]
    backwards = tokens(ids_of(70).pick(torch.arange(69, -1, -1)))
    assert [backwards[69 - n] for n in range(70)] == [together[n] for n in range(70)]


@pytest.mark.parametrize("name", PROCESSES)
def test_networks_are_always_called_with_one_number_of_rows(name):
    # Matrix products choose the order of their sums by shape.
    denoiser, process, length = cases()[name]
    plan = plan_of("H3", process=name, length=length, policy="tta_constant")
    rows = set()
    for num in (1, 64, 70):
        network = Recorder(denoiser)
        assert len(list(sample_plans([plan], {"H": network}, process, ids_of(num)))) == num
        rows |= {len(z) for z, _, _ in network.asked}
    assert rows == {64}


def test_plans_that_differ_in_their_schedules_share_their_noise():
    network, process = simplex_network(), SimplexProcess(V)
    plans = [plan_of(text, process="simplex", length=LENGTH) for text in ("H5", "H3 L2", "L5")]
    denoisers = {"H": network, "L": simplex_network(1)}
    found = list(sample_plans(plans, denoisers, process, ids_of(5)))
    assert all(one.plans == (0, 1, 2) for one in found)
    same = list(sample_plans(plans, {"H": network, "L": network}, process, ids_of(5)))
    assert all(len(one.tokens_UL) == 1 for one in same)
    for one in found:
        assert [one.forwards["H"].tolist(), one.forwards["L"].tolist()] == [[5, 3, 0], [0, 2, 5]]
        alone = sample_dense(plans[1], denoisers, process, ids_of(1, first=one.sequence)).z_BL
        assert alone[0].tolist() == one.tokens_UL[one.text_N[1]].tolist()


# Refusals.


def test_plans_that_this_loop_cannot_run_are_refused_in_one_line():
    network = {"H": simplex_network()}
    for changes, message in (
        ({"policy": "threshold"}, "'threshold' takes no guidance"),
        ({"policy": "tta_adaptive"}, "'tta_adaptive': signal 'gradient' comes of guidance"),
        ({"policy": "tta_adaptive", "parameters": {"signal": "ablation"}}, "'ablation' comes of"),
        ({"guidance": GUIDANCE_OF_TESTS}, "'g' is not among none"),
        ({"policy": "tta_linear", "parameters": {"smooth": 0.5}}, "no parameter 'smooth'"),
        (
            {
                "policy": "tta_adaptive",
                "guidance": Guidance(attributes=[Attribute(classifier="g")], iterations=0),
            },
            "needs guidance.iterations of at least 1",
        ),
        (
            {"guidance": Guidance(attributes=[Attribute(classifier="g", label="d")])},
            "no label 'd'; it has a, b, c",
        ),
    ):
        plan = plan_of("H3", process="simplex", length=LENGTH, **changes)
        guides = {} if "is not among" in message else GUIDES
        with pytest.raises(InputError, match=message) as caught:
            sample_dense(plan, network, SimplexProcess(V), ids_of(2), guides=guides)
        assert "\n" not in str(caught.value)
    plan = plan_of("H3 M1", process="simplex", length=LENGTH)
    with pytest.raises(InputError, match="role 'M'"):
        sample_dense(plan, network, SimplexProcess(V), ids_of(2))


def test_bad_prefixes_are_refused():
    plan = plan_of("H3", process="simplex", length=LENGTH)
    for prefix, message in (
        (torch.zeros(2, LENGTH).long(), "shorter than"),
        (torch.full((2, 1), V), r"must lie in \[0, 12\)"),
        (torch.zeros(3, 1).long(), "must have shape"),
    ):
        with pytest.raises(InputError, match=message):
            sample_dense(plan, {"H": simplex_network()}, SimplexProcess(V), ids_of(2), prefix)
    with pytest.raises(InputError, match="mask"):
        sample_dense(plan_of("H3"), {"H": ORACLE}, MASKED, ids_of(2), torch.full((2, 1), 3))


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("steps", [1, 3])
def test_logits_that_are_not_finite_are_an_error(name, temperature, steps):
    denoiser, process, length = cases()[name]

    class Broken(Recorder):
        def logits(self, features_ND):
            logits = super().logits(features_ND)
            logits[0, 0] = torch.nan
            return logits

    plan = plan_of(f"H{steps}", process=name, length=length,
                   decoding=Decoding(temperature=temperature))  # fmt: skip
    # Most reveals of the masked chain miss the first position, unless it has one step.
    if name == "masked" and steps > 1:
        plan = plan.model_copy(update={"length": 1})
    with pytest.raises(SchedlabError, match="denoiser 'H' gave logits that are not finite"):
        sample_dense(plan, {"H": Broken(denoiser)}, process, ids_of(4))


def test_a_table_is_a_denoiser_of_the_masked_loop_too():
    light = TableDenoiser(ORACLE.perturbed(1.0, seed=1).log_probs_ZLV)
    z = sample_dense(plan_of("H2 L2"), {"H": ORACLE, "L": light}, MASKED, ids_of(50)).z_BL
    assert torch.equal(
        z, sample(plan_of("H2 L2"), {"H": ORACLE, "L": light}, MASKED, ids_of(50)).z_BL
    )
