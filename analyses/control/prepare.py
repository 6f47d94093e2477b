"""Text with labels as JSON lines: `prepare.py DATA OUT`.

DATA is a folder with the public sets that the jobs here are trained on: `sentiment/` (SST-2
phrases and sentences, as tab-separated lines of label and text) and `toxicity/` (Surge AI's and
Wikipedia comments, RealToxicityPrompts), all gzip. Written are `sst2.jsonl` (negative, positive),
`toxicity.jsonl` (other, toxic), `prompts.jsonl`, and from the embedded corpus `forms.jsonl`:
windows of 64 tokens of the six topics, labelled by whether they hold parameter descriptions
(form), a second attribute beside the topic.

What belongs together has a group, so that no judge reads, and no accuracy is measured on, what a
guide was trained on: a phrase goes with the longest text that contains it, a window with the other
windows of its document.
"""

from __future__ import annotations

import gzip
import itertools
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from schedlab.files import write_atomic
from schedlab.text import Tokenizer, load_corpus
from schedlab.text.containment import groups_by_containment
from schedlab.text.corpora import SPLITS, split_of

TOPICS = ("matplotlib", "networkx", "pandas", "sqlalchemy", "sympy", "torch")
LENGTH = 64
PARAMETER = re.compile(r"^\*{0,2}\w+( ?, ?\w+)* : ", re.MULTILINE)
Row = tuple[str, str, str]
"""Label, text and group; no group where the text is alone."""


def main(data: str, out: str) -> None:
    """Write all files whose sources are there."""
    folder, target = Path(data), Path(out)
    sentiment = [folder / "sentiment" / f"sst2_{kind}.train.tsv.gz"
                 for kind in ("phrases", "sentences")]  # fmt: skip
    if all(path.exists() for path in sentiment):
        names = {"0": "negative", "1": "positive"}
        rows = [(names[label], text) for path in sentiment for label, text in tsv(path)]
        write(target / "sst2.jsonl", grouped([row for row in rows if len(row[1].split()) >= 4]))
    toxicity = [folder / "toxicity" / f"{name}.tsv.gz"
                for name in ("surge_toxicity", "wiki_comments")]  # fmt: skip
    if all(path.exists() for path in toxicity):
        rows = [("toxic" if label == "1" else "other", text)
                for path in toxicity for label, text in tsv(path)]  # fmt: skip
        # Not grouped: 4 of 1,000 texts lie inside one of the other half, all by chance.
        write(target / "toxicity.jsonl", [(label, text, "") for label, text in rows])
    prompts = folder / "toxicity" / "realtoxicityprompts_val5k.jsonl.gz"
    if prompts.exists():
        with gzip.open(prompts, "rt", encoding="utf-8") as stream:
            texts = [json.loads(line)["prompt"] for line in stream]
        write(target / "prompts.jsonl", [("", text, "") for text in texts])
    write(target / "forms.jsonl", list(forms()))


def tsv(path: Path) -> Iterator[tuple[str, str]]:
    """Label and text of every line."""
    with gzip.open(path, "rt", encoding="utf-8", newline="\n") as stream:
        head, *lines = stream.read().rstrip("\n").split("\n")
    columns = head.split("\t")
    for line in lines:
        row = dict(zip(columns, line.split("\t"), strict=True))
        yield row["label"], row["text"]


def grouped(rows: list[tuple[str, str]]) -> list[Row]:
    """Rows with the longest text that each belongs to, without short ones that fit several."""
    groups = groups_by_containment([text for _, text in rows])
    kept = [
        (label, text, "" if group == text else group)
        for (label, text), group in zip(rows, groups, strict=True)
        if group is not None
    ]
    print(f"{len(rows) - len(kept)} short texts that several others contain are left out")
    return kept


def forms() -> Iterator[Row]:
    """Windows of the embedded corpus by form, grouped by document."""
    corpus, tokenizer = load_corpus("embedded"), Tokenizer.load("bundled")
    for split in SPLITS:
        for document in corpus.split(split):
            if document.label not in TOPICS:
                continue
            ids, group = tokenizer.encode(document.text), name_within(split, document.key)
            for start in range(0, len(ids) - LENGTH + 1, LENGTH):
                text = tokenizer.decode(ids[start : start + LENGTH])
                yield ("parameters" if PARAMETER.search(text) else "prose"), text, group


def name_within(split: str, name: str) -> str:
    """The name with a number by which it falls into a split: that of the document of origin, so
    that what is held out here is held out from the bundled models too."""
    numbered = (f"{name} {number}" for number in itertools.count())
    return next(found for found in numbered if split_of(found) == split)


def write(path: Path, rows: list[Row]) -> None:
    """One object a line."""
    lines = [
        json.dumps({"label": label, "text": text} | ({"group": group} if group else {}))
        for label, text, group in rows
    ]
    write_atomic(path, "\n".join(lines) + "\n")
    print(f"{path.name}: {len(rows)} texts")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
