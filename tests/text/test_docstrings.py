"""The embedded corpus: what is kept of a documentation string, and where it comes from."""

import re
import subprocess
import sys

import pytest

from schedlab.text import build_corpus, docstrings, load_corpus
from schedlab.text.near_duplicates import near_duplicate_clusters

NUMPYDOC = """Find the roots of a polynomial.

    The values in the array :attr:`~numpy.poly1d.coef` are coefficients, read from
    left to right, as in ``p[0] * x + p[1]``.

    Parameters
    ----------
    p : array_like
        Rank-1 array of *polynomial* coefficients,
        highest power first.

    Returns
    -------
    out : ndarray
        An array containing the roots.

    Notes
    -----
    The algorithm relies on computing the eigenvalues::

        A = companion(p)

    of the companion matrix.

    ======  =======
    name    value
    ======  =======

    References
    ----------
    .. [1] R. A. Horn & C. R. Johnson, *Matrix Analysis*.

    Examples
    --------
    >>> coeff = [3.2, 2, 1]
    >>> np.roots(coeff)

    And the second example:
    """


def test_clean_keeps_prose_and_joins_wrapped_lines() -> None:
    assert docstrings.clean(NUMPYDOC).splitlines() == [
        "Find the roots of a polynomial.",
        "The values in the array coef are coefficients, read from left to right, as in "
        "p[0] * x + p[1].",
        "Parameters",
        "p : array_like",
        "Rank-1 array of polynomial coefficients, highest power first.",
        "Returns",
        "out : ndarray",
        "An array containing the roots.",
        "Notes",
        "The algorithm relies on computing the eigenvalues:",
        "of the companion matrix.",
    ]


def test_clean_keeps_list_items_on_lines_of_their_own() -> None:
    raw = "Options are\n\n* one that is long and\n  wrapped\n* another\n"
    assert docstrings.clean(raw).splitlines() == [
        "Options are",
        "* one that is long and wrapped",
        "* another",
    ]


@pytest.mark.parametrize("raw", ["", "\n\n", ">>> 1 + 1\n2", "x = \\frac{1}{2} $y$", "1 2 3 4 5"])
def test_clean_of_what_is_no_prose_is_empty(raw: str) -> None:
    assert docstrings.clean(raw) == ""


def test_nothing_is_imported_or_executed(tmp_path, monkeypatch) -> None:
    package = tmp_path / "trapped"
    package.mkdir()
    prose = "This sentence of the documentation is repeated so that it is long enough. " * 6
    (package / "__init__.py").write_text(f'"""{prose}"""\nraise RuntimeError("was executed")\n')
    (package / "broken.py").write_text('"""' + prose + '"""\ndef (:\n')
    (package / "latin.py").write_bytes(b'"""\xe9' + prose.encode() + b'"""')
    (package / "tests").mkdir()
    (package / "tests" / "test_it.py").write_text(f'"""In tests. {prose}"""')
    (package / "c_api.py").write_text(f"add_newdoc('m', 'f', '''In C. {prose}''')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(docstrings, "PACKAGES", ("trapped", "not_installed_anywhere"))
    monkeypatch.setattr(
        docstrings.sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path / "none")}
    )
    documents = docstrings.embedded_documents(num_jobs=1)
    assert [d.key for d in documents] == ["trapped/__init__.py:0:", "trapped/c_api.py:1:"]
    assert {d.label for d in documents} == {"trapped"}
    assert "trapped" not in sys.modules


def test_embedded_corpus_is_large_labelled_english_without_near_duplicates_across_splits() -> None:
    corpus = load_corpus("embedded")
    documents = corpus.train + corpus.valid + corpus.test
    assert sum(len(d.text) for d in documents) > 8_000_000
    assert {d.label for d in documents} == {*docstrings.PACKAGES, docstrings.STANDARD_LIBRARY}
    assert any(d.key.startswith("pydoc_data/topics.py:") for d in documents)
    assert all(len(d.text) >= docstrings.MIN_CHARACTERS and d.text.isascii() for d in documents)
    words = re.findall(r"[a-z]+", " ".join(d.text.lower() for d in corpus.valid))
    assert words.count("the") > 0.05 * len(words)
    held_out = len(corpus.valid) + len(corpus.test)
    assert 0.07 < held_out / len(documents) < 0.13
    # Clustering what was kept (its words get other hashes) finds borderline pairs at most.
    clusters = near_duplicate_clusters([d.text for d in documents])
    by_cluster: dict[int, list[str]] = {}
    for document, cluster in zip(documents, clusters.tolist(), strict=True):
        by_cluster.setdefault(cluster, []).append(document.text)
    left = [texts for texts in by_cluster.values() if len(texts) > 1]
    assert sum(map(len, left)) < 0.02 * len(documents)
    assert all(_jaccard(texts[0], texts[1]) < 0.8 for texts in left)


def _jaccard(left: str, right: str) -> float:
    words = (re.findall(r"[a-z0-9]+", text.lower()) for text in (left, right))
    a, b = ({tuple(w[i : i + 5]) for i in range(max(1, len(w) - 4))} for w in words)
    return len(a & b) / len(a | b)


def test_documents_are_the_same_in_another_process(monkeypatch) -> None:
    program = (
        "from schedlab.text import build_corpus, docstrings\n"
        "docstrings.PACKAGES = ('joblib',)\n"
        "docstrings.sysconfig.get_paths = lambda: {'stdlib': '/nowhere'}\n"
        "found = docstrings.embedded_documents(num_jobs=1)\n"
        "print(build_corpus('embedded', found).fingerprint)\n"
    )
    there = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    monkeypatch.setattr(docstrings, "PACKAGES", ("joblib",))
    monkeypatch.setattr(docstrings.sysconfig, "get_paths", lambda: {"stdlib": "/nowhere"})
    found = docstrings.embedded_documents(num_jobs=2)
    assert len(found) > 20
    assert build_corpus("embedded", found).fingerprint == there.stdout.strip()
