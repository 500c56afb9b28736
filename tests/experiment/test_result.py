"""What a result says bp would have sent."""

import pytest
from runs import recipe

from distfa.codecs import CODECS
from distfa.experiment.result import bp_payload

R = recipe((12, 17, 9, 5))


@pytest.mark.parametrize(
    ("codec", "down"), [("fp32", 100 * 9 * 4), ("int8", 100 * 13), ("int4", 100 * 9), ("packed", 100 * (2 + 9 * 4))]
)
def test_bp_sends_the_runs_own_activations_up_and_errors_without_zeros_as_wide_down(codec, down):
    assert bp_payload(R, {"boundary": 2, "up_payload": 777}, rows=100, down=CODECS[codec]) == 777 + down
