"""The signature FreeScout makes, and the many that others make."""

import base64
import hashlib
import hmac

import pytest

from freescout_audit import verify_freescout_hmac
from freescout_audit.signature import Signer, matching_signer, sign

KEY = "c7668316c98c87f71747d80a9e34c526"
BODY = b'{"id":1,"status":"closed","subject":"caf\\u00e9"}'
SIGNATURE = "ykMtRFlCvNoJSBV2z5OOIchv8j4="


def test_a_literal_vector_verifies() -> None:
    assert sign(BODY, KEY) == SIGNATURE
    assert verify_freescout_hmac(BODY, SIGNATURE, secrets=[KEY])


def test_any_accepted_key_will_do() -> None:
    assert verify_freescout_hmac(BODY, SIGNATURE, secrets=["new key", KEY])


@pytest.mark.parametrize("position", range(len(BODY)))
def test_a_flipped_bit_in_the_body_does_not_verify(position: int) -> None:
    flipped = bytearray(BODY)
    flipped[position] ^= 1

    assert not verify_freescout_hmac(bytes(flipped), SIGNATURE, secrets=[KEY])


@pytest.mark.parametrize(
    "signature",
    [
        None,
        "",
        " " + SIGNATURE,
        SIGNATURE + "\n",
        SIGNATURE.rstrip("="),
        SIGNATURE.lower(),
        "f" + SIGNATURE[1:],
        hmac.new(KEY.encode(), BODY, hashlib.sha1).hexdigest(),
        base64.b64encode(hmac.new(KEY.encode(), BODY, hashlib.sha256).digest()).decode(),
        "sha1=" + SIGNATURE,
        "ÿ" * 28,
        "\udcff",
    ],
)
def test_what_is_not_exactly_freescouts_signature_does_not_verify(signature: str | None) -> None:
    assert not verify_freescout_hmac(BODY, signature, secrets=[KEY])


@pytest.mark.parametrize("secrets", [[], [""], ["", "another key"]])
def test_without_the_right_key_nothing_verifies(secrets: list[str]) -> None:
    assert not verify_freescout_hmac(BODY, SIGNATURE, secrets=secrets)
    assert not verify_freescout_hmac(b"", sign(b"", ""), secrets=secrets)


def test_a_body_signed_in_pieces_has_the_signature_of_the_whole() -> None:
    signers = [Signer("new key"), Signer(KEY)]

    for signer in signers:
        signer.update(BODY[:10])
        signer.update(BODY[10:])

    assert matching_signer(signers, SIGNATURE) == 1


def test_a_signer_does_not_show_its_key() -> None:
    assert KEY not in repr(Signer(KEY))
