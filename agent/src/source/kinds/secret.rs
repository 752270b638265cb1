//! Reads a Secret: TLS material under the keys that Istio knows.

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::Meta;
use crate::{mesh::Credential, source::fields::Fields};

/// `None`: no TLS material.
pub(super) fn read(meta: &Meta, mut document: Fields<'_>) -> Option<Credential> {
    let mut values: Vec<(String, Vec<u8>)> = Vec::new();
    if let Some(data) = document.take("data") {
        for (key, field) in data.entries() {
            let decoded = field.parse(|text| {
                let text: String = text.split_ascii_whitespace().collect();
                // The decoder's error would show characters of the value, and that may be a key.
                STANDARD.decode(text).map_err(|_| "is not base64; use stringData for plain text")
            });
            values.extend(decoded.map(|value| (key.to_owned(), value)));
        }
    }
    if let Some(data) = document.take("stringData") {
        for (key, field) in data.entries() {
            if let Some(text) = field.text() {
                values.retain(|(other, _)| other != key);
                values.push((key.to_owned(), text.into_bytes()));
            }
        }
    }
    document.ignore(&["type", "immutable"]);
    document.finish();
    let mut take = |names: &[&str]| {
        names.iter().find_map(|name| {
            let at = values.iter().position(|(key, _)| key == name)?;
            Some(values.swap_remove(at).1)
        })
    };
    let credential = Credential {
        object: meta.object.clone(),
        certificate: take(&["tls.crt", "cert"]),
        key: take(&["tls.key", "key"]),
        ca: take(&["ca.crt", "cacert"]),
        crl: take(&["ca.crl", "crl"]),
    };
    let empty = credential.certificate.is_none() && credential.key.is_none() && credential.ca.is_none();
    (!empty).then_some(credential)
}
