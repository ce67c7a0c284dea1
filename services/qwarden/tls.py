"""Certificates that the settings name, read; what is wrong with them is a sentence."""

from __future__ import annotations

import ssl
from pathlib import Path

from qwarden.settings import Certificates, SettingsError


def context_of(certificates: Certificates) -> ssl.SSLContext:
    """For connections that check the server's certificate and its name. Raises `SettingsError`.

    The files are read once: a process that is to use new ones is started anew, and until then
    `certificates.Files` tells the end of the old ones.
    """
    for setting, file in certificates.named.items():
        if not file.is_file():
            raise SettingsError(f"{setting}: there is no file {file}")
    context = ssl.create_default_context(cafile=_authority(certificates))
    if certificates.certificate_file is not None:
        _show(context, certificates, certificates.certificate_file)
    return context


def trusting_the_system() -> ssl.SSLContext:
    """For HTTP connections whose settings name no certificates. httpx's own default is a list of
    the web's authorities, in which no company's stand."""
    return ssl.create_default_context()


def pem_of(certificates: Certificates) -> tuple[bytes | None, bytes | None, bytes | None]:
    """The authority, the private key and our certificate, as gRPC takes them, None for what is not
    named. Raises `SettingsError`."""
    context_of(certificates)
    own = certificates.certificate_file
    return (
        certificates.ca_file.read_bytes() if certificates.ca_file else None,
        (certificates.key_file or own).read_bytes() if own else None,
        own.read_bytes() if own else None,
    )


def _authority(certificates: Certificates) -> str | None:
    if certificates.ca_file is None:
        return None
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(certificates.ca_file)
    except OSError as error:  # of a file without certificates too
        raise SettingsError(
            f"{certificates.setting}CA_FILE: {certificates.ca_file} gives no certificate "
            f"({_said(error)}); name a file of certificates in PEM"
        ) from None
    return str(certificates.ca_file)


def _show(context: ssl.SSLContext, certificates: Certificates, own: Path) -> None:
    key = certificates.key_file or own
    try:
        # Without a password an encrypted key would be asked for on the terminal.
        context.load_cert_chain(own, key, password="")
    except OSError as error:
        raise SettingsError(
            f"{certificates.setting}CERTIFICATE_FILE: {own} with the key in {key} is of no use "
            f"({_said(error)}); name a certificate and its own private key, in PEM and without a "
            "passphrase"
        ) from None


def _said(error: OSError) -> str:
    return getattr(error, "reason", None) or error.strerror or str(error)
