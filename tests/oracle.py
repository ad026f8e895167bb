"""The neuron and its learning rules once more, written from the equations alone; nothing here is shared with the package.

TSSL is scalar arithmetic on plain Python floats, one neuron at a time, nothing carried that the equations state as a sum:
the error through the synapse is a sum over the kernel, the reach of the membrane is a power of its decay. Slow on purpose.
Surrogate gradients are PyTorch's own differentiation of the neuron, unrolled in time.
"""

import math

import torch


def potentials(current, tau_m, threshold):
    """Membrane potential and spikes of one neuron from its input current, step by step."""
    u, s = [], []
    for t, i in enumerate(current):
        kept = (1 - 1 / tau_m) * u[t - 1] * (1 - s[t - 1]) if t else 0.0
        u.append(i + kept)
        s.append(1 if u[t] > threshold else 0)
    return u, s


def kernel(k, tau_s):
    """The synapse's impulse response after k steps."""
    return (1 - 1 / tau_s) ** k / tau_s


def postsynaptic(train, tau_s):
    """Post-synaptic current: every earlier spike weighted by the kernel."""
    return [math.fsum(kernel(t - j, tau_s) * train[j] for j in range(t + 1)) for t in range(len(train))]


def weights_after_spike(steps, tau_s, psc_derivative):
    """What a unit of ``-∂t_spike/∂u`` does to the current k steps after the spike, k = 0..steps-1."""
    if psc_derivative == "amplitude":
        return [kernel(k, tau_s) for k in range(steps)]
    return [1 / tau_s if k == 0 else -kernel(k, tau_s) / tau_s for k in range(steps)]


def logistic_slope(u, threshold, width=0.2, limit=8.0):
    """Derivative of a logistic of the potential, the argument held within the limit."""
    x = max(-limit, min(limit, (u - threshold) / width))
    return 1 / ((1 + math.exp(-x)) * (1 + math.exp(x))) / width


def tssl(
    current,
    psc_gradient,
    *,
    tau_m,
    tau_s,
    threshold,
    psc_derivative="amplitude",
    inter=True,
    reset=True,
    leak=True,
    fallback="quiet",
    clip=8.0,
    error_reset=False,
    mean_firing=None,
):
    """Gradient by the input current of one neuron. ``mean_firing`` is the whole layer's, for ``fallback="rate"``."""
    steps = len(current)
    u, s = potentials(current, tau_m, threshold)
    a = postsynaptic(s, tau_s)

    def reset_error(t):
        """The error at the next spike, which the reset at step t moves; nothing if there is none."""
        following = [n for n in range(t + 1, steps) if s[n]]
        if not error_reset or not s[t] or not following:
            return 0.0
        return u[t] / tau_m * psc_gradient[following[0]] * (1 - 1 / tau_m) ** (following[0] - t - 1)

    def pulled_back(t, weights):
        return math.fsum(w * (psc_gradient[t + k] + reset_error(t + k)) for k, w in enumerate(weights[: steps - t]))

    by_amplitude = weights_after_spike(steps, tau_s, "amplitude")
    by_choice = weights_after_spike(steps, tau_s, psc_derivative)

    def earlier_by(t):
        """How much earlier the spike of step t comes for a unit of potential."""
        slope = u[t] - (u[t - 1] * (1 - s[t - 1]) if t else 0.0)
        return min(1 / slope, clip) if s[t] and slope > 0 else 0.0

    at_spike = {}  # gradient of each spike, filled from the last one

    def reach(t):
        """Gradient of the next spike, seen over the silent steps between; nothing if there is none."""
        following = [n for n in range(t + 1, steps) if s[n]]
        return at_spike[following[0]] * (1 - 1 / tau_m) ** (following[0] - t - 1) if following else 0.0

    delta = [0.0] * steps
    for t in range(steps - 1, -1, -1):
        g = earlier_by(t) * pulled_back(t, by_choice) if inter else 0.0
        if reset:
            g += reach(t) * u[t] * (1 / tau_m) * earlier_by(t)
        if leak:
            g += reach(t) * (1 - 1 / tau_m) * (1 - s[t])
        if s[t]:
            at_spike[t] = g
        stand_in = pulled_back(t, by_amplitude) * logistic_slope(u[t], threshold)
        replaced = {"always": True, "never": False, "no-spike": False}
        replaced["rate"] = fallback == "rate" and mean_firing <= 0.1
        replaced["quiet"] = a[t] < 1 / (4 * tau_s)
        if replaced[fallback]:
            delta[t] = stand_in
        elif fallback == "no-spike" and not s[t]:
            silent_leak = reach(t) * (1 - 1 / tau_m) if leak else 0.0
            delta[t] = stand_in + silent_leak
        else:
            delta[t] = g
    return delta


def layer(current, psc_gradient, *, tau_m, tau_s, threshold, fallback="quiet", **options):
    """``tssl`` for a layer: rows are steps, columns are neurons, as nested lists."""
    columns = list(zip(*current, strict=True))
    fired = [s for column in columns for s in potentials(column, tau_m, threshold)[1]]
    constants = {"tau_m": tau_m, "tau_s": tau_s, "threshold": threshold}
    per_neuron = [
        tssl(column, error, **constants, fallback=fallback, mean_firing=sum(fired) / len(fired), **options)
        for column, error in zip(columns, zip(*psc_gradient, strict=True), strict=True)
    ]
    return [list(row) for row in zip(*per_neuron, strict=True)]


# What each ψ is the derivative of: f(x) = ∫ψ.
PRIMITIVES = {
    "fast_sigmoid": lambda x: x / (1 + x.abs()),
    "sigmoid": lambda x: 4 * torch.sigmoid(x),
    "atan": lambda x: (2 / math.pi) * torch.atan(math.pi / 2 * x),
    "triangular": lambda x: torch.where(x.abs() < 1, x - x * x.abs() / 2, torch.sign(x) / 2),
    "rectangular": lambda x: x.clamp(-0.5, 0.5),
    "gaussian": lambda x: math.sqrt(math.pi / 2) * torch.erf(x / math.sqrt(2)),
    "exponential": lambda x: torch.sign(x) * (1 - torch.exp(-x.abs())),
}


def psi(name, slope, scale, distance):
    """ψ by automatic differentiation of its primitive, as a function of u - θ."""
    distance = distance.detach().clone().requires_grad_()
    with torch.enable_grad():
        return torch.autograd.grad((scale / slope * PRIMITIVES[name](slope * distance)).sum(), distance)[0]


class Step(torch.autograd.Function):
    """A step whose derivative is ψ."""

    @staticmethod
    def forward(ctx, distance, rule):
        ctx.save_for_backward(distance)
        ctx.rule = rule
        return (distance > 0).to(distance.dtype)

    @staticmethod
    def backward(ctx, grad):
        rule, (distance,) = ctx.rule, ctx.saved_tensors
        return grad * psi(rule.name, rule.slope, rule.scale, distance), None


def unrolled(current, rule, tau_m, tau_s, threshold):
    """The neuron as PyTorch operations, one step after the other, for autograd to go through."""
    u = s = a = torch.zeros_like(current[0])
    steps = []
    for current_t in current:
        held = 1 - s if rule.through_reset else 1 - s.detach()
        u = (1 - 1 / tau_m) * u * held + current_t
        s = Step.apply(u - threshold, rule)
        a = (1 - 1 / tau_s) * a + s / tau_s
        steps.append(a)
    return torch.stack(steps)
