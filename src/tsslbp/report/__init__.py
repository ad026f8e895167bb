"""One self-contained HTML file per run or study."""

from tsslbp.report.collect import write
from tsslbp.report.compare import comparison_rows, heads, write_comparison
from tsslbp.report.run import RunReport, SampleRaster, write_run_report
from tsslbp.report.sections import section
from tsslbp.report.study import write_study

__all__ = [
    "RunReport",
    "SampleRaster",
    "comparison_rows",
    "heads",
    "section",
    "write",
    "write_comparison",
    "write_run_report",
    "write_study",
]
