//! `egret top` in a terminal, on real traffic: what it shows, where its keys lead, and that the terminal is given back whatever ends it.

use std::{
    fmt::Write as _,
    fs,
    io::{BufRead as _, BufReader, Read as _},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use egret_tests::{
    browser::{self, Browser},
    egret::Part,
    privileges,
    process::Process,
    wait,
};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{
    Rig,
    terminal::{Size, Terminal},
};

const PATIENCE: Duration = Duration::from_secs(30);
const USUAL: Size = (24, 130);

/// Two workloads that call five hosts: one is slow, one is not there, one is not registered, and one has paths that are forbidden.
struct Traffic {
    rig: Rig,
    _callers: [Process; 2],
}

impl Traffic {
    fn start() -> Result<Option<Self>> {
        let Some(rig) = Rig::start()? else { return Ok(None) };
        let address = rig.world.external.address();
        let mut objects = vec![
            "apiVersion: egret.dev/v1alpha1\nkind: MeshConfig\nmetadata: {name: default, namespace: istio-system}\n\
             spec: {outboundTrafficPolicy: {mode: REGISTRY_ONLY}}\n"
                .to_owned(),
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: no-admin, namespace: istio-system}\n\
             spec: {action: DENY, rules: [{to: [{operation: {paths: ['/anything/admin*']}}]}]}\n"
                .to_owned(),
        ];
        for (name, target) in [("api", 80), ("images", 80), ("reports", 80), ("gone", 9)] {
            objects.push(format!(
                "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}, namespace: shop}}\n\
                 spec: {{hosts: [{name}.example.com], location: MESH_EXTERNAL, resolution: STATIC, endpoints: [{{address: {address}}}],\n  \
                 ports: [{{name: http, number: 80, targetPort: {target}, protocol: HTTP}}]}}\n"
            ));
        }
        rig.world.egret.reconfigure(|| rig.world.config.write("mesh.yaml", &objects.join("---\n")))?;
        // Per second, host and path; each a connection of its own.
        let web = [
            (8, "api.example.com", "anything/orders?"),
            (1, "api.example.com", "anything/admin?"),
            (3, "images.example.com", "bytes/200000?"),
        ];
        let batch = [
            (2, "api.example.com", "anything/stock?"),
            (1, "reports.example.com", "delay/1?"),
            (1, "gone.example.com", "?"),
            (1, "unknown.test", "?"),
        ];
        let callers = [call(&rig, "shop/web", &web)?, call(&rig, "shop/batch", &batch)?];
        Ok(Some(Self { rig, _callers: callers }))
    }

    fn top(&self, arguments: &[&str]) -> Command {
        let mut command = self.rig.world.egret.verb("top");
        command.args(["--interval", "500ms"]).args(arguments);
        command
    }

    /// With traffic on the screen.
    fn watched(&self, size: Size) -> Result<Terminal> {
        let mut terminal = Terminal::start(&mut self.top(&["--window", "5s"]), size)?;
        terminal.wait_for("a row for each host", |lines| {
            HOSTS.iter().all(|host| row(lines, host).is_some()).then_some(())
        })?;
        Ok(terminal)
    }
}

const HOSTS: [&str; 5] =
    ["api.example.com", "gone.example.com", "images.example.com", "reports.example.com", "unknown.test"];

/// As one workload, until it is dropped.
fn call(rig: &Rig, workload: &str, calls: &[(u32, &str, &str)]) -> Result<Process> {
    let address = rig.world.external.address();
    let mut script = String::new();
    for (rate, host, path) in calls {
        let _ = writeln!(
            script,
            "curl -s -o /dev/null --rate {rate}/s -H 'host: {host}' -H 'connection: close' 'http://{address}/{path}[1-100000]' &"
        );
    }
    // They end with the shell: SIGTERM reaches only that.
    script += "trap 'kill $(jobs -p); exit' TERM; wait";
    let mut command = rig.world.egret.exec(workload, false);
    Process::spawn(workload, command.args(["sh", "-c", &script]))
}

/// The cells of a row.
fn row<'a>(lines: &'a [String], name: &str) -> Option<Vec<&'a str>> {
    let line = lines.iter().find(|line| line.starts_with(name))?;
    Some(line[name.len()..].split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect())
}

/// What a column says about a row, as its right end is that of its title.
fn cell(lines: &[String], title: &str, name: &str) -> Option<String> {
    let header = lines.iter().find(|line| line.contains("DENIED"))?;
    let before = header.find(title)?;
    let end = header[..before + title.len()].chars().count();
    let line: Vec<char> = lines.iter().find(|line| line.starts_with(name))?.chars().collect();
    let until = line.get(..end.min(line.len()))?;
    // Cells of two words (`1.2 KiB`) are not asked for.
    Some(until.iter().rev().take_while(|c| **c != ' ').collect::<Vec<_>>().into_iter().rev().collect())
}

fn number(lines: &[String], title: &str, name: &str) -> Option<f64> {
    cell(lines, title, name)?.parse().ok()
}

fn shows(text: &'static str) -> impl FnMut(&[String]) -> Option<()> {
    move |lines| lines.iter().any(|line| line.contains(text)).then_some(())
}

fn lacks(text: &'static str) -> impl FnMut(&[String]) -> Option<()> {
    move |lines| lines.iter().all(|line| !line.contains(text)).then_some(())
}

#[test]
fn traffic_is_shown_and_keys_lead_into_it_and_the_terminal_is_given_back() -> Result<()> {
    let Some(traffic) = Traffic::start()? else { return Ok(()) };
    let mut top = traffic.watched(USUAL)?;
    ensure!(top.is_taken(), "it is no view of its own");
    top.wait_for("rates, denials and failures where they belong", |lines| {
        let more = |title, host, least| number(lines, title, host).is_some_and(|number| number > least);
        let none = |title, host| number(lines, title, host) == Some(0.0);
        let right = more("FLOWS/S", "api.example.com", 1.0)
            && more("REQ/S", "api.example.com", 1.0)
            && more("DENIED", "api.example.com", 0.0)
            && none("FAILED", "api.example.com")
            && more("FAILED", "gone.example.com", 0.0)
            && none("DENIED", "gone.example.com")
            && more("DENIED", "unknown.test", 0.0)
            && none("DENIED", "images.example.com")
            && lines[1].contains(" denied")
            && !lines[1].contains(" 0 denied");
        right.then_some(())
    })?;
    // Most flows a second first; then most refusals; then by name.
    top.wait_for("most flows first", |lines| lines[3].starts_with("api.example.com").then_some(()))?;
    top.press("x")?;
    top.wait_for("most refusals first", |lines| {
        (!lines[3].starts_with("images.example.com") && !lines[3].starts_with("reports.example.com"))
            .then_some(())
    })?;
    top.press("n")?;
    top.wait_for("the order of names", |lines| {
        HOSTS.iter().zip(&lines[3..]).all(|(host, line)| line.starts_with(host)).then_some(())
    })?;

    top.press("w")?;
    top.wait_for("a row for each workload", |lines| {
        (row(lines, "shop/web").is_some() && row(lines, "shop/batch").is_some()).then_some(())
    })?;
    top.press("u")?;
    top.wait_for("the rule that denies", |lines| {
        let line = lines.iter().find(|line| line.starts_with("policy_denied by"))?;
        line.contains("-system/no-admin [0]").then_some(())
    })?;
    top.press("\t")?;
    top.wait_for("hosts again", shows("by host"))?;

    // Into a denied flow, and back.
    top.press("\x1b[F")?; // end
    top.press("\r")?;
    top.wait_for("its flows", |lines| {
        let header = lines.iter().position(|line| line.contains("VERDICT"))?;
        (lines[0].contains("flows of host unknown.test") && lines.get(header + 1)?.contains("denied"))
            .then_some(())
    })?;
    top.press("\r")?;
    top.wait_for("the story of one", |lines| {
        let text = lines.join("\n");
        (lines[0].contains("  flow ") && text.contains("not_registered") && text.contains("ns/shop/sa/batch"))
            .then_some(())
    })?;
    top.press("\x1b")?;
    top.wait_for("its flows again", shows("flows of host unknown.test"))?;
    top.press("\x7f")?;
    top.wait_for("the rows again", shows("by host"))?;

    top.press("?")?;
    top.wait_for("help", shows("of a flow its story"))?;
    top.press("z")?;
    top.wait_for("no help", lacks("of a flow its story"))?;
    top.press("p")?;
    top.wait_for("a pause", shows("PAUSED"))?;
    top.press("p")?;
    top.wait_for("new measurements", lacks("PAUSED"))?;

    // A narrow terminal has fewer columns, and those that matter; a wide one has all; one without room for anything does no harm.
    top.wait_for("rates again", |lines| (number(lines, "FLOWS/S", "api.example.com")? > 1.0).then_some(()))?;
    top.resize((24, 80))?;
    top.wait_for("fewer columns", |lines| {
        let (header, foot) = (lines.iter().find(|line| line.starts_with("HOST"))?, lines.last()?);
        (header.contains("DENIED")
            && header.contains("FAILED")
            && !header.contains("TOOK P50")
            && foot.contains("q quit"))
        .then_some(())
    })?;
    top.resize((3, 10))?;
    top.wait_for("next to nothing", |lines| lines[0].starts_with("egret top").then_some(()))?;
    top.resize((30, 200))?;
    top.wait_for("all columns", |lines| {
        let header = lines.iter().find(|line| line.starts_with("HOST"))?;
        ["FLOWS/S", "REQ/S", "SENT/S", "RECEIVED/S", "FIRST P50", "TOOK P95", "DENIED", "FAILED", "OPEN"]
            .iter()
            .all(|title| header.contains(title))
            .then_some(())
    })?;

    top.press("q")?;
    let status = top.given_back()?;
    ensure!(status.success(), "{status}");
    ensure!(
        top.lines().iter().all(String::is_empty),
        "it left something behind:\n{}",
        top.lines().join("\n")
    );
    Ok(())
}

#[test]
fn whatever_ends_it_gives_the_terminal_back() -> Result<()> {
    let Some(traffic) = Traffic::start()? else { return Ok(()) };
    let mut interrupted = traffic.watched(USUAL)?;
    interrupted.press("\x03")?;
    let status = interrupted.given_back()?;
    ensure!(status.success(), "Ctrl-C: {status}");
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let mut ended = traffic.watched(USUAL)?;
        ended.signal(signal)?;
        let status = ended.given_back()?;
        ensure!(status.code() == Some(128 + signal as i32), "{signal}: {status}");
    }
    let mut ended = traffic.watched(USUAL)?;
    let status = ended.hang_up()?;
    // By the signal, or by what can no longer be written, whichever comes first.
    ensure!(matches!(status.code(), Some(1 | 129)), "its terminal is gone: {status}");

    // Nobody answers any more: that is said over what was seen last, and keys go on.
    let mut top = traffic.watched(USUAL)?;
    for part in [Part::Supervisor, Part::Gateway, Part::Agent] {
        traffic.rig.world.egret.kill(part)?;
    }
    top.wait_for("a word about it", |lines| {
        (lines.iter().any(|line| line.contains("what is shown is older"))
            && row(lines, "api.example.com").is_some())
        .then_some(())
    })?;
    top.press("q")?;
    ensure!(top.given_back()?.success(), "it cannot be left");
    // And who was not there at all is an error like with any verb.
    let mut none = Terminal::start(&mut traffic.top(&[]), USUAL)?;
    let status = none.given_back()?;
    ensure!(status.code() == Some(1), "{status}");
    let said = none.lines().join("\n");
    ensure!(said.contains("egret: ") && said.contains("nothing answers"), "{said}");
    Ok(())
}

#[test]
fn without_a_terminal_it_prints_tables_or_lines_of_json() -> Result<()> {
    let Some(traffic) = Traffic::start()? else { return Ok(()) };
    let mut command = traffic.top(&["-o", "json"]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("no output")?).lines();
    wait::until("a line with a denial of the rule", PATIENCE, || {
        let line: Value = serde_json::from_str(&lines.next().context("it ended")??)?;
        let rows = line["rows"].as_array().context("no rows")?;
        let api = rows.iter().find(|row| row["name"] == "api.example.com");
        let denied = api.and_then(|row| row["denied"].as_u64()).unwrap_or_default();
        Ok((denied > 0 && line["total"]["denied"].as_u64() > Some(denied)).then_some(()))
    })?;
    // Nobody reads any more: it ends, and does not complain.
    drop(lines);
    let status = wait::until("its end", PATIENCE, || Ok(child.try_wait()?))?;
    let mut said = String::new();
    child.stderr.take().context("no stderr")?.read_to_string(&mut said)?;
    ensure!(said.is_empty(), "{status}: {said}");

    let mut command = traffic.top(&["--by", "rule"]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("no output")?).lines();
    let mut seen = Vec::new();
    let found = wait::until("a table with a denial", PATIENCE, || {
        let line = lines.next().context("it ended")??;
        ensure!(!line.contains('\x1b'), "no terminal, and an escape sequence: {line:?}");
        let found =
            line.trim_start().starts_with("policy_denied by AuthorizationPolicy istio-system/no-admin [0]");
        seen.push(line);
        Ok(found.then_some(()))
    });
    found.with_context(|| format!("it printed\n{}", seen.join("\n")))?;
    child.kill()?;
    child.wait()?;
    Ok(())
}

/// The pictures in the README: `EGRET_PICTURES=deploy/observability`.
#[test]
fn its_pictures_are_taken() -> Result<()> {
    let Some(program) = browser::program() else {
        privileges::skip("pictures of egret top", "no chromium here: install Debian's package chromium");
        return Ok(());
    };
    let Some(traffic) = Traffic::start()? else { return Ok(()) };
    let mut browser = Browser::start(&program)?;
    let mut top = Terminal::start(&mut traffic.top(&[]), (10, 130))?;
    top.wait_for("a whole window", |lines| {
        let whole = lines[0].contains("the last 10.");
        (whole && HOSTS.iter().all(|host| row(lines, host).is_some())).then_some(())
    })?;
    picture(&traffic, &mut browser, &mut top, "top")?;
    // The rules, denials and failures first.
    top.resize((11, 130))?;
    // A key that comes together with another size is not seen before the next one (crossterm 0.29).
    top.wait_for("another size", |lines| lines.get(10)?.contains("q quit").then_some(()))?;
    top.press("ux")?;
    top.wait_for("rules", |lines| row(lines, "policy_denied").and(row(lines, "upstream_connect")).map(drop))?;
    picture(&traffic, &mut browser, &mut top, "top-rules")
}

fn picture(traffic: &Traffic, browser: &mut Browser, top: &mut Terminal, name: &str) -> Result<()> {
    // Not one that is just being drawn: several looks that are alike.
    let mut looks: Vec<Vec<String>> = Vec::new();
    top.wait_for("a screen at rest", |lines| {
        looks.retain(|look| look == lines);
        looks.push(lines.to_vec());
        (looks.len() > 5).then_some(())
    })?;
    let page = traffic.rig.directory.path().join(name).with_extension("html");
    fs::write(&page, top.page())?;
    browser.window(1600, 800, "dark")?;
    browser.open(&format!("file://{}", page.display()))?;
    let is_drawn =
        format!("location.pathname.endsWith('/{name}.html') && document.readyState === 'complete'");
    browser.wait_for("the screen", &is_drawn)?;
    let mut side = |side: &str| {
        let length = format!("Math.ceil(document.querySelector('#screen').getBoundingClientRect().{side})");
        let length = browser.evaluate(&length)?;
        length.as_u64().and_then(|length| u32::try_from(length).ok()).context("no length")
    };
    let (width, height) = (side("width")?, side("height")?);
    browser.window(width, height, "dark")?;
    browser.leave_picture(name)
}
