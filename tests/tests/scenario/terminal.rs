//! A command in a terminal of its own: what is on the screen, keys, sizes, and whether the terminal was given back. For tests of live views.

mod picture;

use std::{
    fs::{File, OpenOptions},
    io::{Read as _, Write as _},
    num::NonZeroU16,
    os::{
        fd::{AsFd as _, AsRawFd as _, OwnedFd},
        unix::{fs::OpenOptionsExt as _, process::CommandExt as _},
    },
    process::{Child, Command, ExitStatus},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use egret_tests::wait;
use nix::{
    errno::Errno,
    fcntl::OFlag,
    libc,
    poll::{PollFd, PollFlags, poll},
    pty::{Winsize, grantpt, posix_openpt, ptsname_r, unlockpt},
    sys::{
        signal::{Signal, kill},
        termios::{Termios, tcgetattr},
    },
    unistd::{Pid, setsid},
};
use vt100::{MouseProtocolMode, Parser};

/// For the screen to come to what is waited for, and for the command to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// Rows and columns.
pub(crate) type Size = (u16, u16);

/// A command whose terminal this is; ended on drop.
pub(crate) struct Terminal {
    child: Child,
    /// Our end: what is written here was typed.
    keyboard: File,
    screen: Arc<Mutex<Parser>>,
    reader: Option<JoinHandle<()>>,
    /// Nobody is to read any more.
    gone: Arc<AtomicBool>,
    /// How the terminal was before the command.
    before: Termios,
}

impl Terminal {
    /// Starts a command in a new session, with a new terminal for everything.
    pub(crate) fn start(command: &mut Command, size: Size) -> Result<Self> {
        // None of its ends for whoever else is started: a terminal that somebody has is not gone.
        let ours = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC)?;
        grantpt(&ours)?;
        unlockpt(&ours)?;
        let theirs =
            OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOCTTY).open(ptsname_r(&ours)?)?;
        let keyboard = File::from(OwnedFd::from(ours));
        set_size(&keyboard, size)?;
        let before = tcgetattr(&keyboard)?;
        command.stdin(theirs.try_clone()?).stdout(theirs.try_clone()?).stderr(theirs);
        command.env("TERM", "xterm-256color").env_remove("NO_COLOR");
        // SAFETY: between fork and exec only system calls that are async-signal-safe: setsid(2) and ioctl(2) on a descriptor that is open.
        unsafe {
            command.pre_exec(|| {
                setsid()?;
                if libc::ioctl(0, libc::TIOCSCTTY, 0) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let child = command.spawn().context("cannot start a command in a terminal")?;
        // It holds our copies of the terminal's other end, which would keep it open for ever.
        *command = Command::new("true");
        let (rows, columns) = nonzero(size)?;
        let screen = Arc::new(Mutex::new(Parser::new(rows, columns, 0)));
        let gone = Arc::new(AtomicBool::new(false));
        let reader = thread::spawn({
            let (screen, output) = (Arc::clone(&screen), keyboard.try_clone()?);
            let gone = Arc::clone(&gone);
            move || read(output, &screen, &gone)
        });
        Ok(Self { child, keyboard, screen, reader: Some(reader), gone, before })
    }

    /// The lines on the screen, without what is blank at their ends.
    pub(crate) fn lines(&self) -> Vec<String> {
        let screen = lock(&self.screen);
        let (_, columns) = screen.screen().size();
        screen.screen().rows(0, columns.get()).map(|line| line.trim_end().to_owned()).collect()
    }

    /// Waits until the lines have what is looked for. An error tells what they had instead.
    pub(crate) fn wait_for<T>(
        &mut self,
        what: &str,
        mut find: impl FnMut(&[String]) -> Option<T>,
    ) -> Result<T> {
        let found = wait::until(what, PATIENCE, || {
            if let Some(found) = find(&self.lines()) {
                return Ok(Some(found));
            }
            match self.child.try_wait()? {
                Some(status) => bail!("it ended before that: {status}"),
                None => Ok(None),
            }
        });
        found.with_context(|| format!("waiting for {what}; the screen says:\n{}", self.lines().join("\n")))
    }

    /// Types.
    pub(crate) fn press(&mut self, keys: &str) -> Result<()> {
        Ok(self.keyboard.write_all(keys.as_bytes())?)
    }

    /// Another size, as when somebody drags its window.
    pub(crate) fn resize(&mut self, size: Size) -> Result<()> {
        let (rows, columns) = nonzero(size)?;
        lock(&self.screen).set_size(rows, columns);
        set_size(&self.keyboard, size)
    }

    /// Whether the command has the whole screen, with no cursor on it.
    pub(crate) fn is_taken(&self) -> bool {
        let screen = lock(&self.screen);
        screen.screen().alternate_screen() && screen.screen().hide_cursor()
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(self.child.id().cast_signed()), signal)?)
    }

    /// Waits for the end, and looks whether the terminal is as it was: the screen, the cursor, and how it treats what is typed.
    pub(crate) fn given_back(&mut self) -> Result<ExitStatus> {
        let status = wait::until("the command to end", PATIENCE, || Ok(self.child.try_wait()?))
            .with_context(|| format!("the screen says:\n{}", self.lines().join("\n")))?;
        if let Some(reader) = self.reader.take() {
            reader.join().expect("no panic");
        }
        ensure!(tcgetattr(&self.keyboard)? == self.before, "lines are no longer edited or echoed");
        let parser = lock(&self.screen);
        let screen = parser.screen();
        ensure!(!screen.alternate_screen(), "the other screen was not left");
        ensure!(!screen.hide_cursor(), "there is no cursor any more");
        ensure!(!screen.bracketed_paste() && !screen.application_cursor(), "keys mean something else");
        ensure!(screen.mouse_protocol_mode() == MouseProtocolMode::None, "it still wants the mouse");
        Ok(status)
    }

    /// The terminal is gone, as when a connection breaks or its window is closed; waits for the end.
    pub(crate) fn hang_up(&mut self) -> Result<ExitStatus> {
        self.gone.store(true, Ordering::Relaxed);
        if let Some(reader) = self.reader.take() {
            reader.join().expect("no panic");
        }
        // The last of our ends.
        self.keyboard = File::open("/dev/null")?;
        wait::until("the end of a command without a terminal", PATIENCE, || Ok(self.child.try_wait()?))
    }

    /// What is on the screen, as a page for a browser.
    pub(crate) fn page(&self) -> String {
        picture::page(lock(&self.screen).screen())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It keeps nothing that an end in order would save.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What is written to the screen, until nobody has the terminal open any more (EIO), or nobody is to read.
fn read(mut output: File, screen: &Mutex<Parser>, gone: &AtomicBool) {
    let mut bytes = [0; 4096];
    while !gone.load(Ordering::Relaxed) {
        let mut ready = [PollFd::new(output.as_fd(), PollFlags::POLLIN)];
        if poll(&mut ready, 20_u8) == Ok(0) {
            continue;
        }
        match output.read(&mut bytes) {
            Ok(length @ 1..) => lock(screen).process(&bytes[..length]),
            _ => return,
        }
    }
}

fn lock(screen: &Mutex<Parser>) -> MutexGuard<'_, Parser> {
    screen.lock().unwrap_or_else(PoisonError::into_inner)
}

fn set_size(terminal: &File, (rows, columns): Size) -> Result<()> {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the structure of this request, which lives during the call.
    let set = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    Errno::result(set).map(drop).context("cannot resize the terminal")
}

fn nonzero((rows, columns): Size) -> Result<(NonZeroU16, NonZeroU16)> {
    NonZeroU16::new(rows).zip(NonZeroU16::new(columns)).context("a screen without a cell")
}
