"""What experiments with a CRF as RNN share: the model of another experiment becomes the network below the CRF."""

from ml_collections import ConfigDict


def below_crf(config: ConfigDict, **fields) -> ConfigDict:
    """An unlocked config whose model is `crf_rnn` on the one that it had, with the iterations of Zheng et al. 2015.

    Args:
      fields: further fields of `crf_rnn`.
    """
    config = config.unlock()
    network = {name: value for name, value in config.model.items() if name != "dtype"}
    crf = {"name": "crf_rnn", "dtype": config.model.dtype, "network": network}
    config.model = ConfigDict({**crf, "iterations": 5, "evaluation_iterations": 10, **fields})
    return config
