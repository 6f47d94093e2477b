"""The SQLite file that an Optuna study lives in: durable, one writer, rebuilt when it is damaged.

A file that is damaged, or of a search with other settings, is moved aside with a warning. Nothing
is lost: the evaluations themselves are in the store, and the search replays from there.
"""

from __future__ import annotations

import sqlite3
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from schedlab.errors import SchedlabError, SchedlabWarning

STUDY_NAME = "schedlab"
_SETTINGS = "settings"


@contextmanager
def open_study(
    path: Path | None, settings: str, *, num_objectives: int = 2
) -> Iterator[optuna.Study]:
    """The study in `path`; one that is damaged or of other settings is moved aside first.

    Trials that a killed search left running are marked as failed, which no sampler looks at.
    """
    if path is None:
        yield _create_study(optuna.storages.InMemoryStorage(), settings, num_objectives)
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not _intact(path):
            _move_aside(path, "is damaged")
        storage = _sqlite_storage(path)
        study = _create_study(storage, settings, num_objectives)
        if study.user_attrs[_SETTINGS] != settings:
            _close(storage)
            _move_aside(path, "belongs to a search with other settings")
            storage = _sqlite_storage(path)
            study = _create_study(storage, settings, num_objectives)
        try:
            for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                study.tell(trial.number, state=TrialState.FAIL)
            yield study
        finally:
            _close(storage)
    except (sqlite3.Error, SQLAlchemyError, StorageInternalError, OSError) as error:
        raise SchedlabError(
            f"{path}: {error}; finished evaluations are kept, resume when it can be written"
        ) from error


def add_complete(
    study: optuna.Study,
    params: dict[str, Any],
    distributions: dict[str, BaseDistribution],
    values: Sequence[float],
    constraints: Mapping[str, float],
) -> None:
    """A complete trial in one transaction: no crash can leave half of it."""
    study.add_trial(
        optuna.trial.create_trial(
            params=params,
            distributions=distributions,
            values=values,
            constraints=dict(constraints),
        )
    )


def make_sampler(
    kind: Literal["gp", "tpe"], seed: int, *, num_startup: int
) -> optuna.samplers.BaseSampler:
    """A sampler for noisy objectives; the Gaussian process begins after so many random trials."""
    if kind == "tpe":
        return optuna.samplers.TPESampler(seed=seed)
    return optuna.samplers.GPSampler(
        seed=seed, n_startup_trials=num_startup, deterministic_objective=False
    )


class _DurableConnection(sqlite3.Connection):
    """WAL, and every commit on the disk before it returns."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.execute("PRAGMA journal_mode=WAL")
        self.execute("PRAGMA synchronous=FULL")


def _create_study(
    storage: optuna.storages.BaseStorage, settings: str, num_objectives: int
) -> optuna.Study:
    study = optuna.create_study(
        study_name=STUDY_NAME,
        storage=storage,
        directions=["minimize"] * num_objectives,
        load_if_exists=True,
    )
    if _SETTINGS not in study.user_attrs:
        study.set_user_attr(_SETTINGS, settings)
    return study


def _sqlite_storage(path: Path) -> optuna.storages.RDBStorage:
    def connect() -> sqlite3.Connection:
        # A creator, not a URL: a path may hold any character.
        return sqlite3.connect(path, timeout=60, factory=_DurableConnection)

    return optuna.storages.RDBStorage("sqlite://", engine_kwargs={"creator": connect})


def _close(storage: optuna.storages.RDBStorage) -> None:
    storage.remove_session()
    storage.engine.dispose()


def _intact(path: Path) -> bool:
    try:
        connection = sqlite3.connect(path, timeout=60)
        try:
            return connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        finally:
            connection.close()
    except sqlite3.OperationalError:
        raise  # locked or unreadable, not damaged
    except sqlite3.DatabaseError:
        return False


def _move_aside(path: Path, why: str) -> None:
    number = 1
    while (aside := path.with_name(f"{path.name}.old-{number}")).exists():
        number += 1
    for suffix in ("", "-wal", "-shm"):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(aside.with_name(aside.name + suffix))
    warnings.warn(
        f"{path} {why}; moved aside to {aside.name} and rebuilt from the stored evaluations",
        SchedlabWarning,
        stacklevel=3,
    )
