"""Residual blocks."""

from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple, cast

from torch import Tensor, nn

from tsslbp.layers.base import Joined, Spiking
from tsslbp.layers.called import hooked, in_form, in_order, is_known, refuse_part, takes
from tsslbp.layers.pooling import MaxPool, SumPool2d
from tsslbp.layers.recurrent import Recurrent
from tsslbp.utils.errors import UserError
from tsslbp.utils.signals import Signal

Through = Callable[[str, nn.Module, Any], Signal]
"""How a signal goes through a layer of a block, given the layer's name (:class:`Joined` enters the last one)."""


class Inside(NamedTuple):
    """A place in a residual block."""

    name: str
    """The block's in the network. It tells the places of a block that is there twice apart."""
    block: "Residual"
    last: bool
    """Whether the shortcut reaches this layer's neurons."""


class Residual(nn.Module):
    """Layers one after the other, and a shortcut around them: ``[T, B, ...] -> [T, B, ...]``.

    The block's input is added to the current of its last neurons:

        I[t] = map(a[t]) + shortcut(x[t])

    with ``x`` the post-synaptic current that enters the block and ``a`` that before the last layer. The sum comes before the
    neurons, as in the first residual networks and in tdBN, so the block's output is spikes. (SEW-ResNet adds spikes after the
    neurons, which may make 2 or more; MS-ResNet adds currents and has no neurons between blocks.)

    Sources: K. He et al., CVPR 2016, arXiv 1512.03385; H. Zheng et al., AAAI 2021, arXiv 2011.05280. The other two: W. Fang et
    al., NeurIPS 2021, arXiv 2102.04159; Y. Hu et al., arXiv 2112.08954.

    Args:
        layers: as for :class:`torch.nn.Sequential`, or an ``OrderedDict`` of them by name; the last has neurons.
        shortcut: a layer that is applied to the input without its neurons, such as
            ``Conv2d(channels, out_channels, 1, stride=2, ...)`` where shapes differ. None adds the input unchanged.

    Raises:
        UserError: no layer, a last one without neurons, one named ``shortcut``, or a shortcut that is no such layer
            or recurrent.
    """

    shortcut: Spiking | None

    def __init__(self, *layers: nn.Module | dict[str, nn.Module], shortcut: Spiking | None = None) -> None:
        super().__init__()
        named = layers[0] if len(layers) == 1 and isinstance(layers[0], dict) else {str(i): x for i, x in enumerate(layers)}
        if not named or not isinstance(list(named.values())[-1], Spiking):
            raise UserError("a residual block must end with a layer that has neurons, such as Conv2d or Linear")
        if "shortcut" in named:
            raise UserError("a layer of a residual block is named shortcut; give it as shortcut=, or another name")
        if not isinstance(shortcut, Spiking | None):
            raise UserError(
                f"the shortcut is {type(shortcut).__name__}; it must be a layer such as Conv2d, which is applied without its "
                "neurons, or None, which adds the input unchanged"
            )
        if isinstance(shortcut, Recurrent):
            raise UserError(
                "the shortcut is recurrent; without neurons, lateral weights have no effect: give it a Linear layer"
            )
        for name, layer in named.items():
            self.add_module(name, cast(nn.Module, layer))
        self.shortcut = shortcut

    def named_layers(self) -> Iterator[tuple[str, nn.Module]]:
        """Its layers by name, without the shortcut."""
        return ((name, layer) for name, layer in in_order(self) if name != "shortcut")

    @property
    def last(self) -> Spiking:
        """The layer whose neurons the shortcut reaches."""
        return cast(Spiking, getattr(self, self.last_name))

    @property
    def last_name(self) -> str:
        """Its name."""
        *_, (name, _) = self.named_layers()
        return name

    def unpacked(self, name: str) -> Iterator[tuple[str, nn.Module, "Inside"]]:
        """Its layers by their names in a network that calls the block ``name``."""
        last = self.last_name
        return ((f"{name}.{inner}", layer, Inside(name, self, inner == last)) for inner, layer in self.named_layers())

    def forward(self, signal: Signal, inside: Tensor | None = None, *, through: Through | None = None) -> Tensor:
        """``inside``: see its layers; ``through`` says how a signal goes through a layer of the block, given its name."""

        def plainly(name: str, layer: nn.Module, signal: Signal | Joined) -> Signal:
            if inside is None or not takes(layer, "inside"):
                return cast(Signal, layer(in_form(layer, signal)))
            return cast(Signal, layer(signal, inside=inside))

        if inside is not None:
            refuse_inner(self.named_layers())
        entering, layers = signal, list(self.named_layers())
        for number, (name, layer) in enumerate(layers, 1):
            enters = Joined(signal, entering, self.shortcut) if number == len(layers) else signal
            signal = (through or plainly)(name, layer, enters)
        assert isinstance(signal, Tensor)  # it has gone through neurons
        return signal

    def part(self, signal: Signal, state: dict[str, Any] | None) -> tuple[Tensor, dict[str, Any]]:
        """A part of a sequence: as :meth:`forward`, from a state (None is rest) to a state, by layer name.

        In training a :class:`~tsslbp.layers.Dropout` inside draws a mask for each part.

        Raises UserError if a layer is normalised and in training mode, as that takes the whole sequence, and for layers with
        neurons in a container that knows nothing of parts.
        """
        refuse_part(self, state)
        refuse_inner(self.named_layers())
        if not isinstance(state, dict | None):
            raise UserError(f"the state of a residual block is {type(state).__name__}; it must be what its part() returned")
        before, after = state or {}, dict[str, Any]()

        def partly(name: str, layer: nn.Module, signal: Any) -> Signal:
            if not isinstance(layer, Spiking | MaxPool | Residual):
                return cast(Signal, layer(in_form(layer, signal)))
            psc, after[name] = layer.part(signal, before.get(name))
            return psc

        return cast(Tensor, self(signal, through=partly)), after

    def fold(self) -> None:
        """Fold every layer that can be, the shortcut too; see :meth:`tsslbp.layers.Spiking.fold`."""
        for layer in self.children():
            if isinstance(layer, Spiking | Residual):
                layer.fold()

    def join_biases(self) -> None:
        """Add the shortcut's bias, if it has one, to that of the last layer. Neither may be part of another block."""
        last, shortcut = self.last, self.shortcut
        if shortcut is not None and shortcut.bias is not None:
            bias = shortcut.bias.detach() + (0 if last.bias is None else last.bias.detach())
            last.bias, shortcut.bias = nn.Parameter(bias, shortcut.bias.requires_grad), None


def refuse_inner(layers: Iterable[tuple[str, nn.Module]]) -> None:
    """Raises UserError for layers with neurons in a container, such as ``nn.Sequential``, that hands them neither a state nor
    lengths."""
    for name, layer in layers:
        if isinstance(layer, Spiking | MaxPool | Residual) or next(layer.children(), None) is None:
            continue
        if any(isinstance(inner, Spiking | MaxPool) for inner in layer.modules()):
            raise UserError(
                f"{name!r} holds layers with neurons, and a {type(layer).__name__} hands them neither the state between parts "
                "of a sequence nor lengths; put these layers one by one into the network, or into a Residual"
            )


def pooled_too(layers: Iterable[tuple[str, nn.Module, Inside | None]]) -> dict[str, tuple[str, SumPool2d]]:
    """Pooling with its name, by the name of the neurons before it, that these can do as well. Hooks, own classes and shortcuts
    prevent it."""
    return {
        name: (after, follower)
        for (name, layer, inside), (after, follower, around) in pairwise(layers)
        if isinstance(layer, Spiking)
        and isinstance(follower, SumPool2d)
        and (around is None or (inside is not None and around.name == inside.name))
        and all(is_known(x) and not hooked(x) for x in (layer, follower, *([inside.block] if inside else [])))
    }
