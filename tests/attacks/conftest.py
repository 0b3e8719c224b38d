"""What attacks need: a home outside, which must stay as it is."""

from pathlib import Path

import pytest
from attacks.limited import Outside


@pytest.fixture
def outside(tmp_path: Path) -> Outside:
    """A home beside the test's own folder `work`."""
    (tmp_path / "work").mkdir()
    return Outside(tmp_path / "home")
