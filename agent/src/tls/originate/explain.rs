//! Failed handshakes with external servers, as sentences for an operator.

use std::{
    io,
    time::{Duration, SystemTime},
};

use rustls::{AlertDescription, CertificateError, Error, pki_types::UnixTime};

use super::{
    as_text,
    verify::{ChainFault, NameMismatch},
};
use crate::route::TlsOrigination;

/// What happened and what to do about it.
pub(super) fn sentence(origination: &TlsOrigination, error: &io::Error) -> String {
    let tls = error.get_ref().and_then(|source| source.downcast_ref::<Error>());
    let why = match tls {
        Some(Error::InvalidCertificate(fault)) => certificate(origination, fault),
        Some(Error::AlertReceived(said)) => alert(origination, *said),
        Some(
            Error::InvalidMessage(_) | Error::InappropriateMessage { .. } | Error::PeerSentOversizedRecord,
        ) => "the server answered with something that is not TLS; is this port plain?".to_owned(),
        Some(Error::PeerIncompatible(why)) => {
            format!("the server and we have no version or cipher suite of TLS in common ({why:?})")
        }
        Some(other) => other.to_string(),
        None => match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
                "the server closed the connection during the handshake; does this port speak TLS?".to_owned()
            }
            _ => error.to_string(),
        },
    };
    format!("TLS origination ({}) failed: {why}", origination.object)
}

fn certificate(origination: &TlsOrigination, fault: &CertificateError) -> String {
    let anchors = match &origination.credential_name {
        Some(name) => format!("the CA in Secret {name}"),
        None => "the system's trust anchors (no credentialName is given)".to_owned(),
    };
    match fault {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            format!("the server's certificate is not signed by {anchors}")
        }
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("the server's certificate expired at {}", at(*not_after))
        }
        CertificateError::NotValidYetContext { not_before, .. } => {
            format!("the server's certificate is not valid before {}", at(*not_before))
        }
        CertificateError::Revoked => "the server's certificate is revoked".to_owned(),
        CertificateError::Other(other) => {
            if let Some(mismatch) = other.0.downcast_ref::<NameMismatch>() {
                return format!("{mismatch}; see sni and subjectAltNames");
            }
            match other.0.downcast_ref::<ChainFault>() {
                Some(ChainFault(webpki::Error::UnknownRevocationStatus)) => {
                    "no revocation list in the credential covers the server's certificate".to_owned()
                }
                Some(ChainFault(webpki::Error::CrlExpired { next_update, .. })) => {
                    format!("the credential's revocation list expired at {}", at(*next_update))
                }
                Some(ChainFault(webpki::Error::CaUsedAsEndEntity)) => {
                    "the server's certificate is a CA's (self-signed?), not a server's".to_owned()
                }
                Some(ChainFault(webpki::Error::RequiredEkuNotFoundContext(_))) => {
                    "the server's certificate is not meant for servers (extended key usage)".to_owned()
                }
                Some(ChainFault(fault)) => format!("the server's certificate is refused: {fault}"),
                None => format!("the server's certificate is refused: {fault}"),
            }
        }
        fault => format!("the server's certificate is refused: {fault}"),
    }
}

fn alert(origination: &TlsOrigination, said: AlertDescription) -> String {
    match said {
        AlertDescription::CertificateRequired => missing_certificate(said),
        AlertDescription::HandshakeFailure | AlertDescription::NoCertificate if !origination.mutual => {
            format!(
                "the server ended the handshake ({said:?}); if it requires a client certificate, use mode MUTUAL with a \
                 credentialName"
            )
        }
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnknownCA
        | AlertDescription::AccessDenied
        | AlertDescription::DecryptError => match &origination.credential_name {
            Some(name) if origination.mutual => format!(
                "the server rejected our client certificate ({said:?}); is the one in Secret {name} signed by a CA it trusts?"
            ),
            _ => missing_certificate(said),
        },
        AlertDescription::UnrecognisedName => {
            format!("the server does not know the name we asked for ({said:?}); see sni")
        }
        AlertDescription::NoApplicationProtocol => {
            format!("the server speaks none of the protocols we offered ({said:?})")
        }
        AlertDescription::ProtocolVersion => {
            format!("the server speaks only versions of TLS before 1.2 ({said:?})")
        }
        said => format!("the server ended the handshake ({said:?})"),
    }
}

fn missing_certificate(said: AlertDescription) -> String {
    format!("the server requires a client certificate ({said:?}); use mode MUTUAL with a credentialName")
}

fn at(time: UnixTime) -> String {
    as_text(SystemTime::UNIX_EPOCH + Duration::from_secs(time.as_secs()))
}
