"""schedlab: which denoising steps of a diffusion language model matter, and which schedule to run.

The parts are subpackages, imported by name: `schedlab.plan` (schedules and plans as data),
`schedlab.evaluation` (run plans), `schedlab.importance`, `schedlab.search`, `schedlab.report`,
`schedlab.deploy`; `schedlab.pipeline` strings them together as the command line does.
Importing schedlab itself loads no torch.
"""

__version__ = "0.1.0"
