"""What a run imports, and when."""

import sys

import pytest
from programs import execute


@pytest.mark.long
def test_publishing_is_imported_only_where_a_card_is_written_or_a_model_is_pushed() -> None:
    program = "import sys, finetune.run.experiment\nprint([name for name in sys.modules if 'publishing' in name])"
    assert execute([sys.executable, "-W", "ignore", "-c", program]).splitlines()[-1] == "[]"
