"""What all tests share."""

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYTASK_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(autouse=True)
def no_handler_left() -> Iterator[None]:
    """A handler that stays behind would print what later tests log, wherever they run."""
    logger = logging.getLogger("polytask")
    before = list(logger.handlers)
    yield
    assert logger.handlers == before


@pytest.fixture(scope="session")
def data_root() -> Path:
    root = Path(os.environ.get("POLYTASK_DATA", Path(__file__).parents[2] / "shared" / "data")).resolve()
    if not root.is_dir():
        pytest.skip(f"the real data sets are not at {root} (set POLYTASK_DATA)")
    return root


@pytest.fixture
def polytask(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., tuple[int, str, str]]:
    """Run a command in this process, in an empty folder; gives exit code, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*words: object) -> tuple[int, str, str]:
        from polytask.cli import main

        capsys.readouterr()
        try:
            main([str(word) for word in words])
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def train_until(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Train a configuration into a folder until a step, which is not made: something goes wrong there."""

    def train_until(settings, folder: Path, stop: int) -> None:
        from polytask.training.module import MultiTaskModule
        from polytask.training.train import train

        original = MultiTaskModule.training_step

        def stopping(self, step, number):
            if self.steps == stop:
                raise InterruptedError
            original(self, step, number)

        with monkeypatch.context() as patched:
            patched.setattr(MultiTaskModule, "training_step", stopping)
            with pytest.raises(InterruptedError):
                train(settings, folder)

    return train_until
