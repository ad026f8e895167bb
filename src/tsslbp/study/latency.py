"""How soon a trained network gives the answer, and how many spikes it takes until then."""

from typing import Any

import torch

from tsslbp.metrics import NO_ANSWER
from tsslbp.metrics.decoding import answers_so_far
from tsslbp.report import charts
from tsslbp.report.page import Result, Section
from tsslbp.study.base import of_runs
from tsslbp.study.runs import Run, about, check_runs
from tsslbp.utils.errors import UserError


def latency(run: Run) -> dict[str, Any]:
    """Answers after every time step, and with exact early exit, on the test set.

    Returns:
        ``accuracy`` in percent, ``no_answer`` (the share of samples without one) and ``spikes`` (of the whole network, per
        sample, so far), for the answer after each of the T steps; and under ``exit`` the same for :meth:`Model.decide`, with
        the mean number of ``steps`` and ``taken``, the share of samples by their number of steps.

    Raises:
        UserError: an ANN, or an output that does not spike; sequences of different lengths; target trains.
    """
    check_runs(run)
    run.need_spikes("latency")
    samples, network = run.test, run.model.network
    if samples.trains:
        raise UserError(f"latency is for classes; the targets of {run.model.data} are spike trains")
    if samples.padded and not run.model.inputs.filters:
        raise UserError(f"latency is for sequences of one length; those of {run.model.data} differ in length")

    decided, steps = run.model.decide(samples)
    spent, answers = [], []
    with run.model.evaluating(samples) as batches:
        for _, x in batches:
            currents = network.activity(x)
            trains = [network.fired(psc, name) for name, psc in currents.items()]
            spent.append(torch.stack([train.flatten(2).sum(2) for train in trains]).sum(0).cumsum(0))
            *_, last = currents.values()
            answers.append(answers_so_far(network.vote(last)))
    spikes, answer = torch.cat(spent, 1), torch.cat(answers, 1)  # [T, N] each
    spent_by_then = spikes.gather(0, (steps - 1).unsqueeze(0))[0]
    return about("latency", run.name, run.settings) | {
        "samples": len(samples),
        "time_steps": network.time_steps,
        "accuracy": (answer == samples.y).double().mean(1).mul(100).tolist(),
        "no_answer": (answer == NO_ANSWER).double().mean(1).tolist(),
        "spikes": spikes.double().mean(1).tolist(),
        "exit": {
            "accuracy": 100 * float((decided == samples.y).double().mean()),
            "steps": float(steps.double().mean()),
            "spikes": float(spent_by_then.double().mean()),
            "taken": (torch.bincount(steps, minlength=network.time_steps + 1)[1:].double() / len(samples)).tolist(),
        },
    }


def section(result: Result) -> Section:
    steps, leave = list(range(1, len(result["accuracy"]) + 1)), result["exit"]
    accuracy, spikes = result["accuracy"], result["spikes"]
    saved = 100 * (1 - leave["spikes"] / spikes[-1]) if spikes[-1] else 0.0
    right = "right answers, %"
    curves = {"answer so far": charts.Line(spikes, accuracy), "early exit": charts.Line([leave["spikes"]], [leave["accuracy"]])}
    by_step = charts.lines("latency-accuracy", {"answer so far": charts.Line(steps, accuracy)}, "time step", right, whole=True)
    by_spikes = charts.lines("latency-spikes", curves, "spikes per sample", right)
    taken = {"samples": charts.Line(steps, [100 * share for share in leave["taken"]])}
    when = charts.lines("latency-taken", taken, "steps until decided", "samples, %", whole=True)
    by_head = (steps, accuracy, result["no_answer"], spikes, leave["taken"])
    return Section(
        "How soon is the answer known?",
        f"With exact early exit, a sample is decided after {leave['steps']:.2f} of {len(steps)} steps on average. This saves "
        f"{saved:.1f} % of the spikes, and the accuracy is {leave['accuracy']:.2f} %.",
        [
            (by_step, "Accuracy of the answer after each step."),
            (by_spikes, "Accuracy by the number of spikes that the whole network has emitted so far."),
            (when, "When early exit stops. It stops as soon as no later step can change the answer."),
        ],
        ["after step", "right, %", "no answer, %", "spikes per sample", "stop here, %"],
        [
            [str(step), f"{good:.2f}", f"{100 * none:.1f}", f"{spent:,.1f}", f"{100 * stopped:.1f}"]
            for step, good, none, spent, stopped in zip(*by_head, strict=True)
        ],
        [f"{result['samples']} test samples. Spikes reach the next layer within the same step."],
    )


STUDY = of_runs("RUNS: accuracy after each step, early exit, spikes spent", latency, section, place=2)
