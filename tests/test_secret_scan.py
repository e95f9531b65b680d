"""Each kind of secret is found; ordinary code is not one."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from habitab_engine.secret_scan import Scanner, holds_secret
from planted import KINDS, Maker, Planted, planted

CODE = Path(__file__).parent.parent / "server"
WINDOW = 60  # lines


def test_every_type_that_detect_secrets_names_is_planted() -> None:
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class

    assert set(get_mapping_from_secret_type_to_class()) <= set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_secret_is_found(kind: str) -> None:
    made = [one for one in planted(40 * len(KINDS), seed=1) if one.kind == kind]
    assert [one.text for one in made if not holds_secret(f"import os\n{one.text}\nprint(1)\n")] == []


@pytest.mark.parametrize("kind", ["RSA ", "ENCRYPTED ", "OPENSSH ", "EC ", ""])
def test_the_first_and_the_last_line_of_a_private_key_say_enough(kind: str) -> None:
    for word in ("BEGIN", "END"):
        assert holds_secret(f"key = '-----{word} {kind}PRIVATE" + " KEY-----'")


def test_each_line_of_a_key_s_body_says_enough() -> None:
    lines = [line for seed in range(50) for line in Maker(seed).pem_body().split("\n")]
    assert len([line for line in lines if not holds_secret(f'    "{line}\\n"')]) <= len(lines) // 100


@pytest.mark.parametrize(
    "line",
    [
        'password = getpass("Password: ")',
        "API_KEY = os.environ['API_KEY']",
        "TOKEN=$(cat token)",
        "API_KEY=",
        "key = sorted(rows, key=lambda row: row[1])",
        "token: str,",
        "  password: string;",
        "def decode_one_token(model: Model, slot: Slot, token: int) -> Tensor:",
        'return f"postgres://{user}:{password}@{host}:{port}/{name}"',
        "https://github.com/python/cpython/blob/main/Lib/asyncio/base_events.py",
        "assert isinstance(exception, AuthenticationMechanismTooWeakError)",
        "ossl_check_PKCS12_SAFEBAG_compfunc_type",
        "server = '127.0.0.1:8080'",
        "// eslint-disable-next-line @typescript-eslint/no-unsafe-member-access",
    ],
)
def test_what_only_speaks_of_secrets_is_none(line: str) -> None:
    assert not holds_secret(line)


def test_of_our_own_code_less_than_a_fiftieth_is_withheld() -> None:
    windows = [
        lines[i : i + WINDOW]
        for path in sorted(CODE.rglob("*.py"))
        for lines in [path.read_text().split("\n")]
        for i in range(0, len(lines), WINDOW)
    ]
    scanner = Scanner()
    assert sum(scanner.holds_secret("\n".join(window)) for window in windows) < len(windows) / 50


def test_a_scanner_judges_as_the_function_does_also_what_it_saw_before() -> None:
    texts = [one.text for one in planted(66)] + ["x = 1", "y = 2"]
    scanner, order = Scanner(), random.Random(0)
    for text in order.choices(texts, k=200):
        assert scanner.holds_secret(text) == holds_secret(text)


def test_a_scanner_lets_others_work_now_and_then() -> None:
    pauses: list[int] = []
    scanner = Scanner(lambda: pauses.append(1))
    text = "\n".join(f"value_{i} = {i}" for i in range(100))
    scanner.holds_secret(text)
    first = len(pauses)
    scanner.holds_secret(text)
    assert (first >= 5, len(pauses)) == (True, first)


def test_a_scanner_remembers_no_more_than_so_many_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("habitab_engine.secret_scan._REMEMBERED", 10)
    scanner = Scanner()
    for i in range(40):
        scanner.holds_secret(f"value = {i}")
    assert len(scanner._seen) <= 10


@pytest.mark.parametrize("where", [0, 700, 1_900, 5_000])
def test_a_secret_is_found_anywhere_in_a_very_long_line(where: int) -> None:
    secret: Planted = next(one for one in planted(33) if one.kind == "GitHub Token")
    filler = "var a=1;" * 1_000
    assert holds_secret(filler[:where] + f'"{secret.secret}"' + filler[where:])


def test_a_very_long_line_takes_no_very_long_time() -> None:
    code = "from habitab_engine.secret_scan import holds_secret; print(holds_secret('key=\"a\\' ' * 20_000))"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


def test_nothing_is_loaded_before_a_text_is_looked_at() -> None:
    code = "import sys, habitab_engine.secret_scan, habitab_engine.signals; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"detect_secrets", "sqlite_utils", "requests", "numpy"} & set(done.stdout.split())
