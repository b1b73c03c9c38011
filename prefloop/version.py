"""The version of this code, as every manifest records it."""

__version__ = "0.1.0"


def code_version() -> str:
    """The version that a manifest names."""
    return f"prefloop {__version__}"
