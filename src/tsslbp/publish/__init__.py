"""Results of trainings, and trained models with their cards, for publication."""

from tsslbp.publish.models import export, model_card
from tsslbp.publish.pages import write_page
from tsslbp.publish.reproduce import ROWS, Reproduce, reproduce
from tsslbp.publish.results import results_table, write_results

__all__ = ["ROWS", "Reproduce", "export", "model_card", "reproduce", "results_table", "write_page", "write_results"]
