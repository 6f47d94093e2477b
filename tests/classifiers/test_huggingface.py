"""Classifiers of `transformers`: the same probabilities, gradients through their embeddings, and a
published simplex model guided by one of its own vocabulary."""

import json
import shutil

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


SIZES = {
    "vocab_size": VOCAB_SIZE, "hidden_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 2, "intermediate_size": 48, "max_position_embeddings": 40,
    "type_vocab_size": 1, "initializer_range": 0.4,
}  # fmt: skip


def saved(folder, kind="Roberta", labels=("bad", "good", "odd"), **changes):
    torch.manual_seed(0)
    sizes = SIZES | {"id2label": dict(enumerate(labels)), "pad_token_id": 1} | changes
    config = getattr(transformers, f"{kind}Config")(**sizes)
    model = getattr(transformers, f"{kind}ForSequenceClassification")(config)
    model.eval().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(tmp_path):
    return saved(tmp_path)


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


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": ("toxic",)}, "has 1 label"),
        ({"problem_type": "multi_label_classification"}, "is for 'multi_label_classification'"),
        ({"problem_type": "regression"}, "is for 'regression'"),
    ],
)
def test_outputs_that_are_no_labels_which_exclude_each_other_are_refused(
    tmp_path, changes, message
):
    saved(tmp_path, **changes)
    with pytest.raises(InputError, match=message) as refused:
        classifiers.load(tmp_path)
    assert str(tmp_path) in str(refused.value) and "\n" not in str(refused.value)
    saved(tmp_path, problem_type="single_label_classification")
    assert classifiers.load(tmp_path).labels == ("bad", "good", "odd")


@pytest.mark.parametrize(
    ("kind", "longest"),
    [("Roberta", 38), ("Bert", 40)],  # RoBERTa's positions begin behind the padding token's
)
@torch.no_grad()
def test_texts_that_are_too_long_are_refused(tmp_path, kind, longest):
    guide = classifiers.load(saved(tmp_path, kind))
    assert guide.max_length == longest
    tokens = torch.full((2, longest + 1), 5)
    assert torch.isfinite(guide.log_probs_of_tokens(tokens[:, 1:])).all()
    for read in (guide.log_probs_of_tokens, lambda z: guide.log_probs(guide.embedding_weight[z])):
        with pytest.raises(InputError, match=f"at most {longest} for this .*, got {longest + 1}"):
            read(tokens)


def test_a_model_without_a_table_of_positions_has_no_longest_text(tmp_path):
    transformers.T5ForSequenceClassification(
        transformers.T5Config(
            vocab_size=VOCAB_SIZE, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2,
            id2label={0: "bad", 1: "good"},
        )
    ).save_pretrained(tmp_path)  # fmt: skip
    guide = classifiers.load(tmp_path)
    assert guide.max_length is None
    guide.check_length(10**6)


def test_a_fingerprint_does_not_depend_on_where_the_folder_lies_or_who_wrote_it(folder, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in ("config.json", "model.safetensors"):
        shutil.copy(folder / file, copy / file)
    assert classifiers.load(copy).fingerprint == classifiers.load(folder).fingerprint
    config = json.loads((copy / "config.json").read_text())
    changed = copy / "config.json"
    changed.write_text(json.dumps(config | {"transformers_version": "5.3.0"}))
    assert classifiers.load(copy).fingerprint == classifiers.load(folder).fingerprint
    changed.write_text(json.dumps(config | {"layer_norm_eps": 0.1}))
    assert classifiers.load(copy).fingerprint != classifiers.load(folder).fingerprint
