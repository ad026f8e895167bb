"""One self-contained HTML file per run or study."""

from tsslbp.report.collect import write
from tsslbp.report.compare import COLUMNS, comparison_rows, write_comparison
from tsslbp.report.run import RunReport, SampleRaster, write_run_report

__all__ = [
    "COLUMNS",
    "RunReport",
    "SampleRaster",
    "comparison_rows",
    "write",
    "write_comparison",
    "write_run_report",
]
