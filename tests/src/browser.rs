//! A headless Chromium that is told what to do over a pipe (the Chrome DevTools Protocol), and says what the page did: for tests.
//!
//! It is the one of PATH, as Debian's package `chromium` brings it.

use std::{
    env,
    fs::{self, File},
    io::{BufRead as _, BufReader, Write as _},
    os::{fd::AsRawFd as _, unix::process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use nix::{
    libc,
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::wait;

/// For one answer, and for a page to come to what is waited for.
const PATIENCE: Duration = Duration::from_mins(1);

/// With this, pictures are left in a directory, to be looked at.
pub const PICTURES: &str = "EGRET_PICTURES";

/// Where Chromium reads commands and writes answers with `--remote-debugging-pipe`.
const COMMANDS: i32 = 3;
const ANSWERS: i32 = 4;

/// The program, where there is one.
pub fn program() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).map(|directory| directory.join("chromium")).find(|program| program.is_file())
}

/// A browser with one page, until it is dropped.
pub struct Browser {
    process: Child,
    commands: File,
    messages: Receiver<Value>,
    session: Option<String>,
    next: u64,
    events: Vec<Value>,
    _profile: TempDir,
}

impl Browser {
    /// Starts it, with an empty page.
    pub fn start(program: &Path) -> Result<Self> {
        let profile = TempDir::with_prefix("egret-browser-")?;
        let (commands_out, commands_in) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
        let (answers_out, answers_in) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
        let mut command = Command::new(program);
        command.args(["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"]);
        // Whatever it does by itself would be mistaken for the page's doing, or be an error of its own.
        command.args(["--disable-background-networking", "--disable-component-update", "--no-first-run"]);
        command.arg(format!("--user-data-dir={}", profile.path().display())).arg("about:blank");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        let ends = [commands_out.as_raw_fd(), answers_in.as_raw_fd()];
        // SAFETY: between fork and exec only async-signal-safe functions are called: fcntl and dup2.
        unsafe {
            command.pre_exec(move || {
                // Out of the way first: an end may have the number that the other is to get.
                let mut moved = [0; 2];
                for (moved, end) in moved.iter_mut().zip(ends) {
                    *moved = libc::fcntl(end, libc::F_DUPFD_CLOEXEC, 10);
                }
                for (end, number) in moved.into_iter().zip([COMMANDS, ANSWERS]) {
                    if end < 0 || libc::dup2(end, number) < 0 {
                        return Err(std::io::Error::last_os_error());
                    }
                }
                Ok(())
            });
        }
        let process = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
        drop((commands_out, answers_in));
        let (sender, messages) = mpsc::channel();
        thread::spawn(move || {
            for message in BufReader::new(File::from(answers_out)).split(0) {
                let parsed = message.ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
                let Some(parsed) = parsed else { return };
                if sender.send(parsed).is_err() {
                    return;
                }
            }
        });
        let commands = File::from(commands_in);
        let mut browser = Self {
            process,
            commands,
            messages,
            session: None,
            next: 0,
            events: Vec::new(),
            _profile: profile,
        };
        let target = browser.call("Target.createTarget", &json!({"url": "about:blank"}))?;
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let session = browser.call("Target.attachToTarget", &attach)?;
        browser.session = session["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Network", "Runtime", "Log"] {
            browser.call(&format!("{domain}.enable"), &json!({}))?;
        }
        Ok(browser)
    }

    /// Gives a command, and returns its result.
    pub fn call(&mut self, method: &str, parameters: &Value) -> Result<Value> {
        self.next += 1;
        let mut message = json!({"id": self.next, "method": method, "params": parameters});
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        self.commands.write_all(format!("{message}\0").as_bytes()).context("the browser is gone")?;
        let end = Instant::now() + PATIENCE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.messages.recv_timeout(left) {
                Ok(answer) if answer["id"] == self.next => {
                    if answer["error"].is_object() {
                        bail!("{method}: {}", answer["error"]);
                    }
                    return Ok(answer["result"].clone());
                }
                Ok(event) => self.events.push(event),
                Err(RecvTimeoutError::Timeout) => bail!("{method}: no answer within {PATIENCE:?}"),
                Err(RecvTimeoutError::Disconnected) => bail!("{method}: the browser ended"),
            }
        }
    }

    /// A window of this size, that prefers these colours (`light` or `dark`).
    pub fn window(&mut self, width: u32, height: u32, colours: &str) -> Result<()> {
        let mobile = width < 600;
        self.call(
            "Emulation.setDeviceMetricsOverride",
            &json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}),
        )?;
        let feature = json!([{"name": "prefers-color-scheme", "value": colours}]);
        self.call("Emulation.setEmulatedMedia", &json!({"features": feature})).map(drop)
    }

    /// Goes to an address.
    pub fn open(&mut self, url: &str) -> Result<()> {
        let gone = self.call("Page.navigate", &json!({"url": url}))?;
        if let Some(error) = gone["errorText"].as_str() {
            bail!("{url}: {error}");
        }
        Ok(())
    }

    /// The value of an expression of the page's.
    pub fn evaluate(&mut self, expression: &str) -> Result<Value> {
        let result =
            self.call("Runtime.evaluate", &json!({"expression": expression, "returnByValue": true}))?;
        if result["exceptionDetails"].is_object() {
            bail!("{expression}: {}", result["exceptionDetails"]["exception"]["description"]);
        }
        Ok(result["result"]["value"].clone())
    }

    /// Waits until an expression is true.
    pub fn wait_for(&mut self, what: &str, expression: &str) -> Result<()> {
        let waited = wait::until(what, PATIENCE, || {
            // A page that is just loading has nothing of what is asked for.
            Ok((self.evaluate(expression).ok() == Some(json!(true))).then_some(()))
        });
        waited.with_context(|| {
            let text = self.evaluate("document.body.innerText").unwrap_or_default();
            format!("the page says: {text}; {:?}", self.complaints())
        })
    }

    /// Presses a key.
    pub fn press(&mut self, key: &str) -> Result<()> {
        let text = if key == "Enter" { "\r" } else { "" };
        let code = match key {
            "Enter" => 13,
            "Tab" => 9,
            "ArrowRight" => 39,
            other => bail!("{other}: a key without a code here"),
        };
        for kind in ["keyDown", "keyUp"] {
            let event = json!({"type": kind, "key": key, "text": text, "windowsVirtualKeyCode": code});
            self.call("Input.dispatchKeyEvent", &event)?;
        }
        Ok(())
    }

    /// Takes a picture of what is in the window, and leaves it as `NAME.png` in the directory of [`PICTURES`] where that is set.
    pub fn leave_picture(&mut self, name: &str) -> Result<()> {
        let picture = self.call("Page.captureScreenshot", &json!({"format": "png"}))?;
        let picture = BASE64_STANDARD.decode(picture["data"].as_str().context("no picture")?)?;
        let Some(directory) = env::var_os(PICTURES) else { return Ok(()) };
        let file = Path::new(&directory).join(name).with_extension("png");
        fs::write(&file, picture).with_context(|| format!("cannot write {}", file.display()))
    }

    fn events<'a>(&'a self, method: &'a str) -> impl Iterator<Item = &'a Value> + 'a {
        self.events.iter().filter(move |event| event["method"] == method).map(|event| &event["params"])
    }

    /// Errors and warnings: those of the page's script, and those that the browser has about it.
    pub fn complaints(&self) -> Vec<String> {
        let thrown =
            self.events("Runtime.exceptionThrown").map(|event| event["exceptionDetails"].to_string());
        let said = self.events("Runtime.consoleAPICalled");
        let said = said.filter(|event| event["type"] != "log").map(ToString::to_string);
        let logged = self.events("Log.entryAdded").map(|event| event["entry"].to_string());
        thrown.chain(said).chain(logged).collect()
    }

    /// Every address that was asked for.
    pub fn requests(&self) -> Vec<String> {
        let sent = self.events("Network.requestWillBeSent");
        sent.filter_map(|event| event["request"]["url"].as_str().map(str::to_owned)).collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Its helpers are in its process group, and nothing of theirs is worth an end in order.
        let _ = killpg(Pid::from_raw(self.process.id().cast_signed()), Signal::SIGKILL);
        let _ = self.process.wait();
    }
}
