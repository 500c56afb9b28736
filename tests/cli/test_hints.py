"""A value that was typed in capitals, or misspelt, gets the one that was meant."""

import pytest
from typer.testing import CliRunner

import distfa
from distfa.cli import app
from distfa.errors import DistfaError


@pytest.mark.parametrize(
    ("args", "meant"),
    [
        ("eval . --split Test", "test"),
        ("export . --format ONNX", "onnx"),
        ("launch run --on Slurm", "slurm"),
        ("launch run --on rayup", "ray-up"),
        ("launch render --on Docker -o out", "docker"),
        ("experiment Classes", "classes"),
        ("experiment label_noise", "label-noise"),
        ("experiment classes --quick --rules bp,DFA", "dfa"),
        ("train --rule DFA", "dfa"),
        ("train --data MNIST", "mnist"),
        ("train --engine serial --model LeNet", "lenet"),
        ("train --engine Serial", "serial"),
        ("train --optimizer ADAM", "adam"),
        ("bench comm --lr-schedule Cosine", "cosine"),
    ],
)
def test_what_was_meant_is_named(args, meant, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cluster.yaml").write_text("nodes: 1\n")
    with pytest.raises(DistfaError, match=f"did you mean '{meant}'"):
        CliRunner().invoke(app, args.split(), catch_exceptions=False)
    assert [path.name for path in tmp_path.iterdir()] == ["cluster.yaml"]


def test_a_figure_to_watch_is_one_of_those_there_are():
    with pytest.raises(DistfaError, match="did you mean 'test_loss'"):
        distfa.EarlyStopping(monitor="Test-Loss")
