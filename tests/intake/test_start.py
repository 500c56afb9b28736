"""A start that would take too much is refused before it, with its figure; the start that was used has a name."""

from dataclasses import replace

import pytest
from torch import nn

import distfa
from distfa.core.base.model import Network
from distfa.errors import SpecError
from distfa.intake.start import check_start, start_in_words
from distfa.settings import parse_spec


def conv(outputs, *head):
    """The description of a conv net; outputs by the million are cheap in a description."""
    body = [nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 64, 3), nn.ReLU()]
    whole = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10), *head)
    *below, last = distfa.split(whole, (3, 32, 32)).layers
    return Network((*below, replace(last, output_shape=(outputs,))))


def test_the_start_that_was_used_is_named():
    assert start_in_words(parse_spec({"rule": "dfa"}).recipe(conv(10))) == "aligned"
    assert start_in_words(parse_spec({"rule": "dfa"}).recipe(conv(4000))) == "aligned by rank 64"
    assert start_in_words(parse_spec({"rule": "dfa", "init": "random"}).recipe(conv(4000))) == "random"
    assert start_in_words(parse_spec({"rule": "fa"}).recipe(conv(4000))) == "aligned"


def test_rows_that_can_only_go_back_one_by_one_are_refused_where_they_are_many():
    check_start(parse_spec({"rule": "dfa", "engine": "serial"}), conv(5000))
    with pytest.raises(
        SpecError, match=r"5,000 rows of feedback would go back through layer 3 one by one.*single Linear"
    ):
        check_start(parse_spec({"rule": "dfa", "engine": "serial"}), conv(5000, nn.Softplus(beta=2)))
    check_start(parse_spec({"rule": "fa", "engine": "serial"}), conv(5000, nn.Softplus(beta=2)))


def test_a_message_that_would_be_too_long_is_known_before_the_start():
    """It ended the run at step 0."""
    with pytest.raises(SpecError, match=r"5,000 outputs .* 327.7 MB across boundary 1.*set wire.max_message_mib: 313"):
        check_start(parse_spec({"rule": "dfa"}), conv(5000))
    check_start(parse_spec({"rule": "dfa", "wire": {"max_message_mib": 313}}), conv(5000))
    with pytest.raises(SpecError, match=r"3.3 GB across boundary 1.*; set init: random"):
        check_start(parse_spec({"rule": "dfa"}), conv(50_000))
    check_start(parse_spec({"rule": "dfa", "init": "random"}), conv(2000))


def test_matrices_that_no_memory_holds_are_refused_with_their_size():
    with pytest.raises(SpecError, match=r"each of the 2,000,000 outputs .* would need about [\d,.]+ GB to start, but"):
        check_start(parse_spec({"rule": "dfa", "init": "random", "engine": "serial"}), conv(2_000_000))
    check_start(parse_spec({"rule": "fa", "engine": "serial"}), conv(2_000_000))


def test_the_memory_of_a_cluster_is_not_judged_by_that_of_this_machine(monkeypatch):
    many, spec = conv(2_000_000), parse_spec({"rule": "dfa", "init": "random"})
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(SpecError, match="this machine has"):
        check_start(spec, many)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    check_start(spec, many)
