"""Text with labels as JSON lines: `prepare.py DATA OUT`.

DATA is a folder with the public sets that the jobs here are trained on: `sentiment/` (SST-2
phrases and sentences, as tab-separated lines of label and text) and `toxicity/` (Surge AI's and
Wikipedia comments, RealToxicityPrompts), all gzip. Written are `sst2.jsonl` (negative, positive),
`toxicity.jsonl` (other, toxic), `prompts.jsonl`, and from the embedded corpus `forms.jsonl`:
windows of 64 tokens of the six topics, labelled by whether they hold parameter descriptions
(form), a second attribute beside the topic.
"""

from __future__ import annotations

import gzip
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from schedlab.files import write_atomic
from schedlab.text import Tokenizer, load_corpus

TOPICS = ("matplotlib", "networkx", "pandas", "sqlalchemy", "sympy", "torch")
LENGTH = 64
PARAMETER = re.compile(r"^\*{0,2}\w+( ?, ?\w+)* : ", re.MULTILINE)


def main(data: str, out: str) -> None:
    """Write all files whose sources are there."""
    folder, target = Path(data), Path(out)
    sentiment = [folder / "sentiment" / f"sst2_{kind}.train.tsv.gz"
                 for kind in ("phrases", "sentences")]  # fmt: skip
    if all(path.exists() for path in sentiment):
        names = {"0": "negative", "1": "positive"}
        rows = [(names[label], text) for path in sentiment for label, text in tsv(path)]
        write(target / "sst2.jsonl", [row for row in rows if len(row[1].split()) >= 4])
    toxicity = [folder / "toxicity" / f"{name}.tsv.gz"
                for name in ("surge_toxicity", "wiki_comments")]  # fmt: skip
    if all(path.exists() for path in toxicity):
        rows = [("toxic" if label == "1" else "other", text)
                for path in toxicity for label, text in tsv(path)]  # fmt: skip
        write(target / "toxicity.jsonl", rows)
    prompts = folder / "toxicity" / "realtoxicityprompts_val5k.jsonl.gz"
    if prompts.exists():
        with gzip.open(prompts, "rt", encoding="utf-8") as stream:
            write(target / "prompts.jsonl", [("", json.loads(line)["prompt"]) for line in stream])
    write(target / "forms.jsonl", list(forms()))


def tsv(path: Path) -> Iterator[tuple[str, str]]:
    """Label and text of every line."""
    with gzip.open(path, "rt", encoding="utf-8", newline="\n") as stream:
        head, *lines = stream.read().rstrip("\n").split("\n")
    columns = head.split("\t")
    for line in lines:
        row = dict(zip(columns, line.split("\t"), strict=True))
        yield row["label"], row["text"]


def forms() -> Iterator[tuple[str, str]]:
    """Windows of the embedded corpus by form."""
    corpus, tokenizer = load_corpus("embedded"), Tokenizer.load("bundled")
    for document in (*corpus.train, *corpus.valid, *corpus.test):
        if document.label not in TOPICS:
            continue
        ids = tokenizer.encode(document.text)
        for start in range(0, len(ids) - LENGTH + 1, LENGTH):
            text = tokenizer.decode(ids[start : start + LENGTH])
            yield ("parameters" if PARAMETER.search(text) else "prose"), text


def write(path: Path, rows: list[tuple[str, str]]) -> None:
    """One object a line."""
    lines = [json.dumps({"label": label, "text": text}) for label, text in rows]
    write_atomic(path, "\n".join(lines) + "\n")
    print(f"{path.name}: {len(rows)} texts")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
