"""One self-contained HTML file per run, and what every page is made of."""

from tsslbp.report.collect import write
from tsslbp.report.run import RunReport, SampleRaster, write_run_report

__all__ = ["RunReport", "SampleRaster", "write", "write_run_report"]
