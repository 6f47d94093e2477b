"""Training of denoisers and scorers."""

from schedlab.training.job import DeriveJob, TrainJob, read_train_job
from schedlab.training.loop import train

__all__ = ["DeriveJob", "TrainJob", "read_train_job", "train"]
