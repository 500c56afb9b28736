"""The run spec: defaults, files, changes, and clear refusals."""

import contextlib

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from distfa.errors import SpecError
from distfa.settings import RunSpec, dump_spec, flat, load_spec, parse_change, parse_spec


def test_a_dumped_spec_loads_as_itself(tmp_path):
    spec = parse_spec({"rule": "fa", "optimizer": {"name": "sgd", "lr": 0.5}, "ray": {"layers": {2: {"cpus": 0.5}}}})
    for explain in (False, True):
        path = tmp_path / f"{explain}.yaml"
        path.write_text(dump_spec(spec, explain=explain))
        assert load_spec(path) == spec


def test_every_explained_key_is_there():
    text = dump_spec(RunSpec(), explain=True)
    assert yaml.safe_load(text) == RunSpec().model_dump(mode="json")
    assert "  # signals that may wait at each end of a" in text  # and the rest of the sentence below it


def test_numbers_yaml_takes_for_text_are_numbers():
    assert parse_change("optimizer.lr=3e-4") == ("optimizer.lr", 3e-4)
    assert load_spec(None, [parse_change("optimizer.betas=[9e-1, 0.99]")]).optimizer.betas == (0.9, 0.99)


@pytest.mark.parametrize(
    "written", ["'007'", "007", "'1e5'", "1e5", "1.10", "1_000", "0x10", "12:30", "2024-01-01", "on"]
)
@pytest.mark.parametrize("key", ["data.dir", "run_dir", "checkpoint.dir", "data.hub"])
def test_text_stays_as_it_was_written_in_a_file_in_a_change_and_in_the_runs_own_spec(tmp_path, key, written):
    """``dir: "007"`` was '7.0', and a run that was resumed read another directory."""
    part, _, name = key.rpartition(".")
    file, again = tmp_path / "spec.yaml", tmp_path / "again.yaml"
    file.write_text(f"{part}:\n  {name}: {written}\n" if part else f"{name}: {written}\n")
    for spec in (load_spec(file), load_spec(None, [parse_change(f"{key}={written}")])):
        again.write_text(dump_spec(spec))
        for found in (spec, load_spec(again)):
            assert flat(found.model_dump())[key] == written.strip("'")


def test_numbers_are_numbers_however_they_are_written():
    changes = ["epochs=1e3", "batch_size='32'", "seed=007", "optimizer.lr='3e-4'", "optimizer.weight_decay=.5"]
    spec = load_spec(None, [parse_change(change) for change in [*changes, "check_finite=no", "model.hidden=[1e2]"]])
    assert (spec.epochs, spec.batch_size, spec.seed, spec.optimizer.lr) == (1000, 32, 7, 3e-4)
    assert (spec.optimizer.weight_decay, spec.check_finite, spec.model.hidden) == (0.5, False, (100,))
    assert type(spec.epochs) is int


FREE = ("model.name", "model.layers", "wire.host", "wire.ports", "launch.python", "launch.ray")
ENUMERATED = {key: value for key, value in flat(RunSpec().model_dump()).items() if type(value) is str}


@pytest.mark.parametrize("key", sorted(set(ENUMERATED) - set(FREE)))
def test_a_value_in_capitals_or_misspelt_gets_the_one_that_was_meant(key):
    """``--rule DFA`` named all rules and not the one that was meant."""
    value = ENUMERATED[key]
    for wrong in (value.upper(), value.title(), value + value[-1], value.replace("_", "-") + "s"):
        with pytest.raises(SpecError, match=f"'{wrong}' is not one of .*did you mean '{value}'"):
            load_spec(None, [(key, wrong)])


@pytest.mark.parametrize(("wrong", "key"), [("Rule", "rule"), ("EPOCHS", "epochs"), ("Batch-Size", "batch_size")])
def test_a_key_in_capitals_gets_the_one_that_was_meant(wrong, key):
    with pytest.raises(SpecError, match=f"unknown key '{wrong}' in the spec; did you mean '{key}'"):
        load_spec(None, [(wrong, 1)])


@pytest.mark.parametrize("wrong", ["a,b", 0, [[1, "x"]], 1.5])
def test_workers_are_a_number_or_lists_of_layers(wrong):
    with pytest.raises(SpecError, match=r"ray.workers is .*, but it must be a number of workers, auto, or the layers"):
        load_spec(None, [("ray.workers", wrong)])


def test_a_path_is_text(tmp_path):
    assert parse_spec({"run_dir": tmp_path, "data": {"dir": tmp_path}}).data.dir == str(tmp_path)


def test_a_short_form_keeps_what_was_said_before():
    spec = load_spec(None, [("optimizer.lr", 0.5), ("optimizer", "sgd"), ("data", "mnist"), ("data.dir", "here")])
    assert (spec.optimizer.name, spec.optimizer.lr, spec.data.name, spec.data.dir) == ("sgd", 0.5, "mnist", "here")


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"rul": "fa"}, r"unknown key 'rul' in the spec; did you mean 'rule'\?"),
        ({"wire": {"deadline": 3}}, r"unknown key 'wire.deadline' .*'wire.deadline_seconds'"),
        ({"batch_size": 0, "epochs": 0}, r"epochs is 0: .* \(and 1 more\)"),
        ({"optimizer": {"nesterov": True}}, "nesterov needs momentum above 0"),
        ({"dtype": "float16"}, r"dtype: 'float16' is not one of float32, float64, bfloat16"),
        ({"seed": -1}, "seed is -1"),
        ({"schedule": "async"}, "^schedule is 'async' but a step has one micro-batch.*set micro_batches to 2 or more"),
        ({"schedule": "asinc"}, "'asinc' is not one of sync, async; did you mean 'async'"),
        ({"ledger": {"every": 0, "exact": True}}, "but every is 0; set ledger.every to 1 or more"),
        (
            {"rule": "fa", "feedback": {"renew": {"every": 5}}},
            "feedback.renew works only with rule dfa, dkp.*'fa'; leave it out",
        ),
        ({"feedback": {"renew": {"every": 5, "below": 0.5}}}, "renew.every and renew.below cannot be combined"),
        ({"feedback": {"rank": 2, "renew": {"every": 5}}}, "feedback.rank is 2; leave one out"),
        ({"feedback": {"renew": {"below": 0.5}}, "probe": {"every": 0}}, "probe.every is 0; set it to 1 or more"),
        (
            {"feedback": {"renew": {"below": 0.5}}, "probe": {"every": 1}, "schedule": "async", "micro_batches": 2},
            "probe.every is 1; set it to 2 or more",
        ),
        ({"rule": "kp", "feedback": {"decay": 0.1}}, "feedback.decay works only with rule dkp.*'kp'; leave it out"),
        (
            {"rule": "fa", "feedback": {"fanout": 2}},
            "feedback.fanout works only with rule dfa, dkp, skip, which sends every layer the same error, not",
        ),
        ({"feedback": {"fanout": 2, "rank": 3}}, "needs full rank, .*feedback.rank is 3; leave one out"),
        ({"optimizer": {"schedule": "cosin"}}, "did you mean 'cosine'"),
        ({"optimizer": {"lr": float("nan")}}, "optimizer.lr"),
        ({"codec": {"errors": "int9"}}, r"codec.errors: 'int9' is not one of .*did you mean 'int8'"),
    ],
)
def test_a_broken_rule_is_one_line_that_names_the_key(raw, message):
    with pytest.raises(SpecError, match=message) as caught:
        parse_spec(raw)
    assert "\n" not in str(caught.value)


@settings(deadline=None)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), lambda c: st.lists(c, max_size=3)))
def test_any_value_anywhere_is_a_spec_or_a_spec_error(value):
    for key in ("rule", "optimizer", "model.hidden", "ray.layers", "epochs"):
        with contextlib.suppress(SpecError):
            load_spec(None, [(key, value)])
