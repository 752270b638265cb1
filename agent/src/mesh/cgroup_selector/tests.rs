//! Which cgroups are selected, and which must not be.

use proptest::prelude::*;

use super::{CgroupSelector, Glob};

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn matches(selector: &Result<CgroupSelector, super::SelectorError>, path: &str) -> bool {
    let parts: Vec<_> = path.split('/').collect();
    let selector = selector.as_ref().unwrap();
    let found = selector.matches(&parts);
    // What is selected must be found on the way down from the root.
    assert!(!found || (0..parts.len()).all(|depth| selector.leads_below(&parts[..depth])), "{path}");
    found
}

#[test]
fn units_where_the_system_manager_puts_them_and_nowhere_else() {
    let unit = CgroupSelector::systemd_unit("backup-*.service");
    for path in ["system.slice/backup-a.service", "backup-.service", "a.slice/a-b.slice/backup-x@1.service"] {
        assert!(matches(&unit, path), "{path}");
    }
    for path in [
        "system.slice/backup.service",
        "system.slice/backup-a.service.d",
        "system.slice/backup-a.service/sub",
        // A user's manager, and a container with systemd inside, choose names as they like.
        "user.slice/user-1000.slice/user@1000.service/app.slice/backup-a.service",
        "machine.slice/machine-x.scope/payload/system.slice/backup-a.service",
        "docker/backup-a.service",
    ] {
        assert!(!matches(&unit, path), "{path}");
    }
    assert!(matches(&CgroupSelector::systemd_unit("batch.slice"), "batch.slice"));
}

#[test]
fn containers_in_the_usual_layouts() {
    let paths = [
        format!("system.slice/docker-{ID}.scope"),
        format!("docker/{ID}"),
        format!("machine.slice/libpod-{ID}.scope"),
        format!("libpod_parent/libpod-{ID}"),
        format!("kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/crio-{ID}.scope"),
        format!("kubepods.slice/kubepods-pod1.slice/cri-containerd-{ID}.scope"),
        format!("kubepods/burstable/pod1/{ID}"),
    ];
    for given in [ID, &ID[..12], "0123*cdef", "*"] {
        let selector = CgroupSelector::container(given);
        for path in &paths {
            assert!(matches(&selector, path), "{given} {path}");
            assert!(!matches(&selector, &format!("{path}/container")), "what is inside is covered: {path}");
        }
    }
    for given in [&ID[..11], "123456789abc", "0123456789ac"] {
        assert!(!matches(&CgroupSelector::container(given), &paths[0]), "{given}");
    }
    let web = CgroupSelector::container("web-1");
    for path in ["lxc/web-1", "lxc.payload.web-1", r"machine.slice/machine-web\x2d1.scope"] {
        assert!(matches(&web, path), "{path}");
    }
    assert!(matches(&web, r"machine.slice/systemd-nspawn@web\x2d1.service"));
    for path in ["web-1", "web-1.scope", "system.slice/machine-web-1.scope", "lxc/web-10"] {
        assert!(!matches(&web, path), "{path}");
    }
    let forged = format!("user.slice/user-1000.slice/user@1000.service/libpod-{ID}.scope");
    assert!(!matches(&CgroupSelector::container(ID), &forged), "a user can choose that name");
}

#[test]
fn paths_with_wildcards() {
    for (selector, path) in [
        ("a/b", "a/b"),
        ("/a/b/", "a/b"),
        ("a/*", "a/b"),
        ("a/x*y/c", "a/x-y/c"),
        ("**/b", "b"),
        ("**/b", "a/c/b"),
        ("a/**/b", "a/b"),
        ("a/**/b*", "a/c/d/b1"),
    ] {
        assert!(matches(&CgroupSelector::path(selector), path), "{selector} {path}");
    }
    for (selector, path) in
        [("a/*", "a"), ("a/*", "a/b/c"), ("a/b", "b"), ("**/b", "b/c"), ("a/**/b", "c/a/b"), ("a*", "b")]
    {
        assert!(!matches(&CgroupSelector::path(selector), path), "{selector} {path}");
    }
    let shallow = CgroupSelector::path("a/*/c").unwrap();
    assert!(shallow.leads_below(&["a", "b"]) && !shallow.leads_below(&["b"]));
    assert!(!shallow.leads_below(&["a", "b", "c"]), "nothing below can match");
}

#[test]
fn what_can_be_no_selector_is_refused() {
    for given in ["", "nginx", "system.slice/nginx.service", "-.slice", "a?.service", "[ab].service"] {
        assert!(CgroupSelector::systemd_unit(given).is_err(), "{given}");
    }
    for given in ["", "/", "a//b", "../a", "a/./b", "a/**", "**", "a**/b", "a/?"] {
        assert!(CgroupSelector::path(given).is_err(), "{given}");
    }
    assert!(CgroupSelector::container("docker/1").is_err());
}

proptest! {
    /// Against the same question asked of a regular expression.
    #[test]
    fn globs_are_what_they_say(glob in "[ab*]{1,8}", name in "[ab]{0,10}") {
        let pattern = regex::Regex::new(&format!("^{}$", glob.replace('*', ".*"))).unwrap();
        prop_assert_eq!(Glob::parse(&glob).unwrap().matches(&name), pattern.is_match(&name));
    }
}

#[test]
fn strict_start_needs_a_parent_close_by() {
    for (path, expected) in [
        ("machine.slice/*", Some(("machine.slice", 1))),
        ("/kubepods.slice/kubepods-*/pod*", Some(("kubepods.slice", 2))),
        ("system.slice/nginx.service", Some(("system.slice", 1))),
        ("a/b/*/c", Some(("a/b", 2))),
        ("a/b*/*/c", None),
        ("a/**/b", None),
        ("a/b/**/c", None),
        ("*/a", None),
        ("a", None),
    ] {
        let expected = expected.map(|(parent, depth)| (parent.to_owned(), depth));
        assert_eq!(CgroupSelector::path(path).unwrap().parent(), expected, "{path}");
    }
    assert_eq!(CgroupSelector::systemd_unit("nginx.service").unwrap().parent(), None);
    assert_eq!(CgroupSelector::container("db").unwrap().parent(), None);
}
