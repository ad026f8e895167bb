"""NIR graphs in SpikingJelly, snnTorch and Norse, both ways. Faults of theirs are strict expected failures: a mend shows.

``make test-peers`` installs these libraries.
"""

import contextlib
import io
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from graphs import NETWORKS, foreign, full, lif, lively, network_of, samples, spikes, weights
from torch import nn

import tsslbp
from tsslbp import UserError, layers, training
from tsslbp.neuron import LIF

nir = pytest.importorskip("nir", reason="NIR files need the package nir")
nirtorch = pytest.importorskip("nirtorch", reason="simulators read NIR by nirtorch")

from tsslbp.exchange.check import check, driven  # noqa: E402
from tsslbp.exchange.nir import from_nir, read, to_nir  # noqa: E402
from tsslbp.exchange.outgoing import neurons_of_layer  # noqa: E402
from tsslbp.exchange.simulators import SIMULATORS  # noqa: E402

ROOT = Path(__file__).parent.parent
X = torch.rand(20, 30, 7, generator=torch.Generator().manual_seed(5)) * 2


@pytest.fixture(params=["SpikingJelly", "snnTorch", "Norse"])
def simulator(request):
    pytest.importorskip(SIMULATORS[request.param].package)
    return request.param


def fault(name, library):
    """Why a library does not run a network, if it does not."""
    if name in ("recurrent", "recurrent and biased", "two pools", "few bits", "learned") and library == "snnTorch":
        return "it lets the input enter a recurrent layer behind the lateral weights"
    if name == "every neuron its own" and library != "Norse":
        return "it takes one constant for all neurons of a layer"
    if name == "one axis" and library == "Norse":
        return "it has no Conv1d"
    if "residual" in name and library == "Norse":
        return "nirtorch.load runs neurons before the map of a shortcut to them, so they get what that made a step earlier"
    return ""


def differing(net, simulator, x, bias="onset"):
    """Spikes that differ, by layer."""
    graph = to_nir(net, bias)
    theirs, ours = SIMULATORS[simulator].run(graph, driven(graph, x)), spikes(net, x, x.dtype)
    return {name: int((train ^ theirs[neurons_of_layer(name)][..., : train.shape[2]]).sum()) for name, train in ours.items()}


@pytest.mark.xfail(reason="no importer reads the leak of a neuron with a synapse", strict=True)
def test_a_simulator_reads_leaks(simulator):
    net = network_of("biased")
    found = differing(net, simulator, samples(net).double(), "leak")
    assert not any(found.values()), found


@pytest.mark.parametrize("name", NETWORKS)
def test_every_simulator_makes_the_same_spikes(name, simulator, request):
    if why := fault(name, simulator):
        request.applymarker(pytest.mark.xfail(reason=why, strict=True))
    net = network_of(name)
    found = differing(net, simulator, samples(net, 15).double())
    assert not any(found.values()), found


def test_a_simulator_takes_a_time_constant_of_each_neurons_own(simulator, request):
    if simulator == "SpikingJelly":
        request.applymarker(pytest.mark.xfail(reason="it takes one constant for all neurons of a layer", strict=True))
    settings = {"input_shape": (7,), "time_steps": 20, "tau_m": 5, "tau_s": 3, "per_neuron": ("tau_m",), "spread": 0.3}
    net = lively(tsslbp.build("12-10", **settings))
    found = differing(net, simulator, samples(net, 15).double())
    assert not any(found.values()), found


@pytest.mark.parametrize("name", [name for name in NETWORKS if "residual" in name])
def test_norse_makes_the_same_spikes_where_nodes_run_behind_all_their_sources(name, monkeypatch):
    pytest.importorskip("norse")

    def sorted_nodes(start, following):
        order = []

        def visit(node):
            if node not in order and node not in entered:
                entered.append(node)
                for each in following(node):
                    visit(each)
                order.append(node)

        entered = []
        visit(start)
        return order[::-1]

    monkeypatch.setattr("nirtorch.graph_executor.trace_execution", sorted_nodes)
    net = network_of(name)
    found = differing(net, "Norse", samples(net, 15).double())
    assert not any(found.values()), found


def test_a_tie_differs_in_spikingjelly_alone(simulator):
    net = network_of("linear")
    net.layers.linear1.weight.data[:] = 0.0
    net.layers.linear1.weight.data[0, 0] = 2.0
    x = torch.zeros(net.time_steps, 1, 7, dtype=torch.float64)
    x[0, 0, 0] = 1.25  # 2·1.25/τs is the threshold
    assert differing(net, simulator, x)["linear1"] == (2 if simulator == "SpikingJelly" else 0)  # it resets, and we go on


def read_from_its_voltage():
    torch.manual_seed(0)
    return tsslbp.build("12-4", input_shape=(7,), time_steps=7, tau_m=4, tau_s=2, readout="voltage").eval()


@pytest.mark.xfail(reason="no importer has a neuron for CubaLI", strict=True)
def test_a_simulator_reads_an_output_that_is_a_voltage(simulator):
    net = read_from_its_voltage()
    graph, x = to_nir(net), samples(net).double()
    torch.testing.assert_close(SIMULATORS[simulator].run(graph, x)["output_neurons"], net.double()(x))


def test_norse_leaves_out_a_node_that_it_does_not_know():
    pytest.importorskip("norse")
    net = read_from_its_voltage()
    graph, x = to_nir(net), samples(net).double()
    theirs, hidden = SIMULATORS["Norse"].run(graph, x), spikes(net, x, torch.float64)["linear1"]
    current = hidden.double() @ torch.from_numpy(graph.nodes["output_weights"].weight).double().T
    torch.testing.assert_close(theirs["output_neurons"], current)


@pytest.mark.xfail(reason="snnTorch makes its thresholds float32", strict=True, raises=AssertionError)
def test_snntorch_keeps_thresholds_in_float64():
    pytest.importorskip("snntorch")
    from snntorch.import_nir import import_from_nir

    graph = to_nir(tsslbp.build("5", input_shape=(7,), time_steps=7, tau_m=4, tau_s=2, threshold=1.1))
    module = quiet(lambda: import_from_nir(graph)).double()
    assert module.get_submodule("output_neurons").threshold.item() == graph.nodes["output_neurons"].v_threshold[0]


def test_norse_needs_the_step():
    pytest.importorskip("norse")
    from norse.torch import from_nir as by_norse

    net = network_of("linear")
    module, state, made = by_norse(to_nir(net)), None, []  # its own default, 1e-3 s
    with torch.no_grad():
        for x_t in samples(net):
            out, state = module(x_t, state)
            made.append(out > 0)
    assert (torch.stack(made) ^ spikes(net, samples(net), torch.float32)["output"]).any()


def quiet(make):
    """What ``make`` returns, without what it prints."""
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            return make()
    finally:
        logging.disable(logging.NOTSET)


def linear(bias=True, plain=nn.Linear):
    torch.manual_seed(3)
    made = plain(7, 6, bias=bias)
    nn.init.normal_(made.weight, 0.3, 1.0)
    return made


@torch.no_grad()
def spikes_of(run):
    """Spikes of ``run``, which takes an input and a state and returns spikes and a state, step by step."""
    state, made = None, []
    for x_t in X:
        out, state = run(x_t, state)
        made.append(out > 0)
    train = torch.stack(made)
    assert train.any()
    assert not train.all()
    return train


def ours(graph, **more):
    return spikes(from_nir(graph, time_steps=len(X), **more), X, torch.float32)["output"]


@pytest.mark.parametrize("kind", ["LIF, decaying input", "LIF", "IF", "CUBA"])
def test_what_spikingjelly_writes_has_its_spikes(kind):
    neuron = pytest.importorskip("spikingjelly.activation_based.neuron")
    from spikingjelly.activation_based import functional, layer
    from spikingjelly.activation_based.nir_exchange import export_to_nir

    made = {
        "LIF, decaying input": lambda: neuron.LIFNode(tau=3.0, decay_input=True, v_threshold=1.01, v_reset=0.0),
        "LIF": lambda: neuron.LIFNode(tau=3.0, decay_input=False, v_threshold=3.01, v_reset=0.0),
        "IF": lambda: neuron.IFNode(v_threshold=4.01, v_reset=0.0),
        "CUBA": lambda: neuron.CUBALIFNode(c_decay=0.5, v_decay=0.75, v_threshold=3.01, v_reset=0.0),
    }[kind]()
    module = nn.Sequential(linear(kind != "CUBA", layer.Linear), made)
    graph = quiet(lambda: export_to_nir(module, X[0]))
    functional.reset_net(module)
    assert torch.equal(ours(graph), spikes_of(lambda x, state: (module(x), None)))


@pytest.mark.parametrize("kind", ["Leaky", "Synaptic"])
def test_what_snntorch_writes_has_its_spikes(kind):
    snn = pytest.importorskip("snntorch")
    from snntorch.export_nir import export_to_nir

    each = {name: torch.full((6,), value) for name, value in {"alpha": 0.5, "beta": 0.75, "threshold": 3.01}.items()}
    if kind == "Leaky":
        del each["alpha"]
    made = getattr(snn, kind)(**each, reset_mechanism="zero", reset_delay=False, init_hidden=True)
    module = nn.Sequential(linear(kind == "Leaky"), made)
    graph = quiet(lambda: export_to_nir(module, X[0, 0]))
    made.reset_mem()
    assert torch.equal(ours(graph), spikes_of(lambda x, state: (module(x), None)))


@pytest.mark.xfail(reason="snnTorch writes a subtractive reset as a reset to 0", strict=True, raises=pytest.fail.Exception)
def test_a_soft_reset_of_snntorch_is_noticed():
    snn = pytest.importorskip("snntorch")
    from snntorch.export_nir import export_to_nir

    module = nn.Sequential(
        linear(), snn.Leaky(beta=torch.full((6,), 0.75), threshold=torch.ones(6), reset_mechanism="subtract", init_hidden=True)
    )
    graph = quiet(lambda: export_to_nir(module, X[0, 0]))
    with pytest.raises(UserError):
        from_nir(graph)


def test_a_soft_reset_of_spikingjelly_does_not_get_into_a_file():
    neuron = pytest.importorskip("spikingjelly.activation_based.neuron")
    from spikingjelly.activation_based import layer
    from spikingjelly.activation_based.nir_exchange import export_to_nir

    module = nn.Sequential(linear(plain=layer.Linear), neuron.LIFNode(tau=3.0, v_reset=None))
    with pytest.raises(NotImplementedError):
        quiet(lambda: export_to_nir(module, X[0]))


def of_norse():
    from norse.torch import LIFBoxCell, LIFBoxParameters, SequentialState, to_nir

    cell = LIFBoxCell(LIFBoxParameters(tau_mem_inv=torch.tensor(250.0), v_th=torch.tensor(0.801)), dt=1e-3)
    module = SequentialState(linear(), cell)
    return module, quiet(lambda: to_nir(module, X[0, 0]))


def test_what_norse_writes_has_its_spikes_with_the_step_that_the_error_names():
    pytest.importorskip("norse")
    module, graph = of_norse()
    with pytest.raises(UserError, match="--dt 1e-6"):
        from_nir(graph)
    assert torch.equal(ours(graph, dt=1e-6), spikes_of(module))


def test_what_norse_starts_from_is_said():
    pytest.importorskip("norse")
    from norse.torch import LIFBoxCell, LIFBoxParameters, SequentialState, to_nir

    parameters = LIFBoxParameters(tau_mem_inv=torch.tensor(250.0), v_th=torch.tensor(0.801), v_leak=torch.tensor(0.3))
    graph = quiet(lambda: to_nir(SequentialState(linear(), LIFBoxCell(parameters, dt=1e-3)), X[0, 0]))
    assert "that membrane potentials start at 0 (those of Norse start at v_leak)" in read(graph, dt=1e-6).assumed
    assert "v_leak" not in " ".join(read(of_norse()[1], dt=1e-6).assumed)


@pytest.mark.xfail(reason="Norse multiplies time constants by its step when it writes them", strict=True, raises=UserError)
def test_norse_writes_seconds():
    pytest.importorskip("norse")
    from_nir(of_norse()[1], dt=1e-3)


@pytest.mark.xfail(reason="Norse has no average pooling", strict=True)
def test_norse_has_average_pooling():
    norse = pytest.importorskip("norse.torch")
    pool = nir.AvgPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0]))
    graph = foreign(pool, nir.Flatten({"input": np.array([1, 2, 2])}, -3), nir.Linear(weights(5, 4)), lif(), shape=(1, 4, 4))
    norse.from_nir(graph, dt=1e-4)(torch.rand(1, 1, 4, 4))


@pytest.mark.xfail(reason="nir takes every kernel for a square one", strict=True, raises=ValueError)
def test_nir_knows_the_size_behind_an_oblong_kernel():
    conv = nir.Conv2d((4, 4), weights(1, 3).reshape(1, 1, 1, 3), 1, 0, 1, 1, full(1, 0))
    nir.NIRGraph.from_list([conv, lif((1, 4, 2)), nir.Output(np.array([1, 4, 2]))])


@pytest.mark.xfail(reason="nir forgets the groups when it counts channels", strict=True, raises=AssertionError)
def test_nir_knows_what_enters_groups():
    conv = nir.Conv2d((4, 4), weights(2, 9).reshape(2, 1, 3, 3), 1, 0, 1, 2, full(2, 0))
    assert conv.input_type["input"][0] == 2


@pytest.mark.xfail(reason="nirtorch's own Affine keeps the bias it was drawn with", strict=True, raises=AssertionError)
def test_nirtorch_sets_the_bias():
    affine = nir.Affine(weights(5, 7), full(5, 3.0, np.float32))
    module = nirtorch.nir_to_torch(foreign(affine, shape=(7,)), {})
    assert torch.equal(module(torch.zeros(1, 7))[0], torch.full((1, 5), 3.0))


@pytest.mark.xfail(reason="SpikingJelly refuses groups", strict=True, raises=NotImplementedError)
def test_spikingjelly_has_groups():
    exchange = pytest.importorskip("spikingjelly.activation_based.nir_exchange")
    conv = nir.Conv2d((4, 4), weights(2, 9).reshape(2, 1, 3, 3), 1, 0, 1, 2, full(2, 0))
    quiet(lambda: exchange.import_from_nir(foreign(conv, shape=(2, 4, 4))))


def test_groups_are_written_so_that_every_simulator_reads_them(simulator):
    net = network_of("convolutional")
    net.layers.conv2 = layers.Conv2d(4, 6, 3, stride=2, groups=2, dilation=1, padding=(0, 1), neuron=LIF(4.5, 2.5), scale=4.0)
    shape = net.layers.conv2(torch.zeros(1, 1, 4, 8, 7)).shape
    net.layers.output = layers.Linear(6 * (shape[3] // 2) * (shape[4] // 2), 5, neuron=LIF(4.5, 2.5))
    found = differing(net.eval(), simulator, samples(net, 15).double())
    assert not any(found.values()), found


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fashion-mnist-fc-best", "mnist-cnn-best", "fashion-mnist-cnn-best", "spoken-digits"])
def test_the_shipped_models_have_the_same_spikes_everywhere(name, simulator, request):
    if name == "spoken-digits" and simulator == "snnTorch":
        request.applymarker(pytest.mark.xfail(reason=fault("recurrent", simulator), strict=True))
    model = tsslbp.load(ROOT / f"models/{name}.safetensors")
    test = training.samples_to_test(model, None, ROOT / "tests/samples").split
    x = model.inputs(test.x[:100], 0, test.lengths)
    found = check(model.network, to_nir(model), x, {simulator: SIMULATORS[simulator]})
    _, double = found.comparisons
    assert not double.refused
    assert double.total == 0
    assert found.guaranteed[torch.float64] == found.samples
