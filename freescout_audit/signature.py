"""FreeScout's delivery signature: ``base64(HMAC-SHA1(raw body, key))`` in ``X-FreeScout-Signature``.

Measured on API & Webhooks module 1.0.82. The key is ``md5(APP_KEY + "webhook_key")`` as 32 hex characters, one for
the whole FreeScout instance; the body is signed byte for byte, so it must be verified before anything decodes it.
"""

import base64
import hashlib
import hmac
from collections.abc import Iterable, Sequence


def verify_freescout_hmac(raw_body: bytes, signature: str | None, *, secrets: Iterable[str]) -> bool:
    """Tell whether one of ``secrets`` signed ``raw_body``.

    Args:
        raw_body: The request body as it came over the wire, not decoded, not decompressed.
        signature: The value of ``X-FreeScout-Signature``; ``None`` or empty never verifies.
        secrets: The keys accepted now; empty ones never verify.

    Returns:
        True if a key signed exactly these bytes. The comparison takes the same time for every wrong signature.
    """
    signers = [Signer(secret) for secret in secrets if secret]
    for signer in signers:
        signer.update(raw_body)
    return matching_signer(signers, signature) is not None


def sign(raw_body: bytes, secret: str) -> str:
    """Sign a body as FreeScout does (for the simulator, the self-test and tests)."""
    signer = Signer(secret)
    signer.update(raw_body)
    return signer.signature()


def webhook_key(app_key: str) -> str:
    """Return the key that a FreeScout signs with; ``app_key`` as it stands in ``.env``, its ``base64:`` included."""
    return _derived(app_key, "webhook_key")


def api_key(app_key: str, salt: str = "") -> str:
    """Return the key of a FreeScout's API (measured on modules 1.0.82 and 1.0.87).

    ``salt`` is APIWEBHOOKS_API_KEY_SALT, empty until "Regenerate" is pressed, which changes this key alone.
    """
    return _derived(app_key, "api_key" + salt)


def _derived(app_key: str, name: str) -> str:
    return hashlib.md5((app_key + name).encode()).hexdigest()  # noqa: S324 - FreeScout's derivation, not ours


def fingerprint(secret: str) -> str:
    """Return 8 hex characters that tell one key from another, and say nothing else of it: the journal's name for it."""
    return hmac.new(secret.encode(), b"freescout-audit key fingerprint", hashlib.sha256).hexdigest()[:8]


class Signer:
    """The signature of a body that arrives in pieces, under one key."""

    def __init__(self, secret: str) -> None:
        self._hmac = hmac.new(secret.encode(), digestmod=hashlib.sha1)

    def __repr__(self) -> str:
        return "Signer(…)"

    def update(self, chunk: bytes | memoryview) -> None:
        """Take the next piece of the raw body."""
        self._hmac.update(chunk)

    def signature(self) -> str:
        """Return the signature of all pieces so far, as FreeScout writes it into the header."""
        return base64.b64encode(self._hmac.digest()).decode("ascii")


def matching_signer(signers: Sequence[Signer], signature: str | None) -> int | None:
    """Return the index of the signer that made ``signature``, or None; every signer is always compared."""
    given = (signature or "").encode("utf-8", "surrogateescape")
    matching = None
    for index, signer in enumerate(signers):
        if hmac.compare_digest(signer.signature().encode("ascii"), given) and matching is None:
            matching = index
    return matching
