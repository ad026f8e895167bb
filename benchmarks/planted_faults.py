"""Which planted faults the tests catch.

python benchmarks/planted_faults.py [--only NAME ...] [--jobs N]

Each fault of the table below replaces a few words of the source, such as a sign or an index. It is planted alone in a copy of
the repository, where the tests that should notice it run until one fails. All of these tests first run without any fault, and
those that fail there are left out. Faults in C++ rebuild the kernels, which takes a minute each. The result of all faults is
benchmarks/results/planted-faults.json; ``--only`` runs a few of them and writes nothing.

A fault is found by its words, in whatever file they are. It is "gone" if they are in no file, or in several.
"""

import argparse
import datetime
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple

import torch

ROOT = Path(__file__).resolve().parent.parent
RECORD = ROOT / "benchmarks/results/planted-faults.json"
PACKAGE, CSRC = "src/tsslbp", "csrc"
NOT_COPIED = shutil.ignore_patterns(".git", ".venv", ".*_cache", ".hypothesis", "__pycache__", "build", "results", "runs")
LONGEST = 600
"""Seconds after which tests that still run count as failed."""

# A fault is a line with its name and the tests that should catch it, then the old words and the new ones. Tests are those of
# the files before the colon whose names contain one of the words after it; all of them if none does.
TABLE = r"""
# Rules
tssl_no_reset_term rules golden: oracle golden
-                 g = g + reach * u[t] / tau_m * p[t]  # (7)
+                 g = g + 0 * reach
tssl_leak_at_a_spike rules: oracle leak
- g = g + reach * decay * left[t]  # (8)
+ g = g + reach * decay
tssl_rise_without_reset rules: oracle
- du = rise(u, neuron, state[0])
+ du = u - torch.cat([state[0][None], u[:-1]])
tssl_reach_not_taken rules: oracle
- reach = torch.where(s[t] > 0, g, reach * decay)  # (9)
+ reach = g + reach * decay
tssl_quiet_level rules: oracle quiet
- return psc < 1 / (4 * neuron.tau_s)
+ return psc < 1 / (2 * neuron.tau_s)
tssl_rate_limit rules: rate ten_percent
- bool(train.mean() <= RATE_LIMIT)
+ bool(train.mean() < RATE_LIMIT)
tssl_error_reset_one_late rules: oracle versions
- spike_error = torch.where(s[t] > 0, error[t], decay * spike_error)  # (12)
+ spike_error = torch.where(s[t] > 0, e[t], decay * spike_error)
surrogate_reset_sign rules gradcheck: autograd gradient_passes
- to_previous -= neuron.membrane_decay * membrane * psi
+ to_previous += neuron.membrane_decay * membrane * psi
surrogate_atan_slope rules: primitive surrogate
- (lambda x: 1 / (1 + (math.pi / 2 * x) ** 2), 2.0)
+ (lambda x: 1 / (1 + (math.pi * x) ** 2), 2.0)
eventprop_one_side eventprop kernels: rule eventprop_equals
- return 0.5 * (delayed(e) + e - error - advanced(error)) / neuron.tau_s  # (2)
+ return (e - error) / neuron.tau_s
eventprop_no_membrane eventprop kernels: rule eventprop
- fired = p[t] * (moved[t] + current[t] * carried) if neuron.reset
+ fired = p[t] * (moved[t] + u[t] * carried) if neuron.reset
# Neurons
threshold_reached neuron golden: strict oracle golden
- return (membrane > neuron.threshold).to(membrane.dtype)
+ return (membrane >= neuron.threshold).to(membrane.dtype)
synapse_before_lost neuron parts: without_a_gradient part whole
-         if before is not None:
-             current.add_(before, alpha=_decay(tau_s))
+         if current is not made[0]:
+             current.add_(before, alpha=_decay(tau_s))
tau_m_gradient_power constants: numbers stand_in
- / neuron.tau_m**2  # (13)
+ / neuron.tau_m  # (13)
threshold_gradient_sign constants: stand_in numbers
- return ByConstant(tau_m, tau_s, -by_spike.sum(0))  # (15)
+ return ByConstant(tau_m, tau_s, by_spike.sum(0))
synapse_adjoint_decay rules golden gradcheck: oracle golden gradient_passes
- after = error_t / neuron.tau_s + decay * after
+ after = error_t / neuron.tau_s + decay * decay * after
spikes_without_the_step_before neuron parts: undoes network_in_parts
- return tau_s * psc - (tau_s - 1) * delayed(psc, before)
+ return tau_s * psc - (tau_s - 1) * delayed(psc)
sum_pool_without_factor layers kernels: pooling
- return pool.factor * F.avg_pool2d(x, pool.size, divisor_override=1)  # a mean
+ return F.avg_pool2d(x, pool.size, divisor_override=1)  # a mean
parts_of_every_rule parts: takes_no_parts
- if state is not None and learning and not rule.takes_parts:
+ if False:
# Losses and metrics
kernel_loss_without_half losses golden: by_hand gradient golden
- return 0.5 * squares.sum()
+ return squares.sum()
softmax_loss_summed losses: softmax
- return F.cross_entropy(_masked(psc, mask).sum(0), label.long())
+ return F.cross_entropy(_masked(psc, mask).sum(0), label.long(), reduction="sum")
desired_train_shifted losses golden: desired golden
- return torch.tensor(pattern).repeat(-(-time_steps // len(pattern)))[:time_steps]
+ return torch.tensor(pattern).repeat(2 + time_steps // len(pattern))[1 : time_steps + 1]
settled_one_step_late metrics: settled
- return (different * steps).amax(0)
+ return (different * steps).amax(0) + 1
count_loss_of_padding losses: mask
- excess = beyond / steps
+ excess = beyond / psc.shape[0]
rates_of_padding losses: rate
- psc[steps - 1, torch.arange(len(steps), device=psc.device)]
+ psc[0 * steps - 1, torch.arange(len(steps), device=psc.device)]
van_rossum_without_half spike_trains: known integral
- return (squared / 2).clamp(min=0).sqrt()
+ return squared.clamp(min=0).sqrt()
wilson_centre metrics: wilson
- centre = share + z**2 / (2 * total)
+ centre = share + z**2 / total
# Layers
average_pool_of_a_row own_networks: windows
- self.pool = Pool(self.size, 1 / self.size**2)
+ self.pool = Pool(self.size, 1 / self.size)
dropout_not_held layers: dropout
- return signal * self.mask(signal[0], keys)
+ return torch.stack([step * self.mask(step, keys if keys is None else keys + t) for t, step in enumerate(signal)])
fold_without_mean layer_sweep: folded
- return factor, self.shift - self.mean * factor
+ return factor, self.shift - self.mean
padding_in_statistics layer_sweep: statistics
- masked = inside is not None and self.training
+ masked = False
dilation_dropped events layer_sweep exchange: geometry dilat
- x, weight, stride=stride, padding=self.padding, dilation=self.dilation, groups=self.groups
+ x, weight, stride=stride, padding=self.padding, dilation=1, groups=self.groups
lateral_gradient_cut recurrent: surrogate every_rule
- heard = a if self.rule.through_lateral else a.detach()
+ heard = a.detach()
adaptation_never_decays recurrent: by_hand loop_over
- after = torch.add(s, b, alpha=1 - 1 / adaptation.tau_a)
+ after = torch.add(s, b)
readout_by_the_synapse readout: voltage
- self.neuron.tau_m, before)
+ self.neuron.tau_s, before)
shortcut_from_the_last_layer own_networks layer_sweep: residual block shortcut
- enters = Joined(signal, entering, self.shortcut) if
+ enters = Joined(signal, signal, None) if
running_statistics_at_once own_networks layer_sweep distributed: norm statistics
- MOMENTUM, EPSILON = 0.1, 1e-5
+ MOMENTUM, EPSILON = 0.9, 1e-5
# Networks
weights_change_unseen events: noticed between_parts
- version(x) == before and x.data_ptr() == pointer
+ x.data_ptr() == pointer
hooks_unseen as_one: otherwise changes other_ways
- if any(self.hooks) or any(self.empty) or
+ if any(self.empty) or
steps_of_a_part_lost events: parts sequence
- return output, State(state.steps + steps, synapse,
+ return output, State(steps, synapse,
response_from_the_first_step events: parts constant
- response = constant_current(x, steps, net.neuron.tau_s, state.steps).response if static
+ response = constant_current(x, steps, net.neuron.tau_s).response if static
masks_drawn_in_each_part parts draws: masks
- keys = self._keys(x) if state.keys is None else state.keys
+ keys = self._keys(x)
bias_gradient_of_one_step as_one: bit_for_bit
- by_bias = delta.sum((0, 1, *range(3, delta.dim()))).to(bias.dtype)
+ by_bias = delta[0].sum((0, *range(2, delta.dim() - 1))).to(bias.dtype)
shortcut_bias_lost events own_networks: spikes_equal shortcut block
- bias = bias if beside is None else beside if bias is None else bias + beside
+ bias = bias if beside is None else beside
strides_swapped events: geometry
- (sh, sw), (ph, pw), (dh, dw) = layer.in_two_axes()
+ (sw, sh), (ph, pw), (dh, dw) = layer.in_two_axes()
# Data
mean_not_scaled data: normalise
- offset = _per_channel((-m / s for m, s
+ offset = _per_channel((-m for m, s
held_out_samples_stay data: hold_out split
- shuffled_by_class[evenly_spaced])] = True
-     return samples.select((~held).nonzero()[:, 0]),
+ shuffled_by_class[evenly_spaced])] = True
+     return samples,
classes_by_alphabet own_data facts: classes
- return not number, float(label) if number else 0.0, label
+ return False, 0.0, label
bins_count_padding own_data: bins
- device=x.device)).clamp(1, size)
+ device=x.device)).clamp(size, size)
crop_misses_a_shift data: crop
- rows = down % (2 * padding + 1) +
+ rows = down % (2 * padding) +
poisson_repeats_a_step encoding: poisson
- spikes[step] = prng.bits(prng.mix(keys, step),
+ spikes[step] = prng.bits(prng.mix(keys, 0),
latency_one_step_late encoding: latency
- first = torch.round((1 - wide) * (time_steps - 1)).long()
+ first = torch.round((1 - wide) * time_steps).long()
# Training
resume_repeats_batches training: interrupted_run
- return order.split(self.config.batch_size)[self.state.step :]
+ return order.split(self.config.batch_size)
resume_without_moments training: interrupted_run
- optimizer.load_state_dict({**optimizer.state_dict(), "state": content["optimizer"]})
+ optimizer.load_state_dict(optimizer.state_dict())
same_draws_in_every_epoch draws: epoch
- keys = prng.mix(self.config.seed, self.state.epoch, mine) if
+ keys = prng.mix(self.config.seed, 1, mine) if
schedule_stands_still training: schedule
- self._rate_factor(state.step)
+ self._rate_factor(0)
average_of_the_last_step training: average
- average.lerp_(weight, 1 - decay)
+ average.lerp_(weight, decay)
checkpoint_unchecked checkpoint: flipped
- if hashlib.sha256(payload).digest() != digest:
+ if False:
checkpoint_fills_memory checkpoint: unpack
- if unpacked > len(payload):
+ if False:
model_checksum_of_names facts: changed_weight
- digest.update(weight.contiguous().numpy().data)
+ digest.update(b"")
# Exchange
nir_without_input_gain exchange: networks_spikes round_trip
- "w_in": _each(tau_s, self.shape),
+ "w_in": _each(1.0, self.shape),
nir_threshold_without_pools exchange: networks_spikes round_trip
- "v_threshold": tau_s * threshold / gain,
+ "v_threshold": tau_s * threshold,
nir_bias_not_scaled exchange: round_trip foreign
- bias = c.leak * size + c.gain * size * (layer.bias + layer.lateral_bias)
+ bias = c.leak * size + c.gain * (layer.bias + layer.lateral_bias)
c_decays_swapped c: c_computes
- "membrane": whole.membrane if whole else floats([1 - 1 / links.tau_m]),
+ "membrane": whole.membrane if whole else floats([1 - 1 / links.tau_s]),
c_bias_not_scaled c: c_computes
- _array(bias) * scale, threshold * scale, rise)
+ _array(bias), threshold * scale, rise)
integer_without_reset c: whole_numbers_by_hand whole_numbers_do
- self.membrane = self.membrane * (1 - self.spikes)
+ self.membrane = self.membrane * 1
few_bits_cut_off quantisation: whole_numbers_of quantising
- if bits == "2" else clipped.round()
+ if bits == "2" else clipped.trunc()
onnx_pads_one_side onnx: computes_what_the_model
- "pads": padding * 2,
+ "pads": padding + [0] * len(padding),
onnx_decays_swapped onnx: computes_what_the_model
- w.op("Mul", before, _value(neuron.synapse_decay))
+ w.op("Mul", before, _value(neuron.membrane_decay))
# Studies and commands
energy_of_a_batch study: energy_of_a_hand energy_is
- return _by_layer(made, len(run.test))
+ return _by_layer(made, len(made))
bad_input_exits_with_1 cli: bad_input
- streams.say(f"tsslbp: {' '.join(said.split())}")
-         return 2
+ streams.say(f"tsslbp: {' '.join(said.split())}")
+         return 1
no_answer_gets_equal_shares sklearn: prior
- total = np.where(total.any(axis=1, keepdims=True), total, self.class_prior_)
+ total = np.where(total.any(axis=1, keepdims=True), total, 1.0)
sample_weights_ignored sklearn: repetitions count
- in_loss = weights * compute_sample_weight(
+ in_loss = 1.0 * compute_sample_weight(
# Kernels in C++
cpp_no_reset kernels: forward_equals
- carried[j] = v * (s ? T(0) : c.membrane_decay(j));
+ carried[j] = v * c.membrane_decay(j);
cpp_threshold_reached kernels: at_the_threshold
- const bool s = v > c.threshold(j);
+ const bool s = v >= c.threshold(j);
cpp_leak_at_a_spike kernels: tssl_equals
- d += on<T>(leak, kept * (1 - s));
+ d += on<T>(leak, kept);
cpp_tau_s_gradient constants: kernels_equal
- tau_s[j] += s * (later[j] - error);
+ tau_s[j] += s * later[j];
cpp_adaptation_not_reset recurrent_kernels: call_equals
- current[i] -= layer.beta * (risen - c.membrane_decay(j) * (b[i] * (1 - s[i])));
+ current[i] -= layer.beta * (risen - c.membrane_decay(j) * b[i]);
cpp_input_current events: parts hands
- a[j] = x[j] / tau_s + decay * a[j];
+ a[j] = x[j] + decay * a[j];
"""


class Fault(NamedTuple):
    """One fault: ``old`` becomes ``new``, and the tests of ``files`` with one of ``words`` in their names should fail."""

    name: str
    old: str
    new: str
    files: tuple[str, ...]
    words: tuple[str, ...]


def table() -> list[Fault]:
    """All faults."""
    faults = []
    for block in re.split(r"\n(?=\w)", re.sub(r"(?m)^#.*\n", "", TABLE.strip())):
        head, *lines = block.strip("\n").split("\n")
        about, _, words = head.partition(":")
        name, *files = about.split()
        old, new = ("\n".join(line[2:] for line in lines if line[0] == sign) for sign in "-+")
        faults.append(Fault(name, old, new, tuple(f"tests/test_{file}.py" for file in files), tuple(words.split())))
    return faults


class Copy:
    """A copy of the repository to plant faults in."""

    def __init__(self, folder: Path) -> None:
        self.root = folder
        shutil.copytree(ROOT, folder, ignore=NOT_COPIED)
        if not self.libraries():
            self.build()
        self.built = {path: path.read_bytes() for path in self.libraries()}

    def libraries(self) -> list[Path]:
        """The kernels as they are built."""
        return [path for path in (self.root / PACKAGE).rglob("_cpu*") if path.suffix in (".so", ".pyd")]

    def build(self) -> None:
        """Build the kernels. Raises CalledProcessError if they cannot be."""
        for path in self.libraries():
            path.unlink()
        command = [sys.executable, "setup.py", "build_ext", "--inplace"]
        done = subprocess.run(command, cwd=self.root, capture_output=True, text=True)
        if not self.libraries():
            raise subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)

    def find(self, words: str) -> list[Path]:
        """The source files with these words, each as often as it has them."""
        paths = sorted(path for path in (self.root / PACKAGE).rglob("*") if path.suffix in (".py", ".cpp", ".h"))
        return [path for path in paths for _ in range(path.read_text(encoding="utf-8").count(words))]

    def selected(self, fault: Fault) -> list[str]:
        """The tests that should catch a fault."""
        found = []
        for file in fault.files:
            path = self.root / file
            text = path.read_text(encoding="utf-8") if path.is_file() else ""
            found += [f"{file}::{name}" for name in re.findall(r"(?m)^def (test_\w+)", text)]
        return [test for test in found if any(word in test.split("::")[1] for word in fault.words)] or found

    def failing(self, tests: Sequence[str], without: Sequence[str] = (), first: bool = True) -> list[str]:
        """The tests that fail, or the first of them."""
        words = ["-p", "no:cacheprovider", "--tb=no", "-rfE", *["-x"] * first, *(f"--deselect={test}" for test in without)]
        environment = os.environ | {"PYTHONPATH": str(self.root / "src"), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "pytest", *words, *tests]
        try:
            limit = LONGEST if first else None
            done = subprocess.run(command, cwd=self.root, env=environment, capture_output=True, text=True, timeout=limit)
        except subprocess.TimeoutExpired:
            return [f"no end after {LONGEST} s"]
        failed = re.findall(r"(?m)^(?:FAILED|ERROR) (.+?)(?: - .*)?$", done.stdout)
        if done.returncode and not failed:
            raise SystemExit(f"pytest ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        return failed

    def plant(self, fault: Fault, without: Sequence[str]) -> dict[str, Any]:
        """Where the fault is, and the test that catches it or why there is none."""
        found = self.find(fault.old)
        if len(found) != 1:
            return {"name": fault.name, "file": None, "caught by": "gone"}
        (path,), tests = found, self.selected(fault)
        made = {"name": fault.name, "file": str(path.relative_to(self.root / PACKAGE))}
        text, compiled = path.read_text(encoding="utf-8"), CSRC in path.parts
        write(path, text.replace(fault.old, fault.new))
        try:
            if compiled:
                self.build()
            failed = self.failing(tests, without) if tests else ["no such tests"]
        finally:
            write(path, text)
            if compiled:
                for library, content in self.built.items():
                    library.write_bytes(content)
        return made | {"caught by": failed[0] if failed else "not caught"}


def write(path: Path, text: str) -> None:
    """Write a source file, and forget its bytecode: a change within a second that keeps the size would go unseen."""
    path.write_text(text, encoding="utf-8")
    for old in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
        old.unlink()


def run(faults: list[Fault], jobs: int) -> dict[str, Any]:
    """The record of planting these faults."""
    began, copies = time.monotonic(), SimpleQueue[Copy]()
    with tempfile.TemporaryDirectory() as place:
        for number in range(jobs):
            copies.put(Copy(Path(place, f"copy{number}")))
        copy = copies.get()
        tests = list(dict.fromkeys(test for fault in faults for test in copy.selected(fault)))
        without = copy.failing(tests, first=False)
        copies.put(copy)
        seconds = time.monotonic() - began
        print(f"{len(tests)} tests without a fault: {len(without)} fail, {seconds:.0f} s", *without, flush=True)

        def one(fault: Fault) -> dict[str, Any]:
            copy, start = copies.get(), time.monotonic()
            try:
                made = copy.plant(fault, without)
            finally:
                copies.put(copy)
            print(f"{fault.name} ({made['file']}, {time.monotonic() - start:.0f} s): {made['caught by']}", flush=True)
            return made

        with ThreadPoolExecutor(jobs) as pool:
            made = list(pool.map(one, faults))
    git = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    missed = sum(fault["caught by"] == "not caught" for fault in made)
    gone = sum(fault["caught by"] == "gone" for fault in made)
    return {
        "version": tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"],
        "commit": git.stdout.strip(),
        "date": datetime.date.today().isoformat(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "processor": processor(),
        "threads": 1,
        "seconds": round(time.monotonic() - began),
        "faults": len(made),
        "caught": len(made) - missed - gone,
        "not caught": missed,
        "gone": gone,
        "tests that fail without a fault": without,
        "each": made,
    }


def processor() -> str:
    """The processor's name."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def main() -> None:
    """Plant all faults, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="faults to plant; nothing is written")
    parser.add_argument("--jobs", type=int, default=1, help="faults at a time, each in a copy of its own")
    given, faults = parser.parse_args(), table()
    if unknown := {*(given.only or ())} - {fault.name for fault in faults}:
        parser.error(f"there is no fault {', '.join(sorted(unknown))}; there are {', '.join(fault.name for fault in faults)}")
    made = run([fault for fault in faults if given.only is None or fault.name in given.only], max(1, given.jobs))
    print(*(f"{made[what]} {what}" for what in ("faults", "caught", "not caught", "gone")), f"{made['seconds']} s", sep=", ")
    if given.only is None:
        RECORD.write_text(json.dumps(made, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
