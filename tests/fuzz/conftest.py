import pytest
import targets


@pytest.fixture(autouse=True)
def _quiet():
    """Keeps logs quiet for these tests alone: others read what is logged."""
    before = [logger.level for logger in targets.LOGGERS]
    targets.quieten()
    yield
    for logger, level in zip(targets.LOGGERS, before, strict=True):
        logger.setLevel(level)
