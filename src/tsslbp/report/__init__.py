"""One self-contained HTML file per run or study."""

from tsslbp.report.collect import write
from tsslbp.report.compare import comparison_rows, comparison_tables, write_comparison
from tsslbp.report.models import export, model_card
from tsslbp.report.results import results_table, write_results
from tsslbp.report.run import RunReport, SampleRaster, write_run_report
from tsslbp.report.sections import section
from tsslbp.report.study import write_study

__all__ = [
    "RunReport",
    "SampleRaster",
    "comparison_rows",
    "comparison_tables",
    "export",
    "model_card",
    "results_table",
    "section",
    "write",
    "write_comparison",
    "write_results",
    "write_run_report",
    "write_study",
]
