"""Secrets made up at run time, of each type that detect-secrets names and others: a line of text, and its secret."""

from __future__ import annotations

import base64
import json
import random
import string
from collections.abc import Callable, Iterator
from dataclasses import dataclass

LOWER, UPPER, DIGITS, HEX = string.ascii_lowercase, string.ascii_uppercase, string.digits, "0123456789abcdef"
ALNUM = LOWER + UPPER + DIGITS
BASE64 = ALNUM + "+/"


@dataclass(frozen=True)
class Planted:
    """`text` (of one or several lines) holds `secret`; `parts` are what must be found nowhere."""

    kind: str
    text: str
    secret: str

    @property
    def parts(self) -> list[str]:
        """Each line of the secret, and its middle where that is long enough to be its own."""
        lines = self.secret.split("\n")
        middles = [line[len(line) // 4 : -(len(line) // 4)] for line in lines if len(line) >= 16]
        return [line for line in lines if line] + middles


class Maker:
    """Draws from one seed. What a method makes is joined from pieces, so that no secret stands in this file."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def take(self, alphabet: str, size: int) -> str:
        """`size` characters, with a digit and a letter where the alphabet has both."""
        while True:
            text = "".join(self._random.choices(alphabet, k=size))
            mixed = {char.isdigit() for char in text}
            if len(mixed) == len({char.isdigit() for char in alphabet}):
                return text

    def pick(self, *options: str) -> str:
        return self._random.choice(options)

    def address(self) -> str:
        return ".".join(str(self._random.randrange(130, 170)) for _ in range(4))

    def pem_body(self) -> str:
        return "\n".join(self.take(BASE64, 64) for _ in range(6))


def _jwt(make: Maker) -> str:
    def part(facts: dict[str, str]) -> str:
        return base64.urlsafe_b64encode(json.dumps(facts).encode()).decode().rstrip("=")

    return ".".join((part({"alg": "HS256"}), part({"sub": make.take(ALNUM, 12)}), make.take(ALNUM, 43)))


def _quoted(name: str) -> Callable[[Maker, str], str]:
    return lambda make, secret: f"{make.pick('', '    ', 'self.')}{name} = {json.dumps(secret)}"


def _bare(make: Maker, secret: str) -> str:
    return make.pick(f"client({json.dumps(secret)})", f"x = '{secret}'", f"value: {secret}", f"# {secret}")


# Of each type: what makes the secret, and the line around it.
KINDS: dict[str, tuple[Callable[[Maker], str], Callable[[Maker, str], str]]] = {
    "Artifactory Credentials": (lambda m: "AK" + "C" + m.take(ALNUM, 20), _quoted("auth")),
    "AWS Access Key": (lambda m: "AK" + "IA" + m.take(UPPER + DIGITS, 16), _bare),
    "Azure Storage Account access key": (lambda m: m.take(BASE64, 86) + "==", lambda m, s: f'c = "Account{"Key"}={s}"'),
    "Basic Auth Credentials": (lambda m: m.take(ALNUM, 14), lambda m, s: f'get("https://me:{s}@host/x")'),
    "Cloudant Credentials": (lambda m: m.take(HEX, 64), _quoted("cloudant_password")),
    "Discord Bot Token": (lambda m: "M" + ".".join((m.take(ALNUM, 23), m.take(ALNUM, 6), m.take(ALNUM, 27))), _bare),
    "GitHub Token": (lambda m: m.pick("ghp", "gho", "ghs") + "_" + m.take(ALNUM, 36), _bare),
    "GitLab Token": (lambda m: "glp" + "at-" + m.take(ALNUM, 20), _bare),
    "Base64 High Entropy String": (lambda m: m.take(BASE64, 40), _quoted("blob")),
    "Hex High Entropy String": (lambda m: m.take(HEX, 40), _quoted("salt")),
    "IBM Cloud IAM Key": (lambda m: m.take(ALNUM, 44), _quoted("ibm_api_key")),
    "IBM COS HMAC Credentials": (lambda m: m.take(HEX, 48), _quoted("cos_hmac_secret_access_key")),
    "Public IP (ipv4)": (lambda m: m.address(), _bare),
    "JSON Web Token": (_jwt, _bare),
    "Secret Keyword": (lambda m: m.take(ALNUM + "!@#", 10), _quoted("db_password")),
    "Mailchimp Access Key": (lambda m: m.take(HEX, 32) + "-us" + "12", _bare),
    "NPM tokens": (lambda m: "npm" + "_" + m.take(ALNUM, 36), lambda m, s: f"//registry.example.org/:_authToken={s}"),
    "OpenAI Token": (lambda m: "sk" + "-" + m.take(ALNUM, 20) + "T3Blbk" + "FJ" + m.take(ALNUM, 20), _bare),
    "Private Key": (
        Maker.pem_body,
        lambda m, s: f"-----BEGIN {m.pick('RSA ', 'EC ', '')}PRIVATE" + f" KEY-----\n{s}\n-----END KEY-----",
    ),
    "PyPI Token": (lambda m: "pypi" + "-AgEIcHlwaS5vcmc" + m.take(ALNUM, 80), _bare),
    "SendGrid API Key": (lambda m: "SG" + "." + m.take(ALNUM, 22) + "." + m.take(ALNUM, 43), _bare),
    "Slack Token": (lambda m: "xox" + "b-" + m.take(DIGITS, 11) + "-" + m.take(LOWER + DIGITS, 24), _bare),
    "SoftLayer Credentials": (lambda m: m.take(HEX, 64), _quoted("softlayer_api_key")),
    "Square OAuth Secret": (lambda m: "sq0" + "csp-" + m.take(ALNUM, 43), _bare),
    "Stripe Access Key": (lambda m: m.pick("sk", "rk") + "_live_" + m.take(ALNUM, 24), _bare),
    "Telegram Bot Token": (lambda m: m.take(DIGITS, 9) + ":" + m.take(ALNUM, 35), _bare),
    "Twilio API Key": (lambda m: m.pick("AC", "SK") + m.take(HEX, 32), _bare),
    # What detect-secrets does not name.
    "private key, its body alone": (Maker.pem_body, lambda m, s: "\n".join(f"    {line}" for line in s.split("\n"))),
    "line of .env": (
        lambda m: m.take(ALNUM, 12),
        lambda m, s: f"{m.pick('', 'export ')}{m.pick('STRIPE_KEY', 'API_TOKEN', 'APP_SECRET', 'DB_PASSWORD')}={s}",
    ),
    "line of .env, with quotes": (
        lambda m: m.take(ALNUM, 12),
        lambda m, s: f'{m.pick("SIGNING_KEY", "BOT_TOKEN", "CLIENT_SECRET", "PASSWORD")}="{s}"',
    ),
    "URL with a password": (
        lambda m: m.take(ALNUM, 14),
        lambda m, s: f"{m.pick('postgres', 'redis', 'mysql+pymysql')}://{m.pick('', 'app')}:{s}@db.example:5432/x",
    ),
    "header": (lambda m: m.take(ALNUM, 32), lambda m, s: f'headers = {{"Authorization": "Bearer {s}"}}'),
    "configuration": (lambda m: m.take(ALNUM, 14), lambda m, s: f"  {m.pick('password', 'auth_token')}: {s}"),
}  # fmt: skip


def planted(count: int = 200, seed: int = 5) -> list[Planted]:
    """Secrets of each kind in turn."""
    return [made for made, _ in zip(_endless(Maker(seed)), range(count), strict=False)]


def _endless(make: Maker) -> Iterator[Planted]:
    while True:
        for kind, (secret_of, text_of) in KINDS.items():
            secret = secret_of(make)
            yield Planted(kind, text_of(make, secret), secret)
