"""What is kept of secrets: scrypt's output of a password, the SHA-256 of anything random.

Who reads the database cannot come in.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import unicodedata

from prefloop.errors import InputError

PASSWORD_LENGTH = (10, 200)
"""How few and how many characters a password has."""
SCRYPT = (2**14, 8, 5)
"""Work factors n, r, p: 16 MiB and about 0.2 seconds, one of the settings of equal strength in OWASP's Password Storage
Cheat Sheet, https://cheatsheetseries.owasp.org/cheatsheets/Password_Storage_Cheat_Sheet.html"""


def secret_hash(secret: str) -> str:
    """What is kept of a random secret: its SHA-256. (It holds 256 random bits, so nobody can guess it from that.)"""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def hash_password(password: str) -> str:
    """scrypt's output with its work factors and salt. Raises InputError for a password too short or too long."""
    low, high = PASSWORD_LENGTH
    if not isinstance(password, str) or not low <= len(password) <= high:
        raise InputError(f"a password has {low} to {high} characters")
    n, r, p = SCRYPT
    salt = secrets.token_bytes(16)
    encoded = [base64.b64encode(part).decode() for part in (salt, _scrypt(password, salt, n, r, p))]
    return f"scrypt:{n}:{r}:{p}:{encoded[0]}:{encoded[1]}"


def password_fits(password: str, stored: str) -> bool:
    """Whether this password gave what is stored; takes as long either way."""
    _, n, r, p, salt, expected = stored.split(":")
    given = _scrypt(password[: PASSWORD_LENGTH[1] + 1], base64.b64decode(salt), int(n), int(r), int(p))
    return hmac.compare_digest(given, base64.b64decode(expected))


def _scrypt(password: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    # One text may be typed in several ways that look alike; NFKC makes them one (NIST SP 800-63B, 5.1.1.2).
    text = unicodedata.normalize("NFKC", password).encode("utf-8", "surrogatepass")
    return hashlib.scrypt(text, salt=salt, n=n, r=r, p=p, maxmem=256 * n * r, dklen=32)


def nobodys_password() -> str:
    """What no password gives: to be compared with where there is no account."""
    n, r, p = SCRYPT
    return f"scrypt:{n}:{r}:{p}:{base64.b64encode(bytes(16)).decode()}:{base64.b64encode(bytes(32)).decode()}"
