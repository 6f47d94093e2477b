"""Families of published checkpoints, by what their `config.json` calls them."""

from __future__ import annotations

from collections.abc import Mapping

from schedlab.denoisers.families.base import Family, PublishedConfig
from schedlab.denoisers.families.dream import DREAM
from schedlab.denoisers.families.duo import DUO
from schedlab.denoisers.families.llada import LLADA
from schedlab.denoisers.families.mdlm import MDLM
from schedlab.denoisers.families.tess import TESS
from schedlab.denoisers.families.tess2 import TESS2

__all__ = ["FAMILIES", "Family", "PublishedConfig"]

FAMILIES: Mapping[str, Family] = {
    family.model_type: family for family in (MDLM, DUO, LLADA, DREAM, TESS, TESS2)
}
