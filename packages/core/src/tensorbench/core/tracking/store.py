"""The few calls made to MLflow. With SQLite each write is one short call under a file lock, so that no process ever
meets ``database is locked``; with a server the calls fail within seconds instead of MLflow's minutes.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from mlflow.entities import Metric, Run
    from mlflow.tracking import MlflowClient

log = logging.getLogger(__name__)

METRICS_PER_CALL = 1000  # MLflow's limits for one log_batch
ENTRIES_PER_CALL = 100
TAG_LENGTH = 8000
PARAM_LENGTH = 6000
LOCK_SECONDS = 120.0  # longest wait for the SQLite file lock before the store counts as lost
PROBE_SECONDS = 3.0

# MLflow reads its settings from the environment only. The user's own values win.
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",  # seconds; MLflow's own default is 120
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # MLflow's own default is 7, minutes in all
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",  # a benchmark does not phone home
}


def default_uri(results: Path) -> str:
    """The tracking URI: ``MLFLOW_TRACKING_URI`` if set, else SQLite in ``results/mlflow.db``."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path(results).resolve() / 'mlflow.db'}"


def sqlite_path(uri: str) -> Path | None:
    """The database file of a SQLite URI, None for every other store."""
    return Path(uri.removeprefix("sqlite:///").split("?")[0]).resolve() if uri.startswith("sqlite:///") else None


def shown(uri: str) -> str:
    """``uri`` without a password, for messages."""
    return re.sub(r"://[^/@]*@", "://…@", uri)


def artifact_root(database: Path) -> Path:
    """Where a SQLite store's artifacts lie: beside the database."""
    return database.parent / "mlartifacts"


def initialise(uri: str, results: Path) -> bool:
    """Make the store ready; True when it is.

    SQLite: create or migrate the database once. It is built under another name and moved into place, so that neither
    two first users nor an interrupted one leave a half-migrated file. A server: check that it answers; when it does
    not, warn and return False (runs go on without it, ``snakemake sync`` logs them later).

    Raises OSError when the results folder cannot be written.
    """
    database = sqlite_path(uri)
    if database is None:
        problem = _server_problem(uri)
        if problem:
            log.warning("%s", unreachable(uri, problem))
        return problem is None
    Path(results).mkdir(parents=True, exist_ok=True)
    database.parent.mkdir(parents=True, exist_ok=True)
    _prepare()
    with _file_lock(database, timeout=300.0):
        if database.exists():
            _migrate(f"sqlite:///{database}")
        else:
            _create(database)
    return True


def unreachable(uri: str, problem: object) -> str:
    """The one warning about a store that cannot be used."""
    reason = str(problem).strip().splitlines()[0][:300] if str(problem).strip() else type(problem).__name__
    return (
        f"MLflow store {shown(uri)} cannot be used ({reason}). Runs go on and keep their records; "
        "`snakemake sync` logs what is missing once it is back."
    )


class Store:
    """An open MLflow store. Methods raise what MLflow raises: callers decide what a lost store means."""

    def __init__(self, uri: str, client: MlflowClient) -> None:
        self.uri = uri
        self.client = client
        self.database = sqlite_path(uri)

    @classmethod
    def open(cls, uri: str) -> Store:
        """Connect to ``uri``. SQLite is created when it is not there; a server that does not answer in seconds raises
        ConnectionError."""
        database = sqlite_path(uri)
        if database is not None and not database.exists():
            initialise(uri, database.parent)
        elif database is None and (problem := _server_problem(uri)):
            raise ConnectionError(problem)
        _prepare()
        if database is not None:
            _do_not_wait_for_the_disk()
        from mlflow.tracking import MlflowClient

        return cls(uri, MlflowClient(tracking_uri=uri, registry_uri=uri))

    def writing(self) -> AbstractContextManager[Any]:
        """The lock that one write holds; nothing for a server, which does its own."""
        return nullcontext() if self.database is None else _file_lock(self.database)

    def experiment(self, name: str) -> str:
        """The id of the experiment ``name``, created when absent."""
        found = self.client.get_experiment_by_name(name)
        if found is not None:
            if found.lifecycle_stage != "active":
                with self.writing():
                    self.client.restore_experiment(found.experiment_id)
            return found.experiment_id
        location = None if self.database is None else (artifact_root(self.database) / name).as_uri()
        from mlflow.exceptions import MlflowException

        try:
            with self.writing():
                return self.client.create_experiment(name, artifact_location=location, tags=_EXPERIMENT_TAGS)
        except MlflowException as error:
            # Another process was first.
            found = self.client.get_experiment_by_name(name)
            if found is None:
                raise error
            return found.experiment_id

    def create_run(self, experiment: str, name: str, tags: Mapping[str, object], start_ms: int) -> str:
        """A new run in state RUNNING; returns its id."""
        with self.writing():
            run = self.client.create_run(experiment, start_time=start_ms, tags=_tags(tags), run_name=name)
        return run.info.run_id

    def batch(self, run: str, metrics: Iterable[Metric] = (), params: Mapping[str, object] | None = None,
              tags: Mapping[str, object] | None = None) -> None:  # fmt: skip
        """Log metrics, params and tags in as few calls as MLflow's limits allow."""
        from mlflow.entities import Param, RunTag

        points = list(metrics)
        entries = [Param(_key(k), str(v)[:PARAM_LENGTH]) for k, v in (params or {}).items()]
        labels = [RunTag(k, v) for k, v in _tags(tags or {}).items()]
        while points or entries or labels:
            now_entries, entries = entries[:ENTRIES_PER_CALL], entries[ENTRIES_PER_CALL:]
            now_labels, labels = labels[:ENTRIES_PER_CALL], labels[ENTRIES_PER_CALL:]
            room = METRICS_PER_CALL - len(now_entries) - len(now_labels)
            now_points, points = points[:room], points[room:]
            with self.writing():
                self.client.log_batch(run, metrics=now_points, params=now_entries, tags=now_labels)

    def close(self, run: str, status: str, end_ms: int | None = None) -> None:
        """End a run with ``status`` FINISHED, FAILED or KILLED."""
        with self.writing():
            self.client.set_terminated(run, status=status, end_time=end_ms)

    def upload(self, run: str, path: Path, folder: str | None = None) -> None:
        """Keep the file ``path`` as an artifact of ``run``. Local files are copied without the lock."""
        self.client.log_artifact(run, str(path), artifact_path=folder)

    def upload_text(self, run: str, text: str, name: str) -> None:
        self.client.log_text(run, text, name)

    def runs(self, experiment: str, query: str = "") -> Iterator[Run]:
        """Every run of ``experiment`` that matches MLflow's search ``query``, page by page, newest first."""
        token = None
        while True:
            page = self.client.search_runs([experiment], filter_string=query, max_results=1000, page_token=token)
            yield from page
            token = page.token
            if not token:
                return


def where(**tags: object) -> str:
    """A search query for runs with all of ``tags``."""
    return " and ".join(f"tags.{key} = '{str(value)[:TAG_LENGTH]}'" for key, value in tags.items())


def metric_name(name: str) -> str:
    """``name`` with the characters that MLflow refuses replaced."""
    return _key(name)


# The UI asks what an experiment is for until it is told.
_EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}


def _key(name: str) -> str:
    return re.sub(r"[^/\w.\- :]", "_", str(name)).strip("/")[:250] or "_"


def _tags(tags: Mapping[str, object]) -> dict[str, str]:
    return {_key(key): str(value)[:TAG_LENGTH] for key, value in tags.items()}


def _prepare() -> None:
    """MLflow's settings, before its first import, and quiet loggers."""
    for key, value in _ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    for name in ("mlflow", "alembic"):
        if logging.getLogger(name).level == logging.NOTSET:
            logging.getLogger(name).setLevel(logging.WARNING)


@functools.cache
def _do_not_wait_for_the_disk() -> None:
    """SQLite leaves it to the operating system when writes reach the disk.

    A run is a dozen commits, and waiting for the disk at each took a tenth of a second of every run. A killed process
    loses nothing by it; a machine that loses power may lose the last runs or the database, which is a log: every run
    has its record, and ``snakemake sync`` logs what the store lacks.
    """
    import sqlite3

    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    @event.listens_for(Engine, "connect")
    def connected(connection: Any, record: Any) -> None:
        if isinstance(connection, sqlite3.Connection):
            with contextlib.suppress(sqlite3.Error):  # a broken database tells of itself when it is used
                connection.execute("PRAGMA synchronous=OFF")


def _file_lock(database: Path, timeout: float = LOCK_SECONDS) -> AbstractContextManager[Any]:
    # SQLite's own waiting is unfair: with a hundred writers some starve past MLflow's busy timeout (20 s) and lose
    # their run to "database is locked"; with this lock none did. It dies with its holder.
    from filelock import FileLock

    return FileLock(database.with_name(database.name + ".lock"), timeout=timeout, poll_interval=0.02)


def _create(database: Path) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    draft = database.with_name(f".{database.name}.new")
    leftovers = [draft, draft.with_name(draft.name + "-journal")]
    for path in leftovers:
        path.unlink(missing_ok=True)
    try:
        # SQLite's default journal stays: WAL saves under 0.1 s a run, and is unsafe on a disk that a cluster shares.
        SqlAlchemyStore(f"sqlite:///{draft}", artifact_root(database).as_uri())._dispose_engine()
        os.replace(draft, database)
    finally:
        for path in leftovers:
            path.unlink(missing_ok=True)


def _migrate(uri: str) -> None:
    """Bring an existing database to the schema of the installed MLflow (a no-op when it has it already)."""
    from mlflow.exceptions import MlflowException
    from mlflow.store.db import utils

    engine = utils.create_sqlalchemy_engine(uri)
    try:
        if not utils._all_tables_exist(engine):
            utils._initialize_tables(engine)
            return
        try:
            utils._verify_schema(engine)
        except MlflowException:
            log.info("migrating %s to the schema of the installed MLflow", uri)
            utils._upgrade_db(engine)
    finally:
        engine.dispose()


def _server_problem(uri: str) -> str | None:
    """Why the server at ``uri`` does not answer, or None when it does (or when ``uri`` is no http server)."""
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return None
    import requests

    try:
        answer = requests.get(f"{uri.rstrip('/')}/health", timeout=PROBE_SECONDS, allow_redirects=False)
    except requests.RequestException as error:
        cause = error.args[0] if error.args else error
        return f"{type(error).__name__}: {getattr(cause, 'reason', cause)}"
    # A proxy may hide /health or ask for a login there; only a server that says it is broken is.
    return f"it answers {answer.status_code} {answer.reason}" if answer.status_code >= 500 else None
