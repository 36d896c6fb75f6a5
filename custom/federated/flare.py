"""The federation under NVFlare: a controller that asks, an executor that answers, and the job folder that names both.

`custom` must be importable on the server and on every client: install the package, or put it on ``PYTHONPATH``.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from nvflare.apis.executor import Executor
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_common.utils.fl_model_utils import FLModelUtils
from nvflare.app_common.workflows.model_controller import ModelController

from ..paths import written_whole
from .server import federate
from .site import Message, Site

__all__ = ["BundleController", "SiteExecutor", "write_job"]

BUNDLE = "bundle"  # folder of the bundle's configurations within the app


class BundleController(ModelController):
    """On the server: :func:`.federate`, whose questions go to every client; writes ``model.pt`` and ``rounds.csv``.

    Args:
        configs: names of the configurations.
        rounds: of FedAvg.
        local_epochs: of every site in a round.
        override: keys of the configuration.
    """

    def __init__(self, configs: Sequence[str], rounds: int, local_epochs: int, override: dict[str, Any]) -> None:
        super().__init__(persistor_id="", ignore_result_error=False)
        self.configs, self.rounds, self.local_epochs, self.override = configs, rounds, local_epochs, override

    def run(self) -> None:
        """Train, and leave the result in the folder of the run."""
        files = paths_in(self.get_app_dir(), self.configs)
        network, history = federate(self.ask, files, self.rounds, self.local_epochs, **self.override)
        folder = Path(self.get_run_dir())
        with written_whole(folder / "model.pt") as temporary:
            torch.save(network.state_dict(), temporary)
        with written_whole(folder / "rounds.csv") as temporary:
            history.to_csv(temporary, index=False)

    def ask(self, task: str, question: Message) -> dict[str, Message]:
        """Return the answers of all clients.

        Raises:
            RuntimeError: one has not answered; why is in the log at that site.
        """
        clients = self.sample_clients()
        # an empty question is no model to NVFlare
        answers = self.send_model_and_wait(task_name=task, data=FLModel(params={"task": task, **question}), targets=clients)
        found = {answer.meta["client_name"]: answer.params for answer in answers}
        silent = sorted(set(clients) - found.keys())
        if silent:
            raise RuntimeError(f"no answer to '{task}' from {', '.join(silent)}: see the log there.")
        return found


class SiteExecutor(Executor):
    """On a client: the answers of a :class:`.Site`, which is called as the client is.

    Args:
        configs: names of the configurations.
        dataset_dir: the site's prepared dataset; ``{site}`` stands for the client's name.
        override: keys of the configuration.
    """

    def __init__(self, configs: Sequence[str], dataset_dir: str, override: dict[str, Any]) -> None:
        super().__init__()
        self.configs, self.dataset_dir, self.override = configs, dataset_dir, override
        self.site: Site | None = None

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        """Answer; an error goes to this client's log, and the server learns only that there was one."""
        if self.site is None:
            app = fl_ctx.get_prop(FLContextKey.APP_ROOT)
            name = fl_ctx.get_identity_name()
            folder = Path(app).parent / "site"
            folder.mkdir(exist_ok=True)
            data = self.dataset_dir.format(site=name)
            self.site = Site(name, paths_in(app, self.configs), data, str(folder), **self.override)
        answer = self.site.answer(task_name, FLModelUtils.from_shareable(shareable).params)
        return FLModelUtils.to_shareable(FLModel(params=answer))


def paths_in(app: str | Path, configs: Sequence[str]) -> list[str]:
    """Return the paths of an app's configurations."""
    return [str(Path(app) / BUNDLE / "configs" / f"{name}.json") for name in configs]


def write_job(
    folder: str | Path,
    bundle: str | Path,
    configs: Sequence[str],
    dataset_dir: str,
    rounds: int,
    local_epochs: int,
    min_clients: int,
    **override: Any,
) -> Path:
    """Write an NVFlare job, which the simulator runs and a server deploys; return its folder.

    Args:
        folder: of the job; what it held is replaced.
        bundle: the bundle's folder, whose configurations go into the job.
        configs: names of the configurations, ``train`` and ``federated`` among them.
        dataset_dir: where a client finds its prepared dataset; ``{site}`` stands for its name. In a real deployment edit it in
            ``config_fed_client.json``.
        rounds: of FedAvg.
        local_epochs: of every site in a round.
        min_clients: number of sites.
        override: keys of the configuration.
    """
    job, app = Path(folder), Path(folder) / "app"
    if job.exists():
        shutil.rmtree(job)
    shutil.copytree(Path(bundle) / "configs", app / BUNDLE / "configs")
    common = {"configs": list(configs), "override": override}
    server = {**common, "rounds": rounds, "local_epochs": local_epochs}
    client = {**common, "dataset_dir": dataset_dir}
    _write(job / "meta.json", {
        "name": Path(bundle).name,
        "resource_spec": {},
        "min_clients": min_clients,
        "deploy_map": {"app": ["@ALL"]},
    })  # fmt: skip
    _write(app / "config" / "config_fed_server.json", {
        "format_version": 2,
        "workflows": [{"id": "federation", "path": f"{__name__}.BundleController", "args": server}],
        "components": [],
    })  # fmt: skip
    _write(app / "config" / "config_fed_client.json", {
        "format_version": 2,
        "executors": [{"tasks": ["*"], "executor": {"path": f"{__name__}.SiteExecutor", "args": client}}],
        "components": [],
    })  # fmt: skip
    return job


def _write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1))
