//! Strict start on a node: the agent's own watch over guarded parents, on real cgroups.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::Arc,
    thread::{self, ScopedJoinHandle},
    time::Duration,
};

use egret::{
    datapath::{Class, Depths},
    node::{
        counters::Counters,
        guard::{self, Answer, Guards, Standing},
    },
};
use egret_tests::{cgroup::Cgroup, wait};
use tokio::sync::watch;

use crate::{
    guard::{assert_direct, assert_refused, server},
    lab::{Application, Lab},
    outside::{OUTSIDE, Outside},
};

const PATIENCE: Duration = Duration::from_secs(10);

/// By name: `ours` is ours, `slice` is none, all others are not ours.
fn judge(path: &Path) -> Answer {
    let name = path.file_name().expect("a name").to_string_lossy();
    if name.starts_with("ours") {
        Answer::Held
    } else if name.starts_with("slice") {
        Answer::Between
    } else {
        Answer::NotOurs
    }
}

fn guards(parents: &[(&Cgroup, Depths)]) -> Guards {
    let parents: BTreeMap<_, _> =
        parents.iter().map(|(cgroup, depths)| (cgroup.path().to_owned(), *depths)).collect();
    Guards { parents, all: true, judge: Arc::new(judge) }
}

/// The agent's part, in a thread of its own, until the sender is dropped.
fn watch_over<'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    lab: &'scope Lab,
    counters: &'scope Counters,
    standing: &'scope Standing,
    wanted: watch::Receiver<Guards>,
) -> ScopedJoinHandle<'scope, ()> {
    scope.spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        runtime.block_on(guard::run(&lab.capture, counters, standing, wanted)).expect("ran to its end");
    })
}

fn wait_for(what: &str, mut state: impl FnMut() -> bool) {
    wait::until(what, PATIENCE, || Ok(state().then_some(()))).expect("in time");
}

fn class(lab: &Lab, cgroup: &Cgroup) -> Option<Class> {
    lab.capture.classes().expect("classes").get(&cgroup.inode().expect("inode")).copied()
}

#[test]
fn what_is_not_ours_is_let_through_as_soon_as_it_is_made() {
    let Some(lab) = Lab::new("what_is_not_ours_is_let_through_as_soon_as_it_is_made") else { return };
    let outside = Outside::new();
    let (server, address) = server(&outside, OUTSIDE[0]);
    let (older, slice) = (lab.cgroup.child("older").unwrap(), lab.cgroup.child("slice").unwrap());
    let deep = slice.child("older").unwrap();
    let mut applications = [&older, &deep].map(|cgroup| Application::start(Some(cgroup)));
    let (counters, standing) = (Counters::default(), Standing::default());
    let (sender, wanted) = watch::channel(guards(&[(&lab.cgroup, Depths::TWO)]));
    thread::scope(|scope| {
        let agent = watch_over(scope, &lab, &counters, &standing, wanted);
        wait_for("the guard", || lab.capture.guarded().unwrap() == [lab.cgroup.inode().unwrap()]);
        // What was there has not noticed.
        for application in &mut applications {
            assert_direct(application, &address, &server);
        }

        let newer = [lab.cgroup.child("newer").unwrap(), slice.child("newer").unwrap()];
        let ours = [lab.cgroup.child("ours").unwrap(), slice.child("ours").unwrap()];
        let later = lab.cgroup.child("slice-later").unwrap();
        let in_later = later.child("newer").unwrap();
        for cgroup in newer.iter().chain([&in_later]) {
            wait_for("a new cgroup to be left alone", || class(&lab, cgroup) == Some(Class::NotOurs));
            assert_direct(&mut Application::start(Some(cgroup)), &address, &server);
        }
        for cgroup in ours.iter().chain([&later]) {
            assert_eq!(class(&lab, cgroup), None);
            assert_refused(&mut Application::start(Some(cgroup)), &address);
        }
        lab.capture.attach(ours[0].path(), &lab.policy()).unwrap();
        let mut application = Application::start(Some(&ours[0]));
        assert_eq!(application.connect("203.0.113.7:80"), "ok 203.0.113.7:80");

        // A guard that somebody takes away comes back.
        let inode = lab.cgroup.inode().unwrap();
        fs::remove_file(lab.pins.join("links").join(format!("guard-{inode}-egret_guard_c4-connect4")))
            .unwrap();
        wait_for("the guard to be repaired", || counters.programs_reattached.get() == 1);
        assert_refused(&mut Application::start(Some(&ours[1])), &address);
        assert_eq!(class(&lab, &ours[0]), Some(Class::Enrolled), "checks change nothing");

        // Of what is gone nothing is kept.
        let gone = newer[0].inode().unwrap();
        drop(newer);
        wait_for("a cgroup to be forgotten", || !lab.capture.classes().unwrap().contains_key(&gone));

        // An agent that ends leaves its guards.
        drop(sender);
        agent.join().unwrap();
        let unseen = lab.cgroup.child("unseen").unwrap();
        assert_refused(&mut Application::start(Some(&unseen)), &address);
        assert_direct(&mut applications[1], &address, &server);

        // Its successor takes them away if nobody wants them.
        let (sender, wanted) = watch::channel(guards(&[]));
        let agent = watch_over(scope, &lab, &counters, &standing, wanted);
        wait_for("the guard to go", || lab.capture.guarded().unwrap().is_empty());
        assert_direct(&mut Application::start(Some(&unseen)), &address, &server);
        wait_for("its names to go", || lab.capture.classes().unwrap().len() == 1);
        assert_eq!(class(&lab, &ours[0]), Some(Class::Enrolled));
        drop(sender);
        agent.join().unwrap();
        drop((application, ours, in_later, later, unseen));
    });
    assert_eq!(counters.checks_failed.get(), 0);
    drop((applications, deep));
}

#[test]
fn a_parent_that_cannot_be_guarded_is_counted_and_the_others_are() {
    let Some(lab) = Lab::new("a_parent_that_cannot_be_guarded_is_counted_and_the_others_are") else { return };
    let other = Cgroup::new().unwrap();
    let child = other.child("child").unwrap();
    // Directly in it, so it cannot be guarded.
    let application = lab.inside();
    let (counters, standing) = (Counters::default(), Standing::default());
    let (sender, wanted) =
        watch::channel(guards(&[(&lab.cgroup, Depths::CHILDREN), (&other, Depths::CHILDREN)]));
    thread::scope(|scope| {
        watch_over(scope, &lab, &counters, &standing, wanted);
        wait_for("the other guard", || lab.capture.guarded().unwrap() == [other.inode().unwrap()]);
        assert_eq!(class(&lab, &child), Some(Class::NotOurs));
        let problem = || standing.lock().get(lab.cgroup.path()).cloned().flatten();
        wait_for("the failure to be said", || problem().is_some_and(|why| why.contains("directly in it")));
        assert!(counters.checks_failed.get() > 0);
        drop(application);
        wait_for("both guards", || lab.capture.guarded().unwrap().len() == 2);
        wait_for("the failure to be over", || standing.lock().values().all(Option::is_none));
        drop(sender);
    });
    drop(child);
}
