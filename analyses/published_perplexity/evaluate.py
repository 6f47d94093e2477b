"""Perplexity of a checkpoint in its family's own convention: `python evaluate.py JOB.toml`.

A job names model, tokenizer, text, and how the text is cut into windows (see `Job`). Prints one
JSON object: bound in nats per token and perplexity with 95 % intervals over windows.

Legend: S windows, L positions.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from itertools import chain
from typing import Literal

import numpy as np
import torch

from schedlab import hub
from schedlab.denoisers import loading
from schedlab.errors import InputError, SchedlabError
from schedlab.files import Record, read_toml, validate
from schedlab.metrics.nelbo import nelbo
from schedlab.text import Tokenizer, load_corpus, load_documents


class Job(Record):
    """One evaluation.

    Args:
        model: any location of a denoiser.
        tokenizer: the tokenizer that it was trained with.
        text: documents, as in `text.load_documents`, prepared as for training (detokenised,
            say).
        split: "all" takes documents as they come; the others are schedlab's own, by content.
        packing: "wrapped" strings documents together, an end after each, and cuts that into
            windows of L - 2 tokens between a begin and an end; what is left over is dropped.
            "padded" makes one window of every document, cut at L; only its own tokens count.
        length: L.
        begin_id, end_id: tokens around windows; the tokenizer's end of document by default.
        convention: of the bound (`metrics.nelbo`); by default that of MDLM or of DUO, after the
            model's process.
        num_steps: T of the discrete-time bound; continuous by default.
        num_windows: the first so many; all by default.
        repeats, batch_size, seed: see `nelbo`.
        precision: of the weights.
    """

    model: str
    tokenizer: str
    text: str
    split: Literal["all", "train", "valid", "test"] = "all"
    packing: Literal["wrapped", "padded"] = "wrapped"
    length: int
    begin_id: int | None = None
    end_id: int | None = None
    convention: Literal["mdlm", "duo", "llada"] | None = None
    num_steps: int | None = None
    num_windows: int | None = None
    repeats: int = 1
    batch_size: int = 16
    seed: int = 0
    precision: Literal["float32", "bfloat16"] = "float32"


def wrapped(
    documents: Sequence[Sequence[int]], length: int, begin: int, end: int
) -> tuple[np.ndarray, np.ndarray]:
    """(S, L) windows between a begin and an end, and that all of their tokens count."""
    stream = np.array(list(chain.from_iterable([*ids, end] for ids in documents)), dtype=np.int64)
    inner = stream[: len(stream) // (length - 2) * (length - 2)].reshape(-1, length - 2)
    tokens_SL = np.pad(inner, ((0, 0), (1, 1)), constant_values=((0, 0), (begin, end)))
    return tokens_SL, np.ones(tokens_SL.shape, dtype=bool)


def padded(
    documents: Sequence[Sequence[int]], length: int, begin: int, end: int
) -> tuple[np.ndarray, np.ndarray]:
    """(S, L) windows of one document each, filled up with ends, and which tokens are text."""
    tokens_SL = np.full((len(documents), length), end, dtype=np.int64)
    counted_SL = np.zeros(tokens_SL.shape, dtype=bool)
    for row, ids in enumerate(documents):
        window = [begin, *ids[: length - 2], end]
        tokens_SL[row, : len(window)] = window
        counted_SL[row, : len(window)] = True
    return tokens_SL, counted_SL


def main(path: str) -> None:
    """Evaluate and print."""
    job = validate(Job, read_toml(path), where=path)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = loading.load(job.model, device=device, precision=job.precision)
    spec = model.spec
    mask_id = spec.vocab_size if spec.mask_id is None else spec.mask_id
    tokenizer = Tokenizer.for_model(job.tokenizer, max(spec.vocab_size, mask_id + 1), mask_id)
    documents = (
        load_documents(job.text) if job.split == "all" else load_corpus(job.text).split(job.split)
    )
    texts = [document.text for document in documents]
    begin, end = (tokenizer.eot_id if i is None else i for i in (job.begin_id, job.end_id))
    pack = wrapped if job.packing == "wrapped" else padded
    tokens_SL, counted_SL = pack(tokenizer.encode_batch(texts), job.length, begin, end)
    tokens_SL, counted_SL = tokens_SL[: job.num_windows], counted_SL[: job.num_windows]
    if len(tokens_SL) < 2:
        raise InputError(f"{job.text}: holds fewer than two windows of {job.length} tokens")
    if tokens_SL.max() >= spec.vocab_size:
        raise InputError(
            f"{job.tokenizer}: gives token {tokens_SL.max()}, the model has {spec.vocab_size}"
        )
    started = time.perf_counter()
    bound = nelbo(
        model,
        tokens_SL,
        convention=job.convention,
        counted_SL=counted_SL,
        num_steps=job.num_steps,
        repeats=job.repeats,
        batch_size=job.batch_size,
        seed=job.seed,
        device=device,
    )
    found = {
        "model": hub.pinned(job.model),
        "fingerprint": model.fingerprint,
        "tokenizer": hub.pinned(job.tokenizer, files=hub.TOKENIZER_FILES),
        "nats_per_token": bound.per_token().model_dump(),
        "perplexity": bound.perplexity().model_dump(),
        "windows": len(tokens_SL),
        "tokens": int(bound.tokens_S.sum()),
        "seconds": round(time.perf_counter() - started, 1),
        "device": device,
        "job": job.model_dump(),
    }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    try:
        main(sys.argv[1])
    except SchedlabError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
