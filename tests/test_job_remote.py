"""`--on k8s` and `--on ray` against servers that speak the clusters' own HTTP; the pods and workers there really run the command."""

import io
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from mlops_nb import job as jobs
from mlops_nb.core import ledger
from mlops_nb.core.errors import BadInput, Refused, ToolFailed
from mlops_nb.job.clusters import kubernetes_jobs, ray_jobs
from helpers.job_runs import made

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")


@pytest.fixture
def score(project):
    made("score", "%%mlops params\nn = 3\nnote = 'x'", "print('n is', n, note)\nassert n<9, 'too many'")
    return project


def carried_out(words: list[str], folder: Path) -> subprocess.CompletedProcess:
    "What a container does: the command, in a copy of the project of its own"
    env = {k: v for k, v in os.environ.items() if k not in ("MLOPS_PROJECT", "KUBECONFIG")} | {
        "MLOPS_JOB_FORK_SERVER": "false"
    }
    command = [sys.executable, "-m", "mlops_nb", *words]
    return subprocess.run(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


class Server(BaseHTTPRequestHandler):
    "One request; the answers are those of `self.server.reply`"

    def reply(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        at = urlsplit(self.path)
        status, answer = self.server.reply(
            self.command, at.path, {k: v[0] for k, v in parse_qs(at.query).items()}, body
        )
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if isinstance(answer, bytes) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        try:
            self.wfile.write(data)
        except ConnectionError:  # whoever watched has seen enough
            self.close_connection = True

    do_GET = do_POST = do_PUT = do_DELETE = reply

    def log_message(self, *_):
        pass


@pytest.fixture
def serve():
    started = []

    def start(reply) -> str:
        s = ThreadingHTTPServer(("127.0.0.1", 0), Server)
        s.reply = reply
        threading.Thread(target=s.serve_forever, daemon=True).start()
        started.append(s)
        return f"http://127.0.0.1:{s.server_address[1]}"

    yield start
    for s in started:
        s.shutdown()
        s.server_close()


class Cluster:
    "As much of an API server, a Job controller and a kubelet as a Job needs"

    def __init__(self, project: Path, tmp: Path):
        self.made, self.asked, self.deleted, self.state, self.deny = [], [], threading.Event(), None, None
        self.there, self.logs, self.count = [], {}, 0
        self.root = tmp / "image"
        subprocess.run(["cp", "-r", str(project), str(self.root)], check=True)

    def reply(self, method, path, query, body):
        self.asked.append((method, path))
        if self.deny:
            return self.deny, {"kind": "Status", "message": f"no to {path}", "code": self.deny}
        if method == "POST":
            return self.create(path, json.loads(body))
        if method == "DELETE":
            self.deleted.set()
            return 200, {"kind": "Status", "status": "Success"}
        if path.endswith("/log"):
            log = self.logs.get(path.split("/")[-2])
            return (404, {"kind": "Status", "message": "not found"}) if log is None else (200, log.encode())
        if path.endswith("/pods"):
            assert query["labelSelector"] == f"job-name={self.made[-1]['metadata']['name']}"
            return 200, {"kind": "PodList", "apiVersion": "v1", "items": self.pods}
        if path.endswith("/jobs"):
            assert query["watch"].lower() == "true" and query["fieldSelector"].startswith("metadata.name=score-")
            if not self.conditions and not self.gone:
                self.work()
            lines = [] if self.gone else [{"type": "MODIFIED", "object": self.job()}]
            return 200, b"".join(json.dumps(line).encode() + b"\n" for line in lines)
        if "/jobs/" in path and not self.gone:
            return 200, self.job()
        return 404, {"kind": "Status", "message": "not found"}

    def job(self):
        return self.made[-1] | {"status": {"conditions": self.conditions}}

    def create(self, path, d):
        kubernetes_validate = pytest.importorskip("kubernetes_validate")
        kubernetes_validate.validate(d, kubernetes_validate.latest_version(), strict=True)
        kind = {"serviceaccounts": "ServiceAccount", "persistentvolumeclaims": "PersistentVolumeClaim", "jobs": "Job"}[
            path.split("/")[-1]
        ]
        assert d["kind"] == kind and "/namespaces/team/" in path
        if kind == "ServiceAccount" and any(m["kind"] == kind for m in self.made):
            return 409, {"kind": "Status", "message": "already exists", "code": 409}
        if kind == "Job" and any(
            m["kind"] == kind for m in self.made
        ):  # A Job of its own: nothing of the last one is its
            self.conditions, self.there = [], []
        self.made.append(d)
        return 201, d

    conditions: list = []
    gone = False  # Was the Job deleted?
    story: tuple = ()  # What happens at each watch of the Job before the command is carried out

    @property
    def pods(self):
        if self.state:
            return [self.pod("Pending", self.state)]
        return self.there

    def work(self):
        "One watch: something happens to a pod, or the command is carried out"
        if self.story:
            happens, *self.story = self.story
            return happens(self)
        (container,) = self.made[-1]["spec"]["template"]["spec"]["containers"]
        name = self.made[-1]["metadata"]["annotations"]["mlops-nb/job"]
        done = carried_out(["job", "run", name, *container["args"]], self.root)
        ended = {"terminated": {"exitCode": done.returncode, "reason": "Error" if done.returncode else "Completed"}}
        pod = self.pod("Failed" if done.returncode else "Succeeded", ended)
        self.logs[pod["metadata"]["name"]] = done.stdout
        self.there = [*self.there, pod]
        self.end("Failed" if done.returncode else "Complete", "BackoffLimitExceeded")

    def end(self, kind, reason, message="it said so"):
        self.conditions = [{"type": kind, "status": "True", "reason": reason, "message": message}]

    def pod(self, phase, state, **status):
        "A pod; each is younger than the one before"
        self.count += 1
        container = {"name": "job", "image": "x", "imageID": "", "ready": False, "restartCount": 0, "state": state}
        return {
            "kind": "Pod",
            "apiVersion": "v1",
            "metadata": {"name": f"score-pod{self.count}", "creationTimestamp": f"2026-01-01T00:00:{self.count:02}Z"},
            "status": {"phase": phase, "containerStatuses": [container], **status},
        }


@pytest.fixture
def k8s(score, serve, tmp_path, monkeypatch):
    pytest.importorskip("kubernetes")
    cluster = Cluster(score.root, tmp_path)
    cluster.url = serve(cluster.reply)
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "clusters": [{"name": "c", "cluster": {"server": cluster.url}}],
        "users": [{"name": "u", "user": {"token": "t0ken"}}],
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u", "namespace": "team"}}],
    }
    (tmp_path / "kubeconfig").write_text(json.dumps(config), encoding="utf-8")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    return cluster


def test_a_job_of_kubernetes_runs_the_job_and_its_record_comes_back(score, k8s, cli):
    a = cli(
        "job",
        "run",
        "score",
        "-p",
        "n=7",
        "-p",
        "note=$(HOME) 'q'",
        "--on",
        "k8s",
        "--image",
        "registry.example.org/score:1",
        "--json",
    )
    assert a.exit == 0, a
    assert (
        a.json["status"] == "completed"
        and len(a.json["cells"]) >= 2
        and a.json["cost_usd"] is not None
        and a.json["form"] == "k8s"
    )
    account, claim, job = k8s.made
    pod = job["spec"]["template"]["spec"]
    assert (account["kind"], claim["kind"], job["kind"]) == ("ServiceAccount", "PersistentVolumeClaim", "Job")
    assert (
        pod["containers"][0]["image"] == "registry.example.org/score:1"
        and pod["restartPolicy"] == "Never"
        and job["spec"]["backoffLimit"] == 0
    )
    assert pod["containers"][0]["args"] == ["-p", "n=7", "-p", "note=$$(HOME) 'q'", "--json"]
    assert "n is 7" in Path(k8s.root / a.json["output"]).read_text(encoding="utf-8")
    (row,) = jobs.history("score").runs
    assert row.run == a.json["run"] and row.status == "completed" and row.parameters["n"] == 7
    assert (
        json.loads((score.state / "runs" / a.json["run"] / "run.json").read_text(encoding="utf-8"))["digest"]
        == a.json["digest"]
    )
    bad = cli("job", "run", "score", "-p", "n=9", "--on", "k8s", "--json")
    assert bad.exit == 1 and bad.json["status"] == "failed" and "too many" in bad.json["message"]
    assert [m["kind"] for m in k8s.made].count("ServiceAccount") == 1, "what is there already is used"
    assert (
        k8s.made[-1]["metadata"]["name"] != job["metadata"]["name"] and jobs.history("score").runs[0].status == "failed"
    )
    assert "t0ken" not in a.out + bad.out + a.err + bad.err


@pytest.mark.parametrize(
    "how, words",
    [
        (
            {"state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}},
            "cannot begin: ImagePullBackOff",
        ),
        (
            {"conditions": [{"type": "Failed", "status": "True", "reason": "DeadlineExceeded", "message": "too late"}]},
            "DeadlineExceeded",
        ),
    ],
)
def test_a_job_that_cannot_begin_is_one_line(score, k8s, how, words):
    vars(k8s).update(how)
    with pytest.raises(ToolFailed, match=words):
        jobs.run("score", on="k8s")
    assert jobs.history("score").runs[0].status == "failed"


def evicted(cluster):
    "The machine goes away: its pod fails, the Job does not, and its controller makes another pod"
    state = {"terminated": {"exitCode": 137, "reason": "Error"}}
    told = {"reason": "Evicted", "message": "the node was low on memory"}
    cluster.there = [cluster.pod("Failed", state, **told)]
    cluster.logs["score-pod1"] = "half a log"


def by_hand(cluster):
    "Somebody deletes the pod; nothing is left of it"
    cluster.there = []


def running(cluster):
    cluster.there = [cluster.pod("Running", {"running": {}})]


@pytest.mark.parametrize("story", [(evicted,), (running, by_hand), (evicted, by_hand), (running, evicted, running)])
def test_a_pod_that_is_replaced_is_no_failure_of_the_job(score, k8s, story):
    k8s.story = story
    record = jobs.run("score", on="k8s", params={"n": "5"})
    assert record.ok and record.form == "k8s" and jobs.history("score").runs[0].status == "completed"
    rule = k8s.made[-1]["spec"]["podFailurePolicy"]["rules"]
    assert rule == [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}]


def no_log(cluster):
    running(cluster)
    cluster.there[0]["status"]["phase"] = "Succeeded"
    cluster.end("Complete", "")


def swept(cluster):
    "A Job whose pods were swept away when it had failed"
    cluster.there = []
    cluster.end("Failed", "BackoffLimitExceeded")


def evicted_for_good(cluster):
    evicted(cluster)
    cluster.end("Failed", "BackoffLimitExceeded")


def too_big(cluster):
    cluster.there = [cluster.pod("Failed", {"terminated": {"exitCode": 137, "reason": "OOMKilled"}})]
    cluster.end("Failed", "BackoffLimitExceeded")


def taken_back(cluster):
    cluster.gone = True


@pytest.mark.parametrize(
    "happens, words",
    [
        (no_log, "succeeded, but its log is gone"),
        (swept, "BackoffLimitExceeded"),
        (evicted_for_good, "Evicted: the node was low on memory"),
        (too_big, "more memory"),
        (taken_back, "was deleted before it ended"),
    ],
)
def test_what_is_not_known_of_a_run_is_said(score, k8s, happens, words):
    k8s.story = (happens,)
    with pytest.raises(ToolFailed, match=words):
        jobs.run("score", on="k8s", params={"n": "5"})
    assert jobs.history("score").runs[0].status == "failed"


def test_a_cluster_that_says_no_or_is_not_there(score, k8s, cli, monkeypatch, tmp_path):
    k8s.deny = 403
    with pytest.raises(Refused, match="Kubernetes says 403 to making the ServiceAccount score: no to"):
        jobs.run("score", on="k8s")
    (tmp_path / "nobody").write_text(
        Path(os.environ["KUBECONFIG"]).read_text(encoding="utf-8").replace(k8s.url, "http://127.0.0.1:9"),
        encoding="utf-8",
    )
    for place, words in (
        (tmp_path / "nobody", "cannot be reached"),
        (tmp_path / "none", "no Kubernetes cluster is configured"),
    ):
        monkeypatch.setenv("KUBECONFIG", str(place))
        a = cli("job", "run", "score", "--on", "k8s")
        assert a.exit == 4 and words in a.err and len(a.err.strip().split("\n")) == 1, a
    monkeypatch.setitem(sys.modules, "kubernetes", None)
    with pytest.raises(ToolFailed, match="kubernetes.*is not installed.*mlops-nb\\[k8s\\]"):
        jobs.run("score", on="k8s")


def test_whoever_stops_waiting_takes_the_job_back(score, k8s, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(kubernetes_jobs, "follow", stop)
    with pytest.raises(KeyboardInterrupt):
        jobs.run("score", on="k8s")
    assert k8s.deleted.is_set() and k8s.asked[-1][0] == "DELETE" and jobs.history("score").runs[0].status == "aborted"


class Ray:
    "The dashboard of a cluster: its packages and its jobs"

    def __init__(self, tmp: Path):
        self.tmp, self.packages, self.jobs, self.asked, self.logs = tmp, {}, {}, [], {}

    def reply(self, method, path, query, body):
        self.asked.append((method, path))
        what, _, name = path.removeprefix("/api/").partition("/")
        if what == "packages":
            if method == "PUT":
                self.packages[name] = body
            return (200, {}) if name in self.packages else (404, {})
        if method == "POST" and not name:
            job = json.loads(body)
            self.jobs[job["submission_id"]] = job
            return 200, {"submission_id": job["submission_id"]}
        id, _, rest = name.partition("/")
        if rest == "logs":
            return 200, {"logs": self.logs[id]}
        if self.asked.count((method, path)) == 1:
            return 200, {"status": "PENDING"}
        return 200, {"status": self.work(id)}

    def work(self, id):
        job, folder = self.jobs[id], self.tmp / id
        package = job["runtime_env"]["working_dir"].removeprefix("gcs://")
        zipfile.ZipFile(io.BytesIO(self.packages[f"gcs/{package}"])).extractall(folder)
        words = shlex.split(job["entrypoint"])
        assert words[0] == "mlops"
        done = carried_out(words[1:], folder)
        self.logs[id] = "INFO a line of Ray's own\n" + done.stdout
        return "FAILED" if done.returncode else "SUCCEEDED"


def test_a_ray_cluster_gets_the_project_and_the_record_comes_back(score, serve, cli, tmp_path, monkeypatch):
    ray = Ray(tmp_path / "ray")
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", serve(ray.reply))
    follow = ray_jobs.follow
    monkeypatch.setattr(ray_jobs, "follow", lambda base, id: follow(base, id, poll_s=0.01))
    (score.root / "jobs/score/.secret").write_text("not for the cluster", encoding="utf-8")
    a = cli("job", "run", "score", "-p", "n=5", "-p", "note=a 'b' $HOME", "--on", "ray", "--json")
    assert a.exit == 0 and a.json["status"] == "completed" and a.json["form"] == "ray" and a.json["run"] in ray.jobs, a
    (package,) = ray.packages.values()
    assert sorted(zipfile.ZipFile(io.BytesIO(package)).namelist()) == [
        "jobs/score/job.toml",
        "jobs/score/requirements.lock",
        "jobs/score/score.ipynb",
        "mlops.toml",
    ]
    env = ray.jobs[a.json["run"]]["runtime_env"]
    assert all("==" in x for x in env["pip"]) and any(x.startswith("mlops-nb==") for x in env["pip"])
    assert "n is 5 a 'b' $HOME" in Path(tmp_path / "ray" / a.json["run"] / a.json["output"]).read_text(encoding="utf-8")
    bad = cli("job", "run", "score", "-p", "n=9", "--on", "ray", "--json")
    assert bad.exit == 1 and "too many" in bad.json["message"] and len(ray.packages) == 1, (
        "the same files are sent once"
    )
    assert [e.payload.on for e in ledger.of(score).events(["job.started"])] == ["ray", "ray"]


def test_no_ray_and_words_that_do_not_fit(score, cli, monkeypatch):
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:9")
    a = cli("job", "run", "score", "--on", "ray")
    assert a.exit == 4 and "no Ray cluster at http://127.0.0.1:9" in a.err and len(a.err.strip().split("\n")) == 1
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "ray://head:10001")
    with pytest.raises(ToolFailed, match="is no address of Ray's dashboard"):
        jobs.run("score", on="ray")
    for words, said in {
        ("--on", "k8s", "--isolated"): "--isolated is for runs on this machine",
        ("--on", "ray", "--resume", "x"): "resume",
        ("--on", "ray", "--image", "x"): "--image goes with --on k8s",
        ("--on", "moon"): "moon",
        ("--on", "k8s", "-p", "m=3"): "has no parameter `m`",
    }.items():
        bad = cli("job", "run", "score", *words)
        assert bad.exit == 2 and said in bad.err, (words, bad)
    with pytest.raises(BadInput, match="is no image"):
        jobs.run("score", on="k8s", image="a b; rm -rf /")
    plan = cli("job", "run", "score", "--on", "k8s", "--dry-run")
    assert (
        plan.exit == 0
        and "submit to Kubernetes, in the image score:" in plan.out
        and jobs.history("score").runs[0].status == "failed"
    )


def test_sigterm_while_waiting_takes_the_job_back(score, k8s):
    "The verb in a process of its own, as a scheduler would stop it"
    watching, go = threading.Event(), threading.Event()

    def work():
        watching.set()
        go.wait(60)

    k8s.work = work
    child = subprocess.Popen(
        [sys.executable, "-m", "mlops_nb", "job", "run", "score", "--on", "k8s"], stderr=subprocess.PIPE, text=True
    )
    try:
        assert watching.wait(60)
        child.send_signal(signal.SIGTERM)
        _, err = child.communicate()
    finally:
        go.set()
    assert child.returncode == 130 and "interrupted" in err and k8s.deleted.is_set()
