"""Networks as C: the whole numbers bit for bit, floats but for rounding, and files that are whole or not there."""

import math
import platform
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from shared import run

import tsslbp
from tsslbp import UserError, cli, data, layers, training
from tsslbp.data import Facts, Normalisation, Split
from tsslbp.data.filters import Filters
from tsslbp.exchange import c, compiled
from tsslbp.exchange import integer as integers
from tsslbp.exchange.chain import chain
from tsslbp.exchange.integer import whole_input
from tsslbp.exchange.literals import escaped, numbers
from tsslbp.exchange.program import Program
from tsslbp.layers.quantisation import INPUT_LARGEST
from tsslbp.metrics import decode
from tsslbp.training.inputs import Inputs
from tsslbp.utils import files

ROOT = Path(__file__).parent.parent
needs_compiler = pytest.mark.skipif(not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="there is no C compiler")
SANITIZED = ("-O0", "-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all")
CPU = Path("/proc/cpuinfo")
FUSED = ("-O2", "-ffp-contract=fast", *(["-mfma"] if CPU.is_file() and " fma " in CPU.read_text() else []))
STRICTER = ("-Wconversion", "-Wshadow", "-Wdouble-promotion")
STEPS = 6
CASES = {
    "fully connected": ("40-30-10", (1, 12, 12), {}),
    "padded, pooled": ("6C3-P2-9C3b-20-10", (2, 11, 10), {"padding": 1, "conv_scale": 4.0}),
    "average pooling": ("6C3-A3-20b-10", (1, 11, 13), {"conv_scale": 4.0}),
    "max pooling": ("6C3-M2-P2-8-4", (1, 15, 13), {"conv_scale": 4.0}),
    "strides": ("6C5s2-8C3s2-7", (1, 17, 19), {"padding": 2, "conv_scale": 4.0}),
    "one axis": ("6C3-P2-8C3-M2-5", (3, 30), {"padding": 1, "conv_scale": 4.0}),
    "recurrent": ("30R-20R-4", (9,), {"rule": "surrogate"}),
    "votes": ("20-12-V3", (9,), {}),
    "thresholds of their own": ("20-15-5", (9,), {"learn": ("threshold",), "per_neuron": ("threshold",), "spread": 0.5}),
    "normalised": ("6C3n-P2-12n-10", (2, 11, 10), {"conv_scale": 4.0}),
    "no leak, no synapse": ("20-15-5", (9,), {"tau_m": math.inf, "tau_s": 1.0}),
    "residual blocks": ("6C3-[6C3-6C3]-P2-[8C3s2b-8C3b]-9", (2, 11, 10), {"padding": 1, "conv_scale": 4.0}),
    "a residual block of the input": ("[4C3-6C3]-A2-[6C3-6C3]-12-[12-12]-5", (2, 9, 8), {"padding": 1, "conv_scale": 4.0}),
    "residual, pooled inside": ("6C3-M2-[6C3-A2-6C3]-[30-20]-5", (1, 16, 16), {"padding": 1, "conv_scale": 4.0}),
    "adaptive thresholds": ("30A-20A-4", (9,), {"rule": "surrogate", "tau_a": 20.0, "beta": 0.3}),
    "thresholds that stay raised": ("30A-4", (9,), {"rule": "surrogate", "tau_a": math.inf, "beta": 0.3}),
    "pooled input": ("P2-6C3-8-4", (2, 11, 13), {"conv_scale": 4.0}),
    "long memory": ("20-15-5", (9,), {"tau_m": 50.0, "tau_s": 20.0, "threshold": 0.3}),
}


def network(notation, shape, seed=0, bits="float", **settings):
    """A network whose neurons spike in all layers."""
    torch.manual_seed(seed)
    settings = {"tau_m": 5, "tau_s": 3, **settings}
    net = tsslbp.build(notation, input_shape=shape, time_steps=STEPS, bits=bits, **settings)
    for _ in range(3):
        net(2 * torch.randn(9, *shape))  # running statistics
    net.eval()
    net.fold()
    with torch.no_grad():
        for name, layer in net.named_layers():
            for _ in range(40):
                rates = {at: float(net.fired(psc).float().mean()) for at, psc in net.activity(torch.randn(20, *shape)).items()}
                if not isinstance(layer, layers.Spiking) or rates[name] > 0.05:
                    break
                for weight in (layer.weight, layer.limit, layer.bias):
                    if weight is not None:
                        weight.mul_(1.3)
    return net


def model(net, sequence=False, byte=False):
    """A model of a network, for random samples, and some of those."""
    shape, norm = net.architecture.input_shape, Normalisation(1.0, (0.2,), (0.7,))
    if byte:
        norm = Normalisation(255, (0.1307,), (0.3081,)) if not sequence else Normalisation(1.0, (0.0,), (1.0,))
    shape = (12, STEPS, *shape) if sequence else (12, *shape)
    x = torch.randn(shape) + 0.2
    if byte:
        x = (torch.rand(shape) < 0.3).byte() if sequence else (torch.rand(shape) < 0.5) * torch.randint(256, shape)
        x = x.byte()
    samples = Split(x, torch.arange(12) % len(names(net)))
    dataset = data.Dataset("made", samples, samples, samples, names(net), norm, sequence=sequence)
    inputs = Inputs("constant", norm, STEPS, sequence)
    return training.Model(net, inputs, names(net), "made", Facts.of(dataset)), samples


def filtered(channels, steps=40, bin=1, bits="float", norm=None, waves=False):
    """A model behind the filters of series, and some of those, which end where they like."""
    norm = norm or Normalisation(2.0, (0.1,), (0.5,))
    inputs = Inputs("constant", norm, -(-steps // bin), True, bin=bin, stored_steps=steps)
    series, lengths = torch.randn(30, steps, channels).cumsum(1), torch.randint(1, steps + 1, (30,))
    lengths[:5] = steps
    if waves:  # whose sums are 0 but for rounding, and near many thresholds
        angles = math.pi / torch.tensor([4.0, 8.0, 16.0], dtype=torch.float64)[:channels] * torch.arange(steps).unsqueeze(1)
        series = (torch.arange(1, 31).view(30, 1, 1) * angles.sin()).float()
    filters = Filters.fitted(inputs.series(series, lengths), inputs.lengths(lengths), 1000)  # two or more of each
    of, _ = model(network("12-6-V2" if channels == 1 else "12-5", (filters.size,), bits=bits))
    of = replace(of, inputs=replace(inputs, time_steps=STEPS, filters=filters))
    return of, Split(series, torch.zeros(30, dtype=torch.int64), lengths)


def names(net):
    return tuple(map(str, range(net(torch.zeros(1, *net.architecture.input_shape)).shape[-1])))


def spikes_of(net, x):
    return {name: net.fired(psc) for name, psc in net.activity(x).items()}


@pytest.mark.parametrize("bits", ["8", pytest.param("2", marks=pytest.mark.slow)])
@pytest.mark.parametrize("case", CASES)
def test_whole_numbers_do_what_the_network_does(case, bits):
    notation, shape, settings = CASES[case]
    net = network(notation, shape, bits=bits, **settings)
    x = torch.randn(STEPS, 16, *shape).clamp(-30, 30)
    whole = integers.integer(chain(net), -INPUT_LARGEST, INPUT_LARGEST, STEPS)
    found = list(whole.steps(whole_input(x)))
    differing = total = 0
    for name, wanted in spikes_of(net, x).items():
        for t, response in enumerate(found):
            differing += int((response.spikes[name].bool() != wanted[t].reshape(response.spikes[name].shape)).sum())
        total += int(wanted.sum())
    assert total > 50
    assert differing <= 0.01 * total, "states have bits behind the point, so only what is near a threshold may differ"
    *_, static = whole.steps(whole_input(x[0]), STEPS)
    *_, repeated = whole.steps(whole_input(x[:1].expand(STEPS, *x.shape[1:])))
    assert all(torch.equal(static.spikes[name], repeated.spikes[name]) for name in static.spikes)


@pytest.mark.parametrize(("tau_m", "tau_s", "taken"), [(50, 20, True), (64, 32, True), (100, 50, False), (200, 100, False)])
def test_whole_numbers_that_would_not_come_to_rest_are_refused(tau_m, tau_s, taken, monkeypatch):
    """Half a unit that every rounding loses adds up to the product of both time constants, and may lie above a threshold."""
    net = network("64", (100,), bits="8", tau_m=tau_m, tau_s=tau_s)
    x = torch.zeros(600, 16, 100)
    x[:100] = torch.randn(100, 16, 100)
    if not taken:
        with pytest.raises(UserError, match=r"needs more than 32 bits, as its smallest threshold .* shorter time constants"):
            integers.integer(chain(net), -INPUT_LARGEST, INPUT_LARGEST, 600)
        monkeypatch.setattr(integers, "CLEAR", 0)
    found = list(integers.integer(chain(net), -INPUT_LARGEST, INPUT_LARGEST, 600).steps(whole_input(x)))
    longer = type(net)(replace(net.architecture, time_steps=600)).eval()
    longer.load_state_dict(net.state_dict())
    wanted = spikes_of(longer, x)["output"]
    made = torch.stack([response.spikes["output"].flatten(1).bool() for response in found])
    differ, late = int((made != wanted).sum()), int((made & ~wanted)[300:].sum())
    assert (differ < 0.05 * wanted.sum(), late == 0) == (taken, taken)


@pytest.mark.parametrize("inputs", [9, 200, 2312])
def test_a_shortcut_is_near_its_trained_weights_or_refused(inputs):
    net = network("[16-8]-4", (inputs,), bits="8")
    try:
        whole = integers.integer(chain(net), -INPUT_LARGEST, INPUT_LARGEST, STEPS)
    except UserError as error:
        assert "has a shortcut of too large sums for 32 bits; put a layer before its block" in str(error)  # noqa: PT017
        assert inputs > 9
        return
    assert inputs < 2312
    (own,) = [population for population in whole.populations if population.shortcut is not None]
    around, by = own.plain.shortcut, own.plain.map
    ratio = around.step / by.step * 2.0**own.shift / 64
    assert np.abs(own.shortcut.m / 2.0**own.shortcut.k / ratio - 1).max() <= 0.02


def test_whole_numbers_by_hand():
    net = tsslbp.build("1", input_shape=(1,), time_steps=4, tau_m=4, tau_s=2, bits=8)
    with torch.no_grad():
        net.layers.output.limit.fill_(1.27)  # a step of 0.01
        net.layers.output.weight.fill_(0.5)
    whole = integers.integer(chain(net), -INPUT_LARGEST, INPUT_LARGEST, 4)
    (population,) = whole.populations
    unit = 2.0**population.shift
    assert population.weight.item() == 50
    assert population.threshold.item() == pytest.approx(2 / 0.01 * 64 * unit)
    # x = 1: J = 3200, 4800, 5600, 6000 (times 2^shift) and u = 3200, 7200, 11000, 14250 against 12800
    found = list(whole.steps(torch.full((1, 1), 64), 4))
    assert [int(step.spikes["output"].sum()) for step in found] == [0, 0, 0, 1]
    assert int(found[-1].evidence.sum()) == 4096


def test_the_largest_shift_leaves_no_number_out_of_32_bits():
    net = network("40-30-10", (1, 12, 12), bits="8")
    for low, high in ((-INPUT_LARGEST, INPUT_LARGEST), (0, 64)):
        whole = integers.integer(chain(net), low, high, STEPS)
        population = whole.populations[0]
        most = int(np.abs(population.weight.astype(np.int64)).sum((1, 2, 3)).max()) * high
        current = membrane = 0
        for _ in range(200):  # the worst input for ever, and no spike
            current = current - ((current * whole.synapse.j + (1 << whole.synapse.k >> 1)) >> whole.synapse.k)
            current += integers._scaled(torch.tensor(most), population.shift).item()
            membrane = membrane - ((membrane * whole.membrane.j + (1 << whole.membrane.k >> 1)) >> whole.membrane.k) + current
            assert max(current * whole.synapse.j, membrane * whole.membrane.j) < 2**31 - 2**whole.membrane.k
        assert membrane * whole.membrane.j > 2**28 or population.shift == integers.FINEST


@needs_compiler
@pytest.mark.parametrize(
    ("case", "sequence", "byte"),
    [("padded, pooled", True, True), ("max pooling", False, False), ("recurrent", True, True), ("recurrent", False, True)],
)
def test_c_computes_what_python_does(case, sequence, byte, tmp_path):
    for bits in ("8", "float"):
        compare(case, bits, sequence, byte, tmp_path / bits, ("-O1",))


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("byte", [False, True])
@pytest.mark.parametrize("sequence", [False, True])
@pytest.mark.parametrize("bits", ["8", "2", "float"])
@pytest.mark.parametrize("case", CASES)
def test_c_computes_what_python_does_and_steps_out_of_nothing(case, bits, sequence, byte, tmp_path):
    compare(case, bits, sequence, byte, tmp_path, SANITIZED)


def compare(case, bits, sequence, byte, folder, options):
    notation, shape, settings = CASES[case]
    of, samples = model(network(notation, shape, bits=bits, **settings), sequence, byte)
    differ(of, samples, bits, folder, options)


def differ(of, samples, bits, folder, options):
    """Write, compile and compare a model."""
    program = Program.of(of)
    assert (program.whole is None) == (bits == "float")
    said = c.write(program, folder / "c", folder)
    state = int(re.search(r"([\d,]+) of state", said)[1].replace(",", ""))
    size = f"sizeof(network_state) == {state} ? 1 : -1"
    (folder / "c/size.c").write_text(f'#include "network.h"\ntypedef char state_has_its_size[{size}];\n')
    built = compiled.compiled(folder / "c", folder / "test", (*options, str(folder / "c/size.c")))
    found = compiled.compare(built, program, samples)
    assert found.spikes > 20
    if bits == "float":
        assert found.differing <= 0.01 * found.spikes
    else:
        assert (found.differing, found.answers) == (0, 0)
    done = subprocess.run([built], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done
    assert done.stdout.startswith("0 of 10 samples differ")


@needs_compiler
@pytest.mark.parametrize("bits", ["8", "float"])
def test_stricter_warnings_find_nothing(bits, tmp_path):
    """No conversion loses a sign, no name hides another, and no processor without ``double`` computes in it unasked."""
    compare("max pooling", bits, True, True, tmp_path, STRICTER)


@needs_compiler
@pytest.mark.parametrize(
    ("notation", "times", "bias"), [("20b-4", 0, 0.5), ("20b-4", 1e-6, 0.0), ("20Ab-4", 1e-6, 0.0), ("20-[20b]-4", 0, 0.5)]
)
def test_a_neuron_that_hears_next_to_nothing_costs_the_others_no_bits(notation, times, bias, tmp_path):
    net = network(notation, (9,), bits="8")
    before = [population.shift for population in integers.integer(chain(net), 0, 64, STEPS).populations]
    layer = next(layer for layer in net.modules() if getattr(layer, "bias", None) is not None)
    with torch.no_grad():
        for weight in layer.parameters():
            weight[3] *= times
        layer.bias[3] = bias
    layer.quantise("8")
    of, samples = model(net, sequence=True)
    program = Program.of(of)
    c.write(program, tmp_path / "c", tmp_path)
    found = compiled.compare(compiled.compiled(tmp_path / "c", tmp_path / "test", SANITIZED), program, samples)
    assert found.spikes > 20
    assert (found.differing, found.answers) == (0, 0)
    after = [population.shift for population in integers.integer(chain(net), 0, 64, STEPS).populations]
    assert all(now >= then for now, then in zip(after, before, strict=True))


@needs_compiler
@pytest.mark.parametrize("bits", ["ternary", "3"])
def test_the_fewest_bits_compile_without_a_warning(bits, tmp_path):
    for sequence in (False, True):
        compare("fully connected", bits, sequence, False, tmp_path / str(sequence), SANITIZED)


@needs_compiler
@pytest.mark.parametrize("bits", ["8", "float"])
def test_c_ends_where_a_sequence_does(bits, tmp_path):
    """A bias goes on making spikes in the padding."""
    of, samples = model(network("20b-10b", (9,), bits=bits), sequence=True)
    samples = replace(samples, lengths=1 + torch.arange(12) % STEPS)
    program = Program.of(of)
    spikes, evidence = program.response(samples)
    if bits == "float":
        torch.testing.assert_close(evidence.float(), of.outputs(samples.x, samples.lengths).sum(0))
    assert not spikes["output"][1:, 0].any()
    c.write(program, tmp_path / "c", tmp_path)
    found = compiled.compare(compiled.compiled(tmp_path / "c", tmp_path / "test", ("-O1",)), program, samples)
    assert found.spikes > 20
    assert (found.differing, found.answers) == (0, 0)


@needs_compiler
def test_neurons_that_fill_up_rows_never_overflow(tmp_path):
    """They hear the bias of a neuron, and reset as it does."""
    net = network("4b", (3,), bits="8", tau_m=math.inf)
    with torch.no_grad():
        net.layers.output.bias.fill_(0.5)
    of, _ = model(net, sequence=True)
    c.write(Program.of(of), tmp_path / "c", tmp_path)
    test = (tmp_path / "c/test.c").read_text()
    begin = test.index("int main(")
    endless = (
        "int main(void)\n{\n    network_reset(&state);\n    for (long t = 0; t < 3000000; ++t)\n        network_step(&state);\n"
    )
    unused = "    return compare == 0 || measure == 0 || answer_all == 0;\n}\n"
    (tmp_path / "c/test.c").write_text(test[:begin] + endless + unused)
    built = compiled.compiled(tmp_path / "c", tmp_path / "test", (*SANITIZED, "-O1", "-Wno-address"))
    assert subprocess.run([built], capture_output=True, check=False).returncode == 0


FAULTS = {
    "current[i] = synapse(current[i]) +": "current[i] =",
    "potential[spiked[i]] = 0;": "",
    "        --count;": "        break;",
    "n->output[i] = synapse(n->output[i]);": "",
    "(x + (1 << (k - 1))) >> k": "(x >> k) - 1",
    "row = divided(row, m->summed.rows);": "",
    "add(w->sums, w->from, w->waiting,": "add(w->sums, w->from, w->waiting - 1,",
    "row != w->row || column != w->column": "row != w->row",
    "return size == 2 ? x / 2": "return size == 2 ? x",
    "const int skip = m->kernel.columns - 1 -": "const int skip = 0 * m->kernel.columns + 0 *",
    "times[4] = {x[0], x[i],": "times[4] = {x[0], x[0],",
    "x[0] + x[i] <= ENOUGH": "1",
    "OFFSET * w->in_all": "OFFSET * w->in_small",
    "if (w->in_small + all <= ENOUGH)": "if (all <= ENOUGH)",
    "any |= x[i];": "any = 0 * x[i];",
    "any |= sums[i];": "any |= 0 * sums[i];",
    "widen(n, m);": "",
    "widen(n, p->map);": "(void)by;",
}
TWICE = ("current[i] = synapse(current[i]) +",)
"""There are two of it, for sums of 16 and of 32 bits."""


def crowd():
    """A network in which more spikes arrive at a neuron in a step than their weights have room for in 16 bits."""
    net = network("16C3-4C5-10", (1, 9, 9), bits="8")
    with torch.no_grad():
        for layer in (net.layers.conv1, net.layers.conv2):
            layer.limit.fill_(1.27)
            layer.weight.fill_(1.27)
    return net


@needs_compiler
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_c_is_found(fault, tmp_path):
    if any(name in fault for name in ("times[4]", "ENOUGH", "OFFSET", "any")):  # only a fully connected map of an image has it
        net = network("40-30-10", (1, 12, 12), bits="8")
    elif "--count" in fault:  # without which neurons that are there to fill up spike too, from a bias
        net = network("20b-10", (1, 12, 12), bits="8")
        torch.nn.init.constant_(net.layers.linear1.bias, 2)
    elif "widen" in fault:
        net = crowd()
    else:
        net = network("6C3-P2-19-10", (2, 11, 10), bits="8", padding=1, conv_scale=4.0)
    of, samples = model(net, byte=True)
    if "w->in_small" in fault:  # without which many small numbers leave 16 bits
        samples = replace(samples, x=samples.x // 4)
    program = Program.of(of)
    c.write(program, tmp_path / "c", tmp_path)
    source = (tmp_path / "c/network.c").read_text()
    assert source.count(fault) == 1 + (fault in TWICE)
    (tmp_path / "c/network.c").write_text(source.replace(fault, FAULTS[fault]))
    plain = "-fno-sanitize=all"  # some compilers have their programs stop where they leave an array
    built = compiled.compiled(tmp_path / "c", tmp_path / "test", ("-Wno-unused-function", plain))
    found = compiled.compare(built, program, samples)
    assert found.differing + found.answers > 0
    assert subprocess.run([built], capture_output=True, check=False).returncode == 1


@needs_compiler
def test_whole_numbers_that_differ_are_an_error(tmp_path):
    of, samples = model(network("20-10", (7,), bits="8"))
    program = Program.of(of)
    c.write(program, tmp_path / "c", tmp_path)
    source = (tmp_path / "c/network.c").read_text()
    (tmp_path / "c/network.c").write_text(source.replace("potential[spiked[i]] = 0;", "potential[spiked[i]] /= 2;"))
    with pytest.raises(UserError, match=r"differ from Python; whole numbers must not, so do not use .*/c, and report it"):
        list(compiled.check(tmp_path / "c", program, samples))


@needs_compiler
def test_a_crowd_of_spikes_stays_within_16_bits(tmp_path):
    of, samples = model(crowd(), byte=True)
    program = Program.of(of)
    assert program.response(samples)[0]["conv1"].sum((2, 3, 4)).max() > 2 * 32767 / 127
    c.write(program, tmp_path / "c", tmp_path)
    found = compiled.compare(compiled.compiled(tmp_path / "c", tmp_path / "test", SANITIZED), program, samples)
    assert (found.differing, found.answers) == (0, 0)


@needs_compiler
def test_compilers_that_shift_zeros_into_negative_numbers_compute_the_same(tmp_path):
    of, samples = model(network("6C3-P2-19-10", (2, 11, 10), bits="8", padding=1, conv_scale=4.0), byte=True)
    program = Program.of(of)
    c.write(program, tmp_path / "c", tmp_path)
    source, condition = (tmp_path / "c/network.c").read_text(), "(-2 >> 1) == -1"
    assert condition in source
    (tmp_path / "c/network.c").write_text(source.replace(condition, "0"))
    found = compiled.compare(compiled.compiled(tmp_path / "c", tmp_path / "test", SANITIZED), program, samples)
    assert (found.differing, found.answers) == (0, 0)


@needs_compiler
def test_silence_does_not_lead_to_numbers_that_take_long(tmp_path):
    of, samples = model(network("12A-4", (7,), rule="surrogate", tau_a=20.0, beta=0.3), sequence=True)
    c.write(Program.of(of), tmp_path / "c", tmp_path)
    x = ", ".join(f"{value:.6f}f" for value in samples.x[0, 0].tolist())
    (tmp_path / "c/test.c").write_text(
        f"""#include "network.h"
#include <stdio.h>
static const network_input x[NETWORK_INPUTS] = {{{x}}}, none[NETWORK_INPUTS];
"""
        """static network_state a;
int main(void) {
    network_reset(&a);
    for (int t = 0; t < 3000; ++t) {
        network_show(&a, t < 10 ? x : none);
        network_step(&a);
    }
    for (size_t i = 0; i < sizeof a.current / sizeof a.current[0]; ++i)
        printf("%g %g ", a.current[i], a.membrane[i]);
    for (size_t i = 0; i < sizeof a.raised / sizeof a.raised[0]; ++i)
        printf("%g ", a.raised[i]);
    return a.total[0] == 0 && a.total[1] == 0 && a.total[2] == 0 && a.total[3] == 0;
}
"""
    )
    done = subprocess.run([compiled.compiled(tmp_path / "c", tmp_path / "test")], capture_output=True, text=True, check=True)
    assert all(value == 0 or abs(value) > 1.2e-38 for value in map(float, done.stdout.split()))


@needs_compiler
def test_a_wide_and_bright_image_stays_within_32_bits(tmp_path):
    net = network("2", (1, 300, 300), bits="8")
    with torch.no_grad():
        signs = torch.randint(-1, 2, net.layers.output.weight.shape)
        net.layers.output.weight.copy_(net.layers.output.limit[:, None] / 127 * signs)
    of, samples = model(net, byte=True)
    program = Program.of(of)
    samples = replace(samples.select(torch.arange(1)), x=torch.full((1, 1, 300, 300), 255, dtype=torch.uint8))
    brightness = whole_input(of.inputs(samples.x)) - whole_input(of.inputs(0 * samples.x))
    assert int(brightness.sum()) * 128 > 2**31
    c.write(program, tmp_path / "c", tmp_path)
    built = compiled.compiled(tmp_path / "c", tmp_path / "test", SANITIZED)
    found = compiled.compare(built, program, samples)
    assert (found.differing, found.answers) == (0, 0)


@needs_compiler
def test_a_stream_of_events_is_the_sequence_step_by_step(tmp_path):
    of, samples = model(network("12R-4", (7,), bits="4", rule="surrogate", threshold=0.3), sequence=True, byte=True)
    program = Program.of(of)
    c.write(program, tmp_path / "c", tmp_path)
    x = samples.x[0].tolist()
    events = ", ".join(f"{{{', '.join(map(str, step))}}}" for step in x)
    (tmp_path / "c/test.c").write_text(
        f"""#include "network.h"
#include <stdio.h>
static const int x[][NETWORK_INPUTS] = {{{events}}};
"""
        """static network_state a;
int main(void) {
    network_reset(&a);
    for (size_t t = 0; t < NETWORK_STEPS; ++t) {
        for (size_t i = 0; i < NETWORK_INPUTS; ++i)
            if (x[t][i])
                network_event(&a, i);
        network_step(&a);
        printf("%d ", network_answer(&a));
    }
    for (size_t i = 0; i < NETWORK_CLASSES; ++i)
        printf("%ld ", (long)network_evidence(&a, i));
    for (size_t i = 0; i < NETWORK_CLASSES; ++i)
        a.total[i] = INT32_MAX; /* a stream may be long */
    for (long t = 0; t < 10000; ++t) {
        network_event(&a, t % NETWORK_INPUTS);
        network_step(&a);
    }
    int64_t most = 0;
    for (size_t i = 0; i < NETWORK_CLASSES; ++i)
        most = network_evidence(&a, i) > most ? network_evidence(&a, i) : most;
    return most <= INT32_MAX;
}
"""
    )
    built = compiled.compiled(tmp_path / "c", tmp_path / "test", (*SANITIZED, "-O1"))
    printed = list(map(int, subprocess.run([built], capture_output=True, text=True, check=True).stdout.split()))
    steps = list(program.whole.steps(whole_input(of.inputs(samples.x[:1]))))
    assert printed == [*(int(decode(step.evidence[None])) for step in steps), *steps[-1].evidence[0].tolist()]
    assert sum(printed[STEPS:]) > 0


def test_it_is_told_how_spikes_come_of_what_is_measured(tmp_path):
    of, _ = model(network("8-4", (6,)), sequence=True)
    delta = {"delta": 0.5, "normalisation": Normalisation(2.0, (0.25, 0.5, 0.75), (0.5, 0.5, 0.25))}
    ways = {
        "for changes of δ = 0.5. Of each channel, v is raw·1 -0.5, raw·1": delta,
        "Each input spikes once, in step round((1 - i)·(T - 1)), halves to even": {"encoding": "latency", "sequence": False},
        "of 3 measured ones, the last of those that are left; take it first. Use": {"bin": 3, "stored_steps": 3 * STEPS},
        "the energies of 6 mel bands in 0.04 s of sound, with 8,000 samples in a second": {"rate": 8000},
    }
    for number, (said, way) in enumerate(ways.items()):
        c.write(Program.of(replace(of, inputs=replace(of.inputs, **way))), tmp_path / str(number), tmp_path)
        assert said in (tmp_path / str(number) / "README.md").read_text()


def test_it_is_told_when_an_event_enters_and_how_often(tmp_path):
    recorded, _ = model(network("8A-4", (7,), bits="8", rule="surrogate", tau_a=math.inf), sequence=True, byte=True)
    counted = replace(recorded, facts=replace(recorded.facts, high=(3.0,)))
    latency = replace(recorded.inputs, encoding="latency", sequence=False)
    once, often = "once for each input that has events in this step", "for every event of this step"
    cases = {
        "recorded": (recorded, once, 31),
        "counted": (counted, often, 31),
        "coded": (replace(recorded, inputs=latency), once, 1),
    }
    for name, (of, when, most) in cases.items():
        c.write(Program.of(of), tmp_path / name, tmp_path)
        header, page = ((tmp_path / name / file).read_text() for file in ("network.h", "README.md"))
        assert f"given its number: {when}. More than {most} in a step may leave 32 bits. */" in header
        assert f"network_event(&state, input);          /* {when}; or" in page
        assert f"nothing can overflow within {STEPS} steps with at most {most} events of an input in a step" in page
        assert f"a stream: reset it after {STEPS} steps at most" in page


@needs_compiler
@pytest.mark.parametrize(("coded", "least", "most", "cut"), [(False, -32768, 32767, INPUT_LARGEST), (True, 255, 255, 1)])
def test_input_that_is_too_large_is_cut(coded, least, most, cut, tmp_path):
    of, _ = model(network("20-4", (9,), bits="8"), sequence=True)
    latency = replace(of.inputs, encoding="latency", sequence=False)
    program = Program.of(replace(of, inputs=latency) if coded else of)
    c.write(program, tmp_path / "c", tmp_path)
    (tmp_path / "c/test.c").write_text(
        f"""#include "network.h"
#include <stdio.h>
static const network_input large[] = {{{least}, {most}, {most}}}, cut[] = {{{cut if coded else -cut}, {cut}, {cut}}};
"""
        """static network_state a;
static network_input x[NETWORK_STEPS * NETWORK_INPUTS];
static void print(const network_input *three) {
    for (size_t i = 0; i < sizeof x / sizeof x[0]; ++i)
        x[i] = three[i % 3];
    printf("%d", network_run(&a, x, NETWORK_STEPS));
    for (size_t i = 0; i < NETWORK_CLASSES; ++i)
        printf(" %ld", (long)network_evidence(&a, i));
    printf("\\n");
}
int main(void) { print(large); print(cut); return 0; }
"""
    )
    built = compiled.compiled(tmp_path / "c", tmp_path / "test", SANITIZED)
    large, within = subprocess.run([built], capture_output=True, text=True, check=True).stdout.splitlines()
    assert large == within


def test_an_event_is_one_in_c(tmp_path):
    of, _ = model(network("7-4", (5,)), sequence=True, byte=True)
    halved = replace(of, inputs=replace(of.inputs, normalisation=Normalisation(1.0, (0.0,), (2.0,))))
    for each, takes_events in ((of, True), (halved, False)):
        c.write(Program.of(each), tmp_path / str(takes_events), tmp_path)
        assert ("network_event" in (tmp_path / str(takes_events) / "README.md").read_text()) == takes_events


def test_renaming_a_program_leaves_its_classes():
    assert escaped("network_down é") == r"network\137down \303\251"


@needs_compiler
def test_numbers_as_measured_are_prepared_in_c(tmp_path):
    net = network("7-4", (5,), bits="8")
    of, _ = model(net, sequence=True)
    norm = Normalisation(2.0, (0.1, 0.2, -0.3, 0.0, 50662.3), (0.5, 1.0, 0.01, 3.0, 6.1))  # the last as of air pressure in Pa
    of = replace(of, inputs=replace(of.inputs, normalisation=norm))
    program = Program.of(of)
    c.write(program, tmp_path / "c", tmp_path)
    raw = [-3.0, -0.51, 0.0, 0.2, 0.77, 100.0, *(101300.0 + i / 8 for i in range(400))]
    numbers = ", ".join(f"{value}f" for value in raw)
    (tmp_path / "c/test.c").write_text(
        f"""#include "network.h"
#include <stdio.h>
static const float raw[] = {{{numbers}}};
"""
        """int main(void) {
    for (size_t i = 0; i < sizeof raw / sizeof raw[0]; ++i)
        for (size_t c = 0; c < 5; ++c)
            printf("%d ", network_prepare(raw[i], c));
    const volatile float zero = 0;
    printf("%d ", network_prepare(zero / zero, 0));
    return 0;
}
"""
    )
    wanted = [*whole_input(norm.normalise(torch.tensor(raw)[:, None].expand(-1, 5))).flatten().tolist(), -INPUT_LARGEST]
    for options in (SANITIZED, FUSED):
        built = compiled.compiled(tmp_path / "c", tmp_path / "test", options)
        printed = list(map(int, subprocess.run([built], capture_output=True, text=True, check=True).stdout.split()))
        assert printed == wanted, options
    assert printed.count(INPUT_LARGEST) > 0
    assert printed.count(-INPUT_LARGEST) > 0


def test_encoders_and_bins_enter_as_what_they_make(tmp_path):
    net = network("12-4", (7,), bits="4")
    of, _ = model(net)
    plain = Normalisation(1.0, (0.0,), (1.0,))
    poisson = replace(of, inputs=replace(of.inputs, encoding="poisson(rate=0.5)", normalisation=plain))
    program = Program.of(poisson)
    text = c.write(program, tmp_path / "poisson", tmp_path)
    assert "10 random samples, as no test set of the model can be read in" in text
    assert "uint8_t network_input;" in (tmp_path / "poisson/network.h").read_text()
    assert "spikes, 0 or 1, in the order step, channel, row, column: 6 × 7" in (tmp_path / "poisson/README.md").read_text()
    binned, _ = model(network("12-4", (7,), bits="4"), sequence=True)
    binned = replace(binned, inputs=replace(binned.inputs, bin=3, stored_steps=3 * STEPS))
    c.write(Program.of(binned), tmp_path / "binned", tmp_path)
    assert (
        "A step is the mean of 3 measured ones, the last of those that are left; take it first."
        in (tmp_path / "binned/README.md").read_text()
    )


@needs_compiler
@pytest.mark.parametrize("bits", ["8", "float"])
@pytest.mark.parametrize("notation", ["20-12R-4", "9R-4", "[7-7]-4"])
def test_spikes_of_an_encoder_enter_as_such(notation, bits, tmp_path):
    of, samples = model(network(notation, (7,), bits=bits, rule="surrogate"))
    inputs = replace(of.inputs, encoding="latency", normalisation=Normalisation(1.0, (0.0,), (1.0,)))
    program = Program.of(replace(of, inputs=inputs))
    c.write(program, tmp_path / "c", tmp_path)
    built = compiled.compiled(tmp_path / "c", tmp_path / "test", ("-O1",))
    found = compiled.compare(built, program, replace(samples, x=torch.rand(samples.x.shape)))
    assert found.spikes > 5
    assert found.differing <= (0 if bits == "8" else 0.01 * found.spikes)


@needs_compiler
def test_two_networks_share_a_program_once_renamed(tmp_path):
    """By the line in docs/to-c.md."""
    (rename,) = re.findall(r"^    (sed -i .*) digits-c/", (ROOT / "docs/to-c.md").read_text(), re.MULTILINE)
    calls = ""
    for folder, name, bits in (("a", "digits", "8"), ("b", "others", "float")):
        of, _ = model(network("6-4" if bits == "8" else "9-3", (5,), bits=bits))
        c.write(Program.of(of), tmp_path / folder, tmp_path)
        line = rename.replace("digits", name).replace("DIGITS", name.upper())
        subprocess.run(f"{line} {folder}/*.[ch]", shell=True, check=True, cwd=tmp_path)
        calls += f"    {name}_input x_{name}[{name.upper()}_INPUTS] = {{0}};\n    static {name}_state {name};\n"
        calls += f"    if ({name}_run(&{name}, x_{name}, {name.upper()}_STEPS) != -1)\n        return 1;\n"
    both = f'#include "a/network.h"\n#include "b/network.h"\n\nint main(void)\n{{\n{calls}    return 0;\n}}\n'
    (tmp_path / "both.c").write_text(both)
    options = [*compiled.compiler(), *compiled.STRICT, "both.c", "a/network.c", "b/network.c", "-o", "both"]
    subprocess.run(options, check=True, cwd=tmp_path)
    assert subprocess.run([tmp_path / "both"], check=False).returncode == 0


def test_classes_are_named_safely(tmp_path):
    of, _ = model(network("5-3", (4,)))
    c.write(Program.of(replace(of, classes=('a "b" \\', "grün", "*/ ??/"))), tmp_path / "c", tmp_path)
    source = (tmp_path / "c/network.c").read_text()
    named = re.search(r"class_names\[NETWORK_CLASSES\] = \{\n(.*?)\n\}", source, re.DOTALL)[1]
    assert named == '    "a \\042b\\042 \\134",\n    "gr\\303\\274n",\n    "\\052\\057 \\077\\077\\057"'


@pytest.mark.parametrize(
    ("notation", "shape", "settings", "said"),
    [
        ("[9-16]-5", (1, 4, 4), {}, "layer 'block1.linear2' gets a shortcut from what is not flat"),
        ("9-5", (4,), {"neuron": "relu"}, "a network of relu units has no spikes to send"),
        ("9-5", (4,), {"learn": ("tau_m",)}, "layer 'linear1' has time constants of its own"),
        ("9-5", (4,), {"reset": False}, "its neurons are not reset by a spike"),
    ],
)
def test_networks_that_are_no_chain_are_told(notation, shape, settings, said):
    net = tsslbp.build(notation, input_shape=shape, time_steps=4, tau_m=5, tau_s=3, **settings)
    with pytest.raises(UserError, match=said):
        chain(net)


def test_numbers_beyond_float32_are_refused(tmp_path, capsys):
    tsslbp.build("3-2", input_shape=(4,), time_steps=4, tau_m=5, tau_s=3, threshold=1e39).save(tmp_path / "net.safetensors")
    assert cli.main(["export", str(tmp_path / "net.safetensors"), str(tmp_path / "out"), "--format", "c"]) == 2
    said = "tsslbp: the network has a number beyond 3.4e38, the largest float32; C needs smaller ones\n"
    assert capsys.readouterr().err == said
    assert not (tmp_path / "out").exists()


def test_states_beyond_what_an_array_holds_are_refused():
    parts = SimpleNamespace(populations=[{"neurons": 3}], slots=0, sums=2**31, whole=None, maps=[], rises=0, widest=0)
    with pytest.raises(UserError, match="an array of 2,147,483,648 numbers"):
        c._Parts.state_bytes(parts, "u2", False, 0, 0)


def test_whole_numbers_refuse_what_they_cannot_hold():
    plain = network("5-3", (4,))
    with pytest.raises(UserError, match="layer 'linear1' has weights in floating point; train it with --bits"):
        integers.integer(chain(plain), 0, 1, 4)
    net = network("4C3-P2-5R-3", (1, 8, 8), bits="4", rule="surrogate", conv_scale=4.0)
    for recurrent in (net, network("3C3-P1-8R-4", (1, 8, 8), bits="4", rule="surrogate", conv_scale=4.0)):  # P1 has a factor
        with pytest.raises(UserError, match="layer 'recurrent2' is recurrent and behind pooling"):
            integers.integer(chain(recurrent), 0, 1, 4)
    wide = tsslbp.build("3", input_shape=(2**16,), time_steps=4, tau_m=2**20, tau_s=2**10, bits=8)
    with pytest.raises(
        UserError, match="layer 'output' needs more than 32 bits for its sums; give it fewer inputs or fewer bits"
    ):
        integers.integer(chain(wide), -INPUT_LARGEST, INPUT_LARGEST, 4)


def test_rounding_after_training_and_other_bits():
    of, _ = model(network("20-10", (1, 8, 8)))
    assert Program.of(of, "4").whole.populations[0].weight.max() == 7
    assert of.network.architecture.bits == "float"
    few, _ = model(network("20-10", (1, 8, 8), bits="4"))
    assert Program.of(few, "4").whole.populations[0].weight.max() == 7
    with pytest.raises(UserError, match="--bits is 8; the weights were trained with 4, leave it out"):
        Program.of(few, "8")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    arguments = ["--network", "20-10", "--padding", "0", "--epochs", "1", "--bits", "4", "--runs-dir", str(runs)]
    assert cli.main(["train", "quickstart", *arguments]) == 0
    return runs / "quickstart"


@needs_compiler
def test_the_command_writes_compiles_and_compares(trained, tmp_path, capsys):
    code, out, err = run(capsys, "export", str(trained), str(tmp_path / "c"), "--format", "c", "--check", "200")
    assert code == 0, err
    assert re.match(r"wrote .*/c: [\d,]+ bytes of constants, [\d,]+ of state; 10 samples of the test set of digits\n", out)
    assert re.search(r"compiled by \S+: 0 of [\d,]+ spikes and 0 of 200 answers differ from Python", out)
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["README.md", "network.c", "network.h", "test.c"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["there", "--format", "c"], "there exists; choose another folder, or delete it"),
        (["new", "--format", "c", "--bits", "8"], "--bits is 8; the weights were trained with 4, leave it out"),
        (["new", "--format", "c", "--bits", "9"], "--bits: unknown bits '9'; known: 2, 3, 4, 8, float, ternary"),
        (["new", "--format", "c", "--check", "-1"], "--check is -1; it must be a number of samples"),
        (["new", "--format", "c", "--half"], "--half has no effect with format c"),
        (["file/new", "--format", "c"], "cannot make file"),
        (["new", "--format", "c", "--check", "1"], "there is no C compiler nowhere-cc; install one, or name one by setting CC"),
    ],
)
def test_what_cannot_be_written_is_told_in_a_line(arguments, said, trained, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CC", "nowhere-cc")
    (tmp_path / "there").mkdir()
    (tmp_path / "file").write_text("")
    code, out, err = run(capsys, "export", str(trained), *arguments)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert said in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "there"]


def test_a_folder_is_whole_or_not_there(tmp_path):
    def half() -> None:
        with files.replacing_folder(tmp_path / "new") as place:
            (place / "half").write_text("")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        half()
    assert not list(tmp_path.iterdir())
    with files.replacing_folder(tmp_path / "new") as place:
        (place / "whole").write_text("")
        assert not (tmp_path / "new").exists()
    assert [path.name for path in tmp_path.rglob("*")] == ["new", "whole"]
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match="link exists"), files.replacing_folder(tmp_path / "link"):
        pass
    late = tmp_path / "late"
    with pytest.raises(UserError, match="late exists"), files.replacing_folder(late), files.replacing_folder(late) as faster:
        (faster / "whole").write_text("")


@needs_compiler
@pytest.mark.parametrize("bits", ["8", "float"])
@pytest.mark.parametrize(("channels", "steps", "bin"), [(1, 40, 1), (3, 40, 1), (40, 100, 3), (1, 1, 1), (2, 200, 1)])
def test_filters_compute_what_they_do_in_python(channels, steps, bin, bits, tmp_path):
    of, samples = filtered(channels, steps, bin, bits)
    differ(of, samples, bits, tmp_path, (*SANITIZED, *STRICTER))


@needs_compiler
@pytest.mark.parametrize("bits", ["8", "float"])
@pytest.mark.parametrize("channels", [1, 3])
def test_filters_of_regular_series_compute_what_they_do_in_python(channels, bits, tmp_path):
    of, samples = filtered(channels, 64, bits=bits, norm=Normalisation(1.0, (0.0,), (1.0,)), waves=True)
    differ(of, samples, bits, tmp_path, (*SANITIZED, *STRICTER))


FILTER_FAULTS = {
    "room[t + tap * d]": "room[t + tap]",
    "x[j * d]": "x[i * d]",
    "some += 1 + some[0];": "some += 0 * d;",
    "threshold += EACH;": "",
    "sum > threshold[q]": "sum > threshold[0]",
    "t > 0 ? now - NETWORK_SERIES_CHANNELS : now": "now",
    "room[t] = room[reach + steps + t] = 0;": "room[t] = room[reach + steps + t] = 1;",
    "last * t": "(uint64_t)WHOLE * t",
    "before < last ? before + 1 : last": "before",
    "(float)spikes[q] / (float)steps": "(float)spikes[q] / (float)NETWORK_SERIES_STEPS",
    "sum / (double)(end - first)": "sum",
}


@needs_compiler
@pytest.mark.parametrize("fault", FILTER_FAULTS)
def test_a_fault_in_filters_in_c_is_found(fault, tmp_path):
    of, samples = filtered(30, steps=60, bits="8")  # more values than rates
    program = Program.of(of)
    c.write(program, tmp_path / "c", tmp_path)
    source = (tmp_path / "c/network.c").read_text()
    assert source.count(fault) == 1
    (tmp_path / "c/network.c").write_text(source.replace(fault, FILTER_FAULTS[fault]))
    built = compiled.compiled(tmp_path / "c", tmp_path / "test", ("-fno-sanitize=all",))
    found = compiled.compare(built, program, samples)
    assert found.differing + found.answers > 0


@needs_compiler
def test_filters_make_the_same_numbers_however_a_compiler_rounds_and_fuses(tmp_path):
    of, samples = filtered(3, bits="8", norm=Normalisation(2.0, (0.1, 50662.3, 0.0), (0.5, 6.1, 1e-3)))
    program = Program.of(of)
    c.write(program, tmp_path / "c", tmp_path)
    raw, lengths = samples.x[3:8], samples.lengths[3:8]  # some of all steps, some shorter
    (tmp_path / "c/test.c").write_text(
        f"""#include "network.h"
#include <stdio.h>
static const float raw[] = {{{numbers(raw.numpy())}}};
static const size_t lengths[] = {{{numbers(lengths.numpy())}}};
"""
        """int main(void) {
    enum { SIZE = NETWORK_SERIES_STEPS * NETWORK_SERIES_CHANNELS };
    static float series[SIZE];
    static double room[NETWORK_ROOM];
    static network_input x[NETWORK_INPUTS];
    for (size_t i = 0; i < 5; ++i) {
        for (size_t k = 0; k < SIZE; ++k)
            series[k] = network_prepare(raw[i * SIZE + k], k % NETWORK_SERIES_CHANNELS);
        network_filter(x, series, lengths[i], room);
        for (size_t k = 0; k < NETWORK_INPUTS; ++k)
            printf("%d ", x[k]);
    }
    return 0;
}
"""
    )
    wanted = whole_input(of.inputs(raw, 0, lengths)).flatten().tolist()
    for options in (SANITIZED, FUSED, *([("-O2", "-mfpmath=387")] if platform.machine() == "x86_64" else [])):
        built = compiled.compiled(tmp_path / "c", tmp_path / "test", options)
        printed = list(map(int, subprocess.run([built], capture_output=True, text=True, check=True).stdout.split()))
        assert printed == wanted, options


@needs_compiler
def test_a_compiler_that_refuses_is_told(tmp_path):
    of, _ = model(network("5-3", (4,)))
    c.write(Program.of(of), tmp_path / "c", tmp_path)
    (tmp_path / "c/network.c").write_text("int x = ;")
    with pytest.raises(UserError, match=r"network.c test.c -o .* fails in .*c: network.c:1:9: error"):
        compiled.compiled(tmp_path / "c", tmp_path / "test")


def test_whole_numbers_decode_as_the_network_does():
    net = network("12-12-V3", (5,), bits="8")
    x = 2 * torch.randn(50, 5)
    whole = integers.integer(chain(net), -INPUT_LARGEST, INPUT_LARGEST, STEPS)
    *_, response = whole.steps(whole_input(x), STEPS)
    assert (decode(response.evidence[None]) == decode(net(x))).float().mean() > 0.9
    *_, silent = whole.steps(whole_input(0 * x), STEPS)
    assert (decode(silent.evidence[None]) == -1).all()


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "bits"), [("fashion-mnist-fc-best", "8"), ("fashion-mnist-fc-best", "2"), ("mnist-cnn-best", "4")]
)
def test_ten_thousand_images_bit_for_bit(name, bits, samples, tmp_path):
    of = training.load(ROOT / f"models/{name}.safetensors")
    program = Program.of(of, bits)
    found = data.load(of.data, samples, validation=0)
    x = torch.cat([found.train.x, found.test.x])
    moved = [x.roll((down, right), (2, 3)) for down in range(-3, 4) for right in range(-4, 5)]
    many = torch.cat([image.flip(axes) for image in moved for axes in ([], [2], [3], [2, 3])])[:10000]
    assert len(many) == 10000
    c.write(program, tmp_path / "c", samples)
    assert len((tmp_path / "c/network.c").read_text()) > 100000
    built = compiled.compiled(tmp_path / "c", tmp_path / "test", ("-O3",))
    made = compiled.compare(built, program, Split(many, torch.zeros(10000, dtype=torch.int64)))
    assert (made.samples, made.differing, made.answers) == (10000, 0, 0)
    assert made.spikes > 10**6


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("name", ["fashion-mnist-fc-best", "mnist-cnn-best", "spoken-digits"])
def test_shipped_networks_in_float_differ_by_rounding_at_most(name, samples, tmp_path):
    of = training.load(ROOT / f"models/{name}.safetensors")
    program = Program.of(of)
    found = data.load(of.data, samples, validation=0)
    c.write(program, tmp_path / "c", samples)
    built = compiled.compiled(tmp_path / "c", tmp_path / "test", ("-O3",))
    made = compiled.compare(built, program, found.test)
    assert made.spikes > 10**3
    assert made.differing <= made.spikes / 1000
