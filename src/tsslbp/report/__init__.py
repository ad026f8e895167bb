"""One self-contained HTML file per run, and the parts of all pages."""

from tsslbp.report.collect import write
from tsslbp.report.run import RunReport, SampleRaster, write_run_report

__all__ = ["RunReport", "SampleRaster", "write", "write_run_report"]
