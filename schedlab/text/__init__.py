"""Text in, token windows out: tokenizers, corpora, splits. Knows no model."""

from schedlab.text.corpora import Corpus, build_corpus, load_corpus, load_documents
from schedlab.text.docstrings import embedded_documents
from schedlab.text.documents import Document
from schedlab.text.tokenizer import Tokenizer
from schedlab.text.windows import Windows, held_out_windows, token_stream

__all__ = [
    "Corpus",
    "Document",
    "Tokenizer",
    "Windows",
    "build_corpus",
    "embedded_documents",
    "held_out_windows",
    "load_corpus",
    "load_documents",
    "token_stream",
]
