"""Detectors: planted identifiers are found, numbers that only look like some are not, and nothing repeats what it found."""

import random
import string

import pyarrow as pa
import pytest
from helpers.counts import count
from mlops_nb.guard.pii import card_ok, classify, column_hints, find_pii, find_secrets, iban_ok, luhn, vin_ok

RNG = random.Random(20131231)


def digits(n):
    return "".join(RNG.choice(string.digits) for _ in range(n))


def with_luhn(prefix, n):
    body = prefix + digits(n - len(prefix) - 1)
    return next(body + d for d in string.digits if luhn(body + d))


def iban():
    body = "".join(RNG.choice(string.digits) for _ in range(18))
    check = 98 - int("".join(str(int(c, 36)) for c in body + "DE00")) % 97
    return f"DE{check:02d}{body}"


def vin():
    letters = "ABCDEFGHJKLMNPRSTUVWXYZ" + string.digits
    while True:
        v = "1" + "".join(RNG.choice(letters) for _ in range(16))
        if vin_ok(v):
            return v


MAKE = {
    "email": lambda: (
        f"{RNG.choice(['ada', 'g.hopper', 'x+tag', 'o_neil'])}{digits(2)}@{RNG.choice(['example.org', 'mail.co.uk', 'a-b.io'])}"
    ),
    "ssn": lambda: f"{RNG.randint(1, 665):03d}-{RNG.randint(1, 99):02d}-{RNG.randint(1, 9999):04d}",
    "payment_card": lambda: with_luhn(RNG.choice(["4", "51", "55"]), 16),
    "iban": iban,
    "phone": lambda: RNG.choice(
        [f"+1 {digits(3)} {digits(3)} {digits(4)}", f"(212) 555-{digits(4)}", f"phone: 0{digits(3)} {digits(6)}"]
    ),
    "mac_address": lambda: ":".join(f"{RNG.randint(0, 255):02x}" for _ in range(6)),
    "vehicle_number": lambda: f"VIN: {vin()}",
    "medical_record": lambda: f"MRN {digits(7)}",
    "birth_date": lambda: f"DOB: 19{digits(2)}-0{RNG.randint(1, 9)}-1{digits(1)}",
    "ip_address": lambda: f"{RNG.randint(128, 223)}.{RNG.randint(1, 255)}.{RNG.randint(1, 255)}.{RNG.randint(1, 254)}",
    "licence_number": lambda: f"passport no. C{digits(8)}",
}


@pytest.mark.parametrize("name", MAKE)
def test_planted_identifiers_are_found(name):
    "Each alone and inside a sentence"
    n, missed = count(40, 300), []
    for _ in range(n):
        x = MAKE[name]()
        if name not in find_pii(x) or name not in find_pii(f"the value is {x}, as agreed"):
            missed.append(x)
    assert len(missed) <= n * 0.02, missed[:5]


def test_numbers_of_a_notebook_are_no_persons():
    "Floats, ids, hashes, versions, times and counts: the corpus that makes naive patterns useless"
    lines = []
    for _ in range(count(2000, 20000)):
        lines += [
            repr(RNG.random()),
            repr(RNG.gauss(0, 1e9)),
            f"{RNG.getrandbits(160):040x}",
            f"pandas=={RNG.randint(0, 9)}.{RNG.randint(0, 30)}.{RNG.randint(0, 9)}.{RNG.randint(0, 9)}",
            (
                f"{RNG.randint(2000, 2030)}-{RNG.randint(1, 12):02d}-{RNG.randint(1, 28):02d} "
                f"{RNG.randint(0, 23):02d}:{RNG.randint(0, 59):02d}:{RNG.randint(0, 59):02d}.{digits(6)}"
            ),
            f"{RNG.randint(0, 10**7):,} rows",
            f"epoch {RNG.randint(1_300_000_000, 1_800_000_000)}",
            f"run-{digits(8)}T{digits(6)}-{RNG.getrandbits(24):06x}",
            f"<path d='M{digits(2)} {digits(2)}V{digits(1)}.{digits(1)}H{digits(3)}'/>",
        ]
    text = "\n".join(lines)
    assert find_pii(text) == {} and find_secrets(text) == {}


def test_random_cards_and_vins_are_rarely_right():
    assert sum(card_ok(digits(16)) for _ in range(5000)) < 5000 * 0.06
    assert not any(vin_ok(digits(17)) for _ in range(2000))
    assert sum(iban_ok("DE" + digits(20)) for _ in range(2000)) < 60


def token(n, alphabet=string.ascii_letters + string.digits):
    return "".join(RNG.choice(alphabet) for _ in range(n))


SECRETS = {
    "aws_access_key": lambda: "AK" + "IA" + token(16, string.ascii_uppercase + string.digits),
    "github_token": lambda: "gh" + "p_" + token(36),
    "gitlab_token": lambda: "glp" + "at-" + token(20),
    "slack_token": lambda: "xox" + "b-" + digits(12) + "-" + token(24),
    "google_api_key": lambda: "AI" + "za" + token(35),
    "huggingface_token": lambda: "h" + "f_" + token(34),
    "stripe_key": lambda: "sk_" + "live_" + token(24),
    "private_key": lambda: "-----BEGIN " + "RSA PRIVATE KEY-----",
    "json_web_token": lambda: "ey" + "J" + token(20) + ".ey" + "J" + token(30) + "." + token(40),
    "url_password": lambda: "postgresql://app:" + token(12) + "@db.internal/app",
    "password": lambda: "db_password = '" + token(14) + "'",
    "databricks_token": lambda: "da" + "pi" + token(32, "0123456789abcdef"),
    "azure_key": lambda: "Account" + "Key=" + token(86) + "==",
}


@pytest.mark.parametrize("name", SECRETS)
def test_planted_secrets_are_found(name):
    for _ in range(20):
        assert name in find_secrets(f"x = 1  # {SECRETS[name]()}")


@pytest.mark.parametrize(
    "text",
    [
        'password = os.environ["DB"]',
        "password = getpass.getpass()",
        'api_key = "${API_KEY}"',
        'token = "<your token>"',
        'secret = "changeme"',
        'pwd = "********"',
        "postgresql://app:${PW}@db/app",
        "https://example.org/a?b=c@d",
        "def password_of(user): ...",
        'password = ""',
        "sk_" + "test_abcdefghijklmnop",
    ],
)
def test_placeholders_are_no_secrets(text):
    assert find_secrets(text) == {}


def test_columns_by_name_and_by_text():
    table = pa.table(
        {
            "Email Address": ["x", "y"],
            "patientName": ["a", "b"],
            "zip_code": [10001, 10002],
            "free": ["call me", "ada@example.org"],
            "carrier": pa.array(["UA", "AA"]).dictionary_encode(),
            "tailnum": ["N14228", None],
            "id": [4111111111111111, 1],
            "when": pa.array([0, 1], pa.timestamp("us")),
        }
    )
    assert classify(table) == {
        "Email Address": ["email"],
        "patientName": ["person_name"],
        "zip_code": ["zip"],
        "free": ["email"],
    }
    assert classify(pa.table({"a": pa.array(["ada@example.org"]).dictionary_encode()})) == {"a": ["email"]}
    assert column_hints("ship_date") == column_hints("flight") == column_hints("description") == []


def test_a_table_with_two_columns_of_one_name():
    t = pa.Table.from_arrays([pa.array(["a@example.org"]), pa.array([1])], names=["x", "x"])
    assert classify(t) == {"x": ["email"]}


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "unit", ["a@", "1-", "password", "4 4 4 4 ", "://a:", "eyJ", "a.", "::1", "+1 1", "GB82 ", "aws key "]
)
def test_hostile_text_ends(unit):
    "Patterns that backtrack would never come back from this"
    s = unit * count(50_000, 500_000)
    assert isinstance(find_pii(s), dict) and isinstance(find_secrets(s), dict)
