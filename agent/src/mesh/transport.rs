//! How clear bytes go to a port: plain, or as TLS that a DestinationRule originates; never plain where TLS is declared.

use std::sync::Arc;

use super::{ObjectRef, TlsSetting};
use crate::{
    reason::{Reason, Refusal},
    route::{AppProtocol, TlsMode, TlsOrigination},
};

/// How clear bytes go to a port of this protocol.
pub(super) fn transport(
    host: &str,
    protocol: AppProtocol,
    port: u16,
    setting: Option<(&ObjectRef, &TlsSetting)>,
    entry_names: &[Arc<str>],
) -> Result<TlsMode, Refusal> {
    match setting {
        Some((
            object,
            TlsSetting::Originate { mutual, credential_name, sni, subject_alt_names, insecure_skip_verify },
        )) => {
            let mut names = subject_alt_names.clone();
            for name in entry_names {
                if !names.contains(name) {
                    names.push(Arc::clone(name));
                }
            }
            Ok(TlsMode::Originate(Arc::new(TlsOrigination {
                mutual: *mutual,
                credential_name: credential_name.clone(),
                sni: sni.clone(),
                subject_alt_names: names,
                insecure_skip_verify: *insecure_skip_verify,
                object: object.clone(),
            })))
        }
        Some((object, TlsSetting::IstioMutual)) => Err(Refusal::new(
            Reason::TlsRequired,
            format!(
                "{object} asks for ISTIO_MUTUAL towards {host}, which is outside the mesh; use SIMPLE or MUTUAL"
            ),
        )
        .by(object.clone())),
        Some((object, TlsSetting::Disable)) if requires_tls(protocol) => Err(Refusal::new(
            Reason::TlsRequired,
            format!(
                "{object} disables TLS, but port {port} of {host} is declared HTTPS or TLS; plain bytes are not sent there"
            ),
        )
        .by(object.clone())),
        None if requires_tls(protocol) => Err(Refusal::new(
            Reason::TlsRequired,
            format!(
                "port {port} of {host} is declared HTTPS or TLS and no DestinationRule that applies originates TLS; add one with tls.mode SIMPLE or MUTUAL"
            ),
        )),
        Some((_, TlsSetting::Disable)) | None => Ok(TlsMode::Plain),
    }
}

/// Whether a port of this protocol never gets plain bytes.
pub(crate) fn requires_tls(protocol: AppProtocol) -> bool {
    matches!(protocol, AppProtocol::Https | AppProtocol::Tls)
}
