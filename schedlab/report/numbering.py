"""Numbers of figures and tables, the same on the page and in the document."""

from __future__ import annotations

from schedlab.report.content import Figure, Report, Samples, Table, Trajectory


def numbered(report: Report) -> dict[str, str]:
    """Name of every figure and table to `Figure 3` or `Table 2`, in reading order.

    Raises:
        ValueError: two of them share a name, and so would share an anchor and drawing ids.
    """
    labels: dict[str, str] = {}
    counts = {"Figure": 0, "Table": 0}
    for section in report.sections:
        for block in section.blocks:
            if not isinstance(block, Figure | Table | Samples | Trajectory):
                continue
            kind = "Figure" if isinstance(block, Figure) else "Table"
            if block.name in labels:
                raise ValueError(
                    f"names of figures and tables are unique, got {block.name!r} twice"
                )
            counts[kind] += 1
            labels[block.name] = f"{kind} {counts[kind]}"
    return labels
