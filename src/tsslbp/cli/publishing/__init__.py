"""Results of trainings, and trained models with their cards, for publication."""

from tsslbp.cli.publishing.models import export, model_card
from tsslbp.cli.publishing.pages import write_page
from tsslbp.cli.publishing.reproduce import ROWS, Reproduce, reproduce
from tsslbp.cli.publishing.results import results_table, write_results

__all__ = ["ROWS", "Reproduce", "export", "model_card", "reproduce", "results_table", "write_page", "write_results"]
