"""Tokens one at a time: logits of the whole network, and its law."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from schedlab.denoisers.transformer import Transformer, TransformerConfig
from schedlab.errors import InputError
from schedlab.sampling.autoregressive import CausalReader, sample_autoregressive

SEED = 5


def network_of(*, causal: bool = True, learned: bool = False, vocab_size: int = 7) -> Transformer:
    config = TransformerConfig(
        vocab_size=vocab_size, mask_id=0, num_blocks=3, hidden_size=16, num_heads=2, max_length=9,
        causal=causal, learned_positions=learned,
    )  # fmt: skip
    network = Transformer(config)
    network.init_weights(torch.Generator().manual_seed(SEED))
    network.head.weight.data.mul_(100)  # else predictions are all but uniform
    return network.requires_grad_(False)


@pytest.mark.parametrize("learned", [False, True])
def test_logits_are_those_of_whole_sequences(learned: bool) -> None:
    network = network_of(learned=learned)
    tokens_BL = torch.randint(7, (4, 9), generator=torch.Generator().manual_seed(1))
    reader = CausalReader(network, 4, 9)
    one_by_one = torch.stack([reader.next_logits(token_B) for token_B in tokens_BL.T], dim=1)
    torch.testing.assert_close(one_by_one, network(tokens_BL), atol=1e-5, rtol=1e-5)


def test_texts_follow_the_models_law() -> None:
    """All 27 texts of 3 tokens of 3 words; false alarms: 1 in 1,000, seed fixed."""
    network, num = network_of(vocab_size=3), 20_000
    texts_NL = torch.cartesian_prod(*[torch.arange(3)] * 3)
    shifted_NL = torch.cat((torch.zeros(27, 1, dtype=torch.int64), texts_NL[:, :-1]), dim=1)
    log_p_NLV = network(shifted_NL).double().log_softmax(-1)
    probs_N = log_p_NLV.gather(-1, texts_NL[..., None]).sum((1, 2)).exp()
    assert float(probs_N.sum()) == pytest.approx(1.0, abs=1e-6)
    first_B = torch.zeros(num, dtype=torch.int64)
    drawn_BL = sample_autoregressive(network, first_B, 3, torch.Generator().manual_seed(SEED))
    counts_N = torch.bincount((drawn_BL * torch.tensor([9, 3, 1])).sum(1), minlength=27)
    assert stats.chisquare(counts_N, num * probs_N / probs_N.sum()).pvalue > 1e-3


def test_other_networks_and_lengths_are_refused() -> None:
    with pytest.raises(InputError, match="causal"):
        CausalReader(network_of(causal=False), 1, 3)
    with pytest.raises(InputError, match="9"):
        CausalReader(network_of(), 1, 10)
