"""Training of denoisers and scorers."""

from schedlab.training.job import TrainJob
from schedlab.training.loop import train

__all__ = ["TrainJob", "train"]
