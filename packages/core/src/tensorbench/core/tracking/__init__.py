"""MLflow tracking: every run live in a store, and nothing about the store can hurt a run.

>>> live = RunLog.start(default_uri(Path("results")), experiment="decomposition/completion",
...                     name="funbat · beijing_pm25 · seed 2", tags={...}, params={...})
>>> live.log({"train_rmse": 0.3}, step=10)
>>> live.finish({"test_rmse": 0.2}, [Path("prediction.npy")])

The store is SQLite under ``results/`` unless ``MLFLOW_TRACKING_URI`` names another (an MLflow server over PostgreSQL).
Importing this package imports neither mlflow nor torch; the first use of the store imports mlflow (about 1.5 s).
"""

from tensorbench.core.tracking.report import log_report
from tensorbench.core.tracking.run_log import RunLog, earlier_runs
from tensorbench.core.tracking.store import Store, default_uri, initialise
from tensorbench.core.tracking.sync import sync

__all__ = ["RunLog", "Store", "default_uri", "earlier_runs", "initialise", "log_report", "sync"]
