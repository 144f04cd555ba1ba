"""Planted secrets and harmless text, made apart from the patterns that look for them."""

import base64
import html
import json
import random
import string
from collections.abc import Callable, Iterator

LETTERS = string.ascii_letters + string.digits
NAMES = [
    "DB_PASSWORD",
    "MYSQL_PWD",
    "API_KEY",
    "STRIPE_SECRET_KEY",
    "SMTP_PASSWORD",
    "GITHUB_TOKEN",
    "CLIENT_SECRET",
    "app_secret",
]
HOSTS = ["db.internal", "10.0.3.7", "cache-1.eu.example.net", "localhost"]


class Maker:
    "Random secrets as people write them"

    def __init__(self, seed: int):
        self.rng = random.Random(seed)

    def pick(self, n: int, alphabet: str = LETTERS) -> str:
        return "".join(self.rng.choice(alphabet) for _ in range(n))

    def password(self) -> str:
        "With a digit, as rules ask for"
        made = (
            self.pick(self.rng.randint(8, 20))
            + self.rng.choice("0123456789")
            + self.rng.choice(["", "!", "#", "@x", "_"])
        )
        return self.rng.choice("abcdefgh") + made

    def name(self) -> str:
        return self.rng.choice(NAMES)

    def phrase(self) -> str:
        words = ["correct", "horse", "battery", "staple", "orbit", "velvet", "granite", "umbrella", "pickle", "seven"]
        return " ".join(self.rng.sample(words, 4))

    def url(self) -> str:
        kind = self.rng.choice(["postgresql", "mysql+pymysql", "mongodb+srv", "redis", "amqp", "https"])
        user = "" if kind == "redis" else self.rng.choice(["app", "svc-etl", "admin"])
        return f"{kind}://{user}:{self.pick(14)}@{self.rng.choice(HOSTS)}/app"

    def token(self) -> str:
        made = [
            "gh" + "p_" + self.pick(36),
            "glp" + "at-" + self.pick(20),
            "xox" + "b-" + self.pick(12, string.digits) + "-" + self.pick(24),
            "AK" + "IA" + self.pick(16, string.ascii_uppercase + "234567"),
            "sk" + "-proj-" + self.pick(20) + "7" + self.pick(27),
            "h" + "f_" + self.pick(34),
            "S" + "G." + self.pick(22) + "." + self.pick(43),
            "np" + "m_" + self.pick(36),
            "dop" + "_v1_" + self.pick(64, "0123456789abcdef"),
            "gl" + "sa_" + self.pick(32) + "_" + self.pick(8, "0123456789abcdef"),
            "dckr" + "_pat_" + self.pick(27),
            "ya" + "29." + self.pick(60),
            "hv" + "s." + self.pick(24),
            "sh" + "pat_" + self.pick(32, "0123456789abcdef"),
        ]
        return self.rng.choice(made)

    def webhook(self) -> str:
        return self.rng.choice(
            [
                f"https://hooks.slack.com/services/T{self.pick(9).upper()}/B{self.pick(9).upper()}/{self.pick(24)}",
                f"https://discord.com/api/webhooks/{self.pick(18, string.digits)}/{self.pick(68)}",
            ]
        )

    def basic(self) -> str:
        return "Basic " + base64.b64encode(f"svc:{self.password()}".encode()).decode()


KINDS: dict[str, Callable[[Maker], str]] = {
    "export": lambda m: f"export {m.name()}={m.password()}",
    "a line of .env": lambda m: f"{m.name().upper()}={m.password()}",
    "a quoted line of .env": lambda m: f'{m.name().upper()}="{m.password()}"',
    "os.environ": lambda m: f'os.environ["{m.name()}"] = "{m.password()}"',
    "setdefault": lambda m: f"os.environ.setdefault('{m.name()}', '{m.password()}')",
    "YAML": lambda m: f"db:\n  user: app\n  password: {m.password()}\n",
    "quoted YAML": lambda m: f"api_key: '{m.password()}'",
    "JSON": lambda m: json.dumps({"user": "app", "password": m.password()}),
    "INI": lambda m: f"[smtp]\nuser = app\npassword = {m.password()}\n",
    "Python": lambda m: f"connect(host='x', password={m.password()!r})",
    "R": lambda m: f'api_key <- 1; secret_key = "{m.password()}"',
    "blanks in a value": lambda m: f'passphrase = "{m.phrase()}"',
    "a connection string": lambda m: f"dsn = {m.url()!r}",
    "ODBC": lambda m: f"Driver={{ODBC}};Server=tcp:{m.rng.choice(HOSTS)};Uid=app;Pwd={m.password().replace(';', '')};",
    "a query": lambda m: f"GET https://api.example.com/v1?user=7&api_key={m.pick(12)}9{m.pick(12)}&page=2",
    "an option": lambda m: f"mysql --user app --password={m.password()} shop",
    "a token": lambda m: f"client = Client('{m.token()}')",
    "a token in prose": lambda m: f"use {m.token()} for now",
    "a webhook": lambda m: f"post to {m.webhook()}",
    "PEM": lambda m: f"-----BEGIN {m.rng.choice(['RSA ', 'EC ', 'OPENSSH ', ''])}PRIVATE KEY-----\n{m.pick(64)}\n",
    "PGP": lambda m: f"-----BEGIN PGP PRIVATE KEY BLOCK-----\n\n{m.pick(64)}\n",
    "Basic": lambda m: f"Authorization: {m.basic()}",
    "Bearer": lambda m: f"-H 'Authorization: Bearer {m.pick(20)}4{m.pick(20)}'",
    "HTML": lambda m: f"<td>{html.escape(json.dumps({'password': m.password()}))}</td>",
    "base64": lambda m: base64.b64encode(f"DB_PASSWORD={m.password()}\nDB_URL={m.url()}\n".encode()).decode(),
    "XML": lambda m: f"<server><password>{m.password()}</password></server>",
}


def harmless(seed: int, size: int) -> Iterator[str]:
    "Lines of outputs, code and prose without a secret or a person, about `size` characters in all"
    rng = random.Random(seed)
    made = 0
    while made < size:
        line = rng.choice(_LINES)(rng)
        made += len(line) + 1
        yield line


_LINES: list[Callable[[random.Random], str]] = [
    lambda r: " ".join(f"{r.gauss(0, 1):+.8f}" for _ in range(6)),
    lambda r: " ".join(f"{r.gauss(0, 1e6):+.6e}" for _ in range(5)),
    lambda r: "[" + " ".join(str(r.randrange(10**15, 10**16)) for _ in range(4)) + "]",
    lambda r: f"{r.randrange(1000)}    {r.randrange(10**15, 10**16)}",
    lambda r: f"{r.randrange(10**15, 10**16)}\n{r.randrange(10**15, 10**16)}\n{r.randrange(10**15, 10**16)}",
    lambda r: f"  {r.getrandbits(256):064x}  model-{r.randrange(99)}.onnx",
    lambda r: f"Successfully installed package-{r.randrange(9)}.{r.randrange(20)}.{r.randrange(9)}.{r.randrange(9)}",
    lambda r: f"driver {r.randrange(9)}.{r.randrange(30)}.{r.randrange(9)}.{r.randrange(30)} loaded",
    lambda r: f"id={r.getrandbits(128):032x} run {r.randrange(10**9)} took {r.random() * 9:.3f} s",
    lambda r: (
        f"{r.getrandbits(32):08x}-{r.getrandbits(16):04x}-4{r.getrandbits(12):03x}-a{r.getrandbits(12):03x}-{r.getrandbits(48):012x}"
    ),
    lambda r: (
        f"2024-0{r.randrange(1, 9)}-1{r.randrange(9)}T0{r.randrange(9)}:{r.randrange(10, 59)}:07.{r.randrange(10**6):06d}Z"
    ),
    lambda r: f"password = get_password(user{r.randrange(9)})",
    lambda r: "api_key: str | None = None",
    lambda r: f"tokenizer = AutoTokenizer.from_pretrained('bert-base-{r.randrange(9)}')",
    lambda r: "special_tokens = {'pad_token': '[PAD]', 'eos_token': '<|endoftext|>', 'unk_token': '<unk>'}",
    lambda r: f"max_tokens={r.randrange(10**4)}, n_tokens = {r.randrange(10**6)}",
    lambda r: "password = os.environ['DB_PASSWORD']  # from the vault",
    lambda r: 'raise ValueError("the password must have 8 characters")',
    lambda r: "Please enter your password: ",
    lambda r: "secret_name: my-secret\nsecretKeyRef:\n  name: db\n  key: password",
    lambda r: "postgresql://user:password@localhost/db  # an example",
    lambda r: f"@pytest.mark.parametrize('key', [{r.randrange(9)}])  # {r.randrange(99)} cases",
    lambda r: f"git@github.com:org/repo-{r.randrange(99)}.git",
    lambda r: f"def credentials_for(user: str, *, scope: str = 'read{r.randrange(9)}') -> Credentials:",
    lambda r: "".join(r.choice(string.ascii_lowercase + "     ") for _ in range(70)),
]
