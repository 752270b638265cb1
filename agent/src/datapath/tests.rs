//! What can be said without privileges; the rest is in `tests/tests/kernel`.

use super::*;

#[test]
fn capture_is_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Capture>();
}

#[test]
fn a_pin_directory_outside_bpffs_is_refused_with_the_remedy() {
    let directory = tempfile::tempdir().unwrap();
    let error = Capture::load(&directory.path().join("egret")).unwrap_err().to_string();
    assert!(error.contains("mount -t bpf"), "{error}");
    assert!(!directory.path().join("egret").exists(), "nothing is left behind");
}

#[test]
fn cleaning_up_nothing_is_fine() {
    let directory = tempfile::tempdir().unwrap();
    cleanup(&directory.path().join("never-made")).unwrap();
}

#[test]
fn the_backstop_is_detached_after_connect() {
    let at = |pin| attach::position(pin).unwrap();
    let egress = at("4242-egret_egress-egress");
    for earlier in ["4242-egret_connect4-connect4", "4242-egret_connect6-connect6-new"] {
        assert!(at(earlier) > egress, "{earlier}");
    }
    assert_eq!(at("4242-egret_ingress-ingress"), 0);
    assert!(
        attach::captures("4242-egret_connect6-connect6")
            && !attach::captures("4242-egret_peer6-getpeername6")
    );
    assert_eq!(attach::position("4242-egret_later-later"), None);
}

#[test]
fn locks_on_devices_go_last() {
    let mut links = [
        "lock-4-egret_link_in-tcx_egress",
        "4242-egret_egress-egress",
        "lock-4-egret_link_out-tcx_ingress",
        "4242-egret_later-later",
        "4242-egret_connect4-connect4",
    ];
    links.sort_by_key(|link| std::cmp::Reverse(pins::position(link)));
    let expected = [
        "4242-egret_later-later",
        "4242-egret_connect4-connect4",
        "4242-egret_egress-egress",
        "lock-4-egret_link_out-tcx_ingress",
        "lock-4-egret_link_in-tcx_egress",
    ];
    assert_eq!(links, expected, "what drops goes before what learns");
}

#[test]
fn a_directory_that_is_no_cgroup_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let error = attach::open_cgroup(directory.path()).unwrap_err().to_string();
    assert!(error.contains("cgroup v2"), "{error}");
}
