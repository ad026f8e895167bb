"""Studies of many runs. Each returns its data; ``report/`` draws it."""

from tsslbp.study.activity import Activity, measure
from tsslbp.study.compare import compare, contestants

__all__ = ["Activity", "compare", "contestants", "measure"]
