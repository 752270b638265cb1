//! The page of `egret ui` in a real browser: what it shows of real traffic, for whom, and that it asks nobody else.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use egret_tests::{
    browser::{self, Browser},
    curl,
    egret::Egret,
    privileges,
};
use serde_json::json;

use crate::Rig;

/// A running `egret ui`.
struct Page {
    process: Child,
    /// Where it is, with the token.
    url: String,
}

impl Page {
    fn serve(egret: &Egret) -> Result<Self> {
        let mut command = egret.verb("ui");
        command.args(["--listen", "127.0.0.1:0"]).stdin(Stdio::null()).stderr(Stdio::null());
        let mut process = command.stdout(Stdio::piped()).spawn()?;
        let mut url = String::new();
        let output = process.stdout.take().context("no output")?;
        BufReader::new(output).read_line(&mut url)?;
        let page = Self { process, url: url.trim().to_owned() };
        ensure!(page.url.starts_with("http://127.0.0.1:"), "egret ui said {:?}", page.url);
        Ok(page)
    }

    fn address(&self) -> &str {
        self.url.split_once("/#").map_or(&self.url, |(address, _)| address)
    }

    fn token(&self) -> &str {
        self.url.split_once('#').map_or("", |(_, token)| token)
    }

    /// The address of a view.
    fn view(&self, query: &str) -> String {
        format!("{}/?{query}#{}", self.address(), self.token())
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // It keeps nothing that an end in order would save.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Everything started; nothing when the test has to be left out.
fn start() -> Result<Option<(Rig, Page, Browser)>> {
    let Some(program) = browser::program() else {
        privileges::skip("egret ui in a browser", "no chromium here: install Debian's package chromium");
        return Ok(None);
    };
    let Some(rig) = Rig::configured("6-authorization")? else { return Ok(None) };
    let page = Page::serve(&rig.world.egret)?;
    let browser = Browser::start(&program)?;
    Ok(Some((rig, page, browser)))
}

fn call(rig: &Rig, path: &str, status: u16) -> Result<()> {
    let url = format!("http://{}{path}", rig.world.external.address());
    let answer = rig.world.egret.curl("default/sleep", false, &["--header", "host: test.com", &url])?;
    ensure!(answer.status == Some(status), "{path}: {}", answer.summary());
    Ok(())
}

/// Nothing goes beyond the window at any side.
const FITS: &str = "document.documentElement.scrollWidth <= document.documentElement.clientWidth";

#[test]
fn the_page_shows_traffic_policies_and_health_and_asks_nobody_else() -> Result<()> {
    let Some((rig, page, mut browser)) = start()? else { return Ok(()) };
    browser.window(1280, 860, "light")?;
    // Without a flow.
    browser.open(&page.url)?;
    browser.wait_for(
        "a map without flows",
        "document.querySelector('#map-empty').innerText.includes('No flows')",
    )?;
    assert_eq!(browser.evaluate("location.hash + location.search")?, json!("?since=5m&sort=started"));

    for _ in 0..3 {
        call(&rig, "/status/200", 200)?;
    }
    for _ in 0..2 {
        call(&rig, "/headers", 403)?;
    }
    // It looks again by itself.
    browser
        .wait_for("an edge of denials", "document.querySelectorAll('#drawing .edge.some').length === 3")?;
    browser.wait_for("five flows", "document.querySelectorAll('#flow-table tr.flow').length === 5")?;
    let places =
        browser.evaluate("[...document.querySelectorAll('.place')].map((place) => place.dataset.key)")?;
    let (tunnels, host) = (rig.world.egret.tunnel_port(), "test.com");
    assert_eq!(
        places,
        json!(["0 default", "1 default/sleep", format!("2 127.0.0.1:{tunnels}"), format!("3 {host}")])
    );
    let last = "document.querySelector('.edge[data-to=\"test.com\"] title').textContent";
    let last = browser.evaluate(last)?.as_str().unwrap_or_default().to_owned();
    assert!(last.contains("5 flows, 2 denied") && last.contains("B/s"), "{last}");
    let colour = "getComputedStyle(document.documentElement).backgroundColor";
    let light = browser.evaluate(colour)?;
    browser.leave_picture("map-light")?;

    // By keyboard: from the tabs to the flows, into one of them.
    browser.evaluate("document.querySelector('#tab-map').focus()")?;
    browser.press("ArrowRight")?;
    browser.wait_for(
        "the flows",
        "!document.querySelector('#flows').hidden && document.activeElement.id === 'tab-flows'",
    )?;
    browser.evaluate("document.querySelector('tr.denied .open').focus()")?;
    browser.press("Enter")?;
    browser.wait_for(
        "the story of a denied flow",
        "document.querySelector('.story')?.innerText.includes('AuthorizationPolicy istio-system/test [0]')",
    )?;
    let verdicts =
        "['allowed', 'denied'].map((v) => document.querySelectorAll(`#flow-table tr.${v}`).length)";
    assert_eq!(browser.evaluate(verdicts)?, json!([3, 2]));
    browser.leave_picture("flows-light")?;

    // The filter is that of `egret flows`, and a wrong one is said to be.
    browser.open(&page.view("view=flows&verdict=denied&host=*.com"))?;
    browser.wait_for("two denied flows", "document.querySelectorAll('#flow-table tr.flow').length === 2")?;
    browser.open(&page.view("view=flows&host=*.example.com"))?;
    browser.wait_for(
        "no such flow",
        "document.querySelector('#flows-empty').innerText.includes('No such flows')",
    )?;
    browser.open(&page.view("view=policies"))?;
    let rule = "[...document.querySelectorAll('tr.policy')].map((row) => row.innerText.split('\\t').slice(0, 4).join('|'))";
    browser.wait_for(
        "the rule that denied",
        &format!("{rule}.includes('AuthorizationPolicy istio-system/test, rule 0|2|0|2')"),
    )?;
    browser.leave_picture("policies-light")?;
    browser.open(&page.view("view=health"))?;
    browser.wait_for(
        "two roles that are up",
        "document.querySelector('#summary').innerText.includes('2 roles up')",
    )?;
    browser.leave_picture("health-light")?;
    ensure!(browser.evaluate(FITS)? == json!(true), "1280 pixels are not enough");

    // In the dark, and on a phone.
    browser.window(1280, 860, "dark")?;
    browser.open(&page.url)?;
    browser.wait_for("the map", "document.querySelectorAll('.edge').length === 3")?;
    assert_ne!(browser.evaluate(colour)?, light, "dark is as light as light");
    browser.leave_picture("map-dark")?;
    browser.window(360, 800, "light")?;
    for view in ["map", "flows", "policies", "health"] {
        browser.open(&page.view(&format!("view={view}")))?;
        browser.wait_for("the view", &format!("document.querySelector('.badge') && !document.querySelector('#{view}').hidden && document.querySelectorAll('tr.policy, .edge').length > 2"))?;
        ensure!(browser.evaluate(FITS)? == json!(true), "360 pixels are not enough for {view}");
        browser.leave_picture(&format!("{view}-phone"))?;
    }

    assert_eq!(browser.complaints(), Vec::<String>::new());
    let elsewhere = |url: &String| !url.starts_with(page.address()) && url != "data:,";
    let elsewhere: Vec<_> = browser.requests().into_iter().filter(elsewhere).collect();
    assert_eq!(elsewhere, Vec::<String>::new());

    // That nobody answers any more is said.
    browser.open(&page.view("view=health"))?;
    rig.world.stop()?;
    browser.wait_for(
        "nobody to answer",
        "document.querySelector('#trouble').innerText.includes('nothing answers') \
         && document.querySelector('#summary').innerText.includes('DOWN')",
    )
}

#[test]
fn whoever_was_not_told_the_token_sees_nothing() -> Result<()> {
    let Some((_rig, page, mut browser)) = start()? else { return Ok(()) };
    let url = format!("{}/api/flows", page.address());
    let bearer = format!("authorization: Bearer {}", page.token());
    for (arguments, status) in [
        (vec!["--header", bearer.as_str()], 200),
        (vec![], 401),
        (vec!["--header", "authorization: Bearer 0"], 401),
        (vec!["--header", &bearer, "--header", "host: evil.example"], 403),
        (vec!["--header", &bearer, "-X", "POST"], 405),
    ] {
        let answer = curl::run(&mut curl::command(&[arguments.as_slice(), &[url.as_str()]].concat()))?;
        ensure!(answer.status == Some(status), "{arguments:?}: {}", answer.summary());
    }
    browser.open(page.address())?;
    browser.wait_for(
        "a word about the token",
        "document.querySelector('#trouble').innerText.includes('has a token')",
    )?;
    assert_eq!(browser.evaluate("document.querySelectorAll('.edge, tr.flow').length")?, json!(0));
    Ok(())
}

#[test]
fn a_thousand_flows_are_shown_and_markup_in_names_is_text() -> Result<()> {
    let Some((rig, page, mut browser)) = start()? else { return Ok(()) };
    let address = rig.world.external.address();
    // A host that is markup gets a 400 and no name; one of a request that the gateway knows nothing of is shown as it is.
    let host = "host: <img src=x onerror=alert(1)>.example.com";
    let wrong =
        rig.world.egret.curl("default/sleep", false, &["--header", host, &format!("http://{address}/")])?;
    ensure!(wrong.status.is_some(), "{}", wrong.summary());
    let mut many = rig.world.egret.exec("default/sleep", false);
    let url = format!("http://{address}/status/200?[1-1000]");
    many.args([
        "curl",
        "-s",
        "-o",
        "/dev/null",
        "--header",
        "host: test.com",
        "--header",
        "connection: close",
        &url,
    ]);
    ensure!(many.status()?.success(), "a thousand requests");
    for (width, colours) in [(1280, "light"), (360, "dark")] {
        browser.window(width, 800, colours)?;
        browser.open(&page.view("view=flows"))?;
        browser.wait_for(
            "a thousand flows",
            "document.querySelectorAll('#flow-table tr.flow').length === 1000",
        )?;
        ensure!(browser.evaluate(FITS)? == json!(true), "{width} pixels are not enough");
        browser.leave_picture(&format!("thousand-{width}"))?;
        let more = browser.evaluate("document.querySelector('#flow-count').innerText")?;
        assert_eq!(more, json!("the first 1000; there are more, and filters show fewer"));
    }
    assert_eq!(browser.evaluate("document.querySelectorAll('img, script:not([src])').length")?, json!(0));
    assert_eq!(browser.complaints(), Vec::<String>::new());
    Ok(())
}
