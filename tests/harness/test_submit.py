"""Jobs on a real head, whose cluster grows from nothing: what is submitted runs once, is followed, ends
gently, and tells no secret.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from harness import job, submit
from harness.errors import Misuse
from harness.job import Wish
from harness.store import Store
from harness.urls import open_url, redacted, refuse_credentials, without_secrets

pytestmark = pytest.mark.xdist_group("head")  # its start is shared
ROOT = Path(__file__).resolve().parents[2]
SUITE = """
seeds = SEEDS
models = ["mlp"]
methods = ["baseline", "METHOD"]
[[task]]
dataset = "digits"
scenario = "full_class"
targets = ["3"]
"""
PLUGIN = '''
import time
from dataclasses import dataclass

from methods.api import method


@method("drowsy", needs={"forget"}, scenarios={"full_class"})
@dataclass(frozen=True)
class Drowsy:
    """Takes its time."""

    seconds: float = 3.0

    def __call__(self, model, forget, retain, ctx):
        time.sleep(self.seconds)
        return model


@method("bad", needs={"forget"}, scenarios={"full_class"})
@dataclass(frozen=True)
class Bad:
    """Fails."""

    lr: float = 0.1

    def __call__(self, model, forget, retain, ctx):
        raise RuntimeError("by design")
'''
SECRET = "wJalrXUtnFEMI/K7MDENG"

# -------------------- without a cluster


@pytest.mark.parametrize(
    "url",
    [
        f"s3://AKIAIOSFODNN7:{SECRET}@bucket/store",
        f"simplecache::s3://AKIAIOSFODNN7:{SECRET}@bucket/store",
        f"sftp://me:{SECRET}@host:22/store",
        f"https://host/store?X-Amz-Signature={SECRET}",
        f"gs://bucket/store?token={SECRET}",
        f"az://box/store?sv=1&sig={SECRET}",
        f"s3://AKIAIOSFODNN7:/{SECRET}@bucket",
        f"s3://AKIAIOSFODNN7:12/{SECRET}@bucket",
        f"s3://AKIAIOSFODNN7::{SECRET}@bucket",
        f"zip://a.csv::https://me:{SECRET}@host/b.zip",
        "https://wJalrXUtnFEMI@github.com/me/data",
        f"sftp://me%3A{SECRET[:9]}@host/store",
        *(f"https://host/d{sign}access_token={SECRET}" for sign in "?#;"),
        *(f"https://host/d?a=1&{key}={SECRET}" for key in ("auth", "jwt", "pwd", "passphrase", "sig")),
        *(f"az://box/d?{key}={SECRET}" for key in ("x-api-key", "account_key", "AccessKey", "key")),
    ],
)
def test_a_url_with_credentials_is_refused_and_not_repeated(url: str) -> None:
    for use in (Store, open_url, job.check_store, lambda u: job.check_urls("--data", [u])):
        with pytest.raises(Misuse, match="URL with credentials") as refused:
            use(url)
        assert SECRET[:6] not in str(refused.value) and "AKIA" not in str(refused.value)


@pytest.mark.parametrize(
    "url", ["memory://a/b:c@d", "/data/a?token=x", "memory://box:22/a", "memory://me@box/a"]
)
def test_a_url_without_credentials_is_taken(url: str) -> None:
    assert open_url(url)[1]


@pytest.mark.parametrize(
    "url",
    [
        *("s3://bucket/store", "s3://bucket/a:b@c", "s3://arn:aws:s3:us-west-2:123456789012:accesspoint/x"),
        *("https://host/data?version=3", "https://host/d?author=me&tokenizer=bert&keyword=a&sort_key=b"),
        *("https://host:8080/pkg@1.2/x", "http://[::1]:8265", "http://127.0.0.1:8265", "https://host/d#a1b2"),
        *("file:///a@b/c", "file://C:/a@b", "C:/a@b", "C:\\data\\a@b", "/data/a@b:c", "a@b"),
        *("sftp://me@host:22/d", "abfs://box@account.dfs.core.windows.net/d", "hf://datasets/me/d@main/x"),
        *("zip://a@b.csv::simplecache::https://host/x.zip", "simplecache::s3://bucket/store", "vit=s3://b/w"),
    ],
)
def test_an_at_or_a_colon_is_no_credential_by_itself(url: str) -> None:
    refuse_credentials(url)
    assert redacted(url) == url


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"403, url='https://h/w.pt?X-Amz-Signature={SECRET}&a=b'", "403, url='https://h/w.pt?…'"),
        (f"Max retries with url: /w.pt?sig={SECRET} (Caused", "Max retries with url: /w.pt?… (Caused"),
        (f"(https://h/d?x={SECRET}), ftp://h/d#{SECRET}: gone", "(https://h/d?…), ftp://h/d#…: gone"),
        (f"s3://AKIA:{SECRET}@bucket/d: no", "s3://…: no"),
        ("no 'jti' in s3://b/x: did you mean 'jit'?", "no 'jti' in s3://b/x: did you mean 'jit'?"),
    ],
)
def test_a_message_shows_no_query_of_a_url(text: str, shown: str) -> None:
    assert without_secrets(text) == shown == without_secrets(shown)


@pytest.mark.parametrize("word", ["--data=URL", "URL", "vit=URL"])
def test_no_word_of_a_job_holds_a_secret(word: str) -> None:
    typed = word.replace("URL", f"https://me:{SECRET}@host/d")
    for wish in ({"words": ("--data", typed)}, {"plugins": (typed,)}, {"suite": typed}):
        with pytest.raises(Misuse, match="URL with credentials") as refused:
            Wish(**{"suite": "demo", "store": "/s", **wish})  # type: ignore[arg-type]
        assert SECRET[:6] not in str(refused.value)
    assert Wish("demo", "/s", ("--data=s3://bucket/d", "--weights", "vit=s3://bucket/a@b"))


def test_a_protocol_that_nobody_knows_or_has_installed_is_one_line() -> None:
    with pytest.raises(Misuse, match="expected a folder or a URL such as s3"):
        Store("moon://bucket/store")


@pytest.mark.parametrize("store", ["results", "./results", "../x", "memory://x"])
def test_a_store_that_would_stay_on_a_node_is_refused(store: str) -> None:
    with pytest.raises(Misuse, match="give a URL such as s3://bucket/store"):
        Wish("demo", store)


def test_a_job_is_named_by_what_it_does_and_where() -> None:
    name = Wish("demo", "/s").name
    assert name == Wish("demo", "/s/", ("--workers", "2")).name
    others = [Wish("digits", "/s"), Wish("demo", "/t"), Wish("demo", "/s", verb="tune")]
    assert len({name, *(other.name for other in others)}) == 4
    assert re.fullmatch(r"efface-sweep-demo-[0-9a-f]{8}", name)
    searches = [Wish("demo", "/s", ("--method", m), verb="tune").name for m in ("jit", "ssd")]
    assert searches[0] != searches[1]


def test_files_of_ones_own_travel_and_are_named_as_they_lie_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    for name in ("mine.toml", "in/plug.py", "in/preset.toml"):
        (tmp_path / name).write_text("x = 1")
    wish = Wish(str(tmp_path / "mine.toml"), "/s", ("--presets", "in/preset.toml"), ("in/plug.py",))
    assert wish.command().endswith(
        "sweep mine.toml --store /s --on auto --presets preset.toml --plugin plug.py"
    )
    with wish.folder() as folder:
        assert sorted(p.name for p in Path(folder).iterdir()) == ["mine.toml", "plug.py", "preset.toml"]
    monkeypatch.setattr(job, "MOST_BYTES", 5)
    with pytest.raises(Misuse, match="15 bytes, the cluster takes 5"), wish.folder():
        pass


def test_a_folder_of_presets_travels_as_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("mine", "empty"):
        Path(folder).mkdir()
    for name in ("b.toml", "a.toml", "notes.txt"):
        Path("mine", name).write_text("")
    elsewhere = ["s3://bucket/presets", str(tmp_path / "mine")]
    assert job.in_files(["mine", *elsewhere]) == ["mine/a.toml", "mine/b.toml", *elsewhere]
    with pytest.raises(Misuse, match=r"empty: no \.toml file there"):
        job.in_files(["empty"])


class Broken:
    """A dashboard whose connection breaks after two lines, and whose tunnel is then down for a while."""

    def __init__(self, down: int) -> None:
        self.down, self.walks = down, 0

    async def tail_job_logs(self, name: str) -> Any:
        self.walks += 1
        for number in range(2 if self.walks == 1 else 4):
            yield f"line {number}\n"
        if self.walks == 1:
            raise RuntimeError("WebSocket connection closed unexpectedly")

    def info(self, name: str) -> Any:
        if self.walks and self.down > 0:
            self.down -= 1
            raise Misuse("no cluster answers at http://127.0.0.1:8265")
        return SimpleNamespace(status="SUCCEEDED" if self.walks > 1 else "RUNNING", driver_exit_code=0)


@pytest.mark.parametrize(("down", "patience"), [(0, 600.0), (5, 600.0), (10**6, 0.0)])
def test_a_job_is_followed_through_a_broken_connection_and_nothing_is_told_twice(
    monkeypatch: pytest.MonkeyPatch, down: int, patience: float
) -> None:
    jobs, client, said = submit.Jobs.__new__(submit.Jobs), Broken(down), []
    jobs.address, jobs._client = "http://127.0.0.1:8265", client
    monkeypatch.setattr(jobs, "_info", client.info, raising=False)
    monkeypatch.setattr(submit.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(submit, "LOST_SECONDS", patience)
    if patience:
        assert jobs.follow("job", said.append) == 0
        assert "".join(said) == "line 0\nline 1\nline 2\nline 3\n"
    else:
        with pytest.raises(Misuse, match=r"no cluster answers .* job goes on\. To follow it: efface status"):
            jobs.follow("job", said.append)


@pytest.mark.parametrize(("refusals", "patience", "sent"), [(2, 60.0, True), (2, -1.0, False)])
def test_a_head_that_is_still_starting_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, refusals: int, patience: float, sent: bool
) -> None:
    class Client:
        calls = 0

        def submit_job(self, **wanted: object) -> None:
            self.calls += 1
            if self.calls <= refusals:
                raise RuntimeError("status code 500: No available agent to submit job, please try again")

    jobs = submit.Jobs.__new__(submit.Jobs)
    jobs._client = client = Client()
    monkeypatch.setattr(submit, "AGENT_SECONDS", patience)
    monkeypatch.setattr(submit.time, "sleep", lambda seconds: None)
    if sent:
        jobs._send(entrypoint="x")
    else:
        with pytest.raises(RuntimeError, match="No available agent"):
            jobs._send(entrypoint="x")
    assert client.calls == (3 if sent else 1)


def test_a_plugin_that_would_hide_a_package_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tasks.py").touch()
    with pytest.raises(Misuse, match="would hide a package"):
        Wish("demo", "/s", plugins=(str(tmp_path / "tasks.py"),))


def typed(folder: Path, *words: str, seconds: float = 120, **environment: str) -> tuple[int, str, str]:
    """Type a command in a folder: (exit code, stdout, stderr)."""
    command = [sys.executable, "-m", "harness.cli", *words]
    told = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1", **environment}
    done = subprocess.run(command, cwd=folder, env=told, capture_output=True, text=True, timeout=seconds)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["status", "--address", "http://127.0.0.1:1"], "no cluster answers at http://127.0.0.1:1"),
        (["stop", "x", "--address", "http://127.0.0.1"], "no port; type --address http://127.0.0.1:8265"),
        (["stop", "x", "--address", "ray://127.0.0.1:10001"], "expected that of the cluster's dashboard"),
        (["submit", "demo"], "no --store given"),
        (["submit", "demo", "--store", "results"], "would be a folder on one node"),
        (["submit", "dmeo", "--store", "/s"], "did you mean 'demo'"),
        (["submit", "demo", "--store", "/s", "--methods", "jti"], "did you mean 'jit'"),
        (["submit", "demo", "--store", "/s", "--weights", "w.pth"], "the cluster cannot see it"),
        (["submit", "demo", "--store", "/s", "--data", "here"], "the cluster cannot see it"),
        (["submit", "demo", "--store", "/s", "--tune", "--methods", "jit"], "after --"),
        (["submit", "demo", "--store", "/s", "--", "--data", "https://me:x@h/d"], "--data https://…: a URL"),
    ],
)
def test_a_misuse_is_one_line_before_anything_is_sent(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    from harness import cli

    monkeypatch.setattr(sys, "argv", ["efface", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    said = capsys.readouterr().err
    assert end.value.code == 2 and message in said and len(said.strip().splitlines()) == 1


# -------------------- with one


def free_ports(count: int) -> list[str]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [str(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


HEAD_ID = "f" * 51 + "00000"  # that the fake provider expects
AUTOSCALER = {
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
    "RAY_FAKE_CLUSTER": "1",
    "RAY_enable_autoscaler_v2": "1",
    "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
    "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
}


def growing(gcs: str) -> dict[str, Any]:
    """As cluster.yaml: a head that runs nothing, no workers until there is work; machines are processes."""
    provider = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
    worker = {"resources": {"CPU": 2, "object_store_memory": 100 << 20}, "node_config": {}}
    head = {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}
    commands = ["initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray"]
    return {
        **{f"{name}_commands": [] for name in commands},
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
        "cluster_name": "growing",
        "max_workers": 1,
        "idle_timeout_minutes": 5,
        "provider": {
            "type": "external",
            "module": provider,
            "gcs_address": gcs,
            "head_node_id": HEAD_ID,
            "launch_multiple": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "auth": {},
        "head_node_type": "ray.head.default",
        "available_node_types": {
            "ray.head.default": head,
            "worker": {**worker, "min_workers": 0, "max_workers": 1},
        },
    }


class Head:
    """A head on this machine with a token, in a process group of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        (home / "token").write_text(os.urandom(32).hex())
        gcs, dashboard, agent, client = free_ports(4)
        self.address = f"http://127.0.0.1:{dashboard}"
        self.environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(home / "token")}
        (home / "growing.json").write_text(json.dumps(growing(f"127.0.0.1:{gcs}")))
        command = f"""start --head --block --port {gcs} --dashboard-port {dashboard} --num-cpus 0 --num-gpus 0
            --dashboard-agent-listen-port {agent} --ray-client-server-port {client} --dashboard-host 127.0.0.1
            --autoscaling-config {home}/growing.json
            --object-store-memory 200000000 --temp-dir {home} --disable-usage-stats"""
        told = {**os.environ, **self.environment, **AUTOSCALER, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
        told["PATH"] = f"{Path(sys.executable).parent}:{told['PATH']}"
        self.log = home / "head.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "ray.scripts.scripts", *command.split()],
                env=told,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def ready(self, seconds: float = 90) -> bool:
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.process.poll() is None:
            if "Ray runtime started" in self.log.read_text():
                return True
            time.sleep(0.3)
        return False

    def close(self) -> None:
        import psutil

        family = []
        if self.process.poll() is None:
            family = psutil.Process(self.process.pid).children(recursive=True)
            self.process.terminate()
        _, left = psutil.wait_procs(family, 3)  # the node that came by itself does not end with its head
        for process in left:
            process.kill()
        self.process.wait(30)


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    for _ in range(2):  # Ray gives a busy machine 30 s to start a node, and no more
        with tempfile.TemporaryDirectory(prefix="ef", dir="/tmp", ignore_cleanup_errors=True) as home:
            found = Head(Path(home))
            try:
                if found.ready():
                    yield found
                    return
            finally:
                found.close()
            log = found.log.read_text()
    pytest.fail(log)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A user's folder, with a file that would shadow our package on the workers."""
    (tmp_path / "long.toml").write_text(SUITE.replace("SEEDS", "40").replace("METHOD", "drowsy"))
    (tmp_path / "bad.toml").write_text(SUITE.replace("SEEDS", "1").replace("METHOD", 'jit", "bad'))
    (tmp_path / "plug.py").write_text(PLUGIN)
    (tmp_path / "tasks.py").write_text("raise SystemExit('the wrong tasks')")
    return tmp_path


Typed = Callable[..., tuple[int, str, str]]


@pytest.fixture
def at(head: Head, folder: Path) -> Typed:
    def type_there(verb: str, *words: str, **environment: str) -> tuple[int, str, str]:
        more = ["--address", head.address, *words]
        return typed(folder, verb, *more, **{**head.environment, **environment})

    return type_there


@pytest.mark.slow
def test_a_job_runs_the_sweep_with_its_plugin_and_gives_its_exit_code(at: Typed, folder: Path) -> None:
    store = folder / "store"
    words = ["bad.toml", "--plugin", "plug.py", "--store", str(store)]
    code, said, told = at("submit", *words, "--device", "cpu")
    assert code == 1, said + told
    rows = pd.read_parquet(store / "rows")
    found = rows[rows["kind"] == "run"].set_index("method")["status"].to_dict()
    assert found == {"baseline": "ok", "jit": "ok", "bad": "failed"}
    assert "by design" in said and "must be a folder that all nodes" in told
    submission_id = re.findall(r"submitted (\S+)", told)[0]
    jobs = {one["id"]: one for one in json.loads(at("status", "--json")[1])}
    assert (jobs[submission_id]["status"], jobs[submission_id]["exit_code"]) == ("FAILED", 1)
    code, again, _ = at("status", "--follow", submission_id)
    assert code == 1 and "by design" in again


@pytest.mark.slow
def test_a_job_runs_once_at_a_time_and_ends_gently(at: Typed, folder: Path) -> None:
    words = ["long.toml", "--plugin", "plug.py", "--store", str(folder / "s"), "--detach"]
    words += ["--device", "cpu"]
    code, out, told = at("submit", *words)
    assert code == 0, told
    name = out.strip()
    code, _, told = at("submit", *words)
    assert code == 2 and f"{name} already does this since" in told and f"efface stop {name}" in told
    end = time.monotonic() + 90
    while not any((folder / "s").glob("rows/*.parquet")):  # its first originals are done
        assert time.monotonic() < end, at("status")
        time.sleep(0.3)
    assert at("stop", name)[0] == 0
    assert "had ended before" in at("stop", name)[2]
    code, log, _ = at("status", "--follow", name)
    assert code == 130 and "What is done is kept" in log
    assert 0 < len(pd.read_parquet(folder / "s" / "rows")) < 80
    assert at("submit", *words)[1].strip() == f"{name}-2"
    assert at("stop", f"{name}-2")[0] == 0


@pytest.mark.slow
def test_a_search_is_a_job_too(at: Typed, folder: Path) -> None:
    words = ["demo", "--store", str(folder / "s"), "--tune", "--", "--method", "jit", "--dry-run"]
    code, said, told = at("submit", *words)
    assert code == 0, said + told
    assert "tune demo --store" in said and "250" in said


@pytest.mark.slow
def test_another_token_is_refused_in_one_line(at: Typed) -> None:
    for wrong in ({"RAY_AUTH_TOKEN": "f" * 64}, {"RAY_AUTH_MODE": "disabled"}):
        code, _, told = at("status", **wrong)
        assert code == 2 and "wants another token; type RAY_AUTH_MODE=token" in told
        assert len(told.strip().splitlines()) == 1


@pytest.mark.slow
def test_an_unknown_job_is_named_with_those_that_are_known(at: Typed) -> None:
    code, _, told = at("stop", "nobody")
    assert code == 2 and "no job 'nobody'" in told


LISTENING = """
import json, os, pathlib, tempfile, psutil
from harness.execute.ray import connect
ray = connect(None, 1, pathlib.Path(tempfile.mkdtemp()))
me = psutil.Process()
family = [me, *me.children(recursive=True)]
ends = [c.laddr.ip for p in family for c in p.net_connections("inet") if c.status == "LISTEN"]
ray.shutdown()
print(json.dumps([len(family), ends, os.environ["RAY_AUTH_MODE"], len(os.environ["RAY_AUTH_TOKEN"])]))
"""


@pytest.mark.slow
def test_a_private_cluster_listens_on_loopback_alone_and_has_a_token_of_its_own(tmp_path: Path) -> None:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_AUTH", "RAY_ENABLE"))}
    clean |= {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    command = [sys.executable, "-c", LISTENING]
    done = subprocess.run(command, env=clean, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    family, ends, mode, length = json.loads(done.stdout.splitlines()[-1])
    assert family > 3 and len(ends) > 5
    assert {end.removeprefix("::ffff:") for end in ends} == {"127.0.0.1"}
    assert (mode, length) == ("token", 64)
    assert not (tmp_path / ".ray").exists()
