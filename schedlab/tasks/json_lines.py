"""Items from JSON lines: a prompt made of a line's fields, and a reference answer."""

from __future__ import annotations

import string

from schedlab.errors import InputError
from schedlab.files import parse_json
from schedlab.plan.task_config import TaskConfig
from schedlab.tasks.task import Item
from schedlab.text.corpora import lines


def read_items(config: TaskConfig) -> tuple[Item, ...]:
    """All items of a file, in its order.

    Raises:
        InputError: the file is missing or empty, or a line is not an object with the fields.
    """
    template = string.Template(config.template)
    found = []
    for number, line in enumerate(lines(config.source), start=1):
        if not line.strip():
            continue
        where = f"{config.source}:{number}"
        record = parse_json(line, where=where)
        if not isinstance(record, dict):
            raise InputError(f"{where}: must be an object, got {line[:40]!r}")
        # Nothing else has one spelling: a null or a list would be asked as Python writes it.
        kept = {name: v for name, v in record.items() if isinstance(v, str | int | float)}
        fields = {name: str(value) for name, value in kept.items()}
        try:
            found.append(Item(template.substitute(fields), fields[config.answer]))
        except KeyError as error:
            raise InputError(
                f"{where}: has no text or number {error.args[0]!r}; it has {sorted(fields)}; see"
                " task.template and task.answer"
            ) from None
        except ValueError:
            raise InputError(
                f"task.template {config.template[:40]!r}: fields read like $question, and $$ is a"
                " dollar"
            ) from None
    if not found:
        raise InputError(f"{config.source}: holds no items")
    return tuple(found)
