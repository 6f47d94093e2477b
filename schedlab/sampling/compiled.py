"""A denoiser whose calls in sampling run compiled.

Small networks on CPUs spend more than half of their time outside matrix products; the compiler
fuses what lies between them (12 bundled blocks, 1,024 positions a call, two cores, medians of 25
alternating calls: 1.2 to 1.8 times as fast in float32, 1.5 times in bfloat16). Sampling calls a
network in one shape only (`schedlab.sampling.forwards`), so there is one compilation per denoiser
and length, some 15 seconds the first time and less from the compiler's cache. Compiled kernels
round differently, so tokens differ from uncompiled ones and are stored apart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from schedlab.denoisers.base import Denoiser, DenoiserSpec, partwise
from schedlab.errors import InputError

_KEEPING = ("reads_before", "kept_width", "refresh", "kept_logits")


@dataclass
class Compiled:
    """Wraps a denoiser; what is not a call of sampling runs as it is."""

    inner: Denoiser
    _call: Callable[..., Tensor] | None = None

    @property
    def spec(self) -> DenoiserSpec:
        """Of the denoiser inside."""
        return self.inner.spec

    @property
    def fingerprint(self) -> str:
        """Of the denoiser inside."""
        return self.inner.fingerprint

    def features(self, z_BL: Tensor, t_B: Tensor | None = None, **given: Any) -> Tensor:
        """(B, L, D) features, not compiled."""
        return self.inner.features(z_BL, t_B, **given)

    def trunk(self, z_BL: Tensor, t_B: Tensor | None = None) -> Tensor:
        """(B, L, F) trunk, compiled; every shape is a compilation.

        Raises:
            InputError: the machine cannot compile.
        """
        if self._call is None:
            self._call = torch.compile(partwise(self.inner).trunk, dynamic=False)
        try:
            # Beyond its limit the compiler would fall back to other kernels, hence other bits.
            with torch._dynamo.config.patch(recompile_limit=256, fail_on_recompile_limit_hit=True):
                return self._call(z_BL, t_B)
        except torch._dynamo.exc.BackendCompilerFailed as error:
            reason = (str(error).splitlines() or ["unknown reason"])[0]
            raise InputError(
                f"this machine cannot compile ({reason}); install a C++ compiler or leave"
                " lab.compile out"
            ) from None

    def logits_at(self, trunk_BLF: Tensor, row_N: Tensor, position_N: Tensor) -> Tensor:
        """(N, V) logits, not compiled."""
        return partwise(self.inner).logits_at(trunk_BLF, row_N, position_N)

    def __getattr__(self, name: str) -> Any:
        """What the denoiser inside can do beside that (`KeepingDenoiser`), not compiled."""
        if name not in _KEEPING:  # anything else would pass for a denoiser that it is not
            raise AttributeError(name)
        return getattr(self.inner, name)

    def logits(self, features_ND: Tensor) -> Tensor:
        """(N, V) logits."""
        return self.inner.logits(features_ND)
