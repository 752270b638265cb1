//! The page that a gateway serves by itself: for who was told the token by its admin socket, on loopback, and nothing can be changed.

use std::{process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use egret_tests::{
    browser::{self, Browser},
    curl,
    egret::binary,
    privileges,
    process::Process,
    wait,
};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn a_gateway_shows_itself_to_who_was_told_the_token() -> Result<()> {
    if !privileges::kernel_or_skip("the page of a gateway") {
        return Ok(());
    }
    // A gateway and a CA, with no `egret up` around them: as in pods.
    let directory = TempDir::with_prefix_in("egret-test-", "/run")?;
    let (config, run) = (directory.path().join("config"), directory.path().join("run"));
    std::fs::create_dir(&config)?;
    let binary = binary()?;
    let role = |name: &str| {
        let mut command = Command::new(&binary);
        command.arg(name).arg("--config").arg(&config).arg("--run-dir").arg(&run);
        command
    };
    let open = role("gateway").args(["--page-address", "0.0.0.0:0"]).output()?;
    let said = String::from_utf8_lossy(&open.stderr).into_owned();
    ensure!(!open.status.success() && said.contains("kubectl port-forward"), "{said}");

    let _ca = Process::spawn("egret ca", &mut role("ca"))?;
    wait::until("the CA", PATIENCE, || Ok(run.join("issuer.sock").exists().then_some(())))?;
    let tell = || Command::new(&binary).args(["ui", "--gateway", "--run-dir"]).arg(&run).output();
    let none = tell()?;
    ensure!(!none.status.success(), "an address without a gateway: {none:?}");
    let mut command = role("gateway");
    command.args(["--hbone-address", "127.0.0.1:0", "--page-address", "127.0.0.1:0"]);
    let mut gateway = Process::spawn("egret gateway", &mut command)?;
    gateway.wait_for_line("serving tunnels", PATIENCE)?;
    let told = tell()?;
    let url = String::from_utf8(told.stdout)?.trim().to_owned();
    let (address, token) = url.split_once("/#").with_context(|| format!("{url:?} has no token"))?;
    ensure!(address.starts_with("http://127.0.0.1:") && token.len() == 32, "{url}");
    ensure!(gateway.stderr().iter().all(|line| !line.contains(token)), "the token is in the log");

    let bearer = format!("authorization: Bearer {token}");
    for (arguments, path, status) in [
        (vec!["--header", bearer.as_str()], "/api/flows", 200),
        (vec!["--header", &bearer], "/api/health", 200),
        (vec![], "/", 200),
        (vec![], "/api/flows", 401),
        (vec!["--header", "authorization: Bearer 0"], "/api/health", 401),
        (vec!["--header", &bearer, "--header", "host: evil.example"], "/api/flows", 403),
        (vec!["--header", "host: evil.example"], "/", 403),
        (vec!["--header", &bearer, "-X", "POST"], "/api/flows", 405),
        (vec!["-X", "POST"], "/", 405),
        // What the admin socket answers is not here.
        (vec!["--header", &bearer], "/page", 404),
        (vec!["--header", &bearer], "/status", 404),
        (vec!["--header", &bearer], "/explain", 404),
        (vec!["--header", &bearer], "/metrics", 404),
    ] {
        let url = format!("{address}{path}");
        let answer = curl::run(&mut curl::command(&[arguments.as_slice(), &[url.as_str()]].concat()))?;
        ensure!(answer.status == Some(status), "{arguments:?} {path}: {}", answer.summary());
        ensure!(
            !answer.summary().contains(token) || arguments.contains(&bearer.as_str()),
            "{path} tells the token"
        );
    }

    let Some(program) = browser::program() else { return Ok(()) };
    let mut browser = Browser::start(&program)?;
    browser.window(360, 800, "light")?;
    browser.open(&url)?;
    browser.wait_for(
        "whose view it is",
        "document.querySelector('#scope').innerText.includes('The view of one gateway') && !document.querySelector('#scope').hidden",
    )?;
    browser.wait_for("its health", "document.querySelector('#summary').innerText.includes('1 role up')")?;
    // Of what it cannot know it says nothing good.
    let summary = browser.evaluate("document.querySelector('#summary').innerText")?;
    ensure!(!summary.as_str().unwrap_or_default().contains("escaped"), "{summary}");
    browser.wait_for("no trouble", "document.querySelector('#trouble').hidden")?;
    ensure!(browser.complaints().is_empty(), "{:?}", browser.complaints());
    browser.leave_picture("gateway-phone")?;
    gateway.terminate()?;
    browser.wait_for(
        "nobody to answer",
        "document.querySelector('#trouble').innerText.includes('nothing answers')",
    )
}
