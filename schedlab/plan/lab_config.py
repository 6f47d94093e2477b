"""What a lab is made of, as data: denoisers by role, scorer, tokeniser, precision, device."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from schedlab.files import Record
from schedlab.plan.guidance import Name
from schedlab.plan.plan import Role

Location = Annotated[str, Field(min_length=1, max_length=4096)]


class LabConfig(Record):
    """The `[lab]` table of a job.

    Args:
        denoisers: location of the denoiser of every role: a folder, a safetensors file,
            `bundled:NAME` or `hf:OWNER/NAME[@REVISION]`; `#blocks=0-3` behind it takes some
            blocks of it (docs/models.md).
        scorer: location of the autoregressive scorer: a folder, `bundled:NAME` or
            `hf:MODEL[@REVISION]`; `none` where Gen-PPL is not measured.
        tokenizer: a `tokenizers` JSON file, ours or a published one, a folder with a
            `tokenizer.json`, `hf:OWNER/NAME[@REVISION]`, `bundled`, or `bundled:NAME` of a bundled
            model with its own.
        classifiers: location of every classifier that guides, by name.
        judges: location of every classifier that says whether texts have the attributes that were
            asked for, by name; none of them may guide.
        precision: dtype of the denoisers and of classifiers that guide. `auto` is bfloat16 on CUDA
            and on CPUs with instructions for it, float32 on others. Draws are float64-exact
            always, scorer and judges are float32 always.
        device: `auto` is CUDA where there is one.
        compile: compile the denoisers for sampling: about 1.5 times as fast for small networks,
            after some 15 seconds each; needs a C++ compiler.
    """

    denoisers: Annotated[dict[Role, Location], Field(min_length=1)]
    scorer: Location = "bundled:scorer"
    tokenizer: Location = "bundled"
    classifiers: dict[Name, Location] = {}
    judges: dict[Name, Location] = {}
    precision: Literal["auto", "float32", "bfloat16", "float64"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    compile: bool = False
