"""Every command in the documentation can be typed: it parses, its values exist, and a test or a script types it.

What cannot be run here is marked in the page, with the reason: ``<!-- not run here: why -->``, up to the next heading.
"""

import functools
import importlib.metadata
import os
import re
import shlex
import stat
import subprocess
import sys
from inspect import signature

import pytest
import typer
from commands import here
from doc_commands import ROOT, commands
from typed import commands as cli_commands
from typer.testing import CliRunner

from distfa import codecs, data, models
from distfa import settings as specs
from distfa.api.export import FORMATS
from distfa.bench.rules import INITS
from distfa.cli import app, train
from distfa.core.base.recipe import SCHEDULES
from distfa.core.rules import RULES
from distfa.lab.questions.asking import QUESTIONS
from distfa.launch import targets
from distfa.runtime.faults import Fault

FOUND = list(commands())
OURS = [found for found in FOUND if re.search(r"(?:^|\s|')distfa [a-z-]", found.text)]
TESTED = [  # how a command begins, and the test or the script that types it, in a smaller size where it takes long
    (r"distfa train --resume", "cli/test_train.py::test_a_run_that_was_killed_goes_on_and_ends_as_the_whole"),
    (
        r"distfa train .*--address auto",
        "launch/test_readme.py::test_the_three_commands_start_two_nodes",
    ),
    (
        r"distfa train .*--address",
        "cli/test_attach.py::test_a_run_attaches_gives_the_same_weights",
    ),
    (r"distfa train .*--data shards", "cli/test_shards_command.py::test_a_run_on_shards_from_the_command_line"),
    (
        r"python scripts/shards.py",
        "runtime/test_ray_shards.py::test_the_script_that_measures_memory_finds_equal_weights",
    ),
    (r"distfa train .*--model", "test_models.py::test_resnet20_has_the_published_size"),
    (r"distfa train .*device=cuda", "runtime/test_cuda.py::"),
    (r"distfa train( |$)", "cli/test_train.py::test_"),
    (r"distfa (eval|export)", "api/test_export.py::test_"),
    (r"distfa predict", "cli/test_predict_command.py::test_"),
    (r"distfa (watch|report|metrics|rules|spec)", "cli/test_looking.py::test_"),
    (r"distfa status", "cli/test_status.py::test_"),
    (r"distfa doctor", "cli/test_attach.py::test_doctor_looks_at_a_cluster_and_lets_two_layers_talk"),
    (r"distfa --version", "test_packaging.py::test_the_wheel_installs_and_trains_in_a_fresh_environment"),
    (r"distfa launch render", "cli/test_launch.py::test_render_writes_the_files_and_names_them"),
    (r"distfa launch .*--dry-run", "cli/test_launch.py::test_a_dry_run_says_what_it_would_do_and_does_nothing"),
    (r"distfa launch .*--on slurm", "launch/test_slurm.py::test_launch_follows_a_job_and_says_what_slurm_refuses"),
    (r"distfa launch .*--on (auto|HOST)", "launch/test_readme.py::test_the_three_commands_start_two_nodes"),
    (
        r"distfa launch .*--on TARGET",
        "cli/test_launch.py::test_a_local_launch_trains_and_a_second_one_finds_it",
    ),
    (r"distfa launch .*--on ray-up", "cli/test_launch.py::test_ray_up_keeps_its_token_in_a_file_of_its_owner"),
    (r"distfa launch$", "cli/test_launch.py::test_"),
    (r"distfa bench speed", "cli/test_bench.py::test_speed_races_distfa_against_torch"),
    (r"distfa bench scale", "cli/test_bench.py::test_scale_counts_what_layers_send_and_hold"),
    (r"distfa bench comm", "cli/test_bench_comm.py::test_comm_without_links_counts_bytes_and_its_file_is_drawn"),
    (r"distfa bench rules", "cli/test_bench_comm.py::test_rules_prints_a_row_per_rule_and_init"),
    (r"distfa bench codecs", "bench/test_codecs.py::test_the_command_writes_what_it_prints"),
    (r"distfa bench books", "test_doc_commands.py::test_the_books_are_measured_from_the_command_line"),
    (r"RAY_memory_usage_threshold=\S+ distfa bench faults", "runtime/test_memory.py::test_any_layer_out_of_memory"),
    (r"distfa bench faults", "bench/test_survival.py::test_faults_are_recovered_from_and_timed"),
    (r"distfa bench checkpoints", "bench/test_survival.py::test_checkpoints_are_priced_against_the_same_run_without"),
    (r"distfa bench tls", "bench/test_survival.py::test_tls_is_priced_against_the_same_run_in_plain_text"),
    (
        r"distfa experiment",
        "lab/test_questions.py::test_every_question_is_answered_quickly",
    ),
    (r"distfa plan .*--(calibrate|check)", "plan/test_measure.py::test_a_"),
    (r"distfa plan", "cli/test_plan.py::test_"),
    (r"pytest", ".ci/run: pytest"),
    (r"pip install -c constraints.txt -e", ".ci/run: pip install --quiet -c constraints.txt -e"),
    (r"pip install distfa-\S+whl", "test_packaging.py::test_the_wheel_installs_and_trains_in_a_fresh_environment"),
    (r"python3 -m venv", ".ci/run: python3 -m venv"),
    (r"python scripts/rooms.py", "test_architecture.py::test_the_picture_shows_the_imports_as_they_are"),
    (r"python own.py", "test_docs.py::test_its_python_runs_as_it_stands"),
    (r"scripts/check", ".ci/run: ruff format --check ."),
    (r"scripts/protos", "transport/test_protos_fresh.py::test_"),
    (r"ray start --(head|address)", "launch/test_readme.py::test_the_three_commands_start_two_nodes"),
    (r"export RAY_AUTH_MODE=token", "runtime/test_ray.py::test_"),
    (r"sbatch|scancel", "launch/test_slurm.py::test_after_scancel_the_same_job_goes_on_from_its_checkpoint"),
    (r"tensorboard --logdir runs", "run/test_events.py::test_"),
    (r"ray start --metrics-export-port", "runtime/test_gauges.py::test_"),
    (r"ray job submit -- distfa train", "runtime/test_contexts.py::test_"),
    (r"tail -f distfa-JOB.out", "launch/test_slurm.py::test_a_job_trains_on_two_nodes_under_tls"),
    (r"(umask 077 && )?ray get-auth-token", "test_doc_commands.py::test_rays_token_is_kept_for_its_owner"),
    (r"pip install ['\"]\w+\[\w+\]", "test_doc_commands.py::test_what_is_installed_beside_is_offered"),
]
FILLED = (  # what stands for something of the reader's, and what is typed here in its place, one after the other
    (r"\[(--[^\]]*)\]", r"\1"),
    (r"--data \.\.\.", "--data digits"),
    (r"--address \.\.\.", "--address HOST:6379"),
    (r" \.\.\.(?= |$)| > \S+$", ""),
    (r"RUN_DIR|RUN_A|RUN_B|runs/\.\.\.", "run"),
    (r"\bhttp://HOST|\b(HOST|FIRST(_NODE)?)(?=:\d)", "10.0.0.1"),
    (r"\bDIR\b", "."),
    (r"\bSPEC\b|~/spec.yaml|deep.yaml|\"\$spec\"", "spec.yaml"),
    (r"--on TARGET", "--on slurm"),
    (r"\bFILE\b", "bench.json"),
    (r"CLUSTER.yaml|here.yaml", "cluster.yaml"),
    (r"samples.csv|new.npy", "samples.npy"),
    (r"experiment NAME", "experiment classes"),
    (r"W,W,W", "8,8,8"),
    (r"(rule[= ])R\b", r"\1dfa"),
    (r"schedule=S", "schedule=sync"),
    (r"seed S", "seed 1"),
    (r"micro_batches=M", "micro_batches=2"),
    (r"workers=N", "workers=2"),
    (r"every=K", "every=50"),
    (r"epochs=E", "epochs=1"),
)
NAMES = {
    **dict.fromkeys(("rule", "rules"), RULES),
    **dict.fromkeys(("schedule", "schedules"), SCHEDULES),
    **dict.fromkeys(("codecs",), (codecs.LOSSLESS, *codecs.CODECS)),
    **{
        "inits": INITS,
        "init": (*INITS, "given"),
        "data": data.NAMES,
        "model": models.MODELS,
        "engine": ("ray", "serial"),
    },
    **{"optimizer": ("sgd", "adam", "adamw"), "lr_schedule": ("constant", "linear", "cosine"), "format": FORMATS},
    **{"kinds": [fault.value for fault in Fault], "split": ("test", "train"), "device": ("auto", "cpu", "cuda")},
    **{"dtype": ("float32", "float64", "bfloat16"), "name": QUESTIONS},
}


@functools.cache
def mirror(of=app):
    """The command line with the same commands, where each gives back how it was called."""
    copy = typer.Typer(cls=of.info.cls or typer.core.TyperGroup)
    for one in of.registered_commands:
        copy.command(one.name)(recorder(one.callback))
    for group in of.registered_groups:
        copy.add_typer(mirror(group.typer_instance), name=group.name)
    return copy


CALLED = []


def recorder(function):
    @functools.wraps(function)
    def record(**values):
        CALLED.append((function, values))

    return record


def filled(text):
    """The command with something in place of what is the reader's."""
    for pattern, typed in FILLED:
        text = re.sub(pattern, typed, text)
    return text


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a run, a spec, a cluster and a file of a benchmark."""
    where = tmp_path_factory.mktemp("place")
    (where / "spec.yaml").write_text("epochs: 1\nmodel: {hidden: [8]}\ndata: {limit: 64}\n")
    (where / "cluster.yaml").write_text("nodes: 2\n")
    here("train", "spec.yaml", "--engine", "serial", "--run-dir", "run", cwd=where)
    (where / "deploy").mkdir()
    (where / "deploy" / "spec.yaml").write_text((ROOT / "deploy/spec.yaml").read_text())
    return where


@pytest.mark.parametrize("found", OURS, ids=lambda found: f"{found.page}: {found.text}")
def test_it_parses_and_every_value_and_key_exists(found, place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setattr(train, "_run_and_tell", lambda spec, **how: None)
    text = filled(found.text)
    inner = re.search(r"-- (distfa .*)|'(distfa .*)'", text)
    text = next(filter(None, inner.groups())) if inner else text[text.index("distfa") :]
    words = shlex.split(text)[1:]
    if words == ["--version"]:
        return
    CALLED.clear()
    done = CliRunner().invoke(mirror(), bare(words))
    assert done.exit_code == 0, done.output
    ((function, values),) = CALLED
    for name, value in values.items():
        if isinstance(value, str) and name in NAMES and ":" not in value:
            for word in filter(None, re.split(r"[,/]", value)):
                assert word.partition("@")[0] in NAMES[name], f"{name}: {word}"
    if function is train.train:
        function(**values)  # the spec is read and checked, and nothing is trained
    elif "changes" in values:
        specs.load_spec(values.get("spec_path"), [specs.parse_change(change) for change in values["changes"] or []])
    if "on" in values:
        assert values["on"] in (*targets.NAMES, "all", "auto") or ":" in values["on"]


def bare(words):
    """What a command needs beside what a sentence names it with."""
    needed = {("export",): ["run"], ("eval",): ["run"], ("predict",): ["run", "samples.npy"], ("watch",): ["run"]}
    needed |= {("status",): ["run"], ("report",): ["run"], ("experiment",): ["classes"], ("launch",): ["spec.yaml"]}
    given = [word for word in words[1:] if not word.startswith("-")]
    return [*words, *needed.get(tuple(words[:1]), [])] if not given or words[:2] == ["export", "--out"] else words


def marked_in_deploy(found):
    """What docs/deploy.md says of a folder of deploy/, whose files repeat its commands."""
    begins = {"deploy/docker": "docker ", "deploy/kuberay": "kubectl ", "deploy/ray-up": "ray down"}
    tool = begins.get("/".join(found.page.split("/")[:2]), "nothing")
    return any(one.marked for one in FOUND if one.page == "docs/deploy.md" and one.text.startswith(tool))


@pytest.mark.parametrize("found", FOUND, ids=lambda found: f"{found.page}: {found.text}")
def test_a_test_or_a_script_types_it_or_the_page_says_why_not(found):
    where = next((where for begins, where in TESTED if re.match(begins, found.text)), None)
    marked = found.marked or marked_in_deploy(found)
    assert where or marked, f"{found.page} has {found.text!r}: add the test that types it, or mark it in the page"
    if where and "::" in where:
        file, _, test = where.partition("::")
        source = (ROOT / "tests" / file).read_text(encoding="utf-8")
        assert re.search(rf"^def {test or 'test_'}", source, flags=re.M), where
    elif where:
        file, _, line = where.partition(": ")
        assert line in (ROOT / file).read_text(encoding="utf-8"), where


@pytest.mark.parametrize("found", [one for one in FOUND if one.text.startswith("pytest ")], ids=lambda one: one.text)
def test_pytest_is_given_files_and_names_that_there_are(found):
    words = shlex.split(found.text)
    paths = [word for word in words if word.startswith("tests/")]
    assert all((ROOT / path).exists() for path in paths)
    if "-k" in words:
        name = words[words.index("-k") + 1]
        assert any(name in (ROOT / path).read_text(encoding="utf-8") for path in paths)


def test_the_commands_are_found_and_all_of_ours_are_in_the_pages():
    assert len(FOUND) > 150
    words = {" ".join(found) for found, _ in cli_commands()}
    said = "\n".join(found.text for found in OURS) + (ROOT / "README.md").read_text(encoding="utf-8")
    for command in words - {"launch run"}:
        assert command in said or f"`{command.split()[-1]}`" in said, command


@pytest.mark.parametrize(
    "typed",
    [
        "rules",
        "spec",
        "spec spec.yaml",
        "plan --example",
        "plan spec.yaml --cluster cluster.yaml --peer",
        "launch spec.yaml --on slurm --dry-run",
        "launch render deploy/spec.yaml -o deploy",
        "status run",
        "watch run --once",
        "report run --shared",
        "report run run",
        "eval run",
    ],
)
def test_what_is_cheap_is_run(typed, place):
    here(*typed.split(), cwd=place)


def test_the_books_are_measured_from_the_command_line(tmp_path):
    size = ("--hidden", 16, "--steps", 6, "--rounds", 1, "--rules", "dfa", "--batch-size", 64)
    here("bench", "books", *size, cwd=tmp_path)
    names = {path.name for path in tmp_path.glob("*.json")}
    assert names == {"bench-books-cost.json", "bench-books-faults-dfa.json", "bench-books-drift.json"}


def test_rays_token_is_kept_for_its_owner(tmp_path):
    command = [sys.executable, "-m", "ray.scripts.scripts", "get-auth-token", "--generate"]
    own = {key: value for key, value in os.environ.items() if not key.startswith("RAY_AUTH")}
    own |= {"HOME": str(tmp_path)}
    subprocess.run(
        ["sh", "-c", 'umask 077 && "$@"', "sh", *command], env=own, capture_output=True, check=True, timeout=120
    )
    assert stat.S_IMODE((tmp_path / ".ray/auth_token").stat().st_mode) == 0o600


def test_what_is_installed_beside_is_offered():
    extras = {"distfa": importlib.metadata.metadata("distfa"), "ray": importlib.metadata.metadata("ray")}
    named = {match for one in FOUND for match in re.findall(r"pip install ['\"](\w+)\[(\w+)\]", one.text)}
    assert len(named) > 3
    for package, extra in named:
        assert extra in extras[package].get_all("Provides-Extra"), f"{package}[{extra}]"


def test_every_parameter_that_has_names_is_one_of_a_command():
    assert set(NAMES) <= {name for _, function in cli_commands() for name in signature(function).parameters}
