"""Classifiers of `transformers`: the same probabilities, gradients through their embeddings, and a
published simplex model guided by one of its own vocabulary."""

import pytest
import torch

from schedlab import classifiers
from schedlab.classifiers.describe import is_classifier
from schedlab.denoisers import loading
from schedlab.errors import InputError
from schedlab.plan import Decoding, ModelSchedule, Plan
from schedlab.plan.guidance import Attribute, Guidance
from schedlab.processes import SimplexProcess
from schedlab.results import SeedBlock
from schedlab.sampling import SequenceIds, sample_dense

transformers = pytest.importorskip("transformers")
VOCAB_SIZE = 96  # of the recorded TESS model


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    config = transformers.RobertaConfig(
        vocab_size=VOCAB_SIZE, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=48, max_position_embeddings=40, pad_token_id=1, type_vocab_size=1,
        id2label={0: "bad", 1: "good", 2: "odd"}, initializer_range=0.4,
    )  # fmt: skip
    transformers.RobertaForSequenceClassification(config).eval().save_pretrained(tmp_path)
    return tmp_path


@torch.no_grad()
def test_probabilities_are_those_of_the_checkpoint(folder):
    model = transformers.RobertaForSequenceClassification.from_pretrained(folder).eval()
    guide = classifiers.load(folder)
    tokens = torch.randint(2, VOCAB_SIZE, (3, 12), generator=torch.Generator().manual_seed(1))
    expected = model(input_ids=tokens).logits.log_softmax(-1)
    torch.testing.assert_close(guide.log_probs_of_tokens(tokens), expected, atol=1e-5, rtol=0)
    one_hot = torch.nn.functional.one_hot(tokens, VOCAB_SIZE).float() @ guide.embedding_weight
    torch.testing.assert_close(guide.log_probs(one_hot), expected, atol=1e-5, rtol=0)
    assert guide.labels == ("bad", "good", "odd") and not is_classifier(folder)
    assert guide.fingerprint == classifiers.load(folder).fingerprint
    # Two blocks of 32 by 32 and 32 by 48, a dense layer and a head; each position once.
    assert guide.encoder_flops(12) > 12 * 2 * 2 * (4 * 32 * 32 + 2 * 32 * 48)


def test_it_guides_a_published_simplex_model_of_its_vocabulary(folder, golden):
    denoiser, guide = loading.load(golden / "simplex_tess_selfcond"), classifiers.load(folder)
    found = {}
    for scale in (0.0, 300.0):
        plan = Plan(
            length=12, model_schedule=ModelSchedule.constant("H", 6), process="simplex",
            noise_schedule="cosine", time_grid="tess", decoding=Decoding(top_p=0.99),
            guidance=Guidance(
                attributes=[Attribute(classifier="roberta", label="good")], scale=scale,
                last_step=True,  # a random denoiser keeps nothing of what it read
            ),
        )  # fmt: skip
        ids = SequenceIds.of([SeedBlock(0, 0, 16)])
        state = sample_dense(
            plan, {"H": denoiser}, SimplexProcess(VOCAB_SIZE), ids, guides={"roberta": guide}
        )
        found[scale] = guide.log_probs_of_tokens(state.z_BL)[:, 1].mean()
    assert found[300.0] > found[0.0] + 0.05


def test_pickles_and_other_models_are_refused(folder, tmp_path):
    (folder / "model.safetensors").rename(folder / "model.bin")
    with pytest.raises(InputError, match="cannot be loaded") as refused:
        classifiers.load(folder)
    assert "\n" not in str(refused.value)
