"""Named settings: the quick start, the paper's experiments by two versions of its code and trained better, and sequences.

Source of the paper's experiments: W. Zhang and P. Li, NeurIPS 2020, arXiv 2002.10085, and the published code behind the paper's
table, before the changes of its last days (docs/gradient.md), and of December 2020.
"""

from dataclasses import dataclass, replace
from typing import Any

from tsslbp.network.architecture import PAPER, NetworkSettings
from tsslbp.training.settings import TrainConfig
from tsslbp.utils.errors import unknown
from tsslbp.utils.fields import kinds_of


@dataclass(frozen=True)
class Recipe:
    """Settings with a line about their purpose."""

    summary: str
    config: TrainConfig
    published: str = ""
    """The paper's test accuracy in percent, of the best test epoch, trained on all training images; empty if it has none."""


Settings = dict[str, Any]

_october: Settings = {"learning_rate": 2e-4, "loss": "kernel(desired=01011)"}
_december: Settings = {"learning_rate": 5e-4, "loss": "kernel(target=double)"}


def _published(
    name: str, summary: str, accuracy: str, shared: Settings, october: Settings = _october, december: Settings = _december
) -> dict[str, Recipe]:
    """One of the paper's experiments twice: by the code behind the table, and by the last version of the code."""
    shared = {"epochs": 100, **shared}
    paper = f"{accuracy} after {shared['epochs']} epochs"
    return {
        name: Recipe(
            f"paper: {summary}; code of October 2020, behind the paper's {accuracy}",
            replace(_of(name), **shared, **october),
            paper,
        ),
        f"{name}-head": Recipe(
            f"paper: {summary}; last version of the code, December 2020",
            replace(_of(f"{name}-head"), **shared, **december),
            f"{paper}, by the code of October 2020",
        ),
    }


def _of(name: str) -> TrainConfig:
    """Settings for one of the paper's networks."""
    return TrainConfig(recipe=name, **{setting: getattr(PAPER[name], setting) for setting in kinds_of(NetworkSettings)})


def _better(name: str, **settings: Any) -> Recipe:
    """The network and T of one of the paper's experiments with our own settings, chosen on validation (docs/better.md)."""
    head = RECIPES[f"{name}-head"]
    ours = {"rule": "tssl+", "loss": "kernel", "learning_rate": 1e-3, "schedule": "one-cycle", "average": 0.998, **settings}
    config = replace(head.config, recipe=f"{name}-best", **ours)
    return Recipe(f"the network and T of {name}, trained better: tssl+, one-cycle schedule", config, RECIPES[name].published)


_cifar10: Settings = {"data": "cifar10", "shift": 4, "flip": True, "epochs": 150}
_cifar10_december: Settings = {**_december, "learning_rate": 2e-4}
_deep = TrainConfig(
    padding=(1,),
    time_steps=3,
    tau_s=1.5,
    rule="tssl+",
    loss="kernel(label_weight=6)",
    flip=True,
    learning_rate=2e-3,
    schedule="one-cycle",
    average=0.998,
)
"""Common settings of our own networks for coloured pictures."""
_memory: Settings = {
    "tau_m": 20.0,
    "tau_s": 5.0,
    "rule": "superspike",
    "loss": "softmax",
    "epochs": 15,
    "learning_rate": 5e-3,
    "schedule": "one-cycle",
}
_spoken: Settings = {
    "tau_m": 10.0,
    "dropout": 0.2,
    "rule": "surrogate",
    "loss": "softmax",
    "epochs": 40,
    "schedule": "one-cycle",
}

RECIPES: dict[str, Recipe] = {
    "quickstart": Recipe(
        "scikit-learn's handwritten digits, a small convolutional network; takes under a minute on two cores",
        TrainConfig(
            recipe="quickstart",
            network="32C3-64C3-P2-128-10",
            padding=(1, 0),
            conv_scale=3.0,
            epochs=30,
            batch_size=25,
            learning_rate=2e-3,
            schedule="one-cycle",
        ),
    ),
    **_published(
        "mnist-cnn",
        "MNIST, convolutional",
        "99.50 ± 0.02",
        {"data": "mnist"},
        october={**_october, "batch_size": 100},
    ),
    **_published(
        "nmnist-cnn",
        "N-MNIST events (all 60,000 recordings), convolutional, T = 30",
        "99.23 ± 0.05",
        {"data": "nmnist", "loss": "count(desired=15, undesired=3)"},
        october={},
        december={},
    ),
    **_published(
        "fashion-mnist-fc",
        "Fashion-MNIST, fully connected",
        "89.75 ± 0.03",
        {"data": "fashion-mnist", "batch_size": 100},
    ),
    **_published(
        "fashion-mnist-cnn",
        "Fashion-MNIST, convolutional",
        "92.69 ± 0.09",
        {"data": "fashion-mnist"},
        october={"loss": "count(undesired=1)"},
    ),
    **_published("cifar10-cnn1", "CIFAR-10, first network", "88.98 ± 0.27", _cifar10, december=_cifar10_december),
    **_published("cifar10-cnn2", "CIFAR-10, second network", "91.41", _cifar10, december=_cifar10_december),
    "cifar10-small": Recipe(
        "CIFAR-10 on two cores: a smaller network than the paper's, three steps, ten output neurons per class",
        replace(
            _deep,
            recipe="cifar10-small",
            data="cifar10",
            network="64C3-P2-128C3-P2-256C3-256C3-P2-512-100-V10",
            conv_scale=3.0,
            standardise=True,
            dropout=0.1,
            shift=4,
            epochs=30,
        ),
        "88.98 ± 0.27 and 91.41 after 150 epochs, larger networks",
    ),
    "cifar10-resnet": Recipe(
        "CIFAR-10 on two cores: a residual network of 12 layers, three steps, ten output neurons per class",
        replace(
            _deep,
            recipe="cifar10-resnet",
            data="cifar10",
            network="48C3n-[48C3n-48C3n]-[96C3s2n-96C3n]-[96C3n-96C3n]-[192C3s2n-192C3n]-[192C3n-192C3n]-A8-100b-V10",
            shift=4,
            epochs=24,
        ),
        "88.98 ± 0.27 and 91.41 after 150 epochs, plain networks",
    ),
    "cifar10-resnet18": Recipe(
        "CIFAR-10 on the ResNet-18 of the field, four steps; not trained here yet, and meant for a GPU or several processes",
        replace(
            _deep,
            recipe="cifar10-resnet18",
            data="cifar10",
            network="64C3n-[64C3n-64C3n]-[64C3n-64C3n]-[128C3s2n-128C3n]-[128C3n-128C3n]-[256C3s2n-256C3n]-[256C3n-256C3n]-"
            "[512C3s2n-512C3n]-[512C3n-512C3n]-A4-100b-V10",
            time_steps=4,
            shift=4,
            epochs=100,
        ),
    ),
    "tiny-imagenet-40": Recipe(
        "40 classes of Tiny-ImageNet on two cores, pictures in their files: a residual network of 10 layers, three steps",
        replace(
            _deep,
            recipe="tiny-imagenet-40",
            data="image-folder:TinyImageNet-40",
            network="64C5s2n-[64C3n-64C3n]-[128C3s2n-128C3n]-[256C3s2n-256C3n]-[256C3n-256C3n]-A8-400b-V10",
            padding=(2, *8 * (1,)),
            loss="kernel(label_weight=20)",
            random_crop=0.3,
            epochs=30,
        ),
    ),
    "spike-pattern": Recipe(
        "precise spike times: 100 frozen Poisson trains are answered by 10 given trains of 5 spikes",
        TrainConfig(
            recipe="spike-pattern",
            data="spike-pattern",
            network="200-10",
            time_steps=100,
            tau_m=10.0,
            tau_s=4.0,
            rule="tssl+",
            epochs=30,
            batch_size=1,
            learning_rate=1e-2,
            schedule="cosine",
        ),
    ),
    "spoken-digits": Recipe(
        "speech: 3,000 spoken digits (FSDD) as spikes of 40 mel bands, recurrent",
        TrainConfig(
            recipe="spoken-digits",
            data="spoken-digits",
            network="200R-10",
            time_steps=50,
            tau_s=5.0,
            learning_rate=2e-3,
            precision="float32",
            **_spoken,
        ),
    ),
    "japanese-vowels": Recipe(
        "time series of different lengths: nine speakers say two vowels, recurrent",
        TrainConfig(
            recipe="japanese-vowels",
            data="japanese-vowels",
            network="100R-9",
            time_steps=29,
            tau_s=4.0,
            batch_size=30,
            learning_rate=3e-3,
            **_spoken,
        ),
    ),
    "delayed-xor": Recipe(
        "memory: was the second pulse on the same channel as the first, 30 silent steps ago? recurrent",
        TrainConfig(recipe="delayed-xor", data="delayed-xor", network="60R-2", time_steps=60, **_memory),
    ),
    "evidence": Recipe(
        "memory: on which side were more cues? recurrent with adaptive thresholds",
        TrainConfig(
            recipe="evidence",
            data="evidence",
            network="60A-2",
            time_steps=140,
            **{**_memory, "epochs": 10},
            tau_a=150.0,
            beta=0.1,
        ),
    ),
}

RECIPES |= {
    "mnist-cnn-best": _better("mnist-cnn", epochs=33, dropout=0.1, conv_scale=3.0, shift=1),
    "fashion-mnist-fc-best": _better("fashion-mnist-fc", epochs=100, dropout=0.2, flip=True),
    "fashion-mnist-cnn-best": _better(
        "fashion-mnist-cnn",
        epochs=33,
        dropout=0.2,
        conv_scale=3.0,
        standardise=True,
        learning_rate=2e-3,
        shift=1,
        flip=True,
    ),
}


def get(name: str) -> TrainConfig:
    """The settings of a recipe. Raises UserError for an unknown name."""
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    return RECIPES[name].config
