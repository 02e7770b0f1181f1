"""Content types. Pure."""


def is_json_type(content_type: str) -> bool:
    """Tell whether a ``Content-Type`` is JSON's: ``application/json``, or a form of it, ``application/hal+json``.

    Capitals do not matter (RFC 9110, 8.3.1), nor do parameters.
    """
    media_type = content_type.partition(";")[0].strip().lower()
    return media_type == "application/json" or (media_type.startswith("application/") and media_type.endswith("+json"))
