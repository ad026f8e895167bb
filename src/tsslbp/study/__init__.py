"""Experiments on trained runs, on recipes and on rules, one file each; ``base.py`` describes such a file.

The measure of each is here by its name, like that of a comparison: ``tsslbp.study.latency(run)`` with a run that
``tsslbp.study.runs.load("runs/NAME")`` reads.
"""

import sys

from tsslbp.study.activity import Activity, measure
from tsslbp.study.base import studies
from tsslbp.study.compare import compare, contestants
from tsslbp.study.page import check_folder, draw, section, write
from tsslbp.study.tuning import Tuning

for _name in studies():  # last, since an imported file takes the name of its measure
    globals()[_name] = getattr(sys.modules[f"{__package__}.{_name}"], _name)

__all__ = ["Activity", "Tuning", "check_folder", "compare", "contestants", "draw", "measure", "section", "studies", "write"]
