"""What classifiers are trained on: texts, and what a denoiser predicts of noised texts.

A guide reads predictions when it guides, so it is trained on them too.

Legend: B rows, L positions, V vocabulary, D width, S held-out rows, C labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from schedlab.classifiers import ClassifierConfig, TextClassifier
from schedlab.denoisers import loading
from schedlab.denoisers.base import features_at
from schedlab.denoisers.network import Network
from schedlab.errors import InputError
from schedlab.results import Estimate
from schedlab.text import Tokenizer
from schedlab.training.calibration import calibration_error
from schedlab.training.distributed import Workers
from schedlab.training.document_rows import DocumentRows
from schedlab.training.job import ClassifierJob
from schedlab.training.objective import Objective
from schedlab.training.objectives import mean_with_interval
from schedlab.training.simplex_objective import noised, row_noise

_INPUT, _HELD_OUT = 7, 8  # purposes of their own: see `batches`
_HELD_OUT_LEVELS = (0.25, 0.5, 0.75)
_CHUNK = 64


def classifier_network(
    job: ClassifierJob, vocab_size: int, generator: torch.Generator
) -> TextClassifier:
    """The network before the first step."""
    sizes, labels = job.model, job.texts.labels
    assert labels is not None, "checked by the job"
    model = TextClassifier(
        ClassifierConfig(
            encoder=sizes.encoder,
            vocab_size=vocab_size,
            labels=labels,
            num_blocks=sizes.num_blocks if sizes.encoder == "transformer" else 1,
            hidden_size=sizes.hidden_size,
            num_heads=sizes.num_heads,
            max_length=sizes.length,
            time_input=sizes.time_input,
            groups=sizes.groups,
        )
    )
    model.init_weights(generator)
    return model


@dataclass(frozen=True)
class ClassifierObjective(Objective):
    """Cross-entropy of labels, in nats per text."""

    job: ClassifierJob
    rows: DocumentRows
    workers: Workers
    denoiser: Network | None
    seed: int

    @classmethod
    def of(
        cls,
        job: ClassifierJob,
        rows: DocumentRows,
        tokenizer: Tokenizer,
        workers: Workers,
        seed: int,
    ) -> ClassifierObjective:
        """With the denoiser that the job names, if any.

        Raises:
            InputError: it has another vocabulary, or cannot predict rows of this length.
        """
        denoiser, location = None, job.inputs.denoiser
        if location is not None:
            denoiser = loading.load(location, device=workers.device)
            spec, where = denoiser.spec, f"inputs.denoiser: {location}"
            if spec.vocab_size != tokenizer.vocab_size:
                raise InputError(
                    f"{where} has {spec.vocab_size} tokens, the tokenizer {tokenizer.vocab_size}"
                )
            if getattr(denoiser.config, "causal", False):
                raise InputError(f"{where} is autoregressive; name a denoiser")
            if spec.process == "uniform":
                raise InputError(
                    f"{where} is of the uniform process; name a masked or simplex one"
                )
            denoiser.check_length(rows.length)
        return cls(job, rows, workers, denoiser, seed)

    @property
    def unit(self) -> str:
        """Of the loss."""
        return "nats per text"

    def loss(self, model: Network, step: int, part: int = 0) -> Tensor:
        """A share of the step's loss."""
        assert isinstance(model, TextClassifier)
        size, workers, inputs = self.job.optimization.batch_size, self.workers, self.job.inputs
        tokens_BL, label_B = self.rows.labelled(step, batch_size=size, seed=self.job.seed)
        rng = np.random.default_rng([self.job.seed, _INPUT, step])
        t_B = inputs.largest_t * (np.arange(size) + rng.random(size)) / size
        t_B = rng.permutation(t_B)
        soft_B = rng.random(size) < (0.0 if self.denoiser is None else inputs.share)
        mine = workers.rows(part, self.job.optimization.accumulate)
        e_BLD, time_B = self._inputs(
            model, tokens_BL[mine], np.where(soft_B, t_B, 0.0)[mine],
            [self.job.seed, _INPUT, step], range(size)[mine],
        )  # fmt: skip
        label = torch.from_numpy(label_B[mine]).to(workers.device)
        return F.nll_loss(model.log_probs(e_BLD, time_B), label, reduction="sum") / size

    def _inputs(
        self,
        model: TextClassifier,
        tokens_BL: np.ndarray,
        t_B: np.ndarray,
        key: list[int],
        rows: range,
    ) -> tuple[Tensor, Tensor]:
        """Embeddings of texts (t = 0) or of predictions, and the levels."""
        device = next(model.parameters()).device
        x_BL = torch.from_numpy(tokens_BL).to(device)
        time_B = torch.from_numpy(t_B.astype(np.float32)).to(device)
        e_BLD = model.embedding(x_BL)
        if self.denoiser is None or not (t_B > 0).any():
            return e_BLD, time_B
        soft = time_B > 0
        places = [row for row, level in zip(rows, t_B, strict=True) if level > 0]
        with torch.no_grad():
            p_SLV = _predictions(self.denoiser, x_BL[soft], time_B[soft], key, places)
        soft_SLD = p_SLV.to(e_BLD.dtype) @ model.embedding_weight
        return e_BLD.index_put((soft.nonzero()[:, 0],), soft_SLD), time_B

    @torch.inference_mode()
    def held_out(self, model: Network) -> tuple[Estimate, dict[str, Estimate]]:
        """Cross-entropy of held-out texts; accuracy and calibration of texts and predictions."""
        assert isinstance(model, TextClassifier)
        measured, nats_S = {}, None
        levels = (0.0, *(_HELD_OUT_LEVELS if self.denoiser is not None else ()))
        for number, level in enumerate(levels):
            log_p_SC = self._held_out_log_probs(model, level, number)
            label_S = self.rows.held_out_labels_S
            if nats_S is None:
                nats_S = -log_p_SC[np.arange(len(label_S)), label_S]
            right_S = (log_p_SC.argmax(1) == label_S).astype(np.float64)
            name = "" if level == 0 else f"_at_t_{level:g}"
            measured[f"accuracy{name}"] = mean_with_interval(right_S)
            measured[f"calibration_error{name}"] = calibration_error(
                np.exp(log_p_SC.max(1)), right_S, seed=self.seed
            )
        assert nats_S is not None
        return mean_with_interval(nats_S), measured

    def _held_out_log_probs(self, model: TextClassifier, t: float, number: int) -> np.ndarray:
        rows_SL = self.rows.held_out_SL.astype(np.int64)
        found = []
        for start in range(0, len(rows_SL), _CHUNK):
            part = rows_SL[start : start + _CHUNK]
            e_BLD, time_B = self._inputs(
                model, part, np.full(len(part), t), [self.seed, _HELD_OUT, number],
                range(start, start + len(part)),
            )  # fmt: skip
            found.append(model.log_probs(e_BLD, time_B).double().cpu().numpy())
        return np.concatenate(found)

    def __str__(self) -> str:
        return str(self.rows)


def _predictions(
    denoiser: Network, x_BL: Tensor, t_B: Tensor, key: list[int], rows: list[int]
) -> Tensor:
    """What a denoiser predicts of noised texts, (B, L, V); positions that are not noised are
    one-hot."""
    if denoiser.spec.process == "simplex":
        noise_BLV = row_noise(key, rows, denoiser.spec, x_BL.shape[1], x_BL.device)
        X_BLV = noised(denoiser.spec, x_BL, t_B[:, None].expand(x_BL.shape), noise_BLV)
        return denoiser.logits(denoiser.features(X_BLV, t_B)).float().softmax(-1)
    mask_id = denoiser.spec.mask_id
    assert mask_id is not None, "a masked denoiser"
    # Row 0 of a key would be the key itself, whose draws placed the levels.
    u_BL = np.stack([np.random.default_rng([*key, 1 + row]).random(x_BL.shape[1]) for row in rows])
    masked_BL = torch.from_numpy(u_BL).to(x_BL.device) < t_B[:, None]
    z_BL = torch.where(masked_BL, mask_id, x_BL)
    logits_BLV = denoiser.logits(features_at(denoiser, z_BL, t_B)).float()
    logits_BLV[..., mask_id] = -torch.inf
    hard_BLV = F.one_hot(x_BL, denoiser.spec.vocab_size).float()
    return torch.where(masked_BL[..., None], logits_BLV.softmax(-1), hard_BLV)
