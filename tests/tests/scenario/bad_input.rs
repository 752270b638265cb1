//! Malformed files, and machines where Egret cannot run.

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    process::{Command, Output, Stdio},
    time::Duration,
};

use anyhow::Result;
use egret_tests::{egret::binary, json_log::Mark, privileges, process, wait};
use tempfile::TempDir;

use crate::Rig;

/// Two documents; the second has a port that is no number.
const MALFORMED: &str = "\
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata:
  name: fine
spec:
  hosts: [fine.test]
  ports:
  - {name: http, number: 80, protocol: HTTP}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata:
  name: test-com
  namespace: default
spec:
  hosts: [test.com]
  ports:
  - {name: http, number: eighty, protocol: HTTP}
";

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn the_last_good_configuration_stays() -> Result<()> {
    let Some(rig) = Rig::configured("5-mutual-tls")? else { return Ok(()) };
    let world = &rig.world;
    let url = format!("http://{}/status/200", world.external.address());
    for malformed in [MALFORMED, "kind: [unclosed", "\u{0}"] {
        world.egret.reconfigure(|| world.config.write("service-entry.yaml", malformed))?;
        let problems = wait::until("the problem to be reported", Duration::from_secs(15), || {
            let problems = world.egret.config_problems()?;
            let found = problems.iter().any(|problem| problem["file"] == "service-entry.yaml");
            Ok(found.then_some(problems))
        })?;
        assert!(problems.iter().any(|problem| problem["severity"] == "error"), "{problems:?}");
        let answer = world.egret.curl("default/sleep", false, &["-H", "host: test.com", &url])?;
        assert_eq!(answer.status, Some(200), "with {malformed:?}: {}", answer.summary());
    }
    let lines = world.external.log().since(Mark::default())?;
    assert!(lines.iter().all(|line| line["client"] == "test.client"), "{lines:?}");

    world.config.apply("3-service-entry/service-entry.yaml")?;
    wait::until("the problem to be gone", Duration::from_secs(15), || {
        let problems = world.egret.config_problems()?;
        Ok(problems.iter().all(|problem| problem["file"] != "service-entry.yaml").then_some(()))
    })
}

#[test]
fn check_names_file_document_and_field() -> Result<()> {
    let directory = TempDir::new()?;
    fs::write(directory.path().join("entries.yaml"), MALFORMED)?;
    let output = Command::new(binary()?).arg("check").arg(directory.path()).output()?;
    let said = text(&output);
    assert!(!output.status.success(), "{said}");
    for word in ["entries.yaml", "document 2", "default/test-com", "spec.ports[0].number"] {
        assert!(said.contains(word), "no {word:?} in: {said}");
    }
    assert!(!said.contains("panicked"), "{said}");

    fs::write(directory.path().join("entries.yaml"), MALFORMED.replace("eighty", "80"))?;
    let output = Command::new(binary()?).arg("check").arg(directory.path()).output()?;
    assert!(output.status.success(), "{}", text(&output));
    Ok(())
}

/// `egret … -o json | head`: the reader has seen enough, and nothing is wrong.
#[test]
fn a_reader_that_leaves_is_no_failure() -> Result<()> {
    let directory = TempDir::new()?;
    // More than a pipe holds.
    let documents: String = (0..500).map(|i| MALFORMED.replace("test-com", &format!("e{i}"))).collect();
    fs::write(directory.path().join("entries.yaml"), documents.replace("kind: S", "\n---\nkind: S"))?;
    for format in ["json", "table"] {
        let mut command = Command::new(binary()?);
        command.arg("check").arg(directory.path()).args(["-o", format]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        drop(child.stdout.take());
        let output = child.wait_with_output()?;
        assert!(output.status.success(), "{format}: {}", text(&output));
        assert_eq!(text(&output), "", "{format}");
    }
    Ok(())
}

#[test]
fn without_privileges_it_says_so_and_leaves_nothing() -> Result<()> {
    if !privileges::kernel_or_skip("egret up as nobody") {
        return Ok(());
    }
    // Where `nobody` may look, unlike the build directory.
    let directory = TempDir::with_prefix_in("egret-nobody-", "/tmp")?;
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
    let copy = directory.path().join("egret");
    // By another process: one that was forked from this one meanwhile would hold the file open for writing.
    let (from, to) = (binary()?.display().to_string(), copy.display().to_string());
    process::run("install", &["-m", "755", &from, &to])?;
    let (config, run_dir) = (directory.path().join("config"), directory.path().join("run"));
    fs::create_dir(&config)?;
    let output = Command::new(&copy)
        .args(["up", "-f"])
        .arg(&config)
        .arg("--run-dir")
        .arg(&run_dir)
        .uid(65534)
        .gid(65534)
        .output()?;
    let said = text(&output);
    assert!(!output.status.success(), "{said}");
    assert!(said.contains("root") || said.contains("CAP_"), "it does not say what is missing: {said}");
    assert!(!run_dir.exists());
    Ok(())
}
