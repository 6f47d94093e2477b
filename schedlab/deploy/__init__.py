"""From a searched plan to generated text: export a plan file, and run one in a clean process.

`export` needs no torch. The runtime does and is imported by itself: `schedlab.deploy.runtime`.
"""

from schedlab.deploy.export import export

__all__ = ["export"]
