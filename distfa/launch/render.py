"""Renders the files for Docker, KubeRay, SLURM and 'ray up' from one run spec, so that they cannot drift apart."""

from __future__ import annotations

from pathlib import Path

import jinja2
import yaml

from distfa.errors import UsageError
from distfa.files import save_whole
from distfa.settings import RunSpec
from distfa.text.redact import redact
from distfa.text.words import not_among
from distfa.version import __version__

SPEC = "spec.yaml"
FILES = {
    "docker": ("docker/Dockerfile", "docker/compose.yaml"),
    "kuberay": ("kuberay/rayjob.yaml", "kuberay/rayjob-gpu.yaml", "kuberay/raycluster-secure.yaml"),
    "slurm": ("slurm/distfa.sbatch", "slurm/distfa-shared.sbatch"),
    "ray-up": ("ray-up/local.yaml", "ray-up/aws.yaml", "ray-up/gcp.yaml"),
}
"""Target, and what is rendered for it."""

_RUNS = "runs/launched"


def render_target(spec: RunSpec, target: str, folder: Path = Path("deploy")) -> dict[str, str]:
    """Path in the output folder, and text, of every file for a target.

    Args:
        spec: The run, and under ``launch`` the cluster.
        target: One of ``FILES``, or ``all``.
        folder: Where they will be, as 'ray up' will find the spec there.

    Raises:
        UsageError: There is nothing to render for such a target.
    """
    if target != "all" and target not in FILES:
        raise UsageError(f"nothing is rendered for target {target!r}, which {not_among(target, (*FILES, 'all'))}")
    require_no_password(spec)
    names = [name for key, names in FILES.items() if target in ("all", key) for name in names]
    spec = fix_run_dir(spec)
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("distfa.launch"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # no template is HTML
    )
    facts = {
        "launch": spec.launch,
        "folder": folder.as_posix(),
        "spec": as_yaml(spec),
        "gpu_spec": as_yaml(spec.model_copy(update={"device": "cuda"})),
        "version": __version__,
        "image": spec.launch.image or f"distfa:{__version__}",
        "run_dir": spec.run_dir,
    }
    return {SPEC: as_yaml(spec), **{name: templates.get_template(name).render(facts) for name in names}}


def write_files(files: dict[str, str], folder: Path) -> list[Path]:
    """Write rendered files; returns where they are.

    Raises:
        UsageError: The folder cannot be written.
    """
    for name, text in files.items():
        save_whole(folder / name, text, UsageError, "name another folder with -o")
    return [folder / name for name in files]


def fix_run_dir(spec: RunSpec) -> RunSpec:
    """The spec for the driver on the cluster: its run directory has a fixed name, so that a retry finds it."""
    return spec.model_copy(update={"run_dir": spec.run_dir or _RUNS})


def require_no_password(spec: RunSpec) -> None:
    """Let no password into files that stay, or go to other machines.

    Raises:
        UsageError: ``checkpoint.dir`` has one.
    """
    place = spec.checkpoint.dir or ""
    if redact(place) != place:
        raise UsageError(
            f"checkpoint.dir is {redact(place)!r}, whose password would appear in the files for the cluster; "
            "leave it out, and set it there where fsspec looks for it, such as in FSSPEC_FTP_PASSWORD "
            "(docs/how-to/survive.md)"
        )


def put_run_dir_home(spec: RunSpec) -> RunSpec:
    """The spec for a job, which has a working directory of its own each time: a relative run directory is at home."""
    run_dir = spec.run_dir or ""
    inside = run_dir and not run_dir.startswith(("/", "~"))
    return spec.model_copy(update={"run_dir": f"~/{run_dir}"}) if inside else spec


def as_yaml(spec: RunSpec) -> str:
    """The keys that differ from the defaults, as YAML."""
    return yaml.safe_dump(spec.model_dump(mode="json", exclude_defaults=True), sort_keys=False, width=110)
