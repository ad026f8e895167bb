"""Matrix products by oneDNN over those by MKL (``tsslbp.layers.products``), on a quiet machine.

python benchmarks/products.py [SECONDS]

Prints the time of oneDNN as a share of MKL's, for each of the three products of a linear map and many sizes.
"""

import itertools

import command
import torch

from tsslbp.bench.measure import interleaved
from tsslbp.layers import products
from tsslbp.utils import machine
from tsslbp.utils.tables import markdown

MAPS = (100, 100), (400, 400), (784, 400), (700, 128), (3136, 1024)
"""Inputs and outputs."""
BATCHES = 100, 250, 500, 2000, 10_000
MOST = 2_000_000_000
"""Multiplications of the largest product."""


def ratios(inputs: int, outputs: int, batch: int, seconds: float) -> list[float]:
    """Of the product itself, of the gradient by the signal and of that by the weight."""
    x, weight, delta = torch.randn(batch, inputs), torch.randn(outputs, inputs), torch.randn(batch, outputs)
    factors = (x, weight), (delta, weight.t()), (delta.t(), x.t())
    ms = interleaved(
        {
            f"{place} {name}": lambda by=by, pair=pair: by(*pair)  # type: ignore[misc]
            for place, pair in enumerate(factors)
            for name, by in (("oneDNN", products._by_onednn), ("MKL", torch.nn.functional.linear))
        },
        seconds,
    )
    return [ms[f"{place} oneDNN"] / ms[f"{place} MKL"] for place in range(len(factors))]


def main(seconds: str = "1") -> None:
    machine.keep_memory()
    each = command.positive("SECONDS", seconds)
    sizes = [(*map_, batch) for map_, batch in itertools.product(MAPS, BATCHES) if map_[0] * map_[1] * batch <= MOST]
    rows = [
        [f"{inputs} to {outputs}", str(batch), *(f"{ratio:.2f}" for ratio in ratios(inputs, outputs, batch, each))]
        for inputs, outputs, batch in sizes
    ]
    print(markdown(["map", "rows", "product", "by signal", "by weight"], rows))


if __name__ == "__main__":
    command.run(main, __doc__)
