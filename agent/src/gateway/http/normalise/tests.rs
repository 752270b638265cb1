//! The tables of the security notes: PATH-01 to PATH-23, HOST-01 to HOST-12.

use proptest::prelude::*;

use super::{
    PathNormalisation::{self, Base, DecodeAndMergeSlashes, MergeSlashes, None as Off},
    authority, path,
};

fn normal(given: &str, mode: PathNormalisation) -> String {
    path(given, mode).map_or_else(|e| format!("400 {e}"), std::borrow::Cow::into_owned)
}

#[test]
fn paths_in_every_mode() {
    for (given, base, merge, decode) in [
        ("/app/../admin", "/admin", "/admin", "/admin"),
        ("/app/%2E./admin", "/admin", "/admin", "/admin"),
        ("/app//", "/app//", "/app/", "/app/"),
        ("//admin", "//admin", "/admin", "/admin"),
        ("/app%2f/", "/app%2f/", "/app%2f/", "/app/"),
        ("/%2Fapp%5cadmin%5Cabc", "/%2Fapp%5cadmin%5Cabc", "/%2Fapp%5cadmin%5Cabc", "/app/admin/abc"),
        ("/app\\admin", "/app/admin", "/app/admin", "/app/admin"),
        ("/app//../admin", "/app/admin", "/app/admin", "/app/admin"),
        ("/app//../../admin", "/admin", "/admin", "/admin"),
        ("/../a/b", "/a/b", "/a/b", "/a/b"),
        ("/xyz%30..//abc", "/xyz0..//abc", "/xyz0../abc", "/xyz0../abc"),
        ("/%252e%252e%252fadmin", "/%252e%252e%252fadmin", "/%252e%252e%252fadmin", "/%252e%252e%252fadmin"),
        ("/%c0%2fadmin", "/%c0%2fadmin", "/%c0%2fadmin", "/%c0/admin"),
        ("/%c0%2e%c0%2e/admin", "/%c0.%c0./admin", "/%c0.%c0./admin", "/%c0.%c0./admin"),
        ("/;/admin", "/;/admin", "/;/admin", "/;/admin"),
        ("/admin;a=b", "/admin;a=b", "/admin;a=b", "/admin;a=b"),
        ("/admin,a=b", "/admin,a=b", "/admin,a=b", "/admin,a=b"),
        ("/..;/admin", "/admin", "/admin", "/admin"),
        ("/x/..;v=1/admin", "/admin", "/admin", "/admin"),
        ("/Admin", "/Admin", "/Admin", "/Admin"),
        ("/.../admin", "/.../admin", "/.../admin", "/.../admin"),
        ("/..../admin", "/..../admin", "/..../admin", "/..../admin"),
        ("/admin/", "/admin/", "/admin/", "/admin/"),
        ("/a/..", "/", "/", "/"),
        ("/a/.", "/a/", "/a/", "/a/"),
        ("/a/%2e%2E%2f..%5c../admin", "/a/..%2f..%5c../admin", "/a/..%2f..%5c../admin", "/admin"),
    ] {
        assert_eq!(normal(given, Off), given, "NONE {given}");
        assert_eq!(normal(given, Base), base, "BASE {given}");
        assert_eq!(normal(given, MergeSlashes), merge, "MERGE {given}");
        assert_eq!(normal(given, DecodeAndMergeSlashes), decode, "DECODE {given}");
    }
}

#[test]
fn refuses_escaped_nul_malformed_escapes_and_what_is_no_path() {
    for given in
        ["/admin%00", "/xyz/.%00../abc", "/xyz/AAAA%%0000/x", "/a%zz", "/a%2", "/a%", "admin", "*", "..", ""]
    {
        for mode in [Off, Base, MergeSlashes, DecodeAndMergeSlashes] {
            assert!(path(given, mode).is_err(), "{mode:?} {given}");
        }
    }
}

#[test]
fn every_escape_is_decoded_exactly_where_the_table_says() {
    for byte in 1..=255u8 {
        let given = format!("/admin%{byte:02X}x");
        let unreserved = byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        let kept = if unreserved { format!("/admin{}x", byte as char) } else { given.clone() };
        let slash = if matches!(byte, b'/' | b'\\') { "/admin/x".to_owned() } else { kept.clone() };
        assert_eq!(normal(&given, Base), kept);
        assert_eq!(normal(&given, DecodeAndMergeSlashes), slash);
    }
}

#[test]
fn hosts() {
    for (given, host, port) in [
        ("secret.com", "secret.com", None),
        ("Secret.COM", "secret.com", None),
        ("secret.com:80", "secret.com", Some(80)),
        ("secret.com:", "secret.com", None),
        ("secret.com:080", "secret.com", Some(80)),
        ("secret.com:-1", "secret.com", None),
        ("secret.com:99999", "secret.com", None),
        ("secret.com.", "secret.com", None),
        ("secret.com.:8080", "secret.com", Some(8080)),
        ("[::1]", "[::1]", None),
        ("[0:0:0:0:0:0:0:1]:80", "[::1]", Some(80)),
        ("2130706433", "2130706433", None),
        ("xn--example-.org", "xn--example-.org", None),
    ] {
        let got = authority(given).unwrap();
        assert_eq!((got.host.as_str(), got.port), (host, port), "{given}");
    }
}

#[test]
fn refuses_odd_hosts() {
    for given in [
        "",
        ".",
        "secret.com..",
        "..secret.com",
        "a..b",
        "u@secret.com",
        "secret.com,evil.com",
        "secret.com/x",
        "secret.com x",
        "secret%2ecom",
        "secret.com\\",
        "secret.com?x",
        "secret.com#x",
        "a:b:c",
        "a:80@b",
        "[::1",
        "[fe80::1%25eth0]",
        "[::1]x",
        "[zz]",
        "séc.com",
        "secret.com:80/x",
        "secret.com:8 0",
    ] {
        assert!(authority(given).is_err(), "{given}");
    }
}

proptest! {
    #[test]
    fn normalisation_is_idempotent_and_leaves_no_dot_segment(given in "/[a./\\\\%25fFcCeE;0-]{0,24}") {
        for mode in [Base, MergeSlashes, DecodeAndMergeSlashes] {
            if let Ok(once) = path(&given, mode) {
                prop_assert!(once.starts_with('/'));
                prop_assert_eq!(path(&once, mode).unwrap(), once.clone(), "{:?}", mode);
                for segment in once.split('/') {
                    let name = segment.split(';').next().unwrap_or_default();
                    prop_assert!(name != "." && name != "..", "{}", once);
                }
            }
        }
    }

    #[test]
    fn any_bytes_are_taken_without_a_panic(given in "\\PC{0,40}") {
        let _ = path(&given, DecodeAndMergeSlashes);
        let _ = authority(&given);
    }
}
