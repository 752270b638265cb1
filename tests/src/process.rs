//! A child process that cannot outlive its owner: ended on drop, and by the kernel when this process dies.
//!
//! It runs in a process group of its own, so that Ctrl-C at a terminal reaches only us, and we end things in order.

use std::{
    collections::VecDeque,
    ffi::OsString,
    io::{BufRead as _, BufReader},
    os::unix::process::CommandExt as _,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::{
        prctl,
        signal::{SigSet, Signal, kill},
    },
    unistd::{Pid, getppid},
};

use crate::wait;

/// Lines of standard error that are kept.
const KEPT_LINES: usize = 2000;
/// What a process gets to end after SIGTERM, before SIGKILL.
const GRACE: Duration = Duration::from_secs(10);

/// A running child.
pub struct Process {
    name: String,
    child: Child,
    /// Set once it was waited for.
    status: Option<ExitStatus>,
    stderr: Arc<Mutex<VecDeque<String>>>,
    reader: Option<JoinHandle<()>>,
}

impl Process {
    /// Starts `command`; `name` is how errors call it. Its standard error is captured, its output discarded unless
    /// the command says otherwise.
    pub fn spawn(name: &str, command: &mut Command) -> Result<Self> {
        let program = OsString::from(command.get_program());
        command.stdin(Stdio::null()).stderr(Stdio::piped());
        bound_to_us(command);
        let mut child =
            command.spawn().with_context(|| format!("cannot start {name} ({})", program.display()))?;
        let stderr = Arc::new(Mutex::new(VecDeque::new()));
        let reader = child.stderr.take().map(|pipe| {
            let lines = Arc::clone(&stderr);
            thread::spawn(move || {
                let mut reader = BufReader::new(pipe);
                let mut line = Vec::new();
                while let Ok(1..) = reader.read_until(b'\n', &mut line) {
                    let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
                    if lines.len() == KEPT_LINES {
                        lines.pop_front();
                    }
                    lines.push_back(String::from_utf8_lossy(&line).trim_end().to_owned());
                    line.clear();
                }
            })
        });
        Ok(Self { name: name.to_owned(), child, status: None, stderr, reader })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The exit status, once it has ended.
    pub fn try_status(&mut self) -> Result<Option<ExitStatus>> {
        if self.status.is_none() {
            self.status = self.child.try_wait().with_context(|| format!("cannot wait for {}", self.name))?;
        }
        Ok(self.status)
    }

    /// What it has written to standard error so far, the last [`KEPT_LINES`] of it.
    pub fn stderr(&self) -> Vec<String> {
        self.stderr.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// Waits for a line of standard error that contains `text`. An error tells what it wrote instead.
    pub fn wait_for_line(&mut self, text: &str, patience: Duration) -> Result<String> {
        let what = format!("{} to say {text:?}", self.name);
        let stderr = Arc::clone(&self.stderr);
        let find = || {
            let lines = stderr.lock().unwrap_or_else(PoisonError::into_inner);
            lines.iter().find(|line| line.contains(text)).cloned()
        };
        let found = wait::until(&what, patience, || {
            // The order matters: a process that said it and then died has said it.
            let status = self.try_status()?;
            if let Some(line) = find() {
                return Ok(Some(line));
            }
            if let Some(status) = status {
                self.join_reader();
                bail!("{} ended ({status}) before it said {text:?}", self.name);
            }
            Ok(None)
        });
        found.with_context(|| format!("{} wrote:\n{}", self.name, self.tail()))
    }

    /// Waits for its end, also when we are interrupted: this is for cleaning up.
    pub fn wait(&mut self, patience: Duration) -> Result<ExitStatus> {
        wait::settled(patience, || matches!(self.try_status(), Ok(Some(_)) | Err(_)));
        let Some(status) = self.try_status()? else {
            bail!("{} did not end within {patience:?}; it wrote:\n{}", self.name, self.tail());
        };
        self.join_reader();
        Ok(status)
    }

    /// Sends it a signal. One that has ended already is left in peace.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if self.try_status()?.is_some() {
            return Ok(());
        }
        kill(Pid::from_raw(self.child.id().cast_signed()), signal)
            .with_context(|| format!("cannot signal {}", self.name))
    }

    /// Asks it to end, and kills it when it does not. Its exit status, also where it had ended before.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        let ended = wait::settled(GRACE, || matches!(self.try_status(), Ok(Some(_)) | Err(_)));
        if !ended {
            self.signal(Signal::SIGKILL)?;
        }
        let status = match self.status {
            Some(status) => status,
            None => self.child.wait().with_context(|| format!("cannot wait for {}", self.name))?,
        };
        self.status = Some(status);
        self.join_reader();
        if ended { Ok(status) } else { bail!("{} ignored SIGTERM for {GRACE:?} and was killed", self.name) }
    }

    /// The last lines it wrote, for error messages.
    pub fn tail(&self) -> String {
        let lines = self.stderr();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// After the end: all it wrote has been read, unless a child of its own still holds the pipe.
    fn join_reader(&mut self) {
        if let Some(reader) = self.reader.take_if(|reader| wait::settled(GRACE, || reader.is_finished())) {
            let _ = reader.join();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.terminate();
    }
}

/// Puts the child into its own process group, with no signal blocked, and has the kernel end it (SIGTERM, so that it
/// can clean up) when the thread that starts it ends.
fn bound_to_us(command: &mut Command) {
    let us = Pid::this();
    command.process_group(0);
    // SAFETY: between fork and exec only async-signal-safe functions are called: prctl, sigprocmask and getppid.
    unsafe {
        command.pre_exec(move || {
            prctl::set_pdeathsig(Signal::SIGTERM)?;
            SigSet::empty().thread_set_mask()?;
            // We may have died before the prctl.
            if getppid() == us { Ok(()) } else { Err(nix::Error::ESRCH.into()) }
        });
    }
}

/// Runs a command to its end; the error has its standard error. For helpers such as `ip`.
pub fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {program}: is it installed?"))?;
    if !output.status.success() {
        bail!(
            "`{program} {}` failed ({}): {}",
            arguments.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
