"""The page of a folder with a run, a comparison, studies, or the runs of a recipe with several seeds."""

from pathlib import Path

from tsslbp import report, study
from tsslbp.cli.publishing.results import draw_results
from tsslbp.study.comparison import draw_comparison
from tsslbp.study.page import found_in
from tsslbp.training import METRICS
from tsslbp.utils.errors import UserError


def write_page(folder: Path, markdown: bool = False, data_root: Path | None = None) -> Path:
    """Write the HTML page of a folder, or a short ``README.md`` with SVG figures; returns the path of the page.

    Args:
        folder: of a run, a comparison, studies, or of ``tsslbp reproduce``.
        markdown: write the page in Markdown.
        data_root: folder of a run's data set, if it has moved.

    Raises:
        UserError: a file is missing, damaged or cannot be written, or the folder has no page of this kind.
    """
    compared, reproduced = (folder / "compare.json").is_file(), any(folder.glob("seed*.jsonl"))
    if not (compared or reproduced or found_in(folder)):
        if not (folder / METRICS).is_file():
            kinds = "a run, a comparison or studies, such as runs/quickstart"
            raise UserError(f"no run at {folder}: it has no {METRICS}; give the folder of {kinds}")
        return report.write(folder, data_root, markdown=markdown)
    if data_root is not None:
        raise UserError(f"--data-root has no effect: {folder} holds results, which need no data; leave it out")
    if compared:
        return draw_comparison(folder, markdown)
    if not reproduced:
        return study.draw(folder, markdown)
    if not markdown:
        raise UserError(f"{folder} holds the runs of tsslbp reproduce, whose page is in Markdown; add --markdown")
    return draw_results(folder)
