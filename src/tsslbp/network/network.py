"""Spiking networks: layers one after the other, over a whole sequence or part by part."""

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from tsslbp import rules
from tsslbp.kernels import Pool, computed_in
from tsslbp.layers import Dropout, Inside, MaxPool, Readout, Residual, Spiking, Vote, check_stored, in_bf16, quantisation
from tsslbp.layers.called import called_alone, in_form, in_order, in_order_alone, is_known, normalises, refuse_part, takes
from tsslbp.layers.noted import check_rule, check_same
from tsslbp.layers.residual import pooled_too, refuse_inner
from tsslbp.layers.state_dicts import StoresLayerConstants, together
from tsslbp.network import ann, model_file
from tsslbp.network import infer as events
from tsslbp.network import train as as_one
from tsslbp.network.architecture import PAPER, Architecture, make_layers, vary_constants
from tsslbp.network.blocks import in_blocks
from tsslbp.network.lower import lower
from tsslbp.network.notation import folded, parse, written
from tsslbp.network.state import State
from tsslbp.neuron import CONSTANTS, LIF, spikes_from_psc, synapse
from tsslbp.utils import imports, prng
from tsslbp.utils.errors import UserError, check_text, check_whole, unknown
from tsslbp.utils.fields import kinds_of, plain
from tsslbp.utils.signals import Signal, are_static, before_end, check_lengths, check_samples, constant_current, within

Stateful = Spiking | MaxPool
"""Layers with a state, which is handed from part to part of a sequence."""
Cross = Callable[[str, Any, Any, Pool | None, bool], Tensor]
"""How a signal crosses a layer of neurons or max pooling, given its name, the layer, the signal (:class:`Joined` at the end of
a residual block), pooling to do as well, and whether to return bfloat16 (:func:`tsslbp.functional.neurons`)."""
OF_LAYERS = dict.fromkeys(("reset", *CONSTANTS), "neuron") | {"sparse": "by_changes", "bits": "quantise()", "dropout": "p"}
OF_LAYERS |= {name: name for name in ("rule", "backend", "by_changes")}
"""What only layers have, and what to set there."""
UNUSED = ("reset", "tau_a", "beta", *CONSTANTS)
"""Constants of layers without effect in an ANN."""


def entering(x: Tensor, steps: int | None, tau_s: float, state: State) -> tuple[Signal, Tensor | None, Tensor | None]:
    """A network's input after its synapse, and ``synapse`` and ``sample`` of the state after it.

    Args:
        x: a sequence ``[t, B, ...]``, or a static sample ``[B, ...]`` for ``steps`` steps.
        steps: None for a sequence.
        tau_s: of the synapse.
        state: that before.
    """
    if steps is not None and state.goes_on(x, True):
        return constant_current(x, steps, tau_s, state.steps), None, x.clone() if state.sample is None else state.sample
    before = state.synapse
    if state.sample is not None:
        before = constant_current(state.sample, 1, tau_s, state.steps - 1).expand()[0]
    psc = synapse(x if steps is None else x.expand(steps, *x.shape), tau_s, before)
    return psc, psc[-1], None


def build(notation: str, *, input_shape: tuple[int, ...] | None = None, **settings: Any) -> "Network":
    """A spiking network from its notation, or one of the paper's networks by name.

    Args:
        notation: such as ``"15C5-P2-40C5-P2-300-10"`` (:mod:`tsslbp.network.notation`), or a key of ``PAPER`` such as
            ``"mnist-cnn"``, whose settings are then the defaults of the others.
        input_shape: shape of one sample at one step, ``(C, H, W)`` or ``(features,)``. Required with a notation.
        settings: those of :class:`~tsslbp.network.NetworkSettings`, which describes them: ``time_steps``, ``tau_m`` and
            ``tau_s``, in steps and required with a notation; ``threshold``, ``reset``, ``padding``, ``rule`` (a name or a
            :class:`~tsslbp.rules.Rule`), ``dropout``, ``conv_init``, ``conv_scale``, ``standardise``, ``tau_a``, ``beta``,
            ``readout`` and ``neuron``; ``bits``, which may be a number; ``learn``, ``per_neuron`` and ``spread``. None means
            the default, and a single name stands for a tuple of one.

    Returns:
        A :class:`Network`: ``net(x)`` with ``x`` ``[B, *input_shape]`` or ``[T, B, *input_shape]`` gives ``[T, B, classes]``.
        With ``neuron="binary"`` or ``"relu"`` it is an ANN with the same initial weights (``ann.py``): one pass over the
        sample, or over a sequence's mean, whose output is logits ``[1, B, classes]``.

    Raises:
        UserError: notation or shapes that do not fit, with the layer named; an unknown name or setting; a missing one.
    """
    given = {name: value for name, value in {"input_shape": input_shape, **settings}.items() if value is not None}
    check_text("notation", notation)
    for name in given:
        if name not in (known := kinds_of(Architecture).keys() - {"network"}):
            raise unknown("setting", name, known)
        if isinstance(given[name], Tensor):
            raise UserError(f"{name} is a tensor; give a number here, and tensors to a layer: layer.neuron = LIF(...)")
    given = {name: plain(tuple(value) if isinstance(value, list) else value) for name, value in given.items()}
    one = {name: (given[name],) for name in ("padding", "learn", "per_neuron") if isinstance(given.get(name), int | str)}
    given |= one | ({"bits": str(bits)} if isinstance(bits := given.get("bits"), int) else {})
    if notation in PAPER:
        return Network(replace(PAPER[notation], **given))
    if re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)+", notation) and re.search("[a-z]{2}", notation):
        raise unknown("network", notation, PAPER)
    if missing := [name for name in ("input_shape", "time_steps", "tau_m", "tau_s") if name not in given]:
        raise UserError(f"build({notation!r}) also needs {', '.join(missing)}")
    return Network(Architecture(network=notation, **given))


class Network(StoresLayerConstants):
    """A spiking network; made by :func:`build`.

    ``net(x)`` takes static samples ``[B, *input_shape]``, which enter as a constant current, or sequences
    ``[T, B, *input_shape]``, time first, and returns the output's post-synaptic current (or the voltage, if that is read),
    ``[T, B, classes]``. Both kinds of input go through the input synapse, so ``net(x)`` equals ``net(x repeated T times)``.
    :meth:`part` takes a part of a sequence.

    Dropout masks follow from keys, one for each sample, ``[B]`` of int64: ``net(x, keys=keys)``. Without keys, they are drawn
    from PyTorch's global generator. ``net(x, lengths=lengths)`` says how many steps each sequence has, ``[B]`` of int64, before
    its padding, which must be finite. Normalised layers in training depend on it, and so do gradients under
    ``eventprop``.
    """

    described_as = "network"
    time_block: int = 0
    """Steps in a block of time; 0 turns blocks off. Training keeps only the state between blocks and computes each block again
    for its gradient. This costs one more forward pass; with √T steps in a block, memory grows with √T instead of T."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        quantisation.check(architecture.bits)
        self.architecture = architecture = quantisation.with_small_leaks(architecture)
        self.time_steps = architecture.time_steps
        self.neuron = LIF(architecture.tau_m, architecture.tau_s, architecture.threshold, architecture.reset)
        layers, self.largest = make_layers(architecture, self.neuron)
        self.layers = nn.Sequential(layers)
        vary_constants(architecture, self.neuron, self.named_layers())
        if architecture.standardise and all(getattr(layer, "gain", None) is None for _, layer in self.named_layers()):
            raise UserError("standardise wants a feed-forward hidden layer; this network has none that is not normalised")
        for layer in self.modules():
            if isinstance(layer, Spiking):
                layer.quantise(architecture.bits)

    def __setattr__(self, name: str, value: Any) -> None:
        of_ones_own = hasattr(type(self), name) or isinstance(value, nn.Module)
        if (name in OF_LAYERS and not of_ones_own) or (name == "neuron" and name in vars(self)):
            how = f"set layer.{OF_LAYERS.get(name, name)} of each layer in net.modules() that has one"
            raise UserError(f"a network has no {name} of its own; {how}")
        super().__setattr__(name, value)

    def constants(self) -> dict[str, nn.Parameter]:
        """The constants that are learned, by name: ``layers.linear1.tau_m``. All other parameters are weights."""
        return {name: x for name, x in self.named_parameters() if name.rpartition(".")[2] in CONSTANTS}

    def named_layers(self) -> Iterator[tuple[str, nn.Module]]:
        """Every layer with its name, those of residual blocks as ``block1.conv2``; shortcuts are left out."""
        return ((name, layer) for name, layer, _ in self.unpacked())

    def unpacked(self) -> Iterator[tuple[str, nn.Module, Inside | None]]:
        """Every layer with its name and its place in a residual block, if it is in one."""
        for name, layer in in_order(self.layers):
            if isinstance(layer, Residual):
                yield from layer.unpacked(name)
            else:
                yield name, layer, None

    def describe(self) -> str:
        """The network in a line: notation, rule, constants and number of weights."""
        a, weights = self.architecture, sum(weight.numel() for weight in self.parameters())
        rule = a.rule if isinstance(a.rule, str) else type(a.rule).__name__
        learned = f", learns {' '.join(a.learn)}" if a.learn else ""
        constants = f"tau_m={a.tau_m:g}, tau_s={a.tau_s:g}" + (f", threshold={a.threshold:g}" if a.threshold != 1 else "")
        how = f"rule={rule}, {constants}{learned}, {a.time_steps} step{'s' * (a.time_steps > 1)}"
        how += ", read from the output's voltage" if a.readout == "voltage" else ""
        return f"{a.network!r}, {how if self.is_spiking else a.neuron}, {weights:,} weights"

    extra_repr = describe

    def __str__(self) -> str:
        """The network in a line, then its program as a table; its modules as PyTorch prints them if it has no program."""
        try:
            return f"{self.describe()}\n\n{lower(self)}"
        except UserError:
            return repr(self)

    def is_static(self, x: Tensor) -> bool:
        """Whether network input is static samples, ``[B, ...]``, not sequences, ``[T, B, ...]``."""
        return are_static(x, self.architecture.input_shape)

    def encode(self, x: Tensor) -> Signal:
        """Input of the first layer: the post-synaptic current of ``x``; in an ANN ``x`` or its mean over time, one step.

        Raises UserError for a shape that does not fit.
        """
        self._check(x)
        x = quantisation.entering(x, self.architecture.bits)
        if not self.is_spiking:
            return (x if self.is_static(x) else x.mean(0)).unsqueeze(0)
        if self.is_static(x):
            return constant_current(x, self.time_steps, self.neuron.tau_s)
        return synapse(x, self.neuron.tau_s)

    @property
    def is_spiking(self) -> bool:
        """Whether the neurons spike; if not, the network is an ANN (``ann.py``)."""
        return self.architecture.neuron == "spiking"

    @property
    def spikes_last(self) -> bool:
        """Whether the output layer, which may have been exchanged, spikes; of a class of one's own, the settings say it."""
        output, said = getattr(self.layers, "output", None), self.architecture.spikes_last
        return self.is_spiking and not isinstance(output, Readout) if isinstance(output, Spiking) else said

    def fold(self) -> None:
        """Turn normalisation and standardised weights into plain weights and biases: :meth:`tsslbp.layers.Spiking.fold`."""
        for layer in self.modules():
            if isinstance(layer, Spiking):
                layer.folds()  # refuses those that cannot be, before any is changed
        for layer in self.layers:
            if isinstance(layer, Spiking | Residual):
                layer.fold()
            if isinstance(layer, Residual):
                layer.join_biases()  # the notation has one for the neurons
        notation = written(folded(parse(self.architecture.network)))
        self.architecture = replace(self.architecture, network=notation, standardise=False)

    def _constants(self) -> dict[str, Any]:
        """Constants that the weights were learned with and that are not stored beside them; of an ANN those it uses."""
        found = {"the input": {"tau_s": self.neuron.tau_s}, **self.of_layers()}
        unused = () if self.is_spiking else UNUSED
        return together({name: {key: own[key] for key in own if key not in unused} for name, own in found.items()})

    def check_as_noted(self) -> None:
        """Raises UserError if its layers or constants are not what notation and settings say."""
        for layer in self.modules():
            getattr(layer, "neuron", None)  # brings learned constants back into their range
        check_same(self, lambda: Network(self.architecture))

    def save(self, path: str | Path) -> None:
        """Write the network with its constants, T, rule and weights; :func:`tsslbp.load` gives it back.

        As with every model file, normalisation and standardised weights come back folded. Hooks are not kept.

        Args:
            path: the file; an existing one is replaced whole or not at all.

        Raises:
            UserError: a rule that has no name, weights that are not float32 or not finite, constants out of range, layers or
                constants that are not what notation and settings say, a file that cannot be written.
        """
        self.check_as_noted()
        rule = check_rule(self, rules.get(self.architecture.rule))
        weights = self.state_dict()
        model_file.check(weights)
        check_stored(weights)
        needed = imports.defining(*rule.code())
        about = {"architecture": self.architecture.to_json(), **({"imports": needed} if needed else {})}
        model_file.write(Path(path), about, weights)

    def vote(self, output: Tensor) -> Tensor:
        """Output for each class from the output layer's neurons, ``[..., neurons] -> [..., classes]``."""
        last = self.layers[-1]
        return last(output) if isinstance(last, Vote) else output

    def evidence(self, output: Tensor, lengths: Tensor | None = None) -> Tensor:
        """What answers are decoded from, up to ``lengths`` ``[B]``: the currents of an output that spikes, else class
        probabilities, ``[1, B, classes]``."""
        output = within(output, lengths)
        return output if self.spikes_last else output.sum(0, keepdim=True).softmax(-1)

    def walk(
        self, signal: Signal, cross: Cross | None = None, keys: Tensor | None = None, fused: bool = False
    ) -> Iterator[tuple[str, nn.Module, Signal]]:
        """Every layer in order, with its name and the signal after it; those of a residual block follow when it is finished.

        Args:
            signal: input of the first layer (:meth:`encode`).
            cross: how the signal crosses a spiking layer, to look inside or to change it; by default, it calls the layer.
            keys: as in the network's own call.
            fused: for speed, ``cross`` also does the pooling that comes next and may return bfloat16, as its arguments say.
        """
        cross, pools = cross or self._cross, pooled_too(self.unpacked()) if fused else {}
        pooled = {name for name, _ in pools.values()}
        bf16 = in_bf16(self.named_layers(), signal) if fused else ()
        after: list[tuple[str, nn.Module, Signal]] = []

        def through(name: str, layer: nn.Module, signal: Any) -> Signal:
            if isinstance(layer, Spiking):
                pool = pools[name][1].pool if name in pools else None
                signal = cross(name, layer, signal, pool, name in bf16)
            elif isinstance(layer, MaxPool):
                signal = cross(name, layer, signal, None, False)
            elif name not in pooled:
                signal = layer(signal, keys) if isinstance(layer, Dropout) else layer(in_form(layer, signal))
            after.append((name, layer, signal))
            return cast(Signal, signal)

        for name, layer in in_order_alone(self.layers):
            if isinstance(layer, Residual):
                signal = layer(signal, through=lambda inner, *rest, block=name: through(f"{block}.{inner}", *rest))
            else:
                signal = through(name, layer, signal)
            yield from after
            after.clear()

    def _cross(
        self, name: str, layer: Stateful, signal: Any, pool: Pool | None, bf16: bool, inside: Tensor | None = None
    ) -> Tensor:
        if isinstance(layer, MaxPool):
            return cast(Tensor, layer(signal))
        if self.is_spiking:
            if is_known(layer):
                return layer(signal, pool, bf16, inside)
            return layer(signal) if inside is None or not takes(layer, "inside") else layer(signal, inside=inside)
        current = cast(Tensor, called_alone(layer, signal))  # as an ANN's signal is one
        a = self.architecture
        return current.to(computed_in(current.dtype)) if name == "output" else ann.units(current, a.neuron, a.threshold)

    def _run(self, signal: Signal, cross: Cross | None, keys: Tensor | None) -> Tensor:
        for _, _, after in self.walk(signal, cross, keys, fused=self.is_spiking):
            signal = after
        return cast(Tensor, signal)  # it has gone through neurons

    def forward(self, x: Tensor, *, keys: Tensor | None = None, lengths: Tensor | None = None) -> Tensor:
        if type(self) is Network:
            self._check(x)
        inside = self._inside(x, lengths)
        if self.is_spiking and self.time_block and torch.is_grad_enabled():
            self._check(x)
            if inside is not None and any(isinstance(x, Spiking) and x.rule.depends_on_padding for x in self.modules()):
                raise UserError("lengths matter to this rule, which then needs whole sequences; set time_block to 0")
            state = State(keys=self._keys(x) if keys is None else keys)
            return in_blocks(self.layers, self.part, x, self.is_static(x), self.time_steps, self.time_block, state)
        if type(self) is Network:
            psc = None if self.training else events.whole(self, quantisation.entering(x, self.architecture.bits))
            if psc is not None or (psc := as_one.output(self, x, keys, padded=inside is not None)) is not None:
                return psc
        return self._run(self.encode(x), inside, self._keys(x) if keys is None else keys)

    def _inside(self, x: Tensor, lengths: Tensor | None) -> Cross | None:
        """How a signal crosses layers that know where sequences end; None if no layer needs to."""
        if lengths is None or not self.is_spiking:
            return None
        check_lengths(lengths, x, self.is_static(x))
        if not (self.training or normalises(self) or torch.is_grad_enabled()):
            return None
        refuse_inner(self.named_layers())
        return partial(self._cross, inside=before_end(lengths, len(x)))

    def _keys(self, x: Tensor) -> Tensor | None:
        """New keys for the samples, if they are needed."""
        drops = any(isinstance(layer, Dropout) and layer.drops for layer in self.modules())
        return prng.fresh(x.shape[0 if self.is_static(x) else 1], x.device) if drops else None

    def part(self, x: Tensor, state: State | None = None, steps: int = 1) -> tuple[Tensor, State]:
        """Some steps of a sequence, from the state before them to the state after them.

        Taken in parts, a sequence has the outputs and the gradients of the whole. No gradient flows through a detached state.
        Dropout has the same masks in all parts: the first draws keys, unless ``State(keys=...)`` gives them.

        Args:
            x: ``[t, B, *input_shape]``, or ``[B, *input_shape]`` for ``steps`` more steps of a constant current. Another sample
                or a sequence may follow.
            state: the state that the call on the part before returned; None is rest.
            steps: t of a static sample; not used for a sequence.

        Returns:
            The output's post-synaptic current, ``[t, B, classes]``, and the state.

        Raises:
            UserError: a shape or state that does not fit, fewer than one step, a rule that takes no parts, layers with neurons
                in a container that knows nothing of parts, an ANN, normalised layers in training mode.
        """
        if not self.is_spiking:
            raise UserError(f"a network of {self.architecture.neuron} units is one pass; it takes no parts of a sequence")
        refuse_part(self, state := State.of(state))
        if getattr(self.encode, "__func__", None) is not Network.encode:
            raise UserError(f"{type(self).__name__} has its own encode, which parts do not call; give it a part of its own")
        self._check(x, any_length=True)
        x = quantisation.entering(x, self.architecture.bits)
        static = self.is_static(x)
        if static:
            check_whole("steps", steps)
        steps = steps if static else x.shape[0]
        state.check(x, static, {name for name, layer in self.named_layers() if isinstance(layer, Stateful)})
        if type(self) is Network and (made := events.part(self, x, state, steps)) is not None:
            return made
        signal, *entered = entering(x, steps if static else None, self.neuron.tau_s, state)
        keys = self._keys(x) if state.keys is None else state.keys
        layers: dict[str, Tensor] = {}
        refuse_inner(self.named_layers())

        def cross(name: str, layer: Stateful, signal: Any, pool: Pool | None, bf16: bool) -> Tensor:
            before, form = state.layers.get(name), (pool, bf16) if isinstance(layer, Spiking) and is_known(layer) else ()
            psc, layers[name] = layer.part(signal, before, *form)
            return psc

        return self._run(signal, cross, keys), State(state.steps + steps, entered[0], layers, keys, sample=entered[1])

    def _check(self, x: Tensor, any_length: bool = False) -> None:
        check_samples(x, self.architecture.input_shape, None if any_length else self.time_steps)

    def activity(self, x: Tensor, *, keys: Tensor | None = None, lengths: Tensor | None = None) -> dict[str, Tensor]:
        """Post-synaptic currents of every spiking layer by name, ``[T, B, ...]`` each, the output last.

        A layer inside a module of another class is left out. For an ANN, the outputs of its units, ``[1, B, ...]``, and the
        logits. ``keys`` and ``lengths``: see the network's call.
        """
        walk = self.walk(self.encode(x), self._inside(x, lengths), keys=self._keys(x) if keys is None else keys)
        return {name: cast(Tensor, signal) for name, layer, signal in walk if isinstance(layer, Spiking)}

    def neuron_of(self, name: str = "output") -> LIF:
        """Constants of a layer's neurons, by its name in :meth:`named_layers`."""
        return cast(Spiking, self._layer(name, Spiking)).neuron

    def _layer(self, name: str, *kinds: type) -> nn.Module:
        with suppress(AttributeError):
            if isinstance(layer := self.layers.get_submodule(name), kinds):
                return layer
        raise unknown("layer", str(name), [own for own, layer in self.named_layers() if isinstance(layer, kinds)])

    def trains(self, currents: dict[str, Tensor]) -> dict[str, Tensor]:
        """Spikes of every layer that spikes, of bool, from its currents by name (:meth:`activity`)."""
        return {name: self.fired(x, name) for name, x in currents.items() if name != "output" or self.spikes_last}

    @torch.no_grad()  # constants may be learned, and currents of inference mode cannot be saved for their gradients
    def fired(self, psc: Tensor, name: str = "output") -> Tensor:
        """Where there are spikes, of bool, from the currents ``[T, B, ...]`` of the layer (or max pooling) of this name."""
        layer = cast(Stateful, self._layer(name, Spiking, MaxPool))
        tau_s = (layer if isinstance(layer, MaxPool) else layer.neuron).tau_s
        return spikes_from_psc(psc, tau_s.to(psc.device) if isinstance(tau_s, Tensor) else tau_s) > 0.5
