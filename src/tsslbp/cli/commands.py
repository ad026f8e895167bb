"""The commands: their places and purposes.

A command's file is imported only when the command is given, because all of them together take longer to load than many a
command takes to run.
"""

from importlib import import_module
from typing import NamedTuple


class Command(NamedTuple):
    """A command of ``tsslbp``."""

    at: str
    """Its file in this folder and its function, which takes the arguments and prints the answer."""
    about: str
    """Its line in ``tsslbp --help``."""

    def __call__(self, arguments: list[str]) -> None:
        """Run it."""
        file, function = self.at.split(".")
        getattr(import_module(f"{__package__}.{file}"), function)(arguments)


COMMANDS = {
    "train": Command("train.train", "train a network: tsslbp train RECIPE, or tsslbp train --data PATH"),
    "evaluate": Command("use.evaluate", "measure the accuracy of a trained model on its test set"),
    "predict": Command(
        "use.predict", "classify an image, or every sample of a file or folder: class, confidence, time of decision"
    ),
    "report": Command("publish.report_", "make the page of a run, a comparison or studies, in HTML or Markdown"),
    "compare": Command("study.compare", "compare learning rules on one network: tsslbp compare RECIPE --rules A,B,C"),
    "study": Command("study.study_", "study a run, a recipe or rules, with figures: tsslbp study NAME RUN_OR_RECIPE_OR_RULES"),
    "reproduce": Command("publish.reproduce", "train a row of the paper's table with several seeds: tsslbp reproduce ROW"),
    "export": Command("exchange.export", "write a trained network for others: a model file with its card, NIR, ONNX or C"),
    "import": Command(
        "exchange.import_",
        "read a network from a NIR file that another program wrote: tsslbp import FILE.nir MODEL.safetensors",
    ),
    "bench": Command("speed.bench_", "measure speed and memory against the linear maps alone and other libraries"),
    "recipes": Command("train.recipes_", "list the recipes"),
    "rules": Command("methods.rules_", "list the learning rules and their options, and the models to compare with"),
    "cite": Command("methods.cite", "print BibTeX of this software and of a rule's papers"),
    "check": Command("methods.check_", "repeat the experiment of another model's paper: tsslbp check NAME"),
    "doctor": Command("speed.doctor", "show which kernels and packages work here, and measure whether bfloat16 is faster"),
}


def overview() -> str:
    """The text of ``tsslbp --help``."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.about}" for name, command in COMMANDS.items()]
    head = ["usage: tsslbp COMMAND ... | --version", "", "Train deep spiking neural networks by spike timing.", ""]
    tail = ["", "tsslbp COMMAND --help lists the options of a command. Start with: tsslbp train quickstart"]
    return "\n".join([*head, *lines, *tail])
