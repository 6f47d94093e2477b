"""Classifiers of texts: to guide a sampler, or to judge what it wrote."""

from schedlab.classifiers.loading import load, load_own
from schedlab.classifiers.network import Classifier, ClassifierConfig, TextClassifier

__all__ = ["Classifier", "ClassifierConfig", "TextClassifier", "load", "load_own"]
