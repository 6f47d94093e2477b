"""Reports: what a run folder holds, as one self-contained HTML page and one PDF (no torch)."""

from schedlab.report.build import ReportPaths, build_report
from schedlab.report.run_data import RunData, load_run

__all__ = ["ReportPaths", "RunData", "build_report", "load_run"]
