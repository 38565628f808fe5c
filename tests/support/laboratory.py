"""A small repository of git and DVC, whose numbers the tests choose: made of files alone, without running a stage."""

import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from ruamel.yaml import YAML

from bitsperdim.comparing.cache import Cache
from bitsperdim.comparing.comparison import Comparison, compare
from bitsperdim.comparing.source import find
from support.metrics import metrics_of

NO_CONFIGURATION = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
PARAMS: dict[str, Any] = {
    "dataset": {"name": "tiny", "seed": 0},
    "dequantize": {"binarization": "none"},
    "models": ["vae", "iwae"],
    "seeds": [0],
    "train": {"epochs": 10, "learning_rate": 0.001},
    "evaluate": {"n_samples": 8},
    "vae": {"family": "vae", "latent_size": 16},
    "iwae": {"family": "vae", "latent_size": 16, "train_samples": 8, "train": {"epochs": 5}},
}


def git(folder: Path, *arguments: str, safe: str = "") -> str:
    """What git says; the user's own configuration, a repository named by the environment and the time play no part."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    names = {f"GIT_{who}_{what}": "nobody@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    command = ["git", "-C", str(folder), *(("-c", f"safe.directory={safe}") if safe else ()), *arguments]
    environment = {**own, **names, **NO_CONFIGURATION}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()


def anothers() -> dict[str, str]:
    """An environment in which git takes every repository for that of another user, which nobody has called safe."""
    return {**NO_CONFIGURATION, "GIT_CONFIG_COUNT": "0", "GIT_TEST_ASSUME_DIFFERENT_OWNER": "1"}


class Laboratory:
    """A repository in a folder, or a folder of a larger repository."""

    def __init__(self, root: Path, top: Path | None = None) -> None:
        self.root = root
        self.params: dict[str, Any] = json.loads(json.dumps(PARAMS))
        (root / ".dvc").mkdir(parents=True)
        (root / ".dvc" / "config").write_text("[core]\n    analytics = false\n    check_update = false\n")
        (root / ".gitignore").write_text("/results/*/per_image.csv\n/.dvc/cache\n/.dvc/tmp\n")
        (root / "recipes" / "results").mkdir(parents=True)
        (root / "dvc.yaml").write_text("stages: {}\n")
        (root / "params.yaml").write_text("models: []\n")
        self.git("init", "--quiet", "--initial-branch=main", str(top or root))
        self.git("config", "user.name", "Nobody")
        self.git("config", "user.email", "nobody@example.org")

    def git(self, *arguments: str) -> str:
        """What git says here."""
        return git(self.root, *arguments)

    def write(self, model: str, log_p: Any, **changes: Any) -> None:
        """Write a model's results: log_p is (N,) or (seeds, N) nats."""
        values = np.atleast_2d(np.asarray(log_p, dtype=float))
        folder = self.root / "results" / model
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "metrics.json").write_text(json.dumps(metrics_of(values, **changes)))
        rows = [f"{seed},{n},{value!r}" for seed, row in enumerate(values.tolist()) for n, value in enumerate(row)]
        (folder / "per_image.csv").write_text("\n".join(["seed,image,log_p", *rows]) + "\n")

    def commit(self, message: str = "Run") -> str:
        """Put the results into DVC's cache and the rest into a commit; return the commit."""
        stages: dict[str, Any] = {}
        used = {name: self.params[name] for name in ("dataset", "dequantize", "seeds", "train", "evaluate")}
        for file in sorted(self.root.glob("results/*/per_image.csv")):
            model, outs = file.parent.name, []
            if not file.with_name("metrics.json").exists():
                continue  # git has removed the one that it knows
            for path in (*sorted(file.parent.glob("*_with.json")), file.with_name("metrics.json"), file):
                md5 = hashlib.md5(path.read_bytes()).hexdigest()
                outs.append({"path": str(path.relative_to(self.root)), "hash": "md5", "md5": md5, "size": 1})
            cached = self.cached(md5)
            cached.parent.mkdir(parents=True, exist_ok=True)
            cached.write_bytes(file.read_bytes())
            own = {model: self.params[model]} if model in self.params else {}
            code = sorted(self.root.glob(f"data/code/*/{model}.json"))
            md5s = {path: hashlib.md5(path.read_bytes()).hexdigest() for path in code}
            deps = [
                {"path": str(path.relative_to(self.root)), "hash": "md5", "md5": md5s[path], "size": 1} for path in code
            ]
            made = {"cmd": "x", "deps": deps, "params": {"params.yaml": {**used, **own}}, "outs": outs}
            stages[f"evaluate@{model}"] = made if deps else {key: made[key] for key in ("cmd", "params", "outs")}
        for path, content in (("dvc.lock", {"schema": "2.0", "stages": stages}), ("params.yaml", self.params)):
            yaml = YAML()
            yaml.default_flow_style = False
            with (self.root / path).open("w") as stream:
                yaml.dump(content, stream)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", message)
        return self.git("rev-parse", "HEAD")

    def experiment(self, name: str) -> str:
        """Make a commit of the workspace that only a reference of an experiment knows, as DVC does; return it."""
        baseline = self.git("rev-parse", "HEAD")
        commit = self.commit(f"dvc: commit experiment {name}")
        self.git("update-ref", f"refs/exps/{baseline[:2]}/{baseline[2:]}/{name}", commit)
        self.git("reset", "--quiet", "--hard", baseline)
        return commit

    def cached(self, md5: str) -> Path:
        """Where DVC's cache has a file."""
        return self.root / ".dvc" / "cache" / "files" / "md5" / md5[:2] / md5[2:]

    def empty_the_cache(self) -> None:
        """Remove every file of it."""
        for file in (self.root / ".dvc" / "cache").rglob("*"):
            if file.is_file():
                file.unlink()

    def compare(self, a: str, b: str = "workspace", **options: Any) -> Comparison:
        """Compare two names."""
        cache = Cache(self.root)
        return compare(find(self.root, a, cache), find(self.root, b, cache), **options)
