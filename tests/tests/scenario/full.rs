//! When the kernel cannot remember one more original destination, connections are reset: never a guess.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use egret::app::run_dir::RunDir;
use egret_tests::{foreign, json_log::Mark, scenario::World};

use crate::Rig;

/// A pin of the instance, wherever below its directory.
fn pin(world: &World, name: &str) -> Result<PathBuf> {
    let instance = RunDir::new(world.egret.run_dir()).instance();
    let mut directories = vec![Path::new("/sys/fs/bpf/egret").join(instance)];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).with_context(|| directory.display().to_string())? {
            let entry = entry?;
            if entry.file_name() == name {
                return Ok(entry.path());
            }
            if entry.file_type()?.is_dir() {
                directories.push(entry.path());
            }
        }
    }
    anyhow::bail!("{name} is not pinned")
}

fn counter(world: &World, name: &str) -> Result<u64> {
    let status = world.egret.status()?;
    status["agent"]["counters"][name].as_u64().with_context(|| format!("no counter {name} in {status}"))
}

#[test]
fn what_cannot_be_remembered_is_reset() -> Result<()> {
    let Some(rig) = Rig::start()? else { return Ok(()) };
    let world = &rig.world;
    let map = foreign::open_pin(&pin(world, "egret_original")?)?;
    let entries = foreign::fill(&map)?;
    assert!(entries > 0);

    let url = format!("http://{}/anything", world.external.address());
    let answer = world.egret.curl("default/sleep", false, &[&url])?;
    // In the words of curl(1): the connection was reset while it was used, or, where the agent was quicker, while it was made.
    assert!(answer.status.is_none() && matches!(answer.exit, Some(56 | 7)), "{}", answer.summary());
    assert!(counter(world, "publish_failed")? >= 1);
    assert!(counter(world, "original_destination_miss")? >= 1);
    assert_eq!(world.external.log().since(Mark::default())?.len(), 0, "nothing arrived");

    foreign::make_room(&map)?;
    let answer = world.egret.curl("default/sleep", false, &[&url])?;
    assert_eq!(answer.status, Some(200), "{}", answer.summary());
    let lines = world.egret.access_log().wait_since(Mark::default(), crate::foreign::PATIENCE, |_| true)?;
    assert_eq!(lines.len(), 1, "nothing but this one came to the gateway: {lines:#?}");
    Ok(())
}
