"""SlimmeRF: TensoRF whose ranks can be cut after training."""

from tensorbench.radiance_fields.slimmerf.field import SlimVM, load_slim, save_slim, select, slim, vm_weights
from tensorbench.radiance_fields.slimmerf.ranks import AllAtOnce, FixedRanks, TRaIn
from tensorbench.radiance_fields.slimmerf.trainer import train_slim

__all__ = [
    "AllAtOnce",
    "FixedRanks",
    "SlimVM",
    "TRaIn",
    "load_slim",
    "save_slim",
    "select",
    "slim",
    "train_slim",
    "vm_weights",
]
