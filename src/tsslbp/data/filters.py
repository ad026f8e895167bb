"""A fixed layer of spiking filters over time, whose firing rates represent a series.

Each neuron sees nine steps of the series, d steps apart, and has no memory (τm = 1):

    s[t] = 1 if Σ_k w[k]·x[t + d·(k - 4)] > θ else 0                               (1)
    r = Σ_t s[t] / T                                                               (2)

Three of the nine weights are 2 and six are -1, in all 84 orders, so a constant added to the series changes nothing but at its
ends, beyond which the series is 0. The dilations d are 1, 2, 4 and so on while a filter is no longer than the series.
Thresholds θ are quantiles of the sums that training samples make, so every neuron spikes at some steps and not at others. A
filter of a series with several channels sums a few of them. Half of the filters see the differences from step to step, and
not the values.

Series are rounded to whole multiples of a small unit, so that all sums are exact in float64, in any order. Otherwise a rate
would jump where a sum is near its threshold, as it often is in regular series.

The rates say what happens in a series, but hardly when or at which level. So the values enter too: shorter series are
stretched to the length of the others, and neighbouring steps are averaged where there are more values than rates. All is
standardised over the training samples, the values to SHARE of the rates' variance, and forms a static sample.

Source: A. Dempster, D. F. Schmidt and G. I. Webb, MiniRocket, KDD 2021, arXiv 2012.08791. Its "proportion of positive values"
is the rate (2) of the neuron (1). Differences: C. W. Tan, A. Dempster, C. Bergmeir and G. I. Webb, MultiRocket,
Data Mining and Knowledge Discovery 36, 2022, arXiv 2102.00457.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tsslbp.utils import machine, prng
from tsslbp.utils.errors import UserError
from tsslbp.utils.signals import length_mask

TAPS, RAISED = 9, 3
"""Steps that a filter sees, and how many of them have the weight 2."""
ORDERS = tuple(itertools.combinations(range(TAPS), RAISED))
VIEWS = 2
"""Values, and differences from step to step."""
MOST_CHANNELS = 9
"""A filter sums at most this many channels."""
FITTED_ON = 64
"""Training samples used for the quantiles."""
SHARE = 0.25
"""Variance of all values, as a share of that of all rates."""
LEAST = 1e-3
"""Standard deviation below which a rate or a value is not scaled up further."""
COPIES = 2
"""How often the rates and values of all series are in memory while they are put together."""
PYTHON = 128
"""Bytes of the numbers of a filter in a model."""
AT_ONCE = 2**22
"""Numbers in memory for a batch of sums."""
FINE = 2**32
"""Units in the power of two above the largest threshold. Sums are exact for values of up to 4,000 times that."""
GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class Filters:
    """The filters and how their rates are standardised.

    Args:
        steps: T that series have, padding included.
        channels: of the series.
        thresholds: θ, by view, dilation, order of weights and quantile.
        mean, std: of each rate, in the same order, and then of each value, to standardise with.

    Raises:
        UserError: numbers that do not fit together.
    """

    steps: int
    channels: int
    thresholds: tuple[float, ...] = field(repr=False)
    mean: tuple[float, ...] = field(repr=False)
    std: tuple[float, ...] = field(repr=False)

    def __post_init__(self) -> None:
        numbers = (*self.thresholds, *self.mean, *self.std)
        whole = type(self.steps) is int and type(self.channels) is int and min(self.steps, self.channels) >= 1
        if (
            not whole
            or not all(isinstance(number, (int, float)) and math.isfinite(number) for number in numbers)
            or not 0 < len(self.thresholds) < len(self.mean) == len(self.std)
            or (len(self.mean) - len(self.thresholds)) % self.channels
            or len(self.thresholds) % (VIEWS * len(ORDERS) * len(dilations(self.steps)))
            or min(self.std) <= 0
        ):
            raise UserError("filters of a series are damaged: their thresholds, means and stds do not fit together")

    @staticmethod
    def fitted(x: Tensor, lengths: Tensor | None, count: int) -> "Filters":
        """About ``count`` filters for training samples ``[N, T, C]`` of ``lengths`` ``[N]``; independent of the seed.

        Raises:
            UserError: more filters than there is memory for.
        """
        steps, channels = x.shape[1:]
        one_each = VIEWS * len(ORDERS) * len(dilations(steps))
        each = max(1, round(count / one_each))
        points = min(steps, max(1, one_each * each // channels))
        size = one_each * each + points * channels
        machine.need_memory((COPIES * 4 * len(x) + PYTHON) * size, f"{count:,} filters of {len(x):,} series")
        shares = torch.arange(1, len(ORDERS) * each + 1, dtype=torch.float64) * GOLDEN % 1  # spread evenly, for any number
        some = torch.linspace(0, len(x) - 1, min(FITTED_ON, len(x)), dtype=torch.float64).long()
        few, ends = x[some], None if lengths is None else lengths[some]
        inside = _inside(few, ends)
        found = []
        places = (shares.view(len(ORDERS), each) * (int(inside.sum()) - 1)).round().long().tolist()
        for sums in _sums(few, ends):
            for order, at in zip(sums.unbind(1), places, strict=True):
                found.append(np.partition(order[inside].numpy(), at)[at])
        thresholds = _rounded(torch.from_numpy(np.concatenate(found)))
        least = _unit(thresholds)
        thresholds = tuple(level if abs(level) >= least else 0.0 for level in thresholds)  # others are made of rounding
        unscaled = Filters(steps, channels, thresholds, (0.0,) * size, (1.0,) * size)
        std, mean = torch.std_mean(unscaled(x, lengths), 0, correction=0)
        std = std.clamp(min=LEAST)
        std[len(thresholds) :] *= math.sqrt(points * channels / len(thresholds) / SHARE)
        return Filters(steps, channels, thresholds, _rounded(mean), _rounded(std))

    @property
    def size(self) -> int:
        """How many numbers represent a series."""
        return len(self.mean)

    @property
    def points(self) -> int:
        """How many values of each channel are among them."""
        return (self.size - len(self.thresholds)) // self.channels

    def __call__(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Rates and values ``[N, size]`` of series ``[N, T, C]`` that end after ``lengths`` ``[N]`` steps."""
        mean, std = (torch.tensor(numbers, dtype=torch.float32) for numbers in (self.mean, self.std))
        parts = ((self.rounded(part), ends) for part, ends in _batches(x, lengths))
        return torch.cat([(torch.cat([self._rates(*part), self._values(*part)], 1) - mean) / std for part in parts])

    def rates(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The rates (2), ``[N, thresholds]``."""
        return torch.cat([self._rates(self.rounded(part), ends) for part, ends in _batches(x, lengths)])

    def rounded(self, x: Tensor) -> Tensor:
        """Series in whole units, of float32, which can hold these."""
        return ((x.double() / self.unit).round() * self.unit).float()

    @property
    def unit(self) -> float:
        """A power of two, far below what float32 tells apart next to the largest threshold."""
        return _unit(self.thresholds)

    def _rates(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        inside = _inside(x, lengths)
        counted, made = inside.float().unsqueeze(2), []  # counts are exact in float32
        for sums, thresholds in zip(_sums(x, lengths), self._thresholds, strict=True):
            fired = [(sums > some.unsqueeze(1)).float() for some in thresholds.unbind(1)]
            made.append(torch.cat([train @ counted for train in fired], 2))  # [N, orders, quantiles]
        return torch.stack(made, 1).flatten(1) / inside.sum(1, keepdim=True)

    def _values(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """Means of neighbouring steps, ``[N, C·points]``; their sums are exact in float64, as in every export."""
        values = _stretched(x, lengths).transpose(1, 2).double()
        return F.adaptive_avg_pool1d(values, self.points).float().flatten(1)

    @cached_property
    def _thresholds(self) -> Tensor:
        return torch.tensor(self.thresholds, dtype=torch.float64).view(VIEWS * len(dilations(self.steps)), len(ORDERS), -1)


def dilations(steps: int) -> list[int]:
    """1, 2, 4 and so on while a filter is no longer than ``steps``; 1 always."""
    return [2**n for n in range(max(1, int(math.log2(max(1, (steps - 1) / (TAPS - 1)))) + 1))]


def _sums(x: Tensor, lengths: Tensor | None) -> Iterator[Tensor]:
    """The sums of (1) for every view and dilation, ``[N, orders, T]`` each; series are padded with 0.

    They are float64, in which sums of so few multiples of a unit are exact. Rounded ones would depend on the number of series
    in the batch.
    """
    inside = _inside(x, lengths).unsqueeze(1)
    x = x.transpose(1, 2).double() * inside
    steps = x.shape[2]
    for view, signal in enumerate((x, F.pad(x.diff(dim=2), (1, 0)) * inside)):  # there is no step to the padding
        for d in dilations(steps):
            reach = d * (TAPS // 2)
            padded = F.pad(signal, (reach, reach))
            if x.shape[1] > MOST_CHANNELS:  # every filter's channels first, as most of the products would be with 0
                yield _tapped(padded, _orders(), channels_of(x.shape[1], view, d).double(), d)
            else:
                seen = torch.cat([padded[:, :, d * tap : d * tap + steps] for tap in range(TAPS)], 1)
                yield weights(x.shape[1], view, d).flatten(1) @ seen


def _tapped(padded: Tensor, weight: Tensor, summed: Tensor, d: int) -> Tensor:
    """The sums of (1) from a padded signal ``[N, C, T + 8d]``, each filter's channels added up before they are weighted."""
    steps = padded.shape[2] - d * (TAPS - 1)
    sums = padded.new_zeros(len(padded), len(ORDERS), steps)
    for made, series in zip(sums, padded, strict=True):  # what belongs to one series stays in the cache
        mixed = summed @ series
        for tap in range(TAPS):
            made.addcmul_(weight[:, tap : tap + 1], mixed[:, d * tap : d * tap + steps])
    return sums


def weights(channels: int, view: int, dilation: int) -> Tensor:
    """The weights of (1), ``[orders, TAPS, channels]``."""
    return _orders().unsqueeze(2) * channels_of(channels, view, dilation).double().unsqueeze(1)


def _orders() -> Tensor:
    """The weights of a filter of one channel, ``[orders, TAPS]``."""
    return torch.full((len(ORDERS), TAPS), -1.0, dtype=torch.float64).scatter(1, torch.tensor(ORDERS), 2.0)


def channels_of(channels: int, view: int, dilation: int) -> Tensor:
    """The channels that each filter sums, ``[orders, channels]`` of 0 and 1: a random few, always the same."""
    keys = prng.mix(prng.FILTERS, view, dilation, torch.arange(len(ORDERS)))
    number, *order = prng.bits(keys, channels + 1).double().unbind(1)
    most = math.log2(min(channels, MOST_CHANNELS) + 1)
    count = torch.exp2((number / 2**32 + 0.5) * most).long().clamp(1, channels)  # 1 is as likely as 2 or 3, or 4 to 7
    return (torch.stack(order, 1).argsort(1).argsort(1) < count.unsqueeze(1)).float()


def _unit(thresholds: tuple[float, ...]) -> float:
    return math.ldexp(1 / FINE, math.frexp(max(map(abs, thresholds)))[1])


def _batches(x: Tensor, lengths: Tensor | None) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Series and their lengths, as many as memory is meant for."""
    batch = max(1, AT_ONCE // (max(len(ORDERS), x.shape[2]) * x.shape[1]))
    return zip(x.split(batch), itertools.repeat(None) if lengths is None else lengths.split(batch), strict=False)


def _stretched(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Series ``[N, T, C]``, each from its first to its last step, linearly interpolated.

    Places are whole numbers of 1/(T - 1) of a step, and the product is exact in float64: only the sum and the result round.
    """
    if lengths is None:
        return x
    whole = max(1, x.shape[1] - 1)
    last = (lengths - 1).unsqueeze(1)
    place = last * torch.arange(x.shape[1])
    before = place // whole
    after = torch.minimum(before + 1, last)
    low, high = (x.gather(1, step.unsqueeze(2).expand_as(x)).double() for step in (before, after))
    return (low + ((place % whole).float() / whole).unsqueeze(2) * (high - low)).float()


def _inside(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Where there is a series and not padding, ``[N, T]`` of bool."""
    return torch.ones(x.shape[:2], dtype=torch.bool) if lengths is None else length_mask(lengths, x.shape[1]).T


def _rounded(x: Tensor) -> tuple[float, ...]:
    """Numbers rounded to the digits that a model file keeps."""
    return tuple(float(f"{number:.5g}") for number in x.flatten().tolist())
