"""How soon a trained network knows the answer, and how many spikes it has spent by then."""

from typing import Any

import torch

from tsslbp.errors import UserError
from tsslbp.metrics import NO_ANSWER, decode
from tsslbp.study.runs import Run, about


def latency(run: Run) -> dict[str, Any]:
    """Answers after every time step, and with exact early exit, on the test set.

    Returns:
        ``accuracy`` in percent, ``no_answer`` (the share of samples without one) and ``spikes`` (of the whole network, per
        sample, so far), for the answer that would be given after each of the T steps; and under ``exit`` the same for
        :meth:`Model.decide`, with ``steps`` taken on average and ``taken``, the share of samples by their number of steps.

    Raises:
        UserError: an ANN; sequences of different lengths, or target trains, which have no time of decision.
    """
    run.need_spikes("latency")
    samples, network = run.test, run.model.network
    if samples.y.dim() == 3:
        raise UserError(f"latency is for classes; the targets of {run.model.data} are spike trains")
    if samples.lengths is not None:
        raise UserError(f"latency is for sequences of one length; those of {run.model.data} differ in length")

    spent, answers = [], []
    with run.model.evaluating(samples) as batches:
        for _, x in batches:
            currents = network.activity(x)
            trains = [network.fired(psc) for psc in currents.values()]
            spent.append(torch.stack([train.flatten(2).sum(2) for train in trains]).sum(0).cumsum(0))
            *_, last = currents.values()
            output = network.vote(last)
            answers.append(torch.stack([decode(output[:step]) for step in range(1, len(output) + 1)]))
    spikes, answer = torch.cat(spent, 1), torch.cat(answers, 1)  # [T, N] each
    decided, steps = run.model.decide(samples.x)
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
