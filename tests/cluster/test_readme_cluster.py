"""The files that the README shows for other clusters parse, and name what there is."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import yaml

TEXT = (Path(__file__).resolve().parent.parent.parent / "README.md").read_text(encoding="utf-8")
SECTION = TEXT.split("## On a cluster")[1].split("\n## ")[0]


def shown(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", SECTION, re.DOTALL)


def test_the_slurm_script_is_valid_shell() -> None:
    (script,) = shown("bash")
    assert script.startswith("#!/bin/bash\n#SBATCH --nodes=")
    assert subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True).stderr == ""


def test_the_kubernetes_file_says_the_same_ray_version_and_starts_from_none() -> None:
    import ray

    kube = next(doc for doc in map(yaml.safe_load, shown("yaml")) if doc.get("kind") == "RayCluster")
    assert kube["apiVersion"] == "ray.io/v1"
    assert kube["spec"]["rayVersion"] == ray.__version__
    assert kube["spec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert [group["minReplicas"] for group in kube["spec"]["workerGroupSpecs"]] == [0]


def test_the_variant_for_own_machines_is_accepted_by_ray() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    root = Path(__file__).resolve().parent.parent.parent
    config = yaml.safe_load((root / "cluster.yaml").read_text(encoding="utf-8"))
    for key in ("available_node_types", "head_node_type"):
        del config[key]
    own = next(doc for doc in map(yaml.safe_load, shown("yaml")) if "provider" in doc)
    validate_config(prepare_config(config | own))
