"""Recurrent spiking layers, with optional adaptive thresholds.

The neurons of such a layer also receive their own and each other's output, one step later:

    I[t] = W·x[t] + V·a[t-1]                                                      (1)

with ``a`` the layer's own post-synaptic current. The layer is a loop over steps. Each step is a part of the sequence
(:func:`tsslbp.lif_part`), so a rule hands on what it carries from step to step, and the gradient through V follows from the
ordinary chain rule. This holds for every rule that takes parts. W is applied to all steps at once, before the loop. The loop is
:meth:`Recurrent.step_by_step`, or an engine's, which does the same in one call (``csrc/recurrent.h``).

With adaptation a spike raises its neuron's threshold for as long as the adaptation b takes to decay:

    b[t] = (1 - 1/τa)·b[t-1] + s[t-1],    s[t] = 1 if u[t] > θ + β·b[t] else 0     (2)

Neurons of fixed threshold compute the same with ``v = u - β·b``, and spike when ``v > θ``. Put into
``u[t] = (1 - 1/τm)·u[t-1]·(1 - s[t-1]) + I[t]``, v gives

    v[t] = (1 - 1/τm)·v[t-1]·(1 - s[t-1]) + I'[t]
    I'[t] = I[t] - β·(b[t] - (1 - 1/τm)·b[t-1]·(1 - s[t-1]))                      (3)

so adaptation is a current, and v is the membrane potential that the layer and its rule know. The gradient through it follows
from the chain rule: from (3) to b, by (2) to earlier spikes, from a spike to the current that made it. Only the last factor
of (3), a part of the reset, is held constant, unless the rule's gradient flows ``through_reset``. Under a surrogate gradient
this is backpropagation through time of (1) and (2) with ``∂s/∂u = ψ`` and ``∂s/∂b = -β·ψ``.

Source: G. Bellec, D. Salaj, A. Subramoney, R. Legenstein and W. Maass, NeurIPS 2018, arXiv 1803.09574; (2) as in G. Bellec et
al., Nature Communications 11, 3625 (2020).
"""

import math
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tsslbp.functional import neurons, recurrent, rest
from tsslbp.kernels import Pool
from tsslbp.layers.base import Spiking, draw
from tsslbp.layers.linear import check_sizes, matrix_product
from tsslbp.layers.sparse import SparseMap
from tsslbp.neuron import LIF, plus
from tsslbp.rules.base import Rule
from tsslbp.utils.errors import UserError, as_plain, check_number
from tsslbp.utils.signals import Signal, expanded

LATERAL_GAIN = 0.5
"""Lateral weights start normal with standard deviation LATERAL_GAIN/√n, so their spectral radius is near LATERAL_GAIN."""


@dataclass(frozen=True)
class Adaptation:
    """Constants of an adaptive threshold, equation (2).

    Args:
        tau_a: time constant of the adaptation in steps, at least 1.
        beta: rise β of the threshold by one spike, 0 or more.

    Raises:
        UserError: a constant outside its range, or one that is no plain number.
    """

    tau_a: float
    beta: float

    def __post_init__(self) -> None:
        check_number("tau_a", self.tau_a)
        check_number("beta", self.beta)
        if not self.tau_a >= 1:
            raise UserError(f"tau_a is {self.tau_a}; a time constant is in steps and at least 1")
        if not 0 <= self.beta < math.inf:
            raise UserError(f"beta is {self.beta}; it must be finite and 0 or more")
        for name, value in asdict(self).items():
            object.__setattr__(self, name, as_plain(value))


class Recurrent(Spiking):
    """Fully connected spiking layer with lateral connections, equation (1): ``[T, B, in] -> [T, B, out]``.

    ``weight`` is W, ``[out, in]``, Kaiming normal; ``lateral`` is V, ``[out, out]``, see ``LATERAL_GAIN``, with connections of
    neurons to themselves on its diagonal.

    Args:
        in_features, out_features, neuron, rule, bias: as for :class:`~tsslbp.layers.Linear`.
        normalise: normalise W·x over batch and time.
        adaptation: of the threshold; None keeps it fixed.

    Raises:
        UserError: sizes that are no whole numbers from 1; an unknown rule, or one that takes no parts; an adaptation of another
            type; bias with normalise.
    """

    own_weights = ("weight", "lateral")

    @property
    def state_rows(self) -> int:
        """The neurons' two rows, then a; with adaptation b and s follow.

        The neurons' rows also hold a, but what flows back through them is what the rule carries, not a gradient.
        """
        return 3 if self.adaptation is None else 5

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        neuron: LIF,
        rule: str | Rule | None = None,
        adaptation: Adaptation | None = None,
        bias: bool = False,
        normalise: bool = False,
    ) -> None:
        super().__init__(neuron, rule)
        check_sizes(in_features, out_features)
        if not isinstance(adaptation, Adaptation | None):
            raise UserError(f"adaptation is {adaptation!r}; it must be tsslbp.layers.Adaptation(tau_a, beta), or None")
        if not self.rule.takes_parts:
            raise UserError(f"{self.rule!r} needs the whole sequence at once; recurrent layers need a rule that takes parts")
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.lateral = nn.Parameter(torch.empty(out_features, out_features))
        draw(self.weight, nn.init.kaiming_normal_)
        draw(self.lateral, partial(nn.init.normal_, std=LATERAL_GAIN / math.sqrt(out_features)))
        self.adaptation = adaptation
        self._beside_the_weight(bias, normalise, False, 0.0)

    def map(self, x: Tensor) -> Tensor:
        return matrix_product(self, x)

    def quantise(self, bits: str | int) -> None:
        """As for every layer. W and V share the limits, so that a neuron adds integers of one step size.

        Raises:
            UserError: other bits, or a normalised layer: folding it would change the step size of W and not of V.
        """
        if bits != "float" and self.norm is not None:
            raise UserError(f"bits={bits} do not go with a normalised recurrent layer; leave out its normalisation (n)")
        super().quantise(bits)

    def _to_quantise(self) -> Tensor:
        return torch.cat([self.weight, self.lateral], 1)

    @property
    def adapting(self) -> tuple[float, float] | None:
        """τa and β, None for fixed thresholds."""
        return None if self.adaptation is None else (self.adaptation.tau_a, self.adaptation.beta)

    def effective_lateral(self) -> Tensor:
        """V, rounded if it has few bits, ``[out, out]``."""
        return self._quantised(self.lateral)

    @torch.no_grad()
    def fold(self) -> None:
        if self.folds():
            self._replace("lateral", self.effective_lateral())
        super().fold()

    def sparse_map(self) -> SparseMap:
        return SparseMap()

    def crossed(self, current: Signal, state: Tensor | None, pool: Pool | None, bf16: bool) -> tuple[Tensor, Tensor | None]:
        assert pool is None  # the output is flat
        drive = expanded(current)
        made = recurrent(drive, self.effective_lateral(), state, self.neuron, self.rule, self.backend, self.adapting, bf16)
        return self.step_by_step(drive, state, bf16) if made is None else made

    def step_by_step(self, drive: Tensor, state: Tensor | None, bf16: bool = False) -> tuple[Tensor, Tensor]:
        """Output and state from the neurons' input ``[T, B, out]``, by the equations: the reference for engines."""
        kind = drive.device.type
        if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):  # the lateral product stays as it is
            with torch.autocast(kind, enabled=False):
                return self.step_by_step(drive, state, bf16)
        drive = drive.to(torch.promote_types(drive.dtype, torch.float32))
        if state is None:
            state = rest(drive, self.state_rows)
        carried, a, *adapting = state.split([2, *[1] * (len(state) - 2)])
        neuron, lateral, made = self.neuron, self.effective_lateral(), []
        for step in drive.split(1):
            heard = a if self.rule.through_lateral else a.detach()
            current = step + F.linear(heard, lateral)  # (1)
            if self.adaptation is not None:
                current, adapting[0] = self._adapt(self.adaptation, neuron, current, *adapting)
            psc, after = neurons(current, neuron, self.rule, self.backend, state=carried)
            assert after is not None
            if self.adaptation is not None:  # spikes_from_psc, of one step
                adapting[1] = plus(neuron.tau_s * psc, a, 1 - neuron.tau_s)
            carried, a = after, psc
            made.append(psc)
        psc = torch.cat(made)
        return psc.bfloat16() if bf16 else psc, torch.cat([carried, a, *adapting])

    def _adapt(self, adaptation: Adaptation, neuron: LIF, current: Tensor, b: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """I' by (3) and b by (2), from the current and the last step's b and s."""
        silent: Tensor | int = 1
        if neuron.reset:
            silent = 1 - (s if getattr(self.rule, "through_reset", False) else s.detach())
        after = torch.add(s, b, alpha=1 - 1 / adaptation.tau_a)
        rise = plus(after, b * silent, -neuron.membrane_decay)
        return torch.sub(current, rise, alpha=adaptation.beta), after

    def _constants(self) -> dict[str, Any]:
        return super()._constants() | {"tau_a": None, "beta": None} | (asdict(self.adaptation) if self.adaptation else {})

    def extra_repr(self) -> str:
        adapting = "" if self.adaptation is None else f", {self.adaptation}"
        return f"{self.weight.shape[1]}, {self.weight.shape[0]}{adapting}{self._extras()}"
