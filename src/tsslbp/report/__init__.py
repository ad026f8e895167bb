"""One self-contained HTML file per run, what every page is made of, and what is published of runs."""

from tsslbp.report.collect import write
from tsslbp.report.models import export, model_card
from tsslbp.report.results import results_table, write_results
from tsslbp.report.run import RunReport, SampleRaster, write_run_report

__all__ = [
    "RunReport",
    "SampleRaster",
    "export",
    "model_card",
    "results_table",
    "write",
    "write_results",
    "write_run_report",
]
