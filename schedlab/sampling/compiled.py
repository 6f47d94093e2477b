"""A denoiser whose calls of one shape run compiled.

Small networks on CPUs spend more than half of their time outside matrix products; the compiler
fuses what lies between them (12 bundled blocks, 8 x 128 tokens, two cores: 1.6 times as fast in
float32, 2.2 times in bfloat16). Sampling calls a network in one shape only
(`schedlab.sampling.forwards`), so there is one compilation per denoiser and length, some 15
seconds the first time and less from the compiler's cache. Compiled kernels round differently, so
tokens differ from uncompiled ones and are stored apart.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from schedlab.denoisers.base import Denoiser, DenoiserSpec
from schedlab.errors import InputError
from schedlab.sampling.forwards import call_rows


@dataclass
class Compiled:
    """Wraps a denoiser; calls of other shapes than sampling's run as they are."""

    inner: Denoiser
    _calls: dict[torch.Size, object] = field(default_factory=dict)

    @property
    def spec(self) -> DenoiserSpec:
        """Of the denoiser inside."""
        return self.inner.spec

    @property
    def fingerprint(self) -> str:
        """Of the denoiser inside."""
        return self.inner.fingerprint

    def features(self, z_BL: Tensor, t_B: Tensor | None = None) -> Tensor:
        """(B, L, D) features.

        Raises:
            InputError: the machine cannot compile.
        """
        rows, length = z_BL.shape
        if rows != call_rows(length, z_BL.device):
            return self.inner.features(z_BL, t_B)
        if z_BL.shape not in self._calls:
            self._calls[z_BL.shape] = torch.compile(self.inner.features, dynamic=False)
        try:
            return self._calls[z_BL.shape](z_BL, t_B)  # type: ignore[operator]
        except torch._dynamo.exc.BackendCompilerFailed as error:
            reason = (str(error).splitlines() or ["unknown reason"])[0]
            raise InputError(
                f"this machine cannot compile ({reason}); install a C++ compiler or leave"
                " lab.compile out"
            ) from None

    def logits(self, features_ND: Tensor) -> Tensor:
        """(N, V) logits."""
        return self.inner.logits(features_ND)
