"""Names for people: ``cp_als`` → "CP-ALS", ``test_rmse`` → "test RMSE", ``fit_seconds`` → "fit time (s)"."""

from __future__ import annotations

import re
from collections.abc import Mapping

# Parts of method names: two of these side by side are joined by a hyphen (CP-ALS, FunBaT-CP).
_METHODS = {
    "adam": "Adam", "als": "ALS", "bcd": "BCD", "bptd": "BPTD", "bptf": "BPTF", "chebtuck": "ChebTuck",
    "cnn": "CNN", "cp": "CP", "dain": "DAIN", "dmrg": "DMRG", "funbat": "FunBaT", "ga": "GA", "gbm": "GBM",
    "gcp": "GCP", "gnn": "GNN", "gp": "GP", "hooi": "HOOI", "hosvd": "HOSVD", "ihosvd": "iHOSVD", "imtd": "IMTD",
    "inr": "INR", "jennrich": "Jennrich", "knn": "kNN", "lora": "LoRA", "lstm": "LSTM", "mlp": "MLP", "mps": "MPS",
    "mpo": "MPO", "mspm": "MSPM", "nls": "NLS", "pca": "PCA", "pnorm": "PNorm", "rnn": "RNN", "rre": "RRE",
    "sgd": "SGD", "sp": "SP", "spm": "SPM", "sthosvd": "ST-HOSVD", "svd": "SVD", "svgp": "SVGP", "svm": "SVM",
    "tn": "TN", "tnale": "TnALE", "tnga": "TNGA", "tnls": "TNLS", "tr": "TR", "tt": "TT", "tucker": "Tucker",
}  # fmt: skip
# Words that are written in a way of their own wherever they stand.
_WORDS = {
    "auc": "AUC", "beijing": "Beijing", "covid19": "COVID-19", "cpu": "CPU", "db": "dB", "elbo": "ELBO",
    "flops": "FLOPs", "fms": "FMS", "gpu": "GPU", "icews14": "ICEWS14", "il2": "IL2", "indian": "Indian",
    "io": "I/O", "kl": "KL", "l1": "L1", "l2": "L2", "mae": "MAE", "mnist": "MNIST", "mse": "MSE", "nll": "NLL",
    "pines": "Pines", "pm25": "PM2.5", "psnr": "PSNR", "pyttb": "pyttb", "r2": "R²", "rmse": "RMSE",
    "sklearn": "scikit-learn", "snr": "SNR", "ssim": "SSIM", "tensorly": "TensorLy", "us": "US",
    "wikitext": "WikiText",
}  # fmt: skip
# Units at the end of a name: what the quantity is called, and its unit.
_UNITS = {
    "seconds": ("time", "s"), "milliseconds": ("time", "ms"), "microseconds": ("time", "µs"),
    "bytes": ("memory", "bytes"), "kib": ("memory", "KiB"), "mib": ("memory", "MiB"), "gib": ("memory", "GiB"),
    "db": ("", "dB"), "percent": ("", "%"),
}  # fmt: skip

_own: dict[str, str] = {}


def set_labels(labels: Mapping[str, str]) -> None:
    """Labels that the rules of :func:`label` cannot know, for names of methods, datasets and metrics."""
    _own.update(labels)


def label(name: str) -> str:
    """The label of a method, dataset, metric or parameter for axes, legends and tables.

    A unit at the end of the name (``_seconds``, ``_mib``, ``_db``, ``_percent``) goes into brackets, known acronyms get
    their spelling, ``dataset.`` and ``method.`` are dropped, and a name that is not snake_case stays as it is.
    """
    if name in _own:
        return _own[name]
    name = re.sub(r"^(dataset|method)\.", "", str(name))
    if name in _own:
        return _own[name]
    if not re.fullmatch(r"[a-z0-9]+(_[a-z0-9]+)*", name):
        return name
    words, unit = name.split("_"), ""
    per = words.index("per") if "per" in words[1:] else len(words)
    if words[per - 1] in _UNITS and not (per == 1 == len(words) and words[0] == "db"):
        quantity, unit = _UNITS[words[per - 1]]
        already_said = not quantity or quantity in words
        words[per - 1 : per] = [] if already_said else [quantity]
    text = ""
    for previous, word in zip([None, *words], words, strict=False):
        hyphen = previous in _METHODS and word in _METHODS
        text += ("-" if hyphen else " " if text else "") + (_METHODS.get(word) or _WORDS.get(word) or word)
    return f"{text} ({unit})" if unit and text else text or unit
