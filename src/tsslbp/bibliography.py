"""The papers behind the rules and models, and this software, as BibTeX."""

from importlib.metadata import version

PAPERS: dict[str, str] = {
    "zhang2020temporal": r"""@inproceedings{zhang2020temporal,
  author    = {Zhang, Wenrui and Li, Peng},
  title     = {Temporal Spike Sequence Learning via Backpropagation for Deep Spiking Neural Networks},
  booktitle = {Advances in Neural Information Processing Systems},
  volume    = {33},
  year      = {2020},
  eprint    = {2002.10085},
  archivePrefix = {arXiv}
}""",
    "wunderlich2021event": r"""@article{wunderlich2021event,
  author  = {Wunderlich, Timo C. and Pehle, Christian},
  title   = {Event-based backpropagation can compute exact gradients for spiking neural networks},
  journal = {Scientific Reports},
  volume  = {11},
  pages   = {12829},
  year    = {2021},
  doi     = {10.1038/s41598-021-91786-z}
}""",
    "neftci2019surrogate": r"""@article{neftci2019surrogate,
  author  = {Neftci, Emre O. and Mostafa, Hesham and Zenke, Friedemann},
  title   = {Surrogate Gradient Learning in Spiking Neural Networks: Bringing the Power of Gradient-Based Optimization to
             Spiking Neural Networks},
  journal = {IEEE Signal Processing Magazine},
  volume  = {36},
  number  = {6},
  pages   = {51--63},
  year    = {2019},
  doi     = {10.1109/MSP.2019.2931595}
}""",
    "wu2018spatio": r"""@article{wu2018spatio,
  author  = {Wu, Yujie and Deng, Lei and Li, Guoqi and Zhu, Jun and Shi, Luping},
  title   = {Spatio-Temporal Backpropagation for Training High-Performance Spiking Neural Networks},
  journal = {Frontiers in Neuroscience},
  volume  = {12},
  pages   = {331},
  year    = {2018},
  doi     = {10.3389/fnins.2018.00331}
}""",
    "shrestha2018slayer": r"""@inproceedings{shrestha2018slayer,
  author    = {Shrestha, Sumit Bam and Orchard, Garrick},
  title     = {{SLAYER}: Spike Layer Error Reassignment in Time},
  booktitle = {Advances in Neural Information Processing Systems},
  volume    = {31},
  pages     = {1412--1421},
  year      = {2018},
  eprint    = {1810.08646},
  archivePrefix = {arXiv}
}""",
    "zenke2018superspike": r"""@article{zenke2018superspike,
  author  = {Zenke, Friedemann and Ganguli, Surya},
  title   = {{SuperSpike}: Supervised Learning in Multilayer Spiking Neural Networks},
  journal = {Neural Computation},
  volume  = {30},
  number  = {6},
  pages   = {1514--1541},
  year    = {2018},
  doi     = {10.1162/neco_a_01086}
}""",
    "bellec2020solution": r"""@article{bellec2020solution,
  author  = {Bellec, Guillaume and Scherr, Franz and Subramoney, Anand and Hajek, Elias and Salaj, Darjan and
             Legenstein, Robert and Maass, Wolfgang},
  title   = {A solution to the learning dilemma for recurrent networks of spiking neurons},
  journal = {Nature Communications},
  volume  = {11},
  pages   = {3625},
  year    = {2020},
  doi     = {10.1038/s41467-020-17236-y}
}""",
    "gutig2006tempotron": r"""@article{gutig2006tempotron,
  author  = {G{\"u}tig, Robert and Sompolinsky, Haim},
  title   = {The tempotron: a neuron that learns spike timing--based decisions},
  journal = {Nature Neuroscience},
  volume  = {9},
  number  = {3},
  pages   = {420--428},
  year    = {2006},
  doi     = {10.1038/nn1643}
}""",
    "huh2018gradient": r"""@inproceedings{huh2018gradient,
  author    = {Huh, Dongsung and Sejnowski, Terrence J.},
  title     = {Gradient Descent for Spiking Neural Networks},
  booktitle = {Advances in Neural Information Processing Systems},
  volume    = {31},
  year      = {2018},
  eprint    = {1706.04698},
  archivePrefix = {arXiv}
}""",
    "maass2002real": r"""@article{maass2002real,
  author  = {Maass, Wolfgang and Natschl{\"a}ger, Thomas and Markram, Henry},
  title   = {Real-Time Computing Without Stable States: A New Framework for Neural Computation Based on Perturbations},
  journal = {Neural Computation},
  volume  = {14},
  number  = {11},
  pages   = {2531--2560},
  year    = {2002},
  doi     = {10.1162/089976602760407955}
}""",
    "markram1998differential": r"""@article{markram1998differential,
  author  = {Markram, Henry and Wang, Yun and Tsodyks, Misha},
  title   = {Differential signaling via the same axon of neocortical pyramidal neurons},
  journal = {Proceedings of the National Academy of Sciences},
  volume  = {95},
  number  = {9},
  pages   = {5323--5328},
  year    = {1998},
  doi     = {10.1073/pnas.95.9.5323}
}""",
}


def software() -> str:
    """BibTeX of this software, in the version that runs; ``CITATION.cff`` says the same."""
    return f"""@software{{tsslbp,
  author  = {{{{The tsslbp developers}}}},
  title   = {{tsslbp: Train deep spiking neural networks by spike timing}},
  version = {{{version("tsslbp")}}},
  year    = {{2026}}
}}"""
